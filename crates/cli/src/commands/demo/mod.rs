//! `feedline demo`: the main job on this machine, without an account anywhere.
//!
//! A bucket with a cloud's latency, ImageNet-like data in it, a mount, three epochs through it by a
//! loader that reads as DALI does, and the same through s3fs. [`guard`] is the outer process that
//! leaves nothing behind; [`story`] is what is told; [`stage`] starts and ends the actors.

mod guard;
mod stage;
mod story;

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use crate::failure::{Failure, Outcome};

/// Show what Feedline does, on this machine alone, in about two minutes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  feedline demo --images 3000\n\n\
    Needs root or fusermount3, /dev/fuse, and s3fs to compare with (left out with --no-s3fs).")]
pub(crate) struct Args {
    /// Where report.html, chart.svg and report.json are written
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    out: PathBuf,
    /// Images in the data set, 110 KB each on average
    #[arg(long, default_value_t = 1000)]
    images: usize,
    /// Class folders that they are in
    #[arg(long, default_value_t = 20)]
    classes: usize,
    /// Epochs
    #[arg(long, default_value_t = 3)]
    epochs: usize,
    /// Loader processes
    #[arg(long, default_value_t = 4)]
    processes: usize,
    /// Time until the bucket sends the first byte
    #[arg(long, default_value = "25ms", value_name = "TIME")]
    latency: String,
    /// Decode every image on the CPU too; two cores then hide what storage is faster than 500 images/s
    #[arg(long)]
    decode: bool,
    /// Only Feedline, without s3fs beside it
    #[arg(long)]
    no_s3fs: bool,
    /// Tells the story itself; without it, this process only guards
    #[arg(long, hide = true)]
    inner: bool,
}

/// Runs the demo and cleans up after it.
pub(crate) fn run(args: &Args) -> Outcome {
    let out = std::path::absolute(&args.out)?;
    let work = out.join("work");
    if args.inner {
        story::tell(args, &out, &work)?;
        return Ok(0);
    }
    if work.exists() {
        return Err(Failure::failed(format!("{} exists: another demo runs there", work.display()))
            .way_out("wait for it, or remove the folder if none does")
            .into());
    }
    std::fs::create_dir_all(&work).with_context(|| format!("make {}", work.display()))?;
    let program = std::env::current_exe().context("find the feedline binary")?;
    let mut inner = Command::new(program);
    inner.args(std::env::args_os().skip(1)).arg("--inner");
    match guard::supervise(&mut inner, &work)? {
        Some(code) => Ok(u8::try_from(code).unwrap_or(1)),
        None => Err(Failure::failed("interrupted: everything it started is gone").into()),
    }
}
