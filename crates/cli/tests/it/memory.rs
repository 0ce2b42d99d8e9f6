//! The memory that a daemon may take, set by the kernel: a cold epoch in a cgroup.

use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use feedline_bench::cgroup::MemoryGroup;

use crate::hard::{fill, read_right};
use crate::sandbox::Sandbox;

const FILES: usize = 800;
const SIZE: usize = 300_000;
const BUFFER: &str = "32MiB";
/// What the daemon itself may take at most: 64 MiB and the buffer.
const OWN_KIB_MAX: u64 = (64 + 32) << 10;
/// For the daemon and its page cache together: little more than half of the data.
const LIMIT_BYTES: u64 = 128 << 20;
const READERS: usize = 8;
/// Without a factor in common with the number of files, so that it leads to each once.
const STEP: usize = 761;

/// KiB that only this process has: neither page cache nor the pages of its binary, which the kernel takes
/// back at will.
fn own_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Reads everything once, in an order without a pattern, and returns the most that the daemon took.
fn read_all(sandbox: &Sandbox, keys: &[String], daemon: i32) -> u64 {
    let (next, peak) = (AtomicUsize::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= FILES {
                        return;
                    }
                    read_right(sandbox, &keys[at * STEP % FILES], SIZE);
                    peak.fetch_max(own_kib(daemon), Ordering::Relaxed);
                }
            });
        }
    });
    peak.into_inner()
}

#[test]
fn a_cold_epoch_of_fill_at_full_speed_stays_within_its_memory_in_a_cgroup() {
    // First: it can be removed only after the sandbox has ended the daemon in it.
    let group = match MemoryGroup::new("cold-epoch", LIMIT_BYTES) {
        Ok(group) => Some(group),
        // A container may well have none, or may not make any: what is left is what the daemon takes.
        Err(error) => {
            eprintln!("no memory cgroup here, the epoch runs without a limit: {error:#}");
            None
        }
    };
    let sandbox = Sandbox::new();
    let keys = fill(&sandbox, FILES, SIZE);
    sandbox.mount(&["--buffer", BUFFER]);
    let daemon = sandbox.daemon_pid();
    if let Some(group) = &group {
        group.add(daemon.unsigned_abs()).unwrap();
    }
    let peak = read_all(&sandbox, &keys, daemon);
    if let Some(group) = &group {
        assert_eq!(group.oom_kills().unwrap(), 0, "a process was killed for want of memory");
        assert!(0 < group.times_full().unwrap(), "the limit was never felt: this showed nothing");
    }
    assert!(0 < peak && peak < OWN_KIB_MAX, "{peak} KiB at the peak");
    let said = sandbox.run(&["status", "--json", sandbox.mnt_str()]).json();
    assert!(0 < said["fill"]["files"].as_u64().unwrap(), "fill took no part: {said:#}");
    println!("{peak} KiB at the peak");
    sandbox.umount();
    sandbox.assert_gone();
}
