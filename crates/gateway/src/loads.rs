//! Load jobs as they cross the socket; part of [`crate::api`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What to load.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// A file or folder, relative to the root of the mount.
    #[serde(default)]
    pub path: String,
    /// A file that the daemon can read, by its absolute path: one line for each file to load, relative to
    /// `path`, or its path in the mounted folder, or its URL. Absent: everything at and below `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Bytes a second at most, over all nodes; 0: no limit.
    #[serde(default)]
    pub bandwidth_bytes_per_s: u64,
    /// Nodes that are to have each file; 0 is 1.
    #[serde(default)]
    pub replicas: u32,
    /// List, and fetch nothing.
    #[serde(default)]
    pub metadata_only: bool,
}

/// Which job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadQuery {
    /// As [`LoadStatus::id`].
    pub id: String,
}

/// How a job stands. Only [`LoadState::Done`] means that everything is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadState {
    /// Loading, and how much there is in all is not known yet.
    Listing,
    /// Loading.
    Loading,
    /// Everything is cached.
    Done,
    /// Somebody stopped it.
    Stopped,
    /// It came to its end, and not everything is cached, or nobody can be sure.
    Incomplete,
    /// It could not be carried out.
    Failed,
}

impl LoadState {
    /// True while it goes on, also over a restart of the daemon.
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Listing | Self::Loading)
    }
}

impl fmt::Display for LoadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listing => "listing",
            Self::Loading => "loading",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        })
    }
}

/// A load job. `files` is `cached + loaded + failed`; where only listings were asked for, it stands alone.
/// A file of several replicas counts once, as cached when all of them are there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// Names it.
    pub id: String,
    /// What is loaded, relative to the root of the mount.
    pub path: String,
    /// A manifest said which files.
    pub manifest: bool,
    /// Only listings were asked for.
    pub metadata_only: bool,
    /// Nodes that are to have each file.
    pub replicas: u32,
    /// Bytes a second at most; 0: no limit.
    pub bandwidth_bytes_per_s: u64,
    /// How it stands.
    pub state: LoadState,
    /// Why not everything is cached, with the numbers; of one that goes on, why it looks at all files once more.
    pub reason: Option<String>,
    /// Files and lines of the manifest met so far.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files in all, once they have been counted.
    pub files_total: Option<u64>,
    /// Bytes in all.
    pub bytes_total: Option<u64>,
    /// Of `files`, those that were cached before.
    pub cached: u64,
    /// Their bytes.
    pub cached_bytes: u64,
    /// Of `files`, those that this job brought.
    pub loaded: u64,
    /// Their bytes.
    pub loaded_bytes: u64,
    /// Of `files`, those that are not cached and that nobody works on.
    pub failed: u64,
    /// Their bytes, as far as known.
    pub failed_bytes: u64,
    /// `failed` by the kind of reason.
    pub failed_by: BTreeMap<String, u64>,
    /// Nodes that share the work; 1 without a cluster.
    pub nodes: u64,
    /// Nodes that were passed by, with the reason; others did their part.
    #[serde(default)]
    pub passed_by: BTreeMap<String, String>,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    /// Seconds that it has been at work.
    pub elapsed_s: f64,
    /// Bytes loaded a second, over all that time.
    pub bytes_per_s: f64,
    /// Seconds left at that rate, once it is known.
    pub eta_s: Option<f64>,
    /// The node whose job it is; absent: the one that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<LoadNode>,
}

/// Another node, whose job it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadNode {
    /// Where peers reach it.
    pub address: String,
    /// Why it says nothing now: the rest is what it said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A file that a job could not load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadFailure {
    /// Relative to the root of the mount, or the line of the manifest.
    pub path: String,
    /// Why.
    pub reason: String,
}
