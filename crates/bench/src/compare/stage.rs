//! How a comparison is carried out: data, bucket and mounts, round after round.
//!
//! # Invariants
//!
//! - Each system begins a round with an empty cache and a new daemon, and keeps them over its epochs.
//! - The bucket's files are in memory when an epoch begins, except for `ext4`, which is these files.
//! - Another system begins each round. All read the same files; native readers in the same order.
//! - Nothing of it is left when the stage is dropped, except the data set.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::config::{Client, Config, State, SystemConfig, SystemKind};
use super::timeline::sampled;
use super::{Key, Round, Rounds, Sample};
use crate::caches::drop_caches;
use crate::dataset::{MakeArgs, make, progress_bar};
use crate::http::{Fetch, objects};
use crate::loaders::{Job, Running};
use crate::read::{Order, Pass, Plan, ReadArgs};
use crate::targets::Contestant;
use crate::targets::lab::{Bucket, Mount, detach};
use crate::targets::system::System;
use crate::units::Latency;

/// The bucket's name: the folder that holds the data set.
const BUCKET: &str = "data";

/// Between these the images can be made.
const MIN_BYTES: u64 = 8_000;
const MAX_BYTES: u64 = 700_000;

/// Data, bucket, and scratch space. Dropping it takes the scratch away.
#[derive(Debug)]
pub(super) struct Stage {
    bucket: Bucket,
    /// The data set itself.
    source: PathBuf,
    /// For caches and mountpoints.
    home: PathBuf,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Drop for Stage {
    fn drop(&mut self) {
        detach(&self.home);
        if let Err(error) = fs::remove_dir_all(&self.home) {
            eprintln!("cannot remove {}: {error}", self.home.display());
        }
    }
}

/// What reads in one epoch.
enum Reader<'a> {
    Native(Plan),
    Loader(Running),
    Http { fetch: &'a Fetch, connections: usize },
}

impl Reader<'_> {
    fn epoch(&mut self, number: usize) -> Result<(Pass, Option<Latency>)> {
        match self {
            Self::Native(plan) => Ok((plan.pass(number)?, None)),
            Self::Loader(loader) => loader.epoch().map(|(pass, wait)| (pass, Some(wait))),
            Self::Http { fetch, connections } => {
                let order = Order::Random.of(fetch.objects.len(), 1, number);
                Ok((fetch.pass(*connections, &order, None)?, None))
            }
        }
    }
}

impl Stage {
    /// Makes the data set if it is not there, and starts the bucket.
    pub(super) fn prepare(config: &Config, dir: &Path) -> Result<Self> {
        let dir = crate::targets::scratch(dir)?;
        let data = &config.data;
        let name = format!("compare-{}-{}-{}", data.files, data.classes, data.mean_bytes);
        let root = dir.join(name);
        let source = root.join(BUCKET);
        let bar = progress_bar("images");
        let made = make(
            &MakeArgs {
                mean: data.mean_bytes,
                min: (data.mean_bytes / 5).max(MIN_BYTES),
                max: (data.mean_bytes * 4).min(MAX_BYTES),
                ..MakeArgs::new(&source, data.files, data.classes, 1)
            },
            &bar,
        )?;
        bar.finish_and_clear();
        let home = dir.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let shape = &config.bucket;
        let mut flags = vec!["--latency".to_owned(), shape.latency.clone()];
        if let Some(bandwidth) = &shape.bandwidth {
            flags.extend(["--bandwidth".to_owned(), bandwidth.clone()]);
        }
        flags.extend(shape.flags.iter().cloned());
        let bucket = Bucket::start(&root, &flags);
        let bucket = bucket.inspect_err(|_| drop(fs::remove_dir(&home)))?;
        Ok(Self { bucket, source, home, files: made.files, bytes: made.bytes })
    }

    /// Every client with every system, all rounds.
    pub(super) fn measure(&self, config: &Config) -> Result<Rounds> {
        let fetch = Fetch::new(&format!("{}/{BUCKET}", self.bucket.url), objects(&self.source)?)?;
        let mut rounds: Rounds = Vec::new();
        for (client, readers) in cases(config) {
            // A bare HTTP client stands in the place of readers: it goes with those alone.
            let fits = |system: &&SystemConfig| {
                system.kind != SystemKind::Http || client.loader().is_none()
            };
            let systems: Vec<&SystemConfig> = config.system.iter().filter(fits).collect();
            let first = rounds.len();
            let who = client.name(readers);
            rounds.extend(systems.iter().map(|system| {
                let readers = client.loader().is_none().then_some(readers);
                let key: Key = (who.clone(), readers, system.name.clone());
                (key, Vec::new())
            }));
            for round in 0..config.rounds {
                for turn in 0..systems.len() {
                    let place = (turn + round) % systems.len();
                    let system = systems[place];
                    crate::interrupt::check()?;
                    eprintln!("{who}, round {} of {}: {}", round + 1, config.rounds, system.name);
                    let case = Case { config, client, readers, system, fetch: &fetch };
                    let done = self.one(&case, round);
                    let done = done.with_context(|| format!("{who} through {}", system.name))?;
                    rounds[first + place].1.push(done);
                }
            }
        }
        Ok(rounds)
    }

    /// All epochs of one case.
    fn one(&self, case: &Case<'_>, round: usize) -> Result<Round> {
        self.warm_bucket()?;
        rustix::fs::sync();
        let home = self.home.join("mount");
        let system = system_of(case.system);
        let mount = system.as_ref().map(|it| Mount::new(it, &self.bucket, BUCKET, &home));
        let mount = mount.transpose()?;
        let dir = mount.as_ref().map_or(&self.source, |mount| &mount.dir);
        let mut reader = self.reader(case, dir)?;
        let mut done = Round::default();
        for (number, state) in case.config.epochs.iter().enumerate() {
            // An empty cache on disk and a new mount are as cold as it gets; the plain file system has
            // only its pages to lose.
            if *state == State::Dropped || (*state == State::Cold && mount.is_none()) {
                drop_caches()?;
                if case.system.kind != SystemKind::Ext4 {
                    self.warm_bucket()?;
                }
            }
            let mut wait = None;
            let work = || {
                let (pass, batch_wait) = reader.epoch(round * case.config.epochs.len() + number)?;
                wait = batch_wait;
                Ok(pass)
            };
            let measure = || Contestant::measured(&self.bucket, mount.as_ref(), work);
            let contestant = if round == 0 && number == 0 {
                let (contestant, points) = sampled(&self.bucket, mount.as_ref(), measure)?;
                done.timeline = points;
                contestant
            } else {
                measure()?
            };
            let contestant = contestant.renamed(&case.system.name);
            done.epochs.push(Sample { contestant, batch_wait: wait });
        }
        drop(reader);
        mount.map_or(Ok(()), Mount::discard)?;
        Ok(done)
    }

    /// The bucket's files into memory: what is measured is never the disk below the bucket.
    fn warm_bucket(&self) -> Result<()> {
        Plan::new(&ReadArgs::new(&self.source))?.pass(0).map(drop)
    }

    fn reader<'a>(&self, case: &Case<'a>, dir: &Path) -> Result<Reader<'a>> {
        let client = case.client;
        if case.system.kind == SystemKind::Http {
            let fetch = case.fetch;
            let connections = fetch.best_connections(&case.system.connections)?;
            return Ok(Reader::Http { fetch, connections });
        }
        let Some(loader) = client.loader() else {
            let args = ReadArgs { readers: case.readers, ..ReadArgs::new(dir) };
            return Ok(Reader::Native(Plan::new(&args)?));
        };
        let job = Job {
            loader,
            decode: client.decode,
            processes: client.processes,
            workers: client.workers,
            batch_size: client.batch_size,
            step_ms: client.step_ms,
            no_mmap: client.no_mmap,
        };
        Ok(Reader::Loader(Running::start(&job, dir, case.config.epochs.len(), &self.home)?))
    }
}

/// One client with one system.
struct Case<'a> {
    config: &'a Config,
    client: &'a Client,
    readers: usize,
    system: &'a SystemConfig,
    fetch: &'a Fetch,
}

/// Each client; a native one with each number of readers.
fn cases(config: &Config) -> Vec<(&Client, usize)> {
    let each = |client: &Client| match client.loader() {
        None => client.readers.clone(),
        Some(_) => vec![client.processes],
    };
    config
        .client
        .iter()
        .flat_map(|client| each(client).into_iter().map(move |readers| (client, readers)))
        .collect()
}

/// `None` for what is no mount.
fn system_of(config: &SystemConfig) -> Option<System> {
    match config.kind {
        SystemKind::Ext4 | SystemKind::Http => None,
        SystemKind::Feedline => {
            Some(System::Feedline { name: config.name.clone(), flags: config.flags.clone() })
        }
        SystemKind::S3fs => Some(System::S3fs { cached: config.cached }),
        SystemKind::Rclone => Some(System::Rclone { cached: config.cached }),
    }
}
