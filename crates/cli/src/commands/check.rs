//! `feedline check`: reads back what is cached and compares checksums; says what was bad.

use std::io::{IsTerminal as _, Write as _};

use feedline_node::api::CheckEvent;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::daemon::Daemon;
use crate::failure::{Exit, Outcome};
use crate::output;
use crate::settings::RunDir;

/// What to check.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A file that does not match its checksum is dropped and fetched again when it is read next.
The exit code is 1 when there was one.

Example:
  feedline check /mnt/data && echo sound"
)]
pub(crate) struct Args {
    /// One JSON object per event: progress, corrupt, done.
    #[arg(long)]
    json: bool,
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
    let mut out = output::stdout();
    daemon.check(path, &mut |event| {
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
            CheckEvent::Corrupt { path, detail } => {
                found += 1;
                if !args.json {
                    let file = daemon.mountpoint.join(path);
                    bar.suspend(|| writeln!(out, "corrupt: {}: {detail}", file.display()))?;
                    out.flush()?;
                }
            }
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
    out.flush()?;
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
