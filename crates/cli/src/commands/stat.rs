//! `feedline stat`: one file or directory, where it comes from and what of it is on this node.

use std::io::Write as _;

use super::nodes::{self, Whose};
use crate::daemon::{self, Daemon};
use crate::failure::Outcome;
use crate::output::{self, Table};
use crate::settings::RunDir;

/// What to show.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  feedline stat /mnt/data/train/n01440764/n01440764_18.JPEG")]
pub(crate) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    run_dir: RunDir,
    /// A path in a mounted folder, or the s3:// URL of something mounted.
    path: String,
}

/// Asks and prints.
pub(crate) fn run(args: &Args) -> Outcome {
    let (daemon, path) = Daemon::find(&args.run_dir, &args.path)?;
    let entry = daemon.stat(&daemon::below(path, args.whose.node_only))?;
    if args.json {
        output::json(&entry)?;
        return Ok(0);
    }
    let mut table = Table::new(&["", ""]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("path", daemon.mountpoint.join(&entry.path).display().to_string());
    row("kind", if entry.directory { "directory" } else { "file" }.to_owned());
    if let Some(location) = &entry.location {
        row("location", location.clone());
    }
    if !entry.directory {
        row("size", format!("{} ({} bytes)", output::bytes(entry.size), output::count(entry.size)));
        row("modified", format!("{} UTC", output::time(entry.modified_ms)));
        row("etag", entry.etag.clone().unwrap_or_else(|| "none".to_owned()));
        let share = output::percent(entry.cached_bytes, entry.size);
        row(
            "on this node",
            match (entry.cached, entry.cached_bytes) {
                (true, _) => "complete".to_owned(),
                (false, 0) => "no".to_owned(),
                (false, bytes) => format!("{} ({share})", output::bytes(bytes)),
            },
        );
        if let Some(owner) = &entry.owner {
            row(
                "on nodes",
                if entry.nodes.is_empty() { "none".into() } else { entry.nodes.join(", ") },
            );
            row("owner", owner.clone());
        }
        row("pinned", if entry.pinned { "yes" } else { "no" }.to_owned());
    }
    let mut out = output::stdout();
    table.write(&mut out, "")?;
    nodes::write_unheard(&mut out, &entry.unheard, "whether it is there is not known")?;
    out.flush()?;
    Ok(0)
}
