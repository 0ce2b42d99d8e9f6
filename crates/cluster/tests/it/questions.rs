//! Questions that are no reads: what comes back, how long is waited, and peers that know none or lie.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use feedline_cluster::wire::{FrameKind, WIRE, WIRE_HEADER, head};
use feedline_cluster::{ANSWER_BYTES_MAX, Asker, PeerState, Questions, Reason};
use feedline_testkit::authority::NOW;
use feedline_testkit::{Authority, MemorySource};
use http::Response;
use serde_json::{Value, json};

use crate::common::{NO_WIRE, PATIENCE, Plan, SOURCE, addresses, eventually, three, whole};
use crate::hostile::{Scene, says};
use crate::tls;
use crate::trust::TOKEN;

/// Says back what it is asked, after so many milliseconds or never, and so many bytes of it; or who asks.
#[derive(Debug, Default)]
struct Echo {
    under_way: AtomicUsize,
}

#[async_trait]
impl Questions for Echo {
    #[expect(clippy::disallowed_methods, reason = "real time, for work on real sockets")]
    async fn answer(&self, asker: Asker, question: Value) -> Vec<u8> {
        struct UnderWay<'a>(&'a AtomicUsize);
        impl Drop for UnderWay<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let _under_way = UnderWay(&self.under_way);
        if question == "who" {
            return serde_json::to_vec(&format!("{asker:?}")).unwrap();
        }
        if question == "never" {
            std::future::pending::<()>().await;
        }
        if let Some(ms) = question["after_ms"].as_u64() {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        match question["bytes"].as_u64() {
            Some(bytes) => vec![b' '; usize::try_from(bytes).unwrap()],
            None => serde_json::to_vec(&question).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_however_long_it_takes_and_given_up_when_nobody_waits() {
    let plan = Plan { token: Some("0123456789abcdef0123456789abcdef"), ..Plan::default() };
    let (nodes, _bucket) = three(&plan).await;
    let echo = Arc::new(Echo::default());
    nodes[1].cluster.serve_questions(Arc::clone(&echo) as _);
    let cluster = &nodes[0].cluster;
    let address = nodes[1].cluster.address().to_string();
    let ask = |question: Value, limit| {
        let address = address.clone();
        async move { cluster.ask::<Value>(&address, &question, limit).await }
    };
    assert_eq!(ask(json!({"a": [1, "ü"]}), PATIENCE).await.unwrap(), json!({"a": [1, "ü"]}));
    // Longer than a peer may be silent: it says that it is alive.
    let slow = json!({"after_ms": 4_000});
    assert_eq!(ask(slow.clone(), PATIENCE).await.unwrap(), slow);
    // An answer that nobody could keep is not sent.
    let long = ask(json!({"bytes": ANSWER_BYTES_MAX + 1}), PATIENCE).await.unwrap_err();
    assert_eq!(long.reason, Reason::Full, "{long}");
    // Nobody waits for ever, and then nobody works on it either.
    let late = ask(json!("never"), Duration::from_millis(300)).await.unwrap_err();
    assert!(late.message.contains("no answer within"), "{late}");
    eventually("it to be given up", || echo.under_way.load(Ordering::SeqCst) == 0).await;
    let status = cluster.status();
    let peer = status.peers.iter().find(|peer| peer.address == address).unwrap();
    assert_eq!(peer.state, PeerState::Up, "a slow answer is no trouble with reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_all_the_questions_that_it_may_have_says_so_at_once() {
    let (nodes, _bucket) = three(&Plan::default()).await;
    let echo = Arc::new(Echo::default());
    nodes[1].cluster.serve_questions(Arc::clone(&echo) as _);
    let cluster = &nodes[0].cluster;
    let address = nodes[1].cluster.address().to_string();
    let (never, large) = (json!("never"), json!("large ".repeat(100_000)));
    let waiting = (0..64).map(|_| cluster.ask::<Value>(&address, &never, PATIENCE));
    let mut waiting = Box::pin(futures::future::join_all(waiting));
    let under_way = || echo.under_way.load(Ordering::SeqCst);
    tokio::select! {
        _ = &mut waiting => panic!("they are never answered"),
        () = eventually("all to be under way", || under_way() == 64) => {}
    }
    for question in [json!(1), large.clone()] {
        let full = cluster.ask::<Value>(&address, &question, PATIENCE).await.unwrap_err();
        assert_eq!(full.reason, Reason::Full, "{full}");
        assert!(full.message.contains("64 questions"), "{full}");
    }
    let status = cluster.status();
    assert!(status.peers.iter().all(|peer| peer.state == PeerState::Up), "{:?}", status.peers);
    drop(waiting);
    eventually("all to be given up", || under_way() == 0).await;
    // The end of the answer is a moment after the end of the work.
    let ask = || cluster.ask::<Value>(&address, &large, PATIENCE);
    let mut answer = ask().await;
    while answer.as_ref().is_err_and(|fault| fault.reason == Reason::Full) {
        answer = ask().await;
    }
    assert_eq!(answer.unwrap(), large);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_trusted_with_a_proof_or_where_nobody_else_reaches_the_port() {
    let authority = Authority::new();
    let bucket = MemorySource::new(SOURCE);
    let (open, local) = ([0, 0, 0, 0], [127, 0, 0, 1]);
    let with_token = || Plan { token: Some(TOKEN), ..Plan::default() };
    let with_tls = || tls::with(authority.node(NOW));
    for (plans, listen, expected) in [
        ([Plan::default(), Plan::default()], local, "Trusted"),
        ([Plan::default(), Plan::default()], open, "Anybody"),
        ([with_token(), with_token()], open, "Trusted"),
        ([with_tls(), with_tls()], open, "Trusted"),
    ] {
        let any = SocketAddr::from((listen, 0));
        let second = plans[1].start(2, any, &[], Arc::clone(&bucket) as _);
        second.cluster.serve_questions(Arc::new(Echo::default()));
        let address = SocketAddr::from((local, second.cluster.address().port()));
        let [own] = addresses::<1>();
        let first = plans[0].start(1, own, &[address], Arc::clone(&bucket) as _);
        first.knows(2).await;
        let who = first.cluster.ask::<Value>(&address.to_string(), &json!("who"), PATIENCE).await;
        assert_eq!(who.unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_no_questions_is_named_with_its_version_and_good_for_all_else() {
    let not_found = |header: &'static str| {
        move || {
            let mut response = Response::new(whole(r#"{"message":"nothing here"}"#));
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            response.headers_mut().insert(header, WIRE.into());
            response
        }
    };
    // One whose port knows that it is none of its paths, and one whose guest answers in its place.
    for header in [WIRE_HEADER, NO_WIRE] {
        let scene = Scene::new(WIRE, Arc::new(not_found(header))).await;
        scene.node.knows(2).await;
        let address = scene.peer.address.to_string();
        let fault = scene.node.cluster.ask::<Value>(&address, &json!(1), PATIENCE).await;
        let fault = fault.unwrap_err();
        assert!(fault.message.contains("runs fake, which does not know"), "{fault}");
        assert_eq!(scene.node.cluster.status().peers[0].state, PeerState::Up);
    }
    // A node of this version that has nobody to answer yet says the same.
    let [a, b] = addresses::<2>();
    let bucket = MemorySource::new(SOURCE);
    let first = Plan::default().start(1, a, &[a, b], Arc::clone(&bucket) as _);
    let _second = Plan::default().start(2, b, &[a, b], Arc::clone(&bucket) as _);
    first.knows(2).await;
    let fault = first.cluster.ask::<Value>(&b.to_string(), &json!(1), PATIENCE).await;
    assert!(fault.unwrap_err().message.contains("runs test, which does not know"));
    let absent = first.cluster.ask::<Value>("nowhere:1", &json!(1), PATIENCE).await;
    assert_eq!(absent.unwrap_err().reason, Reason::Down);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lies_about_questions_is_passed_by_and_not_asked_again() {
    let frame = |kind, index, payload: &[u8]| [&head(kind, index, payload)[..], payload].concat();
    let mut damaged = frame(FrameKind::Said, 0, b"{}");
    *damaged.last_mut().unwrap() ^= 1;
    let answers = [
        damaged,
        frame(FrameKind::Said, 1, b"{}"),
        frame(FrameKind::Bytes, 0, b"{}"),
        frame(FrameKind::Said, 0, &vec![b' '; ANSWER_BYTES_MAX + 1]),
        frame(FrameKind::Waiting, 0, &[0]),
        b"<html>".to_vec(),
        vec![],
    ];
    for answer in answers {
        let scene = Scene::new(WIRE, says(move || whole(answer.clone()))).await;
        scene.node.knows(2).await;
        let address = scene.peer.address.to_string();
        let question = json!(1);
        let ask = || scene.node.cluster.ask::<Value>(&address, &question, PATIENCE);
        assert_eq!(ask().await.unwrap_err().reason, Reason::Wrong);
        assert_eq!(scene.node.cluster.status().peers[0].state, PeerState::Down);
        assert_eq!(ask().await.unwrap_err().reason, Reason::Down);
        assert_eq!(scene.peer.reads(), 1, "one that is passed by is not asked");
    }
}
