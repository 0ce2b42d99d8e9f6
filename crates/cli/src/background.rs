//! `feedline mount` without `--foreground`: the same command again, detached, and waiting for it.
//!
//! The daemon is started with its standard output on a pipe and its standard error in its log. It
//! writes one line to the pipe, "serving" or the error it ends with, and lets go of it; the command
//! at the terminal repeats the error and its exit code. Interrupted while it waits, it takes the
//! daemon down with it.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Exit, Failure};
use crate::{daemon, unmount};

/// Tells the daemon that its standard output is the pipe to the command that waits.
pub(crate) const DETACHED_FLAG: &str = "--detached";

/// How much of the log is looked at when a daemon ends without a word.
const LOG_TAIL_BYTES: usize = 2048;

/// The one line from the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    /// It serves.
    Serving,
    /// It ends with this error.
    Failed { message: String, way_out: Option<String>, exit: u8 },
}

/// Starts `args` (a whole command line) detached and waits until it serves.
///
/// # Errors
///
/// The daemon's own error with its exit code, or that it ended without a word.
pub(crate) fn launch(args: &[OsString], log: &Path, mountpoint: &Path) -> anyhow::Result<()> {
    // Logs name buckets and keys: for the owner's eyes.
    let log_file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .with_context(|| format!("cannot open the log {}", log.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before there is anything to take down.
        let (mut ctrl_c, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut child = Command::new(std::env::current_exe()?)
            .args(args.iter().skip(1))
            .arg(OsStr::new(DETACHED_FLAG))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()?;
        let interrupt = async {
            tokio::select! { _ = ctrl_c.recv() => {}, _ = terminate.recv() => {} }
        };
        wait_for_report(&mut child, log, mountpoint, interrupt).await
    })
}

async fn wait_for_report(
    child: &mut Child,
    log: &Path,
    mountpoint: &Path,
    interrupt: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let pipe = child.stdout.take().context("the daemon has no pipe")?;
    let mut line = String::new();
    let mut reader = BufReader::new(pipe);
    tokio::select! {
        read = reader.read_line(&mut line) => { read?; }
        () = interrupt => return interrupted(child, mountpoint).await,
    }
    match serde_json::from_str(&line) {
        Ok(Report::Serving) => Ok(()),
        Ok(Report::Failed { message, way_out, exit }) => {
            child.wait().await?;
            Err(Failure { message, way_out, exit: Exit::from_code(exit) }.into())
        }
        Err(_) => {
            let status = child.wait().await?;
            let message = format!("the daemon ended before it served ({status}): {}", tail(log));
            Err(Failure::failed(message).way_out(format!("see {}", log.display())).into())
        }
    }
}

/// Takes the daemon down, and its mount if it came that far.
async fn interrupted(child: &mut Child, mountpoint: &Path) -> anyhow::Result<()> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    }
    child.wait().await?;
    if daemon::is_mounted(mountpoint)? {
        unmount::lazily(mountpoint)?;
    }
    Err(Failure::failed("interrupted: nothing is mounted").into())
}

/// The last line of the log.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let end = text[text.len().saturating_sub(LOG_TAIL_BYTES)..].to_vec();
    let end = String::from_utf8_lossy(&end).into_owned();
    end.trim_end().lines().last().unwrap_or("its log is empty").to_owned()
}

/// In the daemon: leaves the terminal's session, so that its end does not end us.
pub(crate) fn detach() {
    // Fails only for a process that leads its group already, and then it is as good as detached.
    let _ = rustix::process::setsid();
}

/// In the daemon: says that it serves, and lets go of the pipe.
///
/// # Errors
///
/// If whoever waited is gone: nobody asked for this mount any more.
pub(crate) fn say_serving() -> io::Result<()> {
    say(&Report::Serving)?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(null)?)
}

/// In the daemon: passes its error to whoever waits.
pub(crate) fn say_failed(error: &anyhow::Error) {
    let failure = error.downcast_ref::<Failure>();
    let report = Report::Failed {
        message: format!("{error:#}"),
        way_out: failure.and_then(|failure| failure.way_out.clone()),
        exit: failure.map_or(Exit::Failed, |failure| failure.exit) as u8,
    };
    // Nobody waits any more: the log has the error too.
    let _ = say(&report);
}

fn say(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
