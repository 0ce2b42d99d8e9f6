//! Every node in short: what each says of itself, and what this one thinks of those that say nothing.

use feedline_cluster::{PeerState, PeerStatus};
use feedline_gateway::api::{NodeSummary, Status};

use super::NodeAdmin;
use super::others::{Others, is_a_node};
use crate::status;

/// Load jobs of one node that are told.
const LOADS_MAX: usize = 8;

/// Peers in trouble of one node that are told.
const TROUBLES_MAX: usize = 16;

/// A mean answer that takes so many times as long as that of the others is slow, and not below [`SLOW_MS_MIN`].
const SLOW_FACTOR: f64 = 4.0;

/// Below this nobody notices: a bucket takes as long.
const SLOW_MS_MIN: f64 = 100.0;

/// A node in short, from its status.
pub(super) fn summary(status: Status) -> NodeSummary {
    let cluster = status.cluster.unwrap_or_default();
    let troubled =
        cluster.peers.iter().filter(|peer| matches!(peer.state.as_str(), "down" | "slow"));
    let in_trouble = troubled.map(|peer| {
        format!("{}: {}", peer.address, peer.trouble.as_deref().unwrap_or(&peer.state))
    });
    let sum =
        |of: fn(&feedline_gateway::api::CacheDirStatus) -> u64| status.cache.iter().map(of).sum();
    NodeSummary {
        node: cluster.node,
        address: cluster.address,
        this: false,
        state: "up".into(),
        trouble: None,
        latency_ms: 0.0,
        version: status.version,
        uptime_s: status.uptime_s,
        mountpoint: status.mountpoint,
        sources: status.sources.into_iter().map(|source| source.url).collect(),
        epoch: cluster.epoch,
        fingerprint: cluster.fingerprint,
        quota_bytes: sum(|dir| dir.quota_bytes),
        used_bytes: sum(|dir| dir.used_bytes),
        objects: sum(|dir| dir.objects),
        hits: status.reads.hits,
        misses: status.reads.misses,
        hit_bytes: status.reads.hit_bytes,
        store_bytes: status.reads.store_bytes,
        requests: status.requests,
        requests_saved: cluster.requests_saved,
        bytes_from_peers: cluster.bytes_from_peers,
        served: cluster.served,
        bytes_to_peers: cluster.bytes_to_peers,
        fell_back: cluster.fell_back,
        loads: status.loads.into_iter().take(LOADS_MAX).collect(),
        peers_in_trouble: in_trouble.take(TROUBLES_MAX).collect(),
    }
}

/// All nodes, this one first.
pub(super) async fn of(node: &NodeAdmin) -> Vec<NodeSummary> {
    let mut all = vec![NodeSummary { this: true, ..summary(status::of(node)) }];
    let Some(cluster) = node.chain.cluster.get() else { return all };
    let told = Others::known(cluster).summaries().await;
    // Asked for after the questions: they may have found out that a node is down.
    let peers: Vec<_> = cluster.status().peers.into_iter().filter(is_a_node).collect();
    let median = median(peers.iter().map(|peer| peer.mean_ms).filter(|mean| 0.0 < *mean));
    for (address, told) in told {
        let peer = peers.iter().find(|peer| peer.address == address);
        let mut summary = seen(address, told, peer, median);
        if let Some(id) = peer.and_then(|peer| peer.node)
            && summary.mountpoint.is_empty()
            && let Some(told) = node.chain.etcd.get().and_then(|etcd| etcd.mounted(id))
        {
            // It says nothing now, and has told etcd.
            (summary.mountpoint, summary.sources) = (told.mountpoint, told.sources);
        }
        all.push(summary);
    }
    all
}

/// What a node says of itself together with what this one thinks of it.
fn seen(
    address: String,
    told: Result<NodeSummary, String>,
    peer: Option<&PeerStatus>,
    median: f64,
) -> NodeSummary {
    let latency_ms = peer.map_or(0.0, |peer| peer.mean_ms);
    let id = peer.and_then(|peer| peer.node).map(|node| node.to_string()).unwrap_or_default();
    let is_slow = SLOW_MS_MIN.max(SLOW_FACTOR * median) < latency_ms;
    match told {
        Ok(summary) => {
            let is_passed_by = peer.is_some_and(|peer| peer.state == PeerState::Slow);
            let state = if is_slow || is_passed_by { "slow" } else { "up" };
            let trouble = match peer.and_then(|peer| peer.trouble.clone()) {
                Some(trouble) if is_passed_by => Some(trouble),
                _ => is_slow.then(|| format!("answers take {latency_ms:.0} ms")),
            };
            NodeSummary { address, state: state.into(), trouble, latency_ms, ..summary }
        }
        Err(why) => {
            let state = match peer.map(|peer| peer.state) {
                _ if id.is_empty() => "unknown",
                Some(PeerState::Up) => "up",
                Some(PeerState::Slow) => "slow",
                _ => "down",
            };
            let quota_bytes = peer.map_or(0, |peer| peer.quota_bytes);
            let (state, trouble) = (state.to_owned(), Some(why));
            NodeSummary {
                node: id,
                address,
                state,
                trouble,
                latency_ms,
                quota_bytes,
                ..Default::default()
            }
        }
    }
}

/// The lower one of the two in the middle; 0 of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: Option<u64>, state: PeerState, mean_ms: f64) -> PeerStatus {
        PeerStatus {
            address: "b:1".into(),
            node: node.map(feedline_cluster::NodeId),
            quota_bytes: 5,
            state,
            trouble: None,
            wire: Some(1),
            mean_ms,
            p99_ms: 0.0,
            in_flight: 0,
            requests: 0,
            objects: 0,
            bytes: 0,
            passed: Vec::new(),
        }
    }

    #[test]
    fn a_node_is_slow_next_to_the_others_and_down_where_it_says_nothing() {
        let said = || Ok(NodeSummary { version: "1".into(), quota_bytes: 9, ..Default::default() });
        let state = |told, peer: &PeerStatus, median| {
            let seen = seen("b:1".into(), told, Some(peer), median);
            (seen.state, seen.quota_bytes, seen.trouble)
        };
        let up = |mean| peer(Some(1), PeerState::Up, mean);
        assert_eq!(state(said(), &up(99.0), 1.0), ("up".into(), 9, None));
        assert_eq!(state(said(), &up(101.0), 1.0).0, "slow");
        assert_eq!(state(said(), &up(101.0), 80.0).0, "up", "all are");
        let passed_by =
            PeerStatus { trouble: Some("late".into()), ..peer(Some(1), PeerState::Slow, 2.0) };
        assert_eq!(state(said(), &passed_by, 1.0), ("slow".into(), 9, Some("late".into())));
        let silent = || Err("silent".to_owned());
        let why = Some("silent".to_owned());
        let down = peer(Some(1), PeerState::Down, 0.0);
        assert_eq!(state(silent(), &down, 0.0), ("down".into(), 5, why.clone()));
        let never = peer(None, PeerState::Down, 0.0);
        assert_eq!(state(silent(), &never, 0.0), ("unknown".into(), 5, why));
    }

    #[test]
    fn the_median_of_few_is_one_of_them() {
        assert_eq!(median([].into_iter()), 0.0);
        assert_eq!(median([3.0].into_iter()), 3.0);
        assert_eq!(median([9.0, 1.0, 5.0].into_iter()), 5.0);
        assert_eq!(median([9.0, 1.0].into_iter()), 1.0);
    }
}
