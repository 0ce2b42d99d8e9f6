//! The peers of this node by address, and the list that it was given: who answers there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::fault::{Fault, Reason};
use crate::membership::{Membership as _, Roster};
use crate::peer::{Peer, World};
use crate::placement::NodeId;
use crate::wire::HelloAnswer;

/// How often a peer that answers is greeted: its quota or its node may have changed.
const GREET_EVERY: Duration = Duration::from_secs(5);

/// The first pause after a greeting that failed; twice as long each time, up to [`GREET_EVERY`].
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// All peers ever addressed. Never more than addresses were configured or heard of.
#[derive(Debug)]
pub(crate) struct Peers {
    world: World,
    by_address: RwLock<HashMap<Arc<str>, Arc<Peer>>>,
}

impl Peers {
    pub(crate) fn new(world: World) -> Arc<Self> {
        Arc::new(Self { world, by_address: RwLock::default() })
    }

    /// The peer at an address that has been added.
    pub(crate) fn of(&self, address: &str) -> Option<Arc<Peer>> {
        self.by_address.read().get(address).cloned()
    }

    fn add(&self, address: &Arc<str>) -> Arc<Peer> {
        let mut peers = self.by_address.write();
        let peer = peers.entry(Arc::clone(address));
        Arc::clone(
            peer.or_insert_with(|| Arc::new(Peer::new(Arc::clone(address), self.world.clone()))),
        )
    }

    fn remove(&self, address: &str) {
        self.by_address.write().remove(address);
    }

    /// All, sorted by address.
    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        let mut all: Vec<_> = self.by_address.read().values().cloned().collect();
        all.sort_by(|a, b| a.address.cmp(&b.address));
        all
    }
}

/// A list of addresses that is greeted until all have answered, and then kept an eye on.
#[derive(Debug)]
pub(crate) struct StaticList {
    /// How many addresses have been tried at least once.
    tried: watch::Receiver<usize>,
    addresses: usize,
    _tasks: JoinSet<()>,
}

impl StaticList {
    /// Starts greeting. What is heard goes into `roster`.
    pub(crate) fn start(addresses: &[String], peers: &Arc<Peers>, roster: &Arc<Roster>) -> Self {
        let (tried, seen) = watch::channel(0);
        let tried = Arc::new(tried);
        let mut tasks = JoinSet::new();
        for address in addresses {
            let greeter = Greeter {
                peer: peers.add(&Arc::from(address.as_str())),
                peers: Arc::clone(peers),
                roster: Arc::clone(roster),
            };
            let tried = Arc::clone(&tried);
            let runtime = peers.world.runtime.clone();
            tasks.spawn_on(
                async move { greeter.run(|| tried.send_modify(|tried| *tried += 1)).await },
                &runtime,
            );
        }
        Self { tried: seen, addresses: addresses.len(), _tasks: tasks }
    }

    /// Completes when every address has been tried once.
    pub(crate) async fn settled(&self) {
        let mut tried = self.tried.clone();
        // An error means that the greeters have ended: nobody else will answer.
        let _ = tried.wait_for(|tried| self.addresses <= *tried).await;
    }
}

/// Greets one address for as long as the node runs.
struct Greeter {
    peer: Arc<Peer>,
    peers: Arc<Peers>,
    roster: Arc<Roster>,
}

impl Greeter {
    async fn run(self, mut tried: impl FnMut()) {
        let clock = Arc::clone(&self.peers.world.clock);
        let mut pause = AGAIN_AFTER;
        let mut is_first = true;
        loop {
            let greeted = self.peer.greet().await;
            let now = clock.monotonic();
            let result = match greeted {
                Ok(answer) if self.is_me(&answer) => {
                    // Nobody asks itself.
                    self.peers.remove(&self.peer.address);
                    tried();
                    return;
                }
                Ok(answer) => self.welcome(&answer),
                Err(fault) => Err(fault),
            };
            if std::mem::take(&mut is_first) {
                tried();
            }
            match result {
                Ok(()) => {
                    pause = AGAIN_AFTER;
                    if self.peer.health.greeted(now) {
                        tracing::info!(peer = %self.peer.address, "answers again");
                    }
                }
                Err(fault) => {
                    if self.peer.health.is_down() {
                        self.peer.health.still_down(&fault, now);
                    } else {
                        self.peer.note(&fault);
                    }
                }
            }
            self.wait(&mut pause).await;
        }
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
        // A node keeps its id wherever it runs: one that no longer answers where it was has moved here.
        if let Some(known) = self.roster.current().member(node)
            && known.address != self.peer.address
            && self.peers.of(&known.address).is_none_or(|old| old.health.is_down())
        {
            self.roster.gone(&known.address);
        }
        if self.roster.heard(&self.peer.address, node, quota_bytes) {
            tracing::info!(peer = %self.peer.address, %node, quota_bytes, version = answer.version,
                "belongs to the cluster");
        }
        Ok(())
    }

    /// Until the next greeting is due.
    async fn wait(&self, pause: &mut Duration) {
        let clock = &self.peers.world.clock;
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
    }
}
