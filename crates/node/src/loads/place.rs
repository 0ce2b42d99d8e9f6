//! Where a file of a job goes: to the node that owns it, or as many of those that follow as are to have it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use feedline_cluster::wire::{LoadSaid, LoadWord};
use feedline_cluster::{Cluster, LoadPlace};
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

/// What became of a file, or why it is not cached.
pub(crate) type Result = std::result::Result<Loaded, (Kind, String)>;

/// All places that this node can bring files to.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) loader: Arc<Loader>,
    /// Empty until the node has joined, and for good on a node that joins none.
    pub(crate) cluster: Arc<OnceLock<Cluster>>,
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

    /// Brings a file to the first `copies` nodes of its order that can be asked. One that is down, or does
    /// not answer, is passed by: `passed_by` hears of it, and the next one takes its place, as it does
    /// for reads.
    pub(crate) async fn bring(
        &self,
        object: &Object,
        copies: usize,
        pace: &Pace,
        passed_by: impl Fn(&str, String),
    ) -> Result {
        if object.version.size == 0 {
            // There are no bytes that any node could have.
            return Ok(Loaded::Here);
        }
        let Some(cluster) = self.cluster.get() else { return self.here(object, pace).await };
        let (mut brought, mut all) = (0, Loaded::Here);
        for (place, is_up) in cluster.load_places(&object.id()) {
            let loaded = match place {
                LoadPlace::Here => self.here(object, pace).await?,
                LoadPlace::Peer(_, address) if !is_up => {
                    passed_by(&address, "down".into());
                    continue;
                }
                LoadPlace::Peer(node, address) => {
                    pace.wait(object.version.size).await;
                    match cluster.load_at(node, object).await {
                        Ok(said) => {
                            if said.word == LoadWord::Here {
                                pace.give_back(object.version.size);
                            }
                            heard(said, &address)?
                        }
                        Err(fault) => {
                            pace.give_back(object.version.size);
                            passed_by(&address, fault.to_string());
                            continue;
                        }
                    }
                }
            };
            match loaded {
                Loaded::Here => {}
                Loaded::Fetched => all = Loaded::Fetched,
                Loaded::NoRoom => return Ok(Loaded::NoRoom),
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
            return Ok(Loaded::Here);
        }
        pace.wait(object.version.size).await;
        self.loader.load(object).await.map_err(|error| (kind_of(&error), error.to_string()))
    }
}

/// A peer's word as this node's own.
fn heard(said: LoadSaid, address: &str) -> Result {
    let kind = match said.word {
        LoadWord::Here => return Ok(Loaded::Here),
        LoadWord::Fetched => return Ok(Loaded::Fetched),
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
