//! Where a file of a job goes: to the node that owns it, or as many of those that follow as are to have it.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use feedline_cluster::wire::{LoadSaid, LoadWord};
use feedline_cluster::{Cluster, Fault, LoadPlace, NodeId, Roll};
use feedline_fill::load::{Loaded, Loader, Pace};
use feedline_model::{Clock, Object, ReadError};

use super::names::kind_of;
use super::record::Kind;

/// How long a job that goes on waits for the nodes that it had: a machine starts in less.
const NODES_WITHIN: Duration = Duration::from_secs(60);

/// How often it looks for them.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a cache keeps nothing more.
pub(crate) const NO_ROOM: &str = "the cache is full of what is pinned, in use or needed again";

/// What became of a file that could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brought {
    /// It was everywhere where it is to be.
    Here,
    /// It was fetched by a node and is there now; `None`: this one.
    Fetched(Option<NodeId>),
    /// A cache keeps nothing more.
    NoRoom,
}

/// What became of a file, or why it is not cached.
pub(crate) type Result = std::result::Result<Brought, (Kind, String)>;

/// How files are brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner<'a> {
    /// Nodes that are to have each.
    pub(crate) copies: usize,
    pub(crate) pace: &'a Pace,
    /// Other nodes that were there when all files were brought before; empty: they were not.
    pub(crate) had: &'a BTreeSet<NodeId>,
}

/// All places that this node can bring files to.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) loader: Arc<Loader>,
    /// Empty until the node has joined, and for good on a node that joins none.
    pub(crate) cluster: Arc<OnceLock<Cluster>>,
    /// What is mounted here: where in the tree, the bucket, and the prefix of its keys.
    pub(crate) mounted: Vec<(String, u64, String)>,
}

impl Places {
    /// Nodes that a job is shared by.
    pub(crate) fn nodes(&self) -> usize {
        self.cluster.get().map_or(1, |cluster| cluster.epoch().members().len())
    }

    /// Waits for as many nodes as shared the job before, for a while: who starts first in a cluster that
    /// starts anew would take itself for the owner of everything.
    pub(crate) async fn await_nodes(&self, nodes: usize, clock: &dyn Clock) {
        let deadline = clock.monotonic() + NODES_WITHIN;
        while self.cluster.get().is_some() && self.nodes() < nodes && clock.monotonic() < deadline {
            clock.sleep(LOOK_EVERY).await;
        }
    }

    /// Who is there. Without a cluster always the same.
    pub(crate) async fn roll_call(&self) -> Roll {
        match self.cluster.get() {
            Some(cluster) => cluster.roll_call().await,
            None => Roll::default(),
        }
    }

    /// Brings a file to the first nodes of its order that can be asked. One that is down, or does not
    /// answer, is passed by: `passed_by` hears of it, and the next one takes its place, as for reads.
    pub(crate) async fn bring(
        &self,
        object: &Object,
        manner: Manner<'_>,
        passed_by: impl Fn(&str, String),
    ) -> Result {
        let Manner { copies, pace, had } = manner;
        if object.version.size == 0 {
            // There are no bytes that any node could have.
            return Ok(Brought::Here);
        }
        let Some(cluster) = self.cluster.get() else { return self.here(object, pace).await };
        let (mut brought, mut all, mut holders) = (0, Brought::Here, 0);
        for (place, is_up) in cluster.load_places(&object.id()) {
            let is_holder = match &place {
                LoadPlace::Here => !had.is_empty(),
                LoadPlace::Peer(node, _) => had.contains(node),
            };
            holders += usize::from(is_holder);
            let one = match place {
                LoadPlace::Here => self.here(object, pace).await?,
                LoadPlace::Peer(_, address) if !is_up => {
                    passed_by(&address, "down".into());
                    continue;
                }
                LoadPlace::Peer(node, address) => {
                    let is_expected = is_holder && holders <= copies;
                    match there(cluster, node, object, pace, is_expected).await {
                        Ok(said) => heard(said, node, &address)?,
                        Err(fault) => {
                            passed_by(&address, fault.to_string());
                            continue;
                        }
                    }
                }
            };
            match one {
                Brought::Here => {}
                Brought::Fetched(_) => all = one,
                Brought::NoRoom => return Ok(Brought::NoRoom),
            }
            brought += 1;
            if brought == copies {
                return Ok(all);
            }
        }
        let reason = format!("{brought} of {copies} copies: no more nodes can be asked");
        Err((Kind::NoNode, reason))
    }

    /// Into this node's cache.
    async fn here(&self, object: &Object, pace: &Pace) -> Result {
        if self.loader.is_here(object) {
            return Ok(Brought::Here);
        }
        pace.wait(object.version.size).await;
        match self.loader.load(object).await {
            Ok(Loaded::Here) => Ok(Brought::Here),
            Ok(Loaded::Fetched) => Ok(Brought::Fetched(None)),
            Ok(Loaded::NoRoom) => Ok(Brought::NoRoom),
            Err(error) => Err((kind_of(&error), error.to_string())),
        }
    }
}

/// Into a peer's cache. What is expected to be there is paid for afterwards, and only if it was not.
async fn there(
    cluster: &Cluster,
    node: NodeId,
    object: &Object,
    pace: &Pace,
    is_expected: bool,
) -> std::result::Result<LoadSaid, Fault> {
    let size = object.version.size;
    if !is_expected {
        pace.wait(size).await;
    }
    let said = cluster.load_at(node, object).await;
    match said.as_ref().map(|said| said.word) {
        Ok(LoadWord::Here) | Err(_) if !is_expected => pace.give_back(size),
        Ok(LoadWord::Fetched) if is_expected => pace.wait(size).await,
        _ => {}
    }
    said
}

/// A peer's word as this node's own.
fn heard(said: LoadSaid, node: NodeId, address: &str) -> Result {
    let kind = match said.word {
        LoadWord::Here => return Ok(Brought::Here),
        LoadWord::Fetched => return Ok(Brought::Fetched(Some(node))),
        LoadWord::NoRoom => {
            return Err((Kind::NoRoom, format!("on {address}: {NO_ROOM}")));
        }
        LoadWord::NotFound => Kind::Absent,
        LoadWord::Forbidden => Kind::Forbidden,
        LoadWord::Changed => Kind::Changed,
        LoadWord::Unavailable => Kind::Unavailable,
        LoadWord::Rejected => Kind::Rejected,
    };
    Err((kind, format!("on {address}: {}", said.message)))
}

/// Brings in what peers say.
#[derive(Debug)]
pub(crate) struct ForPeers(pub(crate) Arc<Loader>);

#[async_trait]
impl feedline_cluster::Loads for ForPeers {
    async fn load(&self, object: &Object) -> LoadSaid {
        let word = match self.0.load(object).await {
            Ok(Loaded::Here) => LoadWord::Here,
            Ok(Loaded::Fetched) => LoadWord::Fetched,
            Ok(Loaded::NoRoom) => LoadWord::NoRoom,
            Err(error) => return LoadSaid { word: word_of(&error), message: error.to_string() },
        };
        LoadSaid { word, message: String::new() }
    }
}

/// A [`ReadError`] as peers hear it, without a wildcard.
fn word_of(error: &ReadError) -> LoadWord {
    match error {
        ReadError::NotFound { .. } => LoadWord::NotFound,
        ReadError::Forbidden { .. } => LoadWord::Forbidden,
        ReadError::Changed { .. } => LoadWord::Changed,
        ReadError::Unavailable { .. } => LoadWord::Unavailable,
        ReadError::Rejected { .. } => LoadWord::Rejected,
    }
}
