//! The accesses that request threads report, until the engine takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use feedline_model::{Access, Object};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Accesses kept at most. The engine takes them every few milliseconds; a hot mount makes 30,000 a
/// second, so this is a second of a stalled engine. What does not fit is dropped and counted: it
/// costs a prediction, never a read.
const QUEUE_MAX: usize = 32_768;

/// While accesses of complete files are not wanted, one of so many is reported all the same: it shows
/// that the set is still read. At 30,000 a second that is one every few milliseconds.
const SAMPLE: u64 = 256;

/// One access, owned.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) process: u32,
    pub(crate) parent: Arc<str>,
    pub(crate) object: Object,
    pub(crate) is_hit: bool,
    /// One of many that were not reported: it says that its set is read, and nothing of the order.
    pub(crate) is_sample: bool,
}

/// The queue from the request threads to the engine.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    queue: Mutex<Vec<Seen>>,
    wake: Notify,
    /// Accesses of files that are complete here are not wanted now.
    ignores_hits: AtomicBool,
    ignored: AtomicU64,
    dropped: AtomicU64,
}

impl Watch {
    /// Called by request threads.
    pub(crate) fn report(&self, access: &Access<'_>) {
        let is_sample = access.is_hit && self.ignores_hits();
        if is_sample && !(self.ignored.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(SAMPLE) {
            return;
        }
        let seen = Seen {
            process: access.process,
            parent: Arc::clone(access.parent),
            object: access.object.clone(),
            is_hit: access.is_hit,
            is_sample,
        };
        let first = {
            let mut queue = self.queue.lock();
            if queue.len() == QUEUE_MAX {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            queue.push(seen);
            queue.len() == 1
        };
        if first {
            self.wake.notify_one();
        }
    }

    /// All that was reported since the last call, in order.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.queue.lock())
    }

    /// Takes back what was reported of some folders.
    pub(crate) fn forget(&self, is_one: impl Fn(&str) -> bool) {
        self.queue.lock().retain(|seen| !is_one(&seen.parent));
    }

    /// Completes when something was reported.
    pub(crate) async fn reported(&self) {
        self.wake.notified().await;
    }

    /// Wakes the engine although nothing was reported.
    pub(crate) fn nudge(&self) {
        self.wake.notify_one();
    }

    /// Whether accesses of files that are complete here may be left out: there is nothing to gain
    /// from them while all that is read is here.
    pub(crate) fn ignore_hits(&self, ignore: bool) {
        self.ignores_hits.store(ignore, Ordering::Relaxed);
    }

    /// Whether accesses of complete files are left out now.
    pub(crate) fn ignores_hits(&self) -> bool {
        self.ignores_hits.load(Ordering::Relaxed)
    }

    /// Accesses dropped because the queue was full.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
