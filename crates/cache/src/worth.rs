//! Whether an object is worth its place: the rule of admission and eviction, without any storage.
//!
//! # The argument
//!
//! A training job uses every object of its data set once an epoch, in a new random order. Of a
//! cache that holds C of N objects, at most C can be hit in an epoch, whatever is evicted for
//! what: each object is asked for once, and an object that is not here when the epoch begins is
//! missed. Keeping what is here gives C hits; LRU evicts what was used longest ago, which in a scan
//! is what comes next, and gives almost none. So an object that may be used again is evicted for
//! none of its kind (MinIO in CoorDL: Mohan, Phanishayee, Raniwala and Chidambaram, "Analyzing and
//! mitigating data stalls in DNN training", VLDB 2021). What remains is to know which objects will
//! *not* be used again:
//!
//! - **By foresight.** Who knows what is being read says so ([`NextUse`]). An object of no data set
//!   that is being read makes room for one that is in such a set, as soon as it was not used for a
//!   while.
//! - **By age.** In random epochs the time between two uses is at most two epochs, twice the mean.
//!   An object that was not used for 2.3 times the mean time of all uses (`reuse`; the rest is
//!   for its error), nor for as many uses as there are objects, is dead: its job is over, or it was a
//!   one-time read, or a version that was replaced. The mean follows a new job in its third epoch.
//!   If nothing was used twice yet, nothing is dead.
//!
//! Beyond that, with foresight only:
//!
//! - What is needed at a known time may take the place of what is needed later (Belady 1966), with a
//!   margin, because a swap costs a write.
//! - Fill may take the place of what was read in this epoch with what will be read in it: the count
//!   of objects that are here at the next epoch's start stays the same, so it costs the bucket
//!   nothing, and every such object is a hit. That is how a data set of twice the cache gets more than
//!   half of its reads from the cache although no eviction could do it: 1 - (1 - ln 2) / 2 = 0.85 with an
//!   unknown order, all with a known one, if fill keeps up.
//! - A missed object of a data set being read takes, one time in eight, the place of one that was read
//!   in this epoch: both are needed next in their next epochs, so it costs a write and no hit, and
//!   between two jobs it moves space to the one that misses more often, whoever came first.
//!
//! Where nodes share a cache, an object that another node keeps for all ([`NextUse::Elsewhere`]) is a copy:
//! it makes room for anything that is this node's to keep, whenever that is needed, because it costs
//! a request to a peer and the other one a request to the bucket. So a claim of our own is made twice: to
//! the place of any copy first, and only where no copy is left to that of others of our own
//! ([`Claim::steps`]). A copy takes the place of the dead only. Of what this node keeps for all, age says
//! less: readers elsewhere that have copies do not ask, and another job may be slower than the one here. It
//! makes room for a copy only if that is of a data set being read, and it is of none and was not asked for
//! in four times as long. So a cache full of what jobs of last month read takes copies again.
//!
//! Plain LRU, SIEVE and S3-FIFO (Zhang et al., NSDI 2024; Yang et al., SOSP 2023) ask how often an object
//! was used; in a scan every object was used equally often. `feedline bench evict` compares all.
//!
//! # Deliberately absent
//!
//! - Sizes: files of one data set differ by a small factor, and a hit saves a request first of all.
//! - Memory of ages over a restart: all objects begin anew, so the dead live for one more period.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use feedline_model::{NextUse, ObjectId, Priority};
use parking_lot::Mutex;

use crate::reuse::Reuse;

/// One in this many objects that have no other right may take the place of their equal.
const CHANCES: u64 = 8;

/// How much longer than other objects one that is kept for all nodes must not have been asked for, to be
/// dead in the eyes of a copy: jobs that read one data set once while another is read nine times are rare.
const KEPT_LONGER: u64 = 4;

/// What is needed later must be needed later by a quarter, and by this many uses.
const LATER_MIN: u64 = 64;

/// Rank of what will not be used again, above its idle time.
const DEAD: u64 = 3 << 60;
/// Rank of copies of what another node keeps, above their idle time.
const COPY: u64 = 5 << 59;
/// Rank of what was read in this epoch.
const READ: u64 = 2 << 60;
/// Rank of what is needed at a known time, above that time.
const KNOWN: u64 = 1 << 60;
/// Rank of what nobody knows about, above its idle time.
const QUIET: u64 = 1 << 59;
/// Above every idle time and every known distance.
const TIME_MAX: u64 = (1 << 59) - 1;

/// Whose an object is that wants a place, and of whom it asks one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Of no node in particular: nobody shares, or it is the evictor itself.
    Alone,
    /// Another node keeps it.
    Copy,
    /// It is ours.
    Own,
    /// It is ours, and the copies are asked alone.
    OwnOfCopies,
}

/// What is known of an object that may have to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// When it is needed next.
    pub next: NextUse,
    /// This node keeps it for others too.
    pub is_kept_for_all: bool,
}

impl From<NextUse> for Victim {
    fn from(next: NextUse) -> Self {
        Self { next, is_kept_for_all: false }
    }
}

/// Who wants a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// When the object is needed next, after the read that brings it.
    pub next: NextUse,
    /// A demand read brought it, or a fill.
    pub priority: Priority,
    /// It is one of the few that may take the place of an equal.
    pub chance: bool,
    /// Space must be made, whatever has to go: the index grew or the disk is full.
    pub must: bool,
    /// Whose it is, among nodes that share a cache.
    pub side: Side,
}

impl Claim {
    /// The claim of an object that was read with `priority` and is needed next at `next`.
    #[must_use]
    pub fn of(next: NextUse, priority: Priority) -> Self {
        Self { next, priority, chance: false, must: false, side: Side::Alone }
    }

    /// The claim of the same object where another node keeps it: to the place of the dead alone.
    #[must_use]
    pub fn of_copy(self) -> Self {
        let next = match self.next {
            NextUse::Unknown => NextUse::Unknown,
            _ => NextUse::NextEpoch,
        };
        Self { side: Side::Copy, ..Self::of(next, self.priority) }
    }

    /// The claim of the same object where this node keeps it for all.
    #[must_use]
    pub fn of_own(self) -> Self {
        Self { next: own_use(self.next), side: Side::Own, ..self }
    }

    /// Whom it asks for a place, one after the other: see the module's head.
    #[must_use]
    pub fn steps(self) -> [Option<Self>; 2] {
        let next = match self.next {
            NextUse::Unknown => NextUse::Unknown,
            _ => NextUse::NextEpoch,
        };
        let of_copies = Self { side: Side::OwnOfCopies, ..Self::of(next, self.priority) };
        [(self.side == Side::Own).then_some(of_copies), Some(self)]
    }

    /// The claim that nothing can refuse.
    #[must_use]
    pub fn must() -> Self {
        Self { must: true, ..Self::of(NextUse::Unknown, Priority::Demand) }
    }

    /// True if it may take the place of an object that is still of use.
    pub(crate) fn compares(&self) -> bool {
        let comes = match self.next {
            NextUse::Unknown | NextUse::NextEpoch | NextUse::Elsewhere => false,
            NextUse::After(_) => true,
            NextUse::ThisEpoch => self.priority == Priority::Fill,
        };
        comes || self.chance || self.must || self.asks_copies()
    }

    /// True if it asks for the places of copies alone.
    pub(crate) fn asks_copies(&self) -> bool {
        self.side == Side::OwnOfCopies
    }

    /// How far off the need is, where that is what claims of its kind are compared by: what is
    /// found for one is found for all that are nearer, too.
    pub(crate) fn distance(&self) -> u64 {
        match self.next {
            NextUse::After(uses) => uses,
            _ => u64::MAX,
        }
    }

    /// Claims of one kind and distance find the same victims, or none.
    pub(crate) fn kind(&self) -> usize {
        let known = usize::from(self.next != NextUse::Unknown);
        match (self.side, self.must, self.compares()) {
            (Side::OwnOfCopies, ..) => OF_COPIES + known,
            (Side::Copy, ..) => 5 + known,
            (Side::Own, false, false) => 7 + known,
            (_, true, _) => 4,
            (_, _, true) if self.priority == Priority::Fill => 3,
            (_, _, true) => 2,
            _ => known,
        }
    }
}

/// Number of kinds of claims, and the first of those that ask copies alone, which are the last.
pub(crate) const KINDS: usize = 11;
pub(crate) const OF_COPIES: usize = 9;

/// When an object that this node keeps for all is needed next. What no reader here needs, others may.
pub(crate) fn own_use(next: NextUse) -> NextUse {
    if next == NextUse::After(u64::MAX) { NextUse::ThisEpoch } else { next }
}

/// When an object that was not used counts as dead, in uses of all objects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ages {
    /// If nobody knows anything. `None`: never.
    dead: Option<u64>,
    /// If it belongs to no data set that is being read, and what wants its place does.
    stray: u64,
}

impl Ages {
    /// The shortest idle time at which an object of which nothing is known yields to the claim.
    pub(crate) fn quiet_after(&self, claim: &Claim) -> Option<u64> {
        if claim.must {
            Some(0)
        } else if claim.next == NextUse::Unknown {
            self.dead
        } else {
            Some(self.stray.min(self.dead.unwrap_or(u64::MAX)))
        }
    }

    /// Says whether an object that was not used for `idle` uses and is needed next at `next`
    /// yields its place; the highest rank goes first. `None`: it stays.
    pub(crate) fn rank(&self, claim: &Claim, idle: u64, victim: Victim) -> Option<u64> {
        let idle = idle.min(TIME_MAX);
        let Victim { next, is_kept_for_all } = victim;
        let is_dead = self.dead.is_some_and(|dead| idle > dead);
        let is_quiet = match (is_kept_for_all, claim.side) {
            (false, _) => self.quiet_after(claim).is_some_and(|after| idle > after),
            (true, Side::Own) => is_dead,
            (true, Side::Copy) => {
                let is_known = claim.next != NextUse::Unknown;
                is_known && self.dead.is_some_and(|dead| idle / KEPT_LONGER > dead)
            }
            (true, Side::Alone | Side::OwnOfCopies) => false,
        };
        if claim.must {
            return Some(match next {
                NextUse::Unknown => QUIET + idle,
                NextUse::After(uses) => KNOWN + uses.min(TIME_MAX),
                NextUse::NextEpoch => READ + idle,
                NextUse::ThisEpoch => 0,
                NextUse::Elsewhere => COPY + idle,
            });
        }
        let fills = claim.priority == Priority::Fill;
        match (claim.next, next) {
            (_, NextUse::Unknown) => is_quiet.then_some(DEAD + idle),
            (_, NextUse::Elsewhere) if claim.asks_copies() => Some(COPY + idle),
            // Copies that are still of use do not push each other out: in a scan none would be hit.
            (_, NextUse::Elsewhere) => is_dead.then_some(COPY + idle),
            (NextUse::After(own), NextUse::After(uses)) => {
                let later = own.saturating_add(own / 4).saturating_add(LATER_MIN) < uses;
                later.then_some(KNOWN + uses.min(TIME_MAX))
            }
            (NextUse::After(_) | NextUse::ThisEpoch, NextUse::NextEpoch) if fills => {
                Some(READ + idle)
            }
            (NextUse::ThisEpoch | NextUse::NextEpoch, NextUse::NextEpoch) if claim.chance => {
                Some(READ + idle)
            }
            _ => None,
        }
    }
}

/// The time of a cache, counted in uses, and what follows from it.
#[derive(Debug, Default)]
pub struct Worth {
    time: AtomicU64,
    /// As in [`Reuse`], to be looked at without the lock.
    zeros: AtomicU32,
    /// 0: unknown.
    mean: AtomicU64,
    reuse: Mutex<Reuse>,
}

/// The finaliser of `SplitMix64`.
fn mix(hash: u64) -> u64 {
    let mut z = hash;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Worth {
    /// Uses so far.
    #[must_use]
    pub fn time(&self) -> u64 {
        self.time.load(Ordering::Relaxed)
    }

    /// Somebody used a page of an object, cached or not. Returns the time. Cost: for an id that is
    /// in the sample a short lock, about 0.1 us; else one atomic addition.
    pub fn used(&self, id: &ObjectId, page: u64) -> u64 {
        let time = self.time.fetch_add(1, Ordering::Relaxed) + 1;
        let hash = mix(id.hash64() ^ page.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        if hash.leading_zeros() >= self.zeros.load(Ordering::Relaxed) {
            let mut reuse = self.reuse.lock();
            reuse.note(hash, time);
            self.zeros.store(reuse.zeros(), Ordering::Relaxed);
            self.mean.store(reuse.mean().unwrap_or(0), Ordering::Relaxed);
        }
        time
    }

    /// The claim of an object that a read brought. One in eight that have no better right gets a
    /// chance; which ones depends on the id and the time alone.
    #[must_use]
    pub fn claim(&self, id: &ObjectId, next: NextUse, priority: Priority) -> Claim {
        let mut claim = Claim::of(next, priority);
        let is_equal = matches!(next, NextUse::NextEpoch | NextUse::ThisEpoch);
        claim.chance = priority == Priority::Demand
            && is_equal
            && mix(id.hash64() ^ mix(self.time())).is_multiple_of(CHANCES);
        claim
    }

    /// Ages for a cache of `objects` objects.
    pub(crate) fn ages(&self, objects: usize) -> Ages {
        let mean = self.mean.load(Ordering::Relaxed);
        let objects = objects as u64;
        let dead = (mean > 0).then(|| (mean * 23 / 10).max(objects));
        Ages { dead, stray: (objects / 4).max(LATER_MIN) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGES: Ages = Ages { dead: Some(1_000), stray: 100 };

    fn yields(claim: Claim, idle: u64, next: NextUse) -> bool {
        AGES.rank(&claim, idle, next.into()).is_some()
    }

    #[test]
    fn claims_of_one_kind_find_the_same_victims() {
        let dead = Victim { next: NextUse::Unknown, is_kept_for_all: true };
        let background = Claim::of(NextUse::Unknown, Priority::Fill);
        let own = Claim::of(NextUse::Unknown, Priority::Demand).of_own();
        let finds = |claim: &Claim| AGES.rank(claim, 5_000, dead).is_some();
        assert!(!finds(&background) && finds(&own));
        assert_ne!(background.kind(), own.kind());
    }

    #[test]
    fn of_a_data_set_being_read_nothing_goes_for_its_equal() {
        for next in [NextUse::NextEpoch, NextUse::ThisEpoch] {
            let demand = Claim::of(NextUse::NextEpoch, Priority::Demand);
            assert!(!yields(demand, 5_000, next), "{next:?}");
            let unknown = Claim::of(NextUse::Unknown, Priority::Demand);
            assert!(!yields(unknown, 5_000, next), "{next:?} for something unknown");
        }
        // One in eight may, but never for what was not read yet.
        let chance = Claim { chance: true, ..Claim::of(NextUse::NextEpoch, Priority::Demand) };
        assert!(yields(chance, 1, NextUse::NextEpoch));
        assert!(!yields(chance, 1, NextUse::ThisEpoch));
    }

    #[test]
    fn what_nobody_knows_goes_when_it_is_old_and_sooner_for_what_is_known() {
        let unknown = Claim::of(NextUse::Unknown, Priority::Demand);
        assert!(yields(unknown, 1_001, NextUse::Unknown));
        assert!(!yields(unknown, 1_000, NextUse::Unknown));
        for priority in [Priority::Demand, Priority::Fill] {
            let known = Claim::of(NextUse::ThisEpoch, priority);
            assert!(yields(known, 101, NextUse::Unknown));
            assert!(!yields(known, 100, NextUse::Unknown));
        }
        let never = Ages { dead: None, stray: 100 };
        assert_eq!(never.rank(&unknown, u64::MAX, NextUse::Unknown.into()), None);
    }

    #[test]
    fn fill_takes_the_place_of_what_was_read_and_demand_does_not() {
        let fill = Claim::of(NextUse::ThisEpoch, Priority::Fill);
        assert!(yields(fill, 1, NextUse::NextEpoch));
        assert!(!yields(fill, 5_000, NextUse::ThisEpoch));
        assert!(!yields(fill, 5_000, NextUse::After(5_000)));
        let demand = Claim::of(NextUse::ThisEpoch, Priority::Demand);
        assert!(!yields(demand, 1, NextUse::NextEpoch));
    }

    #[test]
    fn of_two_known_times_the_later_goes_by_a_margin_and_the_latest_first() {
        for priority in [Priority::Demand, Priority::Fill] {
            let claim = Claim::of(NextUse::After(1_000), priority);
            assert!(!yields(claim, 0, NextUse::After(1_314)));
            assert!(yields(claim, 0, NextUse::After(1_315)));
        }
        let claim = Claim::of(NextUse::After(0), Priority::Fill);
        let rank = |idle, next: NextUse| AGES.rank(&claim, idle, next.into()).expect("yields");
        let order = [
            rank(9_999, NextUse::Unknown),
            rank(500, NextUse::Unknown),
            rank(7, NextUse::NextEpoch),
            rank(u64::MAX, NextUse::After(u64::MAX)),
            rank(0, NextUse::After(65)),
        ];
        assert!(order.is_sorted_by(|a, b| a > b), "{order:?}");
    }

    #[test]
    fn copies_make_room_for_what_is_our_own_and_for_nothing_else() {
        for next in [NextUse::Unknown, NextUse::NextEpoch, NextUse::ThisEpoch] {
            let [first, second] = Claim::of(next, Priority::Demand).of_own().steps();
            let (first, second) = (first.expect("copies"), second.expect("all"));
            assert!(yields(first, 0, NextUse::Elsewhere) && first.compares());
            for of_our_own in [NextUse::ThisEpoch, NextUse::NextEpoch, NextUse::After(9_999)] {
                assert!(!yields(first, 5_000, of_our_own), "{next:?} {of_our_own:?}");
            }
            assert!(!yields(second, 1_000, NextUse::Elsewhere), "asked before");
            let copy = Claim { chance: true, ..Claim::of(next, Priority::Fill) }.of_copy();
            assert!(!yields(copy, 1_000, NextUse::Elsewhere), "its equal");
            assert!(yields(copy, 1_001, NextUse::Elsewhere), "dead");
            for of_our_own in [NextUse::ThisEpoch, NextUse::NextEpoch, NextUse::After(9_999)] {
                assert!(!yields(copy, 5_000, of_our_own), "{next:?} {of_our_own:?}");
            }
            assert!(yields(copy, 1_001, NextUse::Unknown), "the dead go for anything");
        }
        // The dead go before copies.
        let [first, _] = Claim::of(NextUse::After(0), Priority::Fill).of_own().steps();
        let first = first.expect("copies");
        let rank = |idle, next: NextUse| AGES.rank(&first, idle, next.into()).expect("yields");
        assert!(rank(500, NextUse::Unknown) > rank(5_000, NextUse::Elsewhere));
    }

    #[test]
    fn what_is_kept_for_all_is_not_judged_by_age_alone_unless_for_our_own() {
        let kept = Victim { next: NextUse::Unknown, is_kept_for_all: true };
        let claim = |next| Claim::of(next, Priority::Demand);
        let yields = |claim: Claim, idle| AGES.rank(&claim, idle, kept).is_some();
        let (unknown, known) = (claim(NextUse::Unknown), claim(NextUse::ThisEpoch));
        assert!(!yields(unknown, 9_000), "nobody asks for its place");
        assert!(!yields(unknown.of_copy(), 9_000));
        assert!(!yields(known.of_copy(), 4_003) && yields(known.of_copy(), 4_004));
        for [of_copies, of_all] in [unknown.of_own().steps(), known.of_own().steps()] {
            assert!(!yields(of_copies.expect("first"), 9_000), "copies go first");
            let of_all = of_all.expect("second");
            assert!(yields(of_all, 1_001) && !yields(of_all, 1_000));
        }
    }

    #[test]
    fn what_no_reader_here_needs_is_not_the_first_of_our_own_to_go() {
        let claim = Claim::of(NextUse::After(u64::MAX), Priority::Demand);
        assert_eq!(claim.of_own().next, NextUse::ThisEpoch);
        assert_eq!(own_use(NextUse::After(7)), NextUse::After(7));
    }

    #[test]
    fn one_claim_in_eight_has_a_chance() {
        let worth = Worth::default();
        let chances = (0..8_000_u64).filter(|number| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_le_bytes());
            let id = ObjectId(id);
            worth.used(&id, 0);
            assert!(!worth.claim(&id, NextUse::Unknown, Priority::Demand).chance);
            assert!(!worth.claim(&id, NextUse::ThisEpoch, Priority::Fill).chance);
            worth.claim(&id, NextUse::NextEpoch, Priority::Demand).chance
        });
        let chances = chances.count();
        assert!((800..1_200).contains(&chances), "{chances}");
    }
}
