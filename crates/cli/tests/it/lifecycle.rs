//! From mount to unmount, and everything that is asked of a daemon in between.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;

use crate::sandbox::{KEYS, Ran, Sandbox, content, signal, wait_until};

#[test]
fn a_bucket_is_mounted_read_inspected_pinned_freed_checked_and_unmounted() {
    let sandbox = Sandbox::new();
    let mnt = sandbox.mnt_str().to_owned();
    let at = |path: &str| format!("{mnt}/{path}");
    sandbox.mount(&[]);
    for key in ["train/a.jpg", "train/b.jpg", "val/c.jpg"] {
        sandbox.read_right(key);
    }

    let status = sandbox.run(&["status", "--json"]).json();
    assert_eq!(status.as_array().unwrap().len(), 1);
    assert_eq!(status[0]["mountpoint"], mnt.as_str());
    assert_eq!(status[0]["requests"]["GET"], 3, "{status:#}");
    let table = sandbox.run(&["status"]).ok();
    assert!(table.contains("s3://b") && table.contains("hit rate"), "{table}");

    wait_until("the three files are on disk", || {
        sandbox.run(&["ls", "-R", "--cached", &mnt]).ok() == "train/a.jpg\ntrain/b.jpg\nval/c.jpg\n"
    });
    let listed = sandbox.run(&["ls", "-l", &mnt]).ok();
    assert!(listed.contains("9.0 MiB") && listed.contains("train/"), "{listed}");
    let du = sandbox.run(&["du", "--json", &mnt]).json();
    assert_eq!((&du["files"], &du["cached_files"]), (&4.into(), &3.into()), "{du:#}");

    sandbox.run(&["pin", &at("train")]).ok();
    assert_eq!(sandbox.run(&["stat", "--json", &at("train/a.jpg")]).json()["pinned"], true);
    sandbox.run(&["free", &at("val")]).ok();
    let freed = sandbox.run(&["stat", "--json", &at("val/c.jpg")]).json();
    assert_eq!((&freed["cached"], &freed["cached_bytes"]), (&false.into(), &0.into()));
    sandbox.run(&["unpin", &at("train")]).ok();
    assert_eq!(sandbox.run(&["stat", "--json", "s3://b/train/a.jpg"]).json()["pinned"], false);

    assert!(sandbox.run(&["check", &mnt]).ok().contains("0 corrupt"));
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn a_corrupt_cached_file_is_found_dropped_and_fetched_again() {
    let sandbox = Sandbox::new();
    sandbox.mount(&[]);
    sandbox.read_right("train/a.jpg");
    let (key, size) = KEYS[0];
    let bytes = content(key, size);
    let mut cached = None;
    wait_until("the object is a file in the cache", || {
        cached = find_file(&sandbox.path("cache"), &bytes);
        cached.is_some()
    });
    let file = fs::OpenOptions::new().write(true).open(cached.unwrap()).unwrap();
    file.write_all_at(&[bytes[500] ^ 1], 500).unwrap();
    drop(file);
    let ran = sandbox.run(&["check", sandbox.mnt_str()]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stdout.contains("corrupt: ") && ran.stdout.contains("train/a.jpg"), "{ran:#?}");
    sandbox.read_right("train/a.jpg");
    sandbox.run(&["check", sandbox.mnt_str()]).ok();
    sandbox.umount();
    sandbox.assert_gone();
}

/// The file below `dir` that holds exactly `bytes`.
fn find_file(dir: &Path, bytes: &[u8]) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        let meta = entry.metadata().ok()?;
        if meta.is_dir() {
            if let Some(found) = find_file(&path, bytes) {
                return Some(found);
            }
        } else if meta.len() == bytes.len() as u64 && fs::read(&path).is_ok_and(|b| b == bytes) {
            return Some(path);
        }
    }
    None
}

#[test]
fn a_remount_reads_what_was_cached_without_a_request() {
    let sandbox = Sandbox::new();
    sandbox.mount(&[]);
    for (key, _) in KEYS {
        sandbox.read_right(key);
    }
    sandbox.umount();
    let before = sandbox.sim.stats();
    sandbox.mount(&[]);
    for (key, _) in KEYS {
        sandbox.read_right(key);
    }
    let after = sandbox.sim.stats();
    assert_eq!((after.get, after.list), (before.get, before.list));
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn sigterm_and_sigint_unmount_a_daemon_in_the_foreground() {
    for end in [Signal::TERM, Signal::INT] {
        let sandbox = Sandbox::new();
        let mut command = sandbox.feedline(&["mount", "--foreground", "s3://b", sandbox.mnt_str()]);
        let mut daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("it serves", || sandbox.run(&["status", sandbox.mnt_str()]).code == Some(0));
        sandbox.read_right("train/a.jpg");
        signal(daemon.id().cast_signed(), end);
        assert_eq!(daemon.wait().unwrap().code(), Some(0));
        sandbox.assert_gone();
    }
}

#[test]
fn an_interrupted_background_mount_leaves_nothing() {
    let sandbox = Sandbox::with(|builder| builder.list_latency_ms(5_000));
    let mut command = sandbox.feedline(&["mount", "s3://b", sandbox.mnt_str()]);
    let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the daemon has started", || sandbox.processes().len() == 2);
    signal(waiting.id().cast_signed(), Signal::INT);
    assert_eq!(waiting.wait().unwrap().code(), Some(1));
    sandbox.assert_gone();
}

#[test]
fn a_busy_mount_stays_unless_it_is_to_go_lazily() {
    let sandbox = Sandbox::new();
    sandbox.mount(&[]);
    let mut open = fs::File::open(sandbox.mnt.join("train/a.jpg")).unwrap();
    sandbox.run(&["umount", sandbox.mnt_str()]).fails(1, &["busy", "--lazy"]);
    sandbox.read_right("train/a.jpg");
    sandbox.run(&["umount", "--lazy", sandbox.mnt_str()]).ok();
    assert!(!sandbox.is_mounted());
    let mut byte = [0];
    // Either answer is right, but not a hang: the file was detached while open.
    let _ = open.read(&mut byte);
    drop(open);
    sandbox.assert_gone();
}

#[test]
fn a_passing_user_of_a_mount_does_not_keep_it() {
    let sandbox = Sandbox::new();
    sandbox.mount(&[]);
    let open = fs::File::open(sandbox.mnt.join("train/a.jpg")).unwrap();
    let mut umount = sandbox.feedline(&["umount", sandbox.mnt_str()]).spawn().unwrap();
    // Time to look more than once, and less than its patience.
    #[expect(clippy::disallowed_methods, reason = "the time that a file is open is the test")]
    std::thread::sleep(std::time::Duration::from_millis(400));
    drop(open);
    assert_eq!(umount.wait().unwrap().code(), Some(0));
    sandbox.assert_gone();
}

#[test]
fn a_dead_mount_is_cleared_by_umount_and_by_the_next_mount() {
    let sandbox = Sandbox::new();
    for clear_by_mount in [false, true] {
        sandbox.mount(&[]);
        // Everything at once, so that the watchdog cannot clear it first.
        for pid in sandbox.processes() {
            signal(pid, Signal::STOP);
        }
        for pid in sandbox.processes() {
            signal(pid, Signal::KILL);
        }
        wait_until("both are gone", || sandbox.processes().is_empty());
        assert!(sandbox.is_mounted() && sandbox.read("big").is_err(), "the mount is dead");
        if clear_by_mount {
            sandbox.mount(&[]);
            sandbox.read_right("train/a.jpg");
        }
        sandbox.umount();
    }
    sandbox.assert_gone();
}

#[test]
fn paths_may_be_relative_or_lead_through_a_link_or_be_a_url() {
    let sandbox = Sandbox::new();
    sandbox.mount(&[]);
    let mut inside = sandbox.feedline(&["ls"]);
    assert_eq!(Ran::of(inside.current_dir(sandbox.mnt.join("train"))).ok(), "a.jpg\nb.jpg\n");
    let mut up = sandbox.feedline(&["ls", "../val"]);
    assert_eq!(Ran::of(up.current_dir(sandbox.mnt.join("train"))).ok(), "c.jpg\n");
    let link = sandbox.path("link");
    std::os::unix::fs::symlink(&sandbox.mnt, &link).unwrap();
    assert_eq!(sandbox.run(&["ls", link.join("val").to_str().unwrap()]).ok(), "c.jpg\n");
    assert_eq!(sandbox.run(&["ls", "s3://b/val/"]).ok(), "c.jpg\n");
    sandbox.umount();
}

#[test]
fn a_closed_pipe_ends_a_listing_silently() {
    let sandbox = Sandbox::new();
    for index in 0..2_000 {
        sandbox.sim.put_object("b", &format!("many/a-rather-long-name-{index:06}"), b"x");
    }
    sandbox.mount(&[]);
    let mut command = sandbox.feedline(&["ls", "--json", "-R", sandbox.mnt_str()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
    sandbox.umount();
}
