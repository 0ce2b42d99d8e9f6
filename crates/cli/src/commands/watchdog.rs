//! `feedline watchdog` (hidden): a small process beside each daemon that ends what the daemon cannot.
//!
//! - The daemon dies without unmounting: the dead mount is cleared, so that nobody is left with
//!   `Transport endpoint is not connected`.
//! - The daemon hangs: its FUSE connection is aborted, so that blocked readers get an error; then it
//!   is unmounted lazily and killed.
//!
//! It sleeps in `poll` on the daemon's pidfd, wakes at most once a second, and holds no descriptor
//! of the daemon (above all not `/dev/fuse`, which would keep the connection alive). The mount itself
//! is touched only by a thread of its own, which may hang with it; silence is counted in the
//! watchdog's own wake-ups, so that a suspended machine is not mistaken for a hung daemon.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal, setsid};

use crate::failure::Outcome;
use crate::mountinfo::{self, Device};
use crate::unmount;

/// Where the kernel lists FUSE connections, once fusectl is mounted there.
const FUSECTL: &str = "/sys/fs/fuse/connections";

/// Silence of FUSE alone, with the admin socket still answering, is a hang only after this many
/// times the limit: a daemon that talks may be waiting for a disk that will come back.
const PATIENCE_WHILE_TALKING: u32 = 3;

/// How long a killed daemon may take to go before the watchdog stops waiting for it.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// How it is called: `feedline watchdog …`.
pub(crate) const COMMAND: &str = "watchdog";

/// Its command line, from its own name on.
#[derive(Debug, clap::Parser)]
pub(crate) struct Line {
    #[command(flatten)]
    pub(crate) args: Args,
}

/// What to watch.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The daemon.
    #[arg(long)]
    pid: u32,
    /// Its mountpoint.
    #[arg(long)]
    mountpoint: PathBuf,
    /// Its admin socket.
    #[arg(long)]
    socket: PathBuf,
    /// Milliseconds of silence that are a hang; 0: only watch for its death.
    #[arg(long)]
    silence_ms: u64,
}

/// Starts a watchdog for the calling process, which serves `mountpoint`.
///
/// # Errors
///
/// If no process can be started.
pub(crate) fn spawn(mountpoint: &Path, socket: &Path, silence: Duration) -> io::Result<()> {
    let child = Command::new(std::env::current_exe()?)
        .arg(COMMAND)
        .arg(format!("--pid={}", std::process::id()))
        .arg("--mountpoint")
        .arg(mountpoint)
        .arg("--socket")
        .arg(socket)
        .arg(format!("--silence-ms={}", silence.as_millis()))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    // It outlives us by design: nobody waits for it.
    drop(child);
    Ok(())
}

/// Watches until the daemon is gone.
pub(crate) fn run(args: &Args) -> Outcome {
    close_inherited();
    // Out of the terminal's reach: Ctrl-C is for the daemon, which unmounts; then we end by ourselves.
    let _ = setsid();
    let pid = i32::try_from(args.pid).ok().and_then(Pid::from_raw);
    let daemon = match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        // Our parent, or the number was given to another process since.
        Some(Ok(daemon)) if getppid() == pid => Some(daemon),
        _ => None,
    };
    let Some(mount) = mountinfo::at(&args.mountpoint)? else { return Ok(0) };
    let Some(daemon) = daemon else {
        clear(&args.mountpoint, mount.device);
        return Ok(0);
    };
    if watch(args, daemon.as_fd())? == Verdict::Hung {
        end_hung(args, mount.device, &daemon);
    } else {
        clear(&args.mountpoint, mount.device);
    }
    Ok(0)
}

/// Closes what came with the fork; only the three standard streams stay.
#[expect(unsafe_code, reason = "no safe binding of close_range takes descriptors nobody owns")]
fn close_inherited() {
    // SAFETY: called first in this process's only thread, which has opened nothing yet, so no owner
    // of a descriptor above 2 exists. A failure leaves them open.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Dead,
    Hung,
}

/// Sleeps until the daemon is dead or hung.
fn watch(args: &Args, daemon: BorrowedFd<'_>) -> io::Result<Verdict> {
    let limit = Duration::from_millis(args.silence_ms);
    if limit.is_zero() {
        wait_for_exit(daemon, None)?;
        return Ok(Verdict::Dead);
    }
    // Four looks within the limit, at most one a second, at least one in 15 s.
    let interval = (limit / 4).clamp(Duration::from_secs(1), Duration::from_secs(15));
    let mut silence = Silence::default();
    let mut probe = Some(probe_fuse(&args.mountpoint)?);
    loop {
        if wait_for_exit(daemon, Some(interval))? {
            return Ok(Verdict::Dead);
        }
        let answered = match probe.take() {
            Some(running) if !running.is_finished() => {
                probe = Some(running);
                false
            }
            Some(finished) => finished.join().unwrap_or(false),
            None => false,
        };
        if probe.is_none() {
            probe = Some(probe_fuse(&args.mountpoint)?);
        }
        silence.count(interval, answered, || admin_answers(&args.socket));
        if silence.is_hang(limit) {
            return Ok(Verdict::Hung);
        }
    }
}

/// For how long nothing was heard.
#[derive(Debug, Default)]
struct Silence {
    fuse: Duration,
    admin: Duration,
}

impl Silence {
    /// Takes note of one interval. The admin socket is asked only while FUSE is silent.
    fn count(&mut self, interval: Duration, fuse_answered: bool, admin: impl FnOnce() -> bool) {
        if fuse_answered {
            *self = Self::default();
            return;
        }
        self.fuse += interval;
        self.admin = if admin() { Duration::ZERO } else { self.admin + interval };
    }

    fn is_hang(&self, limit: Duration) -> bool {
        self.fuse >= limit && self.admin >= limit || self.fuse >= limit * PATIENCE_WHILE_TALKING
    }
}

/// Waits at most `timeout` (none: for ever). True: the process has ended.
fn wait_for_exit(daemon: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let mut fds = [PollFd::from_borrowed_fd(daemon, PollFlags::IN)];
    match poll(&mut fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Asks the file system for its size, which the daemon answers from memory: true if it did. In a
/// thread, because it hangs with the daemon.
fn probe_fuse(mountpoint: &Path) -> io::Result<JoinHandle<bool>> {
    let mountpoint = mountpoint.to_owned();
    // One system call needs no more stack than the smallest allowed.
    std::thread::Builder::new()
        .name("probe".to_owned())
        .stack_size(64 << 10)
        .spawn(move || rustix::fs::statfs(&mountpoint).is_ok())
}

/// True if the admin socket answers anything within half a second.
fn admin_answers(socket: &Path) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.set_write_timeout(Some(Duration::from_millis(500)))?;
        stream
            .write_all(b"GET /v1/health HTTP/1.1\r\nHost: feedline\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/")
    };
    ask().unwrap_or(false)
}

/// Aborts the connection, clears the mount, kills the daemon, in this order: readers get their
/// error first, and an aborted connection cannot hold up the rest.
fn end_hung(args: &Args, device: Device, daemon: &OwnedFd) {
    let mountpoint = args.mountpoint.display();
    let seconds = Duration::from_millis(args.silence_ms).as_secs();
    log(&format!("the daemon {} of {mountpoint} has not answered for {seconds} s", args.pid));
    match abort_connection(device) {
        Ok(()) => log(&format!("aborted the FUSE connection {} of {mountpoint}", device.minor)),
        Err(error) => log(&format!("cannot abort FUSE connection {}: {error}", device.minor)),
    }
    clear(&args.mountpoint, device);
    if pidfd_send_signal(daemon, Signal::KILL).is_ok() {
        log(&format!("killed the daemon {}", args.pid));
        let _ = wait_for_exit(daemon.as_fd(), Some(KILL_WAIT));
    }
}

/// Writes to the connection's `abort`; mounts fusectl for that moment where nobody has.
fn abort_connection(device: Device) -> io::Result<()> {
    let abort = format!("{FUSECTL}/{}/abort", device.minor);
    if Path::new(&abort).exists() {
        return std::fs::write(abort, "1");
    }
    rustix::mount::mount("fusectl", FUSECTL, "fusectl", rustix::mount::MountFlags::empty(), None)?;
    let aborted = std::fs::write(abort, "1");
    let _ = rustix::mount::unmount(FUSECTL, rustix::mount::UnmountFlags::DETACH);
    aborted
}

/// Unmounts what the daemon left, unless it is gone or another mount took the place.
fn clear(mountpoint: &Path, device: Device) {
    let is_ours = matches!(mountinfo::at(mountpoint), Ok(Some(mount)) if mount.device == device);
    if !is_ours {
        return;
    }
    match unmount::lazily(mountpoint) {
        Ok(()) => log(&format!("cleared the dead mount {}", mountpoint.display())),
        Err(error) => {
            log(&format!("cannot clear the dead mount {}: {error}", mountpoint.display()))
        }
    }
}

/// One line into the daemon's log. A closed log is no reason to stop watching.
fn log(message: &str) {
    let _ = writeln!(io::stderr(), "feedline watchdog: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(seconds: u32, fuse: bool, admin: bool) -> Silence {
        let mut silence = Silence::default();
        for _ in 0..seconds {
            silence.count(SECOND, fuse, || admin);
        }
        silence
    }

    #[test]
    fn a_daemon_that_answers_on_fuse_never_hangs() {
        assert!(!after(1000, true, false).is_hang(3 * SECOND));
    }

    #[test]
    fn silence_on_both_sides_is_a_hang_at_the_limit() {
        assert!(!after(2, false, false).is_hang(3 * SECOND));
        assert!(after(3, false, false).is_hang(3 * SECOND));
    }

    #[test]
    fn a_daemon_that_still_talks_gets_more_time_but_not_for_ever() {
        assert!(!after(8, false, true).is_hang(3 * SECOND));
        assert!(after(9, false, true).is_hang(3 * SECOND));
    }
}
