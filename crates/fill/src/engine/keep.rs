//! Orders that outlive the node: recalled when a data set begins to be read, kept when one has been learned. In
//! blocking threads, since both touch the disk and hash the data set's list.

use std::sync::Arc;

use futures::stream::StreamExt as _;

use super::Engine;
use crate::memory::KeptOrder;
use crate::scan::Scan;

impl Engine {
    /// Looks what is kept of the sets that are new.
    pub(super) fn recall(&self) {
        let Some(memory) = &self.shared.parts.memory else { return };
        let mut state = self.shared.state.lock();
        for scan in state.scans.iter_mut().filter_map(|it| it.take_wants_memory().then_some(it)) {
            let (memory, set, flat) = (Arc::clone(memory), Arc::clone(&scan.set), scan.flat);
            let recall = move || {
                let kept = memory.recall(set.name_hash(flat))?;
                let same = kept.identity == set.identity();
                let root = &*set.root;
                if same {
                    tracing::info!(root, "the order of an earlier epoch is remembered");
                } else {
                    tracing::info!(
                        root,
                        "other files than when its order was learned: the order is not used"
                    );
                }
                same.then_some(kept.positions)
            };
            let recalled = self.shared.parts.runtime.spawn_blocking(recall);
            let number = scan.number;
            self.recalls.push(Box::pin(async move { (number, recalled.await.ok().flatten()) }));
        }
    }

    pub(super) fn recalled(&self, number: u64, order: Option<Vec<u32>>) {
        let mut state = self.shared.state.lock();
        let scan = state.scans.iter_mut().find(|scan| scan.number == number);
        if let (Some(scan), Some(order)) = (scan, order) {
            scan.remember(order);
        }
    }

    /// Keeps an order that was learned. One at a time, and at most one a tick: epochs of a few files may last
    /// milliseconds.
    pub(super) fn keep(&self) {
        if !self.keeps.is_empty() {
            return;
        }
        let mut state = self.shared.state.lock();
        let _ = state.scans.iter_mut().any(|scan| self.keep_of(scan, false));
    }

    /// Keeps what was learned of all sets, and returns when it is written: the node ends.
    pub(super) async fn keep_all(&mut self) {
        self.take_reports();
        {
            let mut state = self.shared.state.lock();
            for scan in &mut state.scans {
                self.keep_of(scan, true);
            }
        }
        while self.keeps.next().await.is_some() {}
    }

    /// True if there is one to keep.
    fn keep_of(&self, scan: &mut Scan, ends: bool) -> bool {
        // Taken in any case: it is not to be held for ever.
        let Some(positions) = scan.take_learned(ends) else { return false };
        let Some(memory) = &self.shared.parts.memory else { return false };
        let (memory, set, flat) = (Arc::clone(memory), Arc::clone(&scan.set), scan.flat);
        let keep = move || {
            memory.keep(set.name_hash(flat), &KeptOrder { identity: set.identity(), positions });
        };
        let kept = self.shared.parts.runtime.spawn_blocking(keep);
        self.keeps.push(Box::pin(async move { drop(kept.await) }));
        true
    }
}
