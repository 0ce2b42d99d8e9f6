//! Files brought in by the nodes that own them: who is told, what is heard, and peers that lie about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use feedline_cluster::wire::{FrameKind, LoadSaid, LoadWord, WIRE, WIRE_HEADER, head};
use feedline_cluster::{LoadPlace, Loads, NodeId, PeerState, Reason, Roll};
use feedline_model::{BlockSource, Object, Priority, ReadError};
use feedline_testkit::{FakeClock, MemorySource};
use futures::StreamExt as _;
use http::Response;
use parking_lot::Mutex;

use crate::common::{
    MemoryCache, Node, PATIENCE, Plan, SOURCE, addresses, eventually, objects, three, whole,
};
use crate::hostile::{Scene, says};
use crate::sources::{Say, after_a_while, fake};

/// Brings files into a cache in memory, and writes down which.
#[derive(Debug)]
struct IntoMemory {
    cache: Arc<MemoryCache>,
    told: Mutex<Vec<Arc<str>>>,
    under_way: AtomicUsize,
}

#[async_trait]
impl Loads for IntoMemory {
    async fn load(&self, object: &Object) -> LoadSaid {
        struct UnderWay<'a>(&'a AtomicUsize);
        impl Drop for UnderWay<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.told.lock().push(Arc::clone(&object.key));
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let _under_way = UnderWay(&self.under_way);
        let said = |word, message: &str| LoadSaid { word, message: message.into() };
        match self.cache.read(object, 0..object.version.size, Priority::Fill).await {
            Ok(_) => said(LoadWord::Fetched, ""),
            Err(ReadError::NotFound { .. }) => said(LoadWord::NotFound, &"gone ".repeat(10_000)),
            Err(error) => said(LoadWord::Unavailable, &error.to_string()),
        }
    }
}

impl IntoMemory {
    fn of(node: &crate::common::Node) -> Arc<Self> {
        let loads = Arc::new(Self {
            cache: Arc::clone(&node.cache),
            told: Mutex::default(),
            under_way: AtomicUsize::new(0),
        });
        node.cluster.serve_loads(Arc::clone(&loads) as _);
        loads
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_is_brought_in_by_its_owner_and_the_bucket_asked_once() {
    let plan = Plan { token: Some("0123456789abcdef0123456789abcdef"), ..Plan::default() };
    let (nodes, bucket) = three(&plan).await;
    let loads: Vec<_> = nodes.iter().map(IntoMemory::of).collect();
    let objects = objects(&bucket, 300, 100);
    let cluster = &nodes[0].cluster;
    let told = objects.iter().map(|object| async move {
        match cluster.load_places(&object.id()).remove(0) {
            (LoadPlace::Here, true) => None,
            (LoadPlace::Peer(node, _), true) => Some(cluster.load_at(node, object).await),
            (place, false) => panic!("{place:?} is down"),
        }
    });
    let said: Vec<_> = futures::stream::iter(told).buffer_unordered(300).collect().await;
    let (there, here): (Vec<_>, Vec<_>) = said.into_iter().partition(Option::is_some);
    assert!(there.iter().flatten().all(|said| said.as_ref().unwrap().word == LoadWord::Fetched));
    let counts = loads.iter().map(|loads| loads.told.lock().len()).collect::<Vec<_>>();
    assert_eq!((counts[0], counts[1] + counts[2]), (0, there.len()));
    assert!(50 < counts[1] && 50 < counts[2] && 50 < here.len(), "{counts:?}");
    assert_eq!(bucket.reads_total(), there.len());
    let key = Arc::clone(&loads[1].told.lock()[0]);
    assert_eq!(bucket.reads(&key), 1);
    // What the bucket says reaches who asked, however long.
    let gone = objects.iter().find(|object| {
        cluster.load_places(&object.id())[0].0 == LoadPlace::Peer(NodeId(2), address(cluster))
    });
    let gone = Object { key: "o/absent".into(), ..gone.unwrap().clone() };
    let said = cluster.load_at(NodeId(2), &gone).await.unwrap();
    assert_eq!((said.word, said.message.len()), (LoadWord::NotFound, 1_000));
    // What it does not mount, it does not bring.
    assert_eq!(cluster.status().peers[0].state, PeerState::Up);
}

fn address(cluster: &feedline_cluster::Cluster) -> Arc<str> {
    let epoch = cluster.epoch();
    Arc::clone(&epoch.member(NodeId(2)).unwrap().address)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_mounted_is_refused_and_who_waits_no_more_is_heard() {
    let (nodes, bucket) = three(&Plan { prefix: "o/", ..Plan::default() }).await;
    let loads: Vec<_> = nodes.iter().map(IntoMemory::of).collect();
    let cluster = &nodes[0].cluster;
    let outside = bucket.insert_seeded("secret/1", 1, 10);
    let fault = cluster.load_at(NodeId(2), &outside).await.unwrap_err();
    assert_eq!(fault.reason, Reason::NotMounted);
    assert!(loads[1].told.lock().is_empty());
    // Both give up: the other end is to stop, though the bucket never answers.
    let hold = bucket.hold();
    let objects = objects(&bucket, 20, 10);
    {
        let waiting = objects.iter().map(|object| cluster.load_at(NodeId(2), object));
        let waiting = futures::future::join_all(waiting);
        let begun =
            eventually("all to be under way", || loads[1].under_way.load(Ordering::SeqCst) == 20);
        tokio::select! {
            _ = waiting => panic!("the bucket is held"),
            () = begun => {}
        }
    }
    eventually("all to be given up", || loads[1].under_way.load(Ordering::SeqCst) == 0).await;
    hold.release();
    assert_eq!(cluster.status().peers[0].state, PeerState::Up, "nobody is to blame");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lies_about_loads_is_passed_by() {
    let frame = |kind, index, payload: &[u8]| [&head(kind, index, payload)[..], payload].concat();
    let good = br#"{"word":"fetched"}"#;
    let mut damaged = frame(FrameKind::Said, 0, good);
    *damaged.last_mut().unwrap() ^= 1;
    let answers = [
        damaged,
        frame(FrameKind::Said, 1, good),
        frame(FrameKind::Said, 0, b"yes"),
        frame(FrameKind::Bytes, 0, good),
        frame(FrameKind::Waiting, 0, &[0]),
        b"<html>".to_vec(),
        vec![],
    ];
    for answer in answers {
        let scene = Scene::new(WIRE, says(move || whole(answer.clone()))).await;
        scene.node.knows(2).await;
        let fault = scene.node.cluster.load_at(NodeId(99), &scene.object).await.unwrap_err();
        assert_eq!(fault.reason, Reason::Wrong, "{fault}");
        assert_eq!(scene.node.cluster.status().peers[0].state, PeerState::Down);
        let places = scene.node.cluster.load_places(&scene.object.id());
        assert_eq!(places.iter().map(|(_, is_up)| *is_up).collect::<Vec<_>>(), [false, true]);
        assert_eq!(places[1].0, LoadPlace::Here);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_knows_no_loads_is_asked_for_all_else() {
    let not_found = || {
        let mut response = Response::new(whole(r#"{"message":"nothing here"}"#));
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        response.headers_mut().insert(WIRE_HEADER, WIRE.into());
        response
    };
    let scene = Scene::new(WIRE, Arc::new(not_found)).await;
    scene.node.knows(2).await;
    let fault = scene.node.cluster.load_at(NodeId(99), &scene.object).await.unwrap_err();
    assert!(fault.message.contains("update"), "{fault}");
    assert_eq!(scene.node.cluster.status().peers[0].state, PeerState::Up);
    let unknown = scene.node.cluster.load_at(NodeId(5), &scene.object).await.unwrap_err();
    assert_eq!(unknown.reason, Reason::Down);
    // A node that has nobody to bring files in says the same.
    let [a, b] = addresses::<2>();
    let plan = Plan::default();
    let bucket = MemorySource::new(SOURCE);
    let first = plan.start(1, a, &[a, b], Arc::clone(&bucket) as _);
    let _second = plan.start(2, b, &[a, b], Arc::clone(&bucket) as _);
    first.knows(2).await;
    let fault = first.cluster.load_at(NodeId(2), &bucket.insert_seeded("x", 1, 10)).await;
    assert!(fault.unwrap_err().message.contains("update"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_left_and_came_back_at_its_address_is_told_again() {
    let (say, sources) = fake();
    let (clock, bucket) = (FakeClock::new(), MemorySource::new(SOURCE));
    let [a, b] = addresses::<2>();
    let plan = Plan { sources, clock: Some(clock.shared()), ..Plan::default() };
    let first = plan.start(1, a, &[], Arc::clone(&bucket) as _);
    let load = |key: &'static str| {
        let object = bucket.insert_seeded(key, 1, 100);
        let cluster = &first.cluster;
        async move { cluster.load_at(NodeId(2), &object).await.map(|said| said.word) }
    };
    let before = Plan::default().start(2, b, &[], Arc::clone(&bucket) as _);
    let told_before = IntoMemory::of(&before);
    say.send(Say::All(vec![b])).await.unwrap();
    first.knows(2).await;
    assert_eq!(load("o/1").await.unwrap(), LoadWord::Fetched);
    before.cluster.stop();
    say.send(Say::Left(b)).await.unwrap();
    let peers = || first.cluster.status().peers.len();
    after_a_while(&clock, "the one that left to be given up", || peers() == 0).await;
    assert_eq!(load("o/2").await.unwrap_err().reason, Reason::Down);
    eventually("its port to be free", || std::net::TcpListener::bind(b).is_ok()).await;
    let after = Plan::default().start(2, b, &[], Arc::clone(&bucket) as _);
    let told_after = IntoMemory::of(&after);
    say.send(Say::Here(b)).await.unwrap();
    first.knows(2).await;
    assert_eq!(load("o/3").await.unwrap(), LoadWord::Fetched);
    let told = |loads: &IntoMemory| loads.told.lock().iter().map(|it| it.to_string()).collect();
    let told: [Vec<String>; 2] = [told(&told_before), told(&told_after)];
    assert_eq!(told, [["o/1"], ["o/3"]]);
}

/// The first roll call that is another one: a node that was told to stop may still answer for a moment.
async fn roll_unlike(node: &Node, before: &Roll) -> Roll {
    let called = async {
        loop {
            let roll = node.cluster.roll_call().await;
            if roll != *before {
                return roll;
            }
        }
    };
    tokio::time::timeout(PATIENCE, called).await.expect("a roll call that is another one")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_call_finds_out_who_died_or_began_anew_while_nobody_asked() {
    let [a, b, c] = addresses::<3>();
    let bucket = MemorySource::new(SOURCE);
    let start = |life, number, at| {
        let plan = Plan { life, ..Plan::default() };
        plan.start(number, at, &[], Arc::clone(&bucket) as _)
    };
    let (second, third) = (start(0, 2, b), start(0, 3, c));
    // Its time stands still: nobody is greeted in the background.
    let plan = Plan { clock: Some(FakeClock::new().shared()), ..Plan::default() };
    let first = plan.start(1, a, &[b, c], Arc::clone(&bucket) as _);
    first.knows(3).await;
    let before = first.cluster.roll_call().await;
    assert_eq!(before.up().collect::<Vec<_>>(), [(NodeId(2), 2_000), (NodeId(3), 3_000)]);
    assert_eq!(first.cluster.roll_call().await, before);
    second.cluster.stop();
    let after = roll_unlike(&first, &before).await;
    assert_eq!(after.lost_since(&before), Some(format!("{b} is down")));
    assert_eq!(after.up().collect::<Vec<_>>(), [(NodeId(3), 3_000)]);
    assert_eq!(first.cluster.roll_call().await, after, "it is lost once");
    third.cluster.stop();
    eventually("its port to be free", || std::net::TcpListener::bind(c).is_ok()).await;
    let _anew = start(1, 3, c);
    let last = roll_unlike(&first, &after).await;
    assert_eq!(last.lost_since(&after), Some(format!("{c} began anew")));
    assert_eq!(last.up().collect::<Vec<_>>(), [(NodeId(3), 3_001)]);
}
