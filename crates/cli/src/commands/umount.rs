//! `feedline umount`: asks the daemon to unmount and waits until it is gone; clears a dead mount.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::daemon::{self, Daemon};
use crate::failure::{Failure, Outcome};
use crate::settings::RunDir;
use crate::unmount;

/// How long a daemon may take to unmount: it finishes fetches under way and writes its index.
const WAIT: Duration = Duration::from_secs(60);

/// How often, and how long apart, a busy mount is looked at before it is refused: a second in all,
/// which is longer than any passing look and short for somebody who waits.
const BUSY_LOOKS: usize = 10;
const BUSY_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What to unmount.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  feedline umount /mnt/data
  feedline umount --lazy /mnt/data      even while processes have files open there

A mount whose daemon has died is cleared. What is cached stays on disk for the next mount.")]
pub(crate) struct Args {
    /// Even while processes have files open there: they get 10 s to close them.
    #[arg(short, long)]
    lazy: bool,
    #[command(flatten)]
    run_dir: RunDir,
    /// The mountpoint.
    dir: PathBuf,
}

/// Unmounts and waits.
pub(crate) fn run(args: &Args) -> Outcome {
    let mountpoint = mountpoint(&args.dir)?;
    let daemons = Daemon::all(&args.run_dir.path()?)?;
    let Some(daemon) = daemons.into_iter().find(|daemon| daemon.mountpoint == mountpoint) else {
        return clear_dead(&mountpoint);
    };
    if !args.lazy {
        refuse_busy(&mountpoint)?;
    }
    if !daemon.shutdown()? && !daemon.is_alive() {
        // It died, it hangs, or it is ending: only a process that is gone leaves nothing to wait for.
        clear_dead(&mountpoint)?;
    }
    if args.lazy && daemon::is_mounted(&mountpoint)? {
        // The daemon may be trying the polite way first; the kernel takes one detach or the other.
        let _ = unmount::lazily(&mountpoint);
    }
    wait_until_gone(&daemon)
}

/// Fails if a process has a file open below, or works there: its reads would fail. A user that goes
/// within a second, such as the watchdog's look or a finder's scan, is waited for.
fn refuse_busy(mountpoint: &Path) -> anyhow::Result<()> {
    for _ in 0..BUSY_LOOKS {
        // Marks an idle mount as expired (EAGAIN) and unmounts nothing: only a second call would.
        // Without the privilege to ask, the daemon's own unmount decides.
        if rustix::mount::unmount(mountpoint, UnmountFlags::EXPIRE) != Err(rustix::io::Errno::BUSY)
        {
            return Ok(());
        }
        poll(&mut [], Some(&BUSY_PAUSE))?;
    }
    let shown = mountpoint.display();
    Err(Failure::failed(format!("{shown} is busy: processes have files open there"))
        .way_out(format!("`fuser -vm {shown}` names them; or `feedline umount --lazy {shown}`"))
        .into())
}

/// The mountpoint that `dir` names, through links where it is not one itself.
fn mountpoint(dir: &Path) -> anyhow::Result<PathBuf> {
    let absolute = daemon::absolute(dir)?;
    if daemon::is_mounted(&absolute)? {
        return Ok(absolute);
    }
    match absolute.canonicalize() {
        Ok(real) if daemon::is_mounted(&real)? => Ok(real),
        _ => Err(Failure::not_found(format!("{} is not a Feedline mount", dir.display()))
            .way_out("`feedline status` lists the mounts")
            .into()),
    }
}

/// Clears a mount that no daemon answers for.
fn clear_dead(mountpoint: &Path) -> Outcome {
    if daemon::is_mounted(mountpoint)? {
        detach(mountpoint)?;
    }
    Ok(0)
}

fn detach(mountpoint: &Path) -> anyhow::Result<()> {
    unmount::lazily(mountpoint).map_err(|error| {
        Failure::failed(format!("cannot unmount {}: {error}", mountpoint.display()))
            .way_out("try as the user who mounted it, or as root")
            .into()
    })
}

/// Waits for the daemon's end, then sees that the mount went with it.
fn wait_until_gone(daemon: &Daemon) -> Outcome {
    let mountpoint = &daemon.mountpoint;
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw).filter(is_ours);
    if let Some(Ok(process)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        let timeout = Timespec { tv_sec: WAIT.as_secs().cast_signed(), tv_nsec: 0 };
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout))? == 0 {
            return Err(Failure::failed(format!(
                "the daemon {} of {} is still there after {} s",
                daemon.pid(),
                mountpoint.display(),
                WAIT.as_secs()
            ))
            .way_out("its log says why; it may be killed, what is cached is safe")
            .into());
        }
    }
    if daemon::is_mounted(mountpoint)? {
        detach(mountpoint)?;
    }
    daemon.forget()?;
    Ok(0)
}

/// False if the number belongs to another program since: the daemon is long gone.
fn is_ours(pid: &Pid) -> bool {
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    comm.is_ok_and(|name| name.trim_end() == "feedline")
}
