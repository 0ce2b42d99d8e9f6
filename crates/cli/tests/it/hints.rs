//! `feedline hint`: the order of reads told to a running daemon, and what it does with it.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, content, wait_until};

/// Files of the data set `set` in three class folders, in the order in which loaders sort them.
pub(crate) fn put_set(sandbox: &Sandbox, files: usize, size: usize) -> Vec<String> {
    let names = (0..files).map(|at| format!("c{}/{at:03}.jpg", at * 3 / files));
    let names: Vec<String> = names.collect();
    for name in &names {
        let key = format!("set/{name}");
        sandbox.sim.put_object("b", &key, content(&key, size));
    }
    names
}

/// The one data set that the daemon knows, once it knows one.
pub(crate) fn data_set(sandbox: &Sandbox) -> Option<Value> {
    let status = sandbox.run(&["status", "--json", sandbox.mnt_str()]).json();
    let sets = status["fill"]["data_sets"].as_array().unwrap().clone();
    assert!(sets.len() <= 1, "{sets:#?}");
    sets.into_iter().next()
}

/// Waits until the cache, which takes about half of the 40 files, is full of the first of `order`
/// alone; they are the one data set that is known.
pub(crate) fn wait_for_the_first_of(sandbox: &Sandbox, set: &str, order: &[String]) {
    wait_until("the first of the order, and they alone, are here", || {
        let listed = sandbox.run(&["ls", "-R", "--cached", set]).ok();
        let mut here: Vec<_> = listed.lines().map(str::to_owned).collect();
        let mut first = order[..here.len()].to_vec();
        here.sort();
        first.sort();
        let is_full = data_set(sandbox).is_some_and(|set| set["state"] == "cache full");
        is_full && (3..40).contains(&here.len()) && here == first
    });
    let known = data_set(sandbox).unwrap();
    assert_eq!((&known["path"], &known["files"]), (&"set".into(), &40.into()), "{known:#}");
}

/// An order that no loader has.
pub(crate) fn scattered(len: usize) -> Vec<usize> {
    let order: Vec<usize> = (0..len).map(|step| (step * 17 + 5) % len).collect();
    assert_eq!(order.iter().collect::<std::collections::HashSet<_>>().len(), len);
    order
}

#[test]
fn the_first_files_of_an_order_are_fetched_before_anything_is_read() {
    let sandbox = Sandbox::new();
    let names = put_set(&sandbox, 40, 1_500_000);
    let cache = format!("{}:64MiB", sandbox.path("cache").display());
    sandbox.mount(&["--cache", &cache]);
    let order = scattered(40);
    let lines: Vec<_> = order.iter().map(|at| names[*at].clone()).collect();
    let file = sandbox.path("order.txt");
    fs::write(&file, lines.join("\n")).unwrap();
    let set = format!("{}/set", sandbox.mnt_str());
    let said = sandbox.run(&["hint", &set, "--order", file.to_str().unwrap()]).ok();
    assert_eq!(said, "took 40 entries for 40 files\n");
    // The cache takes about half of them: which ones tells the order of the fetches.
    wait_for_the_first_of(&sandbox, &set, &lines);
    sandbox.umount();
}

#[test]
fn a_hint_takes_positions_paths_of_the_mount_seeds_and_standard_input() {
    let sandbox = Sandbox::new();
    let names = put_set(&sandbox, 12, 2_000);
    sandbox.mount(&["--fill", "off"]);
    let set = sandbox.mnt.join("set");
    let here = |input: String| {
        let mut command = sandbox.feedline(&["hint", ".", "--json", "--order", "-"]);
        command.current_dir(&set).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::from(child.wait_with_output().unwrap()).json()
    };
    let answer = here("11\r\n0\n\n99\n".into());
    assert_eq!(answer, serde_json::json!({ "files": 12, "matched": 2 }));
    let answer = here(format!("{}\n{}\nabsent\n", set.join(&names[3]).display(), names[0]));
    assert_eq!(answer, serde_json::json!({ "files": 12, "matched": 2 }));
    let seeds = ["hint", "s3://b/set", "--sampler", "torch-random", "--seed", "7,8"];
    assert_eq!(sandbox.run(&seeds).ok(), "took the order of 2 epochs of 12 files\n");
    let known = data_set(&sandbox).unwrap();
    assert_eq!((&known["state"], &known["files"]), (&"off".into(), &12.into()), "{known:#}");
    assert_eq!(sandbox.sim.stats().get, 0, "fill is off");
    sandbox.umount();
}

#[test]
fn a_hint_that_cannot_be_taken_says_why_and_what_to_do() {
    let sandbox = Sandbox::new();
    put_set(&sandbox, 6, 2_000);
    sandbox.sim.put_object("b", "notes/a.txt", b"");
    let file = sandbox.path("order.txt");
    let order = file.to_str().unwrap();
    let write = |text: &[u8]| fs::write(&file, text).unwrap();
    write(b"c0/000.jpg\n");
    sandbox.run(&["hint", "/etc", "--order", order]).fails(3, &["/etc", "feedline status"]);
    sandbox.mount(&["--fill", "off"]);
    let set = format!("{}/set", sandbox.mnt_str());
    let hint = |path: &str| sandbox.run(&["hint", path, "--order", order]);
    sandbox.run(&["hint", &set, "--order", "/absent"]).fails(3, &["/absent", "no such file"]);
    sandbox.run(&["hint", &set]).fails(2, &["--order"]);
    sandbox.run(&["hint", &set, "--sampler", "torch-random"]).fails(2, &["--seed"]);
    sandbox.run(&["hint", &set, "--sampler", "x", "--seed", "1"]).fails(2, &["torch-random"]);
    hint(&format!("{set}/absent")).fails(3, &["set/absent"]);
    hint(&format!("{set}/c0/000.jpg")).fails(2, &["is a file", "folder"]);
    hint(&format!("{}/big", sandbox.mnt_str())).fails(2, &["is a file"]);
    hint(&format!("{}/notes", sandbox.mnt_str())).fails(2, &["none of the 1", "\"c0/000.jpg\""]);
    for (text, words) in [
        (&b""[..], ["order.txt", "no lines"]),
        (b"6\n7\n", ["none of the 2", "6 files"]),
        (b"4294967296\n", ["order.txt", "4294967295"]),
        (b"set/c0/000.jpg\n", ["none of the 1", "below that folder"]),
        (b"ok\nb\xffd\n", ["order.txt:2", "UTF-8"]),
    ] {
        write(text);
        hint(&set).fails(2, &words);
    }
    write(&vec![b'x'; 10_000]);
    hint(&set).fails(2, &["order.txt:1", "longer"]);
    write("0\n".repeat(70_000).as_bytes());
    hint(&set).fails(2, &["70000 entries", "at most 65536"]);
    assert!(data_set(&sandbox).is_none(), "nothing was taken");
    sandbox.umount();
    write(b"c0/000.jpg\n");
    hint(&set).fails(3, &["set"]);

    sandbox.mount(&["--oracle=false"]);
    hint(&set).fails(2, &["--oracle off"]);
    sandbox.umount();
}
