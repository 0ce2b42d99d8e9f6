//! Pushes: what the processes will open next is brought from the cache's disk into the page cache.
//!
//! Where the order is known and the next files are complete here but not in memory (a warm epoch of
//! more data than memory, a restart), a loader waits for the disk one file after another, while the
//! disk would give many at once. A [`Pusher`] says what to do for one data set; the engine does it, in
//! blocking threads.
//!
//! While all that is read is in memory there is nothing to do, and watching would cost: the pusher
//! sleeps. What wakes it is a look at a few files anywhere in the set, now and then while it is read.
//!
//! ```text
//!  awake: the next files of the order are pushed, a bounded number ahead
//!     | many in a row are in memory, or no order is found
//!  look at some files anywhere -- some are on the disk --> awake
//!     | all are in memory
//!  asleep: nothing is done, accesses need not be reported; another look now and then
//! ```
//!
//! # Deliberately absent
//!
//! - No guess: without a known order nothing is pushed. The kernel chooses better what to keep.
//! - No effect on what is fetched from the bucket: its requests have a queue of their own.

use std::time::Duration;

use feedline_model::{Object, ObjectIndex, Push, Residence};
use feedline_oracle::Oracle;
use hashbrown::HashMap;

use crate::set::DataSet;

/// Files ahead of the reads at most: two turns of 256 processes, and with one process as much as the
/// disk can read in the time it takes the engine to notice an access, many times over.
pub(crate) const FILES_AHEAD: usize = 512;

/// Files of one job. Small, so that the first of them are there soon.
const JOB_FILES: usize = 16;

/// Jobs at once, over all sets. Opening a file waits for the disk once, so this is the disk's queue for
/// inodes; the data itself is read without waiting.
pub(crate) const JOBS_MAX: usize = 4;

/// Accesses between two looks at the order, once as much is pushed as may be: the order is not walked
/// anew for each of them.
const STEP: u32 = 8;

/// Files in a row that are in memory already, after which it is asked whether all are.
const HOT_RUN: u32 = 32;

/// Pause after such a run while other files are on the disk: doubled each time, up to the maximum, in
/// which a process reads a good part of what is pushed ahead.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// Files looked at, anywhere in the set.
const LOOK_FILES: u32 = 16;

/// Of those, on the disk: fewer are chance (a file just evicted, one that was never read).
const ON_DISK_MIN: u32 = 2;

/// Looks in a row that found files on the disk while none was there to push: the files on the disk are
/// not those that are read.
const FRUITLESS_MAX: u32 = 8;

/// Accesses without an order, after which it is asked again whether anything is on the disk.
const PATIENCE: u32 = 4_096;

/// Time between two looks while asleep: short, since a job waits for so long for its first push, and
/// 64 opens a second are nothing beside the thousands of whoever reads.
const SLEEP: Duration = Duration::from_millis(250);

/// The same where looking was of no use: doubled each time, up to the maximum.
const FRUITLESS_MIN: Duration = Duration::from_secs(2);
const FRUITLESS_SLEEP_MAX: Duration = Duration::from_secs(32);

/// What a blocking thread is to do.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) push: Push,
    pub(crate) files: Vec<(u32, Object)>,
}

impl Job {
    /// Where each file was. Blocks on the disk.
    pub(crate) fn run(self, index: &dyn ObjectIndex) -> Done {
        let push = self.push;
        let run = |(position, object): (u32, Object)| (position, index.push(&object, push));
        Done { push, files: self.files.into_iter().map(run).collect() }
    }
}

/// What came of a job.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) push: Push,
    pub(crate) files: Vec<(u32, Residence)>,
}

impl Done {
    /// How many files were begun to be read from the disk, and how many bytes.
    pub(crate) fn read(&self) -> (u64, u64) {
        let on_disk = |it: &(u32, Residence)| match it.1 {
            Residence::Disk(bytes) if self.push == Push::Read => Some(bytes),
            _ => None,
        };
        let bytes = self.files.iter().filter_map(on_disk);
        (bytes.clone().count() as u64, bytes.sum())
    }
}

/// What is known of the set's files when a job is chosen.
pub(crate) trait Files {
    /// The positions that will be opened next, in order; empty if no order is known.
    fn next_opens(&self, count: usize) -> Vec<u32>;
    /// The object at a position, if it is complete here.
    fn complete(&self, position: u32) -> Option<Object>;
    /// How many there are.
    fn len(&self) -> u32;
}

/// The files of a set that are complete here, as its pusher sees them.
pub(crate) struct Complete<'a> {
    pub(crate) set: &'a DataSet,
    pub(crate) oracle: Option<&'a Oracle>,
    pub(crate) index: &'a dyn ObjectIndex,
}

impl Files for Complete<'_> {
    fn next_opens(&self, count: usize) -> Vec<u32> {
        self.oracle.map(|oracle| oracle.next_opens(count)).unwrap_or_default()
    }

    fn complete(&self, position: u32) -> Option<Object> {
        self.set.object(position).filter(|object| self.index.contains(&object.id()))
    }

    fn len(&self) -> u32 {
        self.set.len()
    }
}

/// Pushes of one data set.
#[derive(Debug)]
pub(crate) struct Pusher {
    /// Bytes ahead of the reads at most; 0 switches it off.
    bytes_max: u64,
    awake: bool,
    looking: bool,
    /// Pushed, or looked at, and still to be opened; with their bytes.
    ahead: HashMap<u32, u64>,
    /// All that may be pushed was, when last looked at.
    is_full: bool,
    /// Accesses since the order was walked last, ...
    fresh: u32,
    /// ... and since a look, or while an order was known.
    unknown: u32,
    hot_run: u32,
    /// Looks since a file was pushed.
    fruitless: u32,
    /// Nothing before this time: a push while awake, a look while asleep.
    not_before: Duration,
    pause: Duration,
    fruitless_sleep: Duration,
    /// Where the next looks go.
    dice: u64,
}

impl Pusher {
    /// With `bytes_max` ahead of the reads; 0 never pushes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            awake: bytes_max > 0,
            looking: false,
            ahead: HashMap::new(),
            is_full: false,
            fresh: 0,
            unknown: PATIENCE,
            hot_run: 0,
            fruitless: 0,
            not_before: Duration::ZERO,
            pause: PAUSE_MIN,
            fruitless_sleep: FRUITLESS_MIN,
            dice: 0,
        }
    }

    /// True if accesses should be reported for its sake.
    pub(crate) fn wants_accesses(&self) -> bool {
        self.awake
    }

    /// A process opens the file at a position.
    pub(crate) fn accessed(&mut self, position: u32) {
        self.fresh = self.fresh.saturating_add(1);
        self.unknown = self.unknown.saturating_add(1);
        self.ahead.remove(&position);
    }

    /// The next files to push, in the order of the reads; or a look at others, if many in a row were
    /// in memory.
    pub(crate) fn next(&mut self, now: Duration, files: &impl Files) -> Option<Job> {
        if !self.awake || self.looking || now < self.not_before {
            return None;
        }
        if HOT_RUN <= self.hot_run {
            return Some(self.anywhere(files));
        }
        if self.is_full && self.fresh < STEP {
            return None;
        }
        let order = files.next_opens(FILES_AHEAD);
        self.fresh = 0;
        if order.is_empty() {
            self.is_full = true;
            return None;
        }
        self.unknown = 0;
        let mut job = Vec::new();
        let mut ahead = HashMap::with_capacity(order.len());
        let mut bytes = 0_u64;
        let mut is_full = true;
        for position in order {
            if ahead.contains_key(&position) {
                continue;
            }
            let known = self.ahead.get(&position).copied();
            let object = match known {
                None if job.len() == JOB_FILES => {
                    is_full = false;
                    continue;
                }
                // What is not here yet is fetched, and is in memory then.
                None => files.complete(position),
                Some(_) => None,
            };
            let size = known.or(object.as_ref().map(|it| it.version.size)).unwrap_or(0);
            bytes += size;
            if self.bytes_max < bytes && !ahead.is_empty() {
                break;
            }
            ahead.insert(position, size);
            job.extend(object.map(|object| (position, object)));
        }
        (self.ahead, self.is_full) = (ahead, is_full);
        (!job.is_empty()).then_some(Job { push: Push::Read, files: job })
    }

    /// A look at files anywhere, if it is time for one. `is_read`: the set was read lately.
    pub(crate) fn look(&mut self, now: Duration, is_read: bool, files: &impl Files) -> Option<Job> {
        let due = if self.awake {
            PATIENCE <= self.unknown
        } else {
            self.bytes_max > 0 && is_read && self.not_before <= now
        };
        (due && !self.looking).then(|| self.anywhere(files))
    }

    fn anywhere(&mut self, files: &impl Files) -> Job {
        let anywhere = (0..LOOK_FILES).filter_map(|_| {
            let position = self.roll(files.len());
            Some((position, files.complete(position)?))
        });
        let files = anywhere.collect();
        self.looking = true;
        Job { push: Push::Look, files }
    }

    /// A position. Weyl's sequence, spread by a multiplication: any places will do.
    fn roll(&mut self, len: u32) -> u32 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ (self.dice >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        u32::try_from(((mixed >> 32) * u64::from(len)) >> 32).unwrap_or(0)
    }

    /// Takes in what came of a job.
    pub(crate) fn done(&mut self, done: &Done, now: Duration) {
        match done.push {
            Push::Read => self.pushed(done),
            Push::Look => self.looked(done, now),
        }
    }

    fn pushed(&mut self, done: &Done) {
        for (_, residence) in &done.files {
            match residence {
                Residence::Memory => self.hot_run = self.hot_run.saturating_add(1),
                Residence::Disk(_) => {
                    (self.hot_run, self.fruitless) = (0, 0);
                    (self.pause, self.fruitless_sleep) = (PAUSE_MIN, FRUITLESS_MIN);
                }
                Residence::Unknown => {}
            }
        }
    }

    fn looked(&mut self, done: &Done, now: Duration) {
        let was_awake = self.awake;
        let on_disk = |it: &&(u32, Residence)| matches!(it.1, Residence::Disk(_));
        let is_cold = ON_DISK_MIN as usize <= done.files.iter().filter(on_disk).count();
        let was_hot = HOT_RUN <= self.hot_run;
        (self.looking, self.hot_run, self.unknown, self.is_full) = (false, 0, 0, false);
        self.fruitless = if is_cold && was_awake { self.fruitless + 1 } else { 0 };
        if !is_cold {
            self.fall_asleep(now + SLEEP);
        } else if FRUITLESS_MAX <= self.fruitless {
            self.fall_asleep(now + self.fruitless_sleep);
            self.fruitless_sleep = (self.fruitless_sleep * 2).min(FRUITLESS_SLEEP_MAX);
        } else if !was_awake {
            (self.awake, self.not_before, self.pause) = (true, now, PAUSE_MIN);
        } else if was_hot {
            // Those that come next are in memory, others are not.
            self.not_before = now + self.pause;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    fn fall_asleep(&mut self, until: Duration) {
        self.ahead.clear();
        (self.awake, self.not_before, self.fruitless) = (false, until, 0);
    }

    /// In a word, for people.
    pub(crate) fn text(&self, order_known: bool) -> &'static str {
        match (self.bytes_max, self.awake) {
            (0, _) => "off",
            (_, false) => "in memory",
            (_, true) if order_known => "ahead",
            (_, true) => "order unknown",
        }
    }
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
