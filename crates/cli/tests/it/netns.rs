//! Faults on real processes, each node in a network namespace of its own: killed, stopped, cut off, and
//! with a disk that is full. In each case every byte that is read is right, no read fails, and the
//! bucket is asked again for a bounded part.
//!
//! They need root, and `ip` of iproute2. A node with a wrong clock, for which no namespace is needed: `cluster`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use feedline_bench::netns::Network;
use rustix::process::Signal;

use crate::cluster::{Cluster, NODES};
use crate::sandbox::{Ran, Sandbox, signal, wait_within};

const FILES: usize = 200;
/// Of each file, in bytes.
const SIZE: usize = 20_000;
/// The node that something happens to.
const THIRD: usize = 2;
/// How long a cluster may take to notice that a node is gone or back: far above the seconds that it takes.
const NOTICE_TIME_MAX: Duration = Duration::from_secs(180);

fn network() -> Network {
    Network::new(NODES, None).unwrap_or_else(|error| panic!("{error:#}"))
}

fn bucket(network: &Network) -> Sandbox {
    Sandbox::at_hub(network, |builder| builder.latency_ms(5))
}

fn addresses(network: &Network) -> [String; NODES] {
    [0, 1, 2].map(|node| format!("{}:7001", network.address(node)))
}

/// Starts a node in its namespace.
fn start(network: &Network, cluster: &Cluster<'_>, node: usize, cache: &str) {
    // Reads alone decide who is asked: nothing is fetched ahead of them. And they wait for a link as long
    // as a slow machine may need to put it up again.
    let flags = ["--insecure", "--fill", "off", "--retry-budget", "10m"];
    let mut command = cluster.command(node, cache, &addresses(network), &flags);
    network.node(node).put(&mut command);
    Ran::of(&mut command).ok();
}

/// Three nodes with a cache that takes everything.
fn started<'a>(network: &Network, sandbox: &'a Sandbox) -> Cluster<'a> {
    let cluster = Cluster::of_files(sandbox, FILES, SIZE);
    for node in 0..NODES {
        let cache = sandbox.path(&format!("cache-{node}"));
        start(network, &cluster, node, &format!("{}:512MiB", cache.display()));
    }
    cluster.wait_for_members();
    cluster
}

/// GETs of the data set beyond one for each file.
fn extra_gets(sandbox: &Sandbox) -> u64 {
    let gets = sandbox.sim.gets_by_key();
    let of_files = gets.iter().filter(|(key, _)| key.contains("set/"));
    of_files.map(|(_, count)| count - 1).sum()
}

/// What the third owns, a third of the files; half leaves room for how they fall, and for requests that
/// were under way.
fn assert_only_its_share_was_fetched_again(sandbox: &Sandbox) {
    let extra = extra_gets(sandbox);
    assert!(extra <= FILES as u64 / 2, "{extra} GETs beyond one for each of {FILES} files");
}

#[test]
fn a_node_killed_in_mid_epoch_fails_no_read() {
    let network = network();
    let sandbox = bucket(&network);
    let cluster = started(&network, &sandbox);
    let third = cluster.pid(THIRD);
    cluster.read_on(0..NODES, 0, 0..FILES / 4);
    let begun = sandbox.sim.stats().get;
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.read_on(0..THIRD, 0, FILES / 4..FILES));
        wait_within(NOTICE_TIME_MAX, "the epoch to go on", || begun + 10 < sandbox.sim.stats().get);
        signal(third, Signal::KILL);
    });
    cluster.read_on(0..THIRD, 1, 0..FILES);
    assert_only_its_share_was_fetched_again(&sandbox);
    (0..THIRD).for_each(|node| cluster.umount(node));
    // The watchdog clears the mount of the dead one.
    sandbox.assert_gone();
}

#[test]
fn a_node_stopped_in_mid_epoch_is_passed_by_and_asked_again_later() {
    let network = network();
    let sandbox = bucket(&network);
    let cluster = started(&network, &sandbox);
    let (third, address) = (cluster.pid(THIRD), &addresses(&network)[THIRD]);
    cluster.read_on(0..THIRD, 0, 0..FILES / 4);
    signal(third, Signal::STOP);
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cluster.read_on(0..THIRD, 0, FILES / 4..FILES);
        wait_within(NOTICE_TIME_MAX, "the stopped one to be passed by", || {
            (0..THIRD).all(|node| cluster.state(node, address) == "down")
        });
    }));
    // Whatever happened: a stopped process cannot be ended cleanly.
    signal(third, Signal::CONT);
    read.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    wait_within(NOTICE_TIME_MAX, "the stopped one to be asked again", || {
        (0..THIRD).all(|node| cluster.state(node, address) == "up")
    });
    cluster.read_on(0..NODES, 1, 0..FILES);
    assert_only_its_share_was_fetched_again(&sandbox);
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn a_link_that_goes_down_and_comes_up_fails_no_read_on_either_side() {
    let network = network();
    let sandbox = bucket(&network);
    let cluster = started(&network, &sandbox);
    let addresses = addresses(&network);
    cluster.read_on(0..NODES, 0, 0..FILES / 4);
    network.set_link(THIRD, false).unwrap();
    std::thread::scope(|scope| {
        // What it has no copy of it cannot get: it waits, and does not fail.
        let cut_off = scope.spawn(|| cluster.read(THIRD, 0, FILES / 4..FILES));
        cluster.read_on(0..THIRD, 0, FILES / 4..FILES);
        wait_within(NOTICE_TIME_MAX, "the one cut off to be passed by", || {
            (0..THIRD).all(|node| cluster.state(node, &addresses[THIRD]) == "down")
        });
        network.set_link(THIRD, true).unwrap();
        cut_off.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    wait_within(NOTICE_TIME_MAX, "both sides to see each other again", || {
        (0..THIRD).all(|node| cluster.state(node, &addresses[THIRD]) == "up")
            && (0..THIRD).all(|node| cluster.state(THIRD, &addresses[node]) == "up")
    });
    cluster.read_on(0..NODES, 1, 0..FILES);
    // The one cut off is without the others for a while, as they are without it: what each of the two
    // sides owns may have been fetched by the other too.
    let extra = extra_gets(&sandbox);
    assert!(extra <= FILES as u64, "{extra} GETs beyond one for each of {FILES} files");
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn a_node_whose_cache_disk_is_full_fails_no_read_and_keeps_the_others_whole() {
    const LARGE: usize = 600_000;
    let network = network();
    let sandbox = bucket(&network);
    let disk = SmallDisk::new(&sandbox, 40);
    // Of 120 MB each owns a third: as much as the third's disk has, and more than it can keep.
    let cluster = Cluster::of_files(&sandbox, FILES, LARGE);
    for node in 0..NODES {
        let on_disk = sandbox.path(&format!("cache-{node}"));
        let dir = if node == THIRD { disk.mountpoint.join("cache") } else { on_disk };
        start(&network, &cluster, node, &format!("{}:512MiB", dir.display()));
    }
    cluster.wait_for_members();
    for epoch in 0..3 {
        cluster.read_on(0..NODES, epoch, 0..FILES);
    }
    // What does not fit is fetched again, by its owner or by who needs it; what the others own is not.
    let extra = extra_gets(&sandbox);
    assert!(extra <= 3 * FILES as u64 / 2, "{extra} GETs beyond one for each of {FILES} files");
    let (total, free) = space(&disk.mountpoint);
    assert!(free < total / 4, "the disk never filled: {free} of {total} bytes are free");
    // Whoever is asked to load the set says what is not kept there.
    for node in [0, THIRD] {
        let set = cluster.mnt(node).join("set");
        let ran = sandbox.run(&["load", set.to_str().unwrap(), "--json", "--wait"]);
        let job: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let number = |field: &str| job[field].as_u64().unwrap();
        assert_eq!((ran.code, &job["state"]), (Some(1), &"incomplete".into()), "{job:#}");
        let cached = number("loaded") + number("cached");
        assert_eq!(cached + number("failed"), FILES as u64, "{job:#}");
        assert_eq!(job["failed_by"]["no room in the cache"], job["failed"], "{job:#}");
        assert!((1..FILES as u64 / 2).contains(&number("failed")), "{job:#}");
    }
    (0..NODES).for_each(|node| cluster.umount(node));
    drop(disk);
    sandbox.assert_gone();
}

fn space(path: &Path) -> (u64, u64) {
    let found = rustix::fs::statvfs(path).unwrap();
    (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
}

/// An ext4 of a few MiB on a loop device.
struct SmallDisk {
    mountpoint: PathBuf,
}

impl SmallDisk {
    fn new(sandbox: &Sandbox, mib: u64) -> Self {
        let (image, mountpoint) = (sandbox.path("image"), sandbox.path("small"));
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        Ran::of(Command::new("mkfs.ext4").args(["-q", "-m0"]).arg(&image)).ok();
        Ran::of(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mountpoint)).ok();
        Self { mountpoint }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mountpoint).status();
    }
}
