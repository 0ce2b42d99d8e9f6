//! Simulated jobs: what each stream of a loader opens, and in which turn.

use std::collections::VecDeque;

use feedline_oracle::shuffle::{torch_randperm, torch_randperm_start};
use feedline_oracle::{Config, Oracle, dali_order, shard};

/// A small generator for tests (splitmix64), so that every run is the same.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, range: u32) -> u32 {
        u32::try_from(self.next() % u64::from(range)).expect("below 32 bits")
    }

    pub(crate) fn shuffle(&mut self, items: &mut [u32]) {
        for i in (1..items.len()).rev() {
            let other = self.below(u32::try_from(i + 1).expect("small"));
            items.swap(i, other as usize);
        }
    }
}

/// What each stream opens, in order; the stream's id is its index and an offset.
pub(crate) type Streams = Vec<Vec<u32>>;

/// The opens of streams that advance at the same speed.
pub(crate) fn in_turns(first_id: u32, streams: &[Vec<u32>]) -> Vec<(u32, u32)> {
    let longest = streams.iter().map(Vec::len).max().unwrap_or(0);
    let round =
        |k: usize| (first_id..).zip(streams).filter_map(move |(id, it)| Some((id, *it.get(k)?)));
    (0..longest).flat_map(round).collect()
}

/// The opens of streams that advance at random speeds.
pub(crate) fn at_random(first_id: u32, streams: &[Vec<u32>], seed: u64) -> Vec<(u32, u32)> {
    let mut random = Random(seed);
    let mut left: Vec<(u32, VecDeque<u32>)> =
        (first_id..).zip(streams.iter().map(|it| it.iter().copied().collect())).collect();
    let mut opens = Vec::new();
    while !left.is_empty() {
        let at = random.below(u32::try_from(left.len()).expect("few")) as usize;
        match left[at].1.pop_front() {
            Some(position) => opens.push((left[at].0, position)),
            None => drop(left.swap_remove(at)),
        }
    }
    opens
}

/// DALI's `random_shuffle`, each stream `opens` opens from the start of its shard.
pub(crate) fn dali(n: u32, shards: usize, opens: usize) -> Streams {
    from_shards(&dali_order(n as usize), shards, opens)
}

/// Streams that read an order from the start of their shard, around its end.
pub(crate) fn from_shards(order: &[u32], shards: usize, opens: usize) -> Streams {
    let start = |index| shard(order.len(), index, shards).start;
    let stream = |index| order.iter().cycle().skip(start(index)).take(opens).copied().collect();
    (0..shards).map(stream).collect()
}

/// One epoch of `DistributedSampler` as in torch: each rank's files.
pub(crate) fn ranks(mut order: Vec<u32>, world: usize, drop_last: bool) -> Streams {
    let n = order.len();
    if drop_last {
        order.truncate(n / world * world);
    } else {
        let missing = n.next_multiple_of(world) - n;
        order.extend_from_within(..missing);
    }
    (0..world).map(|rank| order.iter().skip(rank).step_by(world).copied().collect()).collect()
}

/// One epoch of `DistributedSampler` that shuffles.
pub(crate) fn distributed(n: u32, key: u64, world: usize, drop_last: bool) -> Streams {
    ranks(torch_randperm(n, key), world, drop_last)
}

/// The workers of a loader: batch b goes to worker b modulo their number.
pub(crate) fn workers(rank: &[u32], workers: usize, batch: usize) -> Streams {
    let mut streams = vec![Vec::new(); workers];
    for (index, files) in rank.chunks(batch).enumerate() {
        streams[index % workers].extend_from_slice(files);
    }
    streams
}

/// The first places of each rank, cheaply.
pub(crate) fn first_of_ranks(n: u32, key: u64, world: usize, opens: usize) -> Streams {
    let mut order: Vec<u32> = (0..n).collect();
    torch_randperm_start(&mut order, key, world * opens, |_, _| ());
    order.truncate(world * opens);
    (0..world).map(|rank| order.iter().skip(rank).step_by(world).copied().collect()).collect()
}

/// An oracle and the owner's loop around it.
pub(crate) struct Owner {
    pub(crate) oracle: Oracle,
    pub(crate) opens: u64,
}

impl Owner {
    pub(crate) fn new(n: u32) -> Self {
        Self { oracle: Oracle::new(n, Config::default()), opens: 0 }
    }

    pub(crate) fn open(&mut self, id: u32, position: u32) {
        self.oracle.observe(id, position);
        self.opens += 1;
        self.work();
    }

    pub(crate) fn work(&mut self) {
        self.work_some(usize::MAX);
    }

    /// Does at most so many pieces of work, and says how many there were to do.
    pub(crate) fn work_some(&mut self, pieces: usize) -> usize {
        for done in 0..pieces {
            let Some(work) = self.oracle.next_work() else { return done };
            let outcome = work.run();
            self.oracle.accept(outcome);
        }
        pieces
    }

    pub(crate) fn open_all(&mut self, opens: &[(u32, u32)]) {
        for &(id, position) in opens {
            self.open(id, position);
        }
    }

    /// Feeds opens until the sampler's name contains `words`; the number of opens it took.
    pub(crate) fn until(&mut self, opens: &[(u32, u32)], words: &str) -> Option<u64> {
        let before = self.opens;
        for &(id, position) in opens {
            self.open(id, position);
            if self.oracle.verdict().sampler.contains(words) {
                return Some(self.opens - before);
            }
        }
        None
    }

    /// The share of opens that were foretold: told by `upcoming(ahead)` at any time before.
    pub(crate) fn foretold(&mut self, opens: &[(u32, u32)], ahead: usize) -> f64 {
        let mut told = vec![0_u32; self.oracle.len() as usize];
        let mut hits = 0_u32;
        for &(id, position) in opens {
            for position in self.oracle.upcoming(ahead) {
                told[position as usize] += 1;
            }
            if 0 < told[position as usize] {
                told[position as usize] -= 1;
                hits += 1;
            }
            self.open(id, position);
        }
        f64::from(hits) / opens.len() as f64
    }
}
