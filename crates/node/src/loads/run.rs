//! One job at work: lists, counts, loads, and writes down how far it is.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use feedline_cluster::{NodeId, Roll};
use feedline_fill::load::{Pace, drive};
use feedline_gateway::api::LoadStatus;
use feedline_model::{Clock, Tree as _};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::failures::Failures;
use super::names::{Entry, Lookup, Names, QUEUE};
use super::place::{self, Brought, Manner, Places};
use super::record::{self, Count, Kind, Nodes, Record, State};
use crate::admin::list_elsewhere;

/// How often a job's numbers go to its file: so much is counted anew after a crash.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Passes over a job's files at most, while nodes come and go. What is here costs a look each time, so those
/// that restart one after another are soon behind the job; who loses nodes faster keeps nothing for long.
const PASSES_MAX: u32 = 5;

/// What every job needs.
#[derive(Debug)]
pub(crate) struct Work {
    /// Where records lie.
    pub(crate) dir: PathBuf,
    pub(crate) lookup: Arc<Lookup>,
    pub(crate) places: Places,
    /// What other nodes own is kept here, if there is room.
    pub(crate) keeps_copies: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Handle,
}

/// A job, at work or ended.
#[derive(Debug)]
pub(crate) struct Job {
    record: Mutex<Record>,
    /// Held over a save, so that the last one has the last word.
    saving: Mutex<()>,
    /// Those of a pass under way.
    failures: Mutex<Option<Failures>>,
    /// Since when it is at work, beyond what the record says.
    since: Mutex<Option<Duration>>,
    pub(crate) task: Mutex<Option<JoinHandle<()>>>,
}

/// What became of an entry.
struct Outcome {
    path: String,
    bytes: u64,
    result: place::Result,
}

impl Job {
    pub(crate) fn new(record: Record) -> Arc<Self> {
        Arc::new(Self {
            record: Mutex::new(record),
            saving: Mutex::default(),
            failures: Mutex::default(),
            since: Mutex::default(),
            task: Mutex::default(),
        })
    }

    /// A copy of its record.
    pub(crate) fn record(&self) -> Record {
        self.record.lock().clone()
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        change(&mut self.record.lock())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.record.lock().state == State::Running
    }

    pub(crate) fn status(&self, work: &Work) -> LoadStatus {
        let since = *self.since.lock();
        let running =
            since.map_or(Duration::ZERO, |since| work.clock.monotonic().saturating_sub(since));
        self.record.lock().status(millis(running), work.places.nodes() as u64)
    }

    /// A file of this job beside its record.
    pub(crate) fn file(&self, work: &Work, extension: &str) -> PathBuf {
        work.dir.join(format!("{}.{extension}", self.record.lock().id))
    }

    /// Hands on the failures met so far, for who reads their file.
    pub(crate) fn flush_failures(&self) -> io::Result<()> {
        self.failures.lock().as_mut().map_or(Ok(()), Failures::flush)
    }

    /// Writes the record down. Blocks on the disk.
    pub(crate) fn save(&self, work: &Work, sync: bool) -> io::Result<()> {
        let _saving = self.saving.lock();
        self.book(work, true);
        self.record().save(&self.file(work, "json"), sync)
    }

    /// Counts what became of an entry.
    fn note(&self, outcome: Outcome) {
        let Outcome { path, bytes, result } = outcome;
        let one = Count::one(bytes);
        let mut record = self.record.lock();
        let pass = &mut record.pass;
        pass.listed += one;
        let (kind, reason) = match result {
            Ok(Brought::Here) => return pass.here += one,
            Ok(Brought::Fetched(node)) => return record.fetched(node, bytes),
            Ok(Brought::NoRoom) => (Kind::NoRoom, place::NO_ROOM.to_owned()),
            Err(failed) => failed,
        };
        pass.fail(kind, bytes);
        drop(record);
        if let Some(failures) = &mut *self.failures.lock() {
            failures.add(&path, &reason);
        }
    }

    /// A node was not asked, or did not answer.
    fn passed_by(&self, node: &str, why: String) {
        let mut record = self.record.lock();
        if record.passed_by.get(node) != Some(&why) {
            record.passed_by.insert(node.to_owned(), why);
        }
    }

    /// The work is over, for whatever reason: no more time counts.
    pub(crate) fn rest(&self, work: &Work) {
        self.book(work, false);
    }

    /// Enters the time at work so far in the record. `goes_on`: it counts on from now.
    fn book(&self, work: &Work, goes_on: bool) {
        let now = work.clock.monotonic();
        let mut since = self.since.lock();
        if let Some(before) = since.take() {
            self.record.lock().elapsed_ms += millis(now.saturating_sub(before));
            *since = goes_on.then_some(now);
        }
    }
}

/// Carries a job out, from the start of its pass.
pub(crate) async fn run(work: Arc<Work>, job: Arc<Job>) {
    work.places.await_nodes(job.record().nodes, &*work.clock).await;
    *job.since.lock() = Some(work.clock.monotonic());
    let done = passes(&work, &job).await;
    job.rest(&work);
    job.change(|record| match done {
        Ok(()) => record.end(),
        Err(error) => {
            record.state = State::Failed;
            record.reason = Some(format!("its files in {}: {error}", work.dir.display()));
        }
    });
    *job.failures.lock() = None;
    let record = job.record();
    let (id, state) = (&record.id, record.state);
    match &record.reason {
        Some(reason) => tracing::warn!(id, path = record.path, "load {state:?}: {reason}"),
        None => tracing::info!(id, path = record.path, "load {state:?}"),
    }
    save(&work, &job, true).await;
}

/// Saves beside everything else; what goes wrong is logged.
pub(crate) async fn save(work: &Arc<Work>, job: &Arc<Job>, sync: bool) {
    let saving = {
        let (work, job) = (Arc::clone(work), Arc::clone(job));
        work.tasks.clone().spawn_blocking(move || job.save(&work, sync))
    };
    match saving.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the record of a load cannot be written"),
        // Only at the end of the runtime.
        Err(error) => tracing::debug!(%error, "the record of a load was not written"),
    }
}

/// Goes over what the job names until no node came, went or began anew meanwhile: one that had a file when
/// it was counted may be gone when the last one is.
async fn passes(work: &Arc<Work>, job: &Arc<Job>) -> io::Result<()> {
    if job.record().metadata_only {
        return list(work, job).await;
    }
    let mut before = work.places.roll_call().await;
    job.change(|record| {
        record.nodes = work.places.nodes();
        record.begin(nodes_of(&before));
    });
    let mut had = BTreeSet::new();
    for left in (0..PASSES_MAX).rev() {
        pass(work, job, &had).await?;
        let after = work.places.roll_call().await;
        if after == before {
            break;
        }
        let lost = after.lost_since(&before);
        if left == 0 {
            job.change(|record| record.lost = lost);
            break;
        }
        let why = lost.unwrap_or_else(|| "nodes came, or were away for a while".to_owned());
        tracing::warn!(id = job.record().id, "all files of a load are looked at once more: {why}");
        had = before.up().map(|(node, _)| node).collect();
        job.change(|record| {
            record.nodes = work.places.nodes();
            record.once_more(&why, nodes_of(&after));
        });
        before = after;
    }
    Ok(())
}

/// Lists everything, here and on all other nodes. What a manifest names is listed here alone.
async fn list(work: &Arc<Work>, job: &Arc<Job>) -> io::Result<()> {
    let record = job.record();
    let elsewhere = async {
        match work.places.cluster.get().filter(|_| !record.manifest) {
            Some(cluster) => list_elsewhere(cluster, &record.path, &work.places.mounted).await,
            None => Vec::new(),
        }
    };
    let nobody = BTreeSet::new();
    let (listed, unlisted) = tokio::join!(pass(work, job, &nobody), elsewhere);
    let who: Vec<_> = unlisted.iter().map(|(node, why)| format!("{node} ({why})")).collect();
    job.change(|record| record.unlisted = (!who.is_empty()).then(|| who.join(", ")));
    unlisted.into_iter().for_each(|(node, why)| job.passed_by(&node, why));
    listed
}

/// Who is there, as a record has it.
fn nodes_of(roll: &Roll) -> Nodes {
    roll.up().map(|(node, instance)| (node.to_string(), instance)).collect()
}

/// Goes over everything once. `had`: as in [`Manner`].
async fn pass(work: &Arc<Work>, job: &Arc<Job>, had: &BTreeSet<NodeId>) -> io::Result<()> {
    let failed = job.file(work, "failed");
    *job.failures.lock() = Some(Failures::create(&failed)?);
    let record = job.record();
    let names = match record.names {
        record::Names::Listings => Names::Below(record.path.clone()),
        record::Names::Manifest => {
            Names::Manifest { file: job.file(work, "manifest"), base: record.path.clone() }
        }
        record::Names::Failed => Names::Failed(job.file(work, "retry")),
    };
    // Ends with this function, however that ends.
    let mut listing = JoinSet::new();
    let counting = count(Arc::clone(work), Arc::clone(job), names.clone(), record.metadata_only);
    listing.spawn_on(counting, &work.tasks);
    let saving = async {
        loop {
            work.clock.sleep(SAVE_EVERY).await;
            save(work, job, false).await;
        }
    };
    if record.metadata_only {
        tokio::select! {
            _ = listing.join_next() => {}
            () = saving => {}
        }
        return job.flush_failures();
    }
    let pace = Pace::new(record.bandwidth_bytes_per_s, Arc::clone(&work.clock));
    let loading = async {
        if 1 < record.replicas {
            // What nodes own comes first everywhere: it would push copies out again that were counted.
            load(work, job, &names, Manner { copies: 1, pace: &pace, had }, drop).await;
        }
        let manner = Manner { copies: record.replicas as usize, pace: &pace, had };
        load(work, job, &names, manner, |outcome| job.note(outcome)).await;
    };
    tokio::select! {
        () = loading => {}
        () = saving => {}
    }
    job.flush_failures()
}

/// Brings everything in.
async fn load(
    work: &Arc<Work>,
    job: &Job,
    names: &Names,
    manner: Manner<'_>,
    note: impl FnMut(Outcome),
) {
    let (out, entries) = mpsc::channel(QUEUE);
    let mut listing = JoinSet::new();
    let lister = names.clone().send(Arc::clone(&work.lookup), work.tasks.clone(), out);
    listing.spawn_on(lister, &work.tasks);
    drive(entries, |entry| bring(work, job, manner, entry), note).await;
}

/// Goes ahead and counts what there is to do; where only listings are wanted, that is the job.
async fn count(work: Arc<Work>, job: Arc<Job>, names: Names, is_all: bool) {
    let (out, mut entries) = mpsc::channel(QUEUE);
    let listing = names.send(Arc::clone(&work.lookup), work.tasks.clone(), out);
    let counting = async {
        let mut total = Count::default();
        while let Some(entry) = entries.recv().await {
            total += Count::one(match &entry {
                Entry::File { object, .. } => object.version.size,
                Entry::Failed { .. } => 0,
            });
            match entry {
                Entry::Failed { path, kind, reason } if is_all => {
                    job.note(Outcome { path, bytes: 0, result: Err((kind, reason)) });
                }
                Entry::File { object, .. } if is_all => {
                    job.change(|record| record.pass.listed += Count::one(object.version.size));
                }
                Entry::File { .. } | Entry::Failed { .. } => {}
            }
        }
        total
    };
    let ((), total) = tokio::join!(listing, counting);
    job.change(|record| record.total = Some(total));
}

/// Brings one file in, wherever it belongs.
async fn bring(work: &Work, job: &Job, manner: Manner<'_>, entry: Entry) -> Outcome {
    let (path, object) = match entry {
        Entry::File { path, object } => (path, object),
        Entry::Failed { path, kind, reason } => {
            return Outcome { path, bytes: 0, result: Err((kind, reason)) };
        }
    };
    let passed_by = |node: &str, why| job.passed_by(node, why);
    let result = work.places.bring(&object, manner, passed_by).await;
    if let Err((Kind::Absent | Kind::Changed, _)) = &result {
        // A retry looks at the bucket, not at what it was.
        work.lookup.namespace.expire(path.rsplit_once('/').map_or("", |(parent, _)| parent));
    }
    Outcome { path, bytes: object.version.size, result }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
