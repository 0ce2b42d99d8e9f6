//! After a lock, what is foretold is what happens, over the end of an epoch too.

use feedline_oracle::Hint;
use feedline_oracle::shuffle::{Mt19937x64, std_shuffle, torch_randperm};

use crate::jobs::{
    Owner, Random, Streams, at_random, dali, distributed, from_shards, in_turns, ranks, workers,
};

/// Epochs of streams that live on, one after another.
fn joined(epochs: &[Streams]) -> Streams {
    let mut all = epochs[0].clone();
    for epoch in &epochs[1..] {
        for (stream, more) in all.iter_mut().zip(epoch) {
            stream.extend_from_slice(more);
        }
    }
    all
}

fn listing(n: u32) -> Vec<u32> {
    (0..n).collect()
}

fn shuffled(n: u32, seed: u64) -> Vec<u32> {
    let mut order = listing(n);
    Random(seed).shuffle(&mut order);
    order
}

#[test]
fn upcoming_is_what_happens_in_the_same_turn() {
    let rank_workers: Streams =
        distributed(6_000, 3, 2, false).iter().flat_map(|rank| workers(rank, 4, 16)).collect();
    let jobs = [
        ("dali", dali(6_000, 8, 3_000)),
        ("one shard", dali(6_000, 1, 9_000)),
        ("torch", distributed(6_000, 3, 4, false)),
        ("workers", rank_workers),
        ("sequential", from_shards(&listing(6_000), 3, 3_000)),
        ("ranks of the listing", ranks(listing(6_000), 4, false)),
    ];
    for (name, streams) in jobs {
        let opens = in_turns(1, &streams);
        // At the end of a round, so that every stream is equally far.
        let (seen, to_come) = opens.split_at(streams.len() * 40);
        let mut owner = Owner::new(6_000);
        owner.open_all(seen);
        let ahead = 100;
        let expected: Vec<u32> =
            to_come[..streams.len() * ahead].iter().map(|&(_, position)| position).collect();
        let told = owner.oracle.upcoming(ahead);
        let differs = told.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!((differs, told.len()), (None, expected.len()), "{name}");
        assert!(owner.oracle.upcoming(ahead).is_empty(), "{name}: nothing is told twice");
        // The same whatever was told, and it changes nothing.
        let soon = owner.oracle.next_opens(expected.len());
        assert_eq!(soon, expected, "{name}");
        assert_eq!(owner.oracle.next_opens(10), expected[..10], "{name}");
        owner.open_all(&to_come[..streams.len()]);
        let next: Vec<u32> =
            to_come[streams.len() * ahead..][..streams.len()].iter().map(|it| it.1).collect();
        assert_eq!(owner.oracle.upcoming(ahead), next, "{name}: one more of each");
    }
}

#[test]
fn nothing_is_told_beyond_the_end_of_a_shard_before_a_stream_goes_on_there() {
    // Two readers of eight, as on one node of four; the second ends with its shard or with the order.
    for first in [4, 6] {
        let streams = dali(8_000, 8, 1_100)[first..first + 2].to_vec();
        let opens = in_turns(1, &streams);
        let mut owner = Owner::new(8_000);
        owner.open_all(&opens[..2 * 950]);
        let rest: Vec<u32> = opens[2 * 950..2 * 1_000].iter().map(|it| it.1).collect();
        assert_eq!(owner.oracle.upcoming(256), rest, "what is left of both shards");
        owner.open_all(&opens[2 * 950..2 * 1_000]);
        assert_eq!(owner.oracle.upcoming(256), Vec::<u32>::new(), "both are at the end");
        // The second does what DALI does if its pipeline lives on.
        let next = &streams[1][1_000..];
        owner.open(2, next[0]);
        assert_eq!(owner.oracle.upcoming(99), next[1..], "and nothing was left out");
    }
}

#[test]
fn where_a_stream_began_is_known_however_late_its_order_is_found() {
    let streams = dali(8_000, 8, 1_000)[4..6].to_vec();
    let opens = in_turns(1, &streams);
    let mut owner = Owner::new(8_000);
    // A loader fills its buffers before the order has been made.
    opens[..2 * 200].iter().for_each(|&(id, position)| owner.oracle.observe(id, position));
    owner.open_all(&opens[2 * 200..2 * 950]);
    assert!(owner.oracle.verdict().sampler.contains("8 shards"), "{:?}", owner.oracle.verdict());
    let rest: Vec<u32> = opens[2 * 950..].iter().map(|it| it.1).collect();
    assert_eq!(owner.oracle.upcoming(256), rest, "what is left of both shards");
}

/// The opens from now until each position is opened, by looking.
fn assert_next_use(owner: &Owner, n: u32, to_come: &[(u32, u32)], name: &str) {
    let mut expected = vec![u64::MAX; n as usize];
    for (at, &(_, position)) in (1_u64..).zip(to_come) {
        let slot = &mut expected[position as usize];
        *slot = (*slot).min(at);
    }
    for position in 0..n {
        let found = owner.oracle.next_use(position);
        assert_eq!(found, Some(expected[position as usize]), "{name}: position {position}");
    }
}

#[test]
fn next_use_is_what_looking_ahead_finds() {
    let epochs: Vec<Streams> = (4..=5).map(|key| distributed(2_000, key, 4, false)).collect();
    let listed = vec![ranks(listing(2_000), 4, false); 2];
    let jobs = [
        ("dali", dali(2_000, 4, 2_000 + 150)),
        ("one shard", dali(2_000, 1, 2_000 + 600)),
        ("torch", joined(&epochs)),
        ("ranks of the listing", joined(&listed)),
    ];
    for (name, streams) in jobs {
        let opens = in_turns(1, &streams);
        let mut owner = Owner::new(2_000);
        for (round, chunk) in opens.chunks(streams.len()).enumerate() {
            owner.open_all(chunk);
            if [50, 133].contains(&round) {
                assert_next_use(&owner, 2_000, &opens[(round + 1) * streams.len()..], name);
            }
        }
    }
}

#[test]
fn a_file_of_another_node_is_known_not_to_be_needed_soon() {
    // Two of four ranks run here; the other half of each epoch is read elsewhere.
    let (now, next) = (distributed(4_000, 0, 4, false), distributed(4_000, 1, 4, false));
    let mut owner = Owner::new(4_000);
    owner.open_all(&in_turns(1, &now[..2])[..200]);
    let elsewhere = |it: &u32| !next[..2].concat().contains(it);
    let mut checked = 0;
    for position in now[2].iter().copied().filter(elsewhere) {
        assert_eq!(owner.oracle.next_use(position), Some(u64::MAX));
        checked += 1;
    }
    assert!(300 < checked);
}

/// Runs epochs whose streams are new ones each time; the share foretold from the second epoch on.
fn renewed(n: u32, epochs: &[Streams], ends: bool) -> (Owner, f64) {
    let mut owner = Owner::new(n);
    let mut id = 100;
    let mut shares = Vec::new();
    for streams in epochs {
        shares.push(owner.foretold(&at_random(id, streams, u64::from(id)), 32));
        let count = u32::try_from(streams.len()).expect("few");
        if ends {
            (id..id + count).for_each(|id| owner.oracle.end_stream(id));
        }
        id += count;
    }
    (owner, shares[1..].iter().sum::<f64>() / (shares.len() - 1) as f64)
}

#[test]
fn new_workers_in_every_epoch_are_foretold() {
    let epochs: Vec<Streams> = (7..11)
        .map(|key| {
            let ranks = distributed(4_000, key, 2, false);
            ranks.iter().flat_map(|rank| workers(rank, 2, 16)).collect()
        })
        .collect();
    for ends in [true, false] {
        let (owner, share) = renewed(4_000, &epochs, ends);
        assert!(0.95 < share, "ends {ends}: {share}, {:?}", owner.oracle.verdict());
    }
}

#[test]
fn a_sampler_without_set_epoch_repeats_its_order() {
    let epochs = vec![distributed(4_000, 0, 4, false); 4];
    let (owner, share) = renewed(4_000, &epochs, true);
    assert!(0.95 < share, "{share}, {:?}", owner.oracle.verdict());
}

#[test]
fn a_pipeline_made_anew_in_every_epoch_is_foretold() {
    for ends in [true, false] {
        let epochs = vec![from_shards(&dali(4_000, 1, 4_000)[0], 4, 1_000); 4];
        let (owner, share) = renewed(4_000, &epochs, ends);
        assert!(0.97 < share, "ends {ends}: {share}, {:?}", owner.oracle.verdict());
    }
}

#[test]
fn who_looked_away_foretells_nothing_until_the_streams_are_found_in_the_known_order_again() {
    let streams = dali(4_000, 4, 3_000);
    let opens = in_turns(1, &streams);
    let mut owner = Owner::new(4_000);
    owner.open_all(&opens[..400]);
    assert_eq!(owner.oracle.verdict().locked, 4);
    owner.oracle.lose_sight();
    assert_eq!(owner.oracle.next_opens(100), Vec::<u32>::new());
    assert_eq!(owner.oracle.verdict().locked, 0);
    // They went on unseen, for more than a seek.
    let (seen, to_come) = opens[6_000..].split_at(64);
    owner.open_all(seen);
    let expected: Vec<u32> = to_come[..100].iter().map(|it| it.1).collect();
    assert_eq!(owner.oracle.next_opens(100), expected);
}

#[test]
fn new_streams_of_a_known_job_lock_after_three_opens() {
    let streams = from_shards(&dali(20_000, 1, 20_000)[0], 8, 2_500);
    let mut owner = Owner::new(20_000);
    owner.open_all(&in_turns(1, &streams));
    (1..9).for_each(|id| owner.oracle.end_stream(id));
    owner.open_all(&in_turns(21, &streams)[..24]);
    assert_eq!(owner.oracle.verdict().locked, 8);
}

#[test]
fn the_end_of_a_shard_is_learnt_from_the_first_time() {
    let stick: Streams = from_shards(&dali(3_000, 1, 3_000)[0], 3, 1_000)
        .iter()
        .map(|shard| shard.repeat(3))
        .collect();
    let mut owner = Owner::new(3_000);
    let opens = in_turns(1, &stick);
    owner.open_all(&opens[..3_030]);
    // The other two epochs, the change between them included.
    let share = owner.foretold(&opens[3_030..], 16);
    assert!(0.999 < share, "{share}");
    assert_eq!(owner.oracle.verdict().locked, 3);
}

#[test]
fn shuffle_after_epoch_is_followed_from_epoch_to_epoch() {
    let mut order = listing(3_000);
    let epochs: Vec<Streams> = (1..=4)
        .map(|epoch| {
            std_shuffle(&mut order, &mut Mt19937x64::new(524_287 + (epoch << 32)));
            from_shards(&order, 3, 1_000)
        })
        .collect();
    let mut owner = Owner::new(3_000);
    let share = owner.foretold(&in_turns(1, &joined(&epochs)), 16);
    assert!(0.99 < share, "{share}");
    assert!(owner.oracle.verdict().sampler.contains("epoch 4"));
}

#[test]
fn padding_and_dropped_files_do_not_lose_the_lock() {
    for drop_last in [true, false] {
        let epochs: Vec<Streams> =
            (0..4).map(|key| distributed(3_005, key, 8, drop_last)).collect();
        let mut owner = Owner::new(3_005);
        let opens = in_turns(1, &joined(&epochs));
        owner.open_all(&opens[..80]);
        let share = owner.foretold(&opens[80..], 16);
        assert!(0.98 < share, "drop_last {drop_last}: {share}");
    }
}

#[test]
fn an_unknown_order_that_repeats_is_learnt() {
    let order = shuffled(3_000, 1);
    let mut owner = Owner::new(3_000);
    owner.open_all(&in_turns(1, std::slice::from_ref(&order)));
    assert_eq!(owner.oracle.verdict().sampler, "unknown");
    let learned = owner.oracle.take_learned(false).expect("the epoch is whole");
    assert_eq!(learned, order);
    assert_eq!(owner.oracle.take_learned(true), None, "once");
    owner.open_all(&in_turns(1, &[order[..8].to_vec()]));
    assert_eq!(owner.oracle.verdict().sampler, "learned from an earlier epoch");
    let share = owner.foretold(&in_turns(1, &[order[8..].to_vec()]), 16);
    assert!(0.999 < share, "{share}");
    assert_eq!(owner.oracle.take_learned(true), None, "it was foretold");

    let mut after_restart = Owner::new(3_000);
    after_restart.oracle.import_learned(learned);
    after_restart.open_all(&in_turns(9, &[order[..8].to_vec()]));
    assert_eq!(after_restart.oracle.verdict().sampler, "learned from an earlier epoch");
    assert_eq!(after_restart.oracle.upcoming(4), order[8..12]);
}

#[test]
fn an_epoch_that_lacks_its_last_batch_is_given_when_nobody_reads_on() {
    let order = shuffled(3_000, 4);
    let mut owner = Owner::new(3_000);
    owner.open_all(&in_turns(1, &[order[..2_600].to_vec()]));
    assert_eq!(owner.oracle.take_learned(true), None, "too little of it");
    owner.open_all(&in_turns(1, &[order[2_600..2_900].to_vec()]));
    assert_eq!(owner.oracle.take_learned(false), None);
    assert_eq!(owner.oracle.take_learned(true).as_deref(), Some(&order[..2_900]));
    assert_eq!(owner.oracle.take_learned(true), None, "it has not grown");
    owner.open_all(&in_turns(1, &[order[2_900..].to_vec()]));
    assert_eq!(owner.oracle.take_learned(false), Some(order), "recording went on");
}

#[test]
fn an_epoch_is_learnt_over_a_change_of_the_oracle_and_an_imported_order_yields_to_it() {
    let order = shuffled(3_000, 5);
    let mut first = Owner::new(3_000);
    first.open_all(&in_turns(1, &[order[..1_000].to_vec()]));
    let mut second = Owner::new(3_000);
    second.oracle.resume_epoch(first.oracle.recorded().iter().copied());
    second.open_all(&in_turns(1, &[order[1_000..].to_vec()]));
    second.oracle.import_learned(shuffled(3_000, 6));
    second.open_all(&in_turns(1, &[order[..8].to_vec()]));
    assert_eq!(second.oracle.upcoming(4), order[8..12]);
    assert_eq!(second.oracle.take_learned(false), Some(order));
}

#[test]
fn a_queue_in_an_unknown_order_that_repeats_is_learnt() {
    let order = shuffled(5_000, 2);
    let mut random = Random(3);
    let mut epoch = |first: u32| -> Vec<(u32, u32)> {
        order.iter().map(|&position| (first + random.below(4), position)).collect()
    };
    let mut owner = Owner::new(5_000);
    owner.open_all(&epoch(1));
    let second = epoch(1);
    owner.open_all(&second[..200]);
    let share = owner.foretold(&second[200..], 32);
    assert!(0.98 < share, "{share}, {:?}", owner.oracle.verdict());
}

#[test]
fn a_random_job_keeps_no_learnt_order_that_fails() {
    let mut owner = Owner::new(2_000);
    for seed in 0..5 {
        owner.open_all(&in_turns(1, &[shuffled(2_000, seed)]));
        assert_eq!(owner.oracle.verdict().locked, 0);
    }
}

#[test]
fn threads_that_draw_from_one_queue_are_foretold() {
    let mut random = Random(5);
    let order = torch_randperm(8_000, 12);
    let opens: Vec<(u32, u32)> =
        order.iter().map(|&position| (random.below(8), position)).collect();
    let mut owner = Owner::new(8_000);
    owner.open_all(&opens[..120]);
    let share = owner.foretold(&opens[120..], 16);
    assert!(0.98 < share, "{share}, {:?}", owner.oracle.verdict());
}

#[test]
fn a_hinted_order_is_foretold_before_its_streams_have_shown_much() {
    let seeds = vec![11_111_111, 22_222_222];
    let mut owner = Owner::new(4_000);
    owner.oracle.hint(Hint::TorchSeeds(seeds.clone()));
    owner.work();
    let epochs: Vec<Streams> =
        seeds.iter().map(|&seed| distributed(4_000, seed, 1, false)).collect();
    let share = owner.foretold(&in_turns(1, &joined(&epochs)), 16);
    assert!(0.995 < share, "{share}");
}

#[test]
fn an_order_given_anew_in_every_epoch_is_foretold() {
    let mut owner = Owner::new(4_000);
    let mut shares = Vec::new();
    for epoch in 0..3 {
        let parts = ranks(shuffled(4_000, epoch), 2, false);
        for (from, part) in (0..).zip(&parts) {
            owner.oracle.hint(Hint::Order { from, positions: part.clone() });
        }
        owner.work();
        let streams: Streams = parts.iter().flat_map(|part| workers(part, 2, 16)).collect();
        let first = 10 * u32::try_from(epoch).expect("small");
        shares.push(owner.foretold(&in_turns(first, &streams), 32));
    }
    assert!(shares.iter().all(|&share| 0.98 < share), "{shares:?}");
}

#[test]
fn persistent_workers_that_drop_their_last_batch_are_followed() {
    for drop_last in [true, false] {
        let epochs: Vec<Streams> = (3..7)
            .map(|key| {
                let ranks = distributed(5_003, key, 2, false);
                let whole = |rank: &Vec<u32>| rank.len() / 16 * 16;
                let dealt = ranks.iter().flat_map(|rank| {
                    workers(&rank[..if drop_last { whole(rank) } else { rank.len() }], 4, 16)
                });
                dealt.collect()
            })
            .collect();
        let mut owner = Owner::new(5_003);
        let opens = at_random(1, &joined(&epochs), 9);
        owner.open_all(&opens[..200]);
        let share = owner.foretold(&opens[200..], 32);
        assert!(0.98 < share, "drop_last {drop_last}: {share}, {:?}", owner.oracle.verdict());
        assert_eq!(owner.oracle.verdict().locked, 8);
    }
}
