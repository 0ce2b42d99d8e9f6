//! A daemon that dies or hangs leaves neither a dead mount nor a hanging reader.

use std::io::Read as _;

use rustix::process::Signal;

use crate::sandbox::{Sandbox, signal, wait_until};

#[test]
fn the_mount_of_a_killed_daemon_is_cleared_at_once_and_not_at_the_next_look() {
    let sandbox = Sandbox::new();
    // A watchdog that waited for its next look would need longer than this test waits.
    sandbox.mount(&["--watchdog", "10m"]);
    sandbox.read_right("train/a.jpg");
    wait_until("the watchdog watches", || sandbox.processes().len() == 2);
    signal(sandbox.daemon_pid(), Signal::KILL);
    wait_until("the mount is gone", || !sandbox.is_mounted());
    sandbox.assert_gone();
    // The folder below is back, and the next mount finds nothing in its way.
    assert_eq!(std::fs::read_dir(&sandbox.mnt).unwrap().count(), 0);
    sandbox.mount(&[]);
    sandbox.read_right("train/a.jpg");
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn a_reader_of_a_hung_daemon_gets_an_error_and_the_mount_goes() {
    let sandbox = Sandbox::new();
    sandbox.mount(&["--watchdog", "3s"]);
    wait_until("the watchdog watches", || sandbox.processes().len() == 2);
    let daemon = sandbox.daemon_pid();
    let mut open = std::fs::File::open(sandbox.mnt.join("big")).unwrap();
    signal(daemon, Signal::STOP);
    let reader = std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || open.read_exact(&mut vec![0; 9 << 20]).map_err(|error| error.kind()))
        .unwrap();
    wait_until("the reader is let go", || reader.is_finished());
    assert!(reader.join().unwrap().is_err(), "a stopped daemon answered");
    wait_until("the mount is gone", || !sandbox.is_mounted());
    sandbox.assert_gone();
}

#[test]
fn the_watchdog_is_small_and_goes_with_its_daemon() {
    let sandbox = Sandbox::new();
    sandbox.mount(&[]);
    let daemon = sandbox.daemon_pid();
    let mut watchdog = None;
    wait_until("the watchdog watches", || {
        watchdog = sandbox.processes().into_iter().find(|pid| *pid != daemon);
        watchdog.is_some()
    });
    let kib = heap_and_stacks_kib(watchdog.unwrap());
    assert!(kib < 1024, "{kib} KiB of its own: all else is shared with the daemon");
    sandbox.umount();
    sandbox.assert_gone();
}

/// Memory that a process has filled itself. What the loader relocates in the binary's tables is not
/// in it: 0.8 MiB, and three times that of an unoptimised build.
fn heap_and_stacks_kib(pid: i32) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut of_a_file, mut kib) = (false, 0);
    for line in smaps.lines() {
        if let Some(anonymous) = line.strip_prefix("Anonymous:") {
            let pages: u64 = anonymous.trim().trim_end_matches(" kB").parse().unwrap();
            kib += if of_a_file { 0 } else { pages };
        } else if !line.split_whitespace().next().is_some_and(|it| it.ends_with(':')) {
            of_a_file = line.contains(" /");
        }
    }
    kib
}
