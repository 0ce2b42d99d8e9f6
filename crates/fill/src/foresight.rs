//! When an object is needed next, told to eviction.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use feedline_model::{Foresight, NextUse, ObjectId};

use crate::engine::Fill;

/// What the cache asks. Weak: fill holds the cache, and the cache must not hold fill.
#[derive(Debug)]
struct Foreseen(Weak<Fill>);

impl Foresight for Foreseen {
    fn next_use(&self, id: &ObjectId) -> NextUse {
        self.0.upgrade().map_or(NextUse::Unknown, |fill| fill.next_use(id))
    }
}

impl Fill {
    /// Itself as somebody whom eviction may ask. Does not keep it alive.
    #[must_use]
    pub fn foresight(self: &Arc<Self>) -> Arc<dyn Foresight> {
        Arc::new(Foreseen(Arc::downgrade(self)))
    }

    /// When the object is needed next; see [`Foresight::next_use`].
    #[must_use]
    pub fn next_use(&self, id: &ObjectId) -> NextUse {
        let shared = self.shared();
        // The tables are made by the engine, not here: it takes a hash a file.
        if !shared.wants_ids.swap(true, Ordering::Relaxed) {
            shared.watch.nudge();
        }
        let mut state = shared.state.lock();
        state.scans.iter_mut().find_map(|scan| scan.next_use(id)).unwrap_or(NextUse::Unknown)
    }
}
