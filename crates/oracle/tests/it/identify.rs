//! Each known sampler is identified within 64 opens.

use feedline_oracle::Hint;
use feedline_oracle::shuffle::{Mt19937, Mt19937x64, std_shuffle, torch_randperm};

use crate::jobs::{
    Owner, at_random, dali, distributed, first_of_ranks, from_shards, in_turns, ranks, workers,
};

const LIMIT: u64 = 64;

fn assert_within(opens: Option<u64>, what: &str) {
    let opens = opens.unwrap_or_else(|| panic!("{what}: not identified"));
    assert!(opens <= LIMIT, "{what}: {opens} opens");
}

#[test]
fn dali_shuffled_is_identified() {
    for (n, shards) in [(2_000, 1), (20_000, 1), (20_000, 8), (6_007, 3), (1_281_167, 32)] {
        for opens in [in_turns(10, &dali(n, shards, 64)), at_random(10, &dali(n, shards, 64), 5)] {
            let mut owner = Owner::new(n);
            let taken = owner.until(&opens, "dali shuffled, seed 524287");
            assert_within(taken, &format!("dali {n} {shards}"));
        }
    }
}

#[test]
fn the_number_of_shards_is_told() {
    let mut owner = Owner::new(20_000);
    owner.open_all(&in_turns(10, &dali(20_000, 8, 8)));
    let verdict = owner.oracle.verdict();
    assert_eq!(verdict.sampler, "dali shuffled, seed 524287, 8 shards");
    assert_eq!((verdict.locked, verdict.streams), (8, 8));
}

#[test]
fn dali_without_shuffle_is_sequential() {
    let order: Vec<u32> = (0..20_000).collect();
    for shards in [1, 4] {
        let mut owner = Owner::new(20_000);
        let taken = owner.until(&in_turns(1, &from_shards(&order, shards, 64)), "sequential");
        assert_within(taken, &format!("sequential {shards}"));
    }
}

#[test]
fn the_listing_backwards_is_reversed() {
    let order: Vec<u32> = (0..20_000).rev().collect();
    let mut owner = Owner::new(20_000);
    assert_within(owner.until(&in_turns(1, &[order]), "reversed"), "reversed");
}

#[test]
fn dali_shuffle_after_epoch_is_identified_in_any_epoch() {
    for wide in [true, false] {
        for fresh in [true, false] {
            let mut order: Vec<u32> = (0..5_000).collect();
            for epoch in 1..=100_u32 {
                if fresh {
                    order = (0..5_000).collect();
                }
                if wide {
                    let seed = 524_287 + (u64::from(epoch) << 32);
                    std_shuffle(&mut order, &mut Mt19937x64::new(seed));
                } else {
                    std_shuffle(&mut order, &mut Mt19937::new(524_287 + epoch));
                }
                if ![1, 2, 3, 5, 20, 100].contains(&epoch) {
                    continue;
                }
                let mut owner = Owner::new(5_000);
                let opens = in_turns(1, &from_shards(&order, 4, 64));
                let taken = owner.until(&opens, &format!("epoch {epoch}"));
                assert_within(taken, &format!("wide {wide} fresh {fresh} epoch {epoch}"));
            }
        }
    }
}

#[test]
fn every_seed_of_distributed_sampler_is_identified_in_several_epochs() {
    for seed in 0..=100 {
        for epoch in [0, 1, 7, 100] {
            let key = seed + epoch;
            let world = [1, 2, 3, 8][(seed as usize + epoch as usize) % 4];
            let mut owner = Owner::new(20_000);
            let opens = in_turns(1, &first_of_ranks(20_000, key, world, 64));
            let taken = owner.until(&opens, &format!("seed + epoch = {key}"));
            assert_within(taken, &format!("seed {seed} epoch {epoch} world {world}"));
        }
    }
}

#[test]
fn distributed_sampler_is_identified_at_other_sizes() {
    for (n, key, world) in [(1_000, 0, 4), (50_001, 3, 2), (1_281_167, 0, 32), (1_281_167, 200, 8)]
    {
        let mut owner = Owner::new(n);
        let opens = at_random(1, &first_of_ranks(n, key, world, 64), 3);
        let taken = owner.until(&opens, &format!("seed + epoch = {key}"));
        assert_within(taken, &format!("{n} files, key {key}, {world} ranks"));
    }
}

#[test]
fn distributed_sampler_without_shuffle_is_sequential_with_ranks() {
    let order: Vec<u32> = (0..20_000).collect();
    let mut owner = Owner::new(20_000);
    let taken = owner.until(&in_turns(1, &ranks(order, 4, false)), "sequential");
    assert_within(taken, "shuffle=False");
    assert!(owner.oracle.verdict().sampler.contains("4 ranks"));
}

#[test]
fn workers_of_two_ranks_are_identified() {
    for (batch, per_rank) in [(1, 4), (2, 4), (3, 2), (16, 4), (64, 4), (256, 4)] {
        let streams: Vec<Vec<u32>> = distributed(20_000, 5, 2, false)
            .iter()
            .flat_map(|rank| workers(rank, per_rank, batch))
            .collect();
        let mut owner = Owner::new(20_000);
        let taken = owner.until(&in_turns(1, &streams), "seed + epoch = 5");
        assert_within(taken, &format!("batch {batch}, {per_rank} workers"));
    }
}

#[test]
fn threads_that_draw_from_one_queue_are_identified() {
    let orders = [("dali", dali(20_000, 1, 20_000).remove(0)), ("= 9", torch_randperm(20_000, 9))];
    for (words, order) in orders {
        for threads in [2, 8] {
            let mut random = crate::jobs::Random(threads.into());
            let opens: Vec<(u32, u32)> =
                order.iter().map(|&position| (random.below(threads), position)).collect();
            let mut owner = Owner::new(20_000);
            let taken = owner.until(&opens, words);
            assert_within(taken, &format!("{words} {threads} threads"));
        }
    }
}

#[test]
fn an_order_given_as_a_hint_is_identified() {
    let mut order: Vec<u32> = (0..20_000).collect();
    crate::jobs::Random(77).shuffle(&mut order);
    let mut owner = Owner::new(20_000);
    owner.oracle.hint(Hint::Order { from: 1, positions: order.clone() });
    assert_within(owner.until(&in_turns(1, &from_shards(&order, 4, 64)), "hint"), "order");
    // Each of four ranks gives its own part.
    let mut owner = Owner::new(20_000);
    let parts = ranks(order, 4, false);
    for (from, part) in (70..).zip(&parts) {
        owner.oracle.hint(Hint::Order { from, positions: part.clone() });
    }
    assert_within(owner.until(&in_turns(1, &parts), "hint"), "the orders of four ranks");
    owner.open_all(&in_turns(1, &parts)[1..40]);
    assert_eq!(owner.oracle.verdict().locked, 4);
    let mut owner = Owner::new(20_000);
    owner.oracle.hint(Hint::TorchSeeds(vec![0xdead_beef_1234, 99_999]));
    let opens = in_turns(1, &distributed(20_000, 99_999, 2, false));
    assert_within(owner.until(&opens, "hint, seed 2"), "the second seed");
}

#[test]
fn a_job_that_is_joined_midway_is_identified() {
    let streams: Vec<Vec<u32>> =
        distributed(20_000, 17, 4, false).iter().map(|rank| rank[3_000..].to_vec()).collect();
    let mut owner = Owner::new(20_000);
    assert_within(owner.until(&in_turns(1, &streams), "= 17"), "torch from the middle");
    let streams: Vec<Vec<u32>> =
        dali(20_000, 4, 9_000).iter().map(|stream| stream[1_234..].to_vec()).collect();
    let mut owner = Owner::new(20_000);
    assert_within(owner.until(&in_turns(1, &streams), "dali"), "dali from the middle");
}
