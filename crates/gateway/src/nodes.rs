//! The nodes of a cluster as they cross the socket; part of [`crate::api`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::loads::LoadStatus;

/// A node in short, as it says itself. Counters run since its mount. Two nodes may be of different
/// versions: what one does not know is left out, what another does not say is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSummary {
    /// Its id; empty without a cluster, and of a node that was never heard of.
    pub node: String,
    /// Where peers reach it; empty without a cluster.
    pub address: String,
    /// True for the node that was asked.
    pub this: bool,
    /// `up`, `slow`, `down` or `unknown` (never heard of), in the eyes of the node that was asked.
    pub state: String,
    /// Why it is not up, or why it said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Mean time of its answers to the node that was asked, in milliseconds; 0: none yet.
    pub latency_ms: f64,
    /// Version of the binary; empty: it did not answer, and what follows is unknown, its quota aside.
    pub version: String,
    /// Seconds since it began to serve.
    pub uptime_s: f64,
    /// Where it is mounted, on its machine.
    pub mountpoint: String,
    /// What is mounted.
    pub sources: Vec<String>,
    /// How many lists of members it has seen.
    pub epoch: u64,
    /// Equal on nodes that know the same members and so place objects alike.
    pub fingerprint: String,
    /// Its cache directories' quotas together.
    pub quota_bytes: u64,
    /// Bytes on its disks.
    pub used_bytes: u64,
    /// Complete objects.
    pub objects: u64,
    /// Reads or opens answered from its disks.
    pub hits: u64,
    /// Objects or pages that had to be fetched.
    pub misses: u64,
    /// Bytes answered from the cache by the daemon.
    pub hit_bytes: u64,
    /// Bytes fetched from the bucket.
    pub store_bytes: u64,
    /// Requests to the bucket by verb.
    pub requests: BTreeMap<String, u64>,
    /// Requests that it did not send to the bucket because a peer had the object.
    pub requests_saved: u64,
    /// Their bytes.
    pub bytes_from_peers: u64,
    /// Objects and pages that it served to peers.
    pub served: u64,
    /// Their bytes.
    pub bytes_to_peers: u64,
    /// Reads of what other nodes own that it sent to the bucket all the same.
    pub fell_back: u64,
    /// Load jobs that it drives, the first few.
    pub loads: Vec<LoadStatus>,
    /// Peers that are not up in its own eyes, with the reason, the first few.
    pub peers_in_trouble: Vec<String>,
}

/// A node that did not answer, or one who was to name nodes and has named none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unheard {
    /// Its id, if it was ever heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// As configured.
    pub address: String,
    /// Why, in words.
    pub why: String,
    /// True if it is no node but an etcd or a name in DNS: which nodes there are is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub source: bool,
    /// True if it was heard, and did not do what it was asked: it says no, or is of another version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

/// What something means on each node: how much is cached (`du`), was dropped (`free`), is kept (`pin`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WideUsage {
    /// Each node that answered, this one first.
    pub nodes: Vec<NodeUsage>,
    /// Those that did not: what they hold is not in the numbers, and what was to be done may not be done there.
    pub unheard: Vec<Unheard>,
    /// What was to be done stands in etcd: those that were silent learn of it there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub noted: bool,
    /// Files that are complete on at least one node.
    pub files: u64,
    /// Bytes on all nodes, each file counted once.
    pub bytes: u64,
    /// Further complete copies of those files.
    pub copies: u64,
    /// Bytes beyond the first copy of each file.
    pub copies_bytes: u64,
}

/// One node's part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUsage {
    /// Its id.
    pub node: String,
    /// Where peers reach it.
    pub address: String,
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// Files that are pinned there.
    pub pinned_files: u64,
}
