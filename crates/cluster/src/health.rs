//! How a peer does: how long its answers take, and whether it is passed by.
//!
//! A peer that could not be reached, was silent or said something wrong is passed by at once; a greeting
//! in the background, never a read, finds out when it is back. Each time that follows soon after the
//! last holds twice as long. One that is slow (`pace`) is passed by by reads in the same way; all else is still
//! asked of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::fault::{Fault, Reason};

/// Answers of which the 99th percentile is taken.
const ANSWERS: usize = 256;

/// The percentile is taken anew after so many answers.
const EVERY: usize = 32;

/// Weight of the newest answer in the mean: about the last 16 count.
const NEWEST: f64 = 1.0 / 16.0;

/// How long a peer may be silent: so many times the 99th percentile of its answers, within limits. The
/// lower one is ten times as long as a healthy peer ever is (it says that it waits every 300 ms), so
/// that a busy machine's pause is no silence; the upper one is how long a reader waits for a peer that hangs.
const PATIENCE_FACTOR: u32 = 8;
const PATIENCE_MIN: Duration = Duration::from_secs(3);
const PATIENCE_MAX: Duration = Duration::from_secs(8);

/// Longest time that a peer is passed by without being greeted.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// A trouble that comes later than this after the last begins anew.
const FORGIVEN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct State {
    answers: Vec<Duration>,
    next: usize,
    since_p99: usize,
    mean_ms: f64,
    p99: Duration,
    until: Duration,
    hold: Duration,
    closed_at: Option<Duration>,
    trouble: Option<String>,
    reason: Option<Reason>,
}

/// See the module's head. Time is that of the node's clock, monotonic.
#[derive(Debug, Default)]
pub(crate) struct Health {
    is_down: AtomicBool,
    /// That is for slowness alone.
    is_slow: AtomicBool,
    /// How often it was passed by.
    falls: AtomicU64,
    patience_ms: AtomicU64,
    state: Mutex<State>,
    changed: Notify,
}

/// How a peer does, for people.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    pub(crate) is_down: bool,
    pub(crate) is_slow: bool,
    pub(crate) mean_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) trouble: Option<String>,
}

impl Health {
    /// True if the peer is passed by.
    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Acquire)
    }

    /// True if it is passed by and answers, only slowly.
    pub(crate) fn is_slow(&self) -> bool {
        self.is_down() && self.is_slow.load(Ordering::Acquire)
    }

    /// True if it is passed by and is not to be asked anything.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_down() && !self.is_slow.load(Ordering::Acquire)
    }

    /// How often it was passed by so far, but for slowness.
    pub(crate) fn falls(&self) -> u64 {
        self.falls.load(Ordering::Acquire)
    }

    /// How long it may be silent.
    pub(crate) fn patience(&self) -> Duration {
        let patience = Duration::from_millis(self.patience_ms.load(Ordering::Relaxed));
        patience.clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// It answered, after `took`, what it had or could get without asking for patience.
    pub(crate) fn answered(&self, took: Duration) {
        let mut state = self.state.lock();
        let took_ms = took.as_secs_f64() * 1000.0;
        state.mean_ms = match state.answers.len() {
            0 => took_ms,
            _ => state.mean_ms + (took_ms - state.mean_ms) * NEWEST,
        };
        if state.answers.len() < ANSWERS {
            state.answers.push(took);
        } else {
            let at = state.next;
            state.answers[at] = took;
            state.next = (at + 1) % ANSWERS;
        }
        state.since_p99 += 1;
        if state.since_p99 >= EVERY {
            state.since_p99 = 0;
            let mut sorted = state.answers.clone();
            sorted.sort_unstable();
            state.p99 = sorted[(sorted.len() - 1) * 99 / 100];
            let patience = state.p99 * PATIENCE_FACTOR;
            let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            self.patience_ms.store(patience_ms, Ordering::Relaxed);
        }
    }

    /// It did not give what it was asked for. True if it is passed by from now on, and was not before.
    pub(crate) fn failed(&self, fault: &Fault, now: Duration) -> bool {
        let Some(hold) = fault.reason.hold() else { return false };
        let is_slow = fault.reason == Reason::Slow;
        let mut state = self.state.lock();
        if is_slow && self.is_down() {
            return false;
        }
        state.trouble = Some(fault.to_string());
        state.reason = Some(fault.reason);
        if self.is_gone() {
            return false;
        }
        self.is_slow.store(is_slow, Ordering::Release);
        self.is_down.store(true, Ordering::Release);
        let soon = state.closed_at.is_some_and(|closed| now.saturating_sub(closed) < FORGIVEN);
        state.hold = if soon { (state.hold * 2).max(hold).min(HOLD_MAX) } else { hold };
        state.until = now + state.hold;
        drop(state);
        if !is_slow {
            self.falls.fetch_add(1, Ordering::AcqRel);
        }
        self.changed.notify_waiters();
        true
    }

    /// A greeting failed as well: the next one is due later. True if the reason is another one than before.
    pub(crate) fn still_down(&self, fault: &Fault, now: Duration) -> bool {
        let mut state = self.state.lock();
        state.trouble = Some(fault.to_string());
        let is_news = state.reason.replace(fault.reason) != Some(fault.reason);
        let least = fault.reason.hold().unwrap_or_default();
        state.hold = (state.hold * 2).min(HOLD_MAX / 12).max(least);
        state.until = now + state.hold;
        is_news
    }

    /// When a greeting is due; `None`: it is not passed by.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.is_down().then(|| self.state.lock().until)
    }

    /// A greeting went well. True if it was passed by and is no more.
    pub(crate) fn greeted(&self, now: Duration) -> bool {
        let mut state = self.state.lock();
        if !self.is_down() || now < state.until {
            return false;
        }
        state.closed_at = Some(now);
        state.trouble = None;
        self.is_down.store(false, Ordering::Release);
        true
    }

    /// Completes when it is passed by from now on.
    pub(crate) async fn went_down(&self) {
        let changed = self.changed.notified();
        if !self.is_down() {
            changed.await;
        }
    }

    pub(crate) fn condition(&self) -> Condition {
        let state = self.state.lock();
        Condition {
            is_down: self.is_down(),
            is_slow: self.is_slow(),
            mean_ms: state.mean_ms,
            p99_ms: state.p99.as_secs_f64() * 1000.0,
            trouble: state.trouble.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_dead_peer_is_passed_by_at_once_and_comes_back_by_a_greeting_when_it_is_time() {
        let health = Health::default();
        let dead = Fault::new(Reason::Unreachable, "connection refused");
        assert!(!health.is_down());
        assert!(health.failed(&dead, s(10)), "said once");
        assert!(!health.failed(&dead, s(10)));
        assert!(health.is_down());
        assert_eq!(health.due(), Some(s(10) + Duration::from_millis(500)));
        assert!(!health.greeted(s(10)), "too early");
        assert!(health.is_down());
        assert!(health.greeted(s(11)));
        assert!(!health.is_down());
        assert_eq!(health.condition().trouble, None);
    }

    #[test]
    fn another_reason_is_news_and_the_same_one_is_none() {
        let health = Health::default();
        health.failed(&Fault::new(Reason::Unreachable, "connection refused"), s(1));
        assert!(!health.still_down(&Fault::new(Reason::Unreachable, "no route"), s(2)));
        assert!(health.still_down(&Fault::new(Reason::Version, "version 2"), s(3)));
        assert!(!health.still_down(&Fault::new(Reason::Version, "version 2"), s(40)));
        assert_eq!(health.due(), Some(s(70)), "no sooner than such trouble passes");
    }

    #[test]
    fn trouble_that_comes_again_holds_longer_and_lies_hold_long() {
        let health = Health::default();
        let dead = Fault::new(Reason::Silent, "");
        let mut now = s(0);
        let mut holds = Vec::new();
        for _ in 0..4 {
            health.failed(&dead, now);
            holds.push(health.due().unwrap() - now);
            now = health.due().unwrap();
            assert!(health.greeted(now));
        }
        assert!(holds.is_sorted_by(|a, b| a < b), "{holds:?}");
        assert_eq!(health.falls(), 4);
        now += s(100);
        health.failed(&dead, now);
        assert_eq!(health.due().unwrap() - now, holds[0], "forgiven");
        let wrong = Health::default();
        wrong.failed(&Fault::new(Reason::Wrong, "crc"), s(0));
        assert_eq!(wrong.due(), Some(s(30)));
    }

    #[test]
    fn a_slow_peer_is_passed_by_and_is_not_gone_until_it_dies() {
        let health = Health::default();
        let (slow, dead) = (Fault::new(Reason::Slow, ""), Fault::new(Reason::Silent, ""));
        assert!(health.failed(&slow, s(10)) && health.is_slow() && !health.is_gone());
        assert_eq!((health.due(), health.falls()), (Some(s(12)), 0));
        assert!(health.greeted(s(12)) && !health.is_slow() && !health.is_down());
        assert!(health.failed(&slow, s(20)));
        assert_eq!(health.due(), Some(s(24)), "soon after: twice as long");
        assert!(health.failed(&dead, s(21)), "worse than slow");
        assert!(health.is_gone() && !health.is_slow());
        assert!(!health.failed(&slow, s(22)) && health.is_gone(), "no better than dead");
        assert_eq!(health.falls(), 1);
    }

    #[test]
    fn what_is_no_trouble_of_the_peer_is_not_held_against_it() {
        let health = Health::default();
        for reason in Reason::ALL {
            let faulty = matches!(
                reason,
                Reason::Unreachable
                    | Reason::Silent
                    | Reason::Slow
                    | Reason::Wrong
                    | Reason::Version
                    | Reason::Refused
            );
            let health = Health::default();
            assert_eq!(health.failed(&Fault::new(reason, ""), s(1)), faulty, "{reason:?}");
        }
        assert!(!health.is_down());
    }

    #[test]
    fn patience_follows_the_slowest_answers_within_limits() {
        let health = Health::default();
        assert_eq!(health.patience(), PATIENCE_MIN);
        (0..64).for_each(|_| health.answered(Duration::from_millis(10)));
        assert_eq!(health.patience(), PATIENCE_MIN);
        (0..256).for_each(|_| health.answered(Duration::from_millis(500)));
        assert_eq!(health.patience(), s(4));
        (0..256).for_each(|_| health.answered(s(5)));
        assert_eq!(health.patience(), PATIENCE_MAX);
        assert!(health.condition().mean_ms > 4_000.0);
    }
}
