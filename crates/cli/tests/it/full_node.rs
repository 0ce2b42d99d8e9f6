//! One node whose cache takes nothing more beside two with room: reads go on everywhere, and a load says what it
//! could not keep. A full disk under a cache: `netns`.

use serde_json::Value;

use crate::cluster::{Cluster, FILES, NODES, address};
use crate::sandbox::{Ran, Sandbox, content, wait_until};

/// Other tests with nodes have the numbers before this.
const TEST: usize = 74;
/// Of each file, in bytes: what is left of the full cache has no room for one.
const SIZE: usize = 400_000;
/// Files that are pinned, more than fit into 64 MiB.
const PINNED: usize = 170;
/// The node that is full.
const THIRD: usize = 2;

fn mount(sandbox: &Sandbox, cluster: &Cluster<'_>, node: usize) {
    let addresses = [0, 1, 2].map(|node| address(TEST, node));
    let quota = if node == THIRD { "64MiB" } else { "512MiB" };
    let cache = format!("{}:{quota}", sandbox.path(&format!("cache-{node}")).display());
    Ran::of(&mut cluster.command(node, &cache, &addresses, &["--fill", "off"])).ok();
}

fn cache(cluster: &Cluster<'_>, node: usize) -> Value {
    cluster.status(node)["cache"][0].clone()
}

/// While it is alone, the third reads and pins more than it can keep.
fn fill_the_third(sandbox: &Sandbox, cluster: &Cluster<'_>) {
    let keys: Vec<_> = (0..PINNED).map(|at| format!("pinned/{at:03}")).collect();
    keys.iter().for_each(|key| drop(sandbox.sim.put_object("b", key, content(key, SIZE))));
    mount(sandbox, cluster, THIRD);
    for key in &keys {
        let read = std::fs::read(cluster.mnt(THIRD).join(key)).unwrap();
        assert!(read == content(key, SIZE), "{key}: wrong bytes");
    }
    let pinned = cluster.mnt(THIRD).join("pinned");
    sandbox.run(&["pin", "--node-only", pinned.to_str().unwrap()]).ok();
    wait_until("all that fits to be there and pinned", || {
        let cache = cache(cluster, THIRD);
        let free = cache["quota_bytes"].as_u64().unwrap() - cache["used_bytes"].as_u64().unwrap();
        free < SIZE as u64 && cache["pinned"] == PINNED
    });
}

/// Loads the set by way of a node; the third's part has no room, and that is what the job says.
fn load_says_what_had_no_room(sandbox: &Sandbox, cluster: &Cluster<'_>, node: usize) -> u64 {
    let set = cluster.mnt(node).join("set");
    let ran = sandbox.run(&["load", set.to_str().unwrap(), "--json", "--wait"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let job: Value = serde_json::from_str(&ran.stdout).unwrap();
    let number = |field: &str| job[field].as_u64().unwrap();
    assert_eq!((&job["state"], number("files")), (&"incomplete".into(), FILES as u64), "{job:#}");
    let failed = number("failed");
    assert_eq!(number("loaded") + number("cached") + failed, FILES as u64, "{job:#}");
    assert_eq!(job["failed_by"]["no room in the cache"], failed, "{job:#}");
    // A third, as the keys fall.
    assert!((1..FILES as u64 / 2).contains(&failed), "{job:#}");
    let listed = sandbox.run(&["ls", "--cached", "-R", set.to_str().unwrap()]).ok();
    assert_eq!(listed.lines().count() as u64, FILES as u64 - failed, "{job:#}");
    let id = job["id"].as_str().unwrap();
    let failures = sandbox.run(&["load", "--progress", id, "--failed", "--json"]).stdout;
    assert_eq!(failures.lines().count() as u64, failed, "{failures}");
    let at = format!("on {}: ", address(TEST, THIRD));
    let is_said = |line: &str| line.contains("full") && (node == THIRD || line.contains(&at));
    assert!(failures.lines().all(is_said), "{failures}");
    failed
}

#[test]
fn a_full_node_fails_no_read_and_a_load_says_what_it_could_not_keep_there() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::of_files(&sandbox, FILES, SIZE);
    fill_the_third(&sandbox, &cluster);
    let pinned = cache(&cluster, THIRD)["pinned"].clone();
    (0..THIRD).for_each(|node| mount(&sandbox, &cluster, node));
    cluster.wait_for_members();
    let failed = load_says_what_had_no_room(&sandbox, &cluster, 0);
    assert_eq!(load_says_what_had_no_room(&sandbox, &cluster, THIRD), failed);
    let before = sandbox.sim.gets_by_key();
    let of = |key: &str| before.get(key).copied().unwrap_or_default();
    for epoch in 0..2 {
        cluster.read_on(0..NODES, epoch, 0..FILES);
    }
    let fell_back = cluster.fell_back(0..NODES);
    let (mut again, mut most) = (0, 0);
    for (key, count) in sandbox.sim.gets_by_key().iter().filter(|(key, _)| key.contains("set/")) {
        let extra = count - of(key);
        again += u64::from(0 < extra);
        most = most.max(extra);
    }
    // What the third owns it fetches for each of the others once, who then have copies, and for itself in each epoch.
    assert!(most <= 4 + fell_back, "{most} GETs of one file, {fell_back} fell back");
    assert!(again <= failed + fell_back, "{again} fetched again, of {failed} without room");
    let third = cache(&cluster, THIRD);
    assert_eq!((&third["pinned"], &third["evicted"]), (&pinned, &0.into()), "{third:#}");
    assert!(third["used_bytes"].as_u64() <= third["quota_bytes"].as_u64(), "{third:#}");
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}
