//! Load jobs: data sets brought into the cache on somebody's order, whatever happens meanwhile.
//!
//! ```text
//!  API -> Loads -> run: names (listings, a manifest, what failed) -> bounded queue
//!                        -> up to FILES_AT_ONCE files at once -> place: the node that owns the file
//!                             -> fill's loader there -> cache
//!                   |- record: the job's file, replaced every second and at each change of state
//!                   '- failures: a line for each file that is not cached
//! ```
//!
//! # Invariants
//!
//! - A job is `done` only if each file that it names is cached; else it says how many are not, and a
//!   file holds which ones and why. No node was lost since it had its part, or the job says that too.
//! - A job goes on after a restart of the daemon, and fetches nothing that is here.
//! - Memory does not grow with the number of files, beyond the listings that any walk leaves behind.

mod failures;
mod names;
mod place;
mod record;
mod run;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use feedline_gateway::api::{LoadFailure, LoadRequest, LoadStatus};
use feedline_gateway::{ApiError, Lines};
use parking_lot::Mutex;

use names::Found;
use record::{Names, Record, State};
use run::Job;

pub(crate) use names::Lookup;
pub(crate) use place::{ForPeers, Places};
pub(crate) use run::Work;

/// Jobs at work at once: each has a queue and a share of the fetches.
const RUNNING_MAX: usize = 16;

/// Jobs that have ended and are still known.
const ENDED_MAX: usize = 100;

/// What lies beside a record.
const BESIDE: [&str; 5] = ["json", "new", "manifest", "failed", "retry"];

/// All jobs of this node.
#[derive(Debug)]
pub(crate) struct Loads {
    work: Arc<Work>,
    jobs: Mutex<BTreeMap<String, Arc<Job>>>,
}

impl Loads {
    /// Reads the records of earlier runs; nothing is begun before [`Loads::resume`].
    pub(crate) fn open(work: Work) -> io::Result<Self> {
        match fs::create_dir(&work.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut jobs = BTreeMap::new();
        for entry in fs::read_dir(&work.dir)? {
            let file = entry?.path();
            if file.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match Record::read(&file) {
                Ok(record) => drop(jobs.insert(record.id.clone(), Job::new(record))),
                // Its files stay, for who wants to know what it was.
                Err(error) => tracing::warn!(file = %file.display(), %error, "no record of a load"),
            }
        }
        Ok(Self { work: Arc::new(work), jobs: Mutex::new(jobs) })
    }

    /// Goes on with what a restart interrupted.
    pub(crate) fn resume(&self) {
        let jobs: Vec<_> = self.jobs.lock().values().cloned().collect();
        for job in jobs.into_iter().filter(|job| job.is_running()) {
            job.change(Record::again);
            self.begin(&job);
        }
    }

    fn begin(&self, job: &Arc<Job>) {
        let run = run::run(Arc::clone(&self.work), Arc::clone(job));
        *job.task.lock() = Some(self.work.tasks.spawn(run));
    }

    /// Starts a job that is called `id`.
    pub(crate) async fn start(
        &self,
        id: String,
        request: LoadRequest,
    ) -> Result<LoadStatus, ApiError> {
        let path = request.path.trim_matches('/').to_owned();
        let found = self.work.lookup.find(&path).await.map_err(crate::admin::api_error)?;
        match found {
            Found::Nothing => {
                let message = format!("/{path}: no such file or directory");
                return Err(ApiError::not_found(message));
            }
            Found::File(_) if request.manifest.is_some() => {
                let message = format!("/{path} is a file: a manifest names files below a folder");
                return Err(ApiError::bad_request(message));
            }
            Found::File(_) | Found::Folder => {}
        }
        self.check_copies(request.replicas as usize)?;
        self.check_running()?;
        self.prune();
        if let Some(manifest) = &request.manifest {
            self.take_manifest(manifest, &id).await?;
        }
        let (started_ms, nodes) = (self.work.clock.unix_ms(), self.work.places.nodes());
        let job = Job::new(Record::new(id.clone(), path, &request, started_ms, nodes));
        self.write(&job).await?;
        self.jobs.lock().insert(id, Arc::clone(&job));
        self.begin(&job);
        Ok(job.status(&self.work))
    }

    /// Refuses copies that could not be made.
    fn check_copies(&self, copies: usize) -> Result<(), ApiError> {
        let nodes = self.work.places.nodes();
        if copies <= 1 {
            return Ok(());
        }
        if nodes < copies {
            let message = format!("{copies} replicas: the cluster has {nodes} nodes");
            return Err(ApiError::bad_request(message));
        }
        if !self.work.keeps_copies {
            let message =
                format!("{copies} replicas: local_copies is `never`, so each has one place");
            return Err(ApiError::bad_request(message));
        }
        Ok(())
    }

    /// Refuses one more than may run.
    fn check_running(&self) -> Result<(), ApiError> {
        let running = self.jobs.lock().values().filter(|job| job.is_running()).count();
        if running < RUNNING_MAX {
            return Ok(());
        }
        Err(ApiError::bad_request(format!(
            "{RUNNING_MAX} loads are running: wait for one, or stop one (`feedline load --list`)"
        )))
    }

    /// Forgets the jobs that ended longest ago.
    fn prune(&self) {
        let mut jobs = self.jobs.lock();
        let mut ended: Vec<_> = jobs.values().filter(|job| !job.is_running()).cloned().collect();
        ended.sort_by_key(|job| job.record().started_ms);
        let surplus = (ended.len() + 1).saturating_sub(ENDED_MAX);
        for job in &ended[..surplus] {
            jobs.remove(&job.record().id);
            for extension in BESIDE {
                // Most jobs have not all of them.
                let _ = fs::remove_file(job.file(&self.work, extension));
            }
        }
    }

    /// Copies the manifest: it may be gone before the job has come to its end.
    async fn take_manifest(&self, manifest: &str, id: &str) -> Result<(), ApiError> {
        let from = PathBuf::from(manifest);
        let to = self.work.dir.join(format!("{id}.manifest"));
        let copying = self.work.tasks.spawn_blocking(move || copy_file(&from, &to));
        let copied = copying.await.map_err(|error| ApiError::internal(error.to_string()))?;
        copied.map_err(|error| {
            ApiError::bad_request(format!("{manifest}: the daemon cannot read it: {error}"))
        })
    }

    /// Writes a record that must not be lost.
    async fn write(&self, job: &Arc<Job>) -> Result<(), ApiError> {
        let (work, saved) = (Arc::clone(&self.work), Arc::clone(job));
        let saving = self.work.tasks.spawn_blocking(move || saved.save(&work, true));
        let saved = saving.await.map_err(|error| ApiError::internal(error.to_string()))?;
        saved.map_err(|error| {
            let dir = self.work.dir.display();
            ApiError::internal(format!("{dir}: the job cannot be written down: {error}"))
        })
    }

    /// Every job, the newest first.
    pub(crate) fn list(&self) -> Vec<LoadStatus> {
        let jobs = self.jobs.lock();
        let mut all: Vec<_> = jobs.values().map(|job| job.status(&self.work)).collect();
        all.sort_by(|a, b| b.started_ms.cmp(&a.started_ms).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// Those at work.
    pub(crate) fn running(&self) -> Vec<LoadStatus> {
        self.list().into_iter().filter(|job| job.state.is_running()).collect()
    }

    fn job(&self, id: &str) -> Result<Arc<Job>, ApiError> {
        let job = self.jobs.lock().get(id).cloned();
        job.ok_or_else(|| ApiError::not_found(format!("no load is called {id} on this node")))
    }

    pub(crate) fn status(&self, id: &str) -> Result<LoadStatus, ApiError> {
        Ok(self.job(id)?.status(&self.work))
    }

    /// Stops a job for good. One that has ended stays as it is.
    pub(crate) async fn stop(&self, id: &str) -> Result<LoadStatus, ApiError> {
        let job = self.job(id)?;
        self.halt(&job).await;
        if job.is_running() {
            job.change(|record| {
                record.state = State::Stopped;
                record.reason = Some("stopped before everything was cached".into());
            });
            self.write(&job).await?;
        }
        Ok(job.status(&self.work))
    }

    /// Ends the work on a job, and leaves its state.
    async fn halt(&self, job: &Job) {
        let task = job.task.lock().take();
        if let Some(task) = task {
            task.abort();
            // Cancelled, as it should be, or just finished.
            let _ = task.await;
            job.rest(&self.work);
            if let Err(error) = job.flush_failures() {
                tracing::warn!(%error, "what a load could not cache is not written down");
            }
        }
    }

    /// Begins again with what is not cached.
    pub(crate) async fn retry(&self, id: &str) -> Result<LoadStatus, ApiError> {
        let job = self.job(id)?;
        let state = job.record().state;
        if state == State::Running {
            return Err(ApiError::bad_request(format!("{id} is still running")));
        }
        if state == State::Done {
            return Ok(job.status(&self.work));
        }
        self.check_running()?;
        let mut next = job.record();
        next.retry();
        if next.names == Names::Failed {
            let (from, to) = (job.file(&self.work, "failed"), job.file(&self.work, "retry"));
            match fs::rename(from, to) {
                // Begun once before, and cut short by a crash.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed.map_err(|error| ApiError::internal(error.to_string()))?,
            }
        }
        job.change(|record| *record = next);
        self.write(&job).await?;
        self.begin(&job);
        Ok(job.status(&self.work))
    }

    /// Sends what a job could not cache.
    pub(crate) async fn failed(&self, id: &str, out: Lines<LoadFailure>) -> Result<(), ApiError> {
        let job = self.job(id)?;
        job.flush_failures().map_err(|error| ApiError::internal(error.to_string()))?;
        let (file, tasks) = (job.file(&self.work, "failed"), self.work.tasks.clone());
        let sending = self.work.tasks.spawn_blocking(move || {
            let failures = match failures::read(&file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                opened => opened?,
            };
            for failure in failures {
                if !tasks.block_on(out.send(failure)) {
                    break;
                }
            }
            Ok::<_, io::Error>(())
        });
        let sent = sending.await.map_err(|error| ApiError::internal(error.to_string()))?;
        sent.map_err(|error| ApiError::internal(error.to_string()))
    }

    /// Ends all work; what is running goes on at the next start.
    pub(crate) async fn close(&self) {
        let jobs: Vec<_> = self.jobs.lock().values().cloned().collect();
        for job in jobs.iter().filter(|job| job.is_running()) {
            self.halt(job).await;
            run::save(&self.work, job, true).await;
        }
    }
}

/// How a job stands that has just begun.
#[cfg(test)]
pub(crate) fn status_of_new(id: &str, started_ms: u64) -> LoadStatus {
    Record::new(id.into(), "set".into(), &LoadRequest::default(), started_ms, 1).status(0, 1)
}

/// Copies a regular file: anything else may have no end.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    if !fs::metadata(from)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    fs::copy(from, to)?;
    fs::File::open(to)?.sync_all()
}
