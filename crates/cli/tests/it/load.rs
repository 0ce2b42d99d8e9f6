//! `feedline load` against real daemons: what it brings, what it says, and what survives.

use std::fs;
use std::process::Stdio;

use feedline_s3sim::{FaultKind, FaultRule, Faults};
use rustix::process::Signal;
use serde_json::Value;

use crate::hints::put_set;
use crate::sandbox::{KEYS, Ran, Sandbox, content, signal, wait_until};

/// Runs `feedline load` with these arguments.
fn load(sandbox: &Sandbox, args: &[&str]) -> Ran {
    sandbox.run(&[&["load"][..], args].concat())
}

/// Runs it, and gives its JSON whatever its exit code.
fn load_json(sandbox: &Sandbox, args: &[&str]) -> (Option<i32>, Value) {
    let ran = load(sandbox, &[args, &["--json"]].concat());
    let json = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:#?}"));
    (ran.code, json)
}

fn progress(sandbox: &Sandbox, id: &str) -> Value {
    load_json(sandbox, &["--progress", id]).1
}

fn failed(sandbox: &Sandbox, id: &str) -> Vec<(String, String)> {
    let ran = load(sandbox, &["--progress", id, "--failed", "--json"]);
    let line = |line: &str| {
        let failure: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| failure[field].as_str().unwrap().to_owned();
        (text("path"), text("reason"))
    };
    ran.stdout.lines().map(line).collect()
}

fn number(status: &Value, field: &str) -> u64 {
    status[field].as_u64().unwrap_or_else(|| panic!("{field} of {status:#}"))
}

fn id(status: &Value) -> &str {
    status["id"].as_str().unwrap()
}

fn set(sandbox: &Sandbox) -> String {
    format!("{}/set", sandbox.mnt_str())
}

#[test]
fn what_a_load_brings_is_read_without_a_request_and_not_brought_again() {
    let sandbox = Sandbox::new();
    let names = put_set(&sandbox, 60, 20_000);
    sandbox.sim.put_object("b", "set/c0/empty", "");
    sandbox.mount(&["--fill", "off"]);
    let (code, done) = load_json(&sandbox, &[sandbox.mnt_str(), "--wait"]);
    assert_eq!((code, &done["state"]), (Some(0), &"done".into()), "{done:#}");
    let files = (names.len() + KEYS.len() + 1) as u64;
    assert_eq!((number(&done, "files"), number(&done, "files_total")), (files, files));
    assert_eq!((number(&done, "loaded"), number(&done, "cached")), (files - 1, 1), "{done:#}");
    assert_eq!(number(&done, "bytes"), number(&done, "bytes_total"));
    assert_eq!(number(&done, "failed"), 0);
    let gets = sandbox.sim.gets_by_key();
    assert!(names.iter().all(|name| {
        gets.iter().filter(|(key, _)| key.ends_with(name)).all(|(_, count)| *count == 1)
    }));
    sandbox.sim.reset_stats();
    let (code, again) = load_json(&sandbox, &[sandbox.mnt_str(), "--wait"]);
    assert_eq!((code, number(&again, "loaded"), number(&again, "cached")), (Some(0), 0, files));
    for name in &names {
        let key = format!("set/{name}");
        assert!(sandbox.read(&key).unwrap() == content(&key, 20_000), "{name} has wrong bytes");
    }
    KEYS.iter().for_each(|(key, _)| sandbox.read_right(key));
    assert_eq!(sandbox.sim.stats().get, 0);
    let listed = load(&sandbox, &["--list"]).ok();
    assert!(listed.contains(id(&done)) && listed.contains(id(&again)), "{listed}");
    let one = load(&sandbox, &[&format!("{}/val/c.jpg", sandbox.mnt_str()), "--wait"]).ok();
    assert!(one.contains("1 of 1 files") && one.contains("1 were cached before"), "{one}");
    let url = load(&sandbox, &["s3://b/set", "--wait"]).ok();
    assert!(url.contains("61 of 61 files"), "{url}");
    load(&sandbox, &[&format!("{}/absent", sandbox.mnt_str())]).fails(3, &["absent"]);
    load(&sandbox, &["--progress", "nosuch"]).fails(3, &["nosuch", "--list"]);
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn a_load_that_does_not_fit_says_so_and_evicts_nothing() {
    let sandbox = Sandbox::new();
    let names = put_set(&sandbox, 60, 2_000_000);
    let cache = format!("{}:64MiB", sandbox.path("cache").display());
    sandbox.mount(&["--fill", "off", "--cache", &cache]);
    let ran = load(&sandbox, &[&set(&sandbox), "--wait"]);
    ran.fails(1, &["incomplete", "the cache is full", "of 60 files", "--retry-failed"]);
    let (_, jobs) = load_json(&sandbox, &["--list"]);
    let job = &jobs[0];
    assert_eq!(job["state"], "incomplete", "{job:#}");
    let (loaded, missing) = (number(job, "loaded"), number(job, "failed"));
    assert_eq!(loaded + missing, 60, "{job:#}");
    assert!((20..34).contains(&loaded), "{job:#}");
    assert_eq!(number(job, "failed"), number(&job["failed_by"], "no room in the cache"));
    let listed = failed(&sandbox, id(job));
    assert_eq!(listed.len() as u64, missing);
    assert!(listed.iter().all(|(_, reason)| reason.contains("cache is full")), "{listed:#?}");
    // In vain: those that showed that it is full.
    assert!(sandbox.sim.stats().get <= loaded + 30, "{} GETs", sandbox.sim.stats().get);
    let status = sandbox.run(&["status", "--json", sandbox.mnt_str()]).json();
    assert_eq!(status["cache"][0]["evicted"], 0, "{status:#}");
    assert_eq!(status["cache"][0]["objects"], loaded, "{status:#}");
    // With room again, the rest is brought, and it alone.
    sandbox.run(&["umount", sandbox.mnt_str()]).ok();
    let cache = format!("{}:512MiB", sandbox.path("cache").display());
    sandbox.mount(&["--fill", "off", "--cache", &cache]);
    sandbox.sim.reset_stats();
    let (code, done) = load_json(&sandbox, &["--retry-failed", id(job), "--wait"]);
    assert_eq!((code, &done["state"], number(&done, "loaded")), (Some(0), &"done".into(), 60));
    assert_eq!(sandbox.sim.stats().get, missing);
    assert_eq!(failed(&sandbox, id(job)), []);
    for name in &names {
        assert_eq!(sandbox.read(&format!("set/{name}")).unwrap().len(), 2_000_000);
    }
    assert_eq!(sandbox.sim.stats().get, missing);
    sandbox.umount();
}

#[test]
fn a_load_goes_on_after_the_daemon_was_killed() {
    let sandbox = Sandbox::new();
    put_set(&sandbox, 60, 50_000);
    sandbox.mount(&["--fill", "off"]);
    let (_, begun) = load_json(&sandbox, &[&set(&sandbox), "--bandwidth", "1MB/s"]);
    let id = id(&begun);
    wait_until("some files to be loaded", || 10 <= number(&progress(&sandbox, id), "loaded"));
    signal(sandbox.daemon_pid(), Signal::KILL);
    wait_until("the mount to be cleared", || !sandbox.is_mounted());
    sandbox.mount(&["--fill", "off"]);
    let (code, done) = load_json(&sandbox, &["--progress", id, "--wait"]);
    assert_eq!((code, &done["state"]), (Some(0), &"done".into()), "{done:#}");
    assert_eq!(number(&done, "files"), 60);
    assert_eq!(number(&done, "cached") + number(&done, "loaded"), 60, "{done:#}");
    let gets = sandbox.sim.stats().get;
    // Again: what was under way when it was killed.
    assert!((60..=80).contains(&gets), "{gets} GETs");
    sandbox.umount();
}

#[test]
fn a_load_that_was_stopped_stays_so_until_it_is_taken_up_again() {
    let sandbox = Sandbox::new();
    put_set(&sandbox, 30, 20_000);
    sandbox.mount(&["--fill", "off"]);
    let (_, begun) = load_json(&sandbox, &[&set(&sandbox), "--bandwidth", "200KB/s"]);
    let id = id(&begun);
    wait_until("some files to be loaded", || 3 <= number(&progress(&sandbox, id), "loaded"));
    let stopped = load(&sandbox, &["--stop", id]).ok();
    assert!(stopped.contains("stopped"), "{stopped}");
    let before = progress(&sandbox, id);
    assert_eq!(before["state"], "stopped");
    assert!(number(&before, "loaded") < 30, "{before:#}");
    sandbox.umount();
    let gets = sandbox.sim.stats().get;
    sandbox.mount(&["--fill", "off"]);
    let after = progress(&sandbox, id);
    assert_eq!((&after["state"], &after["loaded"]), (&before["state"], &before["loaded"]));
    assert_eq!(sandbox.sim.stats().get, gets);
    let (code, done) = load_json(&sandbox, &["--retry-failed", id, "--wait"]);
    assert_eq!((code, &done["state"]), (Some(0), &"done".into()), "{done:#}");
    assert_eq!(number(&done, "cached") + number(&done, "loaded"), 30, "{done:#}");
    sandbox.umount();
}

#[test]
fn what_failed_is_listed_with_the_reason_and_tried_again_when_asked() {
    let sandbox = Sandbox::new();
    put_set(&sandbox, 60, 10_000);
    sandbox.mount(&["--fill", "off", "--retry-budget", "5s", "--request-timeout", "5s"]);
    let forbidden = FaultRule::every(FaultKind::Forbidden).for_keys("set/c1/");
    let slow = FaultRule::every(FaultKind::SlowDown).for_keys("set/c2/05");
    sandbox.sim.set_faults(Faults::from(forbidden).and(slow));
    let (code, job) = load_json(&sandbox, &[&set(&sandbox), "--wait"]);
    assert_eq!((code, &job["state"]), (Some(1), &"incomplete".into()), "{job:#}");
    assert_eq!((number(&job, "loaded"), number(&job, "failed")), (30, 30), "{job:#}");
    assert_eq!(number(&job["failed_by"], "access denied"), 20, "{job:#}");
    assert_eq!(number(&job["failed_by"], "bucket unavailable"), 10, "{job:#}");
    let reason = job["reason"].as_str().unwrap();
    assert!(reason.contains("30 of 60 files") && reason.contains("access denied: 20"), "{reason}");
    let listed = failed(&sandbox, id(&job));
    assert_eq!(listed.len(), 30);
    let of = |part: &str| listed.iter().filter(|(path, _)| path.contains(part)).count();
    assert_eq!((of("set/c1/"), of("set/c2/05")), (20, 10));
    // One is gone for good before the retry.
    sandbox.sim.set_faults(Faults::none());
    sandbox.sim.delete_object("b", &listed[0].0);
    sandbox.sim.reset_stats();
    let (code, job) = load_json(&sandbox, &["--retry-failed", id(&job), "--wait"]);
    assert_eq!((code, number(&job, "failed")), (Some(1), 1), "{job:#}");
    assert_eq!((number(&job, "loaded"), number(&job, "files")), (59, 60), "{job:#}");
    assert_eq!(failed(&sandbox, id(&job))[0].0, listed[0].0);
    sandbox.umount();
}

#[test]
fn a_manifest_names_files_in_three_ways_and_whatever_else_is_a_failure() {
    let sandbox = Sandbox::new();
    let names = put_set(&sandbox, 9, 10_000);
    sandbox.mount(&["--fill", "off"]);
    let manifest = sandbox.path("manifest");
    let mut text = format!(
        "{}\n{}/set/{}\ns3://b/set/{}\r\n",
        names[0],
        sandbox.mnt_str(),
        names[4],
        names[8]
    )
    .into_bytes();
    text.extend(
        b"absent.jpg\n../val/c.jpg\n\n\xff\xfe\nc0\n/etc/passwd\ns3://other/x\nc0//000.jpg\n",
    );
    text.extend(vec![b'x'; 100_000]);
    fs::write(&manifest, text).unwrap();
    let args = [&set(&sandbox), "--manifest", manifest.to_str().unwrap(), "--wait"];
    let (code, job) = load_json(&sandbox, &args);
    assert_eq!((code, &job["state"]), (Some(1), &"incomplete".into()), "{job:#}");
    let numbers = ["files", "loaded", "failed"].map(|field| number(&job, field));
    assert_eq!(numbers, [12, 3, 9], "{job:#}");
    let mut gets: Vec<_> = sandbox.sim.gets_by_key().into_keys().collect();
    gets.sort();
    let part = |at: usize| gets[at].ends_with(&format!("set/{}", names[at * 4]));
    assert!(gets.len() == 3 && (0..3).all(part), "{gets:?}");
    let listed = failed(&sandbox, id(&job));
    let has = |path: &str, words: &str| {
        let found = listed.iter().any(|(p, reason)| p == path && reason.contains(words));
        assert!(found, "{path:?} {words:?} is not in {listed:#?}");
    };
    has("set/absent.jpg", "no such file");
    has("../val/c.jpg", "`..`");
    has("", "empty line");
    has("\u{fffd}\u{fffd}", "not UTF-8");
    has("set/c0", "a folder");
    has("/etc/passwd", "not in the mounted folder");
    has("s3://other/x", "not mounted");
    has("c0//000.jpg", "empty");
    has(&"x".repeat(80), "longer");
    let absent = sandbox.path("nothing");
    load(&sandbox, &[&set(&sandbox), "--manifest", absent.to_str().unwrap()])
        .fails(3, &["nothing"]);
    sandbox.umount();
}

#[test]
fn listings_alone_are_fetched_when_nothing_else_is_wanted() {
    let sandbox = Sandbox::new();
    put_set(&sandbox, 30, 10_000);
    sandbox.mount(&["--fill", "off"]);
    let (code, job) = load_json(&sandbox, &[&set(&sandbox), "--metadata-only", "--wait"]);
    assert_eq!((code, &job["state"], number(&job, "files")), (Some(0), &"done".into(), 30));
    assert_eq!((number(&job, "loaded"), sandbox.sim.stats().get), (0, 0));
    let lists = sandbox.sim.stats().list;
    assert!(0 < lists);
    let walked = sandbox.run(&["ls", "-R", &set(&sandbox)]).ok();
    assert!(30 <= walked.lines().count(), "{walked}");
    assert_eq!(sandbox.sim.stats().list, lists, "the listings are known");
    sandbox.umount();
}

#[test]
fn ctrl_c_ends_the_waiting_and_not_the_load() {
    let sandbox = Sandbox::new();
    put_set(&sandbox, 30, 20_000);
    sandbox.mount(&["--fill", "off"]);
    let path = set(&sandbox);
    let mut waiting = sandbox.feedline(&["load", &path, "--wait", "--bandwidth", "20KB/s"]);
    let child = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    wait_until("the signal to be caught", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (libc_sigint() - 1)) != 0
    });
    signal(pid, Signal::INT);
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{ran:#?}");
    assert!(ran.stdout.contains("goes on") && ran.stdout.contains("--stop"), "{ran:#?}");
    let (_, jobs) = load_json(&sandbox, &["--list"]);
    assert!(["listing", "loading"].contains(&jobs[0]["state"].as_str().unwrap()), "{jobs:#}");
    load(&sandbox, &["--stop", id(&jobs[0])]).ok();
    sandbox.umount();
}

fn libc_sigint() -> i32 {
    Signal::INT.as_raw()
}

#[test]
fn the_names_that_alluxio_has_do_the_same() {
    let sandbox = Sandbox::new();
    put_set(&sandbox, 9, 10_000);
    sandbox.mount(&["--fill", "off"]);
    let path = set(&sandbox);
    let cached = |code| {
        let ran = sandbox.run(&["fs", "check-cached", &path]);
        assert_eq!(ran.code, Some(code), "{ran:#?}");
        ran.stdout
    };
    assert!(cached(1).contains("0 of 9 files"));
    sandbox.run(&["fs", "distributedLoad", &path]).ok();
    assert!(cached(0).contains("9 of 9 files"));
    let job = |verb: &str| sandbox.run(&["job", "load", "--path", &path, verb]);
    assert!(job("--submit").ok().contains("has begun"));
    wait_until("the job to be done", || job("--progress").ok().contains("done"));
    job("--stop").ok();
    let val = format!("{}/val", sandbox.mnt_str());
    let never = sandbox.run(&["job", "load", "--path", &val, "--progress"]);
    never.fails(3, &["val", "feedline load --list"]);
    let help = sandbox.run(&["--help"]).ok();
    assert!(!help.contains("Alluxio") && help.contains("\n  load "), "{help}");
    sandbox.umount();
}
