//! An order that nobody can compute, read through a real mount: known in the next epoch although the daemon
//! ended in between, in good order or not.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::hints::data_set;
use crate::sandbox::{Sandbox, content, signal, wait_until};

const FILES: usize = 600;
const SIZE: usize = 192 << 10;
const LEARNED: &str = "learned from an earlier epoch";

/// A bucket with a data set of nearly twice the cache, in three class folders: as long as not all of it is
/// here, every access is looked at.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    (0..FILES).for_each(|at| put(&sandbox, at));
    sandbox
}

fn name(at: usize) -> String {
    format!("set/c{}/{at:03}.jpg", at % 3)
}

fn put(sandbox: &Sandbox, at: usize) {
    sandbox.sim.put_object("b", &name(at), content(&name(at), SIZE));
}

fn mount(sandbox: &Sandbox, flags: &[&str]) {
    let cache = format!("{}:64MiB", sandbox.path("cache").display());
    sandbox.mount(&[&["--cache", &cache], flags].concat());
}

/// The files in an order that no sampler has.
fn order() -> Vec<usize> {
    let mut order: Vec<usize> = (0..FILES).collect();
    let mut state = 5_u64;
    for at in (1..FILES).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
        order.swap(at, (state >> 33) as usize % (at + 1));
    }
    order
}

fn read(sandbox: &Sandbox, order: &[usize]) {
    for at in order {
        assert!(sandbox.read(&name(*at)).unwrap() == content(&name(*at), SIZE), "{at}");
    }
}

/// What is known once so many of the files have been looked at.
fn once_read(sandbox: &Sandbox, files: usize) -> Value {
    let mut known = Value::Null;
    wait_until("the reads are looked at", || {
        known = data_set(sandbox).unwrap_or_default();
        known["read"].as_u64().is_some_and(|read| files as u64 <= read)
    });
    known
}

/// Reads the start of an epoch, in the order of the one before.
#[track_caller]
fn assert_known_at_once(sandbox: &Sandbox) {
    let order = order();
    read(sandbox, &order[..40]);
    wait_until("the order is known", || data_set(sandbox).is_some_and(|it| it["order"] == LEARNED));
    let after = data_set(sandbox).unwrap()["recognised_after"].as_u64().unwrap();
    assert!((1..=40).contains(&after), "after {after} reads");
    read(sandbox, &order[40..200]);
    let known = once_read(sandbox, 200);
    assert_eq!(known["order"], LEARNED, "{known:#}");
    assert!(0.8 < known["confidence"].as_f64().unwrap(), "{known:#}");
}

/// The files in which orders are kept.
fn kept(sandbox: &Sandbox) -> Vec<PathBuf> {
    let found = fs::read_dir(sandbox.path("cache/namespace/orders"));
    found.map(|found| found.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

#[test]
fn an_order_that_repeats_is_known_after_an_orderly_end_of_the_daemon() {
    let sandbox = sandbox();
    mount(&sandbox, &[]);
    read(&sandbox, &order());
    assert_eq!(once_read(&sandbox, FILES)["order"], "unknown");
    // At once: nothing says that the epoch is over but the end.
    sandbox.umount();
    sandbox.assert_gone();
    let files = kept(&sandbox);
    assert_eq!(files.len(), 1, "{files:?}");
    let bytes = fs::metadata(&files[0]).unwrap().len();
    assert!(bytes <= 4 * FILES as u64 + 32, "{bytes} bytes for {FILES} accesses");
    mount(&sandbox, &[]);
    assert_known_at_once(&sandbox);
    sandbox.umount();
}

#[test]
fn an_order_that_repeats_is_known_after_the_daemon_was_killed() {
    let sandbox = sandbox();
    mount(&sandbox, &[]);
    read(&sandbox, &order());
    wait_until("the order is kept", || {
        kept(&sandbox).iter().any(|it| it.extension().unwrap() == "order")
    });
    signal(sandbox.daemon_pid(), Signal::KILL);
    wait_until("the mount is gone", || !sandbox.is_mounted());
    sandbox.assert_gone();
    mount(&sandbox, &[]);
    assert_known_at_once(&sandbox);
    sandbox.umount();
}

#[test]
fn an_order_that_is_damaged_or_of_other_files_is_not_used_and_said_once() {
    let sandbox = sandbox();
    mount(&sandbox, &[]);
    read(&sandbox, &order());
    sandbox.umount();
    let file = kept(&sandbox).pop().unwrap();
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    bad[1_000] ^= 1;
    fs::write(&file, bad).unwrap();
    mount(&sandbox, &[]);
    read(&sandbox, &order()[..100]);
    assert_eq!(once_read(&sandbox, 100)["order"], "unknown");
    assert_eq!(said(&sandbox, "no learned order can be read"), 1);
    sandbox.umount();

    fs::write(&file, good).unwrap();
    // Found at once, since a listing is good for a moment only.
    put(&sandbox, FILES);
    mount(&sandbox, &["--metadata-ttl", "100ms"]);
    let folder = sandbox.mnt.join("set/c0");
    wait_until("it is there", || fs::read_dir(&folder).unwrap().count() == FILES / 3 + 1);
    read(&sandbox, &order()[..100]);
    let known = once_read(&sandbox, 100);
    assert_eq!((&known["order"], &known["files"]), (&"unknown".into(), &601.into()), "{known:#}");
    assert!(1 <= said(&sandbox, "other files than when its order was learned"));
    sandbox.umount();
}

/// How often the daemon said so.
fn said(sandbox: &Sandbox, words: &str) -> usize {
    let daemons = fs::read_dir(sandbox.path("run")).unwrap();
    let logs = daemons.map(|dir| fs::read_to_string(dir.unwrap().path().join("log")).unwrap());
    logs.map(|log| log.matches(words).count()).sum()
}

#[test]
fn with_the_oracle_off_no_order_is_kept() {
    let sandbox = sandbox();
    mount(&sandbox, &["--oracle=false"]);
    read(&sandbox, &order());
    assert_eq!(once_read(&sandbox, FILES)["order"], "not looked for");
    sandbox.umount();
    assert!(kept(&sandbox).is_empty());
}
