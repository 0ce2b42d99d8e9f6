//! The other nodes of the cluster while one command is answered: each is asked until it fails once.

use std::time::Duration;

use feedline_cluster::{
    Cluster, ClusterStatus, Fault, PeerState, PeerStatus, Reason, SourceStatus,
};
use feedline_gateway::api::{NodeSummary, NodeUsage, Unheard};
use feedline_model::ObjectId;
use futures::future::join_all;

use super::question::{Held, Question, Told, ids_as_text};

/// How long a node may take to say how it does: it is looked at each second.
const STATUS_WITHIN: Duration = Duration::from_secs(10);

/// How long it may take to say what it knows by heart. One that is dead or stopped is given up much
/// earlier, because it gives no sign of life; this is for one that is overloaded.
const TELL_WITHIN: Duration = Duration::from_secs(30);

/// How long it may take to do something, as long as it says that it is alive: a pin lists a data set,
/// a check reads back large files.
const DO_WITHIN: Duration = Duration::from_secs(600);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Others<'a> {
    cluster: &'a Cluster,
    nodes: Vec<Other>,
    /// Who was to name nodes, and has named none.
    silent: Vec<Unheard>,
}

/// One of them, and what it has told so far.
#[derive(Debug)]
pub(super) struct Other {
    node: String,
    address: String,
    /// What has been counted of it.
    pub(super) usage: NodeUsage,
    /// Of a check: files that were bad.
    pub(super) corrupt: u64,
    why: Option<Why>,
}

/// Why a node has not done what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Why {
    /// In words.
    words: String,
    /// It was heard, and did not do it.
    refused: bool,
}

impl Why {
    fn refused(words: impl Into<String>) -> Self {
        Self { words: words.into(), refused: true }
    }
}

impl From<Fault> for Why {
    fn from(fault: Fault) -> Self {
        let refused = match fault.reason {
            Reason::Down
            | Reason::Unreachable
            | Reason::Silent
            | Reason::Slow
            | Reason::Full
            | Reason::Busy => false,
            // An older version has no such object to give.
            Reason::NotCached
            | Reason::Wrong
            | Reason::Version
            | Reason::Refused
            | Reason::NotMounted
            | Reason::Bucket => true,
        };
        Self { words: fault.message, refused }
    }
}

impl Other {
    fn new(node: String, address: String, why: Option<Why>) -> Self {
        let usage =
            NodeUsage { node: node.clone(), address: address.clone(), ..Default::default() };
        Self { node, address, usage, corrupt: 0, why }
    }

    /// As people call it.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// True as long as it has answered.
    pub(super) fn is_heard(&self) -> bool {
        self.why.is_none()
    }
}

impl<'a> Others<'a> {
    /// Every other node that is a member or is to be one, and who cannot say which there are: what is to be
    /// done on all nodes is not done while one of these is silent.
    pub(super) async fn of(cluster: &'a Cluster) -> Self {
        let status = cluster.status();
        let mut all = Self::among(cluster, &status);
        all.silent = status.sources.iter().filter_map(silent).collect();
        all.add_strangers(status).await;
        all
    }

    /// Those that are known without asking anybody.
    pub(super) fn known(cluster: &'a Cluster) -> Self {
        Self::among(cluster, &cluster.status())
    }

    fn among(cluster: &'a Cluster, status: &ClusterStatus) -> Self {
        let nodes = status.peers.iter().filter(|peer| is_a_node(peer)).map(|peer| {
            let node = peer.node.map(|node| node.to_string()).unwrap_or_default();
            Other::new(node, peer.address.clone(), None)
        });
        Self { cluster, nodes: nodes.collect(), silent: Vec::new() }
    }

    /// Asks who is at each address where nobody is known: a node that was not greeted yet, or one with two
    /// names, or this one.
    async fn add_strangers(&mut self, status: ClusterStatus) {
        let (cluster, me) = (self.cluster, status.node.to_string());
        let strangers = status.peers.into_iter().filter(|peer| !is_a_node(peer));
        let asked = strangers.map(|peer| async move {
            let told = cluster.ask::<Told>(&peer.address, &Question::Status, STATUS_WITHIN).await;
            (peer.address, told)
        });
        let told = join_all(asked).await;
        if told.is_empty() {
            return;
        }
        // One that was greeted meanwhile may be this node, which is no peer any more.
        let peers = cluster.status().peers;
        for (address, told) in told {
            let (node, why) = match told {
                Ok(Told::Status { summary }) => (summary.node, None),
                Ok(Told::Failed { message }) => (String::new(), Some(Why::refused(message))),
                Ok(_) => (String::new(), Some(Why::refused("its answer makes no sense"))),
                Err(fault) => (String::new(), Some(fault.into())),
            };
            let is_known =
                why.is_none() && (node == me || self.nodes.iter().any(|other| other.node == node));
            if !is_known && peers.iter().any(|peer| peer.address == address) {
                self.nodes.push(Other::new(node, address, why));
            }
        }
    }

    /// Asks all that have answered so far, at once. Each answer with its place among the nodes.
    async fn ask(&mut self, question: &Question, limit: Duration) -> Vec<(usize, Told)> {
        let cluster = self.cluster;
        let asked = self.nodes.iter().enumerate().filter(|(_, other)| other.why.is_none());
        let asked = asked.map(|(at, other)| async move {
            (at, cluster.ask::<Told>(&other.address, question, limit).await)
        });
        let mut told = Vec::new();
        for (at, answer) in join_all(asked).await {
            match answer {
                Ok(Told::Failed { message }) => self.nodes[at].why = Some(Why::refused(message)),
                Ok(Told::Unknown) => {
                    self.nodes[at].why = Some(Why::refused("it says what we do not know"))
                }
                Ok(answer) => told.push((at, answer)),
                Err(fault) => self.nodes[at].why = Some(fault.into()),
            }
        }
        told
    }

    /// What each says of itself; of those that say nothing, what is known here.
    pub(super) async fn summaries(&mut self) -> Vec<(String, Result<NodeSummary, String>)> {
        let mut told = self.ask(&Question::Status, STATUS_WITHIN).await;
        let mut all = Vec::new();
        for (at, other) in self.nodes.iter().enumerate() {
            let mine = told.iter_mut().find(|(it, _)| *it == at).map(|(_, told)| told);
            let summary = match (mine, &other.why) {
                (Some(Told::Status { summary }), _) => Ok(std::mem::take(&mut **summary)),
                (_, Some(why)) => Err(why.words.clone()),
                _ => Err("its answer makes no sense".to_owned()),
            };
            all.push((other.address.clone(), summary));
        }
        all
    }

    /// Which of these objects each holds.
    pub(super) async fn held(&mut self, ids: &[ObjectId]) -> Vec<(usize, Vec<Held>)> {
        let question = Question::Held { ids: ids_as_text(ids) };
        let told = self.ask(&question, TELL_WITHIN).await;
        let held = told.into_iter().filter_map(|(at, told)| match told {
            Told::Held { held } => Some((at, each_once(held, ids.len()))),
            _ => None,
        });
        held.collect()
    }

    /// Has each do something.
    pub(super) async fn order(&mut self, question: &Question) -> Vec<(usize, Told)> {
        self.ask(question, DO_WITHIN).await
    }

    pub(super) fn get(&self, at: usize) -> &Other {
        &self.nodes[at]
    }

    pub(super) fn get_mut(&mut self, at: usize) -> &mut Other {
        &mut self.nodes[at]
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Other> {
        self.nodes.iter()
    }

    /// Those that have answered each question.
    pub(super) fn heard(&self) -> impl Iterator<Item = &Other> {
        self.nodes.iter().filter(|other| other.why.is_none())
    }

    /// Those that have not, and who was to name nodes and has named none.
    pub(super) fn unheard(&self) -> Vec<Unheard> {
        let of = |other: &Other| {
            let node = (!other.node.is_empty()).then(|| other.node.clone());
            let Why { words: why, refused } = other.why.clone()?;
            Some(Unheard { node, address: other.address.clone(), why, source: false, refused })
        };
        let nodes = self.nodes.iter().filter_map(of);
        self.silent.iter().cloned().chain(nodes).collect()
    }
}

/// Asks one node, and takes what it could not do for what it is.
pub(super) async fn ask_one(
    cluster: &Cluster,
    address: &str,
    question: &Question,
) -> Result<Told, String> {
    match cluster.ask::<Told>(address, question, TELL_WITHIN).await {
        Ok(Told::Failed { message }) => Err(message),
        Ok(Told::Unknown) => Err("it says what we do not know".into()),
        Ok(told) => Ok(told),
        Err(fault) => Err(fault.message),
    }
}

/// An address that is no member's is a second name of one, or this node's own, if all is well there.
pub(super) fn is_a_node(peer: &PeerStatus) -> bool {
    peer.node.is_some() || peer.state == PeerState::Down
}

/// A source that has named nobody and cannot be heard: there may be any number of nodes.
fn silent(source: &SourceStatus) -> Option<Unheard> {
    let trouble = source.trouble.as_ref().filter(|_| source.found == 0)?;
    let why = format!(
        "has named nobody and cannot be heard: who the other nodes are is not known ({trouble})"
    );
    let address = format!("{} at {}", source.kind, source.place);
    Some(Unheard { node: None, address, why, source: true, refused: false })
}

/// A place that was not asked about is nobody's, and one that is named twice counts once.
fn each_once(mut held: Vec<Held>, asked: usize) -> Vec<Held> {
    let mut seen = vec![false; asked];
    held.retain(|it| {
        let seen = seen.get_mut(it.0 as usize);
        seen.is_some_and(|seen| !std::mem::replace(seen, true))
    });
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_silent_if_it_has_named_nobody_and_cannot_be_heard() {
        let source = |found, trouble: Option<&str>| SourceStatus {
            kind: "etcd",
            place: "http://e:1".into(),
            found,
            trouble: trouble.map(str::to_owned),
            ..SourceStatus::default()
        };
        let named = silent(&source(0, Some("nobody listens"))).unwrap();
        assert!(named.source && named.node.is_none(), "{named:?}");
        assert_eq!(named.address, "etcd at http://e:1");
        assert!(named.why.contains("nobody listens"), "{named:?}");
        // The members of before are known; and who names none is believed.
        assert_eq!(silent(&source(1, Some("nobody listens"))), None);
        assert_eq!(silent(&source(0, None)), None);
    }

    #[test]
    fn who_says_no_or_is_of_another_version_has_refused_and_who_is_silent_has_not() {
        let refused = Reason::ALL.into_iter().filter(|reason| {
            let fault = Fault { reason: *reason, message: "why".into() };
            let why = Why::from(fault);
            assert_eq!(why.words, "why");
            why.refused
        });
        let labels: Vec<_> = refused.map(Reason::label).collect();
        assert_eq!(labels, ["wrong", "version", "refused", "not_mounted", "not_cached", "bucket"]);
    }

    #[test]
    fn what_a_node_says_of_places_that_nobody_asked_about_is_not_counted() {
        let said = [Held(1, 5, 1), Held(3, 5, 1), Held(1, 9, 3), Held(0, 2, 0)];
        assert_eq!(each_once(said.to_vec(), 3), [Held(1, 5, 1), Held(0, 2, 0)]);
        assert_eq!(each_once(said.to_vec(), 0), []);
    }
}
