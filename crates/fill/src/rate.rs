//! A limit on bytes a second, as a time before which nothing more may start.

use std::time::Duration;

/// What may be saved up while nothing is fetched.
const BURST: Duration = Duration::from_millis(100);

/// Bytes a second; 0 is no limit.
#[derive(Debug)]
pub(crate) struct Rate {
    bytes_per_s: u64,
    next: Duration,
}

impl Rate {
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, next: Duration::ZERO }
    }

    /// How long to wait before the next fetch may start; zero: now.
    pub(crate) fn wait(&self, now: Duration) -> Duration {
        if self.bytes_per_s == 0 { Duration::ZERO } else { self.next.saturating_sub(now) }
    }

    /// A fetch of `bytes` starts.
    pub(crate) fn spend(&mut self, bytes: u64, now: Duration) {
        if self.bytes_per_s > 0 {
            let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
            self.next = self.next.max(now.saturating_sub(BURST)) + cost;
        }
    }

    /// A fetch that was paid for turned out to be none.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        if self.bytes_per_s > 0 {
            let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
            self.next = self.next.saturating_sub(cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_time_and_a_pause_saves_up_little() {
        let mut rate = Rate::new(1_000);
        let (mut now, mut bytes) = (Duration::from_secs(10), 0_u64);
        let end = now + Duration::from_secs(5);
        while now < end {
            if rate.wait(now).is_zero() {
                rate.spend(50, now);
                bytes += 50;
            }
            now += Duration::from_millis(1);
        }
        assert!((5_000..=5_200).contains(&bytes), "{bytes}");
        assert!(Rate::new(0).wait(now).is_zero());
    }
}
