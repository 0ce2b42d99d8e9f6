//! Writes listings to the state file in the background.
//!
//! The queue holds at most one change per directory, so it is bounded by the table, and a directory
//! that changes faster than the disk writes is written once. What was written may be left to the file
//! alone, where nobody needs it in memory. Disk trouble is logged, once per
//! outage, and costs nothing but LISTs after the next start.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use feedline_model::Directory;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::kept::Content;
use crate::rules::HiddenCounts;
use crate::state::{Job, StateFile};
use crate::table::Table;

/// The queue and the task that empties it.
#[derive(Debug)]
pub(crate) struct Persist {
    queue: Arc<Queue>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    pending: Mutex<Pending>,
    wake: Notify,
    closing: AtomicBool,
    /// The last write failed, which has been logged.
    failing: AtomicBool,
}

/// Changes to write.
#[derive(Debug, Default)]
struct Pending {
    jobs: HashMap<Arc<str>, Job>,
    /// Directories whose entries in the file are damaged.
    damaged: HashSet<Arc<str>>,
    /// Directories that need not stay in memory once the file has them.
    rests: Vec<Arc<Directory>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.damaged.is_empty() && self.rests.is_empty()
    }
}

impl Persist {
    /// Starts the task on `handle`. A rewrite takes what `table` knows.
    pub(crate) fn start(state: StateFile, table: Arc<Table>, handle: &Handle) -> Self {
        let queue = Arc::new(Queue::default());
        let task = handle.spawn(run(Arc::clone(&queue), state, table, handle.clone()));
        Self { queue, task: Mutex::new(Some(task)) }
    }

    /// Queues a listing. Never waits.
    pub(crate) fn put(&self, directory: &Arc<Directory>, hidden: HiddenCounts) {
        let job = Job::Put(Arc::clone(directory), hidden);
        self.queue.pending.lock().jobs.insert(Arc::clone(&directory.path), job);
        self.queue.wake.notify_one();
    }

    /// Queues removals. Never waits.
    pub(crate) fn remove(&self, paths: &[Arc<str>]) {
        if paths.is_empty() {
            return;
        }
        let jobs = paths.iter().map(|path| (Arc::clone(path), Job::Remove));
        self.queue.pending.lock().jobs.extend(jobs);
        self.queue.wake.notify_one();
    }

    /// Queues that what the file has of `path` is damaged: even the same entries are written again.
    /// Never waits.
    pub(crate) fn damaged(&self, path: Arc<str>) {
        self.queue.pending.lock().damaged.insert(path);
        self.queue.wake.notify_one();
    }

    /// Queues that `directory`, which was [put](Persist::put), need not stay in memory: from when it is written
    /// on it lies in the file, unless somebody wants it. Never waits.
    pub(crate) fn rest(&self, directory: Arc<Directory>) {
        self.queue.pending.lock().rests.push(directory);
        self.queue.wake.notify_one();
    }

    /// Tells the task to write what is queued and end.
    pub(crate) fn close_soon(&self) {
        self.queue.closing.store(true, Ordering::SeqCst);
        self.queue.wake.notify_one();
    }

    /// Writes what is queued, syncs, and ends the task.
    pub(crate) async fn close(&self) {
        self.close_soon();
        let task = self.task.lock().take();
        if let Some(task) = task {
            // An error means that the runtime is being shut down: there is nobody left to write.
            let _ = task.await;
        }
    }
}

async fn run(queue: Arc<Queue>, mut state: StateFile, table: Arc<Table>, handle: Handle) {
    loop {
        let closing = queue.closing.load(Ordering::SeqCst);
        let pending = std::mem::take(&mut *queue.pending.lock());
        if closing || !pending.is_empty() {
            let (queue, table) = (Arc::clone(&queue), Arc::clone(&table));
            let written = handle.spawn_blocking(move || {
                queue.write(&mut state, pending, &table, closing);
                state
            });
            match written.await {
                Ok(back) => state = back,
                Err(_) => return,
            }
        }
        if closing {
            return;
        }
        queue.wake.notified().await;
    }
}

impl Queue {
    fn write(&self, state: &mut StateFile, pending: Pending, table: &Table, closing: bool) {
        let mut result = state.append(pending.jobs, &pending.damaged);
        for directory in pending.rests {
            if let Some(kept) = state.kept(&directory) {
                table.rest(&directory, kept);
            }
        }
        if result.is_ok() && state.wants_rewrite() {
            result = state.rewrite(&table.snapshot()).map(|moved| {
                for it in moved {
                    table.replace(&it.path, &it.old, Content::Kept(it.new));
                }
            });
        }
        if result.is_ok() && closing {
            result = state.sync();
        }
        match result {
            Ok(()) => self.failing.store(false, Ordering::Relaxed),
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "listings cannot be saved; a remount lists again");
                }
            }
        }
    }
}
