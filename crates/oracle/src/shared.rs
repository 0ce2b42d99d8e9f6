//! Several streams that take turns in one order: a queue that threads draw from, or a learned order.

use std::sync::Arc;

use crate::order::Order;

/// Places around the foremost one within which an open is expected, besides those for each stream.
const WINDOW: u32 = 64;
/// Places that each stream adds to the window: what it may hold while others go on.
const WINDOW_STREAM: u32 = 16;

/// An order and the foremost place that its streams have reached.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) order: Arc<Order>,
    front: u32,
    /// Streams that take turns.
    pub(crate) streams: u32,
    /// Places passed since the first lock, and how many of them were told ahead of time.
    passed: u64,
    told: u64,
}

impl Shared {
    /// One stream, at a place.
    pub(crate) fn new(order: Arc<Order>, front: u32) -> Self {
        Self { order, front, streams: 1, passed: 0, told: 0 }
    }

    /// Takes in an open; says whether it was expected.
    pub(crate) fn observe(&mut self, position: u32) -> bool {
        let Some(place) = self.order.place(position) else { return false };
        let len = self.order.len();
        let window = (WINDOW + WINDOW_STREAM * self.streams).min(len / 4);
        let forward = distance(self.front, place, len);
        if forward <= window {
            self.front = place;
            self.passed += u64::from(forward);
            return true;
        }
        len - forward <= window
    }

    /// Moves to a place that is further ahead than the front, where a new stream was found.
    pub(crate) fn reach(&mut self, place: u32) {
        let forward = distance(self.front, place, self.order.len());
        if forward < self.order.len() / 2 {
            self.front = place;
            self.passed += u64::from(forward);
        }
    }

    /// The position that stands `k` places after the front, 1 is the next.
    pub(crate) fn position(&self, k: u64) -> u32 {
        let len = u64::from(self.order.len());
        let place = (u64::from(self.front) + k) % len;
        self.order.at(u32::try_from(place).unwrap_or(0))
    }

    /// In how many opens of all its streams a position is reached.
    pub(crate) fn opens_until(&self, position: u32) -> Option<u64> {
        let len = self.order.len();
        let forward = distance(self.front, self.order.place(position)?, len);
        Some(u64::from(if forward == 0 { len } else { forward }))
    }

    /// Places after the front that were told already.
    pub(crate) fn told(&self) -> u64 {
        self.told.saturating_sub(self.passed)
    }

    /// Notes that so many places after the front are told.
    pub(crate) fn tell(&mut self, places: u64) {
        self.told = self.told.max(self.passed + places);
    }
}

/// The way from a place forward to another, around the end.
fn distance(from: u32, to: u32, len: u32) -> u32 {
    if from <= to { to - from } else { len - from + to }
}
