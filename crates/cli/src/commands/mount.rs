//! `feedline mount`: starts a daemon that shows a bucket as a folder, in the background by default.
//!
//! The process that is typed checks the settings, starts itself again detached and waits until that
//! one serves. The daemon starts `node`, then its watchdog, and ends when it is unmounted, asked to,
//! or sent SIGTERM or SIGINT.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use feedline_node::config::ResolvedConfig;
use feedline_node::{Node, StartError};
use rustix::mount::MountFlags;

use crate::background;
use crate::commands::watchdog;
use crate::daemon::{self, Daemon};
use crate::failure::{Failure, Outcome};
use crate::mount_options::{self, MountOptions};
use crate::settings::{self, SettingFlags};
use crate::{mountinfo, unmount};

/// What to mount where.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "feedline mount [OPTIONS] SOURCE DIR\n       feedline mount [OPTIONS] --config FILE DIR",
    after_help = "Examples:
  feedline mount s3://bucket/imagenet /mnt/data --cache /ssd/feedline:500GiB
  feedline mount s3://public-set /mnt/data --anonymous --metadata-ttl 1h
  feedline mount s3://b /mnt/data --endpoint http://minio:9000
  feedline mount --config /etc/feedline.toml /mnt/data      sources from its [[mounts]]
  mount -t fuse.feedline s3://bucket /mnt/data -o cache=/ssd:500GiB,allow_other

In /etc/fstab (with /sbin/mount.fuse.feedline a link to feedline, or feedline in PATH):
  s3://bucket/prefix  /mnt/data  fuse.feedline  _netdev,allow_other,cache=/ssd:500GiB  0 0

The command returns when files can be read, or with the daemon's error and exit code. The
daemon's log is in its run directory; `feedline umount DIR` ends it. Other commands find the
daemon there too: after `mount --run-dir`, give them the same --run-dir or FEEDLINE_RUN_DIR.
Credentials come from the standard chain of the cloud, never from a flag."
)]
pub(crate) struct Args {
    /// A bucket or prefix (s3://, gs://, az://, file:///), and the directory to mount it on.
    #[arg(value_names = ["SOURCE", "DIR"], num_args = 1..=2, required = true)]
    targets: Vec<String>,
    /// Stay in the foreground, and log to the terminal.
    #[arg(long)]
    foreground: bool,
    /// Options as mount(8) and fstab write them: settings, and the kernel's noexec, noatime, ….
    #[arg(short = 'o', value_name = "NAME[=VALUE],…")]
    options: Vec<String>,
    /// Started by a `mount` that waits for a word on our standard output.
    #[arg(long, hide = true)]
    detached: bool,
    /// mount(8): check everything, mount nothing.
    #[arg(short = 'f', hide = true)]
    fake: bool,
    /// mount(8): ignored, for it is about mtab, tolerance and verbosity.
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    /// mount(8): the type it was given.
    #[arg(short = 't', hide = true)]
    fs_type: Option<String>,
    #[command(flatten)]
    settings: SettingFlags,
}

/// Mounts; `command_line` is what to start again in the background.
pub(crate) fn run(args: &Args, command_line: &[OsString]) -> Outcome {
    if args.detached {
        background::detach();
    }
    let outcome = mount(args, command_line);
    if let (true, Err(error)) = (args.detached, &outcome) {
        background::say_failed(error);
    }
    outcome
}

fn mount(args: &Args, command_line: &[OsString]) -> Outcome {
    let (config, kernel) = configure(args)?;
    prepare_mountpoint(&config, args.fake)?;
    if args.fake {
        return Ok(0);
    }
    if args.foreground || args.detached {
        return serve(config, kernel, args.detached);
    }
    let run_dir = feedline_node::make_dir(&config.run_dir, &config.mountpoint);
    run_dir.map_err(|source| {
        start_failure(&StartError::RunDir { dir: config.run_dir.clone(), source })
    })?;
    background::launch(command_line, &feedline_node::log_file(&config), &config.mountpoint)?;
    Ok(0)
}

/// Flags and `-o` options, checked.
fn configure(args: &Args) -> anyhow::Result<(ResolvedConfig, MountFlags)> {
    let mut flags = args.settings.clone();
    let MountOptions { settings: options, kernel } = mount_options::parse(&args.options, |name| {
        let setting = feedline_node::config::find(&name.replace('-', "_"))?;
        (!setting.positional).then(|| (setting.name.to_owned(), setting.is_switch()))
    })?;
    for (name, value) in options {
        flags.set(&name, value);
    }
    let (source, dir) = match args.targets.as_slice() {
        [source, dir] => (Some(source.as_str()), dir),
        [dir] => (None, dir),
        _ => return Err(Failure::usage("name a SOURCE and a DIR").into()),
    };
    // fstab has no empty field: `none` or `feedline` stand for "as the configuration file says".
    if let Some(source) = source.filter(|source| !matches!(*source, "none" | "feedline")) {
        flags.set("source", source);
    }
    flags.set("mountpoint", real_mountpoint(Path::new(dir))?.to_string_lossy());
    let config = flags.resolve()?.map_err(|error| settings::failure(&error))?;
    Ok((config, kernel))
}

/// The path that the kernel will list: links resolved, unless something is mounted there already
/// (a dead mount could not be resolved, and a live one need not be).
fn real_mountpoint(dir: &Path) -> anyhow::Result<PathBuf> {
    let absolute = daemon::absolute(dir)?;
    if mountinfo::at(&absolute)?.is_some() {
        return Ok(absolute);
    }
    Ok(absolute.canonicalize().unwrap_or(absolute))
}

/// How long a mount may take to show that somebody serves it, before it counts as dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Refuses a mountpoint in use or missing; clears the mount of a dead daemon.
fn prepare_mountpoint(config: &ResolvedConfig, fake: bool) -> anyhow::Result<()> {
    let dir = &config.mountpoint;
    let shown = dir.display();
    if daemon::is_mounted(dir)? {
        let daemons = Daemon::all(&config.run_dir)?;
        let ours = daemons.iter().any(|daemon| daemon.mountpoint == *dir && daemon.is_alive());
        // Its daemon may be registered in another run directory: a mount that answers is alive.
        if ours || answers(dir) {
            return Err(Failure::failed(format!("{shown} is mounted already"))
                .way_out(format!("`feedline umount {shown}` first, or choose another directory"))
                .into());
        }
        if !fake {
            unmount::lazily(dir).with_context(|| format!("cannot clear the dead mount {shown}"))?;
        }
    }
    match std::fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Failure::usage(format!("{shown} is not a directory"))
            .way_out("name a directory to mount on")
            .into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Failure::not_found(format!("{shown} does not exist"))
                .way_out(format!("`mkdir -p {shown}`, then mount again"))
                .into())
        }
        Err(error) => Err(Failure::failed(format!("{shown}: {error}")).into()),
    }
}

/// True if the mount tells its size in time. In a thread, because it may hang.
fn answers(dir: &Path) -> bool {
    let (told, answer) = std::sync::mpsc::sync_channel(1);
    let dir = dir.to_owned();
    let asked = std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
        let _ = told.send(rustix::fs::statfs(&dir).is_ok());
    });
    asked.is_ok() && answer.recv_timeout(ANSWER_WITHIN).unwrap_or(false)
}

/// The daemon itself, from start to end.
fn serve(config: ResolvedConfig, kernel: MountFlags, detached: bool) -> Outcome {
    feedline_node::logging::init(config.log_format, &config.log_level)
        .map_err(|error| settings::failure(&error))?;
    let silence = config.watchdog;
    let node = Node::start(config).map_err(|error| start_failure(&error))?;
    let mountpoint = node.mountpoint();
    // Flags of the mountpoint, not of the file system: what a bind remount changes.
    if !kernel.is_empty() {
        let flags = kernel | MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID;
        rustix::mount::mount_remount(&mountpoint, flags | MountFlags::NODEV, c"")
            .with_context(|| format!("cannot set the mount options of {}", mountpoint.display()))?;
    }
    if let Err(error) = watchdog::spawn(&mountpoint, &node.socket(), silence) {
        tracing::warn!(%error, "no watchdog: a hung daemon will hang its readers");
    }
    // A daemon must not keep the file system of whoever started it busy.
    std::env::set_current_dir("/")?;
    if detached {
        background::say_serving()?;
    }
    tracing::info!(mountpoint = %mountpoint.display(), "serving");
    node.serve_until_signal().map_err(|error| Failure::failed(error.to_string()))?;
    Ok(0)
}

/// Why the daemon did not start. Settings that make no sense are a usage error.
fn start_failure(error: &StartError) -> Failure {
    match error {
        StartError::Bucket { url, error, way_out } => {
            Failure::failed(format!("cannot list {url}: {error}")).way_out(*way_out)
        }
        StartError::Store(_) | StartError::Namespace(_) => Failure::usage(error.to_string())
            .way_out(
                "`feedline config` explains each setting; `feedline doctor SOURCE` tries them",
            ),
        StartError::Cache(_) | StartError::CacheDir { .. } => Failure::failed(error.to_string())
            .way_out("`feedline doctor` looks at the cache's disk; --cache DIR:SIZE names another"),
        StartError::Mount(_) => Failure::failed(error.to_string())
            .way_out("`feedline doctor` looks at what mounting needs"),
        StartError::RunDir { .. } => {
            Failure::failed(error.to_string()).way_out("--run-dir DIR names another")
        }
        StartError::Cluster(_) => Failure::failed(error.to_string())
            .way_out("--listen IP:PORT names a port of this machine that nobody else has"),
        StartError::Secrets { .. } | StartError::Open { .. } => Failure::usage(error.to_string())
            .way_out(
                "a directory with the file token (`openssl rand -hex 32`), the same on every node",
            ),
        StartError::Etcd(_) => Failure::usage(error.to_string())
            .way_out("`feedline config` explains the settings etcd and cluster_secrets"),
        StartError::Server(_)
        | StartError::Threads(_)
        | StartError::Signals(_)
        | StartError::Interrupted { .. } => Failure::failed(error.to_string()),
    }
}
