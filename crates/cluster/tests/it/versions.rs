//! Nodes that speak different versions of the protocol: the highest that both do is used, and without one both read on.

use std::sync::Arc;

use feedline_cluster::{PeerState, PeerStatus};
use feedline_testkit::MemorySource;

use crate::common::{Node, Plan, SOURCE, addresses, eventually, objects};

fn speaks(wire: &str) -> Plan {
    Plan { wire: wire.parse().unwrap(), ..Plan::default() }
}

/// What a node thinks of the one at this place.
fn sees(node: &Node, address: std::net::SocketAddr) -> PeerStatus {
    let peers = node.cluster.status().peers;
    peers.into_iter().find(|peer| peer.address == address.to_string()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_use_the_highest_version_that_both_speak() {
    for (ours, theirs, used) in [("1", "1..2", 1), ("1..3", "2..5", 3), ("4..9", "1..7", 7)] {
        let bucket = MemorySource::new(SOURCE);
        let [a, b] = addresses::<2>();
        let first = speaks(ours).start(1, a, &[a, b], Arc::clone(&bucket) as _);
        let second = speaks(theirs).start(2, b, &[a, b], Arc::clone(&bucket) as _);
        first.knows(2).await;
        second.knows(2).await;
        for (seed, object) in objects(&bucket, 20, 1_000).iter().enumerate() {
            first.reads(object, seed as u64).await;
            second.reads(object, seed as u64).await;
        }
        assert_eq!(bucket.reads_total(), 20, "{ours} and {theirs}");
        assert_eq!((sees(&first, b).wire, sees(&second, a).wire), (Some(used), Some(used)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_a_common_version_pass_each_other_by_and_share_with_those_that_speak_both() {
    let bucket = MemorySource::new(SOURCE);
    let all = addresses::<3>();
    let [old, both, new] = [("1", 0), ("1..2", 1), ("2", 2)].map(|(wire, at)| {
        speaks(wire).start(at as u64 + 1, all[at], &all, Arc::clone(&bucket) as _)
    });
    both.knows(3).await;
    for (node, other, theirs) in [(&old, all[2], "version 2"), (&new, all[0], "version 1")] {
        node.knows(2).await;
        eventually("the other version to be passed by", || {
            let seen = sees(node, other);
            let said = seen.trouble.unwrap_or_default();
            seen.state == PeerState::Down && said.contains(theirs) && said.contains("update one")
        })
        .await;
        assert_eq!(sees(node, other).wire, None);
        assert_eq!(sees(node, all[1]).state, PeerState::Up);
    }
    for (seed, object) in objects(&bucket, 60, 1_000).iter().enumerate() {
        for node in [&old, &both, &new] {
            node.reads(object, seed as u64).await;
        }
    }
    // What the two that do not speak own is fetched by both at most.
    let reads = bucket.reads_total();
    assert!((60..=120).contains(&reads), "{reads} reads of 60 objects");
    assert_eq!((sees(&both, all[0]).wire, sees(&both, all[2]).wire), (Some(1), Some(2)));
    assert!(0 < both.cluster.status().served);
}
