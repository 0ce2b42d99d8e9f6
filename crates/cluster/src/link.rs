//! The link of the read chain between a node's cache and the bucket: ask the object's owner first.
//!
//! # One read
//!
//! The candidates of an object stand in placement's order. Those that are down are passed over, so that
//! when a node dies each of its objects has one new owner, the same for everybody, and nobody stampedes
//! the bucket. If this node is the first that is left, it asks who may have had the object before (`handover`),
//! then the bucket; else the first is asked, then one more, then the bucket. Who waits for a slow one is given what
//! others have, or fetch (`hedge`).
//!
//! # Invariants
//!
//! - A peer's trouble is never a read error, and a peer's word never is one: what it says about the
//!   bucket (gone, changed, forbidden) makes this node ask the bucket itself, which has the last word.
//! - At most two peers are asked for one read, each once; and while one is slow, two more for what they have.
//! - Bytes of a peer are used only if length and checksum are right.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::{
    BlockSource, Keeping, Object, ObjectId, Ownership, Priority, ReadError, Urgency,
};

use crate::fault::{Fault, Reason};
use crate::handover::Handover;
use crate::hedge::{From, Hedges, Way};
use crate::marks::Marks;
use crate::membership::{Epoch, Membership};
use crate::pace::{Said, Signs, way};
use crate::parts::LocalCopies;
use crate::peer::Peer;
use crate::peers::Peers;
use crate::placement::{NodeId, candidates, is_within_bound, owner_among, owner_before};
use crate::wire::{ITEM_BYTES_MAX, Item, ReadRequest};

/// Peers asked for one read at most: a third would be a search, not a fall-back.
const PEERS_ASKED_MAX: u32 = 2;

/// How far above its share of our requests a peer may be: twice. Only a node that is much slower than
/// the others gets there, and what is asked elsewhere costs a request to the bucket.
const LOAD_EPSILON: f64 = 1.0;

/// Requests under way at a peer below which it is never overloaded.
const LOAD_MIN: u64 = 128;

/// What is counted of reads; those of single peers are counted there.
#[derive(Debug, Default)]
pub(crate) struct LinkCounters {
    /// Reads answered by a peer.
    pub(crate) from_peers: AtomicU64,
    pub(crate) bytes_from_peers: AtomicU64,
    /// Of those, from a node that had them before this one, which owns them.
    pub(crate) handed_over: AtomicU64,
    /// Reads of what another node owns that went to the bucket, or may have.
    pub(crate) fell_back: AtomicU64,
}

/// What the link needs once the node has joined.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) me: NodeId,
    pub(crate) membership: Arc<dyn Membership>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) marks: Arc<Marks>,
    pub(crate) local_copies: LocalCopies,
    pub(crate) counters: LinkCounters,
    pub(crate) handover: Arc<Handover>,
    pub(crate) hedges: Hedges,
}

/// What is to be read.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) object: &'a Object,
    pub(crate) id: ObjectId,
    pub(crate) range: &'a Range<u64>,
    pub(crate) urgency: &'a Urgency,
}

impl Wanted<'_> {
    pub(crate) fn priority(&self) -> Priority {
        self.urgency.priority()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

/// See the module's head. Passes everything on until the node has joined a cluster.
#[derive(Debug)]
pub struct Link {
    next: Arc<dyn BlockSource>,
    joined: OnceLock<Joined>,
}

impl Link {
    /// In front of the bucket.
    #[must_use]
    pub fn new(next: Arc<dyn BlockSource>) -> Arc<Self> {
        Arc::new(Self { next, joined: OnceLock::new() })
    }

    pub(crate) fn join(&self, joined: Joined) {
        self.joined.set(joined).expect("a node joins once");
    }

    pub(crate) fn joined(&self) -> Option<&Joined> {
        self.joined.get()
    }
}

#[async_trait]
impl BlockSource for Link {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        self.read_shared(object, range, &Urgency::new(priority)).await
    }

    async fn read_shared(
        &self,
        object: &Object,
        range: Range<u64>,
        urgency: &Urgency,
    ) -> Result<Bytes, ReadError> {
        if let Some(joined) = self.joined.get()
            && let Some(bytes) = joined.ask_peers(&*self.next, object, &range, urgency).await
        {
            return Ok(bytes);
        }
        self.next.read_shared(object, range, urgency).await
    }
}

impl Ownership for Link {
    fn keeping(&self, id: &ObjectId) -> Keeping {
        match self.joined.get() {
            Some(joined) if !joined.is_ours(id) => match joined.local_copies {
                LocalCopies::Auto => Keeping::Copy,
                LocalCopies::Always => Keeping::Own,
                LocalCopies::Never => Keeping::Pass,
            },
            _ => Keeping::Own,
        }
    }

    fn has_copies(&self) -> bool {
        self.joined.get().is_some_and(|joined| joined.local_copies == LocalCopies::Auto)
    }
}

impl Joined {
    pub(crate) fn peer(&self, epoch: &Epoch, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.of(&epoch.member(node)?.address)
    }

    pub(crate) fn is_up(&self, epoch: &Epoch, node: NodeId) -> bool {
        node == self.me || self.peer(epoch, node).is_some_and(|peer| !peer.health.is_down())
    }

    /// True if the node can be asked, however slow it is.
    pub(crate) fn is_there(&self, epoch: &Epoch, node: NodeId) -> bool {
        node == self.me || self.peer(epoch, node).is_some_and(|peer| !peer.health.is_gone())
    }

    /// True if this node owns the object, or takes over for an owner that is down.
    fn is_ours(&self, id: &ObjectId) -> bool {
        let epoch = self.membership.current();
        let owner = owner_among(id, epoch.weights(), |node| self.is_up(&epoch, node));
        owner.is_none_or(|owner| owner == self.me)
    }

    /// The bytes from another node; `None`: the bucket is next.
    async fn ask_peers(
        &self,
        next: &dyn BlockSource,
        object: &Object,
        range: &Range<u64>,
        urgency: &Urgency,
    ) -> Option<Bytes> {
        let epoch = self.membership.current();
        if epoch.members().len() < 2 || range.is_empty() || ITEM_BYTES_MAX < range.end - range.start
        {
            return None;
        }
        let id = object.id();
        let order = candidates(&id, epoch.weights());
        let wanted = Wanted { object, id, range, urgency };
        let mut asked = 0;
        for node in &order {
            if *node == self.me {
                if asked == 0 {
                    return self.handed_over(&epoch, &order, &wanted).await;
                }
                break;
            }
            let Some(peer) = self.peer(&epoch, *node) else { continue };
            if let Some(reason) = self.passes_over(&epoch, &peer, *node, wanted.priority()) {
                peer.counters.pass(reason);
                continue;
            }
            // Somebody waits for us to answer this very object: then nobody else is asked.
            let Some(_mark) = self.marks.ask(id) else { break };
            asked += 1;
            let way =
                Way { epoch: &epoch, order: &order, node: *node, peer: &peer, wanted: &wanted };
            match self.read_hedged(next, way).await {
                Ok((bytes, from)) => {
                    if from == From::Peer {
                        self.count(&bytes);
                    }
                    return Some(bytes);
                }
                Err(fault) => {
                    tracing::debug!(peer = %peer.address, key = %object.key, "passed by: {fault}");
                    peer.note(&fault);
                    if fault.reason == Reason::Bucket {
                        break;
                    }
                }
            }
            if asked == PEERS_ASKED_MAX {
                break;
            }
        }
        self.counters.fell_back.fetch_add(1, Ordering::Relaxed);
        None
    }

    pub(crate) fn count(&self, bytes: &Bytes) {
        self.counters.from_peers.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_from_peers.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    /// Why a peer is not even asked, if so.
    fn passes_over(
        &self,
        epoch: &Epoch,
        peer: &Peer,
        node: NodeId,
        priority: Priority,
    ) -> Option<Reason> {
        if peer.health.is_down() {
            return Some(if peer.health.is_slow() { Reason::Slow } else { Reason::Down });
        }
        let load = peer.in_flight();
        // Nobody waits for fill: it rather waits than costs the bucket a request.
        if load < LOAD_MIN || priority == Priority::Fill {
            return None;
        }
        let (mut load_total, mut weight, mut weight_total) = (0, 0, 0);
        for member in epoch.members().iter().filter(|member| member.node != self.me) {
            let Some(other) = self.peers.of(&member.address) else { continue };
            if !other.health.is_down() {
                load_total += other.in_flight();
                weight_total += member.quota_bytes;
            }
            if member.node == node {
                weight = member.quota_bytes;
            }
        }
        let within = is_within_bound(load, load_total, weight, weight_total, LOAD_EPSILON);
        (!within).then_some(Reason::Full)
    }

    /// This node owns the object and does not have it. Who owned it before, and who stands in for this node
    /// when it is passed by, may have it; they are asked for no more than what they have (`handover`).
    async fn handed_over(
        &self,
        epoch: &Epoch,
        order: &[NodeId],
        wanted: &Wanted<'_>,
    ) -> Option<Bytes> {
        self.handover.is_in(epoch.number());
        let is_up = |node: &NodeId| *node != self.me && self.is_up(epoch, *node);
        let before = owner_before(&wanted.id, epoch.by_age(), self.me).filter(is_up);
        let stand_in = order.iter().copied().find(is_up).filter(|node| before != Some(*node));
        let asked = [(before, &self.handover.before), (stand_in, &self.handover.stand_in)];
        for (node, credit) in asked {
            let Some(peer) = node.and_then(|node| self.peer(epoch, node)) else { continue };
            if !credit.is_due() {
                continue;
            }
            match read(&peer, wanted, true, &Signs::default()).await {
                Ok(bytes) => {
                    credit.found();
                    self.count(&bytes);
                    self.counters.handed_over.fetch_add(1, Ordering::Relaxed);
                    return Some(bytes);
                }
                Err(fault) => {
                    credit.in_vain();
                    if fault.reason != Reason::NotCached {
                        peer.note(&fault);
                    }
                }
            }
        }
        None
    }
}

/// One object's bytes from a peer.
pub(crate) async fn read(
    peer: &Peer,
    wanted: &Wanted<'_>,
    only_cached: bool,
    signs: &Signs,
) -> Result<Bytes, Fault> {
    let request = ReadRequest {
        demand: wanted.priority() == Priority::Demand,
        only_cached,
        items: vec![Item::new(wanted.object, &wanted.id, wanted.range)],
    };
    let mut answer = peer.ask(&request, vec![wanted.bytes()], signs).await?;
    let given = match answer.next(signs).await? {
        Some((_, given)) => given?,
        None => return Err(Fault::new(Reason::Wrong, "an answer without the object")),
    };
    let took = answer.took();
    // Nothing may follow: a peer that says more than it was asked is not trusted with the rest.
    if answer.next(signs).await?.is_some() {
        return Err(Fault::new(Reason::Wrong, "more than was asked for"));
    }
    if !answer.has_waited() {
        peer.health.answered(took);
    }
    if let Some(sent) = signs.sent_at() {
        let now = answer.now();
        let took = match signs.said() {
            None => {
                let way = way(wanted.bytes(), peer.in_flight());
                Some(now.saturating_sub(sent).saturating_sub(way))
            }
            Some(Said { is_here: false, at }) => Some(at.saturating_sub(sent)),
            // Its disk is slow, which is not usual.
            Some(Said { is_here: true, .. }) => None,
        };
        took.into_iter().for_each(|took| peer.pace.answered(took, now));
    }
    peer.counters.objects.fetch_add(1, Ordering::Relaxed);
    peer.counters.bytes.fetch_add(given.len() as u64, Ordering::Relaxed);
    Ok(given)
}
