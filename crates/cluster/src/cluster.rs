//! A node of a cluster from start to end: port, peers, membership and the link, put together.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use feedline_model::Clock;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::ask::{Desk, Questions};
use crate::fault::Reason;
use crate::greeters::{Greeters, since_ms};
use crate::handover::Handover;
use crate::hedge::Hedges;
use crate::lanes;
use crate::link::{Joined, Link, LinkCounters};
use crate::load::{LoadQueues, Loads};
use crate::marks::Marks;
use crate::membership::{Epoch, Membership, Roster};
use crate::net::Net;
use crate::parts::{ClusterConfig, ClusterParts, within};
use crate::peer::{Me, Peer, World};
use crate::peers::Peers;
use crate::placement::NodeId;
use crate::serve::{Serve, Served};
use crate::server::Server;
use crate::sources::{Announcement, Members, SourceStatus};
use crate::timer::ClockTimer;
use crate::tls::{Tls, TlsNet, TlsStatus};
use crate::wire::HelloAnswer;

/// How long a start waits for the peers' first answers: several round trips. Who answers later is
/// a member later, and what is read before comes from the bucket.
const SETTLE_WITHIN: Duration = Duration::from_secs(1);

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is")]
pub enum ClusterError {
    #[error("cannot listen on {address} for peers (setting listen): {source}")]
    Listen { address: SocketAddr, source: io::Error },
}

/// A node that has joined. Dropping it closes its port.
#[derive(Debug)]
pub struct Cluster {
    node: NodeId,
    link: Arc<Link>,
    roster: Arc<Roster>,
    peers: Arc<Peers>,
    members: Members,
    world: World,
    server: Server,
    serve: Arc<Serve>,
    load_queues: LoadQueues,
    clock: Arc<dyn Clock>,
    tls: Option<Arc<Tls>>,
    _renewals: JoinSet<()>,
}

impl Cluster {
    /// Opens the port, begins to greet the others, and has `link` ask them from now on.
    ///
    /// # Errors
    ///
    /// If the port cannot be had.
    pub fn start(
        config: ClusterConfig,
        parts: ClusterParts,
        link: Arc<Link>,
    ) -> Result<Self, ClusterError> {
        let failed = |source| ClusterError::Listen { address: config.listen, source };
        let (net, renewals) = sealed(parts.net, parts.tls.as_ref(), &parts.runtime);
        let listener = net.listen(config.listen).map_err(failed)?;
        let (version, quota_bytes) = (config.version.clone(), config.quota_bytes);
        let me = me(&config, &*parts.clock);
        let since_ms = me.since_ms;
        let world = World {
            me: Arc::new(me),
            net,
            timer: ClockTimer::new(Arc::clone(&parts.clock)),
            clock: Arc::clone(&parts.clock),
            entropy: parts.entropy,
            runtime: parts.runtime,
            lanes_room: lanes::room(),
            answer_max: config.answer_max,
        };
        let (marks, handover) = (Arc::new(Marks::default()), Arc::new(Handover::new()));
        let serve = Arc::new(Serve {
            blocks: parts.blocks,
            index: parts.index,
            mounted: parts.mounted,
            marks: Arc::clone(&marks),
            handover: Arc::clone(&handover),
            clock: Arc::clone(&parts.clock),
            room: Serve::room(config.serve_bytes_max),
            served: Served::default(),
            guest: parts.guest,
            loads: OnceLock::new(),
            desk: Desk::new(config.listen.ip().is_loopback()),
        });
        let server = Server::start(listener, Arc::clone(&serve), world.clone());
        let roster = Arc::new(Roster::new(config.node, config.quota_bytes, since_ms));
        let peers = Peers::new(world.clone());
        let (node, listen) = (config.node, server.address());
        let me = Announcement { node, listen, quota_bytes, version };
        let members = Members::start(&config.peers, parts.sources, me, &world, |pending| {
            Greeters::new(Arc::clone(&peers), Arc::clone(&roster), pending)
        });
        link.join(Joined {
            me: config.node,
            membership: Arc::clone(&roster) as Arc<dyn Membership>,
            peers: Arc::clone(&peers),
            marks,
            local_copies: config.local_copies,
            counters: LinkCounters::default(),
            handover,
            hedges: Hedges::new(),
        });
        Ok(Self {
            node,
            link,
            roster,
            peers,
            members,
            world,
            server,
            serve,
            load_queues: LoadQueues::default(),
            clock: parts.clock,
            tls: parts.tls,
            _renewals: renewals,
        })
    }

    /// From now on peers may have files brought in here. Once at most.
    pub fn serve_loads(&self, loads: Arc<dyn Loads>) {
        assert!(self.serve.loads.set(loads).is_ok(), "there is one who brings files in");
    }

    /// From now on peers may ask what `questions` answers. Once at most.
    pub fn serve_questions(&self, questions: Arc<dyn Questions>) {
        assert!(self.serve.desk.questions.set(questions).is_ok(), "there is one who answers");
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn load_queues(&self) -> &LoadQueues {
        &self.load_queues
    }

    /// Waits until every source has said something and every address has been greeted once, for a second
    /// at most.
    pub async fn settle(&self) {
        // Too late is no failure: who answers later is a member later.
        let _ = within(&*self.clock, SETTLE_WITHIN, self.members.settled()).await;
    }

    /// Where peers reach this node: the port that the system chose, if 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The members now.
    #[must_use]
    pub fn epoch(&self) -> Arc<Epoch> {
        self.roster.current()
    }

    /// What happens now, from memory.
    #[must_use]
    pub fn status(&self) -> ClusterStatus {
        let epoch = self.epoch();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let joined = self.link.joined().expect("joined at the start");
        let peer = |peer: &Arc<Peer>| peer_status(peer, &epoch);
        ClusterStatus {
            node: self.node,
            address: self.address(),
            epoch: epoch.number(),
            fingerprint: epoch.fingerprint(),
            members: epoch.members().len() as u64,
            quota_bytes: epoch.members().iter().map(|member| member.quota_bytes).sum(),
            from_peers: get(&joined.counters.from_peers),
            bytes_from_peers: get(&joined.counters.bytes_from_peers),
            handed_over: get(&joined.counters.handed_over),
            fell_back: get(&joined.counters.fell_back),
            served: get(&self.serve.served.objects),
            bytes_served: get(&self.serve.served.bytes),
            refused: get(&self.serve.served.refused),
            tls: self.tls.as_ref().map(|tls| tls.status()),
            peers: self.peers.all().iter().map(peer).collect(),
            sources: self.members.status(),
        }
    }

    /// Closes the port and all connections, and says where this node is listed that it is gone.
    pub async fn leave(&self) {
        self.stop();
        self.members.leave(&self.world).await;
    }

    /// Closes the port and all connections: peers go on without this node.
    pub fn stop(&self) {
        self.server.stop();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Who this node is, as it tells others.
fn me(config: &ClusterConfig, clock: &dyn Clock) -> Me {
    let hello = HelloAnswer {
        wire: config.wire.newest(),
        version: config.version.clone(),
        node: config.node.0,
        instance: config.instance,
        quota_bytes: config.quota_bytes,
        age_ms: None,
        says_at_once: true,
    };
    let age_ms = u64::try_from(config.age.as_millis()).unwrap_or(u64::MAX);
    let wire = config.wire;
    Me { hello, wire, since_ms: since_ms(clock, Some(age_ms)), token: config.token.clone() }
}

/// The network with TLS over it, if there is a certificate, and what looks for a newer one.
fn sealed(
    net: Arc<dyn Net>,
    tls: Option<&Arc<Tls>>,
    runtime: &Handle,
) -> (Arc<dyn Net>, JoinSet<()>) {
    let mut renewals = JoinSet::new();
    let Some(tls) = tls else { return (net, renewals) };
    renewals.spawn_on(Arc::clone(tls).renew(runtime.clone()), runtime);
    (TlsNet::over(net, Arc::clone(tls)), renewals)
}

fn peer_status(peer: &Peer, epoch: &Epoch) -> PeerStatus {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let member = epoch.members().iter().find(|member| member.address == peer.address);
    let condition = peer.health.condition();
    let passed = Reason::ALL.iter().map(|reason| (*reason, peer.counters.passed(*reason)));
    PeerStatus {
        address: peer.address.to_string(),
        node: member.map(|member| member.node),
        quota_bytes: member.map_or(0, |member| member.quota_bytes),
        state: match (member, condition.is_down) {
            (_, true) if condition.is_slow => PeerState::Slow,
            (_, true) => PeerState::Down,
            (Some(_), false) => PeerState::Up,
            (None, false) => PeerState::Unknown,
        },
        trouble: condition.trouble,
        wire: peer.wire(),
        mean_ms: condition.mean_ms,
        p99_ms: condition.p99_ms,
        in_flight: peer.in_flight(),
        requests: get(&peer.counters.requests),
        objects: get(&peer.counters.objects),
        bytes: get(&peer.counters.bytes),
        passed: passed.filter(|(_, count)| 0 < *count).collect(),
    }
}

/// How a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// A member that answers.
    Up,
    /// Answers too slowly: passed by by reads.
    Slow,
    /// Passed by.
    Down,
    /// Not heard of yet.
    Unknown,
}

/// One peer as this node sees it. Counters run since the start.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerStatus {
    /// As configured.
    pub address: String,
    /// Who answers there; `None`: nobody has yet.
    pub node: Option<NodeId>,
    /// Its quota.
    pub quota_bytes: u64,
    /// Whether it is asked.
    pub state: PeerState,
    /// What the matter was last, if it is not over.
    pub trouble: Option<String>,
    /// Version of the protocol that the newest connection uses; `None`: there was none yet.
    pub wire: Option<u32>,
    /// Mean time of an answer, the newest counting most; 0: none yet.
    pub mean_ms: f64,
    /// 99th percentile of the last 256 answers; 0: too few yet.
    pub p99_ms: f64,
    /// Requests under way to it.
    pub in_flight: u64,
    /// Requests sent to it.
    pub requests: u64,
    /// Objects and pages that it gave.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How often it was passed by, by reason.
    pub passed: Vec<(Reason, u64)>,
}

/// The cluster as this node sees it. Counters run since the start.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterStatus {
    /// This node.
    pub node: NodeId,
    /// Its port.
    pub address: SocketAddr,
    /// Epochs of members that this node has seen.
    pub epoch: u64,
    /// Equal on nodes that place alike.
    pub fingerprint: u64,
    /// Nodes, this one included.
    pub members: u64,
    /// Their quotas together.
    pub quota_bytes: u64,
    /// Objects and pages read from peers: each is a request that the bucket did not get from here.
    pub from_peers: u64,
    /// Their bytes.
    pub bytes_from_peers: u64,
    /// Of those, from a node that had them before this one, which owns them.
    pub handed_over: u64,
    /// Reads of what others own that went to the bucket all the same, or may have: with an owner that was slow,
    /// another node was asked to fetch.
    pub fell_back: u64,
    /// Objects and pages served to peers.
    pub served: u64,
    /// Their bytes.
    pub bytes_served: u64,
    /// Items that were asked for and not served.
    pub refused: u64,
    /// This node's certificate; `None`: no TLS.
    pub tls: Option<TlsStatus>,
    /// Each peer, by address.
    pub peers: Vec<PeerStatus>,
    /// Who names the members.
    pub sources: Vec<SourceStatus>,
}
