//! Single flight: one fetch of a page, however many ask for it.
//!
//! A flight stays on the board from before the fetch until its bytes are on disk (or given up),
//! so that whoever comes finds the bytes in one of the two places. Waiting is by watching: a
//! waiter that goes away cancels nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use feedline_model::{ObjectId, Priority, ReadError, Urgency};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::budget::Permit;

/// What a flight is about: a page of an object.
pub(crate) type FlightKey = (ObjectId, u64);

type Outcome = Option<Result<Bytes, ReadError>>;

/// One fetch under way, or just arrived.
#[derive(Debug)]
pub(crate) struct Flight {
    outcome: watch::Sender<Outcome>,
    /// The highest with which anybody asked; whoever fetches hears when it rises.
    pub(crate) urgency: Urgency,
    /// Its bytes are on disk or given up: nothing more becomes of it.
    is_settled: AtomicBool,
    settled: Notify,
}

impl Flight {
    fn new(priority: Priority) -> Arc<Self> {
        Arc::new(Self {
            outcome: watch::Sender::new(None),
            urgency: Urgency::new(priority),
            is_settled: AtomicBool::new(false),
            settled: Notify::new(),
        })
    }

    /// Hands the outcome to everyone who waits or will.
    pub(crate) fn land(&self, outcome: Result<Bytes, ReadError>) {
        self.outcome.send_replace(Some(outcome));
    }

    /// Nothing more becomes of it.
    pub(crate) fn settle(&self) {
        self.is_settled.store(true, Ordering::Release);
        self.settled.notify_waiters();
    }

    /// Completes when its bytes are on disk or given up.
    pub(crate) async fn settled(&self) {
        let settled = self.settled.notified();
        let mut settled = std::pin::pin!(settled);
        // Before the look, so that one that settles in between is heard.
        settled.as_mut().enable();
        if !self.is_settled() {
            settled.await;
        }
    }

    /// True if its bytes are on disk or given up.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    /// True if nothing has arrived yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.outcome.borrow().is_none()
    }

    /// The page's bytes, as soon as they arrive.
    pub(crate) async fn wait(&self) -> Result<Bytes, ReadError> {
        let mut outcome = self.outcome.subscribe();
        let landed = outcome.wait_for(Option::is_some).await.expect("the sender lives in self");
        landed.clone().expect("waited for it")
    }
}

/// How somebody who asks gets on.
#[derive(Debug)]
pub(crate) enum Boarding {
    /// Joined a flight under way.
    Joined(Arc<Flight>),
    /// Opened one: whoever gets this must run it.
    Opened(Arc<Flight>),
    /// The bytes have come to the disk meanwhile.
    Here,
}

#[derive(Debug, Default)]
struct State {
    flights: HashMap<FlightKey, Arc<Flight>>,
    /// Pages that could not be kept on disk, in order of arrival; their flights stay on the
    /// board, so that the next read of the same page does not fetch it again.
    lingering: VecDeque<(FlightKey, Permit)>,
    lingering_bytes: u64,
}

/// All flights of a cache.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    state: Mutex<State>,
}

impl Flights {
    /// Joins the flight of `key` or opens one, unless `is_here` says that there is no need.
    pub(crate) fn board(
        &self,
        key: FlightKey,
        priority: Priority,
        is_here: impl FnOnce() -> bool,
    ) -> Boarding {
        let mut state = self.state.lock();
        if let Some(flight) = state.flights.get(&key) {
            flight.urgency.raise(priority);
            return Boarding::Joined(flight.clone());
        }
        // Under the lock: a flight leaves the board only after its bytes are to be found here.
        if is_here() {
            return Boarding::Here;
        }
        let flight = Flight::new(priority);
        state.flights.insert(key, flight.clone());
        Boarding::Opened(flight)
    }

    /// Takes a flight off the board.
    pub(crate) fn close(&self, key: &FlightKey) {
        self.state.lock().flights.remove(key);
    }

    /// Leaves a landed flight on the board for a while, within `limit` bytes of such.
    pub(crate) fn linger(&self, key: FlightKey, permit: Permit, limit: u64) {
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        state.lingering_bytes += permit.bytes();
        state.lingering.push_back((key, permit));
        while state.lingering_bytes > limit {
            let Some((key, permit)) = state.lingering.pop_front() else { break };
            state.lingering_bytes -= permit.bytes();
            state.flights.remove(&key);
            dropped.push(permit);
        }
        drop(state);
    }

    /// The flight of `key`, if there is one.
    pub(crate) fn get(&self, key: &FlightKey) -> Option<Arc<Flight>> {
        self.state.lock().flights.get(key).cloned()
    }

    /// Gives up what lingers of one object: the next read fetches it, and may keep it.
    pub(crate) fn shed_object(&self, id: &ObjectId) {
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        let mut at = 0;
        while at < state.lingering.len() {
            if state.lingering[at].0.0 != *id {
                at += 1;
            } else if let Some((key, permit)) = state.lingering.remove(at) {
                state.lingering_bytes -= permit.bytes();
                state.flights.remove(&key);
                dropped.push(permit);
            }
        }
        drop(state);
    }

    /// Gives up all that linger, so that their bytes can be used.
    pub(crate) fn shed(&self) {
        let mut state = self.state.lock();
        let lingering = std::mem::take(&mut state.lingering);
        state.lingering_bytes = 0;
        for (key, _) in &lingering {
            state.flights.remove(key);
        }
        drop(state);
    }

    /// Flights under way or not yet on disk; those that linger are done.
    pub(crate) fn len(&self) -> usize {
        let state = self.state.lock();
        state.flights.len().saturating_sub(state.lingering.len())
    }
}
