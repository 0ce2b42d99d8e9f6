//! Many guests on a node's port, and those that have gone quiet: nodes are served all the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use feedline_cluster::Guest;
use feedline_testkit::{FakeClock, MemorySource};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};

use crate::common::{Node, Plan, SOURCE, addresses, eventually, objects};
use crate::trust::Stranger;

fn with_guest() -> Plan {
    let guest = Guest::new(|_| {
        let body = Full::new(Bytes::from("served")).map_err(|never| match never {});
        let body = body.boxed_unsync();
        Box::pin(async { Response::new(body) })
    });
    Plan { guest: Some(guest), ..Plan::default() }
}

/// A client of S3 that has asked for something, as one in a pool.
async fn guest_of(node: &Node) -> Stranger {
    let mut guest = Stranger::connect(node).await;
    let request = Request::get("http://node/bucket/key").body(Full::default()).unwrap();
    let response = guest.0.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "served");
    guest
}

#[tokio::test(flavor = "multi_thread")]
async fn six_hundred_idle_guests_do_not_keep_a_node_out() {
    let bucket = MemorySource::new(SOURCE);
    let [a, b] = addresses::<2>();
    let plan = with_guest();
    let first = plan.start(1, a, &[a, b], Arc::clone(&bucket) as _);
    // 64 loaders with pools of ten, of which a few have gone again.
    let mut guests = Vec::new();
    for _ in 0..600 {
        guests.push(guest_of(&first).await);
    }
    let second = plan.start(2, b, &[a, b], Arc::clone(&bucket) as _);
    first.knows(2).await;
    second.knows(2).await;
    for (seed, object) in objects(&bucket, 40, 1_000).iter().enumerate() {
        second.reads(object, seed as u64).await;
    }
    let status = second.cluster.status();
    // None, unless this machine stood still for seconds.
    assert!(0 < status.from_peers && status.fell_back < 5, "{status:#?}");
    let open = guests.iter().filter(|guest| !guest.0.is_closed()).count();
    assert!(0 < open, "all were gone, so this showed nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_asks_nothing_any_more_is_let_go() {
    let bucket = MemorySource::new(SOURCE);
    let [a] = addresses::<1>();
    let clock = FakeClock::new();
    let plan = Plan { clock: Some(clock.shared()), ..with_guest() };
    let node = plan.start(1, a, &[a], Arc::clone(&bucket) as _);
    let guest = guest_of(&node).await;
    assert!(!guest.0.is_closed());
    // At once: time that moves in steps would cut it off for pings that nobody had time to answer.
    clock.advance(Duration::from_secs(61));
    eventually("an idle guest to be let go", || guest.0.is_closed()).await;
}
