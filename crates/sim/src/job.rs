//! Load jobs: what `node`'s loads do over the real queues, answers and roll calls of `cluster`.
//!
//! The job itself is this crate's own, by the same rule: each object to the first node of its order that can be
//! asked; all once more if a node came, went or began anew meanwhile. Its record outlives its node.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use feedline_cluster::wire::{LoadSaid, LoadWord};
use feedline_cluster::{Cluster, LoadPlace, Loads};
use feedline_model::{Clock as _, Object, Priority, ReadError};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use parking_lot::Mutex;

use crate::bucket::Bucket;
use crate::cache::{Cache, Disk};
use crate::clock::HostClock;
use crate::promise::Promise;
use crate::sabotage::{Broken, Sabotage};
use crate::trace::Trace;

/// Objects of one job under way at once.
const AT_ONCE: usize = 32;

/// As `node`'s jobs have it.
const PASSES_MAX: u32 = 5;

/// How long a job that goes on waits for the nodes that it had.
const NODES_WITHIN: Duration = Duration::from_secs(60);

/// How often it looks for them.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a job stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum State {
    #[default]
    Running,
    Stopped,
    Incomplete,
    Done,
}

/// What is left of a job when its node dies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    pub(crate) state: State,
    /// That shared it when it was last begun.
    nodes: usize,
    /// Of the last pass.
    here: usize,
    fetched: usize,
    failed: usize,
}

/// Which nodes live, for who must know whether a job could have known better.
#[derive(Debug)]
pub(crate) struct Living {
    pub(crate) disks: Vec<Arc<Mutex<Disk>>>,
    pub(crate) lives: Vec<bool>,
    /// When one last died or began.
    pub(crate) changed_at: Duration,
}

/// A job at work.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) node: usize,
    pub(crate) record: Arc<Mutex<Record>>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) living: Arc<Mutex<Living>>,
    pub(crate) clock: HostClock,
    pub(crate) trace: Trace,
    pub(crate) broken: Broken,
}

enum Outcome {
    Here,
    Fetched,
    Failed,
}

impl Job {
    /// To its end.
    pub(crate) async fn run(self) {
        self.await_nodes().await;
        let mut before = self.cluster.roll_call().await;
        self.record.lock().nodes = self.cluster.epoch().members().len();
        let mut lost = None;
        let mut called_at = self.clock.sim.now();
        for left in (0..PASSES_MAX).rev() {
            self.pass().await;
            called_at = self.clock.sim.now();
            if self.broken.is(Sabotage::NoRollCall) {
                break;
            }
            let after = self.cluster.roll_call().await;
            if after == before {
                break;
            }
            lost = after.lost_since(&before).filter(|_| left == 0);
            self.trace.note(format_args!("n{} looks at its load once more", self.node));
            before = after;
        }
        self.end(lost, called_at);
    }

    async fn await_nodes(&self) {
        let until = self.clock.monotonic() + NODES_WITHIN;
        let nodes = self.record.lock().nodes;
        while self.cluster.epoch().members().len() < nodes && self.clock.monotonic() < until {
            self.clock.sleep(LOOK_EVERY).await;
        }
    }

    async fn pass(&self) {
        {
            let mut record = self.record.lock();
            (record.here, record.fetched, record.failed) = (0, 0, 0);
        }
        let bring = |place: usize| -> BoxFuture<'_, Outcome> {
            Box::pin(self.bring(&self.bucket.contents[place].object))
        };
        let outcomes = stream::iter(0..self.bucket.contents.len()).map(bring);
        let mut outcomes = outcomes.buffer_unordered(AT_ONCE);
        while let Some(outcome) = outcomes.next().await {
            if self.broken.once(Sabotage::OutcomeLost) {
                continue;
            }
            let mut record = self.record.lock();
            match outcome {
                Outcome::Here => record.here += 1,
                Outcome::Fetched => record.fetched += 1,
                Outcome::Failed => record.failed += 1,
            }
        }
    }

    /// To the first node of its order that can be asked.
    async fn bring(&self, object: &Object) -> Outcome {
        if self.broken.once(Sabotage::EndlessLoad) {
            std::future::pending::<()>().await;
        }
        for (place, is_up) in self.cluster.load_places(&object.id()) {
            let said = match place {
                LoadPlace::Here => self.cache.bring(object).await,
                LoadPlace::Peer(..) if !is_up => continue,
                LoadPlace::Peer(node, _) => match self.cluster.load_at(node, object).await {
                    Ok(said) => said.word,
                    Err(_) => continue,
                },
            };
            return match said {
                LoadWord::Here => Outcome::Here,
                LoadWord::Fetched => Outcome::Fetched,
                _ => Outcome::Failed,
            };
        }
        Outcome::Failed
    }

    fn end(&self, lost: Option<String>, called_at: Duration) {
        let mut record = self.record.lock();
        let is_done = record.failed == 0 && lost.is_none();
        record.state = if is_done { State::Done } else { State::Incomplete };
        let (who, count) = (format!("n{}", self.node), self.bucket.contents.len());
        self.trace.note(format_args!("{who} ends its load: {record:?}, lost {lost:?}"));
        let told = record.here + record.fetched + record.failed;
        if told != count {
            self.trace.complain(
                Promise::LoadCounts,
                format_args!("{who} has {told} outcomes for {count} objects: {record:?}"),
            );
        }
        if is_done && let Some(place) = self.missing(called_at) {
            self.trace.complain(
                Promise::DoneIsTrue,
                format_args!("{who} says that its load is done, and no node has {place}"),
            );
        }
    }

    /// An object that no node has, though each has room for all and none died or began since the last roll call.
    fn missing(&self, called_at: Duration) -> Option<usize> {
        let living = self.living.lock();
        if called_at <= living.changed_at {
            return None;
        }
        let total: u64 = self.bucket.contents.iter().map(|it| it.object.version.size).sum();
        if living.disks.iter().any(|disk| disk.lock().quota_bytes() < total) {
            return None;
        }
        let has = |place: usize| {
            let pages = self.bucket.contents[place].pages();
            let disks = living.disks.iter().zip(&living.lives).filter(|(_, lives)| **lives);
            disks.into_iter().any(|(disk, _)| disk.lock().is_complete(place, pages))
        };
        (0..self.bucket.contents.len()).find(|place| !has(*place))
    }
}

/// Brings in what peers say.
#[derive(Debug)]
pub(crate) struct ForPeers {
    pub(crate) cache: Arc<Cache>,
    pub(crate) broken: Broken,
}

#[async_trait]
impl Loads for ForPeers {
    async fn load(&self, object: &Object) -> LoadSaid {
        let word = match self.broken.is(Sabotage::EmptyWords) {
            true => LoadWord::Fetched,
            false => self.cache.bring(object).await,
        };
        LoadSaid { word, message: String::new() }
    }
}

impl Cache {
    /// Has all pages of an object, if they are kept.
    pub(crate) async fn bring(self: &Arc<Self>, object: &Object) -> LoadWord {
        if self.is_complete(&object.id()) {
            return LoadWord::Here;
        }
        match self.read(object, 0..object.version.size, Priority::Fill).await {
            Ok(_) if self.is_complete(&object.id()) => LoadWord::Fetched,
            Ok(_) => LoadWord::NoRoom,
            Err(ReadError::Forbidden { .. }) => LoadWord::Forbidden,
            Err(_) => LoadWord::Unavailable,
        }
    }
}
