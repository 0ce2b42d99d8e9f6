//! What a test breaks, to see that the simulation finds it: one thing at least for each promise.
//!
//! All of it is broken in the simulation's own plumbing, around the real nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The bucket changes one byte of one object.
    WrongByte,
    /// One read fails, and the bucket does not know why.
    FailedRead,
    /// One read is answered late.
    SlowRead,
    /// One read is never answered.
    EndlessRead,
    /// Caches do not look whether a page is on its way already.
    NoSingleFlight,
    /// Disks take whatever comes.
    NoQuota,
    /// One request to the bucket is for a part of a page.
    PartOfPage,
    /// Caches ask the bucket, whoever owns an object.
    PeersIgnored,
    /// One node never hears another, and nothing is ever healed.
    NeverHeal,
    /// Disks take no copies, though nodes are to keep them.
    NoCopies,
    /// A flight stays on the board when it has landed.
    FlightLeft,
    /// What nodes are told to load they say they have.
    EmptyWords,
    /// Loads do not look whether a node was lost meanwhile.
    NoRollCall,
    /// A load forgets what became of one object.
    OutcomeLost,
    /// A load waits for ever.
    EndlessLoad,
    /// The port of one node is taken.
    PortTaken,
    /// A task panics.
    Panic,
}

/// What of it is broken in this run. Clones share what happens once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Broken {
    what: Option<Sabotage>,
    has_happened: Arc<AtomicBool>,
}

impl Broken {
    pub(crate) fn new(what: Option<Sabotage>) -> Self {
        Self { what, has_happened: Arc::default() }
    }

    /// True if this is broken.
    pub(crate) fn is(&self, what: Sabotage) -> bool {
        self.what == Some(what)
    }

    /// The same, the first time only.
    pub(crate) fn once(&self, what: Sabotage) -> bool {
        self.is(what) && !self.has_happened.swap(true, Ordering::Relaxed)
    }
}
