//! The cold rows: what reads from an empty cache cost, against a bare HTTP client on the same bucket.
//!
//! # Invariants
//!
//! - Every contestant begins with an empty cache, a new daemon, and dropped kernel caches, and the
//!   bucket's own files are read into memory first: what is measured is never the disk below the bucket.
//! - The HTTP client gets the same objects with the number of connections that was best for it before
//!   the first round.
//! - Nothing is removed within a round: see `Lab::cold_round`.
//! - s3fs and demand-only reads would need minutes for the whole data set: they read a part, and their
//!   files a second are compared. The note says how many files it were.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::groups::{Collector, Lab};
use super::lab::{Bucket, Mount};
use super::rows::Cold;
use super::sample::Contestant;
use super::system::System;
use crate::caches::{drop_caches, level};
use crate::files::list_tree;
use crate::http::{Fetch, objects};
use crate::loaders::{Job, Loader, Running};
use crate::read::{Order, Pass, Plan, ReadArgs};
use crate::train::{Decode, EpochResult, ReadOrder, TrainArgs, train};

/// Flags of each Feedline contestant beyond the table's: one place for all of them.
const UNKNOWN_ORDER: &[&str] = &[];
const KNOWN_ORDER: &[&str] = &[];
const DEMAND_ONLY: &[&str] = &["--fill=off", "--oracle=off"];

/// What the capped bucket gives in all: the usual case of a link slower than the CPU.
pub(super) const CAP: &str = "250MB/s";
/// Holds what the contestants of a round keep.
const COLD: &str = "kept";
/// What the contestants of a round keep, at most.
const ROUND_BYTES_MAX: u64 = 20 << 30;
/// Connections that the bare client tries; the best is its measure.
const CONNECTIONS: [usize; 4] = [16, 64, 128, 256];
/// Files that readers take on demand: some seconds, and long enough to be steady.
const DEMAND_FILES: usize = 2_000;
/// Processes of a training job on this node, and readers of a plain pass.
const PROCESSES: usize = 8;
/// A batch and the step after it that let eight processes take three quarters of the capped bucket's
/// files of 110 KB: readers slower than the cap.
const PACED: (usize, u64) = (16, 75);

/// A bare client on a bucket, with the connections that are best for it.
struct Bare<'a> {
    bucket: &'a Bucket,
    fetch: Fetch,
    connections: usize,
}

impl<'a> Bare<'a> {
    /// Tries how many connections are best.
    fn new(lab: &Lab, bucket: &'a Bucket) -> Result<Self> {
        let small = lab.root.join("small");
        let fetch = Fetch::new(&format!("{}/small", bucket.url), objects(&small)?)?;
        let connections = fetch.best_connections(&CONNECTIONS)?;
        Ok(Self { bucket, fetch, connections })
    }

    /// Gets everything once; `write` keeps it below a folder.
    fn get(&self, round: usize, write: Option<&Path>) -> Result<Contestant> {
        let order = Order::Random.of(self.fetch.objects.len(), 1, round);
        let pass = || self.fetch.pass(self.connections, &order, write);
        let got = Contestant::measured(self.bucket, None, pass)?;
        let how = if write.is_some() { "http, writing," } else { "http" };
        Ok(got.renamed(&format!("{how} {} connections", self.connections)))
    }
}

pub(super) fn feedline(name: &str, flags: &[&str]) -> System {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    System::Feedline { name: name.to_owned(), flags }
}

/// `files` of a folder in random order with 8 readers; 0 reads all.
fn readers(mount: &Mount, files: usize, round: usize) -> Result<Pass> {
    Plan::new(&ReadArgs { files, ..ReadArgs::new(&mount.dir) })?.pass(round)
}

/// Eight processes of a training job in a known order.
pub(super) fn job_args(mount: &Mount, order: ReadOrder, paced: bool) -> TrainArgs {
    let mut args = TrainArgs::new(&mount.dir.join("train"), 1, PROCESSES);
    let settings = &mut args.settings;
    (settings.order, settings.decode, settings.no_mmap) = (order, Decode::None, true);
    (settings.step_ms, settings.print_freq) = (0, 0);
    if paced {
        (settings.batch_size, settings.step_ms) = PACED;
        settings.initial_fill = settings.batch_size;
    }
    args
}

/// An epoch of a job as a pass; the latency is that of files opened later than 2 s after the start.
pub(super) fn pass_of(epoch: &EpochResult) -> Pass {
    Pass {
        files: epoch.images,
        bytes: epoch.bytes,
        seconds: epoch.seconds,
        files_per_s: epoch.images_per_s,
        mb_per_s: epoch.bytes as f64 / 1e6 / epoch.seconds.max(f64::MIN_POSITIVE),
        cpu_seconds: epoch.processes.iter().map(|part| part.cpu_seconds).sum(),
        latency: epoch.settled,
    }
}

/// One epoch of such a job.
fn job(mount: &Mount, order: ReadOrder, paced: bool) -> Result<Pass> {
    let result = train(&job_args(mount, order, paced), &mut |_, _| {})?;
    result.epochs.first().map(pass_of).context("one epoch")
}

/// Room on the file system of `dir`.
fn free_bytes(dir: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(dir).with_context(|| format!("look at {}", dir.display()))?;
    Ok(found.f_bavail * found.f_frsize)
}

impl Lab {
    /// Measures a cold group, all rounds.
    pub(super) fn cold(&self, cold: Cold, into: &mut Collector<'_>) -> Result<()> {
        let latency = self.latency.as_str();
        let capped = ["--latency", latency, "--bandwidth", CAP];
        match cold {
            Cold::Capped => self.capped(&Bucket::start(&self.root, &capped)?, into),
            Cold::Uncapped => self.uncapped(into),
            Cold::Loaders => self.loaders(&Bucket::start(&self.root, &capped)?, into),
        }
    }

    /// A folder that nobody had before, for what a contestant keeps until the end of the round.
    fn cold_home(&self) -> PathBuf {
        let kept = self.home.join(COLD);
        let number = std::fs::read_dir(&kept).map_or(0, Iterator::count);
        kept.join(number.to_string())
    }

    /// Begins a round, long after anything was removed (see [`crate::caches::Removals`]). So nothing is removed within a
    /// round, nor between two as long as the disk has room.
    pub(super) fn cold_round(&self, into: &Collector<'_>, round: usize) -> Result<()> {
        let kept = self.home.join(COLD);
        if kept.exists() && free_bytes(&self.home)? < ROUND_BYTES_MAX {
            std::fs::remove_dir_all(&kept).context("remove what the last rounds kept")?;
            self.removals.note();
        }
        self.removals.forget(into.progress)?;
        into.round(self, round)
    }

    /// `work` through a new mount of `data` with an empty cache.
    pub(super) fn cold_pass(
        &self,
        bucket: &Bucket,
        system: &System,
        data: &str,
        work: impl FnOnce(&Mount) -> Result<Pass>,
    ) -> Result<Contestant> {
        level(&self.root.join(data))?;
        let mount = Mount::new(system, bucket, data, &self.cold_home())?;
        // Listing is no part of a pass.
        list_tree(&mount.dir)?;
        let mut contestant = Contestant::measured(bucket, Some(&mount), || work(&mount))?;
        if matches!(system, System::Feedline { .. }) {
            let sets = mount.status()?.fill.data_sets;
            contestant.recognised_after =
                sets.iter().map(|set| set.recognised_after).find(|after| *after > 0);
        }
        mount.end()?;
        Ok(contestant)
    }

    /// How many files readers take on demand.
    pub(super) fn demand_files(&self) -> usize {
        DEMAND_FILES.min(self.files as usize / 4)
    }

    fn capped(&self, bucket: &Bucket, into: &mut Collector<'_>) -> Result<()> {
        let bare = Bare::new(self, bucket)?;
        let part = self.demand_files();
        for round in 0..self.rounds {
            self.cold_round(into, round)?;
            let http = || bare.get(round, None);
            let unknown = feedline("fill", UNKNOWN_ORDER);
            let fill =
                self.cold_pass(bucket, &unknown, "small", |mount| readers(mount, 0, round))?;
            into.compare("cold-capped-fill", &fill, &http()?);
            let demand = feedline("demand-only", DEMAND_ONLY);
            let demand = self.cold_pass(bucket, &demand, "small", |at| readers(at, part, round))?;
            into.compare("cold-capped-demand", &fill, &demand);
            let s3fs = System::S3fs { cached: true };
            let s3fs = self.cold_pass(bucket, &s3fs, "subset", |at| readers(at, 0, round))?;
            into.compare("cold-capped-s3fs", &fill, &s3fs);
            for (name, order) in
                [("dali", ReadOrder::Dali), ("distributed", ReadOrder::Distributed)]
            {
                let known = feedline(name, KNOWN_ORDER);
                let full = self.cold_pass(bucket, &known, "small", |at| job(at, order, false))?;
                into.compare(&format!("cold-capped-{name}"), &full, &http()?);
                let reads = full.recognised_after.map_or(f64::INFINITY, |after| after as f64);
                into.add(&format!("identified-{name}"), reads, vec![full]);
                let paced = self.cold_pass(bucket, &known, "small", |at| job(at, order, true))?;
                let p99 = paced.pass.as_ref().map_or(f64::INFINITY, |pass| pass.latency.p99_us);
                into.add(&format!("cold-paced-{name}"), p99 / 1e3, vec![paced]);
            }
        }
        Ok(())
    }

    fn uncapped(&self, into: &mut Collector<'_>) -> Result<()> {
        let bare = Bare::new(self, &self.bucket)?;
        for round in 0..self.rounds {
            self.cold_round(into, round)?;
            let system = feedline("fill", UNKNOWN_ORDER);
            let read = |mount: &Mount| readers(mount, 0, round);
            let fill = self.cold_pass(&self.bucket, &system, "small", read)?;
            into.compare("cold-uncapped", &fill, &bare.get(round, None)?);
            let peak = fill.peak_resident_bytes.unwrap_or(u64::MAX) as f64 / f64::from(1 << 20);
            into.add("cold-resident", peak, vec![fill.clone()]);
            level(&self.root.join("small"))?;
            let writing = bare.get(round, Some(&self.cold_home()))?;
            let own = fill.cost.map_or(f64::INFINITY, |cost| cost.daemon_cpu_s_per_gb);
            let client = writing.cost.map_or(0.0, |cost| cost.readers_cpu_s_per_gb);
            into.add("cold-cpu", own / client, vec![fill, writing]);
        }
        Ok(())
    }

    fn loaders(&self, bucket: &Bucket, into: &mut Collector<'_>) -> Result<()> {
        let bare = Bare::new(self, bucket)?;
        for round in 0..self.rounds {
            self.cold_round(into, round)?;
            for (name, loader, processes, workers) in
                [("dali", Loader::Dali, 2, 1), ("torch", Loader::Torch, 1, 4)]
            {
                let job = |decode| Job {
                    loader,
                    decode,
                    processes,
                    workers,
                    batch_size: 64,
                    step_ms: 0,
                    no_mmap: false,
                };
                let decode = job(Decode::Jpeg);
                let system = feedline(name, KNOWN_ORDER);
                let run = |at: &Mount| self.load(&decode, &at.dir);
                let ours = self.cold_pass(&self.bucket, &system, "medium", run)?;
                drop_caches()?;
                let dir = self.root.join("medium");
                let plain = || self.load(&decode, &dir);
                let ext4 = Contestant::measured(&self.bucket, None, plain)?;
                into.compare(&format!("cold-{name}-decode"), &ours, &ext4);
                let only = job(Decode::None);
                let run = |at: &Mount| self.load(&only, &at.dir);
                let ours = self.cold_pass(bucket, &system, "small", run)?;
                into.compare(&format!("cold-{name}-read"), &ours, &bare.get(round, None)?);
            }
        }
        Ok(())
    }

    /// One epoch of a real loader.
    fn load(&self, job: &Job, dir: &Path) -> Result<Pass> {
        Ok(Running::start(job, dir, 1, &self.home)?.epoch()?.0)
    }
}
