//! A process that reads, and checks every byte of what it is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use feedline_model::{Clock as _, Priority, ReadError};
use parking_lot::Mutex;

use crate::bucket::Bucket;
use crate::cache::Cache;
use crate::clock::HostClock;
use crate::plan::Step;
use crate::promise::Promise;
use crate::sabotage::{Broken, Sabotage};
use crate::trace::Trace;

/// The pause after an error, as of a job that tries again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What readers did.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(crate) done: u64,
    pub(crate) errors: u64,
    pub(crate) wait_max: Duration,
}

/// One life of a reader: it goes on where the one before it was killed.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) node: usize,
    pub(crate) number: usize,
    pub(crate) steps: Arc<[Step]>,
    pub(crate) progress: Arc<AtomicUsize>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) clock: HostClock,
    pub(crate) trace: Trace,
    pub(crate) reads: Arc<Mutex<Reads>>,
    /// The longest that a read may take.
    pub(crate) wait_max: Duration,
    pub(crate) broken: Broken,
}

impl Reader {
    pub(crate) async fn run(self) {
        loop {
            let at = self.progress.load(Ordering::Relaxed);
            let Some(step) = self.steps.get(at) else { return };
            self.clock.sleep(step.think).await;
            self.read(step).await;
            self.progress.store(at + 1, Ordering::Relaxed);
        }
    }

    /// Time without that during which this node was stopped.
    fn awake(&self) -> Duration {
        let now = self.clock.sim.now();
        now - self.clock.pause.total(now)
    }

    async fn ask(&self, step: &Step) -> Result<Bytes, ReadError> {
        if self.broken.once(Sabotage::FailedRead) {
            let cause = "on purpose".into();
            return Err(ReadError::Forbidden { location: "sim://".into(), cause });
        }
        if self.broken.once(Sabotage::SlowRead) {
            self.clock.sleep(2 * self.wait_max).await;
        }
        if self.broken.once(Sabotage::EndlessRead) {
            std::future::pending::<()>().await;
        }
        let object = &self.bucket.contents[step.place].object;
        self.cache.read(object, step.range.clone(), Priority::Demand).await
    }

    async fn read(&self, step: &Step) {
        let content = &self.bucket.contents[step.place];
        let who = format!("n{} r{} reads {}", self.node, self.number, step.place);
        loop {
            let (since, began) = (self.clock.sim.now(), self.awake());
            let read = self.ask(step).await;
            let took = self.awake() - began;
            match read {
                Ok(bytes) => {
                    if bytes != content.slice(&step.range) {
                        self.trace
                            .complain(Promise::RightBytes, format_args!("{who}: wrong bytes"));
                    }
                    self.trace.note(format_args!("{who} in {took:?}"));
                    let mut reads = self.reads.lock();
                    reads.done += 1;
                    reads.wait_max = reads.wait_max.max(took);
                    drop(reads);
                    if self.wait_max < took {
                        let what = format_args!("{who}: waited {took:?}");
                        self.trace.complain(Promise::ReadsAreQuick, what);
                    }
                    return;
                }
                Err(error) => {
                    self.trace.note(format_args!("{who}: {error}"));
                    self.reads.lock().errors += 1;
                    if !self.bucket.has_failed(self.node, step.place, since) {
                        self.trace.complain(
                            Promise::ReadsSucceed,
                            format_args!(
                                "{who}: an error that the bucket did not give this node: {error}"
                            ),
                        );
                    }
                    self.clock.sleep(AGAIN_AFTER).await;
                }
            }
        }
    }
}
