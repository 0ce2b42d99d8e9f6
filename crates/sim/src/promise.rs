//! What is asked of a cluster, each by a name: a run that fails says which of these was not kept.

use std::fmt;

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// No wrong byte, ever.
    RightBytes,
    /// No read error that the reader's own node did not hear from the bucket.
    ReadsSucceed,
    /// No read takes longer than `Plan::wait_max`.
    ReadsAreQuick,
    /// All readers come to their end.
    ReadersFinish,
    /// A node has one flight of a page at a time, and keeps it once: so an owner asks the bucket once.
    OneFlight,
    /// A node keeps no more than its quota.
    QuotaHeld,
    /// The bucket is asked for whole pages of the version that is mounted, and nothing else.
    WholePages,
    /// In a calm the whole cluster asks the bucket once for each page.
    FetchedOnce,
    /// After a death the bucket is asked again for no more than what the dead node owned or was asked for.
    DeathIsCheap,
    /// When all is healed, all nodes place alike, on all that live.
    NodesAgree,
    /// Then everybody reads everything: no page is fetched twice, and none that its owner or the next candidate has.
    NothingAgain,
    /// After that, who keeps copies has one of everything.
    CopiesKept,
    /// Nothing is left when nobody reads: no request, no flight.
    NothingLeft,
    /// A load that says `done` has each object on some node.
    DoneIsTrue,
    /// A load has an outcome for each object, and one only.
    LoadCounts,
    /// A load ends, and one that is begun again when all is healed ends well if there is room.
    LoadsEnd,
    /// A node can open its port.
    NodesStart,
    /// No task panics.
    NoPanic,
}

impl Promise {
    /// All.
    pub const ALL: [Self; 18] = [
        Self::RightBytes,
        Self::ReadsSucceed,
        Self::ReadsAreQuick,
        Self::ReadersFinish,
        Self::OneFlight,
        Self::QuotaHeld,
        Self::WholePages,
        Self::FetchedOnce,
        Self::DeathIsCheap,
        Self::NodesAgree,
        Self::NothingAgain,
        Self::CopiesKept,
        Self::NothingLeft,
        Self::DoneIsTrue,
        Self::LoadCounts,
        Self::LoadsEnd,
        Self::NodesStart,
        Self::NoPanic,
    ];
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
