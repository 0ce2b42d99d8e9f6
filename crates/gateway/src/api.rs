//! The admin API as it crosses the socket: request and answer types, one per endpoint.
//!
//! HTTP/1.1 with JSON over the daemon's Unix socket. Long answers are newline-delimited JSON, one
//! value a line, so that a client can show progress and memory stays flat.
//!
//! | method and path | query or body | answer |
//! | --- | --- | --- |
//! | `GET /v1/health` | | [`Health`] |
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/nodes` | | list of [`NodeSummary`], this node first |
//! | `GET /v1/config` | | list of [`SettingInfo`] |
//! | `GET /v1/ls` | [`PathQuery`] | lines of [`LsEntry`] |
//! | `GET /v1/stat` | [`PathQuery`] | [`LsEntry`] |
//! | `GET /v1/du` | [`PathQuery`] | [`Usage`] |
//! | `POST /v1/free`, `/v1/pin`, `/v1/unpin` | [`PathQuery`] as JSON | [`Usage`] of what was changed |
//! | `POST /v1/check` | [`PathQuery`] as JSON | lines of [`CheckEvent`] |
//! | `POST /v1/hint` | [`HintRequest`] | [`HintAnswer`] |
//! | `POST /v1/load` | [`LoadRequest`] | [`LoadStatus`] |
//! | `GET /v1/load` | [`LoadQuery`] | [`LoadStatus`] |
//! | `GET /v1/loads` | | list of [`LoadStatus`], the newest first |
//! | `GET /v1/load/failed` | [`LoadQuery`] | lines of [`LoadFailure`] |
//! | `POST /v1/load/stop`, `/v1/load/retry` | [`LoadQuery`] as JSON | [`LoadStatus`] |
//! | `POST /v1/shutdown` | | 202, then the daemon unmounts and ends |
//! | `GET /metrics` | | Prometheus text |
//!
//! In a cluster `ls`, `stat`, `du`, `free`, `pin`, `unpin` and `check` are about all nodes, unless
//! [`PathQuery::node_only`] says otherwise; a node that does not answer is named ([`Unheard`]).
//!
//! Errors are [`ApiError`] with a matching HTTP status. Paths are relative to the mount's root.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::loads::{LoadFailure, LoadNode, LoadQuery, LoadRequest, LoadState, LoadStatus};
pub use crate::nodes::{NodeSummary, NodeUsage, Unheard, WideUsage};

/// Which path a request is about.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct PathQuery {
    /// Relative to the root of the mount, without slashes at the ends; empty is the root.
    #[serde(default)]
    pub path: String,
    /// Also everything below.
    #[serde(default)]
    pub recursive: bool,
    /// Only what is cached, on whichever node.
    #[serde(default)]
    pub cached: bool,
    /// Of a cluster, this node alone.
    #[serde(default)]
    pub node_only: bool,
}

/// The body of `POST /v1/hint` in bytes at most: 10 million positions are 89 MB, two million paths of
/// 60 bytes 120 MB. It is also the sum of the bodies that the daemon takes in at once.
pub const HINT_BYTES_MAX: usize = 128 << 20;

/// In which order a job will read: `{"path": "train", "order": {"positions": [2, 0, 1]}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HintRequest {
    /// The data set's folder, relative to the root of the mount.
    #[serde(default)]
    pub path: String,
    /// Who tells it, such as a rank's process id: the next order from there replaces this one.
    #[serde(default)]
    pub from: u32,
    /// What is known.
    pub order: HintOrder,
}

/// Exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HintOrder {
    /// Paths below the folder, in the order in which they will be read.
    Files(Vec<String>),
    /// Places, from 0, in the sorted list of the data set's files, in the order of reading.
    Positions(Vec<u32>),
    /// Seeds of `torch.randperm`, one an epoch.
    TorchSeeds(Vec<u64>),
}

impl HintOrder {
    /// How many entries it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Positions(positions) => positions.len(),
            Self::TorchSeeds(seeds) => seeds.len(),
        }
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What became of a hint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintAnswer {
    /// Files of the data set.
    pub files: u64,
    /// Entries that name one of them; the others are ignored.
    pub matched: u64,
}

/// Whether the daemon serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Health {
    /// `starting`, `serving` or `stopping`.
    pub state: String,
    /// The daemon's process id.
    pub pid: u32,
}

/// One file or directory.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LsEntry {
    /// Path relative to the root of the mount.
    pub path: String,
    /// True for a directory; the fields below are then absent or zero.
    pub directory: bool,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
    /// The entity tag, without quotes.
    pub etag: Option<String>,
    /// `s3://bucket/key`.
    pub location: Option<String>,
    /// Bytes of it that are on this node's disks.
    pub cached_bytes: u64,
    /// True if it is complete on this node.
    pub cached: bool,
    /// True if it is pinned.
    pub pinned: bool,
    /// In a cluster: the addresses of the nodes on which it is complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// In a cluster: the address of the node that keeps it for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// In a cluster: the nodes that did not say whether they have it. A listing has them in a last entry,
    /// a directory with the path that was asked for, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unheard: Vec<Unheard>,
}

/// How much something holds.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct Usage {
    /// Files below the path.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files complete on this node.
    pub cached_files: u64,
    /// Bytes on this node.
    pub cached_bytes: u64,
    /// Files pinned.
    pub pinned_files: u64,
    /// The whole cluster; absent if the node belongs to none or was asked for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Box<WideUsage>>,
}

/// Progress and result of a check.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the doc of each variant covers its fields")]
pub enum CheckEvent {
    /// So far: files and bytes read back, of how many.
    Progress { files: u64, bytes: u64, files_total: u64, bytes_total: u64 },
    /// A cached file did not match its checksum; it was dropped and will be fetched again.
    Corrupt {
        path: String,
        detail: String,
        /// In a cluster: the address of the node on which it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    /// In a cluster, before the end: what one node checked.
    Node { address: String, files: u64, bytes: u64, corrupt: u64 },
    /// In a cluster, before the end: a node that was not checked, or not to its end.
    Unheard(Unheard),
    /// The end: files checked, bytes read, files dropped.
    Done { files: u64, bytes: u64, corrupt: u64 },
}

/// One setting: its value and where it came from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SettingInfo {
    /// The name in the config file, such as `cache.scrub_rate`.
    pub name: String,
    /// The value in effect, as the user would write it.
    pub value: String,
    /// `flag`, `env FEEDLINE_X`, `file PATH` or `default`.
    pub source: String,
    /// One sentence.
    pub help: String,
}

/// Everything about a running daemon.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct Status {
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Where it is mounted.
    pub mountpoint: String,
    /// What is mounted, in the order of the config.
    pub sources: Vec<MountedSource>,
    /// Seconds since it began to serve.
    pub uptime_s: f64,
    /// `passthrough` or `none`, and why.
    pub open_mode: String,
    /// The reason for the mode, when it is not the one asked for.
    pub open_mode_reason: Option<String>,
    /// How requests come from the kernel: `classic` or `uring`.
    #[serde(default)]
    pub transport: String,
    /// The reason for it, when it is not the one asked for.
    #[serde(default)]
    pub transport_reason: Option<String>,
    /// Each cache directory.
    pub cache: Vec<CacheDirStatus>,
    /// Reads answered from the cache and from the store.
    pub reads: ReadStatus,
    /// Requests to the object store by verb (`GET`, `LIST`, `HEAD`, `PUT`).
    pub requests: BTreeMap<String, u64>,
    /// Requests that were retried, by cause (`503`, `500`, `timeout`, `reset`, `short`).
    pub retries: BTreeMap<String, u64>,
    /// Requests to the store in flight, and how many are allowed now.
    pub requests_in_flight: u64,
    /// The limit that adapts to 503s.
    pub requests_limit: u64,
    /// The tree.
    pub namespace: NamespaceStatus,
    /// FUSE requests by name since the mount.
    pub fuse_requests: BTreeMap<String, u64>,
    /// What is fetched ahead of the reads.
    #[serde(default)]
    pub fill: FillStatus,
    /// Load jobs at work.
    #[serde(default)]
    pub loads: Vec<LoadStatus>,
    /// The nodes that share their caches; absent on a node that caches for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterStatus>,
    /// Resident memory of the daemon, bytes.
    pub resident_bytes: u64,
    /// Inodes that the kernel holds.
    pub inodes: u64,
}

/// The cluster as one of its nodes sees it. Counters run since the mount.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct ClusterStatus {
    /// This node's id.
    pub node: String,
    /// Where peers reach it.
    pub address: String,
    /// How many lists of members this node has seen.
    pub epoch: u64,
    /// Equal on nodes that know the same members and so place objects alike.
    pub fingerprint: String,
    /// Nodes known, this one included.
    pub members: u64,
    /// Who names them.
    #[serde(default)]
    pub members_from: Vec<MembersFrom>,
    /// Their quotas together, in bytes.
    pub quota_bytes: u64,
    /// `auto`, `always` or `never`.
    pub local_copies: String,
    /// Objects and pages read from peers: requests that this node did not send to the bucket.
    pub requests_saved: u64,
    /// Their bytes.
    pub bytes_from_peers: u64,
    /// Of those requests, the ones answered by a node that owned the object before this one.
    pub handed_over: u64,
    /// Reads of what other nodes own that went to the bucket all the same.
    pub fell_back: u64,
    /// Objects and pages served to peers.
    pub served: u64,
    /// Their bytes.
    pub bytes_to_peers: u64,
    /// Objects and pages that peers asked for in vain.
    pub refused: u64,
    /// What S3 clients read at the same address.
    #[serde(default)]
    pub s3: S3Status,
    /// This node's certificate; `None`: its port speaks no TLS.
    #[serde(default)]
    pub tls: Option<TlsStatus>,
    /// Each other node that was configured.
    pub peers: Vec<PeerStatus>,
    /// What the nodes say of themselves, this one first. `GET /v1/nodes` has it; `feedline status` puts
    /// it here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeSummary>,
}

/// The certificate of a node.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct TlsStatus {
    /// When it ends, in seconds since 1970.
    pub expires_unix_s: u64,
    /// Why newer files are not used, or that it ends soon.
    pub trouble: Option<String>,
}

/// Where a node learns of the others.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct MembersFrom {
    /// `list`, `dns` or `etcd`.
    pub source: String,
    /// The name, or the URLs and the cluster's name there.
    pub place: String,
    /// Addresses or nodes that it named last, this node not always among them.
    pub found: u64,
    /// Why it cannot be heard now: the members are those of before. `None`: all is well.
    pub trouble: Option<String>,
    /// When it was heard last, in seconds since 1970, if it cannot be now: the members are of that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_unix_s: Option<u64>,
    /// Since when it cannot be heard, since the mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_unix_s: Option<u64>,
    /// It has not been heard since the mount: whom it named is remembered from before.
    #[serde(default)]
    pub remembered: bool,
    /// Of an etcd that names members: why the pins and load jobs there cannot be heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts_trouble: Option<String>,
}

/// The S3 endpoint of a node. Counters run since the mount.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct S3Status {
    /// Who may read: `keys` (who signs with one of them), `anonymous` (everybody who reaches the port)
    /// or `closed` (nobody: there are no keys).
    pub access: String,
    /// Requests, refused ones included.
    pub requests: u64,
    /// Of those, answered with an error; a key that is not there is one.
    pub errors: u64,
    /// Bytes of objects that were sent.
    pub bytes: u64,
}

/// Another node. Counters run since the mount.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct PeerStatus {
    /// As configured.
    pub address: String,
    /// Its id, once it has answered.
    pub node: Option<String>,
    /// Its quota in bytes.
    pub quota_bytes: u64,
    /// `up`, `slow` (passed by by reads), `down` (passed by) or `unknown` (has not answered yet).
    pub state: String,
    /// What the matter was last, if it is not over.
    pub trouble: Option<String>,
    /// Version of the protocol that is used with it, the highest that both speak; absent: not known yet.
    #[serde(default)]
    pub wire: Option<u32>,
    /// Mean time of an answer, in milliseconds; 0: none yet.
    pub latency_ms: f64,
    /// The 99th percentile of the last 256 answers, in milliseconds.
    pub latency_ms_p99: f64,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests sent.
    pub requests: u64,
    /// Objects and pages that it gave.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How often it was passed by, by reason.
    pub passed_by: BTreeMap<String, u64>,
}

/// One bucket or prefix in the tree.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct MountedSource {
    /// Where in the tree; empty is the root.
    pub path: String,
    /// `s3://bucket/prefix`.
    pub url: String,
}

/// One cache directory.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct CacheDirStatus {
    /// The directory.
    pub dir: String,
    /// The quota in bytes.
    pub quota_bytes: u64,
    /// Bytes on disk, blocks included.
    pub used_bytes: u64,
    /// Complete objects.
    pub objects: u64,
    /// Objects pinned.
    pub pinned: u64,
    /// `ok`, `full` or `set aside: REASON`.
    pub state: String,
    /// Objects evicted since the mount.
    pub evicted: u64,
    /// Objects that failed their checksum since the mount.
    pub corrupt: u64,
}

/// Reads since the mount. What the kernel answers alone is not seen and not counted.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct ReadStatus {
    /// Opens answered with a cached file (the kernel reads it alone).
    pub passthrough_opens: u64,
    /// Opens served by the daemon.
    pub cached_opens: u64,
    /// Bytes answered from the cache by the daemon.
    pub hit_bytes: u64,
    /// Bytes fetched from the store.
    pub store_bytes: u64,
    /// Reads or opens answered from the cache.
    pub hits: u64,
    /// Objects or pages that had to be fetched.
    pub misses: u64,
}

/// What is fetched ahead of the reads.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct FillStatus {
    /// Data sets that are being read, the one read last first.
    pub data_sets: Vec<DataSetStatus>,
    /// Fetches in flight.
    pub in_flight: u64,
    /// Fetches that may be in flight now: follows what the bucket and the link can take.
    pub window: u64,
    /// Files fetched ahead since the mount.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Fetches that failed; the files are left to the reads.
    pub failed: u64,
    /// Files brought from the cache's disk into the page cache ahead of the reads, since the mount.
    #[serde(default)]
    pub pushed_files: u64,
    /// Their bytes, those only that were not there.
    #[serde(default)]
    pub pushed_bytes: u64,
    /// Accesses not looked at because too many came at once.
    pub dropped: u64,
}

/// A data set that is being read.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct DataSetStatus {
    /// Its folder, relative to the root of the mount.
    pub path: String,
    /// Files in it.
    pub files: u64,
    /// Of those, known to be here or under way.
    pub handled: u64,
    /// Different files read since this epoch began, as far as it can be told; what was last known if
    /// it is not `watched`.
    pub read: u64,
    /// False while all that is read is here and in memory: nobody looks at the accesses then.
    #[serde(default)]
    pub watched: bool,
    /// Threads that read it.
    pub readers: u64,
    /// `filling`, `complete`, `cache full`, `waiting for reads`, `idle` or `off`.
    pub state: String,
    /// The order in which it is read, as recognised: a sampler with its parameters, or `unknown`.
    pub order: String,
    /// How sure that is, 0 to 1.
    pub confidence: f64,
    /// Reads after which the order was recognised; 0: not yet.
    pub recognised_after: u64,
    /// What is brought from the cache's disk into the page cache: `ahead` (what will be read next),
    /// `in memory` (nothing, it is there), `order unknown` (nothing) or `off`.
    #[serde(default)]
    pub push: String,
}

/// What is known of the tree.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct NamespaceStatus {
    /// Directories listed.
    pub directories: u64,
    /// Entries in them.
    pub entries: u64,
    /// Keys that cannot be shown as a path, by reason.
    pub hidden: BTreeMap<String, u64>,
    /// A few such keys, with the reason.
    pub hidden_examples: Vec<String>,
    /// LIST requests sent.
    pub lists: u64,
}

/// Why a request failed.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// One sentence that names the object and the way out.
    pub message: String,
    /// `not_found`, `bad_request`, `unavailable` or `internal`.
    pub kind: String,
}
