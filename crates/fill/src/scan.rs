//! One data set that is being read: who reads it, what is done, and what comes next.

mod before;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use feedline_model::{Keeping, NextUse, Object, ObjectId, ObjectIndex};
use feedline_oracle::{Config, Hint, Oracle, Outcome, Work};
use hashbrown::HashMap;

use crate::bits::Bits;
use crate::config::FillConfig;
use crate::groups::READS_MIN;
use crate::push::{Complete, Done, Job, Pusher};
use crate::readers::{self, Readers};
use crate::rest::Rest;
use crate::set::{DataSet, position_in};
use crate::status::ScanStatus;
use crate::watch::Seen;

/// Files that fill may be ahead of the reads, for each file that was read: after the first eight
/// reads 2,048 files, and a full scan is never held up.
const AHEAD_FILES: u64 = 256;

/// Bytes that fill may be ahead, for each byte of the files that were read.
const AHEAD_RATIO: u64 = 32;

/// Bytes that fill may be ahead in any case.
const AHEAD_BYTES_MIN: u64 = 256 << 20;

/// What was read and may be replaced, counted at most: fill that fell behind need not catch up.
const SWAPS_MAX: u32 = 4_096;

/// A full cache is looked at again after this many reads.
const SWAPS_AT_ONCE: u32 = 16;

/// How far ahead of the readers files are put into a full cache, in opens of all of them: one in so many files
/// of the set. Far enough that they never wait; and what is here already, for later, stays: with a small set or
/// many readers the cache would else become a window that runs ahead, and every file be fetched in every epoch.
const FULL_AHEAD_PART: u32 = 16;

/// The least of it: eight fetches for each of eight readers.
const FULL_AHEAD_MIN: u32 = 64;

/// Reads of the same file, beyond one in this many files, that are more than chance and repeated opens.
const REREADS: u32 = 64;

/// Reads that miss in a set that should be complete, before it is looked at again.
const SURPRISES: u32 = 8;

/// Predictions taken from the oracle at once.
const PREDICTIONS: usize = 256;

/// Files of hinted orders fetched before anybody has read in them, over all who gave one.
const HINTED: usize = 2_048;

/// How long a set is filled while its readers live and read nothing: a validation, a checkpoint.
const PAUSE: Duration = Duration::from_secs(600);

/// A set that was read no longer ago than this is looked after. Of a slow reader's files only one in
/// some hundred is reported while all are in memory.
const READ_LATELY: Duration = Duration::from_secs(5);

/// Files read by this node until the oracle should know their order. It needs some ten of each reader and
/// time to think, in which a warm epoch reads a thousand.
const VERDICT_AFTER: u32 = 2_048;

/// Of a smaller set this part: a node may read no more than its share of it.
const VERDICT_PART: u32 = 8;

/// Tries to fetch one file before it is left to demand reads.
const TRIES: u8 = 3;

/// One data set that is being read.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Names it while something for it is under way.
    pub(crate) number: u64,
    /// The oracle's work is being done.
    pub(crate) is_thinking: bool,
    pub(crate) set: Arc<DataSet>,
    /// Only the files of its folder itself.
    pub(crate) flat: bool,
    oracle: Option<Oracle>,
    /// It was not looked yet whether an order is kept of it.
    wants_memory: bool,
    /// Nobody reads it.
    is_idle: bool,
    readers: Readers,
    last_access: Duration,
    /// Complete here, under way, or given up.
    handled: Bits,
    /// Some were left to the nodes that keep them: see [`Scan::leave`].
    leaves_some: bool,
    /// The oracle has seen enough and does not know what this node's readers read next.
    is_unknown: bool,
    /// A hint came when all was here: it shows whether that is still so.
    in_doubt: bool,
    /// Read since the epoch began.
    read: Bits,
    /// Different files read, and their bytes, over all epochs; bounds how far ahead fill may be.
    reads: u64,
    read_bytes: u64,
    fetched: u64,
    fetched_bytes: u64,
    /// Files of this set in the cache that were read and can make room for others, at most: when the
    /// cache is full, as many are fetched as were read.
    swaps: u32,
    /// Files read again before half of the set was read.
    rereads: u32,
    /// Reads of files that were not here although all should be.
    surprises: u32,
    sweep: u32,
    /// The first files of hinted orders, by who gave them; taken in turns.
    hinted: VecDeque<(u32, VecDeque<u32>)>,
    predicted: VecDeque<u32>,
    again: VecDeque<u32>,
    tries: HashMap<u32, u8>,
    pub(crate) rest: Rest,
    pusher: Pusher,
    /// Positions by id, once eviction has asked.
    by_id: Option<Vec<(u64, u32)>>,
}

impl Scan {
    /// A scan as the settings want it.
    pub(crate) fn new(
        number: u64,
        set: DataSet,
        flat: bool,
        config: &FillConfig,
        now: Duration,
    ) -> Self {
        let len = set.len();
        let push_bytes_max =
            if config.enabled && config.oracle { config.push_bytes_max } else { 0 };
        Self {
            number,
            is_thinking: false,
            flat,
            oracle: config.oracle.then(|| Oracle::new(len, Config::default())),
            wants_memory: config.oracle,
            is_idle: false,
            readers: Readers::default(),
            last_access: now,
            handled: Bits::new(len),
            leaves_some: false,
            is_unknown: !config.oracle,
            in_doubt: false,
            read: Bits::new(len),
            reads: 0,
            read_bytes: 0,
            fetched: 0,
            fetched_bytes: 0,
            swaps: 0,
            rereads: 0,
            surprises: 0,
            sweep: 0,
            hinted: VecDeque::new(),
            predicted: VecDeque::new(),
            again: VecDeque::new(),
            tries: HashMap::new(),
            rest: if config.enabled { Rest::No } else { Rest::Off },
            pusher: Pusher::new(push_bytes_max),
            by_id: None,
            set: Arc::new(set),
        }
    }

    /// A process uses the file at `position`, which this node or another keeps.
    pub(crate) fn accessed(
        &mut self,
        seen: &Seen,
        position: u32,
        now: Duration,
        keeping: impl FnOnce() -> Keeping,
    ) {
        self.last_access = now;
        let process = seen.process;
        self.readers.note(process, now);
        if seen.is_sample {
            return;
        }
        self.pusher.accessed(position);
        if !self.read.has(position) {
            self.reads += 1;
            self.read_bytes += seen.object.version.size;
        } else if self.read.count > self.set.len() / 2 {
            // What was read already is read again, and most has been: another epoch.
            self.begin_epoch();
        } else {
            self.rereads += 1;
        }
        if self.read.add(position) && seen.is_hit {
            self.swaps = (self.swaps + 1).min(SWAPS_MAX);
        }
        if let Some(oracle) = &mut self.oracle {
            oracle.observe(process, position);
        }
        if self.read.count.is_multiple_of(self.verdict_after()) {
            self.judge();
        }
        if self.rest == Rest::Complete && !seen.is_hit {
            match keeping() {
                Keeping::Own => self.missed_though_complete(),
                // It was left to its owner: what is known to be read next is fetched again.
                Keeping::Copy if self.leaves_some => self.rest = Rest::No,
                Keeping::Copy => self.missed_though_complete(),
                // It is never here.
                Keeping::Pass => {}
            }
        }
        let room = self.rest == Rest::Full && self.swaps >= SWAPS_AT_ONCE;
        if room || matches!(self.rest, Rest::Ahead | Rest::Idle) {
            self.rest = Rest::No;
        }
    }

    /// A few of these are fetches that were still under way; more mean that what was here is gone
    /// (freed, evicted, a disk set aside): look at all of it again.
    fn missed_though_complete(&mut self) {
        self.surprises += 1;
        if self.surprises >= SURPRISES {
            self.surprises = 0;
            self.look_at_all_again();
            self.rest = Rest::No;
        }
    }

    /// True if what nobody here is known to read next is to be left to the nodes that keep it: a job on
    /// many nodes would else copy its whole data set to each. An epoch begins with readers that nobody
    /// knows yet: until there is a verdict on them, that of the last epoch holds, or in the first hope.
    pub(crate) fn leaves_to_owners(&self) -> bool {
        !self.is_unknown
    }

    /// Leaves the file at a position to the node that keeps it.
    pub(crate) fn leave(&mut self, position: u32) {
        self.handled.remove(position);
        self.leaves_some = true;
    }

    /// Files read between two verdicts on whether the order is known.
    fn verdict_after(&self) -> u32 {
        (self.set.len() / VERDICT_PART).clamp(1, VERDICT_AFTER)
    }

    /// If the order is not known, whatever is read next may be what was left: it is fetched after all.
    fn judge(&mut self) {
        let Some(oracle) = &self.oracle else { return };
        let verdict = oracle.verdict();
        self.is_unknown = verdict.locked == 0 || verdict.locked < verdict.streams;
        if self.is_unknown && std::mem::take(&mut self.leaves_some) {
            self.sweep = 0;
            if self.rest == Rest::Complete {
                self.rest = Rest::No;
            }
        }
    }

    /// True if this node reads only a part of the set: files are read again long before the others
    /// were. What others read need not take places in a cache that is full.
    fn reads_part(&self) -> bool {
        self.rereads > REREADS + self.set.len() / REREADS
    }

    /// Accesses were not looked at for a while and are from now on: what has been read meanwhile, and
    /// where the readers are, is not known.
    pub(crate) fn seen_again(&mut self) {
        self.read.clear();
        self.rereads = 0;
        if let Some(oracle) = &mut self.oracle {
            oracle.lose_sight();
        }
    }

    /// True if accesses of files that are here are of use.
    pub(crate) fn wants_hits(&self) -> bool {
        self.pusher.wants_accesses() || !matches!(self.rest, Rest::Complete | Rest::Off)
    }

    /// What to bring into the page cache next; see [`Pusher::next`].
    pub(crate) fn next_push(&mut self, now: Duration, index: &dyn ObjectIndex) -> Option<Job> {
        let Self { set, oracle, pusher, .. } = self;
        pusher.next(now, &Complete { set, oracle: oracle.as_ref(), index })
    }

    /// Files to look for in the page cache, now and then; see [`Pusher::look`].
    pub(crate) fn look(&mut self, now: Duration, index: &dyn ObjectIndex) -> Option<Job> {
        let is_read = now.saturating_sub(self.last_access) < READ_LATELY;
        let Self { set, oracle, pusher, .. } = self;
        pusher.look(now, is_read, &Complete { set, oracle: oracle.as_ref(), index })
    }

    /// What came of one of these.
    pub(crate) fn pushed(&mut self, done: &Done, now: Duration) {
        self.pusher.done(done, now);
    }

    /// All is to be read again. What does not fit has been replaced meanwhile: look at it anew.
    fn begin_epoch(&mut self) {
        self.read.clear();
        self.rereads = 0;
        if self.rest != Rest::Complete {
            self.look_at_all_again();
            self.swaps = 0;
        }
    }

    /// Somebody knows the order: the oracle will see whether it holds, and what comes first in it is
    /// fetched first.
    pub(crate) fn hint(&mut self, hint: Hint, now: Duration) {
        self.last_access = now;
        self.reads = self.reads.max(READS_MIN as u64);
        if let Hint::Order { from, positions } = &hint {
            self.hinted.retain(|(other, _)| other != from);
            if self.hinted.len() < HINTED {
                self.hinted.push_back((*from, positions.iter().copied().take(HINTED).collect()));
            }
            // Each of them the same, so that no rank waits for another's.
            let share = HINTED / self.hinted.len();
            self.hinted.iter_mut().for_each(|(_, first)| first.truncate(share));
        }
        if self.rest == Rest::Complete {
            self.doubt(&hint);
        }
        if let Some(oracle) = &mut self.oracle {
            oracle.hint(hint);
        }
        if matches!(self.rest, Rest::Ahead | Rest::Idle) {
            self.rest = Rest::No;
        }
    }

    /// A new epoch of a set that was complete: what was freed or evicted meanwhile is to be fetched
    /// again. The first files of the hint are looked at anew, and if one is gone, all are; so that
    /// hints of many ranks about a set that is here cost little.
    fn doubt(&mut self, hint: &Hint) {
        match hint {
            Hint::Order { .. } => {
                let Self { hinted, handled, .. } = self;
                hinted.iter().flat_map(|(_, first)| first).for_each(|at| handled.remove(*at));
            }
            Hint::TorchSeeds(_) => self.look_at_all_again(),
        }
        self.in_doubt = true;
        self.rest = Rest::No;
    }

    fn look_at_all_again(&mut self) {
        self.handled.clear();
        self.sweep = 0;
    }

    /// True if `process` reads it.
    pub(crate) fn is_read_by(&self, process: u32) -> bool {
        self.readers.has(process)
    }

    /// When it was last read.
    pub(crate) fn last_access(&self) -> Duration {
        self.last_access
    }

    /// See [`Readers::take_newcomer`].
    pub(crate) fn take_newcomer(&mut self, now: Duration) -> bool {
        self.readers.take_newcomer(now)
    }

    /// Forgets readers that have ended; rests when nobody is left. What one that has ended would have
    /// read next is foretold no more, at once; as a reader it counts for a while, since a job that makes
    /// new ones in every epoch does not rest in between.
    pub(crate) fn look_after(&mut self, now: Duration, is_alive: impl Fn(u32) -> bool) {
        let oracle = &mut self.oracle;
        self.readers.look_after(now, is_alive, |ended| {
            if let Some(oracle) = &mut *oracle {
                oracle.end_stream(ended);
            }
        });
        let quiet = now.saturating_sub(self.last_access);
        let idle = (self.readers.len() == 0 && quiet > readers::IDLE) || quiet > PAUSE;
        self.is_idle = idle;
        if idle && self.rest == Rest::No {
            self.rest = Rest::Idle;
        }
    }

    /// True while fill may run further ahead.
    fn may_go_on(&self) -> bool {
        self.fetched < self.reads.saturating_mul(AHEAD_FILES)
            && self.fetched_bytes < AHEAD_BYTES_MIN.max(self.read_bytes.saturating_mul(AHEAD_RATIO))
    }

    /// The next position that nobody has handled, marked as handled, and whether it is known to be read
    /// next; looks at `looks` at most. `full`: it will have to take the place of something that was read.
    pub(crate) fn next(&mut self, looks: &mut usize, full: bool) -> Option<(u32, bool)> {
        if self.rest != Rest::No {
            return None;
        }
        if !self.may_go_on() {
            self.rest = Rest::Ahead;
            return None;
        }
        while *looks > 0 {
            *looks -= 1;
            let Some((position, is_predicted)) = self.candidate(full) else {
                self.in_doubt = false;
                self.rest = if full { Rest::Full } else { Rest::Complete };
                return None;
            };
            let fresh = self.handled.add(position);
            // With a full cache what was handled once may be gone again, or be of the next epoch.
            let wanted = if full {
                is_predicted || (fresh && !self.read.has(position) && !self.reads_part())
            } else {
                fresh
            };
            if wanted {
                return Some((position, is_predicted));
            }
        }
        None
    }

    /// Takes leave to put one file in the place of one that was read; rests if there is none.
    pub(crate) fn take_swap(&mut self) -> bool {
        let may = self.swaps > 0;
        if may {
            self.swaps -= 1;
        } else {
            self.rest = Rest::Full;
        }
        may
    }

    /// In the order of the readers as far as it is known, then the rest in the order of the list.
    fn candidate(&mut self, full: bool) -> Option<(u32, bool)> {
        while let Some((from, mut first)) = self.hinted.pop_front() {
            if let Some(position) = first.pop_front() {
                self.hinted.push_back((from, first));
                return Some((position, true));
            }
        }
        let is_all_known = self.predict(full);
        if let Some(position) = self.predicted.pop_front() {
            return Some((position, true));
        }
        if full && is_all_known {
            // What else there is, is read later; in a full cache it would take the place of what is read before.
            return None;
        }
        if self.sweep < self.set.len() {
            self.sweep += 1;
            return Some((self.sweep - 1, false));
        }
        self.again.pop_front().map(|position| (position, false))
    }

    /// Asks the oracle what is next, if nothing is left of its last answer. True if it was asked and knows
    /// the order of all readers.
    fn predict(&mut self, full: bool) -> bool {
        let Some(oracle) = self.oracle.as_mut().filter(|_| self.predicted.is_empty()) else {
            return false;
        };
        let (followed, streams) = oracle.followed();
        let ahead = (self.set.len() / FULL_AHEAD_PART).max(FULL_AHEAD_MIN) as usize;
        let each = (ahead / followed.max(1)).clamp(1, PREDICTIONS);
        self.predicted.extend(oracle.upcoming(if full { each } else { PREDICTIONS }));
        0 < followed && followed == streams
    }

    /// True if there is a file to fetch of which it is known that it is read next. Not to be
    /// asked with a full cache, in which less is foreseen: see `predict`.
    pub(crate) fn foresees(&mut self) -> bool {
        if self.rest != Rest::No || !self.may_go_on() {
            return false;
        }
        self.predict(false);
        while self.predicted.front().is_some_and(|position| self.handled.has(*position)) {
            self.predicted.pop_front();
        }
        !self.predicted.is_empty() || !self.hinted.is_empty()
    }

    /// A fetch of `bytes` of the file at a position starts.
    pub(crate) fn started(&mut self, position: u32, bytes: u64) {
        if std::mem::take(&mut self.in_doubt) {
            self.look_at_all_again();
            self.handled.add(position);
        }
        self.fetched += 1;
        self.fetched_bytes += bytes;
    }

    /// A fetch failed; `again`: it may work later.
    pub(crate) fn failed(&mut self, position: u32, again: bool) {
        let tries = self.tries.entry(position).or_default();
        *tries += 1;
        if again && *tries < TRIES {
            self.handled.remove(position);
            self.again.push_back(position);
            if self.rest == Rest::Complete {
                self.rest = Rest::No;
            }
        }
    }

    /// Puts back a position that was taken and not fetched.
    pub(crate) fn put_back(&mut self, position: u32, is_predicted: bool) {
        self.handled.remove(position);
        let queue = if is_predicted { &mut self.predicted } else { &mut self.again };
        queue.push_front(position);
    }

    /// Heavy thinking that the oracle wants done, in a background thread.
    pub(crate) fn next_work(&mut self) -> Option<Work> {
        self.oracle.as_mut()?.next_work()
    }

    /// What came of it.
    pub(crate) fn accept(&mut self, outcome: Outcome) {
        if let Some(oracle) = &mut self.oracle {
            oracle.accept(outcome);
        }
    }

    /// When the object is needed next, if it belongs to this set.
    pub(crate) fn next_use(&mut self, id: &ObjectId) -> Option<NextUse> {
        let position = position_in(self.by_id.as_ref()?, id)?;
        let known = self.oracle.as_mut().and_then(|oracle| oracle.next_use(position));
        Some(match known {
            Some(opens) => NextUse::After(opens),
            None if self.read.has(position) => NextUse::NextEpoch,
            None => NextUse::ThisEpoch,
        })
    }

    /// Makes the table that [`Scan::next_use`] needs, if it is not there. True if it was made.
    pub(crate) fn index_ids(&mut self) -> bool {
        let missing = self.by_id.is_none();
        if missing {
            self.by_id = Some(self.set.by_id());
        }
        missing
    }

    /// The object at a position.
    pub(crate) fn object(&self, position: u32) -> Option<Object> {
        self.set.object(position)
    }

    /// `watched`: its accesses are reported.
    pub(crate) fn status(&self, watched: bool) -> ScanStatus {
        let verdict = self.oracle.as_ref().map(Oracle::verdict);
        ScanStatus {
            root: self.set.root.to_string(),
            files: u64::from(self.set.len()),
            handled: u64::from(self.handled.count),
            read: u64::from(self.read.count),
            watched,
            readers: self.readers.len() as u64,
            state: self.rest.text().into(),
            order: verdict.as_ref().map_or_else(|| "not looked for".into(), |v| v.sampler.clone()),
            confidence: verdict.as_ref().map_or(0.0, |v| v.confidence),
            known_after: verdict.as_ref().and_then(|v| v.reads_to_lock).unwrap_or(0),
            push: self.pusher.text(verdict.is_some_and(|v| v.locked > 0)).into(),
        }
    }
}
