//! `feedline demo` leaves a report and nothing else, also when it is interrupted at any moment.

#![expect(clippy::disallowed_methods, reason = "limits how long real processes may take")]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::Sandbox;

/// Small enough for a debug build: what is shown is the order of events, not speed.
const FLAGS: [&str; 9] =
    ["demo", "--no-s3fs", "--images", "120", "--classes", "3", "--processes", "2", "--out"];

fn args(flags: &[&str], out: &Path) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).chain([out.display().to_string()]).collect()
}

/// The same for a cluster.
const CLUSTER_FLAGS: [&str; 11] = [
    "demo",
    "--nodes",
    "3",
    "--images",
    "150",
    "--classes",
    "3",
    "--processes",
    "1",
    "--json",
    "--out",
];

fn assert_nothing_left(sandbox: &Sandbox, out: &Path) {
    assert!(!out.join("work").exists(), "the work directory is left");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(out.to_str().unwrap()), "a mount is left:\n{mounts}");
    assert!(sandbox.processes().is_empty(), "processes are left: {:?}", sandbox.processes());
}

#[test]
fn the_demo_tells_its_story_writes_the_report_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let out = sandbox.path("out");
    let started = Instant::now();
    let ran = sandbox.run(&args(&FLAGS, &out));
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("requests/image"), "{}", ran.stdout);
    let report = std::fs::read_to_string(out.join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let epochs = report["systems"][0]["epochs"].as_array().unwrap();
    let requests = |epoch: usize| epochs[epoch]["bucket_requests"].as_u64().unwrap();
    assert_eq!(epochs.len(), 3);
    assert!((120..=130).contains(&requests(0)), "a cold epoch took {} requests", requests(0));
    assert_eq!((requests(1), requests(2)), (0, 0), "a warm epoch asked the bucket");
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().contains("<rect"));
    assert!(std::fs::read_to_string(out.join("chart.svg")).unwrap().contains("<rect"));
    assert_nothing_left(&sandbox, &out);
    // Waiting in vain for what it does not see would show here; the story itself takes seconds.
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let moments = [
        (&FLAGS[..], "work/bucket"),
        (&FLAGS[..], "work/feedline-cache/objects"),
        (&CLUSTER_FLAGS[..], "work/nodes/node-2/cache/objects"),
    ];
    for (flags, moment) in moments {
        let sandbox = Sandbox::new();
        let out = sandbox.path("out");
        let mut command = sandbox.feedline(&args(flags, &out));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while !out.join(moment).exists() {
            assert!(started.elapsed() < Duration::from_secs(120), "{moment} never came");
            assert!(child.try_wait().unwrap().is_none(), "it ended before {moment}");
            std::thread::yield_now();
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "at {moment}");
        assert_nothing_left(&sandbox, &out);
    }
}

#[test]
fn the_demo_of_a_cluster_fetches_each_image_once_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let out = sandbox.path("out");
    let ran = sandbox.run(&args(&CLUSTER_FLAGS, &out));
    assert!(ran.stderr.contains("GETs an object"), "{}\n{}", ran.stdout, ran.stderr);
    let report = ran.json();
    let epochs = report["epochs"].as_array().unwrap();
    assert_eq!(epochs.len(), 3);
    let of_all = |name: &str| epochs.iter().map(|epoch| epoch[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(of_all("images"), 450);
    let gets: u64 = epochs.iter().map(|epoch| epoch["requests"]["get"].as_u64().unwrap()).sum();
    // One for each, and no more than nodes say: on a machine that stands still for seconds they pass
    // each other by.
    let passed_by =
        epochs.iter().flat_map(|epoch| epoch["passed_by"].as_object().unwrap().values());
    let passed_by: u64 = passed_by.map(|count| count.as_u64().unwrap()).sum();
    assert!((150..=151 + passed_by).contains(&gets), "{report:#}");
    assert!(epochs.iter().all(|epoch| epoch["nodes"].as_array().unwrap().len() == 3));
    let written = std::fs::read_to_string(out.join("cluster.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), report);
    assert_nothing_left(&sandbox, &out);
}
