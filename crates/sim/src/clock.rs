//! Time that moves only when nothing else can: from one sleeper to the next, as soon as all tasks wait.
//!
//! The runtime calls [`SimClock::advance`] where it would otherwise put its thread to sleep. Sleepers that
//! wake at one instant wake in the order in which they went to sleep.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use feedline_model::Clock;
use feedline_model::clock::Sleep;
use parking_lot::Mutex;

/// 2023-11-14 22:13:20 UTC.
const START_UNIX_MS: u64 = 1_700_000_000_000;

type Key = (Duration, u64);

#[derive(Debug, Default)]
struct Timers {
    now: Duration,
    sleeps: u64,
    sleepers: BTreeMap<Key, Waker>,
}

/// The time of the whole simulation. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct SimClock(Arc<Mutex<Timers>>);

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimClock({:?})", self.now())
    }
}

impl SimClock {
    pub(crate) fn now(&self) -> Duration {
        self.0.lock().now
    }

    /// Moves to the earliest sleeper's time and wakes all whose time that is.
    pub(crate) fn advance(&self) {
        let mut timers = self.0.lock();
        let Some((&(next, _), _)) = timers.sleepers.first_key_value() else { return };
        timers.now = timers.now.max(next);
        let later = timers.sleepers.split_off(&(next, u64::MAX));
        let due = std::mem::replace(&mut timers.sleepers, later);
        drop(timers);
        due.into_values().for_each(Waker::wake);
    }

    pub(crate) fn sleep_until(&self, at: Duration) -> SimSleep {
        let mut timers = self.0.lock();
        timers.sleeps += 1;
        SimSleep { clock: self.clone(), key: (at, timers.sleeps) }
    }

    pub(crate) fn sleep(&self, duration: Duration) -> SimSleep {
        let at = self.now() + duration;
        self.sleep_until(at)
    }
}

/// One sleep. On the list only while somebody waits for it.
#[derive(Debug)]
pub(crate) struct SimSleep {
    clock: SimClock,
    key: Key,
}

impl SimSleep {
    pub(crate) fn at(&self) -> Duration {
        self.key.0
    }
}

impl Future for SimSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut timers = self.clock.0.lock();
        if self.key.0 <= timers.now {
            return Poll::Ready(());
        }
        let before = timers.sleepers.insert(self.key, context.waker().clone());
        drop(timers);
        // Not under the lock: the last waker of a task takes the task, and its sleeps, along.
        drop(before);
        Poll::Pending
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        let mine = self.clock.0.lock().sleepers.remove(&self.key);
        drop(mine);
    }
}

#[derive(Debug, Default)]
struct PauseState {
    since: Option<Duration>,
    total: Duration,
    waiting: Vec<Waker>,
}

/// Whether a node's processes are stopped. What waits on the node's clock or network then stays waiting.
#[derive(Debug, Default)]
pub(crate) struct Pause(Mutex<PauseState>);

impl Pause {
    /// True if the node is stopped: then `context` is woken when it goes on.
    pub(crate) fn holds(&self, context: &Context<'_>) -> bool {
        let mut state = self.0.lock();
        let is_held = state.since.is_some();
        if is_held {
            state.waiting.push(context.waker().clone());
        }
        is_held
    }

    pub(crate) fn stop(&self, now: Duration) {
        self.0.lock().since.get_or_insert(now);
    }

    pub(crate) fn go_on(&self, now: Duration) {
        let mut state = self.0.lock();
        if let Some(since) = state.since.take() {
            state.total += now - since;
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// How long it was stopped in all, until now.
    pub(crate) fn total(&self, now: Duration) -> Duration {
        let state = self.0.lock();
        state.total + state.since.map_or(Duration::ZERO, |since| now - since)
    }
}

/// Time as a node's process has it: it goes on while the process is stopped, and nothing wakes then.
#[derive(Debug, Clone)]
pub(crate) struct HostClock {
    pub(crate) sim: SimClock,
    pub(crate) pause: Arc<Pause>,
}

impl Clock for HostClock {
    fn monotonic(&self) -> Duration {
        self.sim.now()
    }

    fn unix_ms(&self) -> u64 {
        START_UNIX_MS + u64::try_from(self.sim.now().as_millis()).expect("a simulation's time fits")
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(HostSleep { sleep: self.sim.sleep(duration), pause: Arc::clone(&self.pause) })
    }
}

struct HostSleep {
    sleep: SimSleep,
    pause: Arc<Pause>,
}

impl Future for HostSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.pause.holds(context) {
            return Poll::Pending;
        }
        Pin::new(&mut self.sleep).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_awake(sleep: &mut SimSleep) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(sleep).poll(&mut context).is_ready()
    }

    #[test]
    fn time_goes_from_sleeper_to_sleeper() {
        let clock = SimClock::default();
        let mut late = clock.sleep(Duration::from_secs(2));
        let mut early = clock.sleep(Duration::from_secs(1));
        assert!(!is_awake(&mut late) && !is_awake(&mut early));
        clock.advance();
        assert_eq!(clock.now(), Duration::from_secs(1));
        assert!(!is_awake(&mut late) && is_awake(&mut early));
        // Who no longer waits does not hold time up.
        drop(late);
        clock.advance();
        assert_eq!(clock.now(), Duration::from_secs(1));
    }

    #[test]
    fn nothing_wakes_on_a_node_that_is_stopped() {
        let sim = SimClock::default();
        let clock = HostClock { sim: sim.clone(), pause: Arc::default() };
        let mut sleep = clock.sleep(Duration::from_secs(1));
        let mut other = sim.sleep(Duration::from_secs(5));
        let mut context = Context::from_waker(Waker::noop());
        assert!(sleep.as_mut().poll(&mut context).is_pending() && !is_awake(&mut other));
        clock.pause.stop(sim.now());
        sim.advance();
        sim.advance();
        assert_eq!(sim.now(), Duration::from_secs(5));
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        clock.pause.go_on(sim.now());
        assert!(sleep.as_mut().poll(&mut context).is_ready());
        assert_eq!(clock.pause.total(sim.now()), Duration::from_secs(5));
    }
}
