//! The search for victims: a hand that goes round the objects of one directory.
//!
//! Invariants: a search looks at a bounded number of objects, and one that found too little is not
//! repeated, for claims of its kind, before a while has passed in uses: refusing a million
//! objects costs a million comparisons, not a million searches. Nobody is asked under a lock.
//!
//! Where copies of what other nodes keep make room for our own, the hand goes round until it has enough,
//! however few there are: nothing of our own is refused while there is a copy.
//!
//! Where only the dead may go, all that the hand meets go. Where a claim is compared with objects
//! that are of use, the hand takes the lowest of a small sample, as Redis and LRB do (Song,
//! Berger, Li and Lloyd, "Learning relaxed Belady", NSDI 2020): close to the lowest of all, at the
//! cost of a few questions.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use feedline_model::ObjectId;

use crate::worth::{Claim, KINDS, OF_COPIES, Victim, Worth};

/// Slots in one step of the hand where only the dead may go: one lock of the index.
const STEP: usize = 4096;

/// Slots in one step where objects are compared, and how many of them may go.
const SAMPLE: usize = 64;
const SAMPLE_TAKEN: usize = 8;

/// What one search may cost: slots looked at, questions to foresight and holders four times.
const COST_MAX: usize = 32 << 10;
/// The same where objects are compared: what is not in 1,600 of them is rare.
const SAMPLES_COST_MAX: usize = 8 << 10;
const QUESTION_COST: usize = 4;

/// Uses that pass before a search of a kind that found too little is repeated; twice as many after
/// each that found nothing, up to a quarter of the objects.
const PAUSE_MIN: u64 = 16;
const PAUSE_MAX: u64 = 1024;
const PAUSE_FRUITLESS_MAX: u64 = 16 << 10;

/// An object that may have to go.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Which.
    pub id: ObjectId,
    /// Uses of all objects since it was last used.
    pub idle: u64,
}

/// What the hand goes round: the objects of one directory.
pub trait Shelf {
    /// One past the last slot.
    fn slots(&self) -> usize;

    /// Appends what may be evicted in the slots of `range`.
    fn look(&self, range: std::ops::Range<usize>, found: &mut Vec<Candidate>);
}

/// How a search goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Evicted; more is needed.
    Gone,
    /// Evicted, and that is enough.
    Enough,
    /// In use, or gone before.
    Refused,
}

/// The hand of one directory, and what its last searches taught.
#[derive(Debug, Default)]
pub struct Hunt {
    hand: AtomicUsize,
    paused_until: [AtomicU64; KINDS],
    /// Nearer claims than this may still find something.
    failed: [AtomicU64; KINDS],
    fruitless: [AtomicU32; KINDS],
    /// Counts what made searches worth a try again: one that began before does not pause its kind.
    news: AtomicU64,
}

impl Hunt {
    /// True if a search for this claim would find nothing, as far as is known. Three loads.
    #[must_use]
    pub fn is_paused(&self, claim: &Claim, worth: &Worth) -> bool {
        let kind = claim.kind();
        worth.time() < self.paused_until[kind].load(Ordering::Relaxed)
            && self.failed[kind].load(Ordering::Relaxed) <= claim.distance()
    }

    /// Something may have become evictable: search again when asked.
    pub fn resume(&self) {
        self.news.fetch_add(1, Ordering::AcqRel);
        self.paused_until.iter().for_each(|until| until.store(0, Ordering::Relaxed));
        self.fruitless.iter().for_each(|times| times.store(0, Ordering::Relaxed));
    }

    /// A copy of what another node keeps has come: it makes room for our own, whatever was found before.
    pub(crate) fn resume_copies(&self) {
        self.news.fetch_add(1, Ordering::AcqRel);
        self.paused_until[OF_COPIES..].iter().for_each(|until| until.store(0, Ordering::Relaxed));
    }

    /// Looks for objects that yield to the claim and has them evicted, until it is enough or too
    /// little is found. Returns true if anything was evicted. Cost: at most about 30,000 slots,
    /// or a fifth as many questions; of copies, a whole turn if there are few.
    pub fn run(
        &self,
        worth: &Worth,
        shelf: &dyn Shelf,
        victim: &dyn Fn(&ObjectId) -> Victim,
        claim: &Claim,
        evict: &mut dyn FnMut(&ObjectId) -> Outcome,
    ) -> bool {
        let ages = worth.ages(shelf.slots());
        let (step, taken, cost_max) = if claim.asks_copies() {
            // All that it meets may go, and whoever is in use stands in nobody's way.
            (SAMPLE, SAMPLE, usize::MAX)
        } else if claim.compares() {
            (SAMPLE, SAMPLE_TAKEN, SAMPLES_COST_MAX)
        } else {
            (STEP, STEP, COST_MAX)
        };
        let quiet_after = ages.quiet_after(claim);
        let news = self.news.load(Ordering::Acquire);
        let (mut cost, mut freed, mut in_use) = (0, false, false);
        let (mut looked, mut found, mut ranked) = (0, Vec::new(), Vec::new());
        while cost < cost_max && looked < shelf.slots() {
            found.clear();
            ranked.clear();
            looked += self.step(shelf, step, &mut found);
            cost += step;
            for Candidate { id, idle } in &found {
                // Cheap first: nobody is asked about what would stay either way.
                let is_quiet = quiet_after.is_some_and(|after| *idle > after);
                if !is_quiet && !claim.compares() {
                    continue;
                }
                cost += QUESTION_COST;
                if let Some(rank) = ages.rank(claim, *idle, victim(id)) {
                    ranked.push((rank, *id));
                }
            }
            ranked.sort_unstable_by_key(|(rank, _)| Reverse(*rank));
            for (_, id) in ranked.iter().take(taken) {
                match evict(id) {
                    Outcome::Gone => freed = true,
                    Outcome::Enough => {
                        self.fruitless[claim.kind()].store(0, Ordering::Relaxed);
                        return true;
                    }
                    Outcome::Refused => {
                        cost += QUESTION_COST;
                        in_use = true;
                    }
                }
            }
        }
        if news != self.news.load(Ordering::Acquire) {
            // What came meanwhile may be behind the hand: no search has shown that there is nothing.
        } else if claim.asks_copies() && in_use {
            // A reader soon lets go of it; and a turn costs the more the more slots there are.
            let pause = (shelf.slots() as u64 / 256).clamp(PAUSE_MIN, PAUSE_FRUITLESS_MAX);
            self.paused_until[claim.kind()].store(worth.time() + pause, Ordering::Relaxed);
        } else {
            self.pause(claim, shelf.slots() as u64, freed, worth.time());
        }
        freed
    }

    fn pause(&self, claim: &Claim, slots: u64, freed: bool, time: u64) {
        let fruitless = &self.fruitless[claim.kind()];
        let times = if freed { 0 } else { fruitless.load(Ordering::Relaxed).min(20) };
        fruitless.store(if freed { 0 } else { times + 1 }, Ordering::Relaxed);
        let first = (slots / 16).clamp(PAUSE_MIN, PAUSE_MAX);
        let most = (slots / 4).clamp(PAUSE_MIN, PAUSE_FRUITLESS_MAX);
        let pause = (first << times).min(most.max(first));
        let kind = claim.kind();
        self.failed[kind].store(claim.distance(), Ordering::Relaxed);
        self.paused_until[kind].store(time + pause, Ordering::Relaxed);
    }

    /// Moves the hand on; returns by how many slots.
    fn step(&self, shelf: &dyn Shelf, step: usize, found: &mut Vec<Candidate>) -> usize {
        let slots = shelf.slots();
        let hand = self.hand.load(Ordering::Relaxed);
        let from = if hand < slots { hand } else { 0 };
        let to = (from + step).min(slots);
        self.hand.store(to, Ordering::Relaxed);
        shelf.look(from..to, found);
        // An empty shelf ends a search too.
        (to - from).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use feedline_model::{NextUse, Priority};

    use super::*;

    /// Objects that nobody uses: each is as idle as the cache is old.
    struct Row(RefCell<Vec<Option<ObjectId>>>, Cell<usize>);

    impl Shelf for Row {
        fn slots(&self) -> usize {
            self.0.borrow().len()
        }

        fn look(&self, range: std::ops::Range<usize>, found: &mut Vec<Candidate>) {
            self.1.set(self.1.get() + range.len());
            let row = self.0.borrow();
            found.extend(row[range].iter().flatten().map(|id| Candidate { id: *id, idle: 5_000 }));
        }
    }

    fn id(number: u64) -> ObjectId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        ObjectId(bytes)
    }

    fn row(objects: u64) -> Row {
        Row(RefCell::new((0..objects).map(|number| Some(id(number))).collect()), Cell::new(0))
    }

    #[test]
    fn a_million_refusals_cost_few_looks() {
        const USES: u64 = 200_000;
        let (worth, hunt, row) = (Worth::default(), Hunt::default(), row(2_000));
        let claim = Claim::of(NextUse::NextEpoch, Priority::Demand);
        let asked = Cell::new(0_u64);
        let next_use = |_: &ObjectId| {
            asked.set(asked.get() + 1);
            NextUse::ThisEpoch.into()
        };
        for number in 0..USES {
            worth.used(&id(number), 0);
            if !hunt.is_paused(&claim, &worth) {
                let mut evict = |_: &ObjectId| -> Outcome { panic!("evicted for its equal") };
                assert!(!hunt.run(&worth, &row, &next_use, &claim, &mut evict));
            }
        }
        assert!(asked.get() <= 6 * USES, "{} questions", asked.get());
        assert!(row.1.get() > 0, "nobody looked, so this showed nothing");
    }

    #[test]
    fn the_latest_of_a_sample_go_first_and_no_more_than_is_needed() {
        let (worth, hunt, row) = (Worth::default(), Hunt::default(), row(1_000));
        let claim = Claim::of(NextUse::After(100), Priority::Fill);
        // Object n is needed in n uses.
        let numbers: std::collections::HashMap<_, _> = (0..1_000).map(|n| (id(n), n)).collect();
        let mut gone = Vec::new();
        for _ in 0..50 {
            let mut evict = |id: &ObjectId| {
                gone.push(numbers[id]);
                row.0.borrow_mut()[usize::try_from(numbers[id]).expect("small")] = None;
                Outcome::Enough
            };
            let next_use = |id: &ObjectId| NextUse::After(numbers[id]).into();
            assert!(hunt.run(&worth, &row, &next_use, &claim, &mut evict));
        }
        assert_eq!(gone.len(), 50);
        assert!(gone.iter().all(|number| *number > 189), "{gone:?}");
    }

    #[test]
    fn a_claim_that_failed_speaks_for_those_that_are_further_off() {
        let (worth, hunt, row) = (Worth::default(), Hunt::default(), row(100));
        let claim = |uses| Claim::of(NextUse::After(uses), Priority::Demand);
        let known = |_: &ObjectId| NextUse::After(1_000).into();
        let mut evict = |_: &ObjectId| Outcome::Enough;
        assert!(!hunt.run(&worth, &row, &known, &claim(900), &mut evict));
        assert!(hunt.is_paused(&claim(900), &worth) && hunt.is_paused(&claim(5_000), &worth));
        assert!(!hunt.is_paused(&claim(700), &worth));
        assert!(hunt.run(&worth, &row, &known, &claim(700), &mut evict));
    }

    #[test]
    fn the_last_copy_is_found_and_then_nobody_looks_until_another_comes() {
        let (worth, hunt, row) = (Worth::default(), Hunt::default(), row(20_000));
        let [of_copies, _] = Claim::of(NextUse::After(9), Priority::Demand).of_own().steps();
        let claim = of_copies.expect("asked first");
        let victim = |it: &ObjectId| -> Victim {
            let is_copy = *it == id(19_999);
            if is_copy { NextUse::Elsewhere } else { NextUse::After(u64::MAX) }.into()
        };
        let mut gone = Vec::new();
        let mut evict = |it: &ObjectId| {
            gone.push(*it);
            row.0.borrow_mut()[19_999] = None;
            Outcome::Enough
        };
        assert!(hunt.run(&worth, &row, &victim, &claim, &mut evict));
        assert!(!hunt.run(&worth, &row, &victim, &claim, &mut evict));
        assert_eq!(gone, [id(19_999)]);
        assert!(hunt.is_paused(&claim, &worth));
        hunt.resume_copies();
        assert!(!hunt.is_paused(&claim, &worth));
    }

    #[test]
    fn a_copy_that_comes_during_a_search_is_looked_for_by_the_next_one() {
        let (worth, hunt, row) = (Worth::default(), Hunt::default(), row(1_000));
        let [of_copies, _] = Claim::of(NextUse::ThisEpoch, Priority::Demand).of_own().steps();
        let claim = of_copies.expect("asked first");
        let victim = |it: &ObjectId| -> Victim {
            let is_copy = *it == id(500);
            if is_copy { NextUse::Elsewhere } else { NextUse::ThisEpoch }.into()
        };
        let mut evict = |_: &ObjectId| {
            hunt.resume_copies();
            Outcome::Gone
        };
        assert!(hunt.run(&worth, &row, &victim, &claim, &mut evict), "one, and it is not enough");
        assert!(!hunt.is_paused(&claim, &worth));
    }

    #[test]
    fn a_search_that_found_nothing_is_resumed_when_told() {
        let (worth, hunt, row) = (Worth::default(), Hunt::default(), row(100));
        let claim = Claim::of(NextUse::ThisEpoch, Priority::Fill);
        let mut evict = |_: &ObjectId| Outcome::Refused;
        let known = |_: &ObjectId| NextUse::NextEpoch.into();
        assert!(!hunt.run(&worth, &row, &known, &claim, &mut evict));
        assert!(hunt.is_paused(&claim, &worth));
        let other = Claim::of(NextUse::Unknown, Priority::Demand);
        assert!(!hunt.is_paused(&other, &worth), "of another kind");
        hunt.resume();
        assert!(!hunt.is_paused(&claim, &worth));
    }
}
