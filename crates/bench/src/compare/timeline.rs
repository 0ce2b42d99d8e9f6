//! What bucket and daemon say of themselves while an epoch runs, sampled from their own counters.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use feedline_node::{Client, locate};
use serde::{Deserialize, Serialize};

use crate::targets::lab::{Bucket, Mount};
use crate::time::now;

/// How often: dense enough for an epoch of some seconds, and no load (under 1 ms of CPU each).
const EVERY: Duration = Duration::from_millis(200);
/// Points kept of one epoch: half an hour.
const POINTS_MAX: usize = 9_000;

/// One moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Seconds since the epoch began.
    pub seconds: f64,
    /// Requests that the bucket was answering.
    pub in_flight: u64,
    /// Millions of bytes a second from the bucket since the point before.
    pub mb_per_s: f64,
    /// Reads and opens that Feedline answered from its cache since the point before, of all; `None` when
    /// there were none, and for other systems.
    pub hit_rate: Option<f64>,
}

/// Runs `work` and samples meanwhile.
///
/// # Errors
///
/// Those of `work`. A sample that fails ends the sampling only.
pub(super) fn sampled<T>(
    bucket: &Bucket,
    mount: Option<&Mount>,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Point>)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(bucket, mount, &done));
        let result = work();
        done.store(true, Ordering::Relaxed);
        let points = sampler.join().expect("the sampler does not panic");
        Ok((result?, points))
    })
}

fn sample(bucket: &Bucket, mount: Option<&Mount>, done: &AtomicBool) -> Vec<Point> {
    let (started, mut points) = (now(), Vec::new());
    let hits = mount.and_then(|mount| Hits::of(mount).ok());
    let (mut time, mut bytes, mut seen) = (0.0, None, None);
    while !done.load(Ordering::Relaxed) && points.len() < POINTS_MAX {
        let Ok(stats) = bucket.counters() else { break };
        let (seconds, count) = (started.elapsed().as_secs_f64(), |name: &str| stats[name].as_u64());
        let out = count("bytes_out").unwrap_or_default();
        let mb_per_s = bytes.map_or(0.0, |before| (out - before) as f64 / 1e6 / (seconds - time));
        let now = hits.as_ref().and_then(|hits| hits.count().ok());
        let hit_rate = now.zip(seen).and_then(|((hit, all), (hit_before, all_before))| {
            (all > all_before).then(|| (hit - hit_before) as f64 / (all - all_before) as f64)
        });
        let in_flight = count("in_flight").unwrap_or_default();
        points.push(Point { seconds, in_flight, mb_per_s, hit_rate });
        (time, bytes, seen) = (seconds, Some(out), now);
        crate::time::sleep(EVERY);
    }
    points
}

/// Asks a Feedline daemon how many reads it answered from its cache.
struct Hits {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Hits {
    fn of(mount: &Mount) -> Result<Self> {
        let run_dir = std::env::var_os("FEEDLINE_RUN_DIR")
            .map_or_else(feedline_node::paths::run_dir_default, PathBuf::from);
        let (daemon, _) = locate(&run_dir, &mount.dir)?.context("no daemon serves it")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { client: Client::new(daemon.socket(), mount.dir.display().to_string()), runtime })
    }

    /// Hits, and hits and misses together.
    fn count(&self) -> Result<(u64, u64)> {
        let reads = self.runtime.block_on(self.client.status())?.reads;
        Ok((reads.hits, reads.hits + reads.misses))
    }
}
