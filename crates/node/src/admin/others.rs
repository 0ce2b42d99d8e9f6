//! The other nodes of the cluster while one command is answered: each is asked until it fails once.

use std::time::Duration;

use feedline_cluster::{Cluster, PeerState, PeerStatus};
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
    why: Option<String>,
}

impl Other {
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
    /// Every other node that is a member or was to be one.
    pub(super) fn of(cluster: &'a Cluster) -> Self {
        let peers = cluster.status().peers.into_iter();
        let nodes = peers.filter(is_a_node).map(|peer| {
            let node = peer.node.map(|node| node.to_string()).unwrap_or_default();
            let usage = NodeUsage {
                node: node.clone(),
                address: peer.address.clone(),
                ..Default::default()
            };
            Other { node, address: peer.address, usage, corrupt: 0, why: None }
        });
        Self { cluster, nodes: nodes.collect() }
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
                Ok(Told::Failed { message }) => self.nodes[at].why = Some(message),
                Ok(Told::Unknown) => {
                    self.nodes[at].why = Some("it says what we do not know".into())
                }
                Ok(answer) => told.push((at, answer)),
                Err(fault) => self.nodes[at].why = Some(fault.message),
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
                (_, Some(why)) => Err(why.clone()),
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

    /// Those that have not.
    pub(super) fn unheard(&self) -> Vec<Unheard> {
        let of = |other: &Other| {
            let node = (!other.node.is_empty()).then(|| other.node.clone());
            Some(Unheard { node, address: other.address.clone(), why: other.why.clone()? })
        };
        self.nodes.iter().filter_map(of).collect()
    }
}

/// An address that is no member's is a second name of one, or this node's own, if all is well there.
pub(super) fn is_a_node(peer: &PeerStatus) -> bool {
    peer.node.is_some() || peer.state == PeerState::Down
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
    fn what_a_node_says_of_places_that_nobody_asked_about_is_not_counted() {
        let said = [Held(1, 5, 1), Held(3, 5, 1), Held(1, 9, 3), Held(0, 2, 0)];
        assert_eq!(each_once(said.to_vec(), 3), [Held(1, 5, 1), Held(0, 2, 0)]);
        assert_eq!(each_once(said.to_vec(), 0), []);
    }
}
