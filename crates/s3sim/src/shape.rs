//! Shape: how slow the server is when nothing is wrong.
//!
//! Time to the first byte is log-normal around a median, as measured on real object stores: most
//! answers are near the median, a few take several times as long. Bandwidth is paced by slots: a
//! writer books the next slot of the line and waits for it, so that bytes flow evenly and waiting
//! writers are served in the order they came.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The server's seeded generator.
#[derive(Debug)]
pub(crate) struct Dice(Mutex<StdRng>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&self) -> f64 {
        self.0.lock().random::<f64>()
    }

    /// Standard normal, by the Box-Muller transform.
    fn normal(&self) -> f64 {
        let mut rng = self.0.lock();
        let (radius, angle) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}

/// Log-normal time to the first byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Latency {
    pub(crate) median: Duration,
    /// Standard deviation of the logarithm: 0 is constant; with 0.3 one answer in a hundred takes
    /// twice the median.
    pub(crate) sigma: f64,
}

impl Latency {
    pub(crate) fn sample(&self, dice: &Dice) -> Duration {
        if self.median.is_zero() || self.sigma == 0.0 {
            return self.median;
        }
        self.median.mul_f64((self.sigma * dice.normal()).exp())
    }
}

/// How far a line may run ahead of the clock. It hides the timer's granularity of one millisecond
/// and is short enough that the rate is even at the scale of one request.
const BURST: Duration = Duration::from_millis(4);

/// The longest time that one slot of a line takes, so that writers alternate evenly.
const SLOT: Duration = Duration::from_millis(4);

/// A slot never holds fewer bytes: below this the system calls would cost more than the pacing.
const SLOT_BYTES_MIN: usize = 4 * 1024;

/// A slot never holds more: a faster line gains nothing from larger writes.
const SLOT_BYTES_MAX: usize = 256 * 1024;

/// A line of limited bandwidth, shared by whoever books slots on it.
#[derive(Debug)]
pub(crate) struct Line {
    bytes_per_s: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Line {
    /// # Panics
    ///
    /// If the rate is 0: nothing could ever be sent. The arguments rule this out.
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        assert!(0 < bytes_per_s, "nothing could ever be sent");
        Self { bytes_per_s, free_at: Mutex::new(None) }
    }

    /// The number of bytes that one slot should carry.
    pub(crate) fn slot_bytes(&self) -> usize {
        let bytes = self.bytes_per_s as f64 * SLOT.as_secs_f64();
        (bytes as usize).clamp(SLOT_BYTES_MIN, SLOT_BYTES_MAX)
    }

    /// Books `bytes` and returns when they may be sent.
    pub(crate) fn book(&self, bytes: usize, now: Instant) -> Instant {
        let mut free_at = self.free_at.lock();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = free_at.map_or(earliest, |at| at.max(earliest));
        *free_at = Some(start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64));
        start
    }
}

/// The share of a second's requests that may come at once before the limit bites.
const RATE_BURST_S: f64 = 0.1;

/// A limit on requests per second: above it the answer is 503.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_s: f64,
    state: Mutex<Option<(Instant, f64)>>,
}

impl RateLimit {
    pub(crate) fn new(per_s: u32) -> Self {
        Self { per_s: f64::from(per_s), state: Mutex::new(None) }
    }

    /// Takes one request from the allowance; false if there is none left.
    pub(crate) fn admit(&self, now: Instant) -> bool {
        let full = (self.per_s * RATE_BURST_S).max(1.0);
        let mut state = self.state.lock();
        let tokens = match *state {
            None => full,
            Some((at, tokens)) => {
                let earned = now.saturating_duration_since(at).as_secs_f64() * self.per_s;
                (tokens + earned).min(full)
            }
        };
        let admitted = 1.0 <= tokens;
        *state = Some((now, if admitted { tokens - 1.0 } else { tokens }));
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_has_its_median_its_spread_and_its_seed() {
        let latency = Latency { median: Duration::from_millis(25), sigma: 0.3 };
        let draw = |seed| {
            let dice = Dice::new(seed);
            let mut drawn: Vec<Duration> = (0..10_001).map(|_| latency.sample(&dice)).collect();
            let first = drawn[0];
            drawn.sort();
            (first, drawn)
        };
        let (first, drawn) = draw(7);
        let ms = |at: usize| drawn[at].as_secs_f64() * 1e3;
        // Log-normal: median 25 ms; 25 * exp(0.3 * 1.2816) = 36.7 ms at nine in ten.
        assert!((24.0..26.0).contains(&ms(5_000)), "median {}", ms(5_000));
        assert!((35.2..38.2).contains(&ms(9_000)), "p90 {}", ms(9_000));
        assert_eq!(draw(7).0, first);
        assert_ne!(draw(8).0, first);
    }

    #[test]
    fn a_line_carries_its_rate_evenly_and_no_credit_from_idle_time() {
        let line = Line::new(1_000_000);
        let begun = Instant::now();
        // Given a second of idle time, when a second's worth of slots is booked at once,
        line.book(1_000, begun);
        let now = begun + Duration::from_secs(1);
        let starts: Vec<Instant> = (0..1_000).map(|_| line.book(1_000, now)).collect();
        // then each starts a millisecond after the one before, from a burst in the past on.
        assert_eq!(starts[0], now - BURST);
        for pair in starts.windows(2) {
            assert_eq!((pair[1] - pair[0]).as_micros(), 1_000);
        }
    }

    #[test]
    fn a_rate_limit_admits_its_burst_and_then_its_rate() {
        let limit = RateLimit::new(100);
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        assert_eq!((0..50).filter(|_| limit.admit(begun)).count(), 10);
        // A request per millisecond for ten seconds: one in ten is admitted.
        let admitted = (1..=10_000).filter(|ms| limit.admit(at(*ms))).count();
        assert!((999..=1_001).contains(&admitted), "{admitted}");
    }
}
