//! `feedline ls`: a directory as the bucket has it, and what of it is on this node.

use std::io::Write as _;

use feedline_node::api::{LsEntry, PathQuery};

use crate::daemon::Daemon;
use crate::failure::Outcome;
use crate::output;
use crate::settings::RunDir;

/// What to list.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  feedline ls /mnt/data/train            names, as they appear in the folder
  feedline ls -l /mnt/data/train         sizes, times, and what is cached
  feedline ls -R --cached /mnt/data      every file that is on this node")]
pub(crate) struct Args {
    /// Size, how much of it is on this node, when it changed.
    #[arg(short, long)]
    long: bool,
    /// Also everything below.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Only files that are complete on this node.
    #[arg(long)]
    cached: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run_dir: RunDir,
    /// A path in a mounted folder, or the s3:// URL of something mounted.
    #[arg(default_value = ".")]
    path: String,
}

/// Prints each entry as it arrives.
pub(crate) fn run(args: &Args) -> Outcome {
    let (daemon, path) = Daemon::find(&args.run_dir, &args.path)?;
    let query = PathQuery { path: path.clone(), recursive: args.recursive, cached: args.cached };
    let mut out = output::stdout();
    daemon.ls(&query, &mut |entry| {
        if args.json {
            serde_json::to_writer(&mut out, &entry)?;
            writeln!(out)?;
        } else {
            let name = name_below(&path, &entry);
            if args.long { long(&mut out, &entry, &name)? } else { writeln!(out, "{name}")? }
        }
        Ok(())
    })?;
    out.flush()?;
    Ok(0)
}

/// One line of `ls -l`. The marks: `c` complete on this node, `p` a part of it; `*` pinned.
fn long(out: &mut impl std::io::Write, entry: &LsEntry, name: &str) -> std::io::Result<()> {
    let kind = match entry {
        LsEntry { directory: true, .. } => "d",
        LsEntry { cached: true, .. } => "c",
        LsEntry { cached_bytes: 1.., .. } => "p",
        LsEntry { .. } => "-",
    };
    let pinned = if entry.pinned { "*" } else { " " };
    let (size, time) = if entry.directory {
        (String::new(), String::new())
    } else {
        (output::bytes(entry.size), output::time(entry.modified_ms))
    };
    writeln!(out, "{kind}{pinned} {size:>10}  {time:16}  {name}")
}

/// The entry's path relative to the one asked for, with a slash after a directory.
fn name_below(path: &str, entry: &LsEntry) -> String {
    let below = match entry.path.strip_prefix(path).map(|rest| rest.trim_start_matches('/')) {
        Some(rest) if !rest.is_empty() => rest,
        _ => entry.path.rsplit('/').next().unwrap_or_default(),
    };
    format!("{below}{}", if entry.directory { "/" } else { "" })
}
