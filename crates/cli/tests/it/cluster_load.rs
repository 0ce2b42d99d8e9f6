//! `feedline load` on three nodes: each file goes to its owner, and the bucket is asked for it once.

use feedline_s3sim::{FaultKind, FaultRule, Faults};
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

/// Files of the set that nodes hold, as a node hears from all that answer.
fn held(sandbox: &Sandbox, cluster: &Cluster<'_>, node: usize) -> usize {
    let set = cluster.mnt(node).join("set");
    sandbox.run(&["ls", "--cached", "-R", set.to_str().unwrap()]).ok().lines().count()
}

/// Starts a slow load on node 0, and waits until the third has a part of it.
fn begin(sandbox: &Sandbox, cluster: &Cluster<'_>, bandwidth: &str) -> Value {
    let begun = load(sandbox, cluster, 0, &["--bandwidth", bandwidth]);
    wait_until("the third to have some files", || 8 <= objects(cluster, 2..3));
    begun
}

/// What could not be cached, and why.
fn failed(sandbox: &Sandbox, job: &Value) -> Vec<(String, String)> {
    let id = job["id"].as_str().unwrap();
    let listed = sandbox.run(&["load", "--progress", id, "--failed", "--json"]).stdout;
    let line = |line: &str| {
        let failure: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| failure[field].as_str().unwrap().to_owned();
        (text("path"), text("reason"))
    };
    listed.lines().map(line).collect()
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
fn what_a_node_takes_along_when_it_dies_during_a_load_is_loaded_elsewhere() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 8, &["--fill", "off"]);
    let third = pid(&cluster, 2);
    let begun = begin(&sandbox, &cluster, "1MB/s");
    signal(third, Signal::KILL);
    let done = progress(&sandbox, &begun, &["--wait"]);
    assert_done(&done);
    assert_eq!((&done["loaded"], &done["reason"]), (&FILES.into(), &Value::Null), "{done:#}");
    assert!(done["passed_by"][address(8, 2)].is_string(), "{done:#}");
    assert_eq!(held(&sandbox, &cluster, 0), FILES, "{done:#}");
    // Again: what was on the dead one, and what was under way to it.
    let (gets, fell_back) = (sandbox.sim.stats().get, cluster.fell_back(0..2) as usize);
    let most = FILES + cluster.on_disk(2) + fell_back + FILES / 10;
    assert!(gets <= most as u64, "{gets} GETs of {most}");
    cluster.read_on(0..2, 0, 0..FILES);
    assert_eq!(sandbox.sim.stats().get, gets);
    end(&sandbox, &cluster, 0..2);
}

#[test]
fn copies_that_die_with_a_node_during_a_load_are_made_elsewhere() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 61, &["--fill", "off"]);
    let third = pid(&cluster, 2);
    let begun = load(&sandbox, &cluster, 0, &["--bandwidth", "1MB/s", "--replicas", "2"]);
    wait_until("some copies to be made", || FILES as u64 + 30 <= objects(&cluster, 0..NODES));
    signal(third, Signal::KILL);
    let done = progress(&sandbox, &begun, &["--wait"]);
    assert_done(&done);
    assert_eq!(objects(&cluster, 0..2), 2 * FILES as u64, "each is on both: {done:#}");
    end(&sandbox, &cluster, 0..2);
}

#[test]
fn a_node_that_comes_back_empty_during_a_load_has_its_part_in_the_end() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 62, &["--fill", "off"]);
    let third = pid(&cluster, 2);
    let begun = begin(&sandbox, &cluster, "400KB/s");
    signal(third, Signal::KILL);
    wait_until("its mount to be cleared", || sandbox.mounts() == NODES - 1);
    std::fs::remove_dir_all(sandbox.path("cache-2")).unwrap();
    cluster.mount(2);
    let done = progress(&sandbox, &begun, &["--wait"]);
    assert_done(&done);
    assert_eq!(held(&sandbox, &cluster, 0), FILES, "{done:#}");
    end(&sandbox, &cluster, 0..NODES);
}

#[test]
fn a_node_that_is_silent_for_a_while_during_a_load_loses_nothing() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 63, &["--fill", "off"]);
    let third = pid(&cluster, 2);
    let begun = begin(&sandbox, &cluster, "1MB/s");
    signal(third, Signal::STOP);
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until("it to be passed by", || cluster.state(0, &address(63, 2)) == "down");
    }));
    // Whatever happened: a stopped process cannot be ended cleanly.
    signal(third, Signal::CONT);
    tried.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let done = progress(&sandbox, &begun, &["--wait"]);
    assert_done(&done);
    wait_until("it to be asked again", || cluster.state(0, &address(63, 2)) == "up");
    assert_eq!(held(&sandbox, &cluster, 0), FILES, "{done:#}");
    end(&sandbox, &cluster, 0..NODES);
}

#[test]
fn a_node_that_joins_during_a_load_is_brought_its_part() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::planned(&sandbox, 64, 20_000, "512MiB", &["--fill", "off"]);
    (0..2).for_each(|node| cluster.mount(node));
    wait_until("both to know each other", || cluster.status(0)["cluster"]["members"] == 2);
    let begun = load(&sandbox, &cluster, 0, &["--bandwidth", "300KB/s"]);
    wait_until("some files to be loaded", || {
        20 <= progress(&sandbox, &begun, &[])["loaded"].as_u64().unwrap()
    });
    cluster.mount(2);
    cluster.wait_for_members();
    // On a machine so busy that this took all the time of the load, there is nothing to see.
    let in_time = !progress(&sandbox, &begun, &[])["state"].as_str().unwrap().starts_with("done");
    let done = progress(&sandbox, &begun, &["--wait"]);
    assert_done(&done);
    assert_eq!(done["loaded"], FILES, "{done:#}");
    assert_eq!(held(&sandbox, &cluster, 0), FILES, "{done:#}");
    // Of what was loaded before, it has its part from the others.
    let own = objects(&cluster, 2..3);
    assert!(!in_time || FILES as u64 / 6 < own, "{own}: {done:#}");
    let (gets, fell_back) = (sandbox.sim.stats().get, cluster.fell_back(0..NODES));
    assert!(gets <= FILES as u64 + fell_back + 5, "{gets} GETs, {fell_back} fell back");
    end(&sandbox, &cluster, 0..NODES);
}

#[test]
fn what_the_bucket_forbids_is_listed_and_a_retry_also_brings_what_a_node_lost_since() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 65, &["--fill", "off"]);
    sandbox
        .sim
        .set_faults(Faults::from(FaultRule::every(FaultKind::Forbidden).for_keys("set/c1/")));
    let set = cluster.mnt(0).join("set");
    let ran = sandbox.run(&["load", set.to_str().unwrap(), "--json", "--wait"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let job: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&job["state"], &job["failed"]), (&"incomplete".into(), &50.into()), "{job:#}");
    assert_eq!((&job["loaded"], &job["failed_by"]["access denied"]), (&100.into(), &50.into()));
    let reason = job["reason"].as_str().unwrap();
    assert!(
        reason.contains("100 of 150 files") && reason.contains("access denied: 50"),
        "{reason}"
    );
    let listed = failed(&sandbox, &job);
    assert_eq!(listed.len(), 50);
    assert!(listed.iter().all(|(path, _)| path.starts_with("set/c1/")), "{listed:#?}");
    // Whoever was told says which node it was.
    for node in 1..NODES {
        let at = format!("on {}: ", address(65, node));
        let said = listed.iter().filter(|(_, reason)| reason.contains(&at)).count();
        assert!(0 < said && said < 50, "{said} {at}: {listed:#?}");
    }
    // A retry is of what failed; but what a node has lost meanwhile did not fail.
    signal(pid(&cluster, 2), Signal::KILL);
    sandbox.sim.set_faults(Faults::none());
    let id = job["id"].as_str().unwrap();
    let ran = sandbox.run(&["load", "--retry-failed", id, "--json", "--wait"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert_done(&serde_json::from_str(&ran.stdout).unwrap());
    assert_eq!(held(&sandbox, &cluster, 0), FILES, "{ran:#?}");
    assert_eq!(failed(&sandbox, &job), []);
    end(&sandbox, &cluster, 0..2);
}

#[test]
fn what_full_nodes_cannot_take_fails_with_the_reason() {
    let sandbox = Sandbox::new();
    // 360 MB for three caches of 64 MiB: nobody owns so little that it fits.
    let cluster = Cluster::planned(&sandbox, 66, 2_400_000, "64MiB", &["--fill", "off"]);
    (0..NODES).for_each(|node| cluster.mount(node));
    cluster.wait_for_members();
    let job = load(&sandbox, &cluster, 0, &["--wait"]);
    assert_eq!(job["state"], "incomplete", "{job:#}");
    let number = |field: &str| job[field].as_u64().unwrap();
    assert_eq!(number("loaded") + number("failed"), FILES as u64, "{job:#}");
    assert_eq!(job["failed_by"]["no room in the cache"], job["failed"], "{job:#}");
    assert!(job["reason"].as_str().unwrap().contains("the cache is full"), "{job:#}");
    let listed = failed(&sandbox, &job);
    assert_eq!(listed.len() as u64, number("failed"));
    assert!(listed.iter().all(|(_, reason)| reason.contains("cache is full")), "{listed:#?}");
    for node in 1..NODES {
        let at = format!("on {}: ", address(66, node));
        assert!(listed.iter().any(|(_, reason)| reason.contains(&at)), "{at}: {listed:#?}");
    }
    assert_eq!(held(&sandbox, &cluster, 0) as u64, number("loaded"), "{job:#}");
    end(&sandbox, &cluster, 0..NODES);
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

#[test]
fn listings_alone_are_fetched_by_every_node_and_one_that_is_down_is_named() {
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 76, &["--fill", "off"]);
    let done = load(&sandbox, &cluster, 0, &["--metadata-only", "--wait"]);
    assert_eq!((&done["state"], &done["files"]), (&"done".into(), &FILES.into()), "{done:#}");
    assert!(done["passed_by"].as_object().unwrap().is_empty(), "{done:#}");
    let (lists, gets) = (sandbox.sim.stats().list, sandbox.sim.stats().get);
    for node in 0..NODES {
        let set = cluster.mnt(node).join("set");
        let listed = sandbox.run(&["ls", "-R", "--node-only", set.to_str().unwrap()]).ok();
        let files = listed.lines().filter(|line| line.contains(".jpg")).count();
        assert_eq!(files, FILES, "{listed}");
    }
    assert_eq!((sandbox.sim.stats().list, sandbox.sim.stats().get), (lists, gets));
    // Known is known: once more costs nothing.
    assert_eq!(load(&sandbox, &cluster, 1, &["--metadata-only", "--wait"])["state"], "done");
    assert_eq!(sandbox.sim.stats().list, lists);
    signal(pid(&cluster, 2), Signal::KILL);
    let job = load(&sandbox, &cluster, 0, &["--metadata-only", "--wait"]);
    assert_eq!((&job["state"], &job["failed"]), (&"incomplete".into(), &0.into()), "{job:#}");
    let reason = job["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("not listed on {}", address(76, 2))), "{job:#}");
    end(&sandbox, &cluster, 0..2);
}
