//! Whether a miss on what this node owns may be at another node, so that asking there is worth while.
//!
//! It may, because another node owned the object before this one came, or stood in for this one while others
//! passed it by. Nobody knows what is where, so a question may be in vain; each of the two has a credit for that.
//!
//! # Invariants
//!
//! - In a cache that is simply cold, the questions end after some hundreds, but for a small share of the misses.
//! - They are never given up: where others have what is read now, that share finds it out and all misses ask again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Questions that may be in vain when others are likely to have what this node owns: another data set may be
/// read first. In a cluster that is simply new they are for nothing, and cost each node some 0.02 s of CPU.
const LIKELY: u32 = 256;

/// The same after a change of members, which may be of no matter here, and after a question that was not in vain.
const POSSIBLE: u32 = 64;

/// Without credit, one miss in so many asks all the same.
const ONE_IN: u32 = 16;

/// How often one question may be in vain.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    left: AtomicU32,
    skipped: AtomicU32,
}

impl Credit {
    fn at_least(&self, credit: u32) {
        self.left.fetch_max(credit, Ordering::AcqRel);
    }

    /// True if this miss is to ask.
    pub(crate) fn is_due(&self) -> bool {
        0 < self.left.load(Ordering::Acquire)
            || self.skipped.fetch_add(1, Ordering::AcqRel) % ONE_IN == ONE_IN - 1
    }

    pub(crate) fn found(&self) {
        self.at_least(POSSIBLE);
    }

    pub(crate) fn in_vain(&self) {
        let less = |left: u32| left.checked_sub(1);
        // Nothing left to take away is fine.
        let _ = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Handover {
    epoch: AtomicU64,
    /// For who owned it before this node came.
    pub(crate) before: Credit,
    /// For who owns it whenever this node is passed by: the next candidate.
    pub(crate) stand_in: Credit,
}

impl Handover {
    /// Of a node that has just started.
    pub(crate) fn new() -> Self {
        let this = Self {
            epoch: AtomicU64::new(0),
            before: Credit::default(),
            stand_in: Credit::default(),
        };
        this.before.at_least(LIKELY);
        this
    }

    /// The members are those of this epoch.
    pub(crate) fn is_in(&self, epoch: u64) {
        if self.epoch.swap(epoch, Ordering::AcqRel) != epoch {
            self.stand_in.at_least(POSSIBLE);
        }
    }

    /// Another node has passed this one by until now.
    pub(crate) fn was_passed_by(&self) {
        self.stand_in.at_least(LIKELY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_in_vain(credit: &Credit, misses: u32) -> usize {
        let due = (0..misses).filter(|_| credit.is_due()).inspect(|_| credit.in_vain());
        due.count()
    }

    #[test]
    fn questions_in_vain_become_few_and_one_that_was_not_brings_them_back() {
        let handover = Handover::new();
        let credit = &handover.before;
        assert_eq!(asked_in_vain(credit, 200), 200, "another data set may be read first");
        assert_eq!(asked_in_vain(credit, 56 + 1_600), 56 + 100);
        credit.found();
        assert_eq!(asked_in_vain(credit, 64), 64);
        assert_eq!(asked_in_vain(credit, 160), 10);
    }

    #[test]
    fn stand_ins_are_asked_after_a_change_of_members_and_longer_after_being_passed_by() {
        let handover = Handover::new();
        let credit = &handover.stand_in;
        assert_eq!(asked_in_vain(credit, 160), 10);
        handover.is_in(3);
        assert_eq!(asked_in_vain(credit, 64 + 160), 64 + 10);
        handover.is_in(3);
        assert_eq!(asked_in_vain(credit, 160), 10, "no change");
        handover.was_passed_by();
        assert_eq!(asked_in_vain(credit, 256 + 160), 256 + 10);
    }
}
