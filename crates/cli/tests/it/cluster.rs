//! Three real daemons with a cache and a mount each, that share what they fetch.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::Value;

use crate::hints::put_set;
use crate::sandbox::{Ran, Sandbox, content, signal, wait_until};

pub(crate) const FILES: usize = 150;
pub(crate) const NODES: usize = 3;

/// Three nodes of one sandbox.
pub(crate) struct Cluster<'a> {
    sandbox: &'a Sandbox,
    test: usize,
    names: Vec<String>,
    /// Of each file, in bytes.
    size: usize,
    quota: &'a str,
    flags: Vec<&'a str>,
}

impl<'a> Cluster<'a> {
    /// Starts all three, and waits until each knows the others.
    pub(crate) fn start(sandbox: &'a Sandbox, test: usize, flags: &[&'a str]) -> Self {
        Self::of_size(sandbox, test, 20_000, "512MiB", flags)
    }

    /// The same with files of this size in caches of that size.
    fn of_size(
        sandbox: &'a Sandbox,
        test: usize,
        size: usize,
        quota: &'a str,
        flags: &[&'a str],
    ) -> Self {
        let cluster = Self::planned(sandbox, test, size, quota, flags);
        for node in 0..NODES {
            cluster.mount(node);
        }
        cluster.wait_for_members();
        cluster
    }

    /// The same with no node started yet.
    pub(crate) fn planned(
        sandbox: &'a Sandbox,
        test: usize,
        size: usize,
        quota: &'a str,
        flags: &[&'a str],
    ) -> Self {
        let mut cluster = Self::of_files(sandbox, FILES, size);
        (cluster.test, cluster.quota, cluster.flags) = (test, quota, flags.to_vec());
        cluster
    }

    /// Starts one node.
    pub(crate) fn mount(&self, node: usize) {
        let addresses = [0, 1, 2].map(|node| address(self.test, node));
        let dir = self.sandbox.path(&format!("cache-{node}"));
        let cache = format!("{}:{}", dir.display(), self.quota);
        Ran::of(&mut self.command(node, &cache, &addresses, &self.flags)).ok();
    }

    /// No node yet, and so many files of this size in the bucket.
    pub(crate) fn of_files(sandbox: &'a Sandbox, files: usize, size: usize) -> Self {
        let names = put_set(sandbox, files, size);
        let cluster = Self { sandbox, test: 0, names, size, quota: "", flags: Vec::new() };
        (0..NODES).for_each(|node| fs::create_dir(cluster.mnt(node)).unwrap());
        cluster
    }

    /// What starts a node.
    pub(crate) fn command(
        &self,
        node: usize,
        cache: &str,
        addresses: &[String; NODES],
        flags: &[&str],
    ) -> Command {
        let (mnt, own, peers) = (self.mnt(node), &*addresses[node], &*addresses.join(","));
        let mnt = mnt.to_str().unwrap();
        let args = ["mount", "s3://b", mnt, "--cache", cache, "--listen", own, "--peers", peers];
        self.sandbox.feedline(&[&args[..], flags].concat())
    }

    /// Each must know all.
    pub(crate) fn wait_for_members(&self) {
        for node in 0..NODES {
            wait_until("all nodes to know each other", || {
                self.status(node)["cluster"]["members"] == NODES
            });
        }
    }

    pub(crate) fn mnt(&self, node: usize) -> PathBuf {
        self.sandbox.path(&format!("mnt-{node}"))
    }

    pub(crate) fn status(&self, node: usize) -> Value {
        let mnt = self.mnt(node);
        self.sandbox.run(&["status", "--json", mnt.to_str().unwrap()]).json()
    }

    /// The process of a node's daemon.
    pub(crate) fn pid(&self, node: usize) -> i32 {
        i32::try_from(self.status(node)["pid"].as_i64().unwrap()).unwrap()
    }

    /// What a node thinks of the one at this address.
    pub(crate) fn state(&self, node: usize, address: &str) -> String {
        let peers = self.status(node)["cluster"]["peers"].as_array().unwrap().clone();
        let peer = peers.into_iter().find(|peer| peer["address"] == address).unwrap();
        peer["state"].as_str().unwrap().to_owned()
    }

    /// Reads `part` of the files through one node in an order of its own, two at a time.
    pub(crate) fn read(&self, node: usize, epoch: usize, part: std::ops::Range<usize>) {
        let step = [7, 11, 13, 17, 19, 23, 29, 31, 37][node * 3 + epoch % 3];
        let next = AtomicUsize::new(part.start);
        let reader = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if part.end <= at {
                    return;
                }
                let name = &self.names[(at * step + epoch * 41) % self.names.len()];
                let read = fs::read(self.mnt(node).join("set").join(name));
                let read = read.unwrap_or_else(|error| panic!("node {node}, {name}: {error}"));
                assert!(read == content(&format!("set/{name}"), self.size), "{name}: wrong bytes");
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(reader);
            scope.spawn(reader);
        });
    }

    /// All files through these nodes at once.
    pub(crate) fn read_on(
        &self,
        nodes: std::ops::Range<usize>,
        epoch: usize,
        part: std::ops::Range<usize>,
    ) {
        std::thread::scope(|scope| {
            for node in nodes {
                let part = part.clone();
                scope.spawn(move || self.read(node, epoch, part));
            }
        });
    }

    /// Reads of others' objects that went to the bucket: none, unless this machine stood still for
    /// seconds. Each may be a GET more, and none is without being counted.
    pub(crate) fn fell_back(&self, nodes: std::ops::Range<usize>) -> u64 {
        let of = |node| self.status(node)["cluster"]["fell_back"].as_u64().unwrap();
        nodes.map(of).sum()
    }

    /// Files of the set in the directory of a node's cache, whether it lives or not.
    pub(crate) fn on_disk(&self, node: usize) -> usize {
        let (mut dirs, mut files) = (vec![self.sandbox.path(&format!("cache-{node}"))], 0);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap().flatten() {
                let entry_type = entry.file_type().unwrap();
                if entry_type.is_dir() {
                    dirs.push(entry.path());
                } else if entry.metadata().is_ok_and(|data| data.len() == self.size as u64) {
                    files += 1;
                }
            }
        }
        files
    }

    /// What a node says that its cache holds, which is never above the quota.
    fn used_within_quota(&self, node: usize) -> u64 {
        let cache = self.status(node)["cache"][0].clone();
        let number = |field: &str| cache[field].as_u64().unwrap();
        assert!(number("used_bytes") <= number("quota_bytes"), "node {node}: {cache:#}");
        number("used_bytes")
    }

    /// What the disk says of a node's cache directory, while nobody writes there.
    fn disk_usage(&self, node: usize) -> u64 {
        let mut du = Command::new("du");
        du.args(["-s", "--block-size=1"]).arg(self.sandbox.path(&format!("cache-{node}")));
        Ran::of(&mut du).ok().split('\t').next().unwrap().parse().unwrap()
    }

    pub(crate) fn umount(&self, node: usize) {
        self.sandbox.run(&["umount", self.mnt(node).to_str().unwrap()]).ok();
    }
}

/// Of this test process and this test alone: all of 127.0.0.0/8 is this machine.
pub(crate) fn address(test: usize, node: usize) -> String {
    let pid = std::process::id() as usize;
    format!("127.{}.{}.{}:7001", 16 + pid % 224, pid / 224 % 256, 1 + test * NODES + node)
}

#[test]
fn three_nodes_fetch_each_file_once_in_three_epochs() {
    let sandbox = Sandbox::with(|builder| builder.latency_ms(5));
    let cluster = Cluster::start(&sandbox, 0, &[]);
    for epoch in 0..3 {
        cluster.read_on(0..NODES, epoch, 0..FILES);
    }
    let gets = sandbox.sim.stats().get;
    let fell_back = cluster.fell_back(0..NODES);
    assert!(gets >= FILES as u64 && gets <= FILES as u64 + fell_back, "{gets} GETs, {fell_back}");
    assert!(fell_back < FILES as u64 / 10, "{fell_back} reads fell back");
    let status: Vec<_> = (0..NODES).map(|node| cluster.status(node)["cluster"].clone()).collect();
    for one in &status {
        assert!(0 < one["requests_saved"].as_u64().unwrap(), "{one:#}");
        assert!(0 < one["served"].as_u64().unwrap(), "{one:#}");
        assert_eq!(one["fingerprint"], status[0]["fingerprint"]);
        assert_eq!(one["peers"].as_array().unwrap().len(), NODES - 1, "not itself: {one:#}");
    }
    let shown = sandbox.run(&["status", cluster.mnt(0).to_str().unwrap()]).ok();
    assert!(shown.contains("3 nodes") && shown.contains("requests saved"), "{shown}");
    // Copies were kept: another epoch needs nobody.
    let served = |node: usize| cluster.status(node)["cluster"]["served"].as_u64().unwrap();
    let before: u64 = (0..NODES).map(served).sum();
    cluster.read_on(0..NODES, 3, 0..FILES);
    assert_eq!((0..NODES).map(served).sum::<u64>(), before);
    assert_eq!(sandbox.sim.stats().get, gets);
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn a_node_killed_in_mid_epoch_costs_requests_and_nothing_else() {
    let sandbox = Sandbox::with(|builder| builder.latency_ms(5));
    // Without fill the epoch is where the readers are.
    let cluster = Cluster::start(&sandbox, 1, &["--fill", "off"]);
    let third = cluster.pid(2);
    cluster.read_on(0..NODES, 0, 0..FILES / 3);
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.read_on(0..2, 0, FILES / 3..FILES));
        scope.spawn(|| signal(third, Signal::KILL));
    });
    cluster.read_on(0..2, 1, 0..FILES);
    let gets = sandbox.sim.gets_by_key();
    let files = gets.iter().filter(|(key, _)| key.contains("set/"));
    let extra: Vec<_> = files.filter(|(_, count)| **count > 1).collect();
    // What the dead one owned, a third; half leaves room for how the ids fall.
    assert!(extra.len() <= FILES / 2, "{} files were fetched again", extra.len());
    let seen = cluster.status(0)["cluster"].clone();
    let down = seen["peers"].as_array().unwrap().iter().filter(|peer| peer["state"] == "down");
    assert_eq!(down.count(), 1, "{seen:#}");
    assert_eq!(seen["members"], NODES, "it stays a member: {seen:#}");
    (0..2).for_each(|node| cluster.umount(node));
    // The watchdog clears the mount of the dead one.
    sandbox.assert_gone();
}

#[test]
fn a_node_that_hangs_is_waited_for_once_and_asked_again_when_it_is_back() {
    let sandbox = Sandbox::new();
    let secrets = sandbox.path("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("token"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let secrets = secrets.to_str().unwrap();
    // The reads show who is asked: nothing is fetched ahead of them.
    let flags = ["--cluster-secrets", secrets, "--fill", "off"];
    let cluster = Cluster::start(&sandbox, 2, &flags);
    let third = cluster.pid(2);
    let state = |node: usize| cluster.state(node, &address(2, 2));
    cluster.read_on(0..2, 0, 0..FILES / 3);
    signal(third, Signal::STOP);
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cluster.read_on(0..2, 0, FILES / 3..FILES);
        wait_until("the one that hangs to be passed by", || state(0) == "down");
    }));
    // Whatever happened: a stopped process cannot be ended cleanly.
    signal(third, Signal::CONT);
    read.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    wait_until("the one that hung to be asked again", || state(0) == "up" && state(1) == "up");
    cluster.read_on(0..NODES, 1, 0..FILES);
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn a_node_with_a_wrong_clock_fetches_what_it_owns_and_serves_it() {
    let sandbox = Sandbox::new();
    let mut cluster = Cluster::of_files(&sandbox, FILES, 20_000);
    (cluster.test, cluster.quota) = (11, "512MiB");
    (0..2).for_each(|node| cluster.mount(node));
    // Three hours ahead: the bucket refuses what is signed with that time, as S3 does.
    let dir = sandbox.path("cache-2");
    let cache = format!("{}:512MiB", dir.display());
    let addresses = [0, 1, 2].map(|node| address(11, node));
    let mut mount = cluster.command(2, &cache, &addresses, &[]);
    // The library of Debian's faketime; `faketime` itself waits for the daemon that stays.
    mount.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1").env("FAKETIME", "+3h");
    mount.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    Ran::of(&mut mount).ok();
    cluster.wait_for_members();
    cluster.read_on(0..NODES, 0, 0..FILES);
    let refused = cluster.status(2)["retries"]["credentials"].as_u64();
    assert!(refused.is_some_and(|tries| 0 < tries), "is faketime installed? {refused:?}");
    let (gets, fell_back) = (sandbox.sim.stats().get, cluster.fell_back(0..NODES));
    assert!(gets <= FILES as u64 + fell_back && fell_back < 30, "{gets} GETs, {fell_back}");
    assert!(0 < cluster.status(2)["cluster"]["served"].as_u64().unwrap());
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn without_local_copies_the_caches_hold_each_file_once() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 3, &["--local-copies", "never", "--fill", "off"]);
    cluster.read_on(0..NODES, 0, 0..FILES);
    let objects = |node: usize| cluster.status(node)["cache"][0]["objects"].as_u64().unwrap();
    wait_until("every file to be on disk once", || {
        (0..NODES).map(objects).sum::<u64>() == FILES as u64
    });
    assert!((0..NODES).all(|node| 0 < objects(node) && objects(node) < FILES as u64 / 2 + 10));
    cluster.read_on(0..NODES, 1, 0..FILES);
    let (gets, fell_back) = (sandbox.sim.stats().get, cluster.fell_back(0..NODES));
    assert!(gets <= FILES as u64 + fell_back && fell_back < 30, "{gets} GETs, {fell_back}");
    assert_eq!((0..NODES).map(objects).sum::<u64>(), FILES as u64);
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn a_data_set_larger_than_any_cache_is_in_all_of_them_together() {
    let sandbox = Sandbox::new();
    // 120 MB in three caches of 64 MiB: each owns a third, and has room for a few copies.
    let cluster = Cluster::of_size(&sandbox, 4, 800_000, "64MiB", &[]);
    cluster.read_on(0..NODES, 0, 0..FILES);
    let first = sandbox.sim.stats().get;
    cluster.read_on(0..NODES, 1, 0..FILES);
    let again = sandbox.sim.stats().get - first;
    let fell_back = cluster.fell_back(0..NODES);
    assert!(again <= 2 + fell_back, "{again} of {FILES} files were fetched again, {fell_back}");
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn no_node_holds_more_than_its_quota_of_a_data_set_larger_than_all_together() {
    let sandbox = Sandbox::new();
    // 240 MB for three caches of 64 MiB, filled in the background as well.
    let cluster = Cluster::of_size(&sandbox, 75, 1_600_000, "64MiB", &[]);
    let is_over = AtomicBool::new(false);
    let watched = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = 0;
            while !is_over.load(Ordering::Relaxed) {
                for node in 0..NODES {
                    cluster.used_within_quota(node);
                }
                seen += 1;
            }
            seen
        });
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..2).for_each(|epoch| cluster.read_on(0..NODES, epoch, 0..FILES));
        }));
        is_over.store(true, Ordering::Relaxed);
        read.and_then(|()| watch.join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(0 < watched, "nobody looked");
    let used: Vec<_> = (0..NODES).map(|node| cluster.used_within_quota(node)).collect();
    assert!(used.iter().all(|used| 32 << 20 < *used), "a cache never filled: {used:?}");
    (0..NODES).for_each(|node| cluster.umount(node));
    let on_disk: Vec<_> = (0..NODES).map(|node| cluster.disk_usage(node)).collect();
    assert!(on_disk.iter().all(|bytes| (32 << 20..=64 << 20).contains(bytes)), "{on_disk:?}");
    sandbox.assert_gone();
}

#[test]
fn a_port_that_others_can_reach_is_refused_without_a_token() {
    let sandbox = Sandbox::new();
    let mount = |flags: &[&str]| {
        let args = [&["mount", "s3://b", sandbox.mnt_str()][..], flags].concat();
        sandbox.run(&args)
    };
    let open = ["--listen", "0.0.0.0:7001"];
    mount(&open).fails(2, &["--listen", "cluster_secrets", "insecure"]);
    mount(&["--peers", "127.0.0.1:7001"]).fails(2, &["peers", "needs listen"]);
    let absent = sandbox.path("absent");
    let absent = absent.to_str().unwrap();
    let ran = mount(&["--listen", "127.0.0.1:7001", "--cluster-secrets", absent]);
    ran.fails(2, &["absent", "cluster_secrets", "file token", "the same on every node"]);
    assert!(!sandbox.is_mounted());
}
