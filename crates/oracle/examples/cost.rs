//! What the oracle costs: opens until it knows, CPU time of an open, of a prediction, of the search, and
//! the bytes it holds.
//!
//! `cargo run --release -p feedline-oracle --example cost`. CPU time of this thread, not wall time, so
//! that it can be read on a machine that does other things too.

use feedline_oracle::shuffle::{Mt19937x64, std_shuffle, torch_randperm};
use feedline_oracle::{Config, Oracle, dali_order, shard};

/// CPU time of this process in nanoseconds, all in user mode but for page faults.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0_u64) * 4_096
}

/// CPU time of `count` calls, in nanoseconds for each.
fn each(count: u64, run: impl FnOnce()) -> u64 {
    let before = cpu_ns();
    run();
    (cpu_ns() - before) / count.max(1)
}

/// Positions in an order that nothing foretells.
fn scattered(n: u32) -> impl Iterator<Item = u32> {
    let mut state = 1_u64;
    std::iter::repeat_with(move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((state >> 33) % u64::from(n)).unwrap_or(0)
    })
}

fn random_job(n: u32) {
    let mut oracle = Oracle::new(n, Config::default());
    let opens = 200_000_u64;
    let before = resident();
    let mut searched = 0;
    let mut units = 0;
    let open = each(opens, || {
        for (at, position) in scattered(n).take(200_000).enumerate() {
            oracle.observe(u32::try_from(at % 8).unwrap_or(0), position);
            if at % 64 == 0 {
                let start = cpu_ns();
                while let Some(work) = oracle.next_work() {
                    let outcome = work.run();
                    oracle.accept(outcome);
                    units += 1;
                }
                searched += cpu_ns() - start;
            }
        }
    });
    println!(
        "random   n {n:>8}: open {} ns, search {} ns an open ({} ms in all, {units} pieces), holds {} MiB",
        open - searched / opens,
        searched / opens,
        searched / 1_000_000,
        resident().saturating_sub(before) >> 20,
    );
}

fn known_job(n: u32) {
    let order = dali_order(n as usize);
    let before = resident();
    let mut oracle = Oracle::new(n, Config::default());
    let starts: Vec<usize> = (0..8).map(|index| shard(n as usize, index, 8).start).collect();
    let mut searched = 0;
    for k in 0..8 {
        for (stream, start) in (0..).zip(&starts) {
            oracle.observe(stream, order[start + k]);
        }
        let start = cpu_ns();
        while let Some(work) = oracle.next_work() {
            let outcome = work.run();
            oracle.accept(outcome);
        }
        searched += cpu_ns() - start;
    }
    let per = n as usize / 8 * 4;
    let opens = 8 * per as u64;
    let open = each(opens, || {
        for k in 8..8 + per {
            for (stream, start) in (0..).zip(&starts) {
                oracle.observe(stream, order[(start + k) % n as usize]);
            }
        }
    });
    let mut told = 0;
    let tell = each(1, || {
        let mut k = 8 + per;
        while told < per {
            told += oracle.upcoming(64).len();
            for (stream, start) in (0..).zip(&starts) {
                oracle.observe(stream, order[(start + k) % n as usize]);
            }
            k += 1;
        }
    });
    let next_use = each(100_000, || {
        let found = scattered(n).take(100_000).filter_map(|position| oracle.next_use(position));
        assert!(found.count() == 100_000);
    });
    println!(
        "dali x 8 n {n:>8}: locked by {:?} opens, found in {} ms, open {open} ns, next_use {next_use} ns, upcoming {} ns a position, holds {} MiB",
        oracle.verdict().reads_to_lock,
        searched / 1_000_000,
        (tell / told.max(1) as u64).saturating_sub(open),
        resident().saturating_sub(before) >> 20,
    );
}

/// Opens until the first stream locks, for streams that take turns.
fn opens_to_lock(name: &str, n: u32, streams: &[Vec<u32>]) {
    let mut oracle = Oracle::new(n, Config::default());
    for k in 0..64 {
        for (stream, positions) in (0..).zip(streams) {
            oracle.observe(stream, positions[k % positions.len()]);
            while let Some(work) = oracle.next_work() {
                let outcome = work.run();
                oracle.accept(outcome);
            }
            if let Some(opens) = oracle.verdict().reads_to_lock {
                println!(
                    "{name}: {} streams, {opens} opens: {}",
                    streams.len(),
                    oracle.verdict().sampler
                );
                return;
            }
        }
    }
    println!("{name}: not locked");
}

/// Streams that read an order from the starts of their shards.
fn shards(order: &[u32], shards: usize) -> Vec<Vec<u32>> {
    (0..shards).map(|index| order[shard(order.len(), index, shards)].to_vec()).collect()
}

/// Streams that read every `ranks`-th file, each in `workers` parts by batches.
fn ranks(order: &[u32], ranks: usize, workers: usize, batch: usize) -> Vec<Vec<u32>> {
    let mut streams = vec![Vec::new(); ranks * workers];
    for rank in 0..ranks {
        let files: Vec<u32> = order.iter().skip(rank).step_by(ranks).copied().collect();
        for (at, files) in files.chunks(batch).enumerate() {
            streams[rank * workers + at % workers].extend_from_slice(files);
        }
    }
    streams
}

fn locks() {
    for n in [20_000, 1_281_167] {
        let listing: Vec<u32> = (0..n).collect();
        let backwards: Vec<u32> = (0..n).rev().collect();
        let dali = dali_order(n as usize);
        let torch = torch_randperm(n, 200);
        let mut epoch = listing.clone();
        for number in 1..=3 {
            std_shuffle(&mut epoch, &mut Mt19937x64::new(524_287 + (number << 32)));
        }
        println!("{n} files");
        for count in [1, 8, 32] {
            opens_to_lock("  dali", n, &shards(&dali, count));
            opens_to_lock("  dali after epoch 3", n, &shards(&epoch, count));
            opens_to_lock("  torch", n, &ranks(&torch, count, 1, 1));
            opens_to_lock("  listing", n, &shards(&listing, count));
        }
        opens_to_lock("  reversed", n, &[backwards]);
        for batch in [1, 2, 16, 256] {
            opens_to_lock("  torch, 2 ranks of 4 workers", n, &ranks(&torch, 2, 4, batch));
        }
    }
}

fn main() {
    locks();
    for n in [20_000, 1_281_167, 10_000_000] {
        known_job(n);
        random_job(n);
    }
}
