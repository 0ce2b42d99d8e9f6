//! How many requests may be in flight: a limit with two priorities that gives way to 503s.
//!
//! Additive increase, multiplicative decrease: an answer "slow down" halves what was in flight, at
//! most once a second; every success while the limit binds raises it by a fraction of one.
//!
//! # Invariants
//!
//! - `in_flight` never exceeds the limit in force when a request was let in.
//! - A waiting demand read is let in before any waiting fill.
//! - Fill never takes the last eighth of the limit, so a demand read rarely waits for a fill to end.
//! - A permit, or a place in the queue, that is dropped is free again at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use feedline_model::{Clock, Priority};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The share of the limit that fill leaves to demand: an eighth. A guess: large enough that a burst
/// of page faults starts at once, small enough not to be missed by fill.
const DEMAND_SHARE: usize = 8;

/// Time between two halvings: one reaction to a burst of 503s, which all tell the same story.
const CUT_INTERVAL: Duration = Duration::from_secs(1);

/// What a success adds to the limit, over the limit: one more request in flight for every four
/// rounds of the whole window, so that a throttled bucket is probed every few seconds only.
const GROWTH: f64 = 0.25;

#[derive(Debug)]
struct State {
    limit: f64,
    in_flight: usize,
    cut_at: Option<Duration>,
    demand: VecDeque<oneshot::Sender<Permit>>,
    fill: VecDeque<oneshot::Sender<Permit>>,
}

/// The limit, shared by everything that sends requests to one store.
#[derive(Debug)]
pub struct Limiter {
    clock: Arc<dyn Clock>,
    limit_max: usize,
    state: Mutex<State>,
}

/// Leave to send one request; dropping it gives the place to the next.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<Limiter>,
}

impl Limiter {
    /// At most `limit_max` (at least 1) requests in flight.
    pub(crate) fn new(clock: Arc<dyn Clock>, limit_max: usize) -> Arc<Self> {
        let limit_max = limit_max.max(1);
        let state = State {
            limit: limit_max as f64,
            in_flight: 0,
            cut_at: None,
            demand: VecDeque::new(),
            fill: VecDeque::new(),
        };
        Arc::new(Self { clock, limit_max, state: Mutex::new(state) })
    }

    /// The limit now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.state.lock().limit as usize
    }

    /// Requests in flight now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state.lock().in_flight
    }

    /// Requests that wait for leave now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let state = self.state.lock();
        state.demand.len() + state.fill.len()
    }

    /// Waits for leave to send a request.
    pub(crate) async fn acquire(self: &Arc<Self>, priority: Priority) -> Permit {
        let waiter = {
            let mut state = self.state.lock();
            if state.queue(priority).is_empty() && state.admits(priority) {
                state.in_flight += 1;
                return Permit { limiter: self.clone() };
            }
            let (sender, receiver) = oneshot::channel();
            state.queue(priority).push_back(sender);
            receiver
        };
        waiter.await.expect("the limiter, borrowed here, keeps every queued sender")
    }

    /// Lets in whoever may go now. A waiter that has left is skipped: its permit comes back.
    fn admit_waiters(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            let priority = match (state.demand.is_empty(), state.fill.is_empty()) {
                (false, _) => Priority::Demand,
                (true, false) => Priority::Fill,
                (true, true) => return,
            };
            if !state.admits(priority) {
                return;
            }
            let Some(waiter) = state.queue(priority).pop_front() else { return };
            if waiter.is_closed() {
                continue;
            }
            state.in_flight += 1;
            drop(state);
            // A waiter that leaves right now hands the permit back, and its drop calls us again.
            drop(waiter.send(Permit { limiter: self.clone() }));
        }
    }

    fn leave(self: &Arc<Self>) {
        self.state.lock().in_flight -= 1;
        self.admit_waiters();
    }

    fn succeeded(&self) {
        let mut state = self.state.lock();
        // A limit that does not bind says nothing about what the store can take.
        if state.limit < self.limit_max as f64 && state.in_flight as f64 >= state.limit * 0.75 {
            state.limit = (state.limit + GROWTH / state.limit).min(self.limit_max as f64);
        }
    }

    fn slow_down(&self) {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        if state.cut_at.is_some_and(|at| now < at + CUT_INTERVAL) {
            return;
        }
        state.cut_at = Some(now);
        // Halving what is in use, not a limit far above it, is what the store can feel.
        let used = (state.in_flight as f64).min(state.limit);
        state.limit = (used / 2.0).max(1.0);
    }
}

impl State {
    fn queue(&mut self, priority: Priority) -> &mut VecDeque<oneshot::Sender<Permit>> {
        match priority {
            Priority::Demand => &mut self.demand,
            Priority::Fill => &mut self.fill,
        }
    }

    fn admits(&self, priority: Priority) -> bool {
        let limit = self.limit as usize;
        match priority {
            Priority::Demand => self.in_flight < limit,
            Priority::Fill => {
                let reserve = if limit > 1 { (limit / DEMAND_SHARE).max(1) } else { 0 };
                self.demand.is_empty() && self.in_flight < limit - reserve
            }
        }
    }
}

impl Permit {
    /// The store served the request.
    pub(crate) fn succeeded(&self) {
        self.limiter.succeeded();
    }

    /// The store asked to slow down.
    pub(crate) fn slow_down(&self) {
        self.limiter.slow_down();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use feedline_testkit::FakeClock;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn demand_goes_before_fill_and_fill_leaves_a_share() {
        let limiter = Limiter::new(FakeClock::new().shared(), 8);
        let mut held = Vec::new();
        for _ in 0..7 {
            held.push(limiter.acquire(Priority::Fill).await);
        }
        let mut fill = Box::pin(limiter.acquire(Priority::Fill));
        assert!(fill.as_mut().now_or_never().is_none(), "fill took the demand share");
        held.push(limiter.acquire(Priority::Demand).await);
        let mut demand = Box::pin(limiter.acquire(Priority::Demand));
        assert!(demand.as_mut().now_or_never().is_none());
        assert_eq!((limiter.in_flight(), limiter.waiting()), (8, 2));
        held.pop();
        let _demand = demand.now_or_never().expect("demand is served first");
        assert!(fill.as_mut().now_or_never().is_none());
        held.clear();
        fill.now_or_never().expect("then fill");
    }

    #[tokio::test]
    async fn a_dropped_waiter_gives_its_place_to_the_next() {
        let limiter = Limiter::new(FakeClock::new().shared(), 1);
        let held = limiter.acquire(Priority::Demand).await;
        let mut first = Box::pin(limiter.acquire(Priority::Demand));
        let mut second = Box::pin(limiter.acquire(Priority::Demand));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(held);
        // `first` was let in but never polled again: dropping it must pass the place on.
        drop(first);
        drop(second.now_or_never().expect("the next is let in"));
        assert_eq!(limiter.in_flight(), 0);
    }

    #[tokio::test]
    async fn slow_down_halves_once_a_second_and_successes_recover() {
        let clock = FakeClock::new();
        let limiter = Limiter::new(clock.shared(), 64);
        let mut held = Vec::new();
        for _ in 0..64 {
            held.push(limiter.acquire(Priority::Demand).await);
        }
        for permit in &held {
            permit.slow_down();
        }
        assert_eq!(limiter.limit(), 32, "one burst, one halving");
        clock.advance(Duration::from_secs(1));
        held.truncate(32);
        held[0].slow_down();
        assert_eq!(limiter.limit(), 16);
        held.truncate(16);
        for _ in 0..4 * 16 * 4 {
            held[0].succeeded();
        }
        assert!((18..=24).contains(&limiter.limit()), "recovered to {}", limiter.limit());
    }

    #[tokio::test]
    async fn the_limit_never_falls_below_one() {
        let clock = FakeClock::new();
        let limiter = Limiter::new(clock.shared(), 4);
        for _ in 0..10 {
            let permit = limiter.acquire(Priority::Fill).await;
            permit.slow_down();
            clock.advance(Duration::from_secs(2));
        }
        assert_eq!(limiter.limit(), 1);
    }
}
