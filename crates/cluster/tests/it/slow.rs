//! Peers that are slow are not waited for, peers whose bucket is slow are, and the bucket hardly notices.

use std::sync::atomic::Ordering;
use std::time::Duration;

use feedline_cluster::{PeerState, PeerStatus, Reason};
use feedline_model::{BlockSource as _, Object, Priority, Urgency};
use feedline_testkit::{MemorySource, RealClock, object_bytes};
use futures::StreamExt as _;

use crate::common::{Node, Plan, eventually, three};
use crate::full::owned;

/// Of a read at the owner that is slow.
const SLOW_MS: u64 = 1_500;

fn seen(by: &Node, of: &Node) -> PeerStatus {
    let address = of.cluster.address().to_string();
    let peers = by.cluster.status().peers;
    peers.into_iter().find(|peer| peer.address == address).unwrap()
}

/// Objects of which the second node is the owner, all in its cache.
async fn warm(nodes: &[Node; 3], bucket: &MemorySource, count: usize) -> Vec<(u64, Object)> {
    let objects = owned(&[2], &nodes[0], bucket, (count, 10_000));
    for (seed, object) in &objects {
        nodes[1].reads(object, *seed).await;
    }
    objects
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "real time, for work on real sockets")]
async fn an_owner_that_is_slow_is_passed_by_after_a_few_reads_and_asked_again_once_it_is_well() {
    let (nodes, bucket) = three(&Plan::default()).await;
    let mut objects = warm(&nodes, &bucket, 120).await;
    let later = objects.split_off(80);
    assert_eq!(bucket.reads_total(), 120);
    let [first, owner, third] = &nodes;
    owner.cache.slow_ms.store(SLOW_MS, Ordering::Relaxed);
    let began = std::time::Instant::now();
    let mut before_slow = 0;
    for (seed, object) in &objects {
        if seen(first, owner).state == PeerState::Up {
            before_slow += 1;
        }
        first.reads(object, *seed).await;
    }
    // By its owner alone it would have been two minutes.
    let took = began.elapsed();
    assert!(took < Duration::from_millis(SLOW_MS * 80 / 4), "{took:?}, {before_slow}");
    assert!((2..40).contains(&before_slow), "{before_slow} reads until it was passed by");
    let peer = seen(first, owner);
    assert!(peer.passed.iter().any(|(reason, count)| *reason == Reason::Slow && 40 < *count));
    // What the owner has and does not give is fetched once more; what is hedged is a few.
    let again = bucket.reads_total() - 120;
    let hedged = first.cluster.status().fell_back;
    assert!(again <= 80 && hedged <= 4 + 80 * 3 / 100, "{again} GETs, {hedged} hedged");
    // By now another node has each object: who reads it next asks that one.
    for (seed, object) in &objects {
        third.reads(object, *seed).await;
    }
    let more = bucket.reads_total() - 120 - again;
    assert!(more <= 4, "{more} objects were fetched a third time");
    // It says what it thinks of it, and forgets it.
    owner.cache.slow_ms.store(0, Ordering::Relaxed);
    let (gets, served) = (bucket.reads_total() as u64, owner.cluster.status().served);
    for (seed, object) in &later {
        // Again and again, on a machine that stands still meanwhile: one more late read is enough.
        eventually("the peer to be well", || seen(first, owner).state == PeerState::Up).await;
        first.reads(object, *seed).await;
    }
    let asked = owner.cluster.status().served - served;
    let more = bucket.reads_total() as u64 - gets;
    assert!(20 <= asked && asked + more <= 40, "{asked} of 40 from it, {more} GETs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_peer_says_so_in_status_and_is_still_a_member() {
    let (nodes, bucket) = three(&Plan::default()).await;
    let objects = warm(&nodes, &bucket, 60).await;
    let [first, owner, _] = &nodes;
    owner.cache.slow_ms.store(SLOW_MS, Ordering::Relaxed);
    for (seed, object) in &objects {
        first.reads(object, *seed).await;
        let peer = seen(first, owner);
        if peer.state == PeerState::Slow {
            assert!(peer.trouble.is_some_and(|it| it.starts_with("slow: ")));
            assert_eq!(first.cluster.epoch().members().len(), 3);
            return;
        }
    }
    panic!("{:?}", seen(first, owner));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_bucket_is_slow_is_waited_for() {
    for delay in [300, 900] {
        bucket_is_slow(Duration::from_millis(delay)).await;
    }
}

/// Each object is asked of the bucket once, however long that takes.
async fn bucket_is_slow(delay: Duration) {
    // A machine that stands still again and again makes any node slow: not three times.
    for _ in 0..3 {
        let (nodes, bucket) = three(&Plan::default()).await;
        let [first, owner, _] = &nodes;
        // It is known how quick the owner is.
        for (seed, object) in warm(&nodes, &bucket, 40).await {
            first.reads(&object, seed).await;
        }
        let before = bucket.reads_total();
        bucket.delay(RealClock::shared(), delay);
        let cold = owned(&[2], first, &bucket, (80, 10_000)).split_off(40);
        futures::stream::iter(&cold)
            .for_each_concurrent(8, |(seed, object)| first.reads(object, *seed))
            .await;
        let status = first.cluster.status();
        if status.fell_back == 0 && seen(first, owner).state == PeerState::Up {
            assert_eq!(bucket.reads_total() - before, 40, "once each");
            return;
        }
    }
    panic!("an owner that waited for the bucket was taken for slow");
}

/// How often a peer was passed by for being slow.
fn passed_as_slow(by: &Node, of: &Node) -> u64 {
    let passed = seen(by, of).passed;
    passed.iter().find(|(reason, _)| *reason == Reason::Slow).map_or(0, |(_, count)| *count)
}

/// Reads an object through the link, as a cache has it read for fill. If it is `joined`, a demand read comes once
/// the request is under way.
async fn fill(by: &Node, owner: &Node, (seed, object): &(u64, Object), joined: bool) {
    let (size, urgency) = (object.version.size, Urgency::new(Priority::Fill));
    let asked = |node: &Node| seen(node, owner).requests;
    let before = asked(by);
    let join = async {
        eventually("the request to be under way", || before < asked(by)).await;
        if joined {
            urgency.raise(Priority::Demand);
        }
    };
    let (read, ()) = tokio::join!(by.link.read_shared(object, 0..size, &urgency), join);
    assert!(read.unwrap() == object_bytes(*seed, size), "wrong bytes of {}", object.key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_is_waited_for_until_a_demand_read_joins_it() {
    // A machine that stands still while the owner takes its time has the reads come from elsewhere: not three times.
    let mut seen_as = Vec::new();
    for _ in 0..3 {
        // Given an owner that has become slow, and of one of its objects another node with a copy,
        let (nodes, bucket) = three(&Plan::default()).await;
        let mut objects = warm(&nodes, &bucket, 48).await;
        let (slow, had) = (objects.split_off(41), objects.pop().unwrap());
        let [first, owner, third] = &nodes;
        for (seed, object) in &objects {
            first.reads(object, *seed).await;
        }
        third.reads(&had.1, had.0).await;
        owner.cache.slow_ms.store(SLOW_MS, Ordering::Relaxed);
        let (gets, served) = (bucket.reads_total(), third.cluster.status().served);
        let counted = || {
            let fell_back = first.cluster.status().fell_back;
            let served = third.cluster.status().served - served;
            (passed_as_slow(first, owner), served, bucket.reads_total() - gets, fell_back)
        };
        // then fills come from it, however long that takes and however often;
        for one in &slow[..3] {
            fill(first, owner, one, false).await;
        }
        let alone = counted();
        // one that is joined from whoever has it,
        fill(first, owner, &had, true).await;
        let given = counted();
        // or who fetches it, out of the budget, once it is known that the owner is late.
        let mut joined = 0;
        while counted().3 == 0 && joined < 4 {
            fill(first, owner, &slow[3 + joined], true).await;
            joined += 1;
        }
        let fetched = counted();
        if (alone, given, fetched) == ((0, 0, 0, 0), (1, 1, 0, 0), (2, 2, 1, 1)) && 1 < joined {
            return;
        }
        seen_as.push((alone, given, fetched, joined));
    }
    panic!("passed by, served by the next, GETs, fell back: {seen_as:?}");
}
