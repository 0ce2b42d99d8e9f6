//! `feedline check`: reads back what is cached and compares checksums; says what was bad.

use std::io::{IsTerminal as _, Write as _};

use feedline_node::api::CheckEvent;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::nodes::{self, Whose};
use crate::daemon::{self, Daemon};
use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};
use crate::settings::RunDir;

/// What to check.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A file that does not match its checksum is dropped and fetched again when it is read next.
The exit code is 1 when there was one. In a cluster every node checks what it has; one that does not answer is
named, and makes the exit code 1 as well.

Example:
  feedline check /mnt/data && echo sound"
)]
pub(crate) struct Args {
    /// One JSON object per event: progress, corrupt, done.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    run_dir: RunDir,
    /// A path in a mounted folder, or the s3:// URL of something mounted.
    path: String,
}

/// Checks; the exit code says whether all was sound.
pub(crate) fn run(args: &Args) -> Outcome {
    let (daemon, path) = Daemon::find(&args.run_dir, &args.path)?;
    let bar = ProgressBar::with_draw_target(Some(0), draw_target(args.json));
    bar.set_style(
        ProgressStyle::with_template(
            "{bar:40} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {msg}",
        )
        .expect("a fixed template"),
    );
    let mut found = 0;
    let (mut parts, mut unheard) =
        (Table::new(&["node", ">files", ">size", ">corrupt"]), Vec::new());
    let mut is_wide = false;
    let mut out = output::stdout();
    let query = daemon::below(path, args.whose.node_only);
    daemon.check(&query, &mut |event| {
        if args.json {
            serde_json::to_writer(&mut out, &event)?;
            writeln!(out)?;
            out.flush()?;
        }
        match event {
            CheckEvent::Progress { files, bytes, files_total, bytes_total } => {
                bar.set_length(bytes_total);
                bar.set_position(bytes);
                bar.set_message(format!("{files}/{files_total} files"));
            }
            CheckEvent::Corrupt { path, detail, node } => {
                found += 1;
                if !args.json {
                    let file = daemon.mountpoint.join(path).display().to_string();
                    let at = node.map_or_else(String::new, |node| format!(" on {node}"));
                    bar.suspend(|| writeln!(out, "corrupt: {file}{at}: {detail}"))?;
                    out.flush()?;
                }
            }
            CheckEvent::Node { address, files, bytes, corrupt } => {
                is_wide = true;
                parts.row([
                    address,
                    output::count(files),
                    output::bytes(bytes),
                    output::count(corrupt),
                ]);
            }
            CheckEvent::Unheard(node) => unheard.push(node),
            CheckEvent::Done { files, bytes, corrupt } => {
                bar.finish_and_clear();
                found = corrupt;
                if !args.json {
                    let (files, bytes) = (output::count(files), output::bytes(bytes));
                    writeln!(out, "checked {files} files, {bytes}: {corrupt} corrupt")?;
                }
            }
        }
        Ok(())
    })?;
    if is_wide && !args.json {
        parts.write(&mut out, "  ")?;
    }
    out.flush()?;
    nodes::fail_if_unheard(&unheard, "what it holds was not checked")?;
    Ok(if found == 0 { 0 } else { Exit::Failed as u8 })
}

/// The bar is for people: on a terminal, and not between lines of JSON.
fn draw_target(json: bool) -> ProgressDrawTarget {
    if json || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    }
}
