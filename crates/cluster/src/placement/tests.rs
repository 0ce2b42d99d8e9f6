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

/// Numbers that look random, the same on every run.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    (0..).map(move |at: u64| mix(mix(seed) ^ at))
}

/// 2 to 64 nodes of very different weights.
fn any_nodes(seed: u64) -> Vec<Weighted> {
    let mut numbers = numbers(seed);
    let count = 2 + numbers.next().unwrap() % 63;
    let node = |number| Weighted { node: NodeId(number), weight: (1 + number % 4_000) * GIB };
    numbers.take(count as usize).map(node).collect()
}

#[test]
fn shares_follow_any_weights_as_far_as_chance_allows() {
    for seed in 0..20 {
        let (nodes, objects) = (any_nodes(seed), 20_000);
        let counts = counts(&nodes, objects);
        let total: u64 = nodes.iter().map(|it| it.weight).sum();
        for it in &nodes {
            let share = objects as f64 * it.weight as f64 / total as f64;
            let count = *counts.get(&it.node).unwrap_or(&0) as f64;
            // Five standard deviations of a count.
            let off = (count - share).abs();
            assert!(
                off <= 5.0 * share.sqrt() + 1.0,
                "seed {seed}, {}: {count} of {share}",
                it.node
            );
        }
    }
}

#[test]
fn two_changes_at_once_move_what_each_of_them_moves_and_nothing_else() {
    let mut moved = 0;
    for seed in 0..150 {
        let all = any_nodes(seed);
        let pick = |number: u64| all[(mix(seed ^ number) % all.len() as u64) as usize].node;
        let (a, b) = (pick(1_000), pick(2_000));
        if a == b || all.len() < 3 {
            continue;
        }
        let but = |gone: &[NodeId]| {
            all.iter().copied().filter(|it| !gone.contains(&it.node)).collect::<Vec<_>>()
        };
        // One joins while another leaves; two join; read backwards, two leave.
        for (before, after) in [(but(&[a]), but(&[b])), (but(&[a, b]), all.clone())] {
            let joined = |node: &NodeId| before.iter().all(|it| it.node != *node);
            let left = |node: &NodeId| after.iter().all(|it| it.node != *node);
            for id in ids(60) {
                let (old, new) = (candidates(&id, &before), candidates(&id, &after));
                if old[0] != new[0] {
                    assert!(
                        left(&old[0]) || joined(&new[0]),
                        "seed {seed}: {id} moved for nothing"
                    );
                    moved += 1;
                }
                let stay = |order: &[NodeId]| {
                    let stays = |node: &NodeId| !left(node) && !joined(node);
                    order.iter().copied().filter(stays).collect::<Vec<_>>()
                };
                assert_eq!(stay(&old), stay(&new), "seed {seed}: those that stay keep their order");
            }
        }
        // One joins while another's quota grows.
        let before = but(&[a]);
        let mut after = all.clone();
        after.iter_mut().filter(|it| it.node == b).for_each(|it| it.weight *= 2);
        for id in ids(60) {
            let (old, new) = (owner(&id, &before), owner(&id, &after));
            assert!(old == new || [Some(a), Some(b)].contains(&new), "seed {seed}");
        }
    }
    assert!(1_000 < moved, "{moved}");
}

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// All of them, the oldest first, and for each object that the last one owns: who owned it before, and the
/// owner among the first so many.
fn before_the_last(since_ms: &[i64], old: usize) -> Vec<(Option<NodeId>, NodeId)> {
    let nodes = nodes(&vec![GIB; since_ms.len()]);
    let by_age = nodes.iter().zip(since_ms);
    let by_age: Vec<_> =
        by_age.map(|(node, since_ms)| Aged { node: *node, since_ms: *since_ms }).collect();
    let me = nodes[since_ms.len() - 1].node;
    let mine = ids(2_000).filter(|id| owner(id, &nodes) == Some(me));
    let pairs = mine.map(|id| (owner_before(&id, &by_age, me), owner(&id, &nodes[..old]).unwrap()));
    pairs.collect()
}

#[test]
fn the_owner_before_is_found_however_many_join_at_once() {
    let old = -DAY_MS;
    let hours = -3_600_000;
    for (since_ms, count) in [
        (vec![old, old + 1, 0], 2),
        (vec![old, old + 1, 0, 0, 0, 0, 0, 0], 2),
        // They take a minute to start, and the node that was there first was so for two.
        (vec![-120_000, 0, 20_000, 40_000, 60_000], 1),
        // Some joined hours ago: by now they have what they own.
        (vec![20 * old, 20 * old, 20 * old, 3 * hours, 3 * hours, 0, 1_000, 2_000], 5),
    ] {
        let pairs = before_the_last(&since_ms, count);
        assert!(100 < pairs.len());
        for (before, expected) in pairs {
            assert_eq!(before, Some(expected), "{since_ms:?}");
        }
    }
}

#[test]
fn nodes_that_start_together_have_no_owner_before() {
    for since_ms in [vec![0], vec![0, 1_000, 2_500], vec![-1_000, 0, 0, 0, 500, 700]] {
        assert!(before_the_last(&since_ms, 1).iter().all(|(before, _)| before.is_none()));
    }
    // Nor has who is the oldest; who has gone is not among them.
    let only = nodes(&[GIB, GIB]);
    let by_age = [Aged { node: only[0], since_ms: -DAY_MS }, Aged { node: only[1], since_ms: 0 }];
    assert!(ids(50).all(|id| owner_before(&id, &by_age, only[0].node).is_none()));
    assert_eq!(owner_before(&ObjectId([0; 16]), &[], only[0].node), None);
}
