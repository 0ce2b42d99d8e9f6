//! `feedline du`, `free`, `pin` and `unpin`: one call about everything below a path, one answer.

use std::io::Write as _;

use feedline_node::api::Usage;

use crate::daemon::Daemon;
use crate::failure::Outcome;
use crate::output::{self, Table};
use crate::settings::RunDir;

/// A path, and how to print the answer.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run_dir: RunDir,
    /// A path in a mounted folder, or the s3:// URL of something mounted.
    path: String,
}

/// Which of the four.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verb {
    /// How much is there.
    Du,
    /// Drop from this node.
    Free,
    /// Keep on this node.
    Pin,
    /// Let go.
    Unpin,
}

/// Calls and prints.
pub(crate) fn run(verb: Verb, args: &Args) -> Outcome {
    let (daemon, path) = Daemon::find(&args.run_dir, &args.path)?;
    let usage = match verb {
        Verb::Du => daemon.du(path),
        Verb::Free => daemon.free(path),
        Verb::Pin => daemon.pin(path),
        Verb::Unpin => daemon.unpin(path),
    }?;
    if args.json {
        output::json(&usage)?;
        return Ok(0);
    }
    let mut out = output::stdout();
    match verb {
        Verb::Du => table(&usage).write(&mut out, "")?,
        Verb::Free => writeln!(
            out,
            "freed {} in {} files",
            output::bytes(usage.cached_bytes),
            output::count(usage.cached_files)
        )?,
        Verb::Pin => writeln!(
            out,
            "pinned {} files, {} of {} on this node",
            output::count(usage.pinned_files),
            output::bytes(usage.cached_bytes),
            output::bytes(usage.bytes)
        )?,
        Verb::Unpin => writeln!(out, "unpinned {} files", output::count(usage.files))?,
    }
    out.flush()?;
    Ok(0)
}

fn table(usage: &Usage) -> Table {
    let mut table = Table::new(&["", ">files", ">size", ">"]);
    let share = output::percent(usage.cached_bytes, usage.bytes);
    table.row([
        "in the bucket".into(),
        output::count(usage.files),
        output::bytes(usage.bytes),
        String::new(),
    ]);
    table.row([
        "on this node".into(),
        output::count(usage.cached_files),
        output::bytes(usage.cached_bytes),
        share,
    ]);
    table.row(["pinned".into(), output::count(usage.pinned_files), String::new(), String::new()]);
    table
}
