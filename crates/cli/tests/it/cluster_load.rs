//! `feedline load` on three nodes: each file goes to its owner, and the bucket is asked for it once.

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::{Cluster, FILES, NODES, address};
use crate::sandbox::{Sandbox, signal, wait_until};

/// Objects in the caches of these nodes together.
fn objects(cluster: &Cluster<'_>, nodes: std::ops::Range<usize>) -> u64 {
    nodes.map(|node| cluster.status(node)["cache"][0]["objects"].as_u64().unwrap()).sum()
}

/// Starts a load of the set on a node; with `--wait`, its end. The exit code is not looked at.
fn load(sandbox: &Sandbox, cluster: &Cluster<'_>, node: usize, flags: &[&str]) -> Value {
    let set = cluster.mnt(node).join("set");
    let ran = sandbox.run(&[&["load", set.to_str().unwrap(), "--json"][..], flags].concat());
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:#?}"))
}

fn progress(sandbox: &Sandbox, job: &Value, flags: &[&str]) -> Value {
    let id = job["id"].as_str().unwrap();
    let ran = sandbox.run(&[&["load", "--progress", id, "--json"][..], flags].concat());
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:#?}"))
}

#[track_caller]
fn assert_done(job: &Value) {
    assert_eq!((&job["state"], &job["files"]), (&"done".into(), &FILES.into()), "{job:#}");
    let number = |field: &str| job[field].as_u64().unwrap();
    assert_eq!(number("loaded") + number("cached"), FILES as u64, "{job:#}");
}

fn pid(cluster: &Cluster<'_>, node: usize) -> i32 {
    i32::try_from(cluster.status(node)["pid"].as_i64().unwrap()).unwrap()
}

fn end(sandbox: &Sandbox, cluster: &Cluster<'_>, nodes: std::ops::Range<usize>) {
    nodes.for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn three_nodes_share_a_load_and_ask_the_bucket_once_for_each_file() {
    let sandbox = Sandbox::with(|builder| builder.latency_ms(5));
    let secrets = sandbox.path("secrets");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("token"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let flags = ["--cluster-secrets", secrets.to_str().unwrap(), "--fill", "off"];
    let cluster = Cluster::start(&sandbox, 5, &flags);
    let done = load(&sandbox, &cluster, 0, &["--wait"]);
    assert_done(&done);
    assert_eq!((&done["nodes"], &done["loaded"]), (&NODES.into(), &FILES.into()), "{done:#}");
    let (gets, fell_back) = (sandbox.sim.stats().get, cluster.fell_back(0..NODES));
    assert_eq!(gets, FILES as u64, "{fell_back} fell back: {done:#}");
    assert!(sandbox.sim.gets_by_key().values().all(|count| *count == 1));
    assert_eq!(objects(&cluster, 0..NODES), FILES as u64, "each is on one node");
    for node in 0..NODES {
        let own = objects(&cluster, node..node + 1);
        assert!((FILES as u64 / 6..FILES as u64 / 2).contains(&own), "node {node} has {own}");
    }
    let again = load(&sandbox, &cluster, 1, &["--wait"]);
    assert_done(&again);
    assert_eq!(again["cached"], FILES, "{again:#}");
    cluster.read_on(0..NODES, 0, 0..FILES);
    assert_eq!(sandbox.sim.stats().get, gets, "all there is was loaded");
    end(&sandbox, &cluster, 0..NODES);
}

#[test]
fn replicas_cost_the_bucket_nothing() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 6, &["--fill", "off"]);
    let done = load(&sandbox, &cluster, 2, &["--wait", "--replicas", "2"]);
    assert_done(&done);
    assert_eq!(done["loaded"], FILES, "{done:#}");
    assert_eq!(objects(&cluster, 0..NODES), 2 * FILES as u64);
    assert_eq!(sandbox.sim.stats().get, FILES as u64);
    let many = cluster.mnt(0);
    let many = sandbox.run(&["load", many.to_str().unwrap(), "--replicas", "4"]);
    many.fails(2, &["4 replicas", "3 nodes"]);
    end(&sandbox, &cluster, 0..NODES);
}

#[test]
fn the_files_of_a_node_that_is_down_go_to_those_that_follow() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 7, &["--fill", "off"]);
    signal(pid(&cluster, 2), Signal::KILL);
    let done = load(&sandbox, &cluster, 0, &["--wait"]);
    assert_done(&done);
    assert!(done["passed_by"][address(7, 2)].is_string(), "{done:#}");
    assert_eq!(objects(&cluster, 0..2), FILES as u64);
    let (gets, fell_back) = (sandbox.sim.stats().get, cluster.fell_back(0..2));
    assert!(gets <= FILES as u64 + fell_back, "{gets} GETs, {fell_back} fell back");
    cluster.read_on(0..2, 0, 0..FILES);
    assert_eq!(sandbox.sim.stats().get, gets);
    end(&sandbox, &cluster, 0..2);
}

#[test]
fn empty_files_are_cached_wherever_they_belong() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 60, &["--fill", "off"]);
    let empty: Vec<_> = (0..12).map(|at| format!("set/c{}/empty-{at}", at % 3)).collect();
    empty.iter().for_each(|key| drop(sandbox.sim.put_object("b", key, "")));
    for replicas in ["1", "2"] {
        let done = load(&sandbox, &cluster, 0, &["--wait", "--replicas", replicas]);
        let files = FILES + empty.len();
        assert_eq!((&done["state"], &done["files"]), (&"done".into(), &files.into()), "{done:#}");
        assert_eq!((&done["failed"], &done["loaded"]), (&0.into(), &FILES.into()), "{done:#}");
        assert!(done["passed_by"].as_object().unwrap().is_empty(), "{done:#}");
    }
    assert_eq!(sandbox.sim.stats().get, FILES as u64);
    end(&sandbox, &cluster, 0..NODES);
}

#[test]
fn a_node_that_dies_during_a_load_is_passed_by_and_the_load_ends_well() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 8, &["--fill", "off"]);
    let third = pid(&cluster, 2);
    let begun = load(&sandbox, &cluster, 0, &["--bandwidth", "1MB/s"]);
    wait_until("some files to be loaded", || {
        20 <= progress(&sandbox, &begun, &[])["loaded"].as_u64().unwrap()
    });
    signal(third, Signal::KILL);
    let done = progress(&sandbox, &begun, &["--wait"]);
    assert_done(&done);
    assert!(done["passed_by"][address(8, 2)].is_string(), "{done:#}");
    let gets = sandbox.sim.stats().get;
    assert!(gets <= (FILES + FILES / 2) as u64, "{gets} GETs");
    end(&sandbox, &cluster, 0..2);
}

#[test]
fn a_load_goes_on_after_all_nodes_were_killed() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 10, &["--fill", "off"]);
    let begun = load(&sandbox, &cluster, 1, &["--bandwidth", "1MB/s"]);
    wait_until("some files to be loaded", || {
        20 <= progress(&sandbox, &begun, &[])["loaded"].as_u64().unwrap()
    });
    let pids: Vec<_> = (0..NODES).map(|node| pid(&cluster, node)).collect();
    pids.into_iter().for_each(|pid| signal(pid, Signal::KILL));
    wait_until("all mounts to be cleared", || sandbox.mounts() == 0);
    // The node with the job first: alone, it would take itself for the owner of everything.
    for node in [1, 0, 2] {
        cluster.mount(node);
    }
    let done = progress(&sandbox, &begun, &["--wait"]);
    assert_done(&done);
    let gets = sandbox.sim.stats().get;
    // Again: what was under way when they were killed.
    assert!(gets <= (FILES + FILES / 5) as u64, "{gets} GETs");
    assert!(objects(&cluster, 0..NODES) <= (FILES + FILES / 10) as u64);
    end(&sandbox, &cluster, 0..NODES);
}

#[test]
fn a_load_that_is_stopped_stops_on_all_nodes() {
    let sandbox = Sandbox::with(|builder| builder.latency_ms(400));
    let cluster = Cluster::start(&sandbox, 9, &["--fill", "off"]);
    let begun = load(&sandbox, &cluster, 0, &["--bandwidth", "100KB/s"]);
    wait_until("some files to be loaded", || {
        2 <= progress(&sandbox, &begun, &[])["loaded"].as_u64().unwrap()
    });
    sandbox.run(&["load", "--stop", begun["id"].as_str().unwrap()]).ok();
    assert_eq!(progress(&sandbox, &begun, &[])["state"], "stopped");
    // What was under way ends; nothing else begins.
    let idle = |node: usize| cluster.status(node)["requests_in_flight"] == 0;
    wait_until("all nodes to be idle", || (0..NODES).all(idle));
    let gets = sandbox.sim.stats().get;
    assert!(gets < FILES as u64, "{gets} GETs");
    wait_until("what came to be on disk", || objects(&cluster, 0..NODES) == gets);
    assert_eq!(sandbox.sim.stats().get, gets);
    end(&sandbox, &cluster, 0..NODES);
}
