//! The demo's outer process: starts the demo itself and leaves nothing of it behind, however it ends.
//!
//! Everything that the demo starts, daemons included, stays a descendant of this process, because it
//! is their subreaper: what loses its parent is handed to it. So when the demo ends, by itself or by
//! Ctrl-C at any moment, what is still mounted below the work directory is unmounted, what still runs
//! is ended, and the work directory is removed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper};

use crate::{mountinfo, unmount};

/// How long a process gets to end by itself before it is killed. A daemon writes its index and
/// unmounts in well under a second.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// How often the guard looks. Nothing is measured in this process.
const POLL: Duration = Duration::from_millis(50);

/// Runs `command` and waits for it; true if it ended well. Ends it on the first signal.
///
/// # Errors
///
/// If the process cannot be started or watched.
pub(super) fn supervise(command: &mut Command, work: &Path) -> Result<Option<i32>> {
    set_child_subreaper(Some(rustix::process::getpid())).context("become the subreaper")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _guard = runtime.enter();
    let signals = Signals::listen()?;
    let child = command.spawn().context("start the demo")?;
    let code = runtime.block_on(wait(child, signals));
    clean_up(work);
    code
}

/// The signals that ask a program at a terminal to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
            _ = self.hang_up.recv() => (),
        }
    }
}

/// The exit code, or `None` if a signal ended it.
async fn wait(mut child: Child, mut signals: Signals) -> Result<Option<i32>> {
    let mut interrupted = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if interrupted { None } else { status.code() });
        }
        tokio::select! {
            () = signals.any() => {
                interrupted = true;
                let _ = child.kill();
            }
            () = pause() => (),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the guard waits for real processes, nothing else")]
async fn pause() {
    tokio::time::sleep(POLL).await;
}

/// Unmounts, ends and removes what is left. Never fails: it does what it can, and says what it can't.
fn clean_up(work: &Path) {
    // Readers first: a busy mount cannot be taken away cleanly. They have nothing to save, nor has
    // s3fs, for whose queue of reads they may be waiting.
    end_all(|pid| !is_ours(pid), &[Signal::KILL]);
    for mountpoint in mounts_below(work) {
        if let Err(error) = unmount::lazily(&mountpoint) {
            eprintln!("feedline: cannot unmount {}: {error}", mountpoint.display());
        }
    }
    end_all(|_| true, &[Signal::TERM, Signal::KILL]);
    if let Err(error) = std::fs::remove_dir_all(work)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("feedline: cannot remove {}: {error}", work.display());
    }
}

/// Mountpoints below `work`, innermost first.
fn mounts_below(work: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mountinfo::mounts()
        .unwrap_or_default()
        .into_iter()
        .map(|mount| mount.mountpoint)
        .filter(|mountpoint| mountpoint.starts_with(work))
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
    found
}

/// True for a process that serves a Feedline mount or the bucket that it needs: those end in order.
fn is_ours(pid: Pid) -> bool {
    let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let line = std::fs::read(path).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words.iter().any(|word| matches!(*word, b"mount" | b"s3sim" | b"watchdog"))
}

/// The children of this process, those handed to it included.
fn children() -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| parent_of(*pid) == Some(own.get())).filter_map(Pid::from_raw).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields after it are plain.
    let after = &stat[stat.rfind(')')? + 1..];
    after.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Ends our children that `chosen` says, with each of `signals` in turn while some are left. Children
/// that lose their parent by it become ours, hence the rounds.
fn end_all(chosen: impl Fn(Pid) -> bool, signals: &[Signal]) {
    const ROUNDS_MAX: usize = 8;
    for _ in 0..ROUNDS_MAX {
        let pids: Vec<Pid> = children().into_iter().filter(|pid| chosen(*pid)).collect();
        if pids.is_empty() {
            return;
        }
        for signal in signals {
            for pid in &pids {
                // An error means that it is gone already.
                let _ = kill_process(*pid, *signal);
            }
            if reap(&pids, END_TIME_MAX) {
                break;
            }
        }
    }
}

/// Collects ended children for at most `limit`; true if all of `pids` are gone.
#[expect(clippy::disallowed_methods, reason = "the guard waits for real processes, nothing else")]
fn reap(pids: &[Pid], limit: Duration) -> bool {
    let start = Instant::now();
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        if pids.iter().all(|pid| parent_of(pid.as_raw_nonzero().get()).is_none()) {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(POLL);
    }
}
