//! The bytes in flight: fetched or being fetched, and not yet on disk.
//!
//! Invariant: what is granted never exceeds the budget; a waiting demand read is granted before
//! any waiting fill, and fill leaves a quarter to demand, so that a demand read does not wait for the
//! disk that writes what was filled. A waiter that goes away takes nothing with it.

use std::collections::VecDeque;
use std::sync::Arc;

use feedline_model::Priority;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The part of the budget that fill leaves to demand: one in this many.
const DEMAND_SHARE: u64 = 4;

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    grant: oneshot::Sender<Permit>,
}

#[derive(Debug)]
struct State {
    total: u64,
    available: u64,
    demand: VecDeque<Waiter>,
    fill: VecDeque<Waiter>,
}

impl State {
    /// True if `bytes` may be given out now. An unused budget is given to anybody, or an object of more
    /// than fill's part would never come.
    fn admits(&self, bytes: u64, priority: Priority) -> bool {
        let kept = match priority {
            Priority::Demand => 0,
            Priority::Fill => self.total / DEMAND_SHARE,
        };
        bytes + kept <= self.available || self.available == self.total
    }
}

/// A number of bytes, given out and taken back.
#[derive(Debug)]
pub(crate) struct Budget {
    total: u64,
    state: Mutex<State>,
}

/// Some bytes of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Permit {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

impl Budget {
    pub(crate) fn new(total: u64) -> Arc<Self> {
        let state =
            State { total, available: total, demand: VecDeque::new(), fill: VecDeque::new() };
        Arc::new(Self { total, state: Mutex::new(state) })
    }

    /// Bytes given out now.
    pub(crate) fn in_use(&self) -> u64 {
        self.total - self.state.lock().available
    }

    /// True if fill could have this many bytes without waiting.
    pub(crate) fn has(&self, bytes: u64) -> bool {
        let state = self.state.lock();
        state.admits(bytes, Priority::Fill) && state.demand.is_empty() && state.fill.is_empty()
    }

    /// True if more than a few fetches are in flight or wait for the disk: memory is then worth a copy.
    pub(crate) fn is_tight(&self) -> bool {
        self.in_use() > self.total / DEMAND_SHARE
    }

    /// True if somebody waits.
    pub(crate) fn has_waiters(&self) -> bool {
        let state = self.state.lock();
        !state.demand.is_empty() || !state.fill.is_empty()
    }

    /// Waits for `bytes`, at most the whole budget. `on_wait` is called once queued, if at all.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        bytes: u64,
        priority: Priority,
        on_wait: impl FnOnce(),
    ) -> Permit {
        let bytes = bytes.min(self.total);
        let granted = {
            let mut state = self.state.lock();
            let first =
                state.demand.is_empty() && (priority == Priority::Demand || state.fill.is_empty());
            if first && state.admits(bytes, priority) {
                state.available -= bytes;
                return Permit { budget: self.clone(), bytes };
            }
            let (grant, granted) = oneshot::channel();
            let waiter = Waiter { bytes, grant };
            match priority {
                Priority::Demand => state.demand.push_back(waiter),
                Priority::Fill => state.fill.push_back(waiter),
            }
            granted
        };
        on_wait();
        granted.await.expect("a waiter stays queued until it is granted")
    }

    fn give_back(self: &Arc<Self>, bytes: u64) {
        let mut grants = Vec::new();
        {
            let mut state = self.state.lock();
            state.available += bytes;
            loop {
                let state = &mut *state;
                let (priority, next) = match (state.demand.front(), state.fill.front()) {
                    (Some(next), _) => (Priority::Demand, next),
                    (None, Some(next)) => (Priority::Fill, next),
                    (None, None) => break,
                };
                // A waiter that closes after this look gets a permit that comes straight back.
                let gone = next.grant.is_closed();
                if !gone && !state.admits(next.bytes, priority) {
                    break;
                }
                let queue = match priority {
                    Priority::Demand => &mut state.demand,
                    Priority::Fill => &mut state.fill,
                };
                if let Some(waiter) = queue.pop_front()
                    && !gone
                {
                    state.available -= waiter.bytes;
                    grants.push(waiter);
                }
            }
        }
        // Outside of the lock: a permit that nobody takes comes straight back here.
        for waiter in grants {
            let permit = Permit { budget: self.clone(), bytes: waiter.bytes };
            drop(waiter.grant.send(permit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn demand_comes_first_and_a_waiter_that_left_takes_nothing() {
        let budget = Budget::new(10);
        let all = budget.acquire(10, Priority::Demand, || ()).await;
        let mut fill = Box::pin(budget.acquire(6, Priority::Fill, || ()));
        let mut gone = Box::pin(budget.acquire(9, Priority::Demand, || ()));
        let mut demand = Box::pin(budget.acquire(6, Priority::Demand, || ()));
        assert!(futures::poll!(&mut fill).is_pending());
        assert!(futures::poll!(&mut gone).is_pending());
        assert!(futures::poll!(&mut demand).is_pending());
        drop(gone);
        drop(all);
        assert!(futures::poll!(&mut fill).is_pending());
        let granted = demand.await;
        assert_eq!(budget.in_use(), 6);
        drop(granted);
        assert_eq!(fill.await.bytes(), 6);
        assert_eq!(budget.in_use(), 0);
    }

    #[tokio::test]
    async fn fill_leaves_a_quarter_to_demand_unless_nothing_is_in_use() {
        let budget = Budget::new(100);
        let most = budget.acquire(75, Priority::Fill, || ()).await;
        let mut more = Box::pin(budget.acquire(1, Priority::Fill, || ()));
        assert!(futures::poll!(&mut more).is_pending());
        assert!(!budget.has(1));
        let demand = budget.acquire(25, Priority::Demand, || ()).await;
        drop(demand);
        assert!(futures::poll!(&mut more).is_pending(), "the quarter is still kept");
        drop(most);
        drop(more.await);
        let whole = budget.acquire(100, Priority::Fill, || ()).await;
        assert_eq!(whole.bytes(), 100);
    }
}
