//! Which node keeps an object: weighted rendezvous hashing, as pure functions.
//!
//! Every node computes the same answer from the same members, so a read costs no question to anybody.
//! The score of a node for an object is `-w / ln u` with `u` a hash of both, uniform in 0..1: the
//! highest score owns the object, the next one takes over if that node is passed by. A node's share
//! is its share of the weights.
//!
//! # Invariants
//!
//! - The order of the members does not matter.
//! - When a node joins, it takes over what it owns and nothing else moves; when one leaves, only what
//!   it owned moves. The second candidate of an object is its owner without the first: who had it
//!   before the first one joined, and who has it when the first one is gone.
//! - The functions never change: nodes of different versions must agree. Fixed values are in the tests.
//!   (A logarithm may differ by its last bit between machines; that decides one object in 10^15, which
//!   then costs one request more.)
//!
//! # Source
//!
//! Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on
//! Networking 6(1), 1998; the weights by Schindelhauer and Schomaker, "Weighted distributed hash
//! tables", SPAA 2005; bounded loads by Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with
//! bounded loads", 2016 (arXiv:1608.01350).

use std::fmt;

use feedline_model::ObjectId;

/// Names a node for good: random, kept beside its cache, so that it owns the same objects after a
/// restart, wherever it then runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// A node, and how much it may own in proportion to the others: its quota in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weighted {
    /// The node.
    pub node: NodeId,
    /// Bytes. A node of weight 0 owns nothing as long as another has more.
    pub weight: u64,
}

/// A node, and since when it may have owned anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aged {
    /// The node.
    pub node: Weighted,
    /// On one clock for all of them, in milliseconds; negative: before that clock began.
    pub since_ms: i64,
}

/// Who owned an object for a shorter time than this has nothing of it: nodes that are started together are
/// heard of within seconds.
const OWNED_MS_MIN: i64 = 5_000;

/// Beyond an hour a longer time says no more: what is being read has been read by then.
const OWNED_MS_FULL: i64 = 60 * 60 * 1_000;

/// The finaliser of `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014).
fn mix(hash: u64) -> u64 {
    let mut z = hash;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How much a node wants an object; the highest owns it.
fn score(id: &ObjectId, candidate: &Weighted) -> f64 {
    // The second half of the id: a node's cache places its files over its directories by the first.
    let [.., a, b, c, d, e, f, g, h] = id.0;
    let hash = mix(u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ mix(candidate.node.0));
    #[expect(clippy::cast_precision_loss, reason = "a share, not a count")]
    let (uniform, weight) =
        (((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64, candidate.weight as f64);
    -weight / uniform.ln()
}

/// The node that owns the object; `None` only without nodes. Cost: about 30 ns a node (a 2-core VM;
/// 70 while it was busy), no allocation.
#[must_use]
pub fn owner(id: &ObjectId, nodes: &[Weighted]) -> Option<NodeId> {
    owner_among(id, nodes, |_| true)
}

/// As [`owner`], among the nodes of which `is_in` is true: the first of [`candidates`] that is.
#[must_use]
pub fn owner_among(
    id: &ObjectId,
    nodes: &[Weighted],
    is_in: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let scored = nodes.iter().filter(|it| is_in(it.node)).map(|it| (score(id, it), it.node));
    // The id decides between equals, so that the order of the list never does.
    let highest = scored.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    highest.map(|(_, node)| node)
}

/// All nodes in the order in which they are to be asked for the object, its owner first. Cost: about
/// 80 ns a node, one allocation.
#[must_use]
pub fn candidates(id: &ObjectId, nodes: &[Weighted]) -> Vec<NodeId> {
    let mut scored: Vec<_> = nodes.iter().map(|it| (score(id, it), it.node)).collect();
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    scored.into_iter().map(|(_, node)| node).collect()
}

/// Who owned the object before `me` came and most probably has it: among those that did, one after the other as
/// each was the youngest, the one that did for the longest time; of several for an hour or more, the last.
/// `None`: `me` is among the first, or all came at nearly the same time.
///
/// - `by_age`: all nodes, the oldest first. Who has left is of no interest: nobody can ask it.
///
/// Several nodes may join at once, and then the next candidate may be as new as `me`. Cost: as [`owner`].
#[must_use]
pub fn owner_before(id: &ObjectId, by_age: &[Aged], me: NodeId) -> Option<NodeId> {
    let mut owner: Option<(f64, NodeId, i64)> = None;
    let mut longest: Option<(i64, NodeId)> = None;
    for Aged { node: it, since_ms } in by_age {
        let score = score(id, it);
        let takes_over = owner.is_none_or(|(highest, node, _)| {
            score.total_cmp(&highest).then(it.node.cmp(&node)).is_gt()
        });
        if !takes_over && it.node != me {
            continue;
        }
        if let Some((_, node, from_ms)) = owner {
            let owned_ms = since_ms.saturating_sub(from_ms).min(OWNED_MS_FULL);
            if OWNED_MS_MIN <= owned_ms && longest.is_none_or(|(most, _)| most <= owned_ms) {
                longest = Some((owned_ms, node));
            }
        }
        if it.node == me {
            break;
        }
        owner = Some((score, it.node, *since_ms));
    }
    longest.map(|(_, node)| node)
}

/// True if a node may take one more request: its load stays within `1 + epsilon` times its share of
/// all load, rounded up. Some node always may.
///
/// - `load`, `load_total`: requests under way at the node, and at all nodes.
/// - `weight`, `weight_total`: its weight, and that of all nodes.
#[must_use]
pub fn is_within_bound(
    load: u64,
    load_total: u64,
    weight: u64,
    weight_total: u64,
    epsilon: f64,
) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "a share, not a count")]
    let bound = {
        let share = weight as f64 / weight_total.max(1) as f64;
        ((1.0 + epsilon) * (load_total + 1) as f64 * share).ceil()
    };
    #[expect(clippy::cast_precision_loss, reason = "requests under way are few")]
    let with_this = (load + 1) as f64;
    with_this <= bound
}

#[cfg(test)]
mod tests;
