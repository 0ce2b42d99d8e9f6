//! What is known of a set from before: from a set that it replaces, or from an earlier life of the node.

use std::sync::Arc;

use super::{SWAPS_MAX, Scan};

impl Scan {
    /// Takes over what is known of a set that this one replaces, such as one of its folders: who reads
    /// it, and what was read, in which order. Cost: two binary searches for each file that was read.
    pub(crate) fn take_over(&mut self, other: &Self) {
        let set = Arc::clone(&self.set);
        let here = |position| {
            let object = other.set.object(position)?;
            set.position(other.set.folder(position)?, &object)
        };
        for position in other.read.iter().filter_map(here) {
            self.read.add(position);
        }
        if let (Some(oracle), Some(before)) = (&mut self.oracle, &other.oracle) {
            oracle.resume_epoch(before.recorded().iter().copied().filter_map(here));
        }
        self.readers.take_over(&other.readers);
        self.last_access = self.last_access.max(other.last_access);
        self.reads += other.reads;
        self.read_bytes += other.read_bytes;
        self.swaps = (self.swaps + other.swaps).min(SWAPS_MAX);
    }

    /// True once: it is to be looked whether an order of an earlier life is kept of it.
    pub(crate) fn take_wants_memory(&mut self) -> bool {
        std::mem::take(&mut self.wants_memory)
    }

    /// An order of an earlier life.
    pub(crate) fn remember(&mut self, order: Vec<u32>) {
        if let Some(oracle) = &mut self.oracle {
            oracle.import_learned(order);
        }
    }

    /// An order to be kept, once: of an epoch that was read to its end, or, if nobody reads it now or it
    /// `ends`, nearly so.
    pub(crate) fn take_learned(&mut self, ends: bool) -> Option<Vec<u32>> {
        self.oracle.as_mut()?.take_learned(ends || self.is_idle)
    }
}
