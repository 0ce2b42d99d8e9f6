//! What a namespace tells about itself.

use std::sync::atomic::Ordering;

use crate::namespace::Namespace;
use crate::rules::HiddenReason;

/// Counts since the start, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceStats {
    /// Directories known now, those that only lead to mounts included.
    pub directories: u64,
    /// Entries in them now.
    pub entries: u64,
    /// LIST requests sent (pages; retries of the store not counted).
    pub lists: u64,
    /// Directories listed again in the background, ahead of their TTL.
    pub refreshes: u64,
    /// Preloads of a whole mount begun in the background.
    pub preloads: u64,
    /// Answers with an outdated listing, because the store did not answer.
    pub stale_served: u64,
    /// Listings given up because `directories_max` was reached.
    pub evicted: u64,
    /// Names not shown in the directories known now, by reason; reasons without any are left out.
    pub hidden: Vec<(HiddenReason, u64)>,
    /// A few such keys, as `reason: key`, met since the start.
    pub hidden_examples: Vec<String>,
}

impl Namespace {
    /// The statistics now. Memory only.
    #[must_use]
    pub fn stats(&self) -> NamespaceStats {
        let inner = &self.inner;
        let table = inner.table.stats();
        let counters = &inner.counters;
        let hidden = HiddenReason::ALL.into_iter().zip(table.hidden);
        NamespaceStats {
            directories: table.directories + inner.mounts.leads_len() as u64,
            entries: table.entries,
            lists: counters.lists.load(Ordering::Relaxed),
            refreshes: counters.refreshes.load(Ordering::Relaxed),
            preloads: counters.preloads.load(Ordering::Relaxed),
            stale_served: counters.stale_served.load(Ordering::Relaxed),
            evicted: table.evicted,
            hidden: hidden.filter(|(_, count)| 0 < *count).collect(),
            hidden_examples: inner.examples.lines(),
        }
    }
}
