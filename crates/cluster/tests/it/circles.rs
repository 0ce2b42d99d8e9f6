//! Nodes that hold each other for the owner, as a stale quota may make them: nobody waits for itself.

use std::sync::Arc;

use bytes::Bytes;
use feedline_cluster::wire::{
    Frame, FrameKind, Frames, Item, ItemFault, READ_PATH, ReadRequest, WIRE, head,
};
use feedline_model::{BlockSource as _, Priority};
use feedline_testkit::object_bytes;
use futures::StreamExt as _;
use http::StatusCode;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::Notify;

use crate::common::{PATIENCE, eventually};
use crate::hostile::{SEED, SIZE, Scene, says};
use crate::trust::Stranger;

/// What the node says to a peer that asks it for the scene's object.
async fn asked(scene: &Scene) -> Frame {
    let mut stranger = Stranger::connect(&scene.node).await;
    assert_eq!(stranger.hello(None).await.0, StatusCode::OK);
    let items = vec![Item::new(&scene.object, &scene.object.id(), &(0..SIZE))];
    let request = ReadRequest { demand: true, only_cached: false, items };
    let body = serde_json::to_vec(&request).unwrap();
    let (status, said) = stranger.post(READ_PATH, WIRE, body).await;
    assert_eq!(status, StatusCode::OK);
    let mut frames = Frames::default();
    frames.push(said.into());
    let mut found = Vec::new();
    while let Some(frame) = frames.next(|_, _, _| true).unwrap() {
        found.push(frame);
    }
    found.retain(|frame| frame.kind != FrameKind::Waiting);
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_by_a_peer_asks_the_bucket_and_no_other_peer() {
    let scene = Scene::new(WIRE, says(|| panic!("the peer was asked"))).await;
    scene.node.knows(2).await;
    let frame = asked(&scene).await;
    assert_eq!((frame.kind, frame.payload), (FrameKind::Bytes, object_bytes(SEED, SIZE)));
    assert_eq!((scene.peer.reads(), scene.bucket.reads_total()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_peer_tells_others_so_at_once() {
    // The peer answers when it is let go.
    let go = Arc::new(Notify::new());
    let waits = Arc::clone(&go);
    let answer: Vec<u8> = {
        let bytes = object_bytes(SEED, SIZE);
        [&head(FrameKind::Bytes, 0, &bytes)[..], &bytes[..]].concat()
    };
    let late = says(move || {
        let (waits, answer) = (Arc::clone(&waits), answer.clone());
        let whole = async move {
            waits.notified().await;
            Ok(hyper::body::Frame::data(Bytes::from(answer)))
        };
        StreamBody::new(futures::stream::once(whole).boxed()).boxed_unsync()
    });
    let scene = Scene::new(WIRE, late).await;
    scene.node.knows(2).await;
    let read = scene.node.cache.read(&scene.object, 0..SIZE, Priority::Demand);
    let meanwhile = async {
        eventually("the peer to be asked", || scene.peer.reads() == 1).await;
        let frame = asked(&scene).await;
        go.notify_one();
        frame
    };
    let both = futures::future::join(read, meanwhile);
    let (read, frame) = tokio::time::timeout(PATIENCE, both).await.expect("nobody waits for ever");
    assert_eq!(frame.kind, FrameKind::Fault);
    let fault: ItemFault = serde_json::from_slice(&frame.payload).unwrap();
    assert_eq!(fault.kind, feedline_cluster::wire::FaultKind::Busy);
    // The peer may have been left for silence meanwhile on a slow machine; the bytes are right anyway.
    assert!(read.unwrap() == object_bytes(SEED, SIZE));
}
