//! Hard times for the daemon itself: killed, hurried, and held to its memory.

use std::collections::HashMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::sandbox::{Sandbox, content, signal, wait_until, wait_within};

/// Puts `count` objects of `size` bytes into ten folders; their keys.
pub(crate) fn fill(sandbox: &Sandbox, count: usize, size: usize) -> Vec<String> {
    let keys = (0..count).map(|index| format!("epoch/{:02}/{index:05}.jpg", index % 10));
    let keys: Vec<String> = keys.collect();
    for key in &keys {
        sandbox.sim.put_object("b", key, content(key, size));
    }
    keys
}

#[track_caller]
pub(crate) fn read_right(sandbox: &Sandbox, key: &str, size: usize) {
    assert!(sandbox.read(key).unwrap() == content(key, size), "{key} has wrong bytes");
}

#[test]
fn a_daemon_killed_in_mid_epoch_loses_little_and_no_byte_is_wrong() {
    const SIZE: usize = 30_000;
    let sandbox = Sandbox::new();
    let keys = fill(&sandbox, 300, SIZE);
    // Fill would bring the second half before it is read.
    sandbox.mount(&["--fill", "off"]);
    let (first, second) = keys.split_at(150);
    for key in first {
        read_right(&sandbox, key, SIZE);
    }
    // A read is answered before its file is kept; only what the journal has is held by this test.
    let journal = sandbox.path("cache/index.journal");
    let bytes_of_half = first.len() as u64 * 33;
    wait_until("the first half is kept", || fs::metadata(&journal).unwrap().len() > bytes_of_half);
    let daemon = sandbox.daemon_pid();
    // In the midst of reads: some of these fail, and must say so instead of giving wrong bytes.
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            for key in second {
                match sandbox.read(key) {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => assert!(bytes == content(key, SIZE), "{key}"),
                    Err(_) => return,
                }
            }
        });
        wait_until("the second half has begun", || sandbox.sim.stats().get > 160);
        signal(daemon, Signal::KILL);
        reader.join().unwrap();
    });
    wait_until("the mount is cleared", || !sandbox.is_mounted());
    let before = sandbox.sim.gets_by_key();

    sandbox.mount(&["--fill", "off"]);
    for key in &keys {
        read_right(&sandbox, key, SIZE);
    }
    let after = sandbox.sim.gets_by_key();
    let gets = |gets: &HashMap<String, u64>, key: &str| gets[&format!("b/{key}")];
    let again: Vec<_> =
        first.iter().filter(|key| gets(&after, key) != gets(&before, key)).collect();
    assert!(again.is_empty(), "fetched again: {again:?}");
    // What was served again had been verified: nothing of it is bad.
    assert!(sandbox.run(&["check", sandbox.mnt_str()]).ok().contains("0 corrupt"));
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn a_second_signal_ends_a_daemon_that_waits_for_open_files() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.feedline(&["mount", "--foreground", "s3://b", sandbox.mnt_str()]);
    let mut daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it serves", || sandbox.run(&["status", sandbox.mnt_str()]).code == Some(0));
    let open = fs::File::open(sandbox.mnt.join("big")).unwrap();
    let pid = daemon.id().cast_signed();
    signal(pid, Signal::TERM);
    wait_until("it detached", || !sandbox.is_mounted());
    assert!(daemon.try_wait().unwrap().is_none(), "it did not wait for the open file");
    signal(pid, Signal::TERM);
    // The grace for open files is 10 s: well before that it was the second signal.
    let mut ended = None;
    wait_within(Duration::from_secs(6), "the daemon has ended", || {
        ended = daemon.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0));
    drop(open);
    sandbox.assert_gone();
    // The cache that was not closed is verified and used.
    sandbox.mount(&[]);
    sandbox.read_right("big");
    sandbox.umount();
}

#[test]
fn resident_memory_stays_under_64_mib_and_the_buffer_over_two_epochs_of_small_objects() {
    const BUFFER_MIB: u64 = 16;
    let sandbox = Sandbox::new();
    let keys = fill(&sandbox, 5_000, 2_000);
    sandbox.mount(&["--buffer", "16MiB"]);
    for _ in 0..2 {
        // As a loader does: several readers, each its share.
        std::thread::scope(|scope| {
            for share in keys.chunks(keys.len().div_ceil(8)) {
                let sandbox = &sandbox;
                scope.spawn(move || {
                    for key in share {
                        assert_eq!(sandbox.read(key).unwrap().len(), 2_000, "{key}");
                    }
                });
            }
        });
    }
    assert_eq!(sandbox.sim.gets_by_key().len(), keys.len());
    let status = fs::read_to_string(format!("/proc/{}/status", sandbox.daemon_pid())).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    // The peak, less the pages of the binary itself, which an unoptimised build has many of and
    // which the kernel takes back at will.
    let peak = field("VmHWM:") - field("RssFile:");
    assert!(peak < (64 + BUFFER_MIB) << 10, "{peak} KiB at the peak\n{status}");
    sandbox.umount();
    sandbox.assert_gone();
}
