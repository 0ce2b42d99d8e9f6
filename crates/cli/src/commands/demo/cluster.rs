//! The demo of a cluster: several nodes on this machine, each with a network namespace, a cache and a
//! mount of its own, and a training job over all of them.

use std::path::Path;

use anyhow::{Context as _, Result};
use feedline_bench::cluster::epochs::{ClusterEpoch, Job, Shards, gets_per_object, run, table};
use feedline_bench::cluster::{Nodes, Shape};
use feedline_bench::facts::Facts;
use feedline_bench::train::Decode;
use feedline_bench::units::parse_size;
use rustix::process::geteuid;
use serde::Serialize;

use super::stage::BUCKET;
use super::{Args, make_images, say};
use crate::failure::{Failure, Outcome};

/// Images without `--images`: enough that each of eight processes reads for some seconds.
const IMAGES: usize = 4_000;
/// Loader processes of each node without `--processes`.
const PROCESSES: usize = 2;

/// What `--json` prints and `cluster.json` holds.
#[derive(Debug, Serialize)]
struct ClusterReport {
    facts: Facts,
    nodes: usize,
    /// Loader processes of each node.
    processes: usize,
    shards: Shards,
    /// Time until the bucket sends the first byte.
    latency: String,
    /// What each link carries in each direction, if it is limited.
    link_bytes_per_s: Option<u64>,
    objects: u64,
    bytes: u64,
    /// GETs of all epochs for each object.
    gets_per_object: f64,
    epochs: Vec<ClusterEpoch>,
}

/// What must hold before anything is started.
pub(super) fn check(args: &Args) -> Outcome {
    if !geteuid().is_root() {
        let message = "--nodes needs root: each node gets a network namespace of its own";
        return Err(Failure::failed(message).way_out("run it as root, or without --nodes").into());
    }
    link_rate(args)?;
    Ok(0)
}

fn link_rate(args: &Args) -> Result<Option<u64>> {
    let Some(text) = &args.link else { return Ok(None) };
    let rate = parse_size(text.trim_end_matches("/s")).map_err(|error| {
        Failure::usage(format!("--link: {error}")).way_out("for example --link 125MB/s")
    })?;
    Ok(Some(rate))
}

/// Runs the epochs, prints the table, writes `cluster.json` into `out`.
pub(super) fn tell(args: &Args, nodes: usize, out: &Path, work: &Path) -> Result<()> {
    let (root, made) = make_images(args, IMAGES, work)?;
    let job = Job {
        processes: args.processes.unwrap_or(PROCESSES),
        shards: args.shards,
        epochs: args.epochs,
        decode: if args.decode { Decode::Jpeg } else { Decode::None },
    };
    say(
        args,
        format!(
            "Starting {nodes} nodes, each in a network namespace with a cache and a mount of its own; \
             the bucket beside them takes {} to the first byte ...",
            args.latency
        ),
    );
    let mut shape = Shape::new(nodes, &args.latency);
    shape.link_bytes_per_s = link_rate(args)?;
    let cluster = Nodes::start(&shape, &root, BUCKET, &work.join("nodes"))?;
    say(
        args,
        format!(
            "{} loader processes on each node read {} files ...",
            job.processes,
            which(job.shards)
        ),
    );
    let epochs = run(&cluster, &job, &mut |epoch| {
        say(args, format!("epoch {}: {:.0} images/s", epoch.epoch + 1, epoch.images_per_s));
    })?;
    cluster.discard()?;
    let report = ClusterReport {
        facts: Facts::collect(),
        nodes,
        processes: job.processes,
        shards: job.shards,
        latency: args.latency.clone(),
        link_bytes_per_s: shape.link_bytes_per_s,
        objects: made.files,
        bytes: made.bytes,
        gets_per_object: gets_per_object(&epochs),
        epochs,
    };
    say(args, format!("\n{}\n\n{}", table(&report.epochs), closing(&report)));
    let json = serde_json::to_string_pretty(&report)? + "\n";
    let path = out.join("cluster.json");
    std::fs::write(&path, &json).with_context(|| format!("write {}", path.display()))?;
    if args.json {
        print!("{json}");
    }
    Ok(())
}

fn which(shards: Shards) -> &'static str {
    match shards {
        Shards::Fixed => "the same shard in every epoch, all",
        Shards::Reshuffled => "another share in every epoch of all",
    }
}

/// What it comes to, in one sentence.
fn closing(report: &ClusterReport) -> String {
    let ClusterReport { nodes, objects, gets_per_object, epochs, .. } = report;
    let gets: u64 = epochs.iter().map(|epoch| epoch.requests.get).sum();
    let images: u64 = epochs.iter().map(|epoch| epoch.images).sum();
    format!(
        "{images} images read by {nodes} nodes cost {gets} GETs for {objects} objects: \
         {gets_per_object:.3} GETs an object."
    )
}
