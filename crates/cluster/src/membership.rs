//! Who belongs to the cluster: epochs of members, behind one trait.
//!
//! An epoch is a list of members that does not change; every change is a new epoch. Members are known
//! by what they say in their hello: an address alone is no member, because without its node's id and
//! quota nobody can say what it owns.
//!
//! # Invariants
//!
//! - This node is always a member, in its own eyes.
//! - Placement reads one epoch for one question; it never mixes two.
//! - A member that does not answer stays a member: others take over by placement's order, and give
//!   back when it answers again. Only what named it takes it away, and only while that can be heard
//!   (`book`).

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use xxhash_rust::xxh3::Xxh3;

use crate::placement::{Aged, NodeId, Weighted};

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// Its quota in bytes.
    pub quota_bytes: u64,
    /// `HOST:PORT` as configured; empty for this node itself.
    pub address: Arc<str>,
    /// Since when its cache has existed, as it said first, in milliseconds of this node's monotonic clock;
    /// negative: before that began.
    pub since_ms: i64,
}

/// The members at one time.
#[derive(Debug)]
pub struct Epoch {
    number: u64,
    departures: u64,
    members: Vec<Member>,
    weights: Vec<Weighted>,
    by_age: Vec<Aged>,
}

impl Epoch {
    /// An epoch of these members, each node once.
    #[must_use]
    pub fn new(number: u64, mut members: Vec<Member>) -> Self {
        members.sort_by_key(|member| member.node);
        members.dedup_by_key(|member| member.node);
        let weight = |it: &Member| Weighted { node: it.node, weight: it.quota_bytes };
        let weights = members.iter().map(weight).collect();
        let aged = |it: &Member| Aged { node: weight(it), since_ms: it.since_ms };
        let mut by_age: Vec<_> = members.iter().map(aged).collect();
        by_age.sort_by_key(|it| (it.since_ms, it.node.node));
        Self { number, departures: 0, members, weights, by_age }
    }

    /// The one after this, so many of whose members are not in it any more.
    fn next(&self, members: Vec<Member>, departures: usize) -> Arc<Self> {
        let departures = self.departures + departures as u64;
        Arc::new(Self { departures, ..Self::new(self.number + 1, members) })
    }

    /// Counts this node's epochs, from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Members that have left up to this one, each time one does.
    #[must_use]
    pub fn departures(&self) -> u64 {
        self.departures
    }

    /// Sorted by node.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What placement needs of them.
    #[must_use]
    pub fn weights(&self) -> &[Weighted] {
        &self.weights
    }

    /// The same, the oldest cache first.
    #[must_use]
    pub fn by_age(&self) -> &[Aged] {
        &self.by_age
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let found = self.members.binary_search_by_key(&node, |member| member.node);
        found.ok().map(|at| &self.members[at])
    }

    /// Equal on two nodes if they place alike: a hash of ids and quotas.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for it in &self.weights {
            hasher.update(&it.node.0.to_le_bytes());
            hasher.update(&it.weight.to_le_bytes());
        }
        hasher.digest()
    }
}

/// Where epochs come from.
pub trait Membership: fmt::Debug + Send + Sync {
    /// The epoch now. Cost: a short lock.
    fn current(&self) -> Arc<Epoch>;

    /// Every epoch from now on.
    fn changes(&self) -> watch::Receiver<Arc<Epoch>>;
}

/// Members as they are heard of: the current epoch, and how it becomes the next one. What learns of
/// members (a list that is greeted, a directory that is watched) writes here.
#[derive(Debug)]
pub struct Roster {
    epoch: watch::Sender<Arc<Epoch>>,
    me: NodeId,
}

impl Roster {
    /// Of this node alone: epoch 1.
    #[must_use]
    pub fn new(me: NodeId, quota_bytes: u64, since_ms: i64) -> Self {
        let member = Member { node: me, quota_bytes, address: "".into(), since_ms };
        Self { epoch: watch::Sender::new(Arc::new(Epoch::new(1, vec![member]))), me }
    }

    /// The node that answers at `address` is this one. A new epoch if that is news: who answered there
    /// before is no member any more, unless it answers elsewhere. True if it was.
    pub fn heard(&self, address: &Arc<str>, node: NodeId, quota_bytes: u64, since_ms: i64) -> bool {
        self.epoch.send_if_modified(|epoch| {
            if let Some(known) = epoch.member(node)
                && (node == self.me || known.quota_bytes == quota_bytes)
                && !epoch.members.iter().any(|it| it.address == *address && it.node != node)
            {
                return false;
            }
            let stays = |it: &&Member| it.address != *address && it.node != node;
            let mut members: Vec<_> = epoch.members.iter().filter(stays).cloned().collect();
            let left = epoch.members.len() - members.len();
            let departures = left - usize::from(epoch.member(node).is_some());
            let (address, since_ms) = match epoch.member(node) {
                // Listed under two names: the first one is as good.
                Some(known) => (Arc::clone(&known.address), known.since_ms),
                None => (Arc::clone(address), since_ms),
            };
            members.push(Member { node, quota_bytes, address, since_ms });
            *epoch = epoch.next(members, departures);
            true
        })
    }

    /// Nobody is to be asked at `address` any more: a new epoch if a member was there, and true then.
    pub fn gone(&self, address: &str) -> bool {
        self.epoch.send_if_modified(|epoch| {
            let stays = |it: &&Member| it.node == self.me || *it.address != *address;
            let members: Vec<_> = epoch.members.iter().filter(stays).cloned().collect();
            if members.len() == epoch.members.len() {
                return false;
            }
            let departures = epoch.members.len() - members.len();
            *epoch = epoch.next(members, departures);
            true
        })
    }
}

impl Membership for Roster {
    fn current(&self) -> Arc<Epoch> {
        Arc::clone(&self.epoch.borrow())
    }

    fn changes(&self) -> watch::Receiver<Arc<Epoch>> {
        self.epoch.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(roster: &Roster) -> Vec<(u64, u64, String)> {
        let epoch = roster.current();
        let told = |it: &Member| (it.node.0, it.quota_bytes, it.address.to_string());
        epoch.members().iter().map(told).collect()
    }

    #[test]
    fn members_are_those_that_were_heard_of_and_each_change_is_an_epoch() {
        let roster = Roster::new(NodeId(5), 100, 0);
        let heard = |address: &Arc<str>, node, quota_bytes| {
            roster.heard(address, NodeId(node), quota_bytes, -7)
        };
        let (a, b, c): (Arc<str>, Arc<str>, Arc<str>) = ("a:1".into(), "b:1".into(), "c:1".into());
        let number = || roster.current().number();
        assert_eq!((number(), addresses(&roster)), (1, vec![(5, 100, String::new())]));
        assert!(heard(&a, 1, 200));
        assert!(!heard(&a, 1, 200), "no news");
        assert!(!heard(&b, 1, 200), "the same node under another name");
        assert_eq!(number(), 2);
        assert!(heard(&a, 1, 300), "more quota");
        assert!(heard(&c, 9, 100));
        let known = [(1, 300, "a:1".into()), (5, 100, String::new()), (9, 100, "c:1".into())];
        assert_eq!((number(), addresses(&roster)), (4, known.to_vec()));
        // Another node answers there: its cache was emptied, or the machine replaced.
        assert!(heard(&c, 7, 100));
        assert_eq!(addresses(&roster)[2], (7, 100, "c:1".into()));
        assert_eq!(roster.current().departures(), 1, "the one before it");
        assert_eq!(roster.current().members().len(), 3);
        assert!(!heard(&b, 5, 1), "ourselves, whatever it says");
        assert!(roster.gone("a:1") && !roster.gone("a:1"));
        assert_eq!(roster.current().departures(), 2);
    }

    #[test]
    fn nodes_that_know_the_same_members_have_the_same_fingerprint() {
        let member = |node, quota_bytes, address: &str| Member {
            node: NodeId(node),
            quota_bytes,
            address: address.into(),
            since_ms: 0,
        };
        let mine = Epoch::new(3, vec![member(1, 10, ""), member(2, 20, "b:1")]);
        let theirs = Epoch::new(9, vec![member(2, 20, ""), member(1, 10, "a:1")]);
        assert_eq!(mine.fingerprint(), theirs.fingerprint());
        let other = Epoch::new(3, vec![member(1, 10, ""), member(2, 21, "b:1")]);
        assert_ne!(mine.fingerprint(), other.fingerprint());
    }
}
