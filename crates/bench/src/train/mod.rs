//! `feedline bench train`: the reference story (DALI reads ImageNet, a pause stands in for the
//! GPU) in Rust, with real processes.
//!
//! The parent starts the workers, starts every epoch in all of them at once, drops caches between
//! epochs if asked, prints, and adds up. It never touches the data set itself.

mod parent;
pub mod protocol;
pub mod worker;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use parent::{Train, Watch, run, train};
use protocol::ProcessEpoch;

use crate::facts::Facts;
use crate::units::Latency;

/// What happens to a file once it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decode {
    /// Decode, crop, flip, normalise.
    Jpeg,
    /// Nothing: shows storage that is faster than the CPU decodes.
    None,
}

/// In which order files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOrder {
    /// As DALI's `random_shuffle=True`.
    Dali,
    /// As torch's `DistributedSampler`, each process a rank; another order in every epoch.
    Distributed,
    /// As listed.
    Sorted,
}

/// `feedline bench train`
#[derive(Debug, Clone, clap::Args)]
pub struct TrainArgs {
    /// The settings of each process.
    #[command(flatten)]
    pub settings: Settings,
    /// Epochs
    #[arg(long, default_value_t = 3)]
    pub epochs: usize,
    /// Processes on this node
    #[arg(long, default_value_t = 8)]
    pub processes: usize,
    /// This node and how many there are: 0/4 is the first of four
    #[arg(long, default_value = "0/1", value_parser = parse_nodes, value_name = "I/N")]
    pub nodes: Nodes,
    /// Drop the kernel's caches before every epoch (needs root)
    #[arg(long)]
    pub drop_caches: bool,
    /// Write the result to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl TrainArgs {
    /// The reference story on one node: `epochs` by `processes` processes, with the defaults of the
    /// command line for all else.
    #[must_use]
    pub fn new(dir: &Path, epochs: usize, processes: usize) -> Self {
        let settings = Settings {
            dir: dir.to_owned(),
            batch_size: 256,
            print_freq: 10,
            step_ms: 500,
            decode: Decode::Jpeg,
            order: ReadOrder::Dali,
            no_mmap: false,
            keep_pipeline: false,
            stick_to_shard: false,
            threads: 1,
            initial_fill: 1_024,
            seed: 1,
        };
        let nodes = Nodes { index: 0, count: 1 };
        Self { settings, epochs, processes, nodes, drop_caches: false, json: None }
    }
}

/// What every process is told.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct Settings {
    /// Folder that holds the class folders
    pub dir: PathBuf,
    /// Images in a batch
    #[arg(long, default_value_t = 256, value_parser = positive)]
    pub batch_size: usize,
    /// Print the speed every so many batches; 0 never
    #[arg(long, default_value_t = 10)]
    pub print_freq: usize,
    /// The pause that stands in for a training step
    #[arg(long, default_value_t = 500, value_name = "MS")]
    pub step_ms: u64,
    /// Decode the images, or only read them
    #[arg(long, value_enum, default_value_t = Decode::Jpeg)]
    pub decode: Decode,
    /// In which order files are read
    #[arg(long, value_enum, default_value_t = ReadOrder::Dali)]
    pub order: ReadOrder,
    /// Read files whole instead of mapping them (DALI's dont_use_mmap)
    #[arg(long)]
    pub no_mmap: bool,
    /// Keep the pipeline between epochs; else every epoch lists the folder again and starts at its own
    /// shard, as the reference script does
    #[arg(long)]
    pub keep_pipeline: bool,
    /// With --keep-pipeline: read the same shard in every epoch
    #[arg(long)]
    pub stick_to_shard: bool,
    /// Decoding threads of each process
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub threads: usize,
    /// Files that a process holds before it begins with the first batch (DALI's shuffle buffer)
    #[arg(long, default_value_t = 1_024, value_parser = positive, value_name = "FILES")]
    pub initial_fill: usize,
    /// Seed of what the file system does not see: the shuffle buffer and the crops
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// This node among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// This one, from 0.
    pub index: usize,
    /// All.
    pub count: usize,
}

fn parse_nodes(text: &str) -> Result<Nodes, String> {
    let parsed = text.split_once('/').and_then(|(index, count)| {
        Some(Nodes { index: index.parse().ok()?, count: count.parse().ok()? })
    });
    parsed
        .filter(|nodes| nodes.index < nodes.count)
        .ok_or_else(|| format!("'{text}' is not I/N with I from 0 to N-1"))
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("'{text}' is not 1 or more"))
}

/// The result of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrainResult {
    /// Where it was measured.
    pub facts: Facts,
    /// What every process was told.
    pub settings: Settings,
    /// Processes on this node.
    pub processes: usize,
    /// This node.
    pub nodes: Nodes,
    /// True if the kernel's caches were dropped before every epoch.
    pub drop_caches: bool,
    /// One after the other.
    pub epochs: Vec<EpochResult>,
}

/// One epoch of this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochResult {
    /// From 0.
    pub epoch: usize,
    /// Images of all processes.
    pub images: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the start signal until the last process was done.
    pub seconds: f64,
    /// Images over seconds.
    pub images_per_s: f64,
    /// Open, fstat, map and close, per file.
    pub open: Latency,
    /// Reading or faulting in, per file.
    pub read: Latency,
    /// Both, per file.
    pub file: Latency,
    /// Both, per file that was opened later than 2 s after the epoch's begin.
    pub settled: Latency,
    /// Decoding, per file.
    pub decode: Latency,
    /// Each process, in order.
    pub processes: Vec<ProcessEpoch>,
}
