//! Who answers at the addresses that this node was told of: each is greeted for as long as it is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use feedline_model::Clock;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::fault::{Fault, Reason};
use crate::membership::{Membership as _, Roster};
use crate::pace::LATE_MIN;
use crate::peer::Peer;
use crate::peers::Peers;
use crate::placement::NodeId;
use crate::wire::HelloAnswer;

/// How often a peer that answers is greeted: its quota or its node may have changed.
const GREET_EVERY: Duration = Duration::from_secs(5);

/// The first pause after a greeting that failed; twice as long each time, up to [`GREET_EVERY`].
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What must have answered once, or failed to, before a start has waited enough.
#[derive(Debug, Clone)]
pub(crate) struct Pending(Arc<watch::Sender<usize>>);

impl Pending {
    pub(crate) fn of(count: usize) -> Self {
        Self(Arc::new(watch::Sender::new(count)))
    }

    pub(crate) fn one_more(&self) {
        self.0.send_modify(|pending| *pending += 1);
    }

    pub(crate) fn one_less(&self) {
        self.0.send_modify(|pending| *pending -= 1);
    }

    /// Completes when nothing is.
    pub(crate) async fn settled(&self) {
        let mut pending = self.0.subscribe();
        // An error means that those who would answer have ended.
        let _ = pending.wait_for(|pending| *pending == 0).await;
    }
}

/// Who answered, as the roster wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Greeted {
    node: NodeId,
    quota_bytes: u64,
    since_ms: i64,
}

/// No cache is older, whatever a node says.
const AGE_MS_MAX: i64 = 100 * 365 * 24 * 60 * 60 * 1_000;

/// Milliseconds of a monotonic clock.
pub(crate) fn now_ms(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.monotonic().as_millis()).unwrap_or(i64::MAX)
}

/// Since when a cache of this age has existed, in milliseconds of the clock. A node that does not say is of an older
/// version, and so has been there for long.
pub(crate) fn since_ms(clock: &dyn Clock, age_ms: Option<u64>) -> i64 {
    let age_ms = age_ms.and_then(|age_ms| i64::try_from(age_ms).ok()).unwrap_or(AGE_MS_MAX);
    now_ms(clock).saturating_sub(age_ms.min(AGE_MS_MAX))
}

/// What the greetings of one address have come to.
#[derive(Debug, Default)]
struct Record {
    is_tried: AtomicBool,
    /// Greetings that failed, in a row.
    failed: AtomicU32,
    /// Who answered last.
    node: Mutex<Option<Greeted>>,
    /// Cuts the pause short.
    now: Notify,
}

impl Record {
    fn tried(&self, pending: &Pending) {
        if !self.is_tried.swap(true, Ordering::AcqRel) {
            pending.one_less();
        }
    }
}

#[derive(Debug)]
struct Entry {
    /// How many want it greeted: a list and a name may both have it.
    wanted: usize,
    record: Arc<Record>,
    task: JoinHandle<()>,
}

/// See the module's head. Addresses come and go from one task alone; dropping it ends all greetings.
#[derive(Debug)]
pub(crate) struct Greeters {
    peers: Arc<Peers>,
    roster: Arc<Roster>,
    pending: Pending,
    /// In order, so that all end in one order as well.
    entries: Mutex<BTreeMap<Arc<str>, Entry>>,
}

impl Greeters {
    pub(crate) fn new(peers: Arc<Peers>, roster: Arc<Roster>, pending: Pending) -> Self {
        Self { peers, roster, pending, entries: Mutex::default() }
    }

    /// Greets `address` from now on. What is heard goes into the roster.
    pub(crate) fn add(&self, address: &Arc<str>) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(address) {
            entry.wanted += 1;
            return;
        }
        self.pending.one_more();
        let record = Arc::new(Record::default());
        let greeter = Greeter {
            peer: self.peers.add(address),
            peers: Arc::clone(&self.peers),
            roster: Arc::clone(&self.roster),
            pending: self.pending.clone(),
            record: Arc::clone(&record),
        };
        let task = self.peers.world.runtime.spawn(greeter.run());
        entries.insert(Arc::clone(address), Entry { wanted: 1, record, task });
    }

    /// Whoever is there is no member any more, unless it also answers at another address.
    pub(crate) async fn remove(&self, address: &str) {
        let entry = {
            let mut entries = self.entries.lock();
            let Some(entry) = entries.get_mut(address) else { return };
            entry.wanted -= 1;
            if 0 < entry.wanted {
                return;
            }
            entries.remove(address)
        };
        let Some(entry) = entry else { return };
        // To its end: a greeting under way must not bring back what is taken out below.
        entry.task.abort();
        let _ = entry.task.await;
        entry.record.tried(&self.pending);
        match self.also_at(address) {
            Some((heir, it)) => {
                self.roster.gone(address);
                self.roster.heard(&heir, it.node, it.quota_bytes, it.since_ms);
            }
            None => {
                if self.roster.gone(address) {
                    tracing::info!(peer = address, "belongs to the cluster no more");
                }
            }
        }
        self.peers.remove(address);
    }

    /// Another address of the member that is known at this one.
    fn also_at(&self, address: &str) -> Option<(Arc<str>, Greeted)> {
        let epoch = self.roster.current();
        let member = epoch.members().iter().find(|member| *member.address == *address)?;
        let entries = self.entries.lock();
        let same = entries.iter().filter_map(|(other, entry)| {
            let it = (*entry.record.node.lock())?;
            let answers = entry.record.failed.load(Ordering::Acquire) == 0;
            (it.node == member.node && answers).then(|| (Arc::clone(other), it))
        });
        same.min()
    }

    /// Greets it now, and counts its failures anew.
    pub(crate) fn test(&self, address: &str) {
        if let Some(entry) = self.entries.lock().get(address) {
            entry.record.failed.store(0, Ordering::Release);
            entry.record.now.notify_one();
        }
    }

    /// Greetings of it that failed in a row.
    pub(crate) fn failed(&self, address: &str) -> u32 {
        let entries = self.entries.lock();
        entries.get(address).map_or(0, |entry| entry.record.failed.load(Ordering::Acquire))
    }

    pub(crate) fn end(&self) {
        self.entries.lock().values().for_each(|entry| entry.task.abort());
    }
}

impl Drop for Greeters {
    fn drop(&mut self) {
        self.end();
    }
}

/// Greets one address.
struct Greeter {
    peer: Arc<Peer>,
    peers: Arc<Peers>,
    roster: Arc<Roster>,
    pending: Pending,
    record: Arc<Record>,
}

impl Greeter {
    async fn run(self) {
        let clock = Arc::clone(&self.peers.world.clock);
        let mut pause = AGAIN_AFTER;
        loop {
            let began = clock.monotonic();
            let greeted = self.peer.greet().await;
            let now = clock.monotonic();
            let result = match greeted {
                Ok(answer) if self.is_me(&answer) => {
                    // Nobody asks itself.
                    self.peers.remove(&self.peer.address);
                    self.record.tried(&self.pending);
                    return;
                }
                Ok(answer) => self.welcome(&answer).and_then(|()| self.is_quick(now - began)),
                Err(fault) => Err(fault),
            };
            match result {
                Ok(()) => {
                    pause = AGAIN_AFTER;
                    self.record.failed.store(0, Ordering::Release);
                    if self.peer.health.greeted(now) {
                        tracing::info!(peer = %self.peer.address, "answers again");
                    }
                }
                Err(fault) => {
                    self.record.failed.fetch_add(1, Ordering::AcqRel);
                    if self.peer.health.is_gone() || fault.reason == Reason::Slow {
                        // Nobody answered at first, as while all start; who does now is not let in.
                        let is_news = self.peer.health.still_down(&fault, now);
                        if is_news && fault.reason.is_lasting() {
                            tracing::warn!(peer = %self.peer.address, "still passed by: {fault}");
                        }
                    } else {
                        self.peer.note(&fault);
                    }
                }
            }
            self.record.tried(&self.pending);
            self.wait(&mut pause).await;
        }
    }

    /// A peer that is passed by for being slow must not be slow in greeting as well.
    fn is_quick(&self, took: Duration) -> Result<(), Fault> {
        if !self.peer.health.is_slow() || took < LATE_MIN.max(self.peer.pace.bounds().late) {
            return Ok(());
        }
        Err(Fault::new(Reason::Slow, format!("a greeting took {took:?}")))
    }

    fn is_me(&self, answer: &HelloAnswer) -> bool {
        let me = &self.peers.world.me.hello;
        (answer.node, answer.instance) == (me.node, me.instance)
    }

    fn welcome(&self, answer: &HelloAnswer) -> Result<(), Fault> {
        let me = &self.peers.world.me.hello;
        if answer.node == me.node {
            let message = "it has this node's own id, as a copied cache directory has: empty the \
                 cache directory of one of the two";
            return Err(Fault::new(Reason::Refused, message));
        }
        let (node, quota_bytes) = (NodeId(answer.node), answer.quota_bytes);
        let since_ms = since_ms(&*self.peers.world.clock, answer.age_ms);
        *self.record.node.lock() = Some(Greeted { node, quota_bytes, since_ms });
        // A node keeps its id wherever it runs: one that no longer answers where it was has moved here.
        if let Some(known) = self.roster.current().member(node)
            && known.address != self.peer.address
            && self.peers.of(&known.address).is_none_or(|old| old.health.is_gone())
        {
            self.roster.gone(&known.address);
        }
        if self.roster.heard(&self.peer.address, node, quota_bytes, since_ms) {
            tracing::info!(peer = %self.peer.address, %node, quota_bytes, version = answer.version,
                "belongs to the cluster");
        }
        Ok(())
    }

    /// Until the next greeting is due.
    async fn wait(&self, pause: &mut Duration) {
        let clock = &self.peers.world.clock;
        let due = async {
            match self.peer.health.due() {
                Some(due) => {
                    let left = due.saturating_sub(clock.monotonic());
                    // A node that starts is heard of soon, whatever it was held for.
                    clock.sleep(left.max(*pause).min(GREET_EVERY)).await;
                    *pause = (*pause * 2).min(GREET_EVERY);
                }
                None => tokio::select! {
                    biased;
                    () = clock.sleep(GREET_EVERY) => {}
                    () = self.peer.health.went_down() => {}
                },
            }
        };
        tokio::select! {
            biased;
            () = due => {}
            () = self.record.now.notified() => {}
        }
    }
}
