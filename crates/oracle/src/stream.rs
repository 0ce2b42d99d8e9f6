//! What is remembered of a stream: its latest opens, and how well they fit the known orders.

use crate::fit::{Fit, Steps};
use crate::order::Order;
use crate::sampler::Sampler;
use crate::walk::Walk;

/// Opens that are remembered of each stream: what an order is tried against.
pub(crate) const RECENT: usize = 64;

/// The latest positions, the oldest first.
#[derive(Debug, Clone)]
pub(crate) struct Recent {
    ring: [u32; RECENT],
    /// Positions ever taken in.
    count: u64,
}

impl Recent {
    fn new() -> Self {
        Self { ring: [0; RECENT], count: 0 }
    }

    fn push(&mut self, position: u32) {
        self.ring[slot(self.count)] = position;
        self.count += 1;
    }

    fn last(&self) -> Option<u32> {
        (0 < self.count).then(|| self.ring[slot(self.count - 1)])
    }

    /// The latest positions, at most `most`, the oldest first.
    pub(crate) fn tail(&self, most: u64) -> impl Iterator<Item = u32> + '_ {
        let held = self.count.min(RECENT as u64).min(most);
        (self.count - held..self.count).map(|at| self.ring[slot(at)])
    }
}

fn slot(at: u64) -> usize {
    usize::try_from(at % RECENT as u64).unwrap_or(0)
}

/// What a stream is believed to do.
#[derive(Debug)]
pub(crate) enum State {
    /// No order fits yet. One fit for each known order.
    Open(Vec<Fit>),
    /// It goes its own way through an order.
    Locked(Box<Walk>),
    /// It takes turns with others in this sampler's order.
    Shared(Sampler),
}

/// One thread that reads.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) recent: Recent,
    pub(crate) state: State,
    /// Opens of this stream, repeats at once not counted, and the first of them.
    pub(crate) opens: u64,
    pub(crate) first: Option<u32>,
    /// The opens of the data set when it first and last opened something.
    pub(crate) born: u64,
    pub(crate) seen: u64,
    /// The list of known orders that the fits belong to.
    pub(crate) known: u64,
    /// Opens since the stream last lost its lock, which are all that fits may look at.
    pub(crate) fresh: u64,
    /// Opens of a shared order in a row that were not expected.
    pub(crate) misses: u32,
}

impl Stream {
    pub(crate) fn new(now: u64) -> Self {
        Self {
            recent: Recent::new(),
            state: State::Open(Vec::new()),
            opens: 0,
            first: None,
            born: now,
            seen: now,
            known: 0,
            fresh: 0,
            misses: 0,
        }
    }

    /// Notes an open; `false` if it repeats the latest one.
    pub(crate) fn note(&mut self, position: u32, now: u64) -> bool {
        self.seen = now;
        if self.recent.last() == Some(position) {
            return false;
        }
        self.recent.push(position);
        self.first.get_or_insert(position);
        self.opens += 1;
        self.fresh += 1;
        true
    }

    /// No order fits any more; the latest `keep` opens are looked at again.
    pub(crate) fn unlock(&mut self, keep: u64) {
        self.state = State::Open(Vec::new());
        self.known = 0;
        self.fresh = keep;
        self.misses = 0;
    }

    /// Whether it waits for an order.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// The walk, if it is locked on one of its own.
    pub(crate) fn walk(&self) -> Option<&Walk> {
        match &self.state {
            State::Locked(walk) => Some(walk),
            State::Open(_) | State::Shared(_) => None,
        }
    }

    /// The same, to change.
    pub(crate) fn walk_mut(&mut self) -> Option<&mut Walk> {
        match &mut self.state {
            State::Locked(walk) => Some(walk),
            State::Open(_) | State::Shared(_) => None,
        }
    }

    /// A fit of what is remembered with an order.
    pub(crate) fn fit(&self, order: &Order, steps: Steps, credit: f32) -> Fit {
        self.feed(Fit::new(steps, order.len()), order, credit)
    }

    /// The same if the stream stands for several.
    pub(crate) fn fit_of_many(&self, order: &Order) -> Fit {
        self.feed(Fit::of_many(order.len()), order, 0.0)
    }

    fn feed(&self, mut fit: Fit, order: &Order, credit: f32) -> Fit {
        let mut first = self.fresh == self.opens && self.opens <= RECENT as u64;
        for position in self.recent.tail(self.fresh) {
            fit.feed(order, position);
            if std::mem::take(&mut first) {
                fit.credit(credit);
            }
        }
        fit
    }
}
