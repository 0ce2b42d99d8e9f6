//! What all nodes are to know, with a real etcd: pins and load jobs, over joins, absences and losses.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::cluster::address;
use crate::cluster_etcd::Etcd;
use crate::sandbox::{Ran, Sandbox, content, wait_until};

/// Files of the folder.
const COUNT: u64 = 30;

/// As hard on keys of etcd as a folder's name can be.
const FOLDER: &str = "set/ü 100%2f #?";

/// Nodes of one sandbox, which find each other by an etcd.
struct Lab<'a> {
    sandbox: &'a Sandbox,
    test: usize,
    url: String,
    etcd: Option<Etcd>,
    /// As if each node were a machine of its own to who asks about jobs.
    own_run_dirs: bool,
}

impl<'a> Lab<'a> {
    /// With an etcd, files in the bucket, and no node yet.
    fn new(sandbox: &'a Sandbox, test: usize) -> Self {
        for at in 0..COUNT {
            let key = format!("{FOLDER}/{at}.jpg");
            sandbox.sim.put_object("b", &key, content(&key, 2_000));
        }
        sandbox.sim.put_object("b", "set/other/1.jpg", content("set/other/1.jpg", 2_000));
        let url = format!("http://{}", address(test, 3));
        let mut lab = Self { sandbox, test, url, etcd: None, own_run_dirs: false };
        lab.start_etcd();
        lab
    }

    fn start_etcd(&mut self) {
        self.etcd = Some(Etcd::start(&self.sandbox.path(""), &self.url));
    }

    /// Kills it, and takes its data from it if so told.
    fn stop_etcd(&mut self, forgets: bool) {
        self.etcd = None;
        if forgets {
            fs::remove_dir_all(self.sandbox.path("etcd")).unwrap();
        }
    }

    fn mnt(&self, node: usize) -> PathBuf {
        self.sandbox.path(&format!("mnt-{node}"))
    }

    fn mount(&self, node: usize, members: usize) {
        self.start(node);
        wait_until("the nodes to know each other", || {
            self.status(node)["cluster"]["members"] == members
        });
    }

    fn start(&self, node: usize) {
        let mnt = self.mnt(node);
        fs::create_dir_all(&mnt).unwrap();
        let cache = format!("{}:512MiB", self.sandbox.path(&format!("cache-{node}")).display());
        let listen = address(self.test, node);
        let args = ["mount", "s3://b", mnt.to_str().unwrap(), "--cache", &cache];
        let cluster = ["--listen", &listen, "--etcd", &self.url, "--fill", "off"];
        let mut command = self.sandbox.feedline(&[&args[..], &cluster].concat());
        self.at_home(node, &mut command);
        Ran::of(&mut command).ok();
    }

    fn umount(&self, node: usize) {
        self.run(node, &["umount"], "").ok();
    }

    fn status(&self, node: usize) -> Value {
        self.run(node, &["status", "--json"], "").json()
    }

    /// A command about a path, as a node sees it.
    fn run(&self, node: usize, args: &[&str], path: &str) -> Ran {
        let path = self.mnt(node).join(path);
        self.run_on(node, &[args, &[path.to_str().unwrap()]].concat())
    }

    /// A command on a node.
    fn run_on(&self, node: usize, args: &[&str]) -> Ran {
        let mut command = self.sandbox.feedline(args);
        self.at_home(node, &mut command);
        Ran::of(&mut command)
    }

    fn at_home(&self, node: usize, command: &mut Command) {
        if self.own_run_dirs {
            let dir = self.sandbox.path(&format!("run-{node}"));
            fs::create_dir_all(&dir).unwrap();
            command.env("FEEDLINE_RUN_DIR", dir);
        }
    }

    fn is_pinned(&self, node: usize, path: &str) -> bool {
        self.run(node, &["stat", "--json"], path).json()["pinned"] == true
    }

    fn wait_for_pin(&self, nodes: &[usize], path: &str, on: bool) {
        for node in nodes {
            wait_until(&format!("node {node} to know the pin of {path:?} as {on}"), || {
                self.is_pinned(*node, path) == on
            });
        }
    }

    fn is_heard(&self, node: usize) -> bool {
        self.status(node)["cluster"]["members_from"][0]["trouble"].is_null()
    }

    fn wait_for_etcd(&self, nodes: &[usize], on: bool) {
        for node in nodes {
            wait_until("etcd to be heard, or not", || self.is_heard(*node) == on);
        }
    }

    /// Files that are pinned in the caches of all nodes, as one of them counts them.
    fn pinned(&self, node: usize) -> u64 {
        let usage = self.run(node, &["du", "--json"], FOLDER).json();
        let nodes = usage["cluster"]["nodes"].as_array().unwrap();
        nodes.iter().map(|node| node["pinned_files"].as_u64().unwrap()).sum()
    }

    fn read_all(&self, node: usize) {
        for at in 0..COUNT {
            let key = format!("{FOLDER}/{at}.jpg");
            assert_eq!(fs::read(self.mnt(node).join(&key)).unwrap(), content(&key, 2_000));
        }
    }
}

#[test]
fn a_pin_is_known_to_who_joins_later_or_was_down_and_outlives_etcd_and_its_data() {
    let sandbox = Sandbox::new();
    let mut lab = Lab::new(&sandbox, 40);
    lab.mount(0, 1);
    lab.wait_for_etcd(&[0], true);
    lab.run(0, &["pin"], FOLDER).ok();
    // Who joins later.
    lab.mount(1, 2);
    lab.wait_for_pin(&[0, 1], FOLDER, true);
    lab.read_all(1);
    wait_until("both to keep what they own", || lab.pinned(0) == COUNT);
    // etcd goes and comes: what is pinned stays, and what would be known to some alone is refused.
    lab.stop_etcd(false);
    lab.wait_for_etcd(&[0, 1], false);
    lab.run(0, &["pin"], "set/other").fails(1, &["etcd did not confirm it", "--node-only"]);
    lab.run(1, &["unpin"], FOLDER).fails(1, &["nothing is unpinned now"]);
    lab.run(1, &["unpin", "--node-only"], FOLDER).fails(2, &["pinned in the whole cluster"]);
    lab.run(0, &["pin", "--node-only"], "set/other").ok();
    assert!(!lab.is_pinned(1, "set/other"));
    assert_eq!(lab.pinned(1), COUNT);
    lab.read_all(0);
    lab.umount(1);
    lab.start(1);
    assert!(lab.is_pinned(1, FOLDER), "its own directory knows it");
    lab.start_etcd();
    lab.wait_for_etcd(&[0, 1], true);
    lab.wait_for_pin(&[0, 1], FOLDER, true);
    // Who was down while it was taken back.
    lab.umount(1);
    let said = lab.run(0, &["unpin"], FOLDER).ok();
    assert!(said.contains("unpinned"), "{said}");
    lab.run(0, &["pin"], "set/other").ok();
    lab.mount(1, 2);
    lab.wait_for_pin(&[0, 1], FOLDER, false);
    lab.wait_for_pin(&[1], "set/other", true);
    wait_until("nothing to be kept", || lab.pinned(0) == 0);
    // etcd loses all: the nodes put it back, and who never knew it learns it.
    lab.run(1, &["pin"], FOLDER).ok();
    lab.wait_for_pin(&[0, 1], FOLDER, true);
    lab.stop_etcd(true);
    lab.wait_for_etcd(&[0, 1], false);
    lab.start_etcd();
    lab.wait_for_etcd(&[0, 1], true);
    lab.mount(2, 3);
    lab.wait_for_pin(&[0, 1, 2], FOLDER, true);
    // And it is unpinned once, by anybody, for all.
    lab.run(2, &["unpin"], FOLDER).ok();
    lab.wait_for_pin(&[0, 1, 2], FOLDER, false);
    wait_until("nothing to be kept", || lab.pinned(0) == 0);
    assert!(lab.is_pinned(0, "set/other") && lab.is_pinned(2, "set/other"));
    (0..3).for_each(|node| lab.umount(node));
    sandbox.assert_gone();
}

#[test]
fn a_pin_of_nodes_that_had_no_etcd_moves_there() {
    let sandbox = Sandbox::new();
    let lab = Lab::new(&sandbox, 42);
    // A cluster of a list first, of one.
    let mnt = lab.mnt(0);
    fs::create_dir_all(&mnt).unwrap();
    let cache = format!("{}:512MiB", sandbox.path("cache-0").display());
    let listen = address(42, 0);
    let args = ["mount", "s3://b", mnt.to_str().unwrap(), "--cache", &cache, "--fill", "off"];
    let without_etcd = |verb: &str, path: &str| {
        Ran::of(&mut sandbox.feedline(&[&args[..], &["--listen", &listen]].concat())).ok();
        lab.run(0, &[verb], path).ok();
        lab.umount(0);
    };
    without_etcd("pin", FOLDER);
    lab.mount(0, 1);
    lab.mount(1, 2);
    lab.wait_for_pin(&[0, 1], FOLDER, true);
    // Without it for once: what is pinned then is not lost to an etcd that does not know it.
    lab.umount(0);
    without_etcd("pin", "set/other");
    lab.mount(0, 2);
    lab.wait_for_pin(&[0, 1], "set/other", true);
    assert!(lab.is_pinned(0, FOLDER) && lab.is_pinned(1, FOLDER));
    (0..2).for_each(|node| lab.umount(node));
    sandbox.assert_gone();
}

/// The job of this id, as a node lists it. Each node has a run directory of its own, as on machines of their own.
fn listed(lab: &Lab<'_>, node: usize, id: &str) -> Option<Value> {
    let jobs = lab.run_on(node, &["load", "--list", "--json"]).json();
    jobs.as_array().unwrap().iter().find(|job| job["id"] == id).cloned()
}

#[test]
fn a_load_is_listed_followed_stopped_and_tried_again_from_another_node() {
    let sandbox = Sandbox::new();
    let mut lab = Lab::new(&sandbox, 44);
    lab.own_run_dirs = true;
    lab.mount(0, 1);
    lab.mount(1, 2);
    // Slow enough to be met while it runs: ten minutes.
    let start = ["load", "--json", "--bandwidth", "100B/s"];
    let id = lab.run(0, &start, FOLDER).json()["id"].as_str().unwrap().to_owned();
    wait_until("the other node to list it", || listed(&lab, 1, &id).is_some());
    let address = address(44, 0);
    let shown = lab.run_on(1, &["load", "--list"]).ok();
    assert!(shown.contains(&address) && !shown.contains("not heard"), "{shown}");
    let job = lab.run_on(1, &["load", "--progress", &id, "--json"]).json();
    assert_eq!(job["node"]["address"], address, "{job:#}");
    assert!(job["node"]["trouble"].is_null(), "{job:#}");
    assert_eq!(listed(&lab, 0, &id).unwrap()["node"], Value::Null, "its own");
    lab.run_on(1, &["load", "--stop", &id]).ok();
    assert_eq!(listed(&lab, 0, &id).unwrap()["state"], "stopped");
    wait_until("etcd to know", || listed(&lab, 1, &id).unwrap()["state"] == "stopped");
    lab.run_on(1, &["load", "--progress", &id, "--failed"]).fails(2, &[&address, "say it there"]);
    lab.run_on(1, &["load", "--retry-failed", &id]).ok();
    wait_until("it to go on", || {
        let state = listed(&lab, 1, &id).unwrap()["state"].clone();
        state == "listing" || state == "loading"
    });
    // Its node is down: what it said last, and by whom.
    let pid = i32::try_from(lab.status(0)["pid"].as_i64().unwrap()).unwrap();
    crate::sandbox::signal(pid, rustix::process::Signal::STOP);
    let said = lab.run_on(1, &["load", "--stop", &id]);
    // What it mounts is known all the same.
    let (status, shown) = (lab.status(1), lab.run(1, &["status"], "").ok());
    crate::sandbox::signal(pid, rustix::process::Signal::CONT);
    said.fails(1, &[&address, "a job goes on when its node is back"]);
    let nodes = status["cluster"]["nodes"].as_array().unwrap();
    let silent = nodes.iter().find(|node| node["address"] == address).unwrap();
    assert_eq!(silent["version"], "", "{status:#}");
    assert_eq!(silent["sources"][0], "s3://b", "{status:#}");
    let mount = format!("{address} mount s3://b at {}", lab.mnt(0).display());
    assert!(shown.contains(&mount), "{mount}: {shown}");
    lab.umount(0);
    wait_until("its node to be missed", || {
        lab.run_on(1, &["load", "--list"]).ok().contains("(not heard now)")
    });
    let shown = lab.run_on(1, &["load", "--progress", &id]).ok();
    assert!(shown.contains("this is what it said last"), "{shown}");
    // etcd forgets all, and hears it again from the node that is back.
    lab.stop_etcd(true);
    lab.wait_for_etcd(&[1], false);
    assert!(listed(&lab, 1, &id).is_some(), "known as it was");
    lab.start_etcd();
    lab.wait_for_etcd(&[1], true);
    wait_until("it to be forgotten", || listed(&lab, 1, &id).is_none());
    lab.run_on(1, &["load", "--progress", &id]).fails(3, &["no load is called"]);
    lab.mount(0, 2);
    wait_until("it to be known again, and its node heard", || {
        listed(&lab, 1, &id).is_some_and(|job| job["node"]["trouble"].is_null())
    });
    lab.run_on(1, &["load", "--stop", &id]).ok();
    (0..2).for_each(|node| lab.umount(node));
    sandbox.assert_gone();
}
