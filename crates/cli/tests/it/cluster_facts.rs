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
    /// Of each mount.
    flags: &'static [&'static str],
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
        let mut lab = Self { sandbox, test, url, etcd: None, own_run_dirs: false, flags: &[] };
        lab.start_etcd();
        lab
    }

    fn start_etcd(&mut self) {
        self.etcd = Some(Etcd::start(&self.sandbox.path(""), &self.url));
    }

    /// Copies the data of an etcd that does not run: as a backup is made, or put back.
    fn copy_etcd(&self, from: &str, to: &str) {
        let [from, to] = [from, to].map(|name| self.sandbox.path(name));
        let _ = fs::remove_dir_all(&to);
        let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
        assert!(copied.success());
    }

    /// What a node has written down of the etcd that it heard last, once it `holds`.
    fn wait_for_mark(&self, node: usize, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let file = self.sandbox.path(&format!("cache-{node}/namespace/facts.json"));
        let mark = || serde_json::from_slice(&fs::read(&file).unwrap_or_default());
        wait_until(&format!("node {node} to write down {what}"), || {
            mark().is_ok_and(|mark: Value| holds(&mark))
        });
        mark().unwrap()
    }

    /// Waits until a node knows that etcd names so many changes of pins.
    fn wait_for_changes(&self, node: usize, count: usize) {
        self.wait_for_mark(node, &format!("{count} changes"), |mark| {
            mark["changes"].as_array().is_some_and(|changes| changes.len() == count)
        });
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
        let mut command = self.sandbox.feedline(&[&args[..], &cluster, self.flags].concat());
        self.at_home(node, &mut command);
        Ran::of(&mut command).ok();
    }

    /// Has a node alone, without etcd, do something.
    fn without_etcd(&self, node: usize, verb: &str, path: &str) {
        let mnt = self.mnt(node);
        fs::create_dir_all(&mnt).unwrap();
        let cache = format!("{}:512MiB", self.sandbox.path(&format!("cache-{node}")).display());
        let (mnt, listen) = (mnt.to_str().unwrap().to_owned(), address(self.test, node));
        let args = ["mount", "s3://b", &mnt, "--cache", &cache, "--fill", "off"];
        let listen = ["--listen", &listen];
        Ran::of(&mut self.sandbox.feedline(&[&args[..], &listen].concat())).ok();
        self.run(node, &[verb], path).ok();
        self.umount(node);
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
    lab.run(1, &["unpin"], FOLDER)
        .fails(1, &["nothing is unpinned now", "what was pinned on this node alone"]);
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
    let before = lab.wait_for_mark(0, "etcd", |_| true)["generation"].clone();
    lab.stop_etcd(true);
    lab.wait_for_etcd(&[0, 1], false);
    lab.start_etcd();
    lab.wait_for_etcd(&[0, 1], true);
    // Both are done with it: what one puts back later would undo what is taken back below.
    for node in [0, 1] {
        lab.wait_for_mark(node, "the new etcd", |mark| mark["generation"] != before);
    }
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
    lab.without_etcd(0, "pin", FOLDER);
    lab.mount(0, 1);
    lab.mount(1, 2);
    lab.wait_for_pin(&[0, 1], FOLDER, true);
    // Without it for once: what is pinned then is not lost to an etcd that does not know it.
    lab.umount(0);
    lab.without_etcd(0, "pin", "set/other");
    lab.mount(0, 2);
    lab.wait_for_pin(&[0, 1], "set/other", true);
    assert!(lab.is_pinned(0, FOLDER) && lab.is_pinned(1, FOLDER));
    // And what was taken back meanwhile stays so, though another pin is made without it.
    lab.wait_for_changes(0, 2);
    lab.umount(0);
    lab.run(1, &["unpin"], "set").ok();
    lab.without_etcd(0, "pin", "set/other");
    lab.mount(0, 2);
    lab.wait_for_pin(&[0, 1], "set/other", true);
    lab.wait_for_changes(0, 4);
    lab.wait_for_pin(&[0, 1], FOLDER, false);
    assert!(lab.is_pinned(0, "set/other") && lab.is_pinned(1, "set/other"));
    (0..2).for_each(|node| lab.umount(node));
    sandbox.assert_gone();
}

#[test]
fn an_etcd_that_is_put_back_from_an_older_copy_unpins_nothing_however_much_is_written_after() {
    let sandbox = Sandbox::new();
    sandbox.sim.put_object("b", "set/third/1.jpg", content("set/third/1.jpg", 2_000));
    let mut lab = Lab::new(&sandbox, 46);
    lab.mount(0, 1);
    lab.wait_for_etcd(&[0], true);
    lab.run(0, &["pin"], "set/other").ok();
    lab.stop_etcd(false);
    lab.wait_for_etcd(&[0], false);
    lab.copy_etcd("etcd", "etcd-copy");
    lab.start_etcd();
    lab.wait_for_etcd(&[0], true);
    lab.run(0, &["pin"], FOLDER).ok();
    lab.wait_for_changes(0, 2);
    lab.umount(0);
    lab.stop_etcd(true);
    lab.copy_etcd("etcd-copy", "etcd");
    lab.start_etcd();
    // Nodes that come and go, and as many changes of pins, take it past all that the first node has heard.
    for _ in 0..5 {
        lab.start(1);
        lab.wait_for_etcd(&[1], true);
        lab.umount(1);
    }
    lab.start(1);
    lab.wait_for_etcd(&[1], true);
    lab.wait_for_pin(&[1], "set/other", true);
    lab.run(1, &["pin"], "set/third").ok();
    assert!(!lab.is_pinned(1, FOLDER));
    lab.mount(0, 2);
    lab.wait_for_pin(&[0, 1], FOLDER, true);
    lab.wait_for_pin(&[0, 1], "set/third", true);
    assert!(lab.is_pinned(0, "set/other") && lab.is_pinned(1, "set/other"));
    (0..2).for_each(|node| lab.umount(node));
    sandbox.assert_gone();
}

#[test]
fn a_pin_of_a_folder_that_is_gone_is_taken_back_and_a_list_that_went_astray_is_mended() {
    let sandbox = Sandbox::new();
    let mut lab = Lab::new(&sandbox, 48);
    lab.flags = &["--metadata-ttl", "1s"];
    lab.mount(0, 1);
    lab.mount(1, 2);
    for path in ["set/other", FOLDER] {
        lab.run(0, &["pin"], path).ok();
        lab.wait_for_pin(&[0, 1], path, true);
    }
    sandbox.sim.delete_object("b", "set/other/1.jpg");
    for node in [0, 1] {
        wait_until("the folder to be missed", || {
            lab.run(node, &["stat"], "set/other").code != Some(0)
        });
    }
    lab.run(1, &["unpin"], "set/other").ok();
    lab.run(1, &["unpin"], "set/other").fails(3, &["no such file"]);
    lab.wait_for_changes(0, 4);
    lab.umount(0);
    let list = sandbox.path("cache-0/namespace/shared-pins.json");
    assert_eq!(fs::read_to_string(&list).unwrap().matches("set/").count(), 1);
    fs::write(&list, r#"["set/other", "else"]"#).unwrap();
    lab.mount(0, 2);
    lab.wait_for_pin(&[0, 1], FOLDER, true);
    wait_until("the list to be as etcd has it", || {
        let list = fs::read_to_string(&list).unwrap();
        !list.contains("other") && !list.contains("else")
    });
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
