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
//! - Only reads for which somebody waits are hedged, and from when on somebody does: fill and loads wait, until a
//!   demand read joins them.
//! - Who comes first is used, the other one's request is dropped.
//! - Requests that may cost the bucket one are a small share of the demand reads that go to peers, and hedges under
//!   way have a maximum.
//! - If all peers look slow the trouble is this node's own: no more than half of the nodes are passed by for it.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use feedline_model::{BlockSource, Clock, Priority, Urgency};
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
        if !way.peer.says_at_once() {
            return asked.await.map(|bytes| (bytes, From::Peer));
        }
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
        let wait = Wait::begin(&*self.peers.world.clock, signs, way.wanted.urgency).await;
        self.hedges.earn();
        let sent = signs.until_sent().await.max(wait.since);
        let bounds = way.peer.pace.bounds();
        let start = sent + pace::way(way.wanted.bytes(), way.peer.in_flight());
        if wait.is_silent_until(start + bounds.ask).await {
            // Apart, so that the reads that need none of it are small.
            let second = Box::pin(self.second_way(next, way, wait, start + bounds.late));
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
        wait: Wait<'_>,
        late_at: Duration,
    ) -> Option<(Bytes, From)> {
        let clock = wait.clock;
        let room = self.hedges.room.try_acquire().ok();
        if room.is_some() {
            let left = late_at.saturating_sub(clock.monotonic());
            if let Some(Some(bytes)) = within(clock, left, self.had_by_others(way)).await {
                return Some((bytes, From::Peer));
            }
        }
        if !wait.is_silent_until(late_at).await {
            return None;
        }
        let now = clock.monotonic();
        if !wait.has_news() && late_at + OVERSLEPT < now {
            return None;
        }
        self.is_late(way.peer, now);
        let says_so = wait.signs.said().is_some();
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
            let Wanted { object, range, urgency, .. } = way.wanted;
            // What the bucket says now it says again, if the peer fails as well.
            let bytes = next.read_shared(object, (*range).clone(), urgency).await.ok()?;
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

/// Somebody waits for what is heard of a read.
#[derive(Debug, Clone, Copy)]
struct Wait<'a> {
    clock: &'a dyn Clock,
    signs: &'a Signs,
    /// From when on; zero if it was from the start.
    since: Duration,
}

impl<'a> Wait<'a> {
    /// Completes when somebody does: at once for a demand read, and for a fill when one joins it.
    async fn begin(clock: &'a dyn Clock, signs: &'a Signs, urgency: &Urgency) -> Self {
        if urgency.priority() == Priority::Demand {
            return Self { clock, signs, since: Duration::ZERO };
        }
        urgency.until_demand().await;
        Self { clock, signs, since: clock.monotonic() }
    }

    /// True if the peer has said something since.
    fn has_news(&self) -> bool {
        self.signs.said().is_some_and(|said| self.since <= said.at)
    }

    /// True at that time if the peer has said nothing by then, or as soon as it says that only its disk is waited
    /// for; false if it says that it is fetching. What it said before is no reason to wait less.
    async fn is_silent_until(&self, at: Duration) -> bool {
        let left = at.saturating_sub(self.clock.monotonic());
        if self.signs.said().is_some() && !self.has_news() {
            self.clock.sleep(left).await;
        } else {
            let _ = within(self.clock, left, self.signs.until_said()).await;
        }
        self.signs.said().is_none_or(|said| said.is_here)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use feedline_testkit::FakeClock;
    use futures::FutureExt as _;

    use super::*;
    use crate::pace::Said;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_time_of_a_fill_counts_from_when_a_demand_read_joins_it() {
        let (clock, signs) = (FakeClock::new(), Signs::default());
        let urgency = Urgency::new(Priority::Fill);
        let mut begin = pin!(Wait::begin(&clock, &signs, &urgency));
        clock.advance(ms(700));
        assert!(begin.as_mut().now_or_never().is_none(), "nobody waits for a fill");
        urgency.raise(Priority::Demand);
        let wait = begin.now_or_never().expect("somebody does");
        assert_eq!(wait.since, ms(700));
        let urgent = Urgency::new(Priority::Demand);
        let from_the_start = Wait::begin(&clock, &signs, &urgent).now_or_never();
        assert_eq!(from_the_start.map(|wait| wait.since), Some(Duration::ZERO));
    }

    #[test]
    fn what_a_peer_said_before_somebody_waits_is_no_reason_to_wait_less() {
        let clock = FakeClock::new();
        let says = |is_here, at| {
            let signs = Signs::default();
            signs.heard(Said { is_here, at });
            signs
        };
        clock.advance(ms(1_000));
        let silent_at = |signs: &Signs, since, at| {
            let wait = Wait { clock: &clock, signs, since };
            wait.is_silent_until(at).now_or_never()
        };
        // Its disk: known for long, and heard while somebody waits.
        let (before, since) = (says(true, ms(300)), ms(500));
        assert_eq!(silent_at(&before, since, ms(1_001)), None);
        assert_eq!(silent_at(&before, since, ms(1_000)), Some(true));
        assert_eq!(silent_at(&says(true, ms(600)), since, ms(5_000)), Some(true));
        assert_eq!(silent_at(&before, Duration::ZERO, ms(5_000)), Some(true));
        // Its bucket: never a reason.
        assert_eq!(silent_at(&says(false, ms(300)), since, ms(1_000)), Some(false));
        assert_eq!(silent_at(&says(false, ms(600)), since, ms(5_000)), Some(false));
        assert_eq!(silent_at(&Signs::default(), since, ms(1_001)), None);
        assert_eq!(silent_at(&Signs::default(), since, ms(1_000)), Some(true));
    }

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
