//! How long a peer usually takes to say something about a read, when that is too long, and when it has been too
//! long so often that the peer is slow.
//!
//! What counts is the time from a request on an open connection to the first sign of what becomes of it: the whole
//! bytes, or that they are being fetched. The bucket's time is not in it, nor is that of a new connection.
//!
//! # Invariants
//!
//! - What is late does not count as usual: a peer that becomes slow does not move the bounds by which it is.
//! - A pause is not slowness: however many reads it makes late, it counts once for each [`WINDOW`].

use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The quantile that is kept: one answer of twenty takes longer than is usual.
const QUANTILE: f64 = 0.95;

/// How far one answer moves the estimate, as a share of it: some 60 answers bring it from anywhere to within a half.
const STEP: f64 = 0.2;

/// Below this a time says nothing: it is the scheduler's.
const USUAL_MIN: Duration = Duration::from_millis(1);

/// Others are asked what they have after so many times the usual, but not before the least: a busy machine takes
/// that long now and then. Reasoned.
const ASK_FACTOR: f64 = 2.0;
const ASK_MIN: Duration = Duration::from_millis(50);

/// A read is late after so many times the usual, within limits. The lower one is ten times what a healthy peer
/// takes on a busy machine, and no less than a request to the bucket usually takes, which is what a late read may
/// cost; with the upper one a peer far away is not late for its distance. Reasoned.
const LATE_FACTOR: f64 = 4.0;
pub(crate) const LATE_MIN: Duration = Duration::from_millis(250);
const LATE_MAX: Duration = Duration::from_secs(1);

/// Until a peer has answered once, others are asked after this.
const ASK_FIRST: Duration = LATE_MIN;

/// Reads are judged together for at least so long.
const WINDOW: Duration = LATE_MIN;

/// A window is slow in which one read of so many is late.
const LATE_ONE_IN: u32 = 4;

/// Slow windows, less those that were not, that make a peer slow: a second of nothing but late reads.
const SLOW_AT: u32 = 4;

/// The same that make it suspect: its reads may cost the bucket requests, within the budget.
const SUSPECT_AT: u32 = 2;

/// What a peer's network carries at the least, for all that is asked of it at once: half a gigabit.
const BYTES_PER_SECOND_MIN: u64 = 64 << 20;

#[derive(Debug, Default)]
struct State {
    /// The quantile in seconds; `None`: no answer yet.
    usual: Option<f64>,
    prompt: u32,
    late: u32,
    window_until: Duration,
    slow_windows: u32,
}

/// See the module's head. Time is that of the node's clock, monotonic.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<State>);

/// What may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// After this others are asked for what they have.
    pub(crate) ask: Duration,
    /// After this a read is late.
    pub(crate) late: Duration,
}

impl Pace {
    pub(crate) fn bounds(&self) -> Bounds {
        let Some(usual) = self.0.lock().usual else {
            return Bounds { ask: ASK_FIRST, late: LATE_MAX };
        };
        let times = |factor: f64| Duration::from_secs_f64(usual * factor);
        let late = times(LATE_FACTOR).clamp(LATE_MIN, LATE_MAX);
        Bounds { ask: times(ASK_FACTOR).clamp(ASK_MIN, late), late }
    }

    /// It said something `took` after it was asked. What is late by now has been counted as such.
    pub(crate) fn answered(&self, took: Duration, now: Duration) {
        if self.bounds().late < took {
            return;
        }
        let mut state = self.0.lock();
        let took = took.max(USUAL_MIN).as_secs_f64();
        state.usual = Some(match state.usual {
            None => took,
            Some(usual) if usual < took => usual * (1.0 + STEP * QUANTILE),
            Some(usual) => usual * (1.0 - STEP * (1.0 - QUANTILE)),
        });
        state.prompt = state.prompt.saturating_add(1);
        state.judge(now);
    }

    /// A read is late. True if the peer is slow: each time, until windows come that are not.
    pub(crate) fn late(&self, now: Duration) -> bool {
        let mut state = self.0.lock();
        state.late = state.late.saturating_add(1);
        state.judge(now);
        let is_slow = SLOW_AT <= state.slow_windows;
        if is_slow {
            // Once it is asked again, one more slow window is enough.
            state.slow_windows = SLOW_AT - 1;
        }
        is_slow
    }

    pub(crate) fn is_suspect(&self) -> bool {
        SUSPECT_AT <= self.0.lock().slow_windows
    }
}

impl State {
    fn judge(&mut self, now: Duration) {
        if now < self.window_until {
            return;
        }
        let all = self.late.saturating_add(self.prompt);
        let is_slow = 0 < self.late && all <= self.late.saturating_mul(LATE_ONE_IN);
        self.slow_windows = match is_slow {
            true => (self.slow_windows + 1).min(SLOW_AT),
            false => self.slow_windows.saturating_sub(1),
        };
        (self.late, self.prompt, self.window_until) = (0, 0, now + WINDOW);
    }
}

/// What so many bytes may take beyond a sign of life, while so many requests share the way.
pub(crate) fn way(bytes: u64, in_flight: u64) -> Duration {
    let micros = bytes.saturating_mul(in_flight.max(1)).saturating_mul(1_000_000);
    Duration::from_micros(micros / BYTES_PER_SECOND_MIN)
}

/// What is heard of one read while it is under way. One waits for it at most.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    sent: OnceLock<Duration>,
    said: OnceLock<Said>,
    changed: Notify,
}

/// What a peer said before the bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    /// That it has them, and only its disk is waited for; else it is fetching them.
    pub(crate) is_here: bool,
    /// When.
    pub(crate) at: Duration,
}

impl Signs {
    /// The request goes out on an open connection.
    pub(crate) fn sent(&self, now: Duration) {
        if self.sent.set(now).is_ok() {
            self.changed.notify_one();
        }
    }

    /// The first word counts.
    pub(crate) fn heard(&self, said: Said) {
        if self.said.set(said).is_ok() {
            self.changed.notify_one();
        }
    }

    pub(crate) fn sent_at(&self) -> Option<Duration> {
        self.sent.get().copied()
    }

    pub(crate) fn said(&self) -> Option<Said> {
        self.said.get().copied()
    }

    /// Completes when it has been sent.
    pub(crate) async fn until_sent(&self) -> Duration {
        loop {
            if let Some(at) = self.sent_at() {
                return at;
            }
            self.changed.notified().await;
        }
    }

    /// Completes when something was said.
    pub(crate) async fn until_said(&self) {
        while self.said().is_none() {
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Answers one every 10 ms.
    fn answers(pace: &Pace, now: &mut Duration, times: impl IntoIterator<Item = Duration>) {
        for took in times {
            *now += ms(10);
            pace.answered(took, *now);
        }
    }

    #[test]
    fn the_estimate_is_what_one_answer_of_twenty_exceeds() {
        let (pace, mut now) = (Pace::default(), ms(0));
        assert_eq!(pace.bounds(), Bounds { ask: ASK_FIRST, late: LATE_MAX });
        // 1 to 200 ms, mixed up: the quantile is at 190.
        answers(&pace, &mut now, (0..4_000_u64).map(|n| ms(1 + n * 77 % 200)));
        let usual = pace.0.lock().usual.unwrap();
        assert!((0.12..0.26).contains(&usual), "{usual}");
        // It follows when the peer becomes quicker, down to where a time says nothing.
        answers(&pace, &mut now, (0..1_500).map(|_| ms(2)));
        let usual = pace.0.lock().usual.unwrap();
        assert!((0.001..0.003).contains(&usual), "{usual}");
        assert_eq!(pace.bounds(), Bounds { ask: ASK_MIN, late: LATE_MIN });
    }

    #[test]
    fn a_peer_far_away_is_not_late_for_its_distance() {
        let (pace, mut now) = (Pace::default(), ms(0));
        answers(&pace, &mut now, (0..50).map(|_| ms(200)));
        let Bounds { ask, late } = pace.bounds();
        assert!(
            ms(300) < ask && ask < late && ms(600) < late && late <= LATE_MAX,
            "{ask:?} {late:?}"
        );
    }

    #[test]
    fn what_is_late_is_not_usual() {
        let (pace, mut now) = (Pace::default(), ms(0));
        answers(&pace, &mut now, (0..100).map(|_| ms(3)));
        let bounds = pace.bounds();
        answers(&pace, &mut now, (0..100).map(|_| ms(1_500)));
        assert_eq!(pace.bounds(), bounds);
    }

    #[test]
    fn a_second_of_late_reads_makes_a_peer_slow_and_a_shorter_pause_does_not() {
        let (pace, mut now) = (Pace::default(), ms(0));
        answers(&pace, &mut now, (0..100).map(|_| ms(3)));
        // 16 readers, all late at once: a pause of 600 ms.
        for round in 1..=2 {
            assert!((0..16).all(|_| !pace.late(now + ms(300) * round)));
        }
        now += ms(700);
        answers(&pace, &mut now, (0..100).map(|_| ms(3)));
        assert!(!pace.is_suspect());
        // One reader, each read of which is late: slow after a few.
        let mut late = 0;
        while !pace.late(now) {
            now += ms(250);
            late += 1;
        }
        assert!((3..=6).contains(&late), "{late}");
        assert!(pace.is_suspect());
    }

    #[test]
    fn a_peer_that_was_slow_is_so_again_at_once_or_forgiven() {
        let (pace, mut now) = (Pace::default(), ms(0));
        while !pace.late(now) {
            now += ms(300);
        }
        now += ms(10_000);
        assert!(pace.late(now), "one more is enough");
        now += ms(10_000);
        answers(&pace, &mut now, (0..200).map(|_| ms(3)));
        assert!(!pace.is_suspect());
        assert!(!pace.late(now + ms(300)) && !pace.late(now + ms(600)));
    }

    #[test]
    fn some_late_reads_among_many_do_not_make_it_slow() {
        let (pace, mut now) = (Pace::default(), ms(0));
        for n in 0..2_000 {
            now += ms(10);
            match n % 10 {
                0 => assert!(!pace.late(now), "one in ten"),
                _ => pace.answered(ms(3), now),
            }
        }
        assert!(!pace.is_suspect());
    }

    #[test]
    fn the_way_is_longer_for_much_at_once() {
        assert!(way(110_000, 1) < ms(3));
        assert_eq!(way(4 << 20, 64), Duration::from_secs(4));
        assert_eq!(way(0, 0), Duration::ZERO);
    }
}
