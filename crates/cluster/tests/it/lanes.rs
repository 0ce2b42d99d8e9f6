//! Reads over HTTP/1.1: taken once a lane is open, and as suspicious of what comes on it as of all else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use feedline_cluster::wire::{FrameKind, head};
use feedline_cluster::{PeerState, Reason};
use feedline_model::{BlockSource as _, Object, Priority};
use feedline_testkit::{MemorySource, RealClock, object_bytes};
use http::{Response, Version};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use crate::common::{Body, FakePeer, LaneSays, Node, Plan, SOURCE, addresses, whole};

/// More than comes in one piece.
const SIZE: u64 = 600_000;
const SEED: u64 = 5;

/// A lane is open within this, on whatever machine.
const TRIES: u32 = 3_000;

struct Scene {
    node: Node,
    peer: FakePeer,
    object: Object,
    bucket: Arc<MemorySource>,
    over_lanes: Arc<AtomicU64>,
}

impl Scene {
    /// The peer owns everything, is honest over HTTP/2, and `says` this over lanes.
    async fn new(says: impl Fn() -> Option<Response<Body>> + Send + Sync + 'static) -> Self {
        let over_lanes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&over_lanes);
        let says: LaneSays = Arc::new(move |version| match version {
            Version::HTTP_11 => {
                counted.fetch_add(1, Ordering::Relaxed);
                says()
            }
            _ => Some(Response::new(whole(right()))),
        });
        let peer = FakePeer::with_lanes(says).await;
        let bucket = MemorySource::new(SOURCE);
        let object = bucket.insert_seeded("k", SEED, SIZE);
        let [own] = addresses::<1>();
        let node = Plan::default().start(1, own, &[own, peer.address], Arc::clone(&bucket) as _);
        node.knows(2).await;
        Self { node, peer, object, bucket, over_lanes }
    }

    async fn read(&self) {
        let read = self.node.link.read(&self.object, 0..SIZE, Priority::Demand).await;
        assert!(read.unwrap() == object_bytes(SEED, SIZE));
    }

    /// Reads, each of them rightly, until so many went over lanes.
    async fn reads_over_lanes(&self, count: u64) {
        for _ in 0..TRIES {
            self.read().await;
            if count <= self.over_lanes.load(Ordering::Relaxed) {
                return;
            }
            RealClock::shared().sleep(Duration::from_millis(10)).await;
        }
        panic!("no lane was used");
    }
}

fn right() -> Vec<u8> {
    let bytes = object_bytes(SEED, SIZE);
    [&head(FrameKind::Bytes, 0, &bytes)[..], &bytes].concat()
}

/// A body of unknown length, so that it comes in chunks.
fn pieces(pieces: Vec<Bytes>, ends: bool) -> Body {
    let first = futures::stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))));
    if ends {
        return StreamBody::new(first).boxed_unsync();
    }
    let pieces = futures::StreamExt::chain(first, futures::stream::pending());
    StreamBody::new(pieces).boxed_unsync()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_somebody_waits_for_go_over_lanes_once_they_are_open() {
    let scene = Scene::new(|| Some(Response::new(whole(right())))).await;
    scene.reads_over_lanes(20).await;
    assert_eq!(scene.bucket.reads_total(), 0);
    let (over_lanes, all) = (scene.over_lanes.load(Ordering::Relaxed), scene.peer.reads());
    scene.node.link.read(&scene.object, 0..SIZE, Priority::Fill).await.unwrap();
    assert_eq!(scene.over_lanes.load(Ordering::Relaxed), over_lanes, "nobody waits for fill");
    assert_eq!(scene.peer.reads(), all + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_same_however_it_is_cut() {
    let scene = Scene::new(|| {
        let waiting = [&head(FrameKind::Waiting, 0, &[0])[..], &[0]].concat();
        let cut = [waiting, right()].concat();
        let cut = cut.chunks(70_001).map(Bytes::copy_from_slice).collect();
        Some(Response::new(pieces(cut, true)))
    });
    let scene = scene.await;
    scene.reads_over_lanes(5).await;
    assert_eq!(scene.bucket.reads_total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_closed_before_an_answer_says_nothing_about_the_peer() {
    let scene = Scene::new(|| None).await;
    scene.reads_over_lanes(3).await;
    assert_eq!(scene.bucket.reads_total(), 0);
    let status = scene.node.cluster.status();
    assert_eq!((status.peers[0].state, &status.peers[0].passed[..]), (PeerState::Up, &[][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_on_a_lane_is_passed_by() {
    let damaged = || {
        let mut frame = right();
        frame[500] ^= 1;
        frame
    };
    let lies: [fn() -> Body; 5] = [
        || whole(b"<html>It works!</html>".to_vec()),
        || whole(right()[..5_000].to_vec()),
        || whole([right(), b"more".to_vec()].concat()),
        || pieces(vec![right()[..5_000].to_vec().into()], true),
        || whole(Vec::new()),
    ];
    let mut all: Vec<Box<dyn Fn() -> Body + Send + Sync>> =
        vec![Box::new(move || whole(damaged()))];
    all.extend(lies.map(|lie| Box::new(lie) as Box<dyn Fn() -> Body + Send + Sync>));
    for lie in all {
        let scene = Scene::new(move || Some(Response::new(lie()))).await;
        scene.reads_over_lanes(1).await;
        let status = scene.node.cluster.status();
        assert_eq!(status.peers[0].passed, [(Reason::Wrong, 1)]);
        assert_eq!(scene.bucket.reads_total(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_falls_silent_on_a_lane_is_left_after_its_patience() {
    let begun = || pieces(vec![right()[..5_000].to_vec().into()], false);
    let scene = Scene::new(move || Some(Response::new(begun()))).await;
    scene.reads_over_lanes(1).await;
    let status = scene.node.cluster.status();
    assert_eq!(status.peers[0].passed, [(Reason::Silent, 1)]);
    assert_eq!(scene.bucket.reads_total(), 1);
}
