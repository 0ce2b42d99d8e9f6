//! How many fetches to keep in flight: as many as the bucket takes without making each one slower.
//!
//! A bucket behind a thin link, or a busy CPU, answers no faster when more is asked of it at once; it
//! only answers each request later, also those that somebody waits for. So the window grows while
//! the time of a fetch stays near the shortest seen, holds when it begins to rise, and shrinks when
//! it has risen.
//!
//! # Source
//!
//! Delay as the signal of congestion: Brakmo and Peterson, "TCP Vegas: end to end congestion
//! avoidance on a global Internet", IEEE JSAC 13(8), 1995; the cycle of rounds follows the
//! slow start of the same paper.

use std::time::Duration;

/// Fetches in flight at the start: enough to see a rate, too few to hurt anybody. A loader that opens a
/// thousand files at once keeps the cores so busy that the window hardly grows before its first batch.
const START: usize = 64;

/// Never fewer of what somebody is known to read next.
const FORESEEN_MIN: usize = 32;

/// Never less: one slow moment must not stop fill.
pub(crate) const WINDOW_MIN: usize = 4;

/// A round ends after this many fetches have come back, or the window if that is more: the mean of
/// log-normal latencies then scatters by a few per cent.
const ROUND_FETCHES: usize = 32;

/// Below this, the bucket does not feel us: grow.
const CALM: f64 = 1.3;

/// Above this, we are in our own way: shrink.
const CROWDED: f64 = 1.8;

/// The number of fetches in flight, from how long they take.
#[derive(Debug)]
pub(crate) struct Window {
    size: usize,
    max: usize,
    /// Doubling until the first sign of congestion.
    starting: bool,
    /// A fetch failed in this round.
    refused: bool,
    shortest_s: f64,
    sum_s: f64,
    count: usize,
}

impl Window {
    /// Up to `max` in flight.
    pub(crate) fn new(max: usize) -> Self {
        let max = max.max(WINDOW_MIN);
        let size = START.min(max);
        Self {
            size,
            max,
            starting: true,
            refused: false,
            shortest_s: f64::INFINITY,
            sum_s: 0.0,
            count: 0,
        }
    }

    /// How many may be in flight now.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// How many of what somebody is known to read next may be in flight, however slow the bucket or this
    /// machine has become; not while the bucket refuses.
    pub(crate) fn foreseen_min(&self) -> usize {
        if self.refused { WINDOW_MIN } else { FORESEEN_MIN.min(self.max) }
    }

    /// A fetch of one request came back. `full`: the window was in full use; a window that is not
    /// says nothing about whether more would do.
    pub(crate) fn came_back(&mut self, took: Duration, full: bool) {
        self.sum_s += took.as_secs_f64();
        self.count += 1;
        if self.count < ROUND_FETCHES.max(self.size) {
            return;
        }
        let mean_s = self.sum_s / self.count as f64;
        (self.sum_s, self.count, self.refused) = (0.0, 0, false);
        self.shortest_s = self.shortest_s.min(mean_s);
        let slower = mean_s / self.shortest_s.max(1e-6);
        if slower > CROWDED && self.size == WINDOW_MIN {
            // So few cannot crowd anybody: it is the bucket that has become slower.
            self.shortest_s = mean_s;
        } else if slower > CROWDED {
            self.starting = false;
            self.size = (self.size * 4 / 5).max(WINDOW_MIN);
        } else if slower > CALM {
            self.starting = false;
        } else if full {
            let more = if self.starting { self.size } else { self.size / 8 + 1 };
            self.size = (self.size + more).min(self.max);
        }
    }

    /// A fetch failed for a reason that is the bucket's: give way at once.
    pub(crate) fn failed(&mut self) {
        self.starting = false;
        self.size = (self.size / 2).max(WINDOW_MIN);
        (self.sum_s, self.count, self.refused) = (0.0, 0, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST_BYTE_S: f64 = 0.025;

    /// Runs rounds against a bucket that answers after 25 ms, or later if `rate` a second is less
    /// than what is asked; returns the window.
    fn against(rate: f64, window: &mut Window, rounds: usize) {
        for _ in 0..rounds * 1_000 {
            let queued_s = window.size() as f64 / rate;
            window.came_back(Duration::from_secs_f64(FIRST_BYTE_S.max(queued_s)), true);
        }
    }

    #[test]
    fn a_wide_bucket_is_used_to_the_limit() {
        let mut window = Window::new(336);
        against(1e9, &mut window, 20);
        assert_eq!(window.size(), 336);
    }

    #[test]
    fn a_thin_link_is_kept_full_and_not_crowded() {
        let mut window = Window::new(336);
        let rate = 2_270.0;
        against(rate, &mut window, 20);
        let full = (rate * FIRST_BYTE_S) as usize;
        assert!(full <= window.size() && window.size() <= 2 * full, "{} of {full}", window.size());
    }

    #[test]
    fn it_follows_a_link_that_becomes_thinner_and_wider() {
        let mut window = Window::new(336);
        against(1e9, &mut window, 20);
        against(2_270.0, &mut window, 20);
        assert!(window.size() <= 114, "{}", window.size());
        against(1e9, &mut window, 20);
        assert_eq!(window.size(), 336);
    }

    #[test]
    fn a_bucket_that_becomes_slower_by_itself_is_found_out() {
        let mut window = Window::new(336);
        against(1e9, &mut window, 20);
        for _ in 0..100_000 {
            window.came_back(Duration::from_millis(100), true);
        }
        assert_eq!(window.size(), 336);
    }

    #[test]
    fn failures_halve_it_down_to_a_minimum() {
        let mut window = Window::new(336);
        assert_eq!(window.foreseen_min(), FORESEEN_MIN);
        window.failed();
        assert_eq!(window.size(), START / 2);
        (0..10).for_each(|_| window.failed());
        assert_eq!(window.size(), WINDOW_MIN);
        // A bucket that refuses is not pressed for what is read next either, until a round went well.
        assert_eq!(window.foreseen_min(), WINDOW_MIN);
        against(1e9, &mut window, 1);
        assert_eq!(window.foreseen_min(), FORESEEN_MIN);
    }
}
