//! Members that are found: by a source that a test speaks for, by names, and what is kept meanwhile.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use feedline_cluster::{Announcement, Found, Heard, Memory, PeerState, Resolver, Source, Sources};
use feedline_testkit::{FakeClock, MemorySource};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::common::{Node, Plan, SOURCE, addresses, eventually};

pub(crate) enum Say {
    All(Vec<SocketAddr>),
    Here(SocketAddr),
    Left(SocketAddr),
    Lost(&'static str),
}

/// Says what the test says.
#[derive(Debug)]
struct Fake {
    place: &'static str,
    says: tokio::sync::Mutex<mpsc::Receiver<Say>>,
}

impl std::fmt::Debug for Say {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Say")
    }
}

pub(crate) fn fake() -> (mpsc::Sender<Say>, Sources) {
    fake_at("nowhere", None)
}

fn fake_at(place: &'static str, memory: Option<&Arc<Kept>>) -> (mpsc::Sender<Say>, Sources) {
    let (say, says) = mpsc::channel(16);
    let fake = Fake { place, says: tokio::sync::Mutex::new(says) };
    let memory = memory.map(|memory| Arc::clone(memory) as _);
    (say, Sources { directory: Some(Arc::new(fake)), memory, ..Sources::default() })
}

/// What outlives a node.
#[derive(Debug, Default)]
struct Kept(Mutex<Option<Vec<u8>>>);

#[async_trait]
impl Memory for Kept {
    fn recall(&self) -> Option<Vec<u8>> {
        self.0.lock().clone()
    }

    async fn keep(&self, bytes: Vec<u8>) {
        *self.0.lock() = Some(bytes);
    }
}

impl Kept {
    fn names(&self, address: SocketAddr) -> bool {
        let bytes = self.0.lock().clone().unwrap_or_default();
        String::from_utf8(bytes).unwrap().contains(&address.to_string())
    }
}

fn found(address: SocketAddr) -> Found {
    Found { key: address.to_string(), address: address.to_string() }
}

#[async_trait]
impl Source for Fake {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn place(&self) -> String {
        self.place.into()
    }

    async fn attend(&self, me: &Announcement, heard: &Heard) -> String {
        assert_eq!((me.node.0, me.quota_bytes), (1, 1 << 30));
        let mut says = self.says.lock().await;
        loop {
            match says.recv().await {
                Some(Say::All(all)) => heard.all(all.into_iter().map(found).collect()).await,
                Some(Say::Here(one)) => heard.here(found(one)).await,
                Some(Say::Left(one)) => heard.left(one.to_string()).await,
                Some(Say::Lost(why)) => return why.into(),
                None => pending().await,
            }
        }
    }
}

/// Answers with what the test sets.
#[derive(Debug, Default)]
struct Names(Mutex<Vec<SocketAddr>>, Mutex<bool>);

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        assert_eq!(name, "nodes.feedline.svc:7001");
        if *self.1.lock() {
            return Err(io::Error::other("no such name"));
        }
        Ok(self.0.lock().clone())
    }
}

/// Nodes 1 to 3 at these addresses: the first with `sources` and a clock moved by hand, the others
/// without knowing anybody.
fn nodes(sources: Sources, peers: Vec<String>, at: [SocketAddr; 3]) -> ([Node; 3], FakeClock) {
    let clock = FakeClock::new();
    let bucket = MemorySource::new(SOURCE);
    let plan = Plan { sources, peers, clock: Some(clock.shared()), ..Plan::default() };
    let nodes = std::array::from_fn(|n| {
        let plan = if n == 0 { plan.clone() } else { Plan::default() };
        plan.start(n as u64 + 1, at[n], &[], Arc::clone(&bucket) as _)
    });
    (nodes, clock)
}

/// Moves the time on, a second at a time, until something holds.
pub(crate) async fn after_a_while(clock: &FakeClock, what: &str, condition: impl Fn() -> bool) {
    eventually(what, || {
        clock.advance(Duration::from_secs(1));
        condition()
    })
    .await;
}

fn trouble(node: &Node) -> Option<String> {
    node.cluster.status().sources[0].trouble.clone()
}

/// Time for what must not happen to happen.
#[expect(clippy::disallowed_methods, reason = "real time, for work on real sockets")]
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_listed_becomes_a_member_and_who_vanishes_and_is_dead_goes() {
    let (say, sources) = fake();
    let at = addresses::<3>();
    let ([first, second, _third], clock) = nodes(sources, vec![], at);
    assert_eq!(trouble(&first).as_deref(), Some("not asked yet"));
    say.send(Say::All(vec![at[1]])).await.unwrap();
    first.knows(2).await;
    say.send(Say::Here(at[2])).await.unwrap();
    first.knows(3).await;
    assert_eq!(trouble(&first), None);
    let status = first.cluster.status();
    assert_eq!((status.sources[0].kind, status.sources[0].found), ("fake", 2));
    let epoch = first.cluster.epoch().number();
    second.cluster.stop();
    say.send(Say::Left(at[1])).await.unwrap();
    let known = || first.cluster.epoch().members().len();
    after_a_while(&clock, "the dead one to be given up", || known() == 2).await;
    assert!(epoch < first.cluster.epoch().number());
    eventually("its peer to be forgotten", || first.cluster.status().peers.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_vanishes_and_answers_stays_for_the_grace_period() {
    let (say, sources) = fake();
    let at = addresses::<3>();
    let ([first, _second, _third], clock) = nodes(sources, vec![], at);
    say.send(Say::All(vec![at[1], at[2]])).await.unwrap();
    first.knows(3).await;
    say.send(Say::All(vec![])).await.unwrap();
    a_moment().await;
    // Half of it: a greeting that this jump cuts short is one failure, which is not enough.
    clock.advance(Duration::from_secs(29));
    a_moment().await;
    assert_eq!(first.cluster.epoch().members().len(), 3);
    say.send(Say::All(vec![at[2]])).await.unwrap();
    let known = || first.cluster.epoch().members().len();
    after_a_while(&clock, "the one that stays away to be given up", || known() == 2).await;
    assert_eq!(&*first.cluster.epoch().members()[1].address, at[2].to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_lost_keeps_all_members_and_is_asked_again() {
    let (say, sources) = fake();
    let at = addresses::<3>();
    let ([first, second, _third], clock) = nodes(sources, vec![], at);
    say.send(Say::All(vec![at[1], at[2]])).await.unwrap();
    first.knows(3).await;
    let epoch = first.cluster.epoch().number();
    say.send(Say::Left(at[1])).await.unwrap();
    say.send(Say::Lost("it fell")).await.unwrap();
    eventually("the loss to be told", || trouble(&first).as_deref() == Some("it fell")).await;
    second.cluster.stop();
    for _ in 0..60 {
        clock.advance(Duration::from_secs(1));
    }
    a_moment().await;
    assert_eq!(first.cluster.epoch().number(), epoch, "nobody goes while nothing is heard");
    say.send(Say::All(vec![at[2]])).await.unwrap();
    let known = || first.cluster.epoch().members().len();
    after_a_while(&clock, "the dead one to be given up", || known() == 2).await;
    assert_eq!(trouble(&first), None);
}

/// Node 1 has known the two others, of which the second is dead by now.
async fn an_earlier_run(memory: &Arc<Kept>, at: [SocketAddr; 3]) -> Node {
    let (say, sources) = fake_at("nowhere", Some(memory));
    let ([first, second, third], _) = nodes(sources, vec![], at);
    say.send(Say::All(vec![at[1], at[2]])).await.unwrap();
    first.knows(3).await;
    assert!(!first.cluster.status().sources[0].is_remembered);
    eventually("both to be noted", || memory.names(at[1]) && memory.names(at[2])).await;
    second.cluster.stop();
    third
}

/// Node 1, which nobody has told anything yet.
fn started_again(memory: &Arc<Kept>, place: &'static str) -> (Node, FakeClock, mpsc::Sender<Say>) {
    let (say, sources) = fake_at(place, Some(memory));
    let clock = FakeClock::new();
    let plan = Plan { sources, clock: Some(clock.shared()), life: 1, ..Plan::default() };
    let [at] = addresses::<1>();
    (plan.start(1, at, &[], MemorySource::new(SOURCE) as _), clock, say)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_named_before_a_restart_is_greeted_until_the_source_is_heard() {
    let (memory, at) = (Arc::new(Kept::default()), addresses::<3>());
    let third = an_earlier_run(&memory, at).await;
    let (first, clock, say) = started_again(&memory, "nowhere");
    let source = || first.cluster.status().sources[0].clone();
    first.knows(2).await;
    assert_eq!(&*first.cluster.epoch().members().last().unwrap().address, at[2].to_string());
    let asked = source();
    assert!(asked.is_remembered && asked.found == 2, "{asked:?}");
    assert!(asked.heard_unix_ms.is_some() && asked.lost_unix_ms.is_some(), "{asked:?}");
    say.send(Say::Lost("it fell")).await.unwrap();
    eventually("the loss to be told", || trouble(&first).as_deref() == Some("it fell")).await;
    let lost = source();
    assert!(lost.is_remembered && lost.heard_unix_ms == asked.heard_unix_ms, "{lost:?}");
    assert!(memory.names(at[1]) && memory.names(at[2]), "silence takes nobody away");
    // What it says at last counts as after a loss: who is not named any more and is dead goes.
    say.send(Say::All(vec![at[2]])).await.unwrap();
    let peers = || first.cluster.status().peers.len();
    after_a_while(&clock, "the dead one to be given up", || peers() == 1).await;
    assert_eq!(first.cluster.epoch().members().len(), 2);
    eventually("the source to be believed", || source().found == 1).await;
    let heard = source();
    assert!(!heard.is_remembered && heard.trouble.is_none() && heard.lost_unix_ms.is_none());
    eventually("the dead one to be forgotten", || !memory.names(at[1])).await;
    assert!(memory.names(at[2]));
    say.send(Say::Lost("it fell again")).await.unwrap();
    eventually("the loss to be told", || source().lost_unix_ms.is_some()).await;
    let lost = source();
    assert!(lost.heard_unix_ms.is_some() && !lost.is_remembered, "of this run: {lost:?}");
    drop(third);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_of_another_cluster_is_not_remembered() {
    let (memory, at) = (Arc::new(Kept::default()), addresses::<3>());
    let _third = an_earlier_run(&memory, at).await;
    let is_alone = |node: &Node| {
        let status = node.cluster.status();
        let source = &status.sources[0];
        assert!(!source.is_remembered && source.found == 0, "{source:?}");
        assert!(source.heard_unix_ms.is_none() && status.peers.is_empty(), "{status:?}");
    };
    let whole = memory.recall().unwrap();
    is_alone(&started_again(&memory, "elsewhere").0);
    *memory.0.lock() = Some(whole[..whole.len() - 1].to_vec());
    is_alone(&started_again(&memory, "nowhere").0);
    *memory.0.lock() = Some(whole);
    let (first, ..) = started_again(&memory, "nowhere");
    first.knows(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_a_name_come_and_go_and_an_answer_that_fails_changes_nothing() {
    let at = addresses::<3>();
    let names = Arc::new(Names::default());
    *names.0.lock() = vec![at[0], at[1]];
    let sources = Sources { resolver: Arc::clone(&names) as _, ..Sources::default() };
    let peers = vec!["dns://nodes.feedline.svc:7001".to_owned()];
    let ([first, second, third], clock) = nodes(sources, peers, at);
    let known = || first.cluster.epoch().members().len();
    // The second one started after it was greeted first.
    after_a_while(&clock, "the name's nodes to be found", || known() == 2).await;
    // It found itself, and asks itself nothing.
    eventually("itself to be found", || first.cluster.status().peers.len() == 1).await;
    assert_eq!(first.cluster.status().sources[0].place, "nodes.feedline.svc:7001");
    *names.0.lock() = at.to_vec();
    after_a_while(&clock, "the new one to be found", || known() == 3).await;
    let epoch = first.cluster.epoch().number();
    *names.1.lock() = true;
    second.cluster.stop();
    let is_told = |what: &str| trouble(&first).is_some_and(|why| why.contains(what));
    after_a_while(&clock, "the failure to be told", || is_told("no such name")).await;
    *names.1.lock() = false;
    names.0.lock().clear();
    after_a_while(&clock, "the empty answer to be told", || is_told("no address")).await;
    assert_eq!(first.cluster.epoch().number(), epoch);
    *names.0.lock() = vec![at[0], at[2]];
    after_a_while(&clock, "the dead one to be given up", || known() == 2).await;
    let peers = first.cluster.status().peers;
    assert_eq!(peers.len(), 1, "{peers:?}");
    assert_eq!(peers[0].address, third.cluster.address().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_name_is_resolved_and_plain_addresses_go_on_beside_it() {
    let bucket = MemorySource::new(SOURCE);
    let port = |number, peers: Vec<String>| {
        let plan = Plan { peers, ..Plan::default() };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        plan.start(number, any, &[], Arc::clone(&bucket) as _)
    };
    let (second, third) = (port(2, vec![]), port(3, vec![]));
    let name = format!("dns://localhost:{}", second.cluster.address().port());
    let first = port(1, vec![name, third.cluster.address().to_string()]);
    first.knows(3).await;
    let status = first.cluster.status();
    let kinds: Vec<_> = status.sources.iter().map(|it| (it.kind, it.trouble.clone())).collect();
    assert_eq!(kinds, [("dns", None), ("list", None)]);
    let up = status.peers.iter().filter(|peer| peer.state == PeerState::Up).count();
    assert_eq!(up, 2, "{:?}", status.peers);
}
