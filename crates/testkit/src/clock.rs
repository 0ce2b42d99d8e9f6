//! Clocks for tests: one moved by hand, one real.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use feedline_model::Clock;
use feedline_model::clock::Sleep;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// 2023-11-14 22:13:20 UTC: where a fake clock's wall time starts, a round number of seconds.
const START_UNIX_MS: u64 = 1_700_000_000_000;

#[derive(Debug, Default)]
struct FakeState {
    now: Duration,
    /// Deadline and waker of every sleep under way, by its number.
    sleepers: Vec<(u64, Duration, Option<Waker>)>,
    sleeps_started: u64,
}

#[derive(Debug, Default)]
struct FakeShared {
    state: Mutex<FakeState>,
    changed: Notify,
}

/// A clock that stands still until a test moves it. Clones share the time.
#[derive(Debug, Clone, Default)]
pub struct FakeClock {
    shared: Arc<FakeShared>,
}

impl FakeClock {
    /// Starts at zero, at 2023-11-14 22:13:20 UTC.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// As what most constructors take.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }

    /// Moves time on and wakes every sleep whose time is up.
    pub fn advance(&self, by: Duration) {
        let mut state = self.shared.state.lock();
        state.now += by;
        let now = state.now;
        let wakers: Vec<Waker> = state
            .sleepers
            .iter_mut()
            .filter(|(_, deadline, _)| *deadline <= now)
            .filter_map(|(_, _, waker)| waker.take())
            .collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.shared.changed.notify_waiters();
    }

    /// How many sleeps wait for a time that has not come.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        let state = self.shared.state.lock();
        state.sleepers.iter().filter(|(_, deadline, _)| *deadline > state.now).count()
    }

    /// Waits, in real time, until at least `count` sleeps are pending.
    pub async fn wait_for_sleepers(&self, count: usize) {
        loop {
            let changed = self.shared.changed.notified();
            if self.sleepers() >= count {
                return;
            }
            changed.await;
        }
    }

    /// Waits until something sleeps, then moves time to the earliest deadline. Returns by how much.
    pub async fn advance_to_next(&self) -> Duration {
        self.wait_for_sleepers(1).await;
        let state = self.shared.state.lock();
        let now = state.now;
        let pending = state.sleepers.iter().map(|(_, deadline, _)| *deadline);
        let by =
            pending.filter(|deadline| *deadline > now).min().map_or(Duration::ZERO, |d| d - now);
        drop(state);
        self.advance(by);
        by
    }

    /// Runs `future` to its end, moving time to the next deadline whenever it sleeps and nothing
    /// else is ready: a retry loop of 30 s takes no time. Not for futures that also wait for IO.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => return output,
                _ = self.advance_to_next() => {}
            }
        }
    }
}

impl Clock for FakeClock {
    fn monotonic(&self) -> Duration {
        self.shared.state.lock().now
    }

    fn unix_ms(&self) -> u64 {
        START_UNIX_MS + u64::try_from(self.monotonic().as_millis()).expect("a test's time fits")
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let mut state = self.shared.state.lock();
        let id = state.sleeps_started;
        state.sleeps_started += 1;
        let deadline = state.now + duration;
        state.sleepers.push((id, deadline, None));
        drop(state);
        self.shared.changed.notify_waiters();
        Box::pin(FakeSleep { shared: self.shared.clone(), id })
    }
}

/// One sleep; dropping it takes it off the clock.
struct FakeSleep {
    shared: Arc<FakeShared>,
    id: u64,
}

impl Future for FakeSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.state.lock();
        let now = state.now;
        let Some(sleeper) = state.sleepers.iter_mut().find(|(id, ..)| *id == self.id) else {
            return Poll::Ready(());
        };
        if sleeper.1 <= now {
            return Poll::Ready(());
        }
        sleeper.2 = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for FakeSleep {
    fn drop(&mut self) {
        self.shared.state.lock().sleepers.retain(|(id, ..)| *id != self.id);
    }
}

/// Real time, for tests over sockets and disks. Must be used inside a tokio runtime to sleep.
#[derive(Debug, Clone)]
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    /// Starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the real clock that tests hand in")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// As what most constructors take.
    #[must_use]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::new())
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the real clock that tests hand in")]
    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::try_from(since.expect("after 1970").as_millis()).expect("before the year 500 million")
    }

    #[expect(clippy::disallowed_methods, reason = "this is the real clock that tests hand in")]
    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_its_time_has_come_and_not_before() {
        let clock = FakeClock::new();
        let sleep = clock.sleep(Duration::from_secs(5));
        tokio::pin!(sleep);
        clock.advance(Duration::from_secs(4));
        assert!(futures::poll!(&mut sleep).is_pending());
        assert_eq!(clock.sleepers(), 1);
        clock.advance(Duration::from_secs(1));
        assert!(futures::poll!(&mut sleep).is_ready());
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn run_skips_every_sleep() {
        let clock = FakeClock::new();
        let inner = clock.clone();
        clock
            .run(async move {
                for _ in 0..10 {
                    inner.sleep(Duration::from_secs(60)).await;
                }
            })
            .await;
        assert_eq!(clock.monotonic(), Duration::from_secs(600));
        assert_eq!(clock.sleepers(), 0);
    }
}
