//! What placement promises: balance, minimal movement, independence of order, and that it never changes.

use std::collections::HashMap;

use feedline_model::ObjectId;

use super::*;

const GIB: u64 = 1 << 30;

/// `count` well-spread ids, the same on every run.
fn ids(count: u64) -> impl Iterator<Item = ObjectId> {
    (0..count).map(|number| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&mix(number).to_le_bytes());
        id[8..].copy_from_slice(&mix(number ^ 0xABCD_EF01_2345_6789).to_le_bytes());
        ObjectId(id)
    })
}

fn nodes(weights: &[u64]) -> Vec<Weighted> {
    let node = |at: usize| NodeId(mix(at as u64 + 77));
    weights
        .iter()
        .enumerate()
        .map(|(at, weight)| Weighted { node: node(at), weight: *weight })
        .collect()
}

fn counts(nodes: &[Weighted], objects: u64) -> HashMap<NodeId, u64> {
    let mut counts = HashMap::new();
    for id in ids(objects) {
        *counts.entry(owner(&id, nodes).unwrap()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn shares_follow_the_weights_within_five_per_cent_at_10_000_objects_a_node() {
    let equal = [500 * GIB; 10];
    let mixed = [100 * GIB, 200 * GIB, 400 * GIB, 300 * GIB, 1000 * GIB];
    for weights in [&equal[..], &equal[..2], &equal[..4], &mixed] {
        let nodes = nodes(weights);
        let smallest = weights.iter().min().unwrap();
        let total: u64 = weights.iter().sum();
        // 10,000 for the smallest.
        let objects = 10_000 * (total / smallest);
        let counts = counts(&nodes, objects);
        for node in &nodes {
            let share = objects as f64 * node.weight as f64 / total as f64;
            let off = (counts[&node.node] as f64 - share).abs() / share;
            assert!(off < 0.05, "{}: {} of {share}", node.node, counts[&node.node]);
        }
    }
}

#[test]
fn a_node_that_joins_or_leaves_moves_its_own_share_and_nothing_else() {
    let with = nodes(&[GIB, 2 * GIB, 3 * GIB, GIB, 2 * GIB]);
    for gone in 0..with.len() {
        let mut without = with.clone();
        let node = without.remove(gone).node;
        let mut moved = 0;
        for id in ids(20_000) {
            let order = candidates(&id, &with);
            let (before, after) = (order[0], owner(&id, &without).unwrap());
            if before == node {
                // The second candidate: who had it before, and has it afterwards.
                assert_eq!(after, order[1]);
                moved += 1;
            } else {
                assert_eq!(before, after, "{id} moved for nothing");
            }
        }
        assert!(0 < moved, "the node owned nothing, so this showed nothing");
    }
}

#[test]
fn a_weight_that_grows_only_attracts() {
    let before = nodes(&[GIB, 2 * GIB, 3 * GIB]);
    let mut after = before.clone();
    after[1].weight = 4 * GIB;
    let mut moved = 0;
    for id in ids(20_000) {
        let (old, new) = (owner(&id, &before).unwrap(), owner(&id, &after).unwrap());
        assert!(old == new || new == after[1].node);
        moved += u64::from(old != new);
    }
    assert!(0 < moved);
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    let forward = nodes(&[GIB, 2 * GIB, 3 * GIB, GIB, GIB, GIB]);
    let mut backward = forward.clone();
    backward.reverse();
    let mut rotated = forward.clone();
    rotated.rotate_left(2);
    for id in ids(5_000) {
        let order = candidates(&id, &forward);
        assert_eq!(order, candidates(&id, &backward));
        assert_eq!(order, candidates(&id, &rotated));
        assert_eq!(owner(&id, &rotated), Some(order[0]));
        let is_in = |node| node != order[0];
        assert_eq!(owner_among(&id, &forward, is_in), Some(order[1]));
    }
}

#[test]
fn nothing_is_owned_without_nodes_nor_by_a_node_without_quota() {
    assert_eq!(owner(&ObjectId([0; 16]), &[]), None);
    assert!(candidates(&ObjectId([0; 16]), &[]).is_empty());
    let nodes = nodes(&[0, GIB]);
    assert!(ids(1_000).all(|id| owner(&id, &nodes) == Some(nodes[1].node)));
}

#[test]
fn placement_is_fixed_for_ever() {
    // Nodes of different versions must agree: these values may not change.
    let nodes = [
        Weighted { node: NodeId(0x0123_4567_89ab_cdef), weight: 500 * GIB },
        Weighted { node: NodeId(0xfedc_ba98_7654_3210), weight: 500 * GIB },
        Weighted { node: NodeId(0x0f0f_0f0f_f0f0_f0f0), weight: 1000 * GIB },
        Weighted { node: NodeId(7), weight: 250 * GIB },
    ];
    let place = |node: NodeId| nodes.iter().position(|it| it.node == node).unwrap().to_string();
    let orders: Vec<String> = ids(12)
        .map(|id| candidates(&id, &nodes).into_iter().map(place).collect::<Vec<_>>().concat())
        .collect();
    assert_eq!(orders.join(" "), GOLDEN);
}

const GOLDEN: &str = "2103 0213 1023 3012 2031 3021 0213 0213 1023 1230 2301 0213";

#[test]
fn load_is_bounded_by_the_share_and_some_node_may_always_take_more() {
    // Four equal nodes, a quarter more than the mean allowed.
    let within = |load, total| is_within_bound(load, total, 1, 4, 0.25);
    assert!(within(0, 0), "an idle cluster takes anything");
    assert!(within(24, 100) && within(31, 100));
    assert!(!within(32, 100) && !within(90, 100));
    // A node with half of the weight takes half of the load.
    assert!(is_within_bound(60, 100, 2, 4, 0.25) && !is_within_bound(64, 100, 2, 4, 0.25));
    for loads in [[0, 0, 0, 0], [5, 5, 5, 5], [100, 1, 1, 1], [7, 8, 9, 10]] {
        let total = loads.iter().sum();
        assert!(loads.iter().any(|load| within(*load, total)), "{loads:?}");
    }
}
