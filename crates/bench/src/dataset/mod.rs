//! `feedline dataset`: make a data set, or upload one.

pub mod make;
mod pool;
pub mod put;
mod source;

#[cfg(test)]
mod tests;

use anyhow::Result;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

pub use make::{MANIFEST, Made, MakeArgs, make};
pub use pool::Random;
pub use put::{Put, PutArgs, put};

/// `feedline dataset`
#[derive(Debug, Args)]
pub struct DatasetArgs {
    #[command(subcommand)]
    command: DatasetCommand,
}

#[derive(Debug, Subcommand)]
enum DatasetCommand {
    /// Make an ImageNet-like folder of real JPEGs from a seed
    Make(MakeArgs),
    /// Upload a folder or ImageNet's original tars to a bucket; goes on where it stopped
    Put(PutArgs),
}

/// Runs the command and prints its result.
///
/// # Errors
///
/// Whatever kept it from finishing, with the path or the object named.
pub fn run(args: DatasetArgs) -> Result<()> {
    match args.command {
        DatasetCommand::Make(args) => {
            let bar = progress_bar("images");
            let made = make(&args, &bar)?;
            bar.finish_and_clear();
            if args.json {
                println!("{}", serde_json::to_string_pretty(&made)?);
            } else if made.kept == made.files {
                println!("{}: {} images are already there", args.dir.display(), made.files);
            } else {
                println!(
                    "{}: {} images, mean {:.1} KB, {:.0} images/s",
                    args.dir.display(),
                    made.files,
                    made.bytes as f64 / made.files.max(1) as f64 / 1e3,
                    made.images_per_s
                );
            }
            Ok(())
        }
        DatasetCommand::Put(args) => {
            let bar = progress_bar("objects");
            let done = put(&args, &bar)?;
            bar.finish_and_clear();
            if args.json {
                println!("{}", serde_json::to_string_pretty(&done)?);
            } else {
                let Put { files, uploaded, uploaded_bytes, skipped, failed, .. } = &done;
                println!(
                    "{files} files: {uploaded} uploaded ({:.1} MB), {skipped} there already, {failed} failed",
                    *uploaded_bytes as f64 / 1e6
                );
            }
            for failure in &done.failures {
                eprintln!("{failure}");
            }
            anyhow::ensure!(
                done.failed == 0,
                "{} of {} files are not in the bucket; run the command again to go on",
                done.failed,
                done.files
            );
            Ok(())
        }
    }
}

/// A bar on standard error that counts `what`; silent when that is no terminal.
#[must_use]
pub fn progress_bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!(
        "{{bar:40}} {{human_pos}}/{{human_len}} {what} {{per_sec}} {{eta}} {{msg}}"
    ));
    let bar = ProgressBar::new(0);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
