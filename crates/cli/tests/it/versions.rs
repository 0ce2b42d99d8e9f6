//! Daemons of different wire versions in one cluster, as while it is updated node by node.
//!
//! There is one version so far: debug builds take another one from `TEST_FEEDLINE_WIRE`.

use serde_json::Value;

use crate::cluster::{Cluster, FILES, NODES, address};
use crate::s3::log_of;
use crate::sandbox::{Ran, Sandbox, wait_until};

/// Other tests with nodes have the numbers before this.
const TEST: usize = 70;

/// What each node speaks: the one in the middle is of a version that knows the other two.
const SPOKEN: [&str; NODES] = ["1", "1..2", "2"];

fn started(sandbox: &Sandbox) -> Cluster<'_> {
    let cluster = Cluster::of_files(sandbox, FILES, 20_000);
    let addresses = [0, 1, 2].map(|node| address(TEST, node));
    for (node, spoken) in SPOKEN.iter().enumerate() {
        let cache = format!("{}:512MiB", sandbox.path(&format!("cache-{node}")).display());
        let mut mount = cluster.command(node, &cache, &addresses, &["--fill", "off"]);
        Ran::of(mount.env("TEST_FEEDLINE_WIRE", spoken)).ok();
    }
    cluster
}

/// What a node thinks of another one.
fn seen(cluster: &Cluster<'_>, node: usize, other: usize) -> Value {
    let peers = cluster.status(node)["cluster"]["peers"].take();
    let peers: Vec<Value> = serde_json::from_value(peers).unwrap();
    peers.into_iter().find(|peer| peer["address"] == address(TEST, other)).unwrap()
}

#[test]
fn daemons_of_mixed_versions_share_as_far_as_they_understand_each_other() {
    let sandbox = Sandbox::new();
    let cluster = started(&sandbox);
    for (node, members) in [(0, 2), (1, 3), (2, 2)] {
        wait_until("each to know those that it understands", || {
            cluster.status(node)["cluster"]["members"] == members
        });
    }
    for (node, other, theirs) in [(0, 2, "speaks version 2"), (2, 0, "speaks version 1")] {
        wait_until("the one not understood to be passed by", || {
            seen(&cluster, node, other)["state"] == "down"
        });
        let peer = seen(&cluster, node, other);
        let trouble = peer["trouble"].as_str().unwrap();
        assert!(trouble.contains(theirs) && trouble.contains("update one"), "{peer:#}");
        let shown = sandbox.run(&["status", cluster.mnt(node).to_str().unwrap()]).ok();
        assert!(shown.contains(theirs), "{shown}");
    }
    let log = log_of(&sandbox.path("run"));
    assert!(log.contains("it speaks version 2") && log.contains("it speaks version 1"), "{log}");
    // The highest that both speak.
    for (other, used) in [(0, 1), (2, 2)] {
        assert_eq!(seen(&cluster, 1, other)["wire"], used);
        assert_eq!(seen(&cluster, other, 1)["wire"], used);
    }
    for epoch in 0..2 {
        cluster.read_on(0..NODES, epoch, 0..FILES);
    }
    // Twice is what two fetch that do not understand each other.
    let gets = sandbox.sim.gets_by_key();
    let of_files: Vec<_> = gets.iter().filter(|(key, _)| key.contains("set/")).collect();
    assert_eq!(of_files.len(), FILES);
    let fell_back = cluster.fell_back(0..NODES);
    let twice = of_files.iter().filter(|(_, count)| 1 < **count).count();
    let total: u64 = of_files.iter().map(|(_, count)| **count).sum();
    assert!(total <= 2 * FILES as u64 + fell_back && twice < FILES, "{total} GETs, {twice} twice");
    let served = |node: usize| cluster.status(node)["cluster"]["served"].as_u64().unwrap();
    assert!((0..NODES).all(|node| 0 < served(node)));
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}
