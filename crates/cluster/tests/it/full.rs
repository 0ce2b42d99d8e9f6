//! Owners that are asked for more than they may give: others are asked, and the bucket for each object once.

use std::sync::Arc;

use feedline_cluster::placement::candidates;
use feedline_cluster::wire::{Item, READ_PATH, ReadRequest, WIRE, WIRE_HEADER};
use feedline_cluster::{NodeId, Reason};
use feedline_model::{BlockSource as _, Object, Priority, page};
use feedline_testkit::{MemorySource, object_bytes};
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::common::{Node, PATIENCE, Plan, SOURCE, addresses, eventually, three};
use crate::trust::Stranger;

/// Objects with their seeds, of which these nodes are the first candidates, in this order.
pub(crate) fn owned(
    by: &[u64],
    seen_by: &Node,
    bucket: &MemorySource,
    (count, size): (usize, u64),
) -> Vec<(u64, Object)> {
    let epoch = seen_by.cluster.epoch();
    let is_theirs = |object: &Object| {
        let order = candidates(&object.id(), epoch.weights());
        order.iter().zip(by).all(|(node, wanted)| *node == NodeId(*wanted))
    };
    let found = (0..).map(|seed| (seed, bucket.insert_seeded(&format!("o/{seed}"), seed, size)));
    let found = found.filter(|(_, object)| is_theirs(object));
    found.take(count).collect()
}

fn passed(by: &Node, of: &Node, reason: Reason) -> u64 {
    let address = of.cluster.address().to_string();
    let peers = by.cluster.status().peers;
    let peer = peers.into_iter().find(|peer| peer.address == address).unwrap();
    peer.passed.iter().find(|(it, _)| *it == reason).map_or(0, |(_, count)| *count)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_full_is_passed_by_for_the_next_candidate() {
    // Room for one page, which somebody takes who then reads no further.
    let (nodes, bucket) = three(&Plan { serve_bytes_max: 1, ..Plan::default() }).await;
    let [first, owner, next] = &nodes;
    let mut pages = owned(&[2, 3, 1], first, &bucket, (2, page::PAGE_BYTES));
    let ((_, large), (seed, wanted)) = (pages.remove(0), pages.remove(0));
    let mut slow = Stranger::connect(owner).await;
    assert_eq!(slow.hello(None).await.0, StatusCode::OK);
    let items = vec![Item::new(&large, &large.id(), &(0..large.version.size))];
    let request = ReadRequest { demand: true, only_cached: false, items };
    let request = Request::post(format!("http://peer{READ_PATH}"))
        .header(WIRE_HEADER, WIRE)
        .body(Full::new(serde_json::to_vec(&request).unwrap().into()))
        .unwrap();
    let answer = slow.0.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    eventually("the page to be on its way", || owner.cluster.status().served == 1).await;
    // Its owner has no room, so who comes after it fetches it, and the reader does not.
    first.reads(&wanted, seed).await;
    assert_eq!(passed(first, owner, Reason::Full), 1);
    assert_eq!((owner.cluster.status().served, next.cluster.status().served), (1, 1));
    let status = first.cluster.status();
    assert_eq!((status.from_peers, status.fell_back), (1, 0), "{status:#?}");
    assert_eq!(bucket.reads(&wanted.key), 1);
    drop(answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_reads_of_one_owner_are_bounded_and_each_object_is_fetched_once() {
    let bucket = MemorySource::new(SOURCE);
    let addresses = addresses::<4>();
    let start = |at: usize| {
        let number = at as u64 + 1;
        Plan::default().start(number, addresses[at], &addresses, Arc::clone(&bucket) as _)
    };
    let nodes = [0, 1, 2, 3].map(start);
    for node in &nodes {
        node.knows(4).await;
    }
    let [reader, hot, others @ ..] = &nodes;
    let objects = owned(&[2], reader, &bucket, (200, 500));
    let held = bucket.hold();
    let reads = objects.iter().map(|(seed, object)| async move {
        let read = reader.link.read(object, 0..500, Priority::Demand).await.unwrap();
        assert!(read == object_bytes(*seed, 500));
    });
    let all_there = async {
        let there = bucket.wait_for_reads(200);
        tokio::time::timeout(PATIENCE, there).await.expect("each read reaches the bucket");
        let in_flight = |node: &Node| {
            let address = node.cluster.address().to_string();
            let peers = reader.cluster.status().peers;
            peers.into_iter().find(|peer| peer.address == address).unwrap().in_flight
        };
        let loads = [hot, &others[0], &others[1]].map(in_flight);
        drop(held);
        loads
    };
    let (_, loads) = tokio::join!(futures::future::join_all(reads), all_there);
    // Three peers of one weight: twice its share of what is under way, but 128 in any case; a few reads may be
    // decided on at the same moment.
    let bound = 128.max((2 * (loads.iter().sum::<u64>() + 1)).div_ceil(3));
    assert!(100 < loads[0] && loads[0] <= bound + 8, "{loads:?}");
    let full = passed(reader, hot, Reason::Full);
    assert!(0 < full && full <= 200 - 100, "{full}, {loads:?}");
    // Nobody was asked in vain and went to the bucket as well.
    assert_eq!(bucket.reads_total(), 200);
    assert!(objects.iter().all(|(_, object)| bucket.reads(&object.key) == 1));
    // Who reads it next hears of it from its owner; what went past that one costs a request once more at most.
    for (seed, object) in &objects {
        others[0].reads(object, *seed).await;
    }
    let again = bucket.reads_total() as u64 - 200;
    assert!(again <= full, "{again} of {full}");
}
