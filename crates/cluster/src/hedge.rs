//! A second way for a read that the first peer keeps waiting ("The Tail at Scale", Dean and Barroso, 2013), such that
//! the bucket hardly notices.
//!
//! Once a peer has said nothing for longer than it usually does (`pace`), those that may have the object are asked
//! for no more than what they have: that costs the bucket nothing. When the read is late and the peer has been late
//! before, or says itself that only its disk is waited for, the next candidate is asked to fetch it, or the bucket,
//! if that is this node. A peer that says that it is fetching is not slow: its bucket is, and we would ask the same.
//!
//! # Invariants
//!
//! - Only reads for which somebody waits are hedged: fill and loads wait.
//! - Who comes first is used, the other one's request is dropped.
//! - Requests that may cost the bucket one are a small share of the demand reads that go to peers, and hedges under
//!   way have a maximum.
//! - If all peers look slow the trouble is this node's own: no more than half of the nodes are passed by for it.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use feedline_model::{BlockSource, Clock, Priority};
use tokio::sync::Semaphore;

use crate::fault::{Fault, Reason};
use crate::link::{Joined, Wanted, read};
use crate::membership::Epoch;
use crate::pace::{self, Signs};
use crate::parts::within;
use crate::peer::Peer;
use crate::placement::{NodeId, owner_before};

/// Hedges under way at most: each may hold an object twice.
const UNDER_WAY_MAX: usize = 32;

/// What one demand read brings to the budget, and what a request that the bucket may notice takes: 3 %.
const EARNS: u32 = 3;
const COSTS: u32 = 100;

/// The budget holds so many requests at most, and begins with [`FIRST`]: a job that has just begun has earned none.
const MOST: u32 = 16;
const FIRST: u32 = 4;

/// A timer that wakes us later than this says that this node is slow, and nothing of the peer.
const OVERSLEPT: Duration = Duration::from_millis(100);

/// What hedges may cost.
#[derive(Debug)]
pub(crate) struct Hedges {
    budget: AtomicU32,
    room: Semaphore,
}

impl Hedges {
    pub(crate) fn new() -> Self {
        Self { budget: AtomicU32::new(FIRST * COSTS), room: Semaphore::new(UNDER_WAY_MAX) }
    }

    /// A demand read goes to a peer.
    fn earn(&self) {
        let more = |left: u32| (left < MOST * COSTS).then(|| (left + EARNS).min(MOST * COSTS));
        // Full is as good.
        let _ = self.budget.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// True if the bucket may be asked once more.
    fn take(&self) -> bool {
        let less = |left: u32| left.checked_sub(COSTS);
        self.budget.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
    }
}

/// One read, from whom, and where else the object may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) epoch: &'a Epoch,
    pub(crate) order: &'a [NodeId],
    pub(crate) node: NodeId,
    pub(crate) peer: &'a Peer,
    pub(crate) wanted: &'a Wanted<'a>,
}

/// Who gave the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Peer,
    Bucket,
}

impl Joined {
    /// The bytes from the peer, or from somebody else while it keeps us waiting.
    pub(crate) async fn read_hedged(
        &self,
        next: &dyn BlockSource,
        way: Way<'_>,
    ) -> Result<(Bytes, From), Fault> {
        let signs = Signs::default();
        let asked = read(way.peer, way.wanted, false, &signs);
        if way.wanted.priority != Priority::Demand || !way.peer.says_at_once() {
            return asked.await.map(|bytes| (bytes, From::Peer));
        }
        self.hedges.earn();
        let (asked, other) = (pin!(asked), pin!(self.elsewhere(next, way, &signs)));
        tokio::select! {
            biased;
            given = asked => given.map(|bytes| (bytes, From::Peer)),
            given = other => {
                way.peer.counters.pass(Reason::Slow);
                Ok(given)
            }
        }
    }

    /// Completes with what somebody else gave because the peer was slow; else never.
    async fn elsewhere(
        &self,
        next: &dyn BlockSource,
        way: Way<'_>,
        signs: &Signs,
    ) -> (Bytes, From) {
        let sent = signs.until_sent().await;
        let bounds = way.peer.pace.bounds();
        let start = sent + pace::way(way.wanted.bytes(), way.peer.in_flight());
        if is_silent_until(&*self.peers.world.clock, signs, start + bounds.ask).await {
            // Apart, so that the reads that need none of it are small.
            let second = Box::pin(self.second_way(next, way, signs, start + bounds.late));
            if let Some(given) = second.await {
                return given;
            }
        }
        std::future::pending().await
    }

    /// What others have, and what they fetch once the read is late.
    async fn second_way(
        &self,
        next: &dyn BlockSource,
        way: Way<'_>,
        signs: &Signs,
        late_at: Duration,
    ) -> Option<(Bytes, From)> {
        let clock = &*self.peers.world.clock;
        let room = self.hedges.room.try_acquire().ok();
        if room.is_some() {
            let left = late_at.saturating_sub(clock.monotonic());
            if let Some(Some(bytes)) = within(clock, left, self.had_by_others(way)).await {
                return Some((bytes, From::Peer));
            }
        }
        if !is_silent_until(clock, signs, late_at).await {
            return None;
        }
        let now = clock.monotonic();
        let says_so = signs.said().is_some();
        if !says_so && late_at + OVERSLEPT < now {
            return None;
        }
        self.is_late(way.peer, now);
        let may_cost = says_so || way.peer.pace.is_suspect();
        if room.is_none() || !may_cost || !self.hedges.take() {
            return None;
        }
        self.counters.fell_back.fetch_add(1, Ordering::Relaxed);
        self.fetched_elsewhere(next, way).await
    }

    /// What others have, of those that may: who owned it before that peer came, and who stands in for it.
    async fn had_by_others(&self, way: Way<'_>) -> Option<Bytes> {
        let is_asked =
            |node: &NodeId| *node != self.me && *node != way.node && self.is_up(way.epoch, *node);
        let before = owner_before(&way.wanted.id, way.epoch.by_age(), way.node).filter(is_asked);
        let stand_in = way.order.iter().copied().find(is_asked).filter(|it| before != Some(*it));
        for node in [before, stand_in].into_iter().flatten() {
            let Some(peer) = self.peer(way.epoch, node) else { continue };
            match read(&peer, way.wanted, true, &Signs::default()).await {
                Ok(bytes) => return Some(bytes),
                Err(fault) if fault.reason == Reason::NotCached => {}
                Err(fault) => peer.note(&fault),
            }
        }
        None
    }

    /// As if the peer were down: from the next candidate, which fetches it for all that ask; from the bucket if
    /// that is this node.
    async fn fetched_elsewhere(
        &self,
        next: &dyn BlockSource,
        way: Way<'_>,
    ) -> Option<(Bytes, From)> {
        let is_next = |node: &NodeId| *node != way.node && self.is_up(way.epoch, *node);
        let stand_in = way.order.iter().copied().find(is_next)?;
        if stand_in == self.me {
            let Wanted { object, range, priority, .. } = way.wanted;
            // What the bucket says now it says again, if the peer fails as well.
            let bytes = next.read(object, (*range).clone(), *priority).await.ok()?;
            return Some((bytes, From::Bucket));
        }
        let peer = self.peer(way.epoch, stand_in)?;
        match read(&peer, way.wanted, false, &Signs::default()).await {
            Ok(bytes) => Some((bytes, From::Peer)),
            Err(fault) => {
                peer.note(&fault);
                None
            }
        }
    }

    /// Counts a late read, and passes the peer by for a while if it is slow by now.
    fn is_late(&self, peer: &Peer, now: Duration) {
        if !peer.pace.late(now) {
            return;
        }
        let peers = self.peers.all();
        let slow = peers.iter().filter(|peer| peer.health.is_slow()).count();
        if peers.len() + 1 < (slow + 1) * 2 {
            return;
        }
        let late = peer.pace.bounds().late;
        let message = format!("reads took longer than {late:?}, one after the other");
        peer.fail(&Fault::new(Reason::Slow, message));
    }
}

/// True at that time if the peer has said nothing by then, or as soon as it says that only its disk is waited for;
/// false once it says that it is fetching.
async fn is_silent_until(clock: &dyn Clock, signs: &Signs, at: Duration) -> bool {
    let left = at.saturating_sub(clock.monotonic());
    let _ = within(clock, left, signs.until_said()).await;
    signs.said().is_none_or(|said| said.is_here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_per_cent_of_the_reads_may_cost_the_bucket_a_request() {
        let hedges = Hedges::new();
        assert_eq!((0..100).filter(|_| hedges.take()).count(), FIRST as usize);
        let taken = (0..10_000).filter(|_| {
            hedges.earn();
            hedges.take()
        });
        assert_eq!(taken.count(), 300);
        (0..10_000).for_each(|_| hedges.earn());
        assert_eq!(
            (0..100).filter(|_| hedges.take()).count(),
            MOST as usize,
            "no more is saved up"
        );
    }
}
