//! Orders that were learned, kept over a restart of the node.
//!
//! An order is a list of positions in the sorted list of a data set's files, so it means something only
//! beside exactly the same list: with it goes the list's [identity](DataSet::identity), and one learned on
//! other files is not used.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::set::DataSet;

/// An order that was learned of one data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOrder {
    /// Of the list of files that the positions belong to.
    pub identity: u128,
    /// In the order of the reads.
    pub positions: Vec<u32>,
}

/// Where orders are kept. Of each data set, which goes by the hash of its name, the one learned last.
pub trait OrderMemory: fmt::Debug + Send + Sync {
    /// What was kept of a data set; `None` if there is nothing, or nothing that can be read. May block.
    fn recall(&self, set: u64) -> Option<KeptOrder>;

    /// Keeps an order in the place of the one before. One that cannot be kept costs what is learned
    /// again, so this does not fail. May block.
    fn keep(&self, set: u64, order: &KeptOrder);
}

impl DataSet {
    /// The hash of its name: the folder, and whether it is a set with those below it.
    pub(crate) fn name_hash(&self, flat: bool) -> u64 {
        xxh3_64_with_seed(self.root.as_bytes(), u64::from(flat))
    }

    /// The same for the same files in the same versions and in the same places. Cost: a hash for each of
    /// them, a quarter of a second for a million.
    pub(crate) fn identity(&self) -> u128 {
        let mut all = Xxh3::new();
        all.update(&self.len().to_le_bytes());
        for (id, position) in self.ids() {
            all.update(&id.to_le_bytes());
            all.update(&position.to_le_bytes());
        }
        all.digest128()
    }
}
