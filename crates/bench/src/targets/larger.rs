//! A data set of twice the cache, through the mount: how many files are there when they are opened.
//!
//! A hit is an open that finds the file whole in the cache, whoever brought it: the loader then waits for
//! no request. A file that is still on its way counts as missed. The hit rate of the epochs after the
//! first is compared with the cache's share of the data, which is what the best eviction reaches
//! without fetching ahead (docs/decisions/007).
//!
//! # Invariants
//!
//! - The cache may take half of the bytes of the files; what it needs for itself counts in it.
//! - An unknown order is another random one in each epoch, read by 8 readers as fast as they can. The known
//!   one is DALI's, read by 8 processes with a pause, so that they want three quarters of what the
//!   capped bucket gives: whoever wants more than it gives waits for the bucket whatever is known.

use anyhow::{Result, ensure};

use super::cold::{CAP, feedline, job_args, pass_of};
use super::groups::{Collector, Lab};
use super::lab::{Bucket, Mount};
use super::sample::Contestant;
use crate::read::{Pass, Plan, ReadArgs};
use crate::train::{ReadOrder, Train};

/// The bucket that is read.
const DATA: &str = "medium";
/// Epochs, of which the first fills the cache and does not count.
const EPOCHS: usize = 4;
/// `feedline mount` takes no smaller cache: with `--quick` it is more than half.
const CACHE_BYTES_MIN: u64 = 64 << 20;

/// Who reads.
enum Loader {
    Readers(Plan),
    Processes(Train),
}

impl Loader {
    fn epoch(&mut self, round: usize, epoch: usize) -> Result<Pass> {
        match self {
            Self::Readers(plan) => plan.pass(round * EPOCHS + epoch),
            Self::Processes(train) => Ok(pass_of(&train.epoch(epoch, &mut |_, _| {})?)),
        }
    }
}

impl Lab {
    /// Measures both rows, all rounds.
    pub(super) fn larger(&self, into: &mut Collector<'_>) -> Result<()> {
        let flags = ["--latency", self.latency.as_str(), "--bandwidth", CAP];
        let bucket = Bucket::start(&self.root, &flags)?;
        let mut rows = [("larger-unknown", false), ("larger-known", true)];
        for round in 0..self.rounds {
            into.round(self, round)?;
            for (row, known) in rows {
                self.one_larger(&bucket, (row, known), round, into)?;
            }
            rows.rotate_left(1);
        }
        Ok(())
    }

    /// All epochs through one mount.
    fn one_larger(
        &self,
        bucket: &Bucket,
        (row, known): (&str, bool),
        round: usize,
        into: &mut Collector<'_>,
    ) -> Result<()> {
        let (files, bytes) = self.size_of(DATA)?;
        // The bucket's files into memory.
        Plan::new(&ReadArgs::new(&self.root.join(DATA)))?.pass(0)?;
        let home = self.home.join("larger");
        let quota = (bytes / 2).max(CACHE_BYTES_MIN);
        let cache = format!("--cache={}:{quota}B", home.join("cache").display());
        let name = if known { "known order" } else { "unknown order" };
        let mount = Mount::new(&feedline(name, &[&cache]), bucket, DATA, &home)?;
        let mut loader = if known {
            Loader::Processes(Train::start(&job_args(&mount, ReadOrder::Dali, true))?)
        } else {
            Loader::Readers(Plan::new(&ReadArgs::new(&mount.dir))?)
        };
        let (mut warm, mut hits, mut opens) = (Vec::new(), 0, 0);
        for epoch in 0..EPOCHS {
            let before = opened(&mount)?;
            let work = || loader.epoch(round, epoch);
            let mut done = Contestant::measured(bucket, Some(&mount), work)?;
            let after = opened(&mount)?;
            let (hit, all) = (after.0 - before.0, after.1 - before.1);
            ensure!(all >= files, "{all} opens for {files} files");
            done.hit_rate = Some(hit as f64 / all as f64);
            if epoch > 0 {
                (hits, opens) = (hits + hit, opens + all);
                warm.push(done);
            }
        }
        if let Loader::Processes(train) = loader {
            train.end()?;
        }
        mount.discard()?;
        let share = (quota as f64 / bytes as f64).min(1.0);
        into.add(row, hits as f64 / opens as f64 / share, warm);
        Ok(())
    }
}

/// Opens that found their file whole, and all opens, since the mount began.
fn opened(mount: &Mount) -> Result<(u64, u64)> {
    let reads = mount.status()?.reads;
    Ok((reads.passthrough_opens, reads.passthrough_opens + reads.cached_opens))
}
