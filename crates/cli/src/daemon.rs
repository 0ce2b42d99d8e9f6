//! The running daemons: which one serves a path, and calls to it over its admin socket.
//!
//! A path may be absolute, relative to the working directory, or the `s3://` URL of something mounted.
//! It is found by walking up to a mountpoint that a daemon has registered; the mount itself is touched
//! only if that finds nothing (a symbolic link on the way), because a hung mount would hang us too.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use feedline_node::api::{
    CheckEvent, HintAnswer, HintRequest, LoadFailure, LoadRequest, LoadStatus, LsEntry,
    NodeSummary, PathQuery, SettingInfo, Status, Usage,
};
use feedline_node::registry::{self, Registered};
use feedline_node::{Client, ClientError, ItemStream};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;
use crate::mountinfo;
use crate::settings::RunDir;

/// The file system type of a Feedline mount in mountinfo.
pub(crate) const FS_TYPE: &str = "fuse.feedline";

/// How long a daemon may take for an answer from memory before it counts as hung.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The same where it asks the other nodes first: all at once, and for ten seconds at most.
const NODES_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a job that is followed is looked at: as often as a person sees a difference.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How following a job came to its end.
#[derive(Debug)]
pub(crate) enum Followed {
    /// The job has ended.
    Ended(Box<LoadStatus>),
    /// Ctrl-C: the job goes on.
    Interrupted,
}

/// What the admin API says of a long answer's next item, and what to do with it.
type Each<'a, T> = &'a mut dyn FnMut(T) -> anyhow::Result<()>;

/// One daemon and the runtime for calls to it.
#[derive(Debug)]
pub(crate) struct Daemon {
    client: Client,
    runtime: Runtime,
    registered: Registered,
    /// Where it is mounted.
    pub(crate) mountpoint: PathBuf,
}

impl Daemon {
    fn new(registered: Registered) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mountpoint = registered.mountpoint.clone();
        let client = Client::new(registered.socket(), mountpoint.display().to_string());
        Ok(Self { client, runtime, registered, mountpoint })
    }

    /// The daemons of this user that have registered, alive or not.
    ///
    /// # Errors
    ///
    /// If the run directory cannot be read.
    pub(crate) fn all(run_dir: &Path) -> anyhow::Result<Vec<Self>> {
        registry::running(run_dir)?.into_iter().map(Self::new).collect()
    }

    /// The daemon that serves `path`, and the path relative to its mount.
    ///
    /// # Errors
    ///
    /// A not-found failure when no daemon serves it.
    pub(crate) fn find(run_dir: &RunDir, path: &str) -> anyhow::Result<(Self, String)> {
        let run_dir = run_dir.path()?;
        if path.contains("://") {
            return Self::find_url(&run_dir, path);
        }
        let absolute = absolute(Path::new(path))?;
        if let Some(found) = Self::find_absolute(&run_dir, &absolute)? {
            return Ok(found);
        }
        // A link may lead into a mount. Resolve what exists of the path, and keep the rest.
        for ancestor in absolute.ancestors() {
            if let Ok(real) = ancestor.canonicalize() {
                let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
                if let Some(found) = Self::find_absolute(&run_dir, &real.join(rest))? {
                    return Ok(found);
                }
                break;
            }
        }
        Err(Failure::not_found(format!("{path} is not in a folder that Feedline has mounted"))
            .way_out(
                "`feedline status` lists the mounts; `feedline mount SOURCE DIR` makes one; \
                 --run-dir, if the mount was given one",
            )
            .into())
    }

    fn find_absolute(run_dir: &Path, path: &Path) -> anyhow::Result<Option<(Self, String)>> {
        let Some((registered, below)) = registry::locate(run_dir, path)? else {
            return Ok(None);
        };
        let below = below.to_str().ok_or_else(|| {
            Failure::not_found(format!("{}: names in a bucket are UTF-8", path.display()))
        })?;
        Ok(Some((Self::new(registered)?, below.to_owned())))
    }

    /// Asks each daemon what it has mounted; the longest URL that `url` starts with wins.
    fn find_url(run_dir: &Path, url: &str) -> anyhow::Result<(Self, String)> {
        let mut best: Option<(usize, Self, String)> = None;
        for daemon in Self::all(run_dir)? {
            let Ok(status) = daemon.status() else { continue };
            for source in &status.sources {
                let Some(below) = below_url(url, &source.url) else { continue };
                let length = source.url.len();
                if best.as_ref().is_some_and(|(best_length, ..)| length <= *best_length) {
                    continue;
                }
                let parts = [source.path.as_str(), below];
                let path = parts.iter().filter(|part| !part.is_empty()).copied();
                let path = path.collect::<Vec<_>>().join("/");
                best = Some((length, Self::new(daemon.registered.clone())?, path));
            }
        }
        let found = best.map(|(_, daemon, path)| (daemon, path));
        found.ok_or_else(|| {
            Failure::not_found(format!("{url} is not mounted"))
                .way_out(format!("`feedline mount {url} DIR` mounts it"))
                .into()
        })
    }

    /// True if it answers within [`ANSWER_TIMEOUT`].
    pub(crate) fn is_alive(&self) -> bool {
        self.within(self.client.health()).is_ok()
    }

    /// Lets time pass.
    pub(crate) fn pause(&self, time: Duration) {
        self.runtime.block_on(async {
            // Nothing comes: it ends because the time is over.
            let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
        });
    }

    /// Its process id, as registered: the process may be gone.
    pub(crate) fn pid(&self) -> u32 {
        self.registered.pid
    }

    /// Removes what it left in the run directory. Only when its process is gone.
    ///
    /// # Errors
    ///
    /// If a file cannot be removed.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        Ok(self.registered.clear()?)
    }

    /// Waits for a call that a healthy daemon answers from memory.
    fn within<T>(
        &self,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        self.within_limit(ANSWER_TIMEOUT, call)
    }

    fn within_limit<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        self.runtime.block_on(async {
            tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
                let target = self.mountpoint.display().to_string();
                let cause = format!("no answer within {} s", limit.as_secs());
                Err(ClientError::Broken { target, cause })
            })
        })
    }

    /// Waits for one call.
    fn call<T>(&self, call: impl Future<Output = Result<T, ClientError>>) -> anyhow::Result<T> {
        self.runtime.block_on(call).map_err(|error| failure(&error).into())
    }

    fn each<T: DeserializeOwned>(
        &self,
        call: impl Future<Output = Result<ItemStream<T>, ClientError>>,
        each: Each<'_, T>,
    ) -> anyhow::Result<()> {
        let mut items = self.call(call)?;
        while let Some(item) = self.call(items.next())? {
            each(item)?;
        }
        Ok(())
    }

    /// Everything about it. Cost: one round trip, as for the calls below.
    pub(crate) fn status(&self) -> anyhow::Result<Status> {
        self.within(self.client.status()).map_err(|error| failure(&error).into())
    }

    /// Every node of its cluster, this one first; itself alone without one.
    pub(crate) fn nodes(&self) -> anyhow::Result<Vec<NodeSummary>> {
        self.within_limit(NODES_TIMEOUT, self.client.nodes())
            .map_err(|error| failure(&error).into())
    }

    /// Its settings.
    pub(crate) fn config(&self) -> anyhow::Result<Vec<SettingInfo>> {
        self.call(self.client.config())
    }

    /// The entries of a directory, one by one.
    pub(crate) fn ls(&self, query: &PathQuery, each: Each<'_, LsEntry>) -> anyhow::Result<()> {
        self.each(self.client.ls(query), each)
    }

    /// One entry.
    pub(crate) fn stat(&self, query: &PathQuery) -> anyhow::Result<LsEntry> {
        self.call(self.client.stat(query))
    }

    /// How much lies below a path.
    pub(crate) fn du(&self, query: &PathQuery) -> anyhow::Result<Usage> {
        self.call(self.client.du(query))
    }

    /// Drops cached bytes.
    pub(crate) fn free(&self, query: &PathQuery) -> anyhow::Result<Usage> {
        self.call(self.client.free(query))
    }

    /// Keeps from eviction.
    pub(crate) fn pin(&self, query: &PathQuery) -> anyhow::Result<Usage> {
        self.call(self.client.pin(query))
    }

    /// Takes back a pin.
    pub(crate) fn unpin(&self, query: &PathQuery) -> anyhow::Result<Usage> {
        self.call(self.client.unpin(query))
    }

    /// Tells the order of reads.
    pub(crate) fn hint(&self, request: &HintRequest) -> anyhow::Result<HintAnswer> {
        self.call(self.client.hint(request))
    }

    /// Starts a load job.
    pub(crate) fn load(&self, request: &LoadRequest) -> anyhow::Result<LoadStatus> {
        self.call(self.client.load(request))
    }

    /// Its load jobs, the newest first.
    pub(crate) fn loads(&self) -> anyhow::Result<Vec<LoadStatus>> {
        self.within(self.client.loads()).map_err(|error| failure(&error).into())
    }

    /// One of them.
    pub(crate) fn load_status(&self, id: &str) -> anyhow::Result<LoadStatus> {
        self.within(self.client.load_status(id)).map_err(|error| failure(&error).into())
    }

    /// Stops one.
    pub(crate) fn load_stop(&self, id: &str) -> anyhow::Result<LoadStatus> {
        self.call(self.client.load_stop(id))
    }

    /// Begins again with what one could not cache.
    pub(crate) fn load_retry(&self, id: &str) -> anyhow::Result<LoadStatus> {
        self.call(self.client.load_retry(id))
    }

    /// What one could not cache.
    pub(crate) fn load_failed(&self, id: &str, each: Each<'_, LoadFailure>) -> anyhow::Result<()> {
        self.each(self.client.load_failed(id), each)
    }

    /// Looks at a job until it has ended or somebody interrupts.
    pub(crate) fn follow_load(
        &self,
        id: &str,
        look: &mut dyn FnMut(&LoadStatus),
    ) -> anyhow::Result<Followed> {
        self.runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            loop {
                let status = self.client.load_status(id).await.map_err(|error| failure(&error))?;
                look(&status);
                if !status.state.is_running() {
                    return Ok(Followed::Ended(Box::new(status)));
                }
                if tokio::time::timeout(LOOK_EVERY, interrupt.recv()).await.is_ok() {
                    return Ok(Followed::Interrupted);
                }
            }
        })
    }

    /// Reads back and verifies.
    pub(crate) fn check(
        &self,
        query: &PathQuery,
        each: Each<'_, CheckEvent>,
    ) -> anyhow::Result<()> {
        self.each(self.client.check(query), each)
    }

    /// Asks it to unmount and end. False: nobody answers, or it hung up on us while ending.
    pub(crate) fn shutdown(&self) -> anyhow::Result<bool> {
        match self.within(self.client.shutdown()) {
            Ok(()) => Ok(true),
            Err(ClientError::NoDaemon { .. } | ClientError::Broken { .. }) => Ok(false),
            Err(error) => Err(failure(&error).into()),
        }
    }
}

/// A path and everything below it.
pub(crate) fn below(path: String, node_only: bool) -> PathQuery {
    PathQuery { path, recursive: true, cached: false, node_only }
}

/// True if a Feedline mount is visible at exactly `mountpoint`.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub(crate) fn is_mounted(mountpoint: &Path) -> anyhow::Result<bool> {
    Ok(mountinfo::at(mountpoint)?.is_some_and(|mount| mount.fs_type == FS_TYPE))
}

/// `path` made absolute without asking any file system: `.` and `..` are taken as text.
///
/// # Errors
///
/// If the working directory is gone.
pub(crate) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let path = if path.is_absolute() {
        path.to_owned()
    } else {
        std::env::current_dir()
            .map_err(|error| Failure::failed(format!("the working directory is gone: {error}")))?
            .join(path)
    };
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    Ok(plain)
}

/// What is left of `url` below `base`, or `None` if it is not below it.
fn below_url<'a>(url: &'a str, base: &str) -> Option<&'a str> {
    let base = base.trim_end_matches('/');
    let rest = url.trim_end_matches('/').strip_prefix(base)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// A failed call as the person at the terminal sees it.
fn failure(error: &ClientError) -> Failure {
    match error {
        ClientError::NoDaemon { target } => Failure::not_found(error.to_string())
            .way_out(format!("`feedline umount {target}` clears what it left; then mount again")),
        ClientError::Api(api) if api.kind == "not_found" => Failure::not_found(&api.message),
        ClientError::Api(api) if api.kind == "bad_request" => Failure::usage(&api.message),
        ClientError::Forbidden { .. } | ClientError::Api(_) | ClientError::Broken { .. } => {
            Failure::failed(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_below_its_source_only_at_a_slash() {
        assert_eq!(below_url("s3://b/p/x/y", "s3://b/p/"), Some("x/y"));
        assert_eq!(below_url("s3://b/p/", "s3://b/p"), Some(""));
        assert_eq!(below_url("s3://b/px", "s3://b/p"), None);
    }

    #[test]
    fn dots_are_taken_out_of_a_path_as_text() {
        assert_eq!(absolute(Path::new("/a/./b/../c/")).unwrap(), Path::new("/a/c"));
        assert!(absolute(Path::new("x")).unwrap().is_absolute());
    }
}
