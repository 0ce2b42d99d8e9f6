//! `feedline load`: brings data into the cache ahead of its use, and follows jobs that do.

use std::io::{IsTerminal as _, Write as _};

use feedline_node::api::{LoadRequest, LoadState, LoadStatus};
use feedline_node::config::units::{parse_rate, parse_size};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::daemon::{self, Daemon, Followed};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Table};
use crate::settings::RunDir;

/// How a shell shows that a program was interrupted.
const INTERRUPTED: u8 = 130;

/// What to load, or which job.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true)
        .args(["path", "list", "progress", "stop", "retry_failed"]),
    after_help = "A load runs in the daemon: it goes on when this command ends, and after a restart of the daemon or of
the machine. What is cached is not fetched again. In a cluster each file goes to the node that owns it.
It makes room as fill does: what no job will read again goes, nothing else; a load that does not fit
ends as `incomplete` and says how much is cached.

FILE of --manifest holds one file a line: its path below PATH, its path in the mounted folder, or its
URL. Each line that names no file is a failure of its own.

The exit code is 1 when a job (of --wait, --progress, --retry-failed --wait) has ended and not everything is
cached, 130 when Ctrl-C ended the waiting: the job then goes on.

Examples:
  feedline load /mnt/data/train --wait
  feedline load s3://bucket/imagenet/val --bandwidth 500MB/s
  feedline load /mnt/data --manifest epoch-1.txt
  feedline load --list
  feedline load --progress 1a2b3c4d --failed"
)]
pub(crate) struct Args {
    /// Show the progress until it has ended.
    #[arg(long, conflicts_with_all = ["list", "stop"])]
    wait: bool,
    /// Nodes that are to have each file.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "path",
        value_parser = clap::value_parser!(u32).range(1..=64))]
    replicas: u32,
    /// Bytes a second at most, over all nodes, such as 1GiB or 250MB/s.
    #[arg(long, value_name = "RATE", value_parser = parse_bandwidth, requires = "path")]
    bandwidth: Option<u64>,
    /// Load what this file names, not everything.
    #[arg(long, value_name = "FILE", requires = "path")]
    manifest: Option<std::path::PathBuf>,
    /// Only fetch the listings, each node for itself.
    #[arg(long, requires = "path", conflicts_with = "replicas")]
    metadata_only: bool,
    /// Every job of the nodes on this machine; with etcd, of the whole cluster.
    #[arg(long)]
    list: bool,
    /// How a job stands.
    #[arg(long, value_name = "ID")]
    progress: Option<String>,
    /// With --progress: the files that could not be cached, with the reason.
    #[arg(long, requires = "progress", conflicts_with = "wait")]
    failed: bool,
    /// Stop a job; what it has brought stays.
    #[arg(long, value_name = "ID")]
    stop: Option<String>,
    /// Try again what a job could not cache; one that was stopped goes on.
    #[arg(long, value_name = "ID")]
    retry_failed: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run_dir: RunDir,
    /// A path in a mounted folder, or the s3:// URL of something mounted.
    path: Option<String>,
}

/// A size or a rate: people leave the `/s` away.
pub(crate) fn parse_bandwidth(text: &str) -> Result<u64, String> {
    parse_rate(text).or_else(|why| parse_size(text).map_err(|_| why))
}

/// Does what was asked for.
pub(crate) fn run(args: &Args) -> Outcome {
    if args.list {
        return list(args);
    }
    if let Some(id) = &args.progress {
        let (daemon, status) = of_id(&args.run_dir, id)?;
        return match (args.failed, args.wait) {
            (true, _) => failed(&daemon, &status, args.json),
            (_, true) => follow(&daemon, status, args.json),
            _ => show(&daemon, &status, args.json),
        };
    }
    if let Some(id) = &args.stop {
        let (daemon, _) = of_id(&args.run_dir, id)?;
        return show_stopped(&daemon, &daemon.load_stop(id)?, args.json);
    }
    let (daemon, status) = if let Some(id) = &args.retry_failed {
        let (daemon, _) = of_id(&args.run_dir, id)?;
        let status = daemon.load_retry(id)?;
        (daemon, status)
    } else {
        let path = args.path.as_deref().unwrap_or_default();
        start(&args.run_dir, path, args)?
    };
    if args.wait { follow(&daemon, status, args.json) } else { started(&status, args.json) }
}

fn start(run_dir: &RunDir, path: &str, args: &Args) -> anyhow::Result<(Daemon, LoadStatus)> {
    let (daemon, path) = Daemon::find(run_dir, path)?;
    let manifest = match &args.manifest {
        Some(file) if !file.is_file() => {
            let message = format!("{}: no such file", file.display());
            return Err(Failure::not_found(message).into());
        }
        Some(file) => Some(daemon::absolute(file)?.display().to_string()),
        None => None,
    };
    let status = daemon.load(&LoadRequest {
        path,
        manifest,
        bandwidth_bytes_per_s: args.bandwidth.unwrap_or(0),
        replicas: args.replicas,
        metadata_only: args.metadata_only,
    })?;
    Ok((daemon, status))
}

/// Starts a load of everything below a path, with nothing else asked for, and waits for it if so told.
pub(crate) fn run_plain(run_dir: &RunDir, path: &str, request: LoadRequest, wait: bool) -> Outcome {
    let (daemon, path) = Daemon::find(run_dir, path)?;
    let status = daemon.load(&LoadRequest { path, ..request })?;
    if wait { follow(&daemon, status, false) } else { started(&status, false) }
}

/// The daemon on this machine that knows a job.
fn of_id(run_dir: &RunDir, id: &str) -> anyhow::Result<(Daemon, LoadStatus)> {
    let mut elsewhere = None;
    for daemon in Daemon::all(&run_dir.path()?)? {
        match daemon.load_status(id) {
            Ok(status) if status.node.is_none() => return Ok((daemon, status)),
            Ok(status) => elsewhere = Some((daemon, status)),
            Err(_) => {}
        }
    }
    if let Some(found) = elsewhere {
        return Ok(found);
    }
    Err(Failure::not_found(format!("no load is called {id} on this machine"))
        .way_out("`feedline load --list`; a job is known on the node where it was started, with etcd on all")
        .into())
}

/// The job's path as people know it.
fn place(daemon: &Daemon, status: &LoadStatus) -> String {
    daemon.mountpoint.join(&status.path).display().to_string()
}

fn started(status: &LoadStatus, json: bool) -> Outcome {
    if json {
        output::json(status)?;
        return Ok(0);
    }
    let (id, mut out) = (&status.id, output::stdout());
    writeln!(out, "load {id} has begun")?;
    writeln!(out, "follow it: feedline load --progress {id} --wait")?;
    writeln!(out, "stop it:   feedline load --stop {id}")?;
    out.flush()?;
    Ok(0)
}

fn list(args: &Args) -> Outcome {
    let mut jobs = Vec::new();
    for daemon in Daemon::all(&args.run_dir.path()?)? {
        // One that does not answer has no jobs that go on.
        for job in daemon.loads().unwrap_or_default() {
            jobs.push((place(&daemon, &job), job));
        }
    }
    // A job of a node on this machine, as it says itself; then as others have heard of it.
    jobs.sort_by_key(|(_, job)| (job.id.clone(), job.node.is_some()));
    jobs.dedup_by(|(_, later), (_, first)| later.id == first.id);
    jobs.sort_by_key(|(_, job)| std::cmp::Reverse(job.started_ms));
    if args.json {
        output::json(&jobs.iter().map(|(_, job)| job).collect::<Vec<_>>())?;
        return Ok(0);
    }
    let is_wide = jobs.iter().any(|(_, job)| job.node.is_some());
    let node = if is_wide { "node" } else { "" };
    let mut table =
        Table::new(&["id", "state", ">files", ">of", ">loaded", ">failed", "path", node]);
    for (place, job) in &jobs {
        table.row([
            job.id.clone(),
            job.state.to_string(),
            output::count(job.cached + job.loaded),
            job.files_total.map_or_else(|| "?".into(), output::count),
            output::bytes(job.loaded_bytes),
            output::count(job.failed),
            place.clone(),
            node_of(job),
        ]);
    }
    let mut out = output::stdout();
    if jobs.is_empty() {
        writeln!(out, "no loads")?;
    } else {
        table.write(&mut out, "")?;
    }
    out.flush()?;
    Ok(0)
}

/// Whose job it is, if not this machine's, and whether what is shown may be old.
fn node_of(job: &LoadStatus) -> String {
    match &job.node {
        Some(node) if node.trouble.is_some() && job.state.is_running() => {
            format!("{} (not heard now)", node.address)
        }
        Some(node) => node.address.clone(),
        None => String::new(),
    }
}

/// 1 for a job that has ended without everything being cached.
fn code(state: LoadState) -> u8 {
    match state {
        LoadState::Listing | LoadState::Loading | LoadState::Done => 0,
        LoadState::Stopped | LoadState::Incomplete | LoadState::Failed => Exit::Failed as u8,
    }
}

/// Prints how a job stands.
pub(crate) fn show(daemon: &Daemon, status: &LoadStatus, json: bool) -> Outcome {
    if json {
        output::json(status)?;
    } else {
        print(daemon, status)?;
    }
    Ok(code(status.state))
}

/// As [`show`]; a job that was stopped as asked is a success.
pub(crate) fn show_stopped(daemon: &Daemon, status: &LoadStatus, json: bool) -> Outcome {
    show(daemon, status, json)?;
    Ok(0)
}

fn print(daemon: &Daemon, status: &LoadStatus) -> anyhow::Result<()> {
    let mut out = output::stdout();
    let (files, bytes) = (output::count, output::bytes);
    let of = |total: Option<String>| total.map_or_else(String::new, |total| format!(" of {total}"));
    writeln!(out, "load {}  {}", status.id, place(daemon, status))?;
    writeln!(out, "  state    {}", status.state)?;
    if let Some(reason) = &status.reason {
        writeln!(out, "  reason   {reason}")?;
    }
    if let Some(node) = &status.node {
        let as_of = node.trouble.as_ref().map_or_else(String::new, |why| {
            format!("; it cannot be heard, this is what it said last ({why})")
        });
        writeln!(out, "  job of   node {}{as_of}", node.address)?;
    }
    if status.metadata_only {
        writeln!(out, "  listed   {} files, {}", files(status.files), bytes(status.bytes))?;
    } else {
        let (done, total) = (status.cached + status.loaded, status.files_total.map(files));
        writeln!(out, "  cached   {}{} files", files(done), of(total))?;
        let done = bytes(status.cached_bytes + status.loaded_bytes);
        writeln!(out, "           {done}{}", of(status.bytes_total.map(bytes)))?;
        let (loaded, size) = (files(status.loaded), bytes(status.loaded_bytes));
        let before = files(status.cached);
        writeln!(out, "  loaded   {loaded} files, {size}; {before} were cached before")?;
    }
    writeln!(out, "  failed   {} files", files(status.failed))?;
    for (kind, count) in &status.failed_by {
        writeln!(out, "           {kind}: {}", files(*count))?;
    }
    let left = status
        .eta_s
        .map_or_else(String::new, |eta| format!(", {} left", output::duration(eta.ceil())));
    let rate = bytes(status.bytes_per_s as u64);
    let elapsed = output::duration(status.elapsed_s);
    writeln!(out, "  time     {elapsed} at {rate}/s{left}")?;
    if 1 < status.nodes {
        writeln!(out, "  nodes    {}", status.nodes)?;
    }
    for (node, why) in &status.passed_by {
        writeln!(out, "  passed by {node}: {why}")?;
    }
    Ok(out.flush()?)
}

fn failed(daemon: &Daemon, status: &LoadStatus, json: bool) -> Outcome {
    let mut out = output::stdout();
    daemon.load_failed(&status.id, &mut |failure| {
        if json {
            serde_json::to_writer(&mut out, &failure)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}: {}", failure.path, failure.reason)?;
        }
        Ok(())
    })?;
    out.flush()?;
    Ok(code(status.state))
}

/// Shows a job's progress until it has ended, or somebody has seen enough.
fn follow(daemon: &Daemon, status: LoadStatus, json: bool) -> Outcome {
    let target = if json || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{bar:40} {binary_bytes}/{binary_total_bytes}  {msg}");
    bar.set_style(style.expect("a fixed template"));
    let id = status.id.clone();
    let followed = daemon.follow_load(&id, &mut |now| draw(&bar, now))?;
    bar.finish_and_clear();
    let Followed::Ended(status) = followed else {
        let mut out = output::stdout();
        writeln!(out, "load {id} goes on: feedline load --progress {id}, or --stop {id}")?;
        out.flush()?;
        return Ok(INTERRUPTED);
    };
    if json {
        output::json(&status)?;
        return Ok(code(status.state));
    }
    print(daemon, &status)?;
    if status.state == LoadState::Done {
        return Ok(0);
    }
    let reason = status.reason.as_deref().unwrap_or("not everything is cached");
    let way_out = format!(
        "`feedline load --progress {id} --failed` lists what is missing, --retry-failed {id} tries again"
    );
    Err(Failure::failed(format!("load {id} is {}: {reason}", status.state)).way_out(way_out).into())
}

fn draw(bar: &ProgressBar, now: &LoadStatus) {
    if let Some(total) = now.bytes_total {
        bar.set_length(total);
    }
    bar.set_position(now.cached_bytes + now.loaded_bytes);
    let files = output::count(now.cached + now.loaded);
    let total = now.files_total.map_or_else(|| "?".into(), output::count);
    let rate = output::bytes(now.bytes_per_s as u64);
    let left =
        now.eta_s.map_or_else(String::new, |eta| format!("  {} left", output::duration(eta)));
    let failed = match now.failed {
        0 => String::new(),
        failed => format!("  {} failed", output::count(failed)),
    };
    bar.set_message(format!("{files}/{total} files  {rate}/s{left}{failed}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_a_rate_or_a_size() {
        assert_eq!(parse_bandwidth("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bandwidth("250MB/s"), Ok(250_000_000));
        assert!(parse_bandwidth("fast").unwrap_err().contains("250MB/s"));
    }
}
