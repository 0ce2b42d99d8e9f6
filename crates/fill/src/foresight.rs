//! When an object is needed next, told to eviction.

use std::sync::atomic::Ordering;

use feedline_model::{Foresight, NextUse, ObjectId};

use crate::engine::Fill;

impl Foresight for Fill {
    fn next_use(&self, id: &ObjectId) -> NextUse {
        let shared = self.shared();
        // The tables are made by the engine, not here: it takes a hash a file.
        if !shared.wants_ids.swap(true, Ordering::Relaxed) {
            shared.watch.nudge();
        }
        let mut state = shared.state.lock();
        state.scans.iter_mut().find_map(|scan| scan.next_use(id)).unwrap_or(NextUse::Unknown)
    }
}
