//! What the loop has done beside the fetches, in blocking threads: pushes into the page cache, and thinking.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use feedline_oracle::Outcome;

use super::Engine;
use crate::push::{Done, JOBS_MAX, Job};

impl Engine {
    /// Starts pushes until as many are under way as may be.
    pub(super) fn push(&self) {
        let now = self.now();
        let mut state = self.shared.state.lock();
        for scan in &mut state.scans {
            while self.pushes.len() < JOBS_MAX
                && let Some(job) = scan.next_push(now, &*self.shared.parts.index)
            {
                self.start_push(scan.number, job);
            }
        }
    }

    pub(super) fn start_push(&self, scan: u64, job: Job) {
        let index = Arc::clone(&self.shared.parts.index);
        let done = self.shared.parts.runtime.spawn_blocking(move || job.run(&*index));
        self.pushes.push(Box::pin(async move { (scan, done.await.ok()) }));
    }

    pub(super) fn pushed(&self, scan: u64, done: Option<&Done>) {
        // Nothing is known of a thread that panicked; its set is not pushed any more.
        let Some(done) = done else { return };
        let (files, bytes) = done.read();
        self.shared.counters.pushed_files.fetch_add(files, Ordering::Relaxed);
        self.shared.counters.pushed_bytes.fetch_add(bytes, Ordering::Relaxed);
        let now = self.now();
        let mut state = self.shared.state.lock();
        if let Some(scan) = state.scans.iter_mut().find(|it| it.number == scan) {
            scan.pushed(done, now);
        }
        self.choose_reports(&mut state);
    }

    /// Lets the oracle of each set think, beside everything else.
    pub(super) fn think(&self) {
        let mut state = self.shared.state.lock();
        for scan in state.scans.iter_mut().filter(|scan| !scan.is_thinking) {
            let Some(work) = scan.next_work() else { continue };
            scan.is_thinking = true;
            let number = scan.number;
            let thought = self.shared.parts.runtime.spawn_blocking(move || work.run());
            self.thinking.push(Box::pin(async move { (number, thought.await.ok()) }));
        }
    }

    pub(super) fn thought(&self, number: u64, outcome: Option<Outcome>) {
        let mut state = self.shared.state.lock();
        if let Some(scan) = state.scans.iter_mut().find(|scan| scan.number == number) {
            scan.is_thinking = false;
            if let Some(outcome) = outcome {
                scan.accept(outcome);
            }
        }
    }
}
