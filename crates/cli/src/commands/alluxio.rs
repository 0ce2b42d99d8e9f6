//! The names that users of Alluxio know, for what Feedline calls `load` and `du`. Not in the help.

use std::io::Write as _;

use clap::Subcommand;
use feedline_node::api::{LoadRequest, LoadStatus};

use crate::commands::load;
use crate::daemon::{self, Daemon};
use crate::failure::{Exit, Failure, Outcome};
use crate::output;
use crate::settings::RunDir;

/// `feedline fs`.
#[derive(Debug, Subcommand)]
pub(crate) enum Fs {
    /// As `feedline load PATH --wait`.
    #[command(name = "distributedLoad")]
    DistributedLoad(DistributedLoad),
    /// Whether everything below a path is in the cluster or, without one, on this node; the exit code says so.
    CheckCached(Where),
}

/// A path.
#[derive(Debug, clap::Args)]
pub(crate) struct Where {
    #[command(flatten)]
    run_dir: RunDir,
    /// A path in a mounted folder, or the s3:// URL of something mounted.
    path: String,
}

/// What to load.
#[derive(Debug, clap::Args)]
pub(crate) struct DistributedLoad {
    /// Nodes that are to have each file.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replication: u32,
    /// Do not wait.
    #[arg(long = "async")]
    no_wait: bool,
    #[command(flatten)]
    at: Where,
}

/// `feedline job`.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// As `feedline load`, a job being named by its path.
    Load(JobLoad),
}

/// Which job, and what to do.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["submit", "progress", "stop"]))]
pub(crate) struct JobLoad {
    /// A path in a mounted folder, or the s3:// URL of something mounted.
    #[arg(long)]
    path: String,
    /// Start.
    #[arg(long)]
    submit: bool,
    /// Show how it stands.
    #[arg(long)]
    progress: bool,
    /// Stop.
    #[arg(long)]
    stop: bool,
    /// Bytes a second at most.
    #[arg(long, value_name = "RATE", value_parser = load::parse_bandwidth, requires = "submit")]
    bandwidth: Option<u64>,
    /// Nodes that are to have each file.
    #[arg(long, value_name = "N", requires = "submit")]
    replicas: Option<u32>,
    /// Only fetch the listings.
    #[arg(long, requires = "submit")]
    metadata_only: bool,
    #[command(flatten)]
    run_dir: RunDir,
}

/// `feedline fs …`.
pub(crate) fn fs(command: &Fs) -> Outcome {
    match command {
        Fs::DistributedLoad(args) => {
            let request = LoadRequest { replicas: args.replication, ..LoadRequest::default() };
            load::run_plain(&args.at.run_dir, &args.at.path, request, !args.no_wait)
        }
        Fs::CheckCached(at) => check_cached(at),
    }
}

fn check_cached(at: &Where) -> Outcome {
    let (daemon, path) = Daemon::find(&at.run_dir, &at.path)?;
    let usage = daemon.du(&daemon::below(path, false))?;
    let mut out = output::stdout();
    let (here, place) = match &usage.cluster {
        Some(all) => (all.files, "in the cluster"),
        None => (usage.cached_files, "on this node"),
    };
    let (cached, files) = (output::count(here), output::count(usage.files));
    writeln!(out, "{cached} of {files} files below {} are {place}", at.path)?;
    out.flush()?;
    Ok(if here == usage.files { 0 } else { Exit::Failed as u8 })
}

/// `feedline job load …`.
pub(crate) fn job(command: &Job) -> Outcome {
    let Job::Load(args) = command;
    if args.submit {
        let request = LoadRequest {
            bandwidth_bytes_per_s: args.bandwidth.unwrap_or(0),
            replicas: args.replicas.unwrap_or(1),
            metadata_only: args.metadata_only,
            ..LoadRequest::default()
        };
        return load::run_plain(&args.run_dir, &args.path, request, false);
    }
    let (daemon, path) = Daemon::find(&args.run_dir, &args.path)?;
    let newest = newest(&daemon, &path)?.ok_or_else(|| {
        Failure::not_found(format!("nothing was loaded from {}", args.path))
            .way_out("`feedline load --list` shows every load")
    })?;
    if args.stop {
        load::show_stopped(&daemon, &daemon.load_stop(&newest.id)?, false)
    } else {
        load::show(&daemon, &newest, false)
    }
}

fn newest(daemon: &Daemon, path: &str) -> anyhow::Result<Option<LoadStatus>> {
    let jobs = daemon.loads()?;
    Ok(jobs.into_iter().find(|job| job.path == path.trim_matches('/')))
}
