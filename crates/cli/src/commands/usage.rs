//! `feedline du`, `free`, `pin` and `unpin`: one call about everything below a path, one answer.

use std::io::{self, Write};

use feedline_node::api::{NodeUsage, Usage, WideUsage};

use super::nodes::{self, Whose};
use crate::daemon::{self, Daemon};
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
    whose: Whose,
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
    /// Drop from the cache.
    Free,
    /// Keep in the cache.
    Pin,
    /// Let go.
    Unpin,
}

/// Calls and prints.
pub(crate) fn run(verb: Verb, args: &Args) -> Outcome {
    let (daemon, path) = Daemon::find(&args.run_dir, &args.path)?;
    let query = daemon::below(path, args.whose.node_only);
    let usage = match verb {
        Verb::Du => daemon.du(&query),
        Verb::Free => daemon.free(&query),
        Verb::Pin => daemon.pin(&query),
        Verb::Unpin => daemon.unpin(&query),
    }?;
    let mut out = output::stdout();
    match &usage.cluster {
        _ if args.json => output::json(&usage)?,
        Some(all) => write_wide(&mut out, verb, &usage, all)?,
        None => write_one(&mut out, verb, &usage)?,
    }
    let all = usage.cluster.unwrap_or_default();
    // Who is silent will do what is noted when it is back; who answered, and did not do it, may never.
    let (later, undone): (Vec<_>, Vec<_>) =
        all.unheard.into_iter().partition(|it| all.noted && !it.refused);
    if !args.json {
        nodes::write_unheard(&mut out, &later, "it learns of it from etcd")?;
    }
    out.flush()?;
    match verb {
        Verb::Du => {}
        // An answer that was lost, or cut short, says nothing of what was done.
        Verb::Free | Verb::Pin | Verb::Unpin => {
            nodes::fail_if_unheard(&undone, "it may not be done there")?
        }
    }
    Ok(0)
}

/// The answer of one node.
fn write_one(out: &mut impl Write, verb: Verb, usage: &Usage) -> io::Result<()> {
    match verb {
        Verb::Du => table(usage).write(out, "")?,
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
    Ok(())
}

/// The answer of all nodes: the sum, then each.
fn write_wide(out: &mut impl Write, verb: Verb, usage: &Usage, all: &WideUsage) -> io::Result<()> {
    let (files, bytes) = (output::count(all.files), output::bytes(all.bytes));
    let nodes = all.nodes.len();
    match verb {
        Verb::Du => {
            wide_table(usage, all).write(out, "")?;
            return nodes::write_unheard(out, &all.unheard, "what it holds is not counted");
        }
        Verb::Free => writeln!(out, "freed {bytes} in {files} files on {nodes} nodes")?,
        Verb::Pin => writeln!(
            out,
            "pinned {} files, {bytes} of {} on the {nodes} nodes that keep them",
            output::count(usage.files),
            output::bytes(usage.bytes)
        )?,
        Verb::Unpin => {
            writeln!(out, "unpinned {} files on {nodes} nodes", output::count(usage.files))?
        }
    }
    if !matches!(verb, Verb::Unpin) {
        let mut table = Table::new(&["node", ">files", ">size", ""]);
        for (index, node) in all.nodes.iter().enumerate() {
            // Of a free, the pinned ones are those that stayed.
            let stayed = match verb {
                Verb::Free if 0 < node.pinned_files => {
                    format!("{} pinned ones stay", output::count(node.pinned_files))
                }
                _ => String::new(),
            };
            let name = node_name(index, node);
            table.row([name, output::count(node.files), output::bytes(node.bytes), stayed]);
        }
        table.write(out, "  ")?;
    }
    Ok(())
}

/// The first one is that which was asked.
fn node_name(index: usize, node: &NodeUsage) -> String {
    format!("{}{}", node.address, if index == 0 { " (this node)" } else { "" })
}

/// What `du` shows of a cluster.
fn wide_table(usage: &Usage, all: &WideUsage) -> Table {
    let mut table = Table::new(&["", ">files", ">size", ">", ">pinned"]);
    let share = |bytes: u64| output::percent(bytes, usage.bytes);
    let row = |name: &str, files: u64, bytes: u64| {
        [name.to_owned(), output::count(files), output::bytes(bytes)]
    };
    let [name, files, size] = row("in the bucket", usage.files, usage.bytes);
    table.row([name, files, size, String::new(), String::new()]);
    let [name, files, size] = row("in the cluster, each file once", all.files, all.bytes);
    table.row([name, files, size, share(all.bytes), String::new()]);
    let [name, files, size] = row("further copies", all.copies, all.copies_bytes);
    table.row([name, files, size, String::new(), String::new()]);
    for (index, node) in all.nodes.iter().enumerate() {
        let name = format!("on {}", node_name(index, node));
        let [name, files, size] = row(&name, node.files, node.bytes);
        table.row([name, files, size, share(node.bytes), output::count(node.pinned_files)]);
    }
    table
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
