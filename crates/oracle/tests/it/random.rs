//! A job that reads at random never locks.

use crate::jobs::{Owner, Random, at_random, in_turns};

/// The pieces of work that try DALI's shuffle, the start of each torch seed, and the first epochs of
/// each kind of `shuffle_after_epoch`.
const QUICK_PIECES: usize = 6;

fn assert_never_locks(n: u32, opens: &[(u32, u32)], what: &str) {
    let mut owner = Owner::new(n);
    for &(id, position) in opens {
        owner.open(id, position);
        let verdict = owner.oracle.verdict();
        assert_eq!(verdict.locked, 0, "{what}, after {} opens: {}", owner.opens, verdict.sampler);
    }
}

/// A permutation dealt to streams.
fn dealt(n: u32, streams: usize, seed: u64, most: usize) -> Vec<Vec<u32>> {
    let mut order: Vec<u32> = (0..n).collect();
    Random(seed).shuffle(&mut order);
    order.truncate(most);
    (0..streams).map(|at| order.iter().skip(at).step_by(streams).copied().collect()).collect()
}

#[test]
fn a_thousand_random_orders_of_20_000_files_never_lock() {
    for seed in 0..1_000 {
        // The quick candidates are tried for all after 320 opens, for some after 40; some orders are read to their
        // end while every candidate is tried whenever it is due.
        let whole = seed % 200 == 0;
        let streams = dealt(20_000, 8, seed, if whole { 20_000 } else { 640 });
        let opens =
            if seed % 2 == 0 { in_turns(1, &streams) } else { at_random(1, &streams, seed) };
        let mut owner = Owner::new(20_000);
        for (at, &(id, position)) in opens.iter().enumerate() {
            owner.oracle.observe(id, position);
            if whole {
                owner.work();
            } else if at == 320 || (at == 40 && seed % 10 == 0) {
                owner.work_some(QUICK_PIECES);
            }
            let verdict = owner.oracle.verdict();
            assert_eq!(verdict.locked, 0, "order {seed}, open {at}: {}", verdict.sampler);
        }
    }
}

#[test]
fn random_orders_of_other_sizes_never_lock() {
    for (n, rounds) in [(10, 100), (64, 100), (300, 20), (1_000, 10), (100_000, 1)] {
        for seed in 0..rounds {
            for streams in [1, 8] {
                let opens = in_turns(1, &dealt(n, streams, seed, 2_000));
                assert_never_locks(n, &opens, &format!("{n} files, order {seed}"));
            }
        }
    }
}

#[test]
fn drawing_with_replacement_never_locks() {
    for seed in 0..5 {
        let mut random = Random(seed);
        let opens: Vec<(u32, u32)> =
            (0..4_000).map(|_| (random.below(8), random.below(2_000))).collect();
        assert_never_locks(2_000, &opens, &format!("seed {seed}"));
    }
}

#[test]
fn epochs_in_a_new_random_order_each_are_not_taken_for_the_one_before() {
    for (n, streams) in [(400, 1), (4_000, 1), (4_000, 8), (20_000, 8)] {
        let mut owner = Owner::new(n);
        for epoch in 0..4 {
            let dealt = dealt(n, streams, 100 + epoch, n as usize);
            for (id, position) in at_random(1, &dealt, epoch) {
                owner.open(id, position);
                let verdict = owner.oracle.verdict();
                let at = format!("{n} files, {streams} streams, {} opens", owner.opens);
                assert_eq!(verdict.locked, 0, "{at}: {}", verdict.sampler);
            }
        }
    }
}
