//! What happened, in order: a hash to compare two runs by, the last lines for a report, and what went wrong.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use crate::clock::SimClock;
use crate::promise::Promise;

/// Lines kept for the report of a failure.
const LINES: usize = 60;

/// Complaints kept: the first ones tell, the rest follows from them.
const COMPLAINTS: usize = 20;

struct State {
    hash: Xxh3,
    count: u64,
    last: VecDeque<String>,
    broken: BTreeSet<Promise>,
    complaints: Vec<String>,
}

/// Everybody's notebook. Clones share it.
#[derive(Clone)]
pub(crate) struct Trace {
    clock: SimClock,
    is_printed: bool,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace(..)")
    }
}

impl Trace {
    /// Prints every line as it is noted, if `is_printed`.
    pub(crate) fn new(clock: SimClock, is_printed: bool) -> Self {
        let (last, complaints) = (VecDeque::new(), Vec::new());
        let broken = BTreeSet::new();
        let state = State { hash: Xxh3::new(), count: 0, last, broken, complaints };
        Self { clock, is_printed, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn note(&self, what: impl fmt::Display) {
        let line = format!("{:>12.6} {what}", self.clock.now().as_secs_f64());
        if self.is_printed {
            println!("{line}");
        }
        let mut state = self.state.lock();
        state.hash.update(line.as_bytes());
        state.count += 1;
        if state.last.len() == LINES {
            state.last.pop_front();
        }
        state.last.push_back(line);
    }

    /// A promise is not kept.
    pub(crate) fn complain(&self, promise: Promise, what: impl fmt::Display) {
        self.note(format_args!("WRONG: {promise}: {what}"));
        let line = format!("{promise}: at {:.6} s: {what}", self.clock.now().as_secs_f64());
        let mut state = self.state.lock();
        state.broken.insert(promise);
        if state.complaints.len() < COMPLAINTS {
            state.complaints.push(line);
        }
    }

    pub(crate) fn has_complaints(&self) -> bool {
        !self.state.lock().complaints.is_empty()
    }

    /// The promises that were not kept.
    pub(crate) fn broken(&self) -> BTreeSet<Promise> {
        self.state.lock().broken.clone()
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        self.state.lock().complaints.clone()
    }

    pub(crate) fn last(&self) -> Vec<String> {
        self.state.lock().last.iter().cloned().collect()
    }

    /// The hash of all that was noted, and how much that was.
    pub(crate) fn digest(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.hash.digest(), state.count)
    }
}
