//! How a comparison is carried out: data, bucket and mounts, round after round.
//!
//! # Invariants
//!
//! - Each system begins a round with an empty cache and a new daemon, and keeps them over its epochs; the daemon
//!   not over a `restart`, whose requests, and those of listing again, belong to the epoch.
//! - The bucket's files are in memory when an epoch begins, except for `ext4`, which is these files.
//! - What a system needs imported is imported once, before the first round, and is part of no figure.
//! - Another system begins each round. All read the same files; native readers in the same order.
//! - Nothing of it is left when the stage is dropped, except the data set.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::config::{Client, ClientKind, Config, State, SystemConfig, SystemKind};
use super::timeline::sampled;
use super::{Import, Key, LeftOut, Measured, Round, Sample, refuse_unequal_work};
use crate::caches::drop_caches;
use crate::dataset::{MakeArgs, make, progress_bar};
use crate::fio::Fio;
use crate::http::{Fetch, objects};
use crate::juicefs::{self, Volume};
use crate::loaders::{Job, Running};
use crate::read::{Order, Pass, Plan, ReadArgs};
use crate::targets::Contestant;
use crate::targets::lab::{Bucket, Mount, Scratch, take_away};
use crate::targets::system::System;
use crate::units::Latency;

/// The bucket's name: the folder that holds the data set.
const BUCKET: &str = "data";

/// Holds the mount that is measured, and its cache.
const MOUNT: &str = "mount";

/// Between these the images can be made.
const MIN_BYTES: u64 = 8_000;
const MAX_BYTES: u64 = 700_000;

/// Data, bucket, and scratch space. Dropping it takes the scratch away.
#[derive(Debug)]
pub(super) struct Stage {
    /// For caches and mountpoints; the first to go.
    home: Scratch,
    bucket: Bucket,
    /// The data set itself.
    source: PathBuf,
    /// The data set as JuiceFS has it.
    volume: Option<Volume>,
    pub(super) import: Option<Import>,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// What reads in one epoch.
enum Reader<'a> {
    Native(Plan),
    Fio(Fio<'a>),
    Loader(Running),
    Http { fetch: &'a Fetch, connections: usize },
}

impl Reader<'_> {
    fn epoch(&mut self, number: usize) -> Result<(Pass, Option<Latency>)> {
        match self {
            Self::Native(plan) => Ok((plan.pass(number)?, None)),
            Self::Fio(fio) => {
                let order = Order::Random.of(fio.files(), 1, number);
                Ok((fio.pass(&order)?, None))
            }
            Self::Loader(loader) => loader.epoch().map(|(pass, wait)| (pass, Some(wait))),
            Self::Http { fetch, connections } => {
                let order = Order::Random.of(fetch.objects.len(), 1, number);
                Ok((fetch.pass(*connections, &order, None)?, None))
            }
        }
    }
}

impl Stage {
    /// Makes the data set if it is not there, starts the bucket, and imports what must be imported.
    pub(super) fn prepare(config: &Config, dir: &Path) -> Result<Self> {
        let dir = crate::targets::scratch(dir)?;
        let data = &config.data;
        let name = format!("compare-{}-{}-{}", data.files, data.classes, data.mean_bytes);
        let source = dir.join(name).join(BUCKET);
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
        let home = Scratch::new(&dir)?;
        let bucket = start_bucket(config, &source, &buckets(&home))?;
        let (files, bytes) = (made.files, made.bytes);
        let mut this = Self { home, bucket, source, volume: None, import: None, files, bytes };
        if config.system.iter().any(|system| system.kind == SystemKind::Juicefs) {
            this.import()?;
        }
        Ok(this)
    }

    /// Copies the data set into a volume of JuiceFS.
    fn import(&mut self) -> Result<()> {
        eprintln!("importing into JuiceFS");
        let copy = buckets(&self.home).join(juicefs::BUCKET);
        fs::create_dir(&copy).with_context(|| format!("create {}", copy.display()))?;
        Self::warm(&self.source)?;
        let (before, started) = (self.bucket.requests()?, crate::time::now());
        let volume = Volume::import(&self.bucket.url, BUCKET, &self.home.join("juicefs"))?;
        let seconds = started.elapsed().as_secs_f64();
        let requests = self.bucket.requests()?.since(before);
        self.import = Some(Import { into: "JuiceFS".to_owned(), seconds, requests });
        self.volume = Some(volume);
        Ok(())
    }

    /// Every client with every system, all rounds, or those that a signal leaves.
    ///
    /// # Errors
    ///
    /// If two systems did unequal work.
    pub(super) fn measure(&self, config: &Config) -> Result<Measured> {
        let fetch = Fetch::new(&format!("{}/{BUCKET}", self.bucket.url), objects(&self.source)?)?;
        let mut measured = Measured::default();
        for (client, readers) in cases(config) {
            // A bare HTTP client stands in the place of readers: it goes with those alone.
            let fits = |system: &&SystemConfig| {
                system.kind != SystemKind::Http || client.kind == ClientKind::Native
            };
            let systems: Vec<&SystemConfig> = config.system.iter().filter(fits).collect();
            let first = measured.rounds.len();
            let who = client.name(readers);
            measured.rounds.extend(systems.iter().map(|system| {
                let key = Key {
                    client: who.clone(),
                    readers: client.loader().is_none().then_some(readers),
                    latency_of: client.latency_of(),
                    system: system.name.clone(),
                };
                (key, Vec::new())
            }));
            for round in 0..config.rounds {
                for turn in 0..systems.len() {
                    let place = (turn + round) % systems.len();
                    let system = systems[place];
                    let case = Case { config, client, readers, system, fetch: &fetch };
                    self.one_of(&case, round, first + place, &mut measured);
                    // Now and not after hours.
                    refuse_unequal_work(&measured.rounds)?;
                }
            }
        }
        measured.rounds.retain(|(_, rounds)| !rounds.is_empty());
        Ok(measured)
    }

    /// Measures one case once more, unless it failed before or a signal came.
    fn one_of(&self, case: &Case<'_>, round: usize, place: usize, into: &mut Measured) {
        let who = case.client.name(case.readers);
        let name = format!("{who} through {}", case.system.name);
        into.is_partial |= crate::interrupt::is_interrupted();
        if into.is_partial || into.failed.iter().any(|failed| failed.name == name) {
            return;
        }
        eprintln!("{who}, round {} of {}: {}", round + 1, case.config.rounds, case.system.name);
        let error = match self.one(case, round) {
            Ok(done) => return into.rounds[place].1.push(done),
            Err(error) => error,
        };
        take_away(&self.home.join(MOUNT));
        if crate::interrupt::is_interrupted() {
            into.is_partial = true;
            return;
        }
        let reason = format!("{error:#}");
        eprintln!("{name}: not measured: {reason}");
        into.failed.push(LeftOut { name, reason });
        into.rounds[place].1.clear();
    }

    /// All epochs of one case.
    fn one(&self, case: &Case<'_>, round: usize) -> Result<Round> {
        let kept = match case.system.kind {
            SystemKind::Juicefs => buckets(&self.home).join(juicefs::BUCKET),
            _ => self.source.clone(),
        };
        Self::warm(&kept)?;
        rustix::fs::sync();
        let mut mount = self.mount(case)?;
        let dir = mount.as_ref().map_or(&self.source, |mount| &mount.dir).clone();
        let mut reader = self.reader(case, &dir)?;
        let mut done = Round::default();
        for (number, state) in case.config.epochs.iter().enumerate() {
            // An empty cache on disk and a new mount are as cold as it gets; the plain file system has
            // only its pages to lose.
            if *state == State::Dropped || (*state == State::Cold && mount.is_none()) {
                drop_caches()?;
                if case.system.kind != SystemKind::Ext4 {
                    Self::warm(&kept)?;
                }
            }
            let before = self.bucket.requests()?;
            if *state == State::Restart
                && let Some(old) = mount.take()
            {
                drop(reader);
                old.end()?;
                mount = self.mount(case)?;
                reader = self.reader(case, &dir)?;
            }
            let mut wait = None;
            let work = || {
                let (pass, batch_wait) = reader.epoch(round * case.config.epochs.len() + number)?;
                wait = batch_wait;
                Ok(pass)
            };
            let measure = || Contestant::measured(&self.bucket, mount.as_ref(), work);
            let mut contestant = if round == 0 && number == 0 {
                let (contestant, points) = sampled(&self.bucket, mount.as_ref(), measure)?;
                done.timeline = points;
                contestant
            } else {
                measure()?
            };
            if *state == State::Restart {
                contestant.requests = Some(self.bucket.requests()?.since(before));
            }
            let has_fetched = contestant.requests.is_none_or(|requests| 0 < requests.get);
            let disk_bytes = mount.as_ref().map(|mount| mount.disk_bytes(has_fetched));
            contestant.disk_bytes = disk_bytes.transpose()?;
            let contestant = contestant.renamed(&case.system.name);
            done.epochs.push(Sample { contestant, batch_wait: wait });
        }
        drop(reader);
        mount.map_or(Ok(()), Mount::discard)?;
        Ok(done)
    }

    /// A mount of what stands between client and bucket, with the cache that is there; `None` for what is no mount.
    fn mount(&self, case: &Case<'_>) -> Result<Option<Mount>> {
        let system = self.system(case.system)?;
        let home = self.home.join(MOUNT);
        system.map(|system| Mount::new(&system, &self.bucket, BUCKET, &home)).transpose()
    }

    /// A bucket's files into memory: what is measured is never the disk below the bucket.
    fn warm(files: &Path) -> Result<()> {
        Plan::new(&ReadArgs::new(files))?.pass(0).map(drop)
    }

    /// `None` for what is no mount.
    fn system(&self, config: &SystemConfig) -> Result<Option<System>> {
        let (cached, flags) = (config.cached, config.flags.clone());
        Ok(Some(match config.kind {
            SystemKind::Ext4 | SystemKind::Http => return Ok(None),
            SystemKind::Feedline => System::Feedline { name: config.name.clone(), flags },
            SystemKind::S3fs => System::S3fs { cached },
            SystemKind::Rclone => System::Rclone { cached },
            SystemKind::Juicefs => {
                let volume = self.volume.clone().context("nothing was imported into JuiceFS")?;
                System::Juicefs { volume, cached, flags }
            }
        }))
    }

    fn reader<'a>(&self, case: &Case<'a>, dir: &Path) -> Result<Reader<'a>> {
        let client = case.client;
        if case.system.kind == SystemKind::Http {
            let fetch = case.fetch;
            let connections = fetch.best_connections(&case.system.connections)?;
            return Ok(Reader::Http { fetch, connections });
        }
        if client.kind == ClientKind::Fio {
            // As a native reader does before its epochs.
            crate::files::list_tree(dir)?;
            let files = &case.fetch.objects;
            return Ok(Reader::Fio(Fio::new(dir, &self.home, files, case.readers)?));
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

/// The folder whose folders are the buckets: scratch, into which the data set is linked, so that another
/// bucket beside it is scratch too.
fn buckets(home: &Path) -> PathBuf {
    home.join("buckets")
}

/// Serves `source` as [`BUCKET`] from below `root`, which is made.
fn start_bucket(config: &Config, source: &Path, root: &Path) -> Result<Bucket> {
    fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
    std::os::unix::fs::symlink(source, root.join(BUCKET)).context("link the data set")?;
    let shape = &config.bucket;
    let mut flags = vec!["--latency".to_owned(), shape.latency.clone()];
    if let Some(bandwidth) = &shape.bandwidth {
        flags.extend(["--bandwidth".to_owned(), bandwidth.clone()]);
    }
    flags.extend(shape.flags.iter().cloned());
    Bucket::start(root, &flags)
}
