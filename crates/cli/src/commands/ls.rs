//! `feedline ls`: a directory as the bucket has it, and what of it is on this node.

use std::io::Write as _;

use feedline_node::api::{LsEntry, PathQuery};

use super::nodes::{self, Whose};
use crate::daemon::Daemon;
use crate::failure::Outcome;
use crate::output;
use crate::settings::RunDir;

/// What to list.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  feedline ls /mnt/data/train            names, as they appear in the folder
  feedline ls -l /mnt/data/train         sizes, times, and what is cached
  feedline ls -R --cached /mnt/data      every file that is cached

In a cluster, --cached and -l ask all nodes, and show behind each file where it is complete:
  [node-a:7001 owner, node-b:7001]       the owner keeps it for all, node-b has a copy
  [node-b:7001; owner node-a:7001]       the owner has not got it
A node that does not answer is named on standard error.")]
pub(crate) struct Args {
    /// Size, how much of it is on this node, when it changed.
    #[arg(short, long)]
    long: bool,
    /// Also everything below.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Only files of which something is cached.
    #[arg(long)]
    cached: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    run_dir: RunDir,
    /// A path in a mounted folder, or the s3:// URL of something mounted.
    #[arg(default_value = ".")]
    path: String,
}

/// Prints each entry as it arrives.
pub(crate) fn run(args: &Args) -> Outcome {
    let (daemon, path) = Daemon::find(&args.run_dir, &args.path)?;
    let query = PathQuery {
        path: path.clone(),
        recursive: args.recursive,
        cached: args.cached,
        // Names alone are the same on every node.
        node_only: args.whose.node_only || !(args.cached || args.long || args.json),
    };
    let mut out = output::stdout();
    let mut unheard = Vec::new();
    daemon.ls(&query, &mut |entry| {
        let is_last = !entry.unheard.is_empty();
        if is_last {
            unheard.clone_from(&entry.unheard);
        }
        if args.json {
            serde_json::to_writer(&mut out, &entry)?;
            writeln!(out)?;
        } else if !is_last {
            let name = name_below(&path, &entry);
            let name = format!("{name}{}", places(&entry));
            if args.long { long(&mut out, &entry, &name)? } else { writeln!(out, "{name}")? }
        }
        Ok(())
    })?;
    out.flush()?;
    nodes::write_unheard(&mut std::io::stderr(), &unheard, "what it holds is not shown")?;
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

/// Where a file is complete, in a cluster.
fn places(entry: &LsEntry) -> String {
    let Some(owner) = &entry.owner else { return String::new() };
    let name = |node: &String| if node == owner { format!("{node} owner") } else { node.clone() };
    let mut nodes: Vec<_> = entry.nodes.iter().map(name).collect();
    // The owner first: it is where the file stays.
    nodes.sort_by_key(|node| !node.ends_with(" owner"));
    match (entry.nodes.is_empty(), entry.nodes.contains(owner)) {
        (true, _) => format!("  [owner {owner}]"),
        (_, true) => format!("  [{}]", nodes.join(", ")),
        (_, false) => format!("  [{}; owner {owner}]", nodes.join(", ")),
    }
}

/// The entry's path relative to the one asked for, with a slash after a directory.
fn name_below(path: &str, entry: &LsEntry) -> String {
    let below = match entry.path.strip_prefix(path).map(|rest| rest.trim_start_matches('/')) {
        Some(rest) if !rest.is_empty() => rest,
        _ => entry.path.rsplit('/').next().unwrap_or_default(),
    };
    format!("{below}{}", if entry.directory { "/" } else { "" })
}
