//! Lets hyper keep time by the clock that was handed in.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use feedline_model::{Clock, clock};
use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

/// hyper's `Instant`s are those of the clock, counted from any one.
#[derive(Clone)]
pub(crate) struct ClockTimer {
    clock: Arc<dyn Clock>,
    start: Instant,
}

impl ClockTimer {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary start: only differences count")]
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, start: Instant::now() }
    }
}

impl fmt::Debug for ClockTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTimer(..)")
    }
}

impl Timer for ClockTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(ClockSleep(Mutex::new(self.clock.sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> Instant {
        self.start + self.clock.monotonic()
    }
}

/// The lock is never taken: hyper wants what threads may share, and a sleep of ours is not.
struct ClockSleep(Mutex<clock::Sleep>);

impl Future for ClockSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().as_mut().poll(context)
    }
}

impl Sleep for ClockSleep {}
