//! The real clock, for a program that measures. The only place of the crate that names it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Now, for measuring.
#[expect(clippy::disallowed_methods, reason = "the bench measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the bench stamps its results with the real time")]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "the stand-in step is a real pause")]
pub(crate) fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}
