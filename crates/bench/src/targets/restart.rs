//! How long a daemon with a million cached objects needs from its start to the first byte.
//!
//! # Invariants
//!
//! - The objects are real: read once through a mount, so that cache and listings on disk are what a
//!   training job would have left. The daemon before was asked to end.
//! - The kernel's caches are dropped before each start, and the bucket is asked for nothing.

use std::fs::File;
use std::io::Read as _;

use anyhow::{Context, Result, ensure};

use super::data::{MILLION, million_path};
use super::groups::{Collector, FILL_READERS, Lab};
use super::lab::{Mount, wait_until};
use super::sample::Contestant;
use super::system::System;
use crate::caches::drop_caches;
use crate::dataset::Random;
use crate::read::{Pass, Plan, ReadArgs};
use crate::time::now;

impl Lab {
    /// Fills a cache, then measures all rounds.
    pub(super) fn restart(&self, into: &mut Collector<'_>) -> Result<()> {
        let (system, home) = (System::feedline("passthrough"), self.home.join(MILLION));
        (into.progress)("caching the objects, some minutes");
        let (files, _) = self.size_of(MILLION)?;
        self.bucket.know(MILLION)?;
        let mount = Mount::new(&system, &self.bucket, MILLION, &home)?;
        let args = ReadArgs { readers: FILL_READERS, ..ReadArgs::new(&mount.dir) };
        Plan::new(&args)?.pass(0)?;
        // The last ones are on their way to the disk.
        let is_whole = || Ok(mount.status()?.cache[0].objects == files);
        ensure!(wait_until(is_whole)?, "not all of {files} objects were kept");
        mount.end()?;
        for round in 0..self.rounds {
            into.round(self, round)?;
            let path = million_path(Random::new(1, round as u64).below(files as usize));
            drop_caches()?;
            let before = self.bucket.requests()?;
            let started = now();
            let mount = Mount::new(&system, &self.bucket, MILLION, &home)?;
            let mut byte = [0];
            let mut read = || File::open(mount.dir.join(&path))?.read_exact(&mut byte);
            read().with_context(|| format!("read {}", path.display()))?;
            let took = started.elapsed();
            let requests = self.bucket.requests()?.since(before);
            ensure!(requests.total() == 0, "it was not served from the cache: {requests:?}");
            ensure!(byte == *b"x", "another byte");
            let seconds = took.as_secs_f64();
            let pass = Pass { files: 1, bytes: 1, seconds, ..Pass::default() };
            let mut done = Contestant::measured(&self.bucket, Some(&mount), || Ok(pass))?;
            // That of nothing: the work was done before.
            done.cost = None;
            into.add("restart-million", seconds, vec![done]);
            mount.end()?;
        }
        std::fs::remove_dir_all(&home).with_context(|| format!("remove {}", home.display()))
    }
}
