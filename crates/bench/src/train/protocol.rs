//! What the parent and its worker processes say to each other: one JSON value a line.
//!
//! The parent writes [`Order`]s to a worker's standard input, the worker writes [`Event`]s to its
//! standard output. A worker works on an epoch only when told to: that is the start barrier.

use serde::{Deserialize, Serialize};

use super::Settings;
use crate::units::Histogram;

/// What one worker is; its only argument, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// What all workers share.
    pub settings: Settings,
    /// Its number on this node.
    pub process: usize,
    /// The shard of its first epoch.
    pub shard: usize,
    /// How many shards there are: nodes x processes.
    pub shards: usize,
}

/// From the parent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Read one epoch; they count from 0.
    Epoch {
        /// Which.
        epoch: usize,
    },
    /// End.
    End,
}

/// From a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It runs and waits for an order.
    Ready,
    /// The speed since the last such line.
    Speed {
        /// Which epoch.
        epoch: usize,
        /// Batches of this epoch so far.
        batch: usize,
        /// Batches that the epoch has.
        batches: usize,
        /// Images a second.
        images_per_s: f64,
    },
    /// An epoch is over.
    Epoch(ProcessEpoch),
    /// It cannot go on, and ends.
    Failed {
        /// The file, if it is about one.
        path: String,
        /// The errno, if the system gave one.
        errno: Option<i32>,
        /// The whole story.
        message: String,
    },
}

/// What one process measured in one epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessEpoch {
    /// Its number on this node.
    pub process: usize,
    /// Which epoch.
    pub epoch: usize,
    /// The shard it read.
    pub shard: usize,
    /// Images.
    pub images: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the start signal to the end of the last step.
    pub seconds: f64,
    /// Of these, listing the folder.
    pub list_seconds: f64,
    /// CPU seconds of the process.
    pub cpu_seconds: f64,
    /// Open, fstat and (with mmap) mapping and closing, per file.
    pub open: Histogram,
    /// Reading, or faulting the mapping in, per file.
    pub read: Histogram,
    /// Both together, per file.
    pub file: Histogram,
    /// The same, of files opened later than 2 s after the epoch's begin.
    pub settled: Histogram,
    /// Decoding, per file.
    pub decode: Histogram,
}
