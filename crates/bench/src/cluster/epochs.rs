//! Epochs of a training job on all nodes at once, as in the reference story: nodes x processes, each
//! with its shard; and what each epoch cost the bucket and the network.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::nodes::Nodes;
use crate::targets::Requests;
use crate::time::now;
use crate::train::{Decode, EpochResult, Nodes as Rank, ReadOrder, Train, TrainArgs};
use crate::units::rate;

/// Which files a process reads in which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shards {
    /// Every process its own shard again in every epoch, as the reference script does with DALI.
    Fixed,
    /// Other files in every epoch, as with torch's `DistributedSampler`.
    Reshuffled,
}

/// What is run on every node.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// Loader processes of each node.
    pub processes: usize,
    /// Who reads what.
    pub shards: Shards,
    /// Epochs.
    pub epochs: usize,
    /// Whether images are decoded.
    pub decode: Decode,
}

/// Images in a loader's batch. No step follows it: nothing but the file system and the CPU are slow.
const BATCH_SIZE: usize = 64;

/// One node's part of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NodeEpoch {
    /// Images that its processes read.
    pub images: u64,
    /// From the start signal until its last process was done.
    pub seconds: f64,
    /// Images over seconds.
    pub images_per_s: f64,
}

/// One epoch of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterEpoch {
    /// From 0.
    pub epoch: usize,
    /// Images of all nodes.
    pub images: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the start signal until the last node was done.
    pub seconds: f64,
    /// Images over seconds.
    pub images_per_s: f64,
    /// Each node.
    pub nodes: Vec<NodeEpoch>,
    /// Requests to the bucket meanwhile.
    pub requests: Requests,
    /// Bytes that nodes read from each other meanwhile.
    pub peer_bytes: u64,
    /// Reads of what other nodes own that went to the bucket all the same.
    pub fell_back: u64,
    /// How often a node was passed by, by reason.
    pub passed_by: BTreeMap<String, u64>,
    /// The share of the images that did not cost a GET.
    pub hit_rate: f64,
}

/// Runs the job; `each` sees every epoch when it is over.
///
/// # Errors
///
/// If a file cannot be read anywhere, with the node named; or a signal.
pub fn run(
    nodes: &Nodes,
    job: &Job,
    each: &mut dyn FnMut(&ClusterEpoch),
) -> Result<Vec<ClusterEpoch>> {
    // Started from this thread, which outlives them: they end with the thread that started them.
    let mut loaders = (0..nodes.count())
        .map(|node| Train::start(&args(nodes, job, node)).with_context(|| name(node)))
        .collect::<Result<Vec<Train>>>()?;
    let mut epochs = Vec::new();
    for epoch in 0..job.epochs {
        crate::interrupt::check()?;
        let before = Counters::of(nodes)?;
        let started = now();
        let parts = on_all(&mut loaders, epoch)?;
        let done = sum(
            epoch,
            started.elapsed().as_secs_f64(),
            &parts,
            &Counters::of(nodes)?.since(&before),
        );
        each(&done);
        epochs.push(done);
    }
    loaders.into_iter().try_for_each(Train::end)?;
    Ok(epochs)
}

fn name(node: usize) -> String {
    format!("node {}", node + 1)
}

fn args(nodes: &Nodes, job: &Job, node: usize) -> TrainArgs {
    let mut args = TrainArgs::new(&nodes.dir(node).join("train"), job.epochs, job.processes);
    args.nodes = Rank { index: node, count: nodes.count() };
    args.settings.order = match job.shards {
        Shards::Fixed => ReadOrder::Dali,
        Shards::Reshuffled => ReadOrder::Distributed,
    };
    args.settings.decode = job.decode;
    args.settings.batch_size = BATCH_SIZE;
    // As small a part of the files as DALI's 1,024 are of ImageNet's: what is in it is open, and cannot
    // make room for anything.
    args.settings.initial_fill = BATCH_SIZE;
    (args.settings.step_ms, args.settings.print_freq) = (0, 0);
    args
}

/// One epoch on every node from a common start.
fn on_all(loaders: &mut [Train], epoch: usize) -> Result<Vec<EpochResult>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = loaders
            .iter_mut()
            .map(|loader| scope.spawn(move || loader.epoch(epoch, &mut |_, _| ())))
            .collect();
        let parts = threads.into_iter().enumerate().map(|(node, thread)| {
            thread.join().expect("adding up does not panic").with_context(|| name(node))
        });
        parts.collect()
    })
}

/// What is counted since the start.
struct Counters {
    requests: Requests,
    peer_bytes: u64,
    fell_back: u64,
    passed_by: BTreeMap<String, u64>,
}

impl Counters {
    fn of(nodes: &Nodes) -> Result<Self> {
        let seen = nodes.clusters()?;
        let mut passed_by = BTreeMap::new();
        let peers = seen.iter().flat_map(|one| &one.peers);
        for (reason, count) in peers.flat_map(|peer| &peer.passed_by) {
            *passed_by.entry(reason.clone()).or_default() += count;
        }
        Ok(Self {
            requests: nodes.requests()?,
            peer_bytes: seen.iter().map(|one| one.bytes_from_peers).sum(),
            fell_back: seen.iter().map(|one| one.fell_back).sum(),
            passed_by,
        })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.since(before.requests),
            peer_bytes: self.peer_bytes - before.peer_bytes,
            fell_back: self.fell_back - before.fell_back,
            passed_by: self
                .passed_by
                .iter()
                .map(|(reason, count)| {
                    (reason.clone(), count - before.passed_by.get(reason).unwrap_or(&0))
                })
                .filter(|(_, count)| 0 < *count)
                .collect(),
        }
    }
}

fn sum(epoch: usize, seconds: f64, parts: &[EpochResult], cost: &Counters) -> ClusterEpoch {
    let images: u64 = parts.iter().map(|part| part.images).sum();
    let node = |part: &EpochResult| NodeEpoch {
        images: part.images,
        seconds: part.seconds,
        images_per_s: part.images_per_s,
    };
    ClusterEpoch {
        epoch,
        images,
        bytes: parts.iter().map(|part| part.bytes).sum(),
        seconds,
        images_per_s: rate(images as f64, seconds),
        nodes: parts.iter().map(node).collect(),
        requests: cost.requests,
        peer_bytes: cost.peer_bytes,
        fell_back: cost.fell_back,
        passed_by: cost.passed_by.clone(),
        hit_rate: 1.0 - rate(cost.requests.get as f64, images as f64).min(1.0),
    }
}

/// GETs of all epochs for each object that there is.
#[must_use]
pub fn gets_per_object(epochs: &[ClusterEpoch]) -> f64 {
    let gets: u64 = epochs.iter().map(|epoch| epoch.requests.get).sum();
    let objects = epochs.iter().map(|epoch| epoch.images).max().unwrap_or(0);
    rate(gets as f64, objects as f64)
}

/// A table for people: a line for each epoch, images/s of every node and of the cluster.
#[must_use]
pub fn table(epochs: &[ClusterEpoch]) -> String {
    let mut text = "epoch".to_owned();
    let nodes = epochs.first().map_or(0, |epoch| epoch.nodes.len());
    // Writing to a String cannot fail.
    for node in 0..nodes {
        let _ = write!(text, " {:>8}", name(node));
    }
    let _ = write!(
        text,
        " {:>9} {:>8} {:>11} {:>9} {:>9}\n{:>width$}",
        "cluster",
        "GETs",
        "GETs/object",
        "peers MB",
        "hit rate",
        "images/s",
        width = 5 + 9 * nodes + 10
    );
    for epoch in epochs {
        let _ = write!(text, "\n{:<5}", epoch.epoch + 1);
        for node in &epoch.nodes {
            let _ = write!(text, " {:>8.0}", node.images_per_s);
        }
        let gets = epoch.requests.get;
        let _ = write!(
            text,
            " {:>9.0} {gets:>8} {:>11.4} {:>9.1} {:>7.2} %",
            epoch.images_per_s,
            rate(gets as f64, epoch.images as f64),
            epoch.peer_bytes as f64 / 1e6,
            epoch.hit_rate * 100.0
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_nodes_add_up() {
        let part = |images, seconds| EpochResult {
            images,
            bytes: images * 100,
            seconds,
            images_per_s: images as f64 / seconds,
            ..EpochResult::default()
        };
        let requests = |get| Requests { get, ..Requests::default() };
        let cost = |get| Counters {
            requests: requests(get),
            peer_bytes: 750,
            fell_back: 1,
            passed_by: BTreeMap::new(),
        };
        let cold = sum(0, 2.0, &[part(60, 1.0), part(40, 2.0)], &cost(100));
        assert_eq!((cold.images, cold.bytes, cold.images_per_s), (100, 10_000, 50.0));
        assert_eq!((cold.nodes[0].images_per_s, cold.nodes[1].images_per_s), (60.0, 20.0));
        assert_eq!(cold.hit_rate, 0.0);
        let warm = sum(1, 1.0, &[part(50, 1.0), part(50, 1.0)], &cost(1));
        assert_eq!(warm.hit_rate, 0.99);
        let both = [cold, warm];
        assert_eq!(gets_per_object(&both), 1.01);
        let table = table(&both);
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.contains("node 2") && table.contains("99.00 %"), "{table}");
        // More requests than images: a share is never below none.
        assert_eq!(sum(0, 1.0, &[part(10, 1.0)], &cost(20)).hit_rate, 0.0);
    }
}
