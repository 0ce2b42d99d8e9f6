//! What is kept of a load job: the file that outlives the daemon, and how its numbers add up.
//!
//! A pass is one walk over what the job names. It begins again from its start after a restart of the
//! daemon, or when nodes came or went during it, which costs no fetch: what is here is left alone. So the
//! numbers of a pass begin anew, and of what it then finds here, as much as this job had brought already,
//! to nodes that are still there, counts as brought.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::{Add, AddAssign};
use std::path::Path;

use feedline_cluster::NodeId;
use feedline_gateway::api::{LoadRequest, LoadState, LoadStatus};
use serde::{Deserialize, Serialize};

use crate::files;

/// This node among those that files were brought to.
const THIS_NODE: &str = "this node";

/// Other nodes by id, and the process that answers for each.
pub(crate) type Nodes = BTreeMap<String, u64>;

/// Files and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Count {
    pub(crate) fn one(bytes: u64) -> Self {
        Self { files: 1, bytes }
    }

    fn at_most(self, other: Self) -> Self {
        Self { files: self.files.min(other.files), bytes: self.bytes.min(other.bytes) }
    }

    fn less(self, other: Self) -> Self {
        let files = self.files.saturating_sub(other.files);
        Self { files, bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { files: self.files + other.files, bytes: self.bytes + other.bytes }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Why a file is not cached. The labels are those of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The cache keeps nothing more.
    NoRoom,
    /// Neither listed nor in the bucket.
    Absent,
    /// The bucket refuses.
    Forbidden,
    /// Replaced since it was listed.
    Changed,
    /// The bucket does not answer.
    Unavailable,
    /// The store makes no sense of the request.
    Rejected,
    /// A folder could not be listed: nobody knows what is in it.
    Unlisted,
    /// A line of the manifest names nothing that could be a file.
    BadLine,
    /// No node could be asked.
    NoNode,
}

impl Kind {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NoRoom => "no room in the cache",
            Self::Absent => "no such file",
            Self::Forbidden => "access denied",
            Self::Changed => "changed in the bucket",
            Self::Unavailable => "bucket unavailable",
            Self::Rejected => "rejected by the store",
            Self::Unlisted => "folder cannot be listed",
            Self::BadLine => "no path",
            Self::NoNode => "no node could take it",
        }
    }
}

/// What a pass has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) listed: Count,
    pub(crate) here: Count,
    pub(crate) fetched: Count,
    pub(crate) failed: Count,
    /// By [`Kind::label`].
    pub(crate) failed_by: BTreeMap<String, u64>,
}

impl Tally {
    /// A file that is not cached.
    pub(crate) fn fail(&mut self, kind: Kind, bytes: u64) {
        self.failed += Count::one(bytes);
        *self.failed_by.entry(kind.label().to_owned()).or_default() += 1;
    }

    fn has(&self, kind: Kind) -> bool {
        self.failed_by.contains_key(kind.label())
    }
}

/// Where the names of a pass come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Names {
    /// The listings at and below the path.
    Listings,
    /// The manifest, beside the record.
    Manifest,
    /// What failed in the pass before, beside the record.
    Failed,
}

/// A job as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) path: String,
    pub(crate) manifest: bool,
    pub(crate) metadata_only: bool,
    pub(crate) bandwidth_bytes_per_s: u64,
    pub(crate) replicas: u32,
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    pub(crate) started_ms: u64,
    /// Time at work, up to the last save.
    pub(crate) elapsed_ms: u64,
    pub(crate) names: Names,
    /// What this pass has to do, once counted.
    pub(crate) total: Option<Count>,
    /// Files that passes before this one have dealt with.
    pub(crate) cached_before: Count,
    pub(crate) loaded_before: Count,
    /// What this job has brought, by the node that fetched it, without those that were lost since.
    #[serde(default)]
    pub(crate) brought_to: BTreeMap<String, Count>,
    /// Those that the pass counts on.
    #[serde(default)]
    pub(crate) others: Nodes,
    /// Who may have lost files when the last pass was over.
    #[serde(default)]
    pub(crate) lost: Option<String>,
    /// Other nodes that did not list what only was to be listed, and why.
    #[serde(default)]
    pub(crate) unlisted: Option<String>,
    pub(crate) pass: Tally,
    pub(crate) passed_by: BTreeMap<String, String>,
    /// Nodes that shared it when it was last begun.
    pub(crate) nodes: usize,
}

/// As [`LoadState`], on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Running,
    Done,
    Stopped,
    Incomplete,
    Failed,
}

impl Record {
    /// That of a job which begins now, shared by so many nodes. `path`: that of the request, as the tree has it.
    pub(crate) fn new(
        id: String,
        path: String,
        request: &LoadRequest,
        started_ms: u64,
        nodes: usize,
    ) -> Self {
        let manifest = request.manifest.is_some();
        Self {
            id,
            path,
            manifest,
            metadata_only: request.metadata_only,
            bandwidth_bytes_per_s: request.bandwidth_bytes_per_s,
            replicas: request.replicas.max(1),
            state: State::Running,
            reason: None,
            started_ms,
            elapsed_ms: 0,
            names: if manifest { Names::Manifest } else { Names::Listings },
            total: None,
            cached_before: Count::default(),
            loaded_before: Count::default(),
            brought_to: BTreeMap::new(),
            others: Nodes::new(),
            lost: None,
            unlisted: None,
            pass: Tally::default(),
            passed_by: BTreeMap::new(),
            nodes,
        }
    }

    /// Of what this pass found here: what it had brought itself, and the rest.
    fn found(&self) -> (Count, Count) {
        let brought = self.brought_to.values().fold(Count::default(), |sum, more| sum + *more);
        // Without what it fetched itself, and what passes over other files have brought.
        let earlier = brought.less(self.pass.fetched).less(self.loaded_before);
        let own = earlier.at_most(self.pass.here);
        (own, self.pass.here.less(own))
    }

    pub(crate) fn loaded(&self) -> Count {
        self.loaded_before + self.found().0 + self.pass.fetched
    }

    pub(crate) fn cached(&self) -> Count {
        self.cached_before + self.found().1
    }

    /// A file is cached that was not; `None`: by this node.
    pub(crate) fn fetched(&mut self, node: Option<NodeId>, bytes: u64) {
        let node = node.map_or_else(|| THIS_NODE.to_owned(), |node| node.to_string());
        *self.brought_to.entry(node).or_default() += Count::one(bytes);
        self.pass.fetched += Count::one(bytes);
    }

    /// Begins with these nodes. A pass over what failed is one over everything if a node that held what did
    /// not fail is not there, or began anew.
    pub(crate) fn begin(&mut self, others: Nodes) {
        let is_there = |(node, instance): (&String, &u64)| others.get(node) == Some(instance);
        if self.names == Names::Failed && !self.others.iter().all(is_there) {
            self.over_all();
        }
        (self.lost, self.reason) = (None, None);
        self.count_on(others);
    }

    /// Goes over everything once more, with these nodes.
    pub(crate) fn once_more(&mut self, why: &str, others: Nodes) {
        self.over_all();
        self.reason = Some(format!("all files are looked at once more: {why}"));
        self.count_on(others);
    }

    /// What was brought to nodes that are not there is not cached any more.
    fn count_on(&mut self, others: Nodes) {
        self.brought_to.retain(|node, _| node == THIS_NODE || others.contains_key(node));
        self.others = others;
    }

    fn over_all(&mut self) {
        (self.cached_before, self.loaded_before) = (Count::default(), Count::default());
        self.names = if self.manifest { Names::Manifest } else { Names::Listings };
        self.again();
    }

    /// Begins this pass again.
    pub(crate) fn again(&mut self) {
        self.pass = Tally::default();
        self.total = None;
    }

    /// Begins a pass over what failed in the last one, or over everything if it did not see everything.
    pub(crate) fn retry(&mut self) {
        let saw_all = self.state == State::Incomplete && !self.pass.has(Kind::Unlisted);
        if saw_all && self.lost.is_none() && self.unlisted.is_none() {
            (self.cached_before, self.loaded_before) = (self.cached(), self.loaded());
            self.names = Names::Failed;
            self.again();
        } else {
            self.over_all();
        }
        self.reason = None;
        self.passed_by.clear();
        self.state = State::Running;
    }

    /// Ends the pass: done only if every file is cached, and nobody has left that it was brought to.
    pub(crate) fn end(&mut self) {
        // What was met is what there was, however far the counting has come.
        self.total = Some(self.pass.listed);
        let all = self.cached_before + self.loaded_before + self.pass.listed;
        let failed = self.pass.failed;
        let done = all.less(failed);
        self.reason = None;
        if failed.files == 0 && self.lost.is_none() && self.unlisted.is_none() {
            self.state = State::Done;
            return;
        }
        self.state = State::Incomplete;
        let lost = self.lost.as_ref().map(|who| {
            format!("nodes are lost faster than files are looked at ({who}): what they had may be missing")
        });
        let unlisted = self.unlisted.as_ref().map(|who| format!("not listed on {who}"));
        let lost = lost.or(unlisted);
        if failed.files == 0 {
            self.reason = lost;
            return;
        }
        let verb = if self.metadata_only { "listed" } else { "cached" };
        let what = if self.pass.has(Kind::NoRoom) { "the cache is full: " } else { "" };
        let by = self.pass.failed_by.iter().map(|(kind, files)| format!("{kind}: {files}"));
        self.reason = Some(format!(
            "{what}{} of {} files ({} of {}) are {verb} ({}){}",
            done.files,
            all.files,
            mib(done.bytes),
            mib(all.bytes),
            by.collect::<Vec<_>>().join(", "),
            lost.map_or_else(String::new, |lost| format!("; {lost}")),
        ));
    }

    /// As the API shows it, after `running_ms` more at work.
    pub(crate) fn status(&self, running_ms: u64, nodes: u64) -> LoadStatus {
        let (cached, loaded, pass) = (self.cached(), self.loaded(), &self.pass);
        let before = self.cached_before + self.loaded_before;
        let listed = before + pass.listed;
        let total = self.total.map(|total| before + total);
        let elapsed_s = (self.elapsed_ms + running_ms) as f64 / 1_000.0;
        let bytes_per_s = if elapsed_s > 0.0 { loaded.bytes as f64 / elapsed_s } else { 0.0 };
        let is_running = self.state == State::Running;
        let left = total.filter(|_| is_running && bytes_per_s > 0.0).map(|total| {
            let done = cached.bytes + loaded.bytes + pass.failed.bytes;
            total.bytes.saturating_sub(done) as f64 / bytes_per_s
        });
        LoadStatus {
            id: self.id.clone(),
            path: self.path.clone(),
            manifest: self.manifest,
            metadata_only: self.metadata_only,
            replicas: self.replicas,
            bandwidth_bytes_per_s: self.bandwidth_bytes_per_s,
            state: match self.state {
                State::Running if self.total.is_none() => LoadState::Listing,
                State::Running => LoadState::Loading,
                State::Done => LoadState::Done,
                State::Stopped => LoadState::Stopped,
                State::Incomplete => LoadState::Incomplete,
                State::Failed => LoadState::Failed,
            },
            reason: self.reason.clone(),
            files: listed.files,
            bytes: listed.bytes,
            files_total: total.map(|total| total.files),
            bytes_total: total.map(|total| total.bytes),
            cached: cached.files,
            cached_bytes: cached.bytes,
            loaded: loaded.files,
            loaded_bytes: loaded.bytes,
            failed: pass.failed.files,
            failed_bytes: pass.failed.bytes,
            failed_by: pass.failed_by.clone(),
            nodes,
            passed_by: self.passed_by.clone(),
            started_ms: self.started_ms,
            elapsed_s,
            bytes_per_s,
            eta_s: left,
            node: None,
        }
    }

    /// Replaces the file as a whole. `sync`: also on the disk itself, for what a power cut must not take back.
    pub(crate) fn save(&self, file: &Path, sync: bool) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        files::replace(file, &text, sync)
    }

    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(file)?).map_err(io::Error::other)
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests;
