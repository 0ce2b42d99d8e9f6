//! Streams that do not keep to their order, and jobs that share a data set.

use feedline_oracle::{Config, Oracle};

use crate::jobs::{Owner, Random, at_random, dali, distributed, in_turns};

#[test]
fn a_stream_that_changes_its_order_is_dropped_and_found_again() {
    let mut owner = Owner::new(10_000);
    owner.open_all(&in_turns(1, &dali(10_000, 2, 300)));
    assert_eq!(owner.oracle.verdict().locked, 2);
    let mut random = Random(4);
    let strays: Vec<(u32, u32)> = (0..8).map(|k| (1 + k % 2, random.below(10_000))).collect();
    owner.open_all(&strays);
    assert_eq!(owner.oracle.verdict().locked, 0, "four opens elsewhere: not foretold any more");
    assert!(owner.oracle.upcoming(10).is_empty());
    owner.open_all(&in_turns(1, &distributed(10_000, 6, 2, false))[..60]);
    let verdict = owner.oracle.verdict();
    assert_eq!(verdict.locked, 2);
    assert!(verdict.sampler.contains("seed + epoch = 6"), "{}", verdict.sampler);
}

#[test]
fn single_stray_opens_do_not_lose_the_lock() {
    let mut owner = Owner::new(10_000);
    let mut random = Random(1);
    let mut stream = dali(10_000, 1, 2_000).remove(0);
    owner.open_all(&in_turns(1, &[stream.drain(..20).collect()]));
    for (at, &position) in stream.iter().enumerate() {
        if at % 10 == 0 {
            owner.open(1, random.below(10_000));
        }
        owner.open(1, position);
    }
    assert_eq!(owner.oracle.verdict().locked, 1);
    assert_eq!(owner.oracle.upcoming(1), [dali(10_000, 1, 2_001)[0][2_000]]);
}

#[test]
fn a_seek_within_the_order_is_followed() {
    let order = dali(10_000, 1, 10_000).remove(0);
    let mut owner = Owner::new(10_000);
    owner.open_all(&in_turns(1, &[order[..100].to_vec()]));
    owner.open_all(&in_turns(1, &[order[7_000..7_010].to_vec()]));
    assert_eq!(owner.oracle.upcoming(5), order[7_010..7_015]);
    owner.open_all(&in_turns(1, &[order[2_000..2_010].to_vec()]));
    assert_eq!(owner.oracle.upcoming(5), order[2_010..2_015]);
}

#[test]
fn an_epoch_broken_off_and_begun_again_is_followed() {
    let streams = distributed(6_000, 2, 3, false);
    let mut owner = Owner::new(6_000);
    owner.open_all(&in_turns(1, &streams)[..600]);
    (1..4).for_each(|id| owner.oracle.end_stream(id));
    assert!(owner.oracle.upcoming(10).is_empty(), "a job that was broken off is not foretold");
    owner.open_all(&in_turns(11, &streams)[..60]);
    assert_eq!(owner.oracle.verdict().locked, 3);
    let share = owner.foretold(&in_turns(11, &streams)[60..], 16);
    assert!(0.99 < share, "{share}");
}

#[test]
fn files_opened_several_times_at_once_count_once() {
    let stream = dali(5_000, 1, 400).remove(0);
    let opens: Vec<(u32, u32)> = stream.iter().flat_map(|&position| [(1, position); 3]).collect();
    let mut owner = Owner::new(5_000);
    owner.open_all(&opens[..60]);
    let share = owner.foretold(&opens[60..], 8);
    assert!(share < 0.4, "each is told once: {share}");
    assert_eq!(owner.oracle.verdict().locked, 1);
    assert!(0.9 < owner.oracle.verdict().confidence);
}

#[test]
fn opens_that_do_not_reach_us_do_not_lose_the_lock() {
    // Without opens, what the page cache holds is read unseen.
    let mut random = Random(8);
    let streams: Vec<Vec<u32>> = distributed(10_000, 1, 2, false)
        .into_iter()
        .map(|it| {
            let (head, tail) = it.split_at(40);
            let seen = tail.iter().copied().filter(|_| 0 < random.below(3));
            head.iter().copied().chain(seen).collect()
        })
        .collect();
    let opens = in_turns(1, &streams);
    let mut owner = Owner::new(10_000);
    owner.open_all(&opens[..80]);
    let share = owner.foretold(&opens[80..], 32);
    assert!(0.99 < share, "{share}");
    assert!(0.95 < owner.oracle.verdict().confidence);
}

#[test]
fn two_jobs_on_one_data_set_lock_each_on_its_order() {
    let one = dali(8_000, 4, 2_000);
    let other = distributed(8_000, 0, 4, false);
    let mut opens = at_random(1, &one, 1);
    let more = at_random(50, &other, 2);
    opens = opens.into_iter().zip(more).flat_map(|(a, b)| [a, b]).collect();
    let mut owner = Owner::new(8_000);
    owner.open_all(&opens[..200]);
    assert_eq!(owner.oracle.verdict().locked, 8);
    let share = owner.foretold(&opens[200..], 32);
    assert!(0.99 < share, "{share}");
}

#[test]
fn a_random_job_beside_a_known_one_disturbs_it_not() {
    let known = dali(8_000, 2, 4_000);
    let mut random = Random(6);
    let mut owner = Owner::new(8_000);
    let mut told = vec![false; 8_000];
    let (mut foretold, mut all) = (0_u32, 0_u32);
    for (at, (id, position)) in in_turns(1, &known).into_iter().enumerate() {
        if 100 < at {
            all += 1;
            foretold += u32::from(told[position as usize]);
        }
        owner.open(id, position);
        owner.open(90 + random.below(4), random.below(8_000));
        assert!(owner.oracle.verdict().locked <= 3, "at most one false lock at a time");
        for position in owner.oracle.upcoming(16) {
            told[position as usize] = true;
        }
    }
    assert!(f64::from(foretold) / f64::from(all) > 0.99, "{foretold} of {all}");
}

#[test]
fn any_sequence_of_calls_is_survived() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let n = [1, 2, 3, 17, 64, 1_000][random.below(6) as usize];
        let config = Config { streams_max: 5, memory_bytes_max: 0, ..Config::default() };
        let mut oracle = Oracle::new(n, config);
        let mut place = 0;
        for _ in 0..3_000 {
            match random.below(20) {
                0 => oracle.end_stream(random.below(8)),
                1 => drop(oracle.upcoming(random.below(2_000) as usize)),
                2 => drop(oracle.next_use(random.below(n + 2))),
                3 => drop(oracle.verdict()),
                4 => {
                    if let Some(work) = oracle.next_work() {
                        oracle.accept(work.run());
                    }
                }
                5 => place = random.below(n),
                6 => oracle.observe(random.below(8), random.below(n + 2)),
                7 if random.below(20) == 0 => {
                    let order = (0..random.below(40)).map(|_| random.below(n + 1)).collect();
                    let from = random.below(2);
                    oracle.hint(feedline_oracle::Hint::Order { from, positions: order });
                }
                8 if random.below(20) == 0 => {
                    let seeds = (0..random.below(3)).map(u64::from).collect();
                    oracle.hint(feedline_oracle::Hint::TorchSeeds(seeds));
                }
                9 if random.below(20) == 0 => {
                    if let Some(order) = oracle.take_learned(random.below(2) == 0) {
                        oracle.import_learned(order);
                    }
                }
                _ => {
                    place = (place + 1) % n;
                    oracle.observe(seed as u32 % 3, place);
                }
            }
            let verdict = oracle.verdict();
            assert!((0.0..=1.0).contains(&verdict.confidence));
            assert!(verdict.streams <= 5 && verdict.locked <= verdict.streams);
        }
    }
}

#[test]
fn an_empty_data_set_foretells_nothing() {
    let mut oracle = Oracle::new(0, Config::default());
    oracle.observe(1, 0);
    assert!(oracle.next_work().is_none());
    assert!(oracle.upcoming(10).is_empty());
    assert_eq!(oracle.next_use(0), None);
    assert!(oracle.is_empty());
}
