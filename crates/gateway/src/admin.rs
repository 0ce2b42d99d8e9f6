//! What a daemon must be able to do for the admin API: one method per endpoint.

use std::fmt;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::api::{
    ApiError, CheckEvent, Health, HintAnswer, HintRequest, LoadFailure, LoadRequest, LoadStatus,
    LsEntry, NodeSummary, PathQuery, SettingInfo, Status, Usage,
};

/// How many items of a long answer may wait for a slow client. Enough to fill a socket buffer with
/// lines of 200 bytes, so that neither side waits for each line of the other.
pub(crate) const LINES_QUEUED_MAX: usize = 1024;

/// The daemon behind the socket. Object-safe; `node` implements it.
#[async_trait]
pub trait Admin: fmt::Debug + Send + Sync {
    /// Whether the daemon serves. Answers at once, whatever else is going on.
    fn health(&self) -> Health;

    /// Everything about the daemon, from memory.
    async fn status(&self) -> Status;

    /// Every node of the cluster in short, this one first; those that do not answer in time too.
    async fn nodes(&self) -> Vec<NodeSummary>;

    /// Each setting with its source; never a credential.
    async fn config(&self) -> Vec<SettingInfo>;

    /// Sends the entries of a directory, or one file; below it too if `recursive`.
    ///
    /// # Errors
    ///
    /// When the path does not exist or the listing cannot be had. Items sent before stand.
    async fn ls(&self, query: PathQuery, out: Lines<LsEntry>) -> Result<(), ApiError>;

    /// One file or directory.
    ///
    /// # Errors
    ///
    /// When the path does not exist or the listing cannot be had.
    async fn stat(&self, query: PathQuery) -> Result<LsEntry, ApiError>;

    /// How much lies below a path, and how much of it on this node.
    ///
    /// # Errors
    ///
    /// As [`Admin::stat`].
    async fn du(&self, query: PathQuery) -> Result<Usage, ApiError>;

    /// Drops the cached bytes of everything below a path; answers what was dropped.
    ///
    /// # Errors
    ///
    /// As [`Admin::stat`].
    async fn free(&self, query: PathQuery) -> Result<Usage, ApiError>;

    /// Keeps everything below a path from eviction, what is not cached yet too.
    ///
    /// # Errors
    ///
    /// As [`Admin::stat`].
    async fn pin(&self, query: PathQuery) -> Result<Usage, ApiError>;

    /// Takes back [`Admin::pin`].
    ///
    /// # Errors
    ///
    /// As [`Admin::stat`].
    async fn unpin(&self, query: PathQuery) -> Result<Usage, ApiError>;

    /// Reads back every cached file below a path and compares checksums.
    ///
    /// # Errors
    ///
    /// As [`Admin::ls`].
    async fn check(&self, query: PathQuery, out: Lines<CheckEvent>) -> Result<(), ApiError>;

    /// Takes in the order in which a data set will be read, after listing it.
    ///
    /// # Errors
    ///
    /// When the path is no folder with files, none of the entries is one of them, or nothing would
    /// look at the order.
    async fn hint(&self, request: HintRequest) -> Result<HintAnswer, ApiError>;

    /// Starts a load job, and answers before it is done.
    ///
    /// # Errors
    ///
    /// When the path does not exist, the manifest cannot be read, or too many jobs are running.
    async fn load(&self, request: LoadRequest) -> Result<LoadStatus, ApiError>;

    /// Every job that is known, the newest first; with etcd, also those of other nodes.
    async fn loads(&self) -> Vec<LoadStatus>;

    /// One job.
    ///
    /// # Errors
    ///
    /// When no job has this id.
    async fn load_status(&self, id: String) -> Result<LoadStatus, ApiError>;

    /// Stops a job on all nodes; what it has brought stays.
    ///
    /// # Errors
    ///
    /// As [`Admin::load_status`].
    async fn load_stop(&self, id: String) -> Result<LoadStatus, ApiError>;

    /// Tries again what a job that has ended could not load.
    ///
    /// # Errors
    ///
    /// As [`Admin::load_status`], and while the job is running.
    async fn load_retry(&self, id: String) -> Result<LoadStatus, ApiError>;

    /// Sends what a job could not load.
    ///
    /// # Errors
    ///
    /// As [`Admin::load_status`].
    async fn load_failed(&self, id: String, out: Lines<LoadFailure>) -> Result<(), ApiError>;

    /// Asks the daemon to unmount and end; returns before it did.
    fn shutdown(&self);
}

/// Where a long answer goes: a bounded queue to the client.
#[derive(Debug)]
pub struct Lines<T> {
    queue: mpsc::Sender<Result<T, ApiError>>,
}

impl<T> Lines<T> {
    /// A queue and its reading end, of the size that the server uses.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Result<T, ApiError>>) {
        let (queue, receiver) = mpsc::channel(LINES_QUEUED_MAX);
        (Self { queue }, receiver)
    }

    /// Sends one item, waiting while the queue is full. False: the client is gone, stop working.
    pub async fn send(&self, item: T) -> bool {
        self.queue.send(Ok(item)).await.is_ok()
    }

    /// Completes when the client is gone.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Another writing end of the same queue.
    pub(crate) fn again(&self) -> Self {
        Self { queue: self.queue.clone() }
    }

    /// Ends the answer with an error.
    pub(crate) async fn fail(self, error: ApiError) {
        // A client that is gone does not miss the error.
        let _ = self.queue.send(Err(error)).await;
    }
}

impl ApiError {
    /// The path does not exist.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: "not_found".into() }
    }

    /// The request makes no sense.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: "bad_request".into() }
    }

    /// The bucket, or the daemon, cannot answer now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: "unavailable".into() }
    }

    /// A fault of ours.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: "internal".into() }
    }
}
