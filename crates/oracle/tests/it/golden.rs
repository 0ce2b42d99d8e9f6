//! Orders recorded from real DALI and real torch (`scripts/record_orders_*.py`) are reproduced bit for
//! bit, and recognised.

use feedline_oracle::shuffle::{Mt19937x64, std_shuffle, torch_randperm};
use feedline_oracle::{dali_order, shard};

use crate::jobs::{Owner, distributed, ranks, workers};

fn fnv(positions: &[u32]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in positions.iter().flat_map(|position| position.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// The words before the colon, the hash, and the first positions of a line.
fn parse(line: &str) -> (Vec<&str>, u64, Vec<u32>) {
    let (head, first) = line.split_once(':').expect("a colon");
    let mut head: Vec<&str> = head.split(' ').collect();
    let hash = u64::from_str_radix(head.pop().expect("a hash"), 16).expect("a hash");
    let first = first.split_whitespace().map(|it| it.parse().expect("a position")).collect();
    (head, hash, first)
}

fn number(word: &str) -> usize {
    word.parse().expect("a number")
}

fn assert_same(ours: &[u32], hash: u64, first: &[u32], line: &str) {
    let start = &ours[..first.len().min(ours.len())];
    assert_eq!(start, first, "the start of {}", &line[..line.len().min(60)]);
    assert_eq!(fnv(ours), hash, "the whole of {}", &line[..line.len().min(60)]);
}

/// What one DALI reader opens: `opens` files, over as many epochs as that takes.
fn dali_reads(mode: &str, n: usize, shards: usize, index: usize, opens: usize) -> Vec<u32> {
    let range = shard(n, index, shards);
    let listing: Vec<u32> = (0..u32::try_from(n).expect("small")).collect();
    let fixed = if mode.starts_with("shuffled") { dali_order(n) } else { listing.clone() };
    match mode {
        "shuffled" | "sequential" => {
            fixed.iter().cycle().skip(range.start).take(opens).copied().collect()
        }
        "shuffled-stick" | "sequential-stick" => {
            fixed[range].iter().cycle().take(opens).copied().collect()
        }
        _ => {
            let mut order = listing.clone();
            let mut reads = Vec::new();
            for epoch in 1.. {
                if mode == "after-epoch-checkpointing" {
                    order.clone_from(&listing);
                }
                std_shuffle(&mut order, &mut Mt19937x64::new(524_287 + (epoch << 32)));
                reads.extend_from_slice(&order[range.clone()]);
                if opens <= reads.len() {
                    break;
                }
            }
            reads.truncate(opens);
            reads
        }
    }
}

#[test]
fn dali_reads_as_recorded() {
    let mut lines = 0;
    for line in include_str!("../golden/dali.txt").lines() {
        let (head, hash, first) = parse(line);
        let [mode, n, shards, index, opens] = head[..] else { panic!("{line}") };
        let ours = dali_reads(mode, number(n), number(shards), number(index), number(opens));
        assert_same(&ours, hash, &first, line);
        lines += 1;
    }
    assert_eq!(lines, 96);
}

#[test]
fn torch_samples_as_recorded() {
    let (mut perms, mut samplers, mut loaders) = (0, 0, 0);
    for line in include_str!("../golden/torch.txt").lines() {
        let (head, hash, first) = parse(line);
        match head[..] {
            ["randperm", seed, n] => {
                let n = u32::try_from(number(n)).expect("small");
                let seed = seed.parse().expect("a seed");
                assert_same(&torch_randperm(n, seed), hash, &first, line);
                perms += 1;
            }
            ["sampler", n, seed, epoch, world, rank, drop_last, shuffle, _] => {
                let n = u32::try_from(number(n)).expect("small");
                let key = (number(seed) + number(epoch)) as u64;
                let order = if shuffle == "1" { torch_randperm(n, key) } else { (0..n).collect() };
                let streams = ranks(order, number(world), drop_last == "1");
                assert_same(&streams[number(rank)], hash, &first, line);
                samplers += 1;
            }
            ["worker", n, seed, epoch, world, rank, count, batch, worker, _] => {
                let n = u32::try_from(number(n)).expect("small");
                let key = (number(seed) + number(epoch)) as u64;
                let streams = distributed(n, key, number(world), false);
                let streams = workers(&streams[number(rank)], number(count), number(batch));
                assert_same(&streams[number(worker)], hash, &first, line);
                loaders += 1;
            }
            _ => panic!("{line}"),
        }
    }
    assert_eq!((perms, samplers, loaders), (35, 192, 13));
}

#[test]
fn what_real_dali_read_is_recognised_from_its_first_opens() {
    let mut seen = 0;
    for line in include_str!("../golden/dali.txt").lines() {
        let (head, _, first) = parse(line);
        let n = u32::try_from(number(head[1])).expect("small");
        if n < 1_000 {
            continue;
        }
        let words = match head[0] {
            "shuffled" | "shuffled-stick" => "dali shuffled",
            "sequential" | "sequential-stick" => "sequential",
            _ => "shuffle_after_epoch",
        };
        let mut owner = Owner::new(n);
        let opens: Vec<(u32, u32)> = first.iter().take(64).map(|&it| (1, it)).collect();
        assert!(owner.until(&opens, words).is_some(), "{}", &line[..60]);
        seen += 1;
    }
    assert_eq!(seen, 48);
}
