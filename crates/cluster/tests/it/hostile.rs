//! Peers that lie, hang, talk for ever or speak another language: the reader gets its bytes all the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use feedline_cluster::wire::{FrameKind, WIRE, WIRE_HEADER, head};
use feedline_cluster::{PeerState, Reason};
use feedline_model::{BlockSource as _, Object, Priority};
use feedline_testkit::{MemorySource, object_bytes};
use http::Response;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use crate::common::{Body, FakePeer, Node, Plan, SOURCE, Says, addresses, whole};

pub(crate) const SIZE: u64 = 10_000;
pub(crate) const SEED: u64 = 3;

/// A node whose only peer owns everything and is a liar.
pub(crate) struct Scene {
    pub(crate) node: Node,
    pub(crate) peer: FakePeer,
    pub(crate) object: Object,
    pub(crate) bucket: Arc<MemorySource>,
}

impl Scene {
    pub(crate) async fn new(wire: u32, says: Says) -> Self {
        Self::with(Plan::default(), wire, says).await
    }

    async fn with(plan: Plan, wire: u32, says: Says) -> Self {
        let peer = FakePeer::start(wire, says).await;
        let bucket = MemorySource::new(SOURCE);
        let object = bucket.insert_seeded("k", SEED, SIZE);
        let [own] = addresses::<1>();
        let node = plan.start(1, own, &[own, peer.address], Arc::clone(&bucket) as _);
        Self { node, peer, object, bucket }
    }

    async fn read(&self) -> Bytes {
        self.node.link.read(&self.object, 0..SIZE, Priority::Demand).await.unwrap()
    }

    /// The read is right, the peer is passed by for this reason, and is not asked a second time.
    async fn is_passed_by(&self, reason: Reason) {
        self.node.knows(2).await;
        assert!(self.read().await == object_bytes(SEED, SIZE));
        assert_eq!((self.peer.reads(), self.bucket.reads_total()), (1, 1));
        let status = self.node.cluster.status();
        let peer = &status.peers[0];
        assert_eq!(peer.passed, [(reason, 1)], "{peer:?}");
        if reason == Reason::Silent {
            // It greets, so it may be trusted again by now.
            return;
        }
        assert_eq!(peer.state, PeerState::Down, "{peer:?}");
        assert!(self.read().await == object_bytes(SEED, SIZE));
        assert_eq!(self.peer.reads(), 1);
    }
}

pub(crate) fn says(body: impl Fn() -> Body + Send + Sync + 'static) -> Says {
    Arc::new(move || Response::new(body()))
}

/// Pieces without end: the same one over and over.
fn endless(piece: Bytes) -> Body {
    let pieces = futures::stream::repeat_with(move || Ok(Frame::data(piece.clone())));
    StreamBody::new(pieces).boxed_unsync()
}

/// The same, a thousand times a second: a flood ends the connection before anybody has read it.
#[expect(clippy::disallowed_methods, reason = "a peer of a test has a pace of its own")]
fn steady(piece: Bytes) -> Body {
    let pieces = futures::stream::unfold(piece, |piece| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Some((Ok(Frame::data(piece.clone())), piece))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn frame(kind: FrameKind, index: u32, payload: &[u8]) -> Vec<u8> {
    [&head(kind, index, payload)[..], payload].concat()
}

fn right() -> Vec<u8> {
    frame(FrameKind::Bytes, 0, &object_bytes(SEED, SIZE))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_answer_is_used() {
    // Shows that the scene works: all the others differ from this one in one thing.
    let scene = Scene::new(WIRE, says(|| whole(right()))).await;
    scene.node.knows(2).await;
    assert!(scene.read().await == object_bytes(SEED, SIZE));
    assert_eq!((scene.peer.reads(), scene.bucket.reads_total()), (1, 0));
    assert_eq!(scene.node.cluster.status().peers[0].state, PeerState::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_found_by_their_checksum() {
    let damaged = || {
        let mut frame = right();
        frame[500] ^= 1;
        whole(frame)
    };
    Scene::new(WIRE, says(damaged)).await.is_passed_by(Reason::Wrong).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_flips_on_the_way_gives_nobody_the_bytes_of_another_object() {
    // Given the answer to two reads of one length, and in the place of the first a bit that makes it the second,
    let mut answer = right();
    answer[1] ^= 1;
    answer.extend(frame(FrameKind::Bytes, 0, &object_bytes(SEED + 1, SIZE)));
    let scene = Scene::new(WIRE, says(move || whole(answer.clone()))).await;
    let other = scene.bucket.insert_seeded("other", SEED + 1, SIZE);
    scene.node.knows(2).await;
    // then none of it is used.
    let wanted = [(scene.object.clone(), 0..SIZE), (other, 0..SIZE)];
    let took = |place: usize, _: Bytes| panic!("{place} was taken");
    let mut left = scene.node.link.read_many(&wanted, Priority::Fill, took).await;
    left.sort_unstable();
    assert_eq!(left, [0, 1]);
    let passed = scene.node.cluster.status().peers[0].passed.clone();
    assert_eq!((passed, scene.peer.reads()), (vec![(Reason::Wrong, 1)], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_wrong_length_or_kind_are_refused() {
    let long = frame(FrameKind::Bytes, 0, &object_bytes(SEED, SIZE + 1));
    let short = frame(FrameKind::Bytes, 0, &object_bytes(SEED, SIZE - 1));
    let cut = right()[..5_000].to_vec();
    let twice = [right(), right()].concat();
    let trailing = [right(), b"more".to_vec()].concat();
    let other_item = frame(FrameKind::Bytes, 1, &object_bytes(SEED, SIZE));
    let fault_of_no_json = frame(FrameKind::Fault, 0, b"sorry");
    let huge = [&[1, 0, 0, 0, 0, 255, 255, 255, 255][..], &[0; 4]].concat();
    let text = b"<html>It works!</html>".to_vec();
    let all = [long, short, cut, twice, trailing, other_item, fault_of_no_json, huge, text, vec![]];
    for answer in all {
        let scene = Scene::new(WIRE, says(move || whole(answer.clone()))).await;
        scene.is_passed_by(Reason::Wrong).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_cut_off() {
    // Garbage is found at once, and so are frames that nobody asked for.
    let garbage = says(|| endless(Bytes::from_static(&[7; 4096])));
    Scene::new(WIRE, garbage).await.is_passed_by(Reason::Wrong).await;
    // "Still waiting", for ever: until the time that a read may take.
    let plan = Plan { answer_max: Duration::from_millis(700), ..Plan::default() };
    let waiting = says(|| steady(frame(FrameKind::Waiting, 0, &[0]).into()));
    Scene::with(plan, WIRE, waiting).await.is_passed_by(Reason::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_falls_silent_is_left_after_its_patience() {
    // The answer begins, and then nothing.
    let silent = says(|| {
        let first = futures::stream::iter([Ok(Frame::data(Bytes::from_static(&[1])))]);
        let pieces = futures::StreamExt::chain(first, futures::stream::pending());
        StreamBody::new(pieces).boxed_unsync()
    });
    Scene::new(WIRE, silent).await.is_passed_by(Reason::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_headers_and_errors_are_no_answer() {
    let headers: Says = Arc::new(|| {
        let mut response = Response::new(whole(right()));
        for number in 0..64 {
            let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
            response.headers_mut().insert(name, "y".repeat(1_000).parse().unwrap());
        }
        response
    });
    let scene = Scene::new(WIRE, headers).await;
    scene.node.knows(2).await;
    assert!(scene.read().await == object_bytes(SEED, SIZE));
    assert_eq!(scene.bucket.reads_total(), 1);
    let error: Says = Arc::new(|| {
        let mut response = Response::new(endless(Bytes::from_static(&[b' '; 4096])));
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    });
    Scene::new(WIRE, error).await.is_passed_by(Reason::Wrong).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_wire_version_is_told_and_passed_by() {
    let scene = Scene::new(WIRE + 1, says(|| whole(right()))).await;
    let version = || scene.node.cluster.status().peers[0].clone();
    crate::common::eventually("its version to be refused", || version().state == PeerState::Down)
        .await;
    let trouble = version().trouble.unwrap();
    assert!(trouble.contains("version 2") && trouble.contains("update one"), "{trouble}");
    assert_eq!(scene.node.cluster.epoch().members().len(), 1, "it is no member");
    assert!(scene.read().await == object_bytes(SEED, SIZE));
    assert_eq!(scene.peer.reads(), 0);
    // The same when only the answer to a read says so, as after an update of the peer.
    let later: Says = Arc::new(|| {
        let mut response = Response::new(whole(right()));
        response.headers_mut().insert(WIRE_HEADER, 2.into());
        response
    });
    Scene::new(WIRE, later).await.is_passed_by(Reason::Version).await;
}
