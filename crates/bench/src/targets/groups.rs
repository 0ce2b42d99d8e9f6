//! How each group is measured: rounds in which the contestants take turns, from a fresh mount.
//!
//! # Invariants
//!
//! - All contestants of a round read the same files in the same order with the same reader threads;
//!   the next round has another order, and another contestant begins.
//! - Listing is never part of a pass: it is done before caches are dropped.
//! - A group ends with no mount of its own left, also by an error.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::lab::{Bucket, Mount, Scratch, memory_bytes};
use super::rows::{Cache, Group, LARGE, MODES, large_name, small_name};
use super::sample::{Contestant, Requests, Sample};
use super::system::System;
use crate::caches::{Removals, drop_caches};
use crate::files::list_tree;
use crate::read::{Access, Plan, ReadArgs};

/// Readers that fill a cache: what is measured there is not speed, and 8 would wait for the bucket.
pub(super) const FILL_READERS: usize = 64;
/// Passes until a cache must be whole: the first reads, large objects are completed behind it.
const FILL_PASSES_MAX: usize = 5;

/// What was read a moment ago may still be on its way to the disk, in memory twice.
const SETTLE: Duration = Duration::from_secs(2);

/// What the groups share: the bucket, its folders, and scratch space. Dropping it removes the scratch.
#[derive(Debug)]
pub(super) struct Lab {
    /// For caches and mountpoints; the first to go.
    pub(super) home: Scratch,
    pub(super) bucket: Bucket,
    /// Holds a folder per bucket: `small`, `large`, `many`, `subset`. Read directly they are the ext4
    /// yardstick.
    pub(super) root: PathBuf,
    /// Files, their bytes and class folders of `small`.
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) folders: u64,
    /// Rounds of every group.
    pub(super) rounds: usize,
    /// Time to the first byte of the bucket.
    pub(super) latency: String,
    /// When files were removed: a cold pass waits until that costs it nothing.
    pub(super) removals: Removals,
}

/// Samples by row, and where to say how far it is.
pub(super) struct Collector<'a> {
    pub(super) samples: BTreeMap<String, Vec<Sample>>,
    pub(super) progress: &'a dyn Fn(&str),
}

impl Collector<'_> {
    /// Adds how many times as many files a second `ours` read as `theirs`.
    pub(super) fn compare(&mut self, row: &str, ours: &Contestant, theirs: &Contestant) {
        let figure = ours.files_per_s() / theirs.files_per_s();
        self.add(row, figure, vec![ours.clone(), theirs.clone()]);
    }

    pub(super) fn add(&mut self, row: &str, figure: f64, contestants: Vec<Contestant>) {
        self.samples.entry(row.to_owned()).or_default().push(Sample { figure, contestants });
    }

    pub(super) fn round(&self, lab: &Lab, round: usize) -> Result<()> {
        (self.progress)(&format!("round {} of {}", round + 1, lab.rounds));
        Ok(crate::interrupt::check()?)
    }
}

/// A place to read and the mount behind it (`None`: ext4).
struct Place<'a> {
    mount: Option<&'a Mount>,
    /// Brings everything into the page cache.
    warm: Plan,
    /// What is measured.
    plan: Plan,
}

impl Lab {
    /// Measures every row of `group`, all rounds.
    pub(super) fn measure(&self, group: Group, into: &mut Collector<'_>) -> Result<()> {
        match group {
            Group::Small(cache, readers) => self.small(cache, readers, into),
            Group::Large(access, cache) => self.large(access, cache, into),
            Group::Life => self.life(into),
            Group::S3fs => self.s3fs(into),
            Group::Walk => self.walk(into),
            Group::Cold(cold) => self.cold(cold, into),
            Group::Order(link) => self.order(link, into),
            Group::Larger => self.larger(into),
            Group::Restart => self.restart(into),
            Group::Transport(ram) => self.transport(ram, into),
        }
    }

    /// A mount whose cache holds everything, found again by the next call.
    fn filled(&self, mode: &'static str, bucket: &str) -> Result<Mount> {
        let home = self.home.join(format!("filled-{bucket}-{mode}"));
        self.filled_as(&System::feedline(mode), bucket, &home)
    }

    /// The same for any system at any place.
    pub(super) fn filled_as(&self, system: &System, bucket: &str, home: &Path) -> Result<Mount> {
        let done = home.join("filled");
        let mount = Mount::new(system, &self.bucket, bucket, home)?;
        if done.exists() {
            return Ok(mount);
        }
        let plan = Plan::new(&ReadArgs { readers: FILL_READERS, ..ReadArgs::new(&mount.dir) })?;
        for _ in 0..FILL_PASSES_MAX {
            let before = self.bucket.requests()?;
            plan.pass(0)?;
            if self.bucket.requests()?.since(before).total() == 0 {
                fs::write(&done, "")?;
                // A new mount: no inode is in the mode that it had while its object was incomplete.
                mount.end()?;
                return Mount::new(system, &self.bucket, bucket, home);
            }
        }
        anyhow::bail!("the cache of {bucket} still asks the bucket after {FILL_PASSES_MAX} passes")
    }

    /// Files of a bucket, and their bytes.
    pub(super) fn size_of(&self, bucket: &str) -> Result<(u64, u64)> {
        let files = list_tree(&self.root.join(bucket))?;
        let sizes = files.iter().map(|file| Ok(fs::metadata(file)?.len()));
        let bytes = sizes.sum::<Result<u64>>().with_context(|| format!("sizes in {bucket}"))?;
        Ok((files.len() as u64, bytes))
    }

    /// The plain copy and a filled mount of each mode.
    fn places<'a>(&self, mounts: &'a [Mount], at: &str, args: &ReadArgs) -> Result<Vec<Place<'a>>> {
        let own = std::iter::once((None, self.root.join(at)));
        let all = own.chain(mounts.iter().map(|mount| (Some(mount), mount.dir.clone())));
        all.map(|(mount, dir)| {
            let path = dir.join(&args.path);
            // From start to end, whatever is measured: places at random leave gaps.
            let (access, readers) = match args.access {
                Access::Random128k => (Access::Read, 1),
                access => (access, args.readers),
            };
            let plan = ReadArgs { path, ..args.clone() };
            let warm = ReadArgs { access, readers, ..plan.clone() };
            Ok(Place { mount, warm: Plan::new(&warm)?, plan: Plan::new(&plan)? })
        })
        .collect()
    }

    /// Each place once, beginning with another one in each round.
    fn in_turn(&self, places: &[Place<'_>], cache: Cache, round: usize) -> Result<Vec<Contestant>> {
        (0..places.len())
            .map(|turn| {
                let Place { mount, warm, plan } = &places[(turn + round) % places.len()];
                match cache {
                    // Before each pass: whoever else drops caches must not make a hot pass cold.
                    Cache::Hot => {
                        warm.pass(round)?;
                    }
                    Cache::Dropped => drop_caches()?,
                }
                Contestant::read(&self.bucket, *mount, plan, round)
            })
            .collect()
    }

    fn filled_both(&self, bucket: &str) -> Result<Vec<Mount>> {
        MODES.iter().map(|mode| self.filled(mode, bucket)).collect()
    }

    fn small(&self, cache: Cache, readers: usize, into: &mut Collector<'_>) -> Result<()> {
        let mounts = self.filled_both("small")?;
        let args = ReadArgs { readers, ..ReadArgs::new(Path::new("")) };
        let places = self.places(&mounts, "small", &args)?;
        forget_how_pages_came()?;
        for round in 0..self.rounds {
            into.round(self, round)?;
            let contestants = self.in_turn(&places, cache, round)?;
            for mode in MODES {
                let name = small_name(cache, readers, mode);
                add_ratio(into, &name, (mode, "ext4"), &contestants, Contestant::files_per_s)?;
            }
        }
        drop(places);
        mounts.into_iter().try_for_each(Mount::end)
    }

    fn large(&self, access: Access, cache: Cache, into: &mut Collector<'_>) -> Result<()> {
        let mounts = self.filled_both("large")?;
        let readers = LARGE.iter().find(|(_, of, _)| *of == access).map_or(1, |(_, _, n)| *n);
        let args = ReadArgs { access, readers, ..ReadArgs::new(Path::new("large.bin")) };
        let places = self.places(&mounts, "large", &args)?;
        forget_how_pages_came()?;
        for round in 0..self.rounds {
            into.round(self, round)?;
            let contestants = self.in_turn(&places, cache, round)?;
            for mode in MODES {
                let name = large_name(access, cache, mode);
                add_ratio(into, &name, (mode, "ext4"), &contestants, Contestant::mb_per_s)?;
            }
        }
        drop(places);
        mounts.into_iter().try_for_each(Mount::end)
    }

    fn life(&self, into: &mut Collector<'_>) -> Result<()> {
        for round in 0..self.rounds {
            for turn in 0..MODES.len() {
                into.round(self, round)?;
                self.one_life(MODES[(turn + round) % MODES.len()], into)?;
            }
        }
        Ok(())
    }

    /// An empty cache, three epochs, a restart and a fourth.
    fn one_life(&self, mode: &'static str, into: &mut Collector<'_>) -> Result<()> {
        // The bucket reads the same disk through the same page cache: with its files in already and
        // memory to spare, what is added is the mount's alone.
        if memory_bytes("MemFree:")? < 4 * self.bytes {
            drop_caches()?;
        }
        Plan::new(&ReadArgs::new(&self.root.join("small")))?.pass(0)?;
        let home = self.home.join("life");
        let start = self.bucket.requests()?;
        let mount = Mount::new(&System::feedline(mode), &self.bucket, "small", &home)?;
        let args = ReadArgs { readers: FILL_READERS, ..ReadArgs::new(&mount.dir) };
        let plan = Plan::new(&args)?;
        let page_cache = memory_bytes("Cached:")?;
        let mut cold = Contestant::read(&self.bucket, Some(&mount), &plan, 0)?;
        crate::time::sleep(SETTLE);
        let added = memory_bytes("Cached:")?.saturating_sub(page_cache);
        cold.page_cache_bytes = Some(added);
        let used = self.bucket.requests()?.since(start);
        // Those of the mount and of the listing belong to the epoch.
        cold.requests = Some(used);
        let cold = vec![cold];
        into.add(&format!("page-cache-{mode}"), added as f64 / self.bytes as f64, cold.clone());
        into.add(&format!("cold-requests-{mode}"), self.of_allowed(used), cold);
        let plan = Plan::new(&ReadArgs::new(&mount.dir))?;
        let mut warm = Vec::new();
        for epoch in 1..3 {
            warm.push(Contestant::read(&self.bucket, Some(&mount), &plan, epoch)?);
        }
        add_requests(into, &format!("warm-requests-{mode}"), warm.clone());
        let peak = warm.last().and_then(|epoch| epoch.peak_resident_bytes).unwrap_or(u64::MAX);
        into.add(&format!("resident-{mode}"), peak as f64 / f64::from(1 << 20), warm);
        mount.end()?;
        let before = self.bucket.requests()?;
        let mount = Mount::new(&System::feedline(mode), &self.bucket, "small", &home)?;
        let plan = Plan::new(&ReadArgs::new(&mount.dir))?;
        let mut again = Contestant::read(&self.bucket, Some(&mount), &plan, 3)?;
        // What the start and the listing asked counts too.
        again.requests = Some(self.bucket.requests()?.since(before));
        add_requests(into, &format!("restart-requests-{mode}"), vec![again]);
        mount.discard()?;
        self.removals.note();
        Ok(())
    }

    /// The worst share of what a cold epoch may ask; infinite for a HEAD or a write.
    fn of_allowed(&self, used: Requests) -> f64 {
        if used.head > 0 || used.other > 0 {
            return f64::INFINITY;
        }
        let lists = self.files as f64 / 1_000.0 + self.folders as f64 + 10.0;
        (used.get as f64 / self.files as f64).max(used.list as f64 / lists)
    }

    fn s3fs(&self, into: &mut Collector<'_>) -> Result<()> {
        let whole = self.filled_both("small")?;
        let plans: Vec<Plan> = whole
            .iter()
            .map(|mount| Plan::new(&ReadArgs::new(&mount.dir)))
            .collect::<Result<_>>()?;
        forget_how_pages_came()?;
        for round in 0..self.rounds {
            into.round(self, round)?;
            let flags = vec!["--fill=off".to_owned()];
            let demand = System::Feedline { name: "passthrough".to_owned(), flags };
            let mut systems = [System::S3fs { cached: true }, demand];
            systems.rotate_left(round % 2);
            let mut cold = Vec::new();
            let mut hot = Vec::new();
            for system in &systems {
                let home = self.home.join("cold");
                let mount = Mount::new(system, &self.bucket, "subset", &home)?;
                let plan = Plan::new(&ReadArgs::new(&mount.dir))?;
                cold.push(Contestant::read(&self.bucket, Some(&mount), &plan, round)?);
                if *system == (System::S3fs { cached: true }) {
                    hot.push(Contestant::read(&self.bucket, Some(&mount), &plan, round)?);
                }
                mount.discard()?;
            }
            for (mount, plan) in whole.iter().zip(&plans) {
                plan.pass(round)?;
                hot.push(Contestant::read(&self.bucket, Some(mount), plan, round)?);
            }
            let speed = Contestant::files_per_s;
            add_ratio(into, "cold-s3fs", ("passthrough", "s3fs"), &cold, speed)?;
            for mode in MODES {
                add_ratio(into, &format!("hot-s3fs-{mode}"), (mode, "s3fs"), &hot, speed)?;
            }
        }
        whole.into_iter().try_for_each(Mount::end)
    }

    fn walk(&self, into: &mut Collector<'_>) -> Result<()> {
        let home = self.home.join("walk");
        let system = System::feedline("passthrough");
        let mount = Mount::new(&system, &self.bucket, "many", &home)?;
        // From here on the daemon knows the listing.
        Contestant::walk(Some(&mount), &mount.dir)?;
        let many = self.root.join("many");
        for round in 0..self.rounds {
            into.round(self, round)?;
            // The kernel forgets; ext4 gets its caches back before it is measured.
            drop_caches()?;
            let mut walks = BTreeMap::new();
            for turn in 0..2 {
                if (turn + round).is_multiple_of(2) {
                    Contestant::walk(None, &many)?;
                    walks.insert("ext4", Contestant::walk(None, &many)?);
                } else {
                    walks.insert("first", Contestant::walk(Some(&mount), &mount.dir)?);
                    walks.insert("again", Contestant::walk(Some(&mount), &mount.dir)?);
                }
            }
            let entries = |who: &str| walks[who].walk.as_ref().map_or(0, |walk| walk.entries);
            ensure!(entries("ext4") == entries("first"), "the walks saw different trees");
            let speed = |who: &str| walks[who].walk.as_ref().map_or(0.0, |walk| walk.entries_per_s);
            for who in ["first", "again"] {
                let contestants = vec![walks[who].clone(), walks["ext4"].clone()];
                into.add(&format!("walk-{who}"), speed(who) / speed("ext4"), contestants);
            }
        }
        mount.discard()
    }
}

/// Copying from pages that are in memory since they were written was measured to be up to a half
/// faster than from pages that were read (larger folios, probably; not proven): all contestants begin
/// with pages that were read.
pub(super) fn forget_how_pages_came() -> Result<()> {
    drop_caches()
}

/// Adds the ratio of Feedline in a mode to the yardstick, by name.
fn add_ratio(
    into: &mut Collector<'_>,
    row: &str,
    (mode, yardstick): (&str, &str),
    contestants: &[Contestant],
    speed: fn(&Contestant) -> f64,
) -> Result<()> {
    let own = format!("feedline {mode}");
    let of = |name: &str| {
        let found = contestants.iter().find(|one| one.name == name);
        found.cloned().with_context(|| format!("{name} was not measured"))
    };
    let (ours, theirs) = (of(&own)?, of(yardstick)?);
    into.add(row, speed(&ours) / speed(&theirs), vec![ours, theirs]);
    Ok(())
}

fn add_requests(into: &mut Collector<'_>, row: &str, epochs: Vec<Contestant>) {
    let sum: u64 = epochs.iter().filter_map(|epoch| epoch.requests).map(Requests::total).sum();
    into.add(row, sum as f64, epochs);
}
