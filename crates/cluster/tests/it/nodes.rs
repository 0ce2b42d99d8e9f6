//! Honest nodes: each object once, whoever asks; what happens when one dies, joins or is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use feedline_cluster::{LocalCopies, PeerState, Reason};
use feedline_model::{BlockSource as _, Keeping, Ownership as _, Priority};
use feedline_testkit::{MemorySource, RealClock, conformance, object_range};
use futures::StreamExt as _;

use crate::common::{MemoryCache, Plan, SOURCE, addresses, eventually, objects, three};

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_that_read_the_same_files_at_once_fetch_each_once() {
    let (nodes, bucket) = three(&Plan::default()).await;
    let objects = objects(&bucket, 300, 110_000);
    // All nodes at once, each in an order of its own, 16 at a time.
    let read = |at: usize| {
        let (node, objects) = (&nodes[at], &objects);
        let order = (0..300).map(move |n| (n * [7, 11, 13][at] + at * 31) % 300);
        futures::stream::iter(order).for_each_concurrent(16, move |n| async move {
            node.reads(&objects[n], n as u64).await;
        })
    };
    tokio::join!(read(0), read(1), read(2));
    let status = nodes.each_ref().map(|node| node.cluster.status());
    let sum = |of: fn(&feedline_cluster::ClusterStatus) -> u64| status.iter().map(of).sum::<u64>();
    // None, unless this machine stood still for seconds: each is counted.
    let fell_back = sum(|status| status.fell_back);
    assert!(fell_back <= 30, "{status:#?}");
    let gets = bucket.reads_total() as u64;
    assert!((300..=300 + fell_back).contains(&gets), "{gets} GETs for 300 objects");
    let saved = sum(|status| status.from_peers);
    assert!((600 - fell_back..=600).contains(&saved), "{status:#?}");
    assert!(saved <= sum(|status| status.served));
    assert_eq!(sum(|status| status.bytes_from_peers), saved * 110_000);
    assert_eq!(status[0].fingerprint, status[1].fingerprint);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_among_peers_keeps_the_contract_of_every_source() {
    let (nodes, bucket) = three(&Plan::default()).await;
    conformance::block_source(Arc::clone(&nodes[0].link) as _, &bucket).await;
    assert!(0 < nodes[0].cluster.status().from_peers, "no peer was asked, so this showed nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_large_object_come_from_its_owner() {
    let (nodes, bucket) = three(&Plan::default()).await;
    let page = feedline_model::page::PAGE_BYTES;
    let large = bucket.insert_seeded("large", 5, 2 * page + 777);
    for node in &nodes {
        for range in [0..page, page..2 * page, 2 * page..2 * page + 777, 5..6] {
            let read = node.link.read(&large, range.clone(), Priority::Fill).await.unwrap();
            assert!(read == object_range(5, range));
        }
    }
    let saved: u64 = nodes.iter().map(|node| node.cluster.status().from_peers).sum();
    assert_eq!(saved, 8, "two of the three nodes asked the third, four times each");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_is_passed_by_and_one_other_takes_over_each_object() {
    let (nodes, bucket) = three(&Plan::default()).await;
    let objects = objects(&bucket, 240, 10_000);
    let [first, second, third] = nodes;
    let owned = objects.iter().filter(|it| third.link.keeping(&it.id()) == Keeping::Own).count();
    assert!(0 < owned && owned < 240);
    third.cluster.stop();
    for (seed, object) in objects.iter().enumerate() {
        first.reads(object, seed as u64).await;
        second.reads(object, seed as u64).await;
    }
    // The first read that found it dead may have been in anybody's hands.
    let extra = bucket.reads_total() - 240;
    assert!(extra <= 2, "{extra} objects were fetched twice");
    let peer = |node: &crate::common::Node| {
        let address = third.cluster.address().to_string();
        node.cluster.status().peers.into_iter().find(|peer| peer.address == address).unwrap()
    };
    for node in [&first, &second] {
        let peer = peer(node);
        assert_eq!(peer.state, PeerState::Down, "{peer:?}");
        assert!(peer.passed.iter().any(|(reason, count)| *reason == Reason::Down && 0 < *count));
        assert_eq!(node.cluster.epoch().members().len(), 3, "it stays a member");
    }
    // What it owned is now kept by exactly one of the others.
    for object in &objects {
        let keeping = [&first, &second].map(|node| node.link.keeping(&object.id()));
        assert_eq!(keeping.iter().filter(|keeping| **keeping == Keeping::Own).count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_is_asked_again() {
    let bucket = MemorySource::new(SOURCE);
    let [a, b] = addresses::<2>();
    let plan = Plan::default();
    let first = plan.start(1, a, &[a, b], Arc::clone(&bucket) as _);
    let objects = objects(&bucket, 60, 1_000);
    // Nobody is there yet: alone, it owns everything.
    for (seed, object) in objects.iter().enumerate().take(20) {
        first.reads(object, seed as u64).await;
    }
    let second = plan.start(2, b, &[a, b], Arc::clone(&bucket) as _);
    first.knows(2).await;
    second.knows(2).await;
    for (seed, object) in objects.iter().enumerate() {
        first.reads(object, seed as u64).await;
    }
    let fell_back = first.cluster.status().fell_back as usize;
    assert!((60..=60 + fell_back).contains(&bucket.reads_total()) && fell_back < 10);
    assert!(0 < second.cluster.status().served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_at_another_address_is_asked_there() {
    let bucket = MemorySource::new(SOURCE);
    let [a, b, c] = addresses::<3>();
    let plan = Plan::default();
    let start = |number, at| plan.start(number, at, &[a, b, c], Arc::clone(&bucket) as _);
    let first = start(1, a);
    let second = start(2, b);
    first.knows(2).await;
    drop(second);
    let second = start(2, c);
    eventually("the node to be found at its new address", || {
        let status = first.cluster.status();
        let peer = status.peers.iter().find(|peer| peer.address == c.to_string());
        status.members == 2 && peer.is_some_and(|peer| peer.state == PeerState::Up)
    })
    .await;
    for (seed, object) in objects(&bucket, 40, 1_000).iter().enumerate() {
        first.reads(object, seed as u64).await;
    }
    assert!(0 < second.cluster.status().served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_owner_takes_what_the_old_one_has_instead_of_asking_the_bucket() {
    let bucket = MemorySource::new(SOURCE);
    let [a, b] = addresses::<2>();
    let plan = Plan::default();
    let first = plan.start(1, a, &[a, b], Arc::clone(&bucket) as _);
    let objects = objects(&bucket, 200, 5_000);
    for (seed, object) in objects.iter().enumerate() {
        first.reads(object, seed as u64).await;
    }
    assert_eq!(bucket.reads_total(), 200);
    // With a cache that is older, as of one that was away: nobody owned anything before it came.
    let plan = Plan { age: Duration::from_secs(24 * 60 * 60), ..plan };
    let second = plan.start(2, b, &[a, b], Arc::clone(&bucket) as _);
    first.knows(2).await;
    second.knows(2).await;
    for (seed, object) in objects.iter().enumerate() {
        second.reads(object, seed as u64).await;
    }
    // Nothing, but for a machine that stood still for seconds.
    let gets = bucket.reads_total();
    assert!((200..=204).contains(&gets), "{gets}: a node that joins costs the bucket nothing");
    let status = second.cluster.status();
    assert!(60 < status.handed_over && status.handed_over < 140, "{status:#?}");
    // What nobody had before is asked for in vain only so often: 256 times, as this one
    // was passed by before it came, and then one time in 16.
    let more: Vec<_> =
        (500..1_700).map(|n| bucket.insert_seeded(&format!("n/{n}"), n, 100)).collect();
    for (seed, object) in (500..).zip(&more) {
        second.reads(object, seed).await;
    }
    let refused = first.cluster.status().refused;
    assert!((250..=300).contains(&refused), "{refused}: a cold cache is no handover");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_join_at_once_take_what_the_old_ones_have_also_after_a_cold_data_set() {
    for joining in 2..=6 {
        join_at_once(joining).await;
    }
}

/// Two nodes that have been there for a day, and so many new ones.
async fn join_at_once(joining: usize) {
    let bucket = MemorySource::new(SOURCE);
    let addresses = addresses::<8>();
    let old = Plan { age: Duration::from_secs(24 * 60 * 60), ..Plan::default() };
    let start = |plan: &Plan, at: usize| {
        let all = &addresses[..2 + joining];
        plan.start(at as u64 + 1, addresses[at], all, Arc::clone(&bucket) as _)
    };
    let mut nodes = vec![start(&old, 0), start(&old, 1)];
    for node in &nodes {
        node.knows(2).await;
    }
    // Read on one of them, so that the other has what it owns and no more.
    let held = objects(&bucket, 240, 1_000);
    for (seed, object) in held.iter().enumerate() {
        nodes[0].reads(object, seed as u64).await;
    }
    nodes.extend((0..joining).map(|at| start(&Plan::default(), 2 + at)));
    for node in &nodes {
        node.knows(2 + joining).await;
    }
    // Each node owns a hundred of what nobody has.
    for seed in 1_000..1_000 + 100 * nodes.len() as u64 {
        let cold = bucket.insert_seeded(&format!("cold/{seed}"), seed, 100);
        nodes[2].reads(&cold, seed).await;
    }
    let before = bucket.reads_total();
    let read = |node| {
        let held = held.iter().enumerate();
        futures::stream::iter(held).for_each_concurrent(16, move |(seed, object)| async move {
            let node: &crate::common::Node = node;
            node.reads(object, seed as u64).await;
        })
    };
    futures::future::join_all(nodes[2..].iter().map(read)).await;
    // Nothing, but for a machine that stood still for seconds.
    let again = bucket.reads_total() - before;
    assert!(again <= 4, "{joining} that join at once fetch {again} objects of 240 again");
    let handed_over: u64 = nodes.iter().map(|node| node.cluster.status().handed_over).sum();
    assert!(50 < handed_over, "{handed_over}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_waits_for_the_bucket_is_waited_for_longer_than_one_that_is_silent() {
    // A machine that stands still for seconds makes a silent peer of a patient one: not three times.
    for _ in 0..3 {
        let (nodes, bucket) = three(&Plan::default()).await;
        let objects = objects(&bucket, 12, 1_000);
        // Beyond anybody's patience with a silent peer.
        bucket.delay(RealClock::shared(), Duration::from_millis(4_000));
        let reads = objects.iter().enumerate();
        let reads = reads.map(|(seed, object)| nodes[0].reads(object, seed as u64));
        futures::future::join_all(reads).await;
        let status = nodes[0].cluster.status();
        if status.fell_back == 0 {
            assert_eq!(bucket.reads_total(), 12, "nobody else asked the bucket meanwhile");
            assert!(0 < status.from_peers);
            return;
        }
    }
    panic!("peers that waited for the bucket were left for silence");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_says_of_the_bucket_is_no_error_until_the_bucket_says_it() {
    let (nodes, bucket) = three(&Plan::default()).await;
    let objects = objects(&bucket, 30, 1_000);
    // Every read of the owner fails, and the reader's own works.
    for object in &objects {
        bucket.fail_key(&object.key, 1, &MemorySource::unavailable());
    }
    let mut errors = 0;
    for (seed, object) in objects.iter().enumerate() {
        let read = nodes[0].link.read(object, 0..1_000, Priority::Demand).await;
        match read {
            Ok(bytes) => assert!(bytes == object_range(seed as u64, 0..1_000)),
            // Its own: nobody is asked instead of the bucket.
            Err(_) => errors += 1,
        }
    }
    let own = objects.iter().filter(|it| nodes[0].link.keeping(&it.id()) == Keeping::Own).count();
    assert_eq!(errors, own);
    // Gone: each node hears it from the bucket.
    bucket.remove("o/0");
    let gone = nodes[1].link.read(&objects[0], 0..1_000, Priority::Demand).await;
    assert!(matches!(gone, Err(feedline_model::ReadError::NotFound { .. })), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_or_prefix_that_a_peer_does_not_mount_is_read_without_it() {
    for (source, prefix) in [(feedline_model::SourceId(8), ""), (SOURCE, "o/x/"), (SOURCE, "p")] {
        not_mounted(source, prefix).await;
    }
}

/// Objects `o/N` of this source, where a peer mounts this prefix of another.
async fn not_mounted(source: feedline_model::SourceId, prefix: &'static str) {
    let bucket = MemorySource::new(source);
    let [a, b] = addresses::<2>();
    let plan = Plan { prefix, ..Plan::default() };
    let first = plan.start(1, a, &[a, b], Arc::clone(&bucket) as _);
    let second = plan.start(2, b, &[a, b], Arc::clone(&bucket) as _);
    first.knows(2).await;
    let objects = objects(&bucket, 20, 1_000);
    for (seed, object) in objects.iter().enumerate() {
        first.reads(object, seed as u64).await;
    }
    let peer = &first.cluster.status().peers[0];
    assert!(peer.passed.iter().any(|(reason, _)| *reason == Reason::NotMounted), "{peer:?}");
    assert_eq!(peer.state, PeerState::Up, "nothing is wrong with it");
    assert_eq!(second.cluster.status().served, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_follows_local_copies() {
    for (local_copies, other) in [
        (LocalCopies::Auto, Keeping::Copy),
        (LocalCopies::Always, Keeping::Own),
        (LocalCopies::Never, Keeping::Pass),
    ] {
        let (nodes, bucket) = three(&Plan { local_copies, ..Plan::default() }).await;
        let objects = objects(&bucket, 90, 10);
        let own = |at: usize| {
            let keeping = objects.iter().map(|it| nodes[at].link.keeping(&it.id()));
            keeping.filter(|keeping| *keeping == Keeping::Own).count()
        };
        let seen: Vec<_> = objects.iter().map(|it| nodes[0].link.keeping(&it.id())).collect();
        assert!(seen.iter().all(|keeping| [Keeping::Own, other].contains(keeping)), "{seen:?}");
        let expected = if local_copies == LocalCopies::Always { 270 } else { 90 };
        assert_eq!(own(0) + own(1) + own(2), expected);
        assert_eq!(nodes[0].link.has_copies(), local_copies == LocalCopies::Auto);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_served_have_a_budget_that_slows_down_and_breaks_nothing() {
    // Room for one page at a time.
    let plan = Plan { serve_bytes_max: 1, ..Plan::default() };
    let (nodes, bucket) = three(&plan).await;
    let page = feedline_model::page::PAGE_BYTES;
    let objects = objects(&bucket, 12, page);
    let reads =
        objects.iter().enumerate().map(|(seed, object)| nodes[0].reads(object, seed as u64));
    futures::future::join_all(reads).await;
    eventually("everything to be handed over", || {
        nodes.iter().all(|node| node.cluster.status().peers.iter().all(|peer| peer.in_flight == 0))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_of_a_peer_are_never_used() {
    type Damage = fn(&MemoryCache) -> &AtomicBool;
    let damages: [Damage; 2] = [|cache| &cache.cuts, |cache| &cache.flips];
    for damage in damages {
        let (nodes, bucket) = three(&Plan::default()).await;
        let objects = objects(&bucket, 60, 2_000);
        damage(&nodes[1].cache).store(true, Ordering::Relaxed);
        for (seed, object) in objects.iter().enumerate() {
            nodes[0].reads(object, seed as u64).await;
        }
        let address = nodes[1].cluster.address().to_string();
        let status = nodes[0].cluster.status();
        let peer = status.peers.iter().find(|peer| peer.address == address).unwrap();
        assert_eq!(peer.state, PeerState::Down);
        assert!(peer.passed.iter().any(|(reason, count)| *reason == Reason::Wrong && *count == 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_objects_come_in_few_requests_and_one_that_is_gone_spoils_no_other() {
    let (nodes, bucket) = three(&Plan::default()).await;
    let objects = objects(&bucket, 1_200, 3_000);
    bucket.remove("o/7");
    let wanted: Vec<_> = objects.iter().map(|object| (object.clone(), 0..3_000)).collect();
    let came = parking_lot::Mutex::new(vec![false; wanted.len()]);
    let took = |place: usize, bytes: bytes::Bytes| {
        assert!(bytes == object_range(place as u64, 0..3_000));
        assert!(!std::mem::replace(&mut came.lock()[place], true), "twice");
    };
    let mut left = nodes[0].link.read_many(&wanted, Priority::Fill, took).await;
    left.sort_unstable();
    let is_ours = |at: &usize| nodes[0].link.keeping(&objects[*at].id()) == Keeping::Own;
    let expected: Vec<_> = (0..1_200).filter(|at| is_ours(at) || *at == 7).collect();
    let came = came.into_inner();
    let missing: Vec<_> = (0..1_200).filter(|at| !came[*at]).collect();
    assert_eq!(left, missing, "what did not come is told");
    assert_eq!(left, expected);
    let requests: u64 = nodes[0].cluster.status().peers.iter().map(|peer| peer.requests).sum();
    assert!(requests <= 6, "{requests} requests for 800 objects");
}
