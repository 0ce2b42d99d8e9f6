//! How long it takes until an object is used again: a running mean over a sample of all uses.
//!
//! Time is counted in uses. Ids are sampled by their hash, so that an id is either always or never
//! looked at, whether it is cached or not; the sample is at most [`SAMPLES_MAX`] ids large, and the
//! rate falls and rises with the number of ids in use.
//!
//! In any mixture of loops over sets of objects, and for independent random uses too, the mean of
//! these times, over uses, is the number of distinct objects in use: each object with share p of
//! the uses returns after 1/p of them, and is seen with weight p. For one data set read in epochs
//! it is the number of its files, whatever the order.
//!
//! Source of the sampling: SHARDS (Waldspurger, Park, Garthwaite and Ahmad, "Efficient MRC
//! construction with SHARDS", FAST 2015).
//!
//! Deliberately absent: the distribution. The mean is what the argument in `worth` needs.

use std::collections::HashMap;

/// Ids looked at, at most: 100 KB.
const SAMPLES_MAX: usize = 4096;

/// Two uses closer than this are one: an open and its reads, the readers of one batch.
const SAME_USE: u64 = 64;

/// Fewer samples than this say nothing.
const COUNT_MIN: u64 = 32;

/// An id not used for this many means is of a job that is over.
const STALE_MEANS: u64 = 8;

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    since: u64,
    sum: u64,
    count: u64,
}

/// The sample and what it says.
#[derive(Debug, Default)]
pub(crate) struct Reuse {
    last: HashMap<u64, u64>,
    /// Ids whose hash has this many leading zeros, or more, are looked at.
    zeros: u32,
    /// The present window and the one before: together one to two turns of the objects in use,
    /// because within one epoch in random order the times grow from half to one and a half.
    now: Window,
    before: Window,
}

impl Reuse {
    /// Leading zeros that a hash must have to be looked at.
    pub(crate) fn zeros(&self) -> u32 {
        self.zeros
    }

    /// The id with this hash was used. `time` never falls by more than the readers in parallel.
    pub(crate) fn note(&mut self, hash: u64, time: u64) {
        if hash.leading_zeros() < self.zeros {
            return;
        }
        if let Some(last) = self.last.insert(hash, time) {
            let gap = time.saturating_sub(last);
            if gap >= SAME_USE {
                self.now.sum += gap;
                self.now.count += 1;
                self.turn(time);
            }
        } else if self.last.len() > SAMPLES_MAX {
            self.thin(time);
        }
    }

    /// Uses until an object is used again, in the mean; `None`: too few were.
    pub(crate) fn mean(&self) -> Option<u64> {
        let count = self.now.count + self.before.count;
        (count >= COUNT_MIN).then(|| (self.now.sum + self.before.sum) / count)
    }

    /// Begins a new window when the present one has seen its objects about once.
    fn turn(&mut self, time: u64) {
        let Window { since, sum, count } = self.now;
        if count < COUNT_MIN || time.saturating_sub(since) < sum / count {
            return;
        }
        self.before = self.now;
        self.now = Window { since: time, ..Window::default() };
        self.forget_stale(time);
        if self.last.len() < SAMPLES_MAX / 8 {
            self.zeros = self.zeros.saturating_sub(1);
        }
    }

    fn forget_stale(&mut self, time: u64) {
        if let Some(mean) = self.mean() {
            self.last.retain(|_, last| time.saturating_sub(*last) <= mean * STALE_MEANS);
        }
    }

    fn thin(&mut self, time: u64) {
        self.forget_stale(time);
        while self.last.len() > SAMPLES_MAX / 4 * 3 {
            self.zeros += 1;
            self.last.retain(|hash, _| hash.leading_zeros() >= self.zeros);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom as _;
    use rand::{RngExt as _, SeedableRng as _};

    /// A hash that is uniform, as those of ids are.
    fn hash(number: u64) -> u64 {
        let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    struct Run {
        reuse: Reuse,
        time: u64,
        random: StdRng,
    }

    impl Run {
        fn new() -> Self {
            Self { reuse: Reuse::default(), time: 0, random: StdRng::seed_from_u64(5) }
        }

        fn epochs(&mut self, from: u64, objects: u64, epochs: usize) -> Option<u64> {
            let mut order: Vec<u64> = (from..from + objects).collect();
            for _ in 0..epochs {
                order.shuffle(&mut self.random);
                for object in &order {
                    self.time += 1;
                    self.reuse.note(hash(*object), self.time);
                }
            }
            self.reuse.mean()
        }
    }

    #[test]
    fn epochs_give_the_size_of_the_data_set_small_or_large() {
        for objects in [300, 5_000, 100_000] {
            let mut run = Run::new();
            assert_eq!(run.epochs(0, objects, 1), None, "nothing was used twice");
            // At every moment, also within an epoch: what is built on it has 2.3 for 2.
            let mean = run.epochs(0, objects, 3).expect("used four times");
            assert!((objects * 9 / 10..=objects * 11 / 10).contains(&mean), "{objects}: {mean}");
            assert!(run.reuse.last.len() <= SAMPLES_MAX);
        }
    }

    #[test]
    fn another_data_set_is_found_out_in_its_third_epoch() {
        let mut run = Run::new();
        run.epochs(0, 50_000, 3);
        let mean = run.epochs(1 << 40, 2_000, 4).expect("used");
        assert!((1_700..=2_300).contains(&mean), "{mean}");
        let mean = run.epochs(1 << 41, 40_000, 4).expect("used");
        assert!((34_000..=46_000).contains(&mean), "{mean}");
    }

    #[test]
    fn two_loops_give_the_number_of_objects_of_both() {
        let mut run = Run::new();
        for _ in 0..400_000 {
            run.time += 1;
            let object = match run.random.random_range(0..4) {
                0 => run.random.random_range(0..1_000),
                _ => run.random.random_range(1_000..20_000),
            };
            run.reuse.note(hash(object), run.time);
        }
        let mean = run.reuse.mean().expect("used");
        assert!((17_000..=23_000).contains(&mean), "{mean}");
    }
}
