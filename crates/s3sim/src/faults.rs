//! Faults: which requests go wrong, and how.
//!
//! A fault is a rule: what happens, to which requests (verb, part of the key), and how often (a
//! probability, or the next n that match). The first rule that fires decides; a request meets at
//! most one fault. Draws come from the server's seeded generator, so that a run can be repeated.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::shape::Dice;
use crate::stats::Verb;

/// What goes wrong with a request that a rule has hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// 500 InternalError; nothing is done.
    InternalError,
    /// 503 SlowDown; nothing is done.
    SlowDown,
    /// 403 AccessDenied; nothing is done.
    Forbidden,
    /// The answer begins, then the connection is reset (TCP RST) at `at_byte` of the body. An
    /// answer without a body, and `at_byte` 0, are reset before the first byte of the head.
    Reset,
    /// The answer promises the whole length, then the connection closes in good order at
    /// `at_byte` of the body.
    ShortBody,
    /// The answer pauses at `at_byte` of the body for `stall_ms`, then goes on and is whole.
    Stall,
    /// The answer is whole and right, but for an `ETag` that no object ever had.
    WrongEtag,
}

/// One rule. In JSON every field but `kind` may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What happens.
    pub kind: FaultKind,
    /// How likely a matching request is hit, 0 to 1. Absent: each one is.
    #[serde(default = "always")]
    pub probability: f64,
    /// How many requests are still to be hit; absent for no end. It counts down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// Only requests whose key contains this; absent for all, also those without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_contains: Option<String>,
    /// Only these verbs; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<Verb>,
    /// Where in the body `reset`, `short_body` and `stall` happen; absent for the middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_byte: Option<u64>,
    /// How long `stall` sends nothing, in milliseconds.
    #[serde(default = "stall_ms_default")]
    pub stall_ms: u64,
}

fn always() -> f64 {
    1.0
}

/// Long enough to trip a client's short read timeout, short enough for a test.
fn stall_ms_default() -> u64 {
    2_000
}

impl FaultRule {
    /// A rule that hits every request; narrow it with the other methods.
    #[must_use]
    pub fn every(kind: FaultKind) -> Self {
        Self {
            kind,
            probability: always(),
            next: None,
            key_contains: None,
            verbs: Vec::new(),
            at_byte: None,
            stall_ms: stall_ms_default(),
        }
    }

    /// A rule that hits the next `count` matching requests and no more.
    #[must_use]
    pub fn next(kind: FaultKind, count: u64) -> Self {
        Self { next: Some(count), ..Self::every(kind) }
    }

    /// A rule that hits a share of the matching requests, 0 to 1.
    #[must_use]
    pub fn probability(kind: FaultKind, probability: f64) -> Self {
        Self { probability, ..Self::every(kind) }
    }

    /// Only requests whose key contains `part`.
    #[must_use]
    pub fn for_keys(mut self, part: &str) -> Self {
        self.key_contains = Some(part.to_owned());
        self
    }

    /// Only requests of this verb; call it again for one more.
    #[must_use]
    pub fn for_verb(mut self, verb: Verb) -> Self {
        self.verbs.push(verb);
        self
    }

    /// Sets where in the body it happens.
    #[must_use]
    pub fn at_byte(mut self, at_byte: u64) -> Self {
        self.at_byte = Some(at_byte);
        self
    }

    /// Sets how long a stall lasts, in milliseconds.
    #[must_use]
    pub fn stall_ms(mut self, stall_ms: u64) -> Self {
        self.stall_ms = stall_ms;
        self
    }

    fn matches(&self, verb: Verb, key: &str) -> bool {
        (self.verbs.is_empty() || self.verbs.contains(&verb))
            && self.key_contains.as_ref().is_none_or(|part| key.contains(part.as_str()))
    }
}

/// The rules in force, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// The first that fires decides.
    #[serde(default)]
    pub rules: Vec<FaultRule>,
}

impl Faults {
    /// No faults: everything works again.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a rule after the others.
    #[must_use]
    pub fn and(mut self, rule: FaultRule) -> Self {
        self.rules.push(rule);
        self
    }
}

impl From<FaultRule> for Faults {
    fn from(rule: FaultRule) -> Self {
        Self { rules: vec![rule] }
    }
}

/// The rules as the server holds them: they count down and can be replaced at any time.
#[derive(Debug, Default)]
pub(crate) struct FaultBoard {
    faults: Mutex<Faults>,
}

impl FaultBoard {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults: Mutex::new(faults) }
    }

    pub(crate) fn set(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }

    pub(crate) fn get(&self) -> Faults {
        self.faults.lock().clone()
    }

    /// The fault this request meets, if any. A request costs a draw only for a rule with a real
    /// probability, so that rules by count do not shift the sequence of a seeded run.
    pub(crate) fn draw(&self, verb: Verb, key: &str, dice: &Dice) -> Option<FaultRule> {
        let mut faults = self.faults.lock();
        for rule in &mut faults.rules {
            if rule.next == Some(0) || !rule.matches(verb, key) {
                continue;
            }
            if rule.probability < 1.0 && dice.uniform() >= rule.probability {
                continue;
            }
            if let Some(next) = &mut rule.next {
                *next -= 1;
            }
            return Some(rule.clone());
        }
        None
    }
}
