//! `feedline demo`: the main job on this machine, without an account anywhere.
//!
//! A bucket with a cloud's latency, ImageNet-like data in it, a mount, three epochs through it by a
//! loader that reads as DALI does, and the same through s3fs. [`guard`] is the outer process that
//! leaves nothing behind; [`story`] is what is told; [`stage`] starts and ends the actors. [`cluster`] is
//! the other story, of several nodes.

mod cluster;
mod guard;
mod stage;
mod story;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use feedline_bench::cluster::epochs::Shards;
use feedline_bench::dataset::{self, Made, MakeArgs};

use crate::failure::{Failure, Outcome};

/// Any seed will do; the same one gives the same bytes on every machine.
const SEED: u64 = 1;

/// Show what Feedline does, on this machine alone, in about two minutes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  feedline demo --images 3000\n  \
    feedline demo --nodes 4\n\n\
    Needs root or fusermount3, /dev/fuse, and s3fs to compare with (left out with --no-s3fs).\n\
    With --nodes: root, and ip of iproute2.")]
pub(crate) struct Args {
    /// Where report.html, chart.svg and report.json (with --nodes: cluster.json) are written
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    out: PathBuf,
    /// A cluster of so many nodes on this machine, each in a network namespace of its own (needs root)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: Option<u8>,
    /// With --nodes: whether a process reads the same files in every epoch
    #[arg(long, value_enum, default_value_t = Shards::Fixed)]
    shards: Shards,
    /// With --nodes: what each node's link carries in each direction, 125MB/s for example [default: no limit]
    #[arg(long, value_name = "RATE", requires = "nodes")]
    link: Option<String>,
    /// Images in the data set, 110 KB each on average [default: 1000, with --nodes 4000]
    #[arg(long)]
    images: Option<usize>,
    /// Class folders that they are in
    #[arg(long, default_value_t = 20)]
    classes: usize,
    /// Epochs
    #[arg(long, default_value_t = 3)]
    epochs: usize,
    /// Loader processes [default: 4, with --nodes 2 on each node]
    #[arg(long)]
    processes: Option<usize>,
    /// Time until the bucket sends the first byte
    #[arg(long, default_value = "25ms", value_name = "TIME")]
    latency: String,
    /// Decode every image on the CPU too; two cores then hide what storage is faster than 500 images/s
    #[arg(long)]
    decode: bool,
    /// Only Feedline, without s3fs beside it
    #[arg(long)]
    no_s3fs: bool,
    /// Print the result as JSON, and all else to standard error
    #[arg(long)]
    json: bool,
    /// Tells the story itself; without it, this process only guards
    #[arg(long, hide = true)]
    inner: bool,
}

/// Runs the demo and cleans up after it.
pub(crate) fn run(args: &Args) -> Outcome {
    let out = std::path::absolute(&args.out)?;
    let work = out.join("work");
    if args.inner {
        match args.nodes {
            Some(nodes) => cluster::tell(args, nodes.into(), &out, &work)?,
            None => story::tell(args, &out, &work)?,
        }
        return Ok(0);
    }
    if args.nodes.is_some() {
        cluster::check(args)?;
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

/// Makes the data set, of so many images unless the user says how many, in a bucket's folder; returns the
/// folder that holds the bucket.
fn make_images(args: &Args, images: usize, work: &Path) -> anyhow::Result<(PathBuf, Made)> {
    let images = args.images.unwrap_or(images);
    say(args, format!("Making {images} JPEGs like ImageNet's (110 KB on average) ..."));
    let root = work.join("bucket");
    let data = MakeArgs::new(&root.join(stage::BUCKET), images, args.classes, SEED);
    let bar = dataset::progress_bar("images");
    let made = dataset::make(&data, &bar)?;
    bar.finish_and_clear();
    Ok((root, made))
}

/// Tells the user; with `--json` standard output belongs to the result.
fn say(args: &Args, text: impl std::fmt::Display) {
    if args.json {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
}
