//! The orders in which DALI's file reader and torch's `DistributedSampler` visit a data set, bit for bit.
//!
//! DALI shuffles the sorted listing once with libstdc++'s `std::shuffle` over
//! `std::mt19937(524287)`. The result is part of that library's code, not of the C++ standard, so it
//! is written out here: the generator, Lemire's bounded draw, and the trick that takes two places
//! from one draw while the square of the range fits the generator. `tests/golden/std_shuffle.txt`
//! holds what the library itself answers. torch's `randperm` draws from the same generator and takes the
//! remainder.
//!
//! Deliberately absent: any other shuffle. The 1,024-sample buffer is the loader's (`train`).

/// The constant that DALI seeds its generator with, whatever seed the user gives.
pub const DALI_SEED: u32 = 524_287;

/// Words of state of the generator.
const WORDS: usize = 624;
/// Distance between the words that are mixed.
const SHIFT: usize = 397;

/// The 32-bit Mersenne Twister of the C++ standard.
#[derive(Debug, Clone)]
pub struct Mt19937 {
    state: Box<[u32; WORDS]>,
    next: usize,
}

impl Mt19937 {
    /// A generator in the state that `std::mt19937(seed)` starts in.
    #[must_use]
    pub fn new(seed: u32) -> Self {
        let mut state = Box::new([seed; WORDS]);
        for i in 1..WORDS {
            let before = state[i - 1];
            let index = u32::try_from(i).expect("624 fits 32 bits");
            state[i] = 1_812_433_253_u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(index);
        }
        Self { state, next: WORDS }
    }

    fn refill(&mut self) {
        for i in 0..WORDS {
            let joined =
                (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % WORDS] & 0x7fff_ffff);
            let twisted = (joined >> 1) ^ if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % WORDS] ^ twisted;
        }
        self.next = 0;
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == WORDS {
            self.refill();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// `std::uniform_int_distribution{0, range - 1}` as libstdc++ 11 and later draws it (Lemire).
    /// `range` is 1 to 2^32 - 1.
    fn below(&mut self, range: u32) -> u32 {
        let mut product = u64::from(self.next_u32()) * u64::from(range);
        if low(product) < range {
            let threshold = range.wrapping_neg() % range;
            while low(product) < threshold {
                product = u64::from(self.next_u32()) * u64::from(range);
            }
        }
        high(product)
    }
}

/// The low half of a product.
fn low(product: u64) -> u32 {
    u32::try_from(product & u64::from(u32::MAX)).expect("masked to 32 bits")
}

/// The high half of a product.
fn high(product: u64) -> u32 {
    u32::try_from(product >> 32).expect("32 bits are left")
}

/// Shuffles as libstdc++'s `std::shuffle` does with `generator`.
///
/// # Panics
///
/// With 2^32 - 1 items or more; no file listing is that long.
pub fn std_shuffle<T>(items: &mut [T], generator: &mut Mt19937) {
    let count = u32::try_from(items.len()).expect("fewer than 2^32 items");
    if count == 0 {
        return;
    }
    if u32::MAX / count < count {
        for i in 1..count {
            let other = generator.below(i + 1);
            items.swap(i as usize, other as usize);
        }
        return;
    }
    let mut i = 1;
    if count.is_multiple_of(2) {
        let other = generator.below(2);
        items.swap(1, other as usize);
        i = 2;
    }
    while i < count {
        let range = i + 1;
        let both = generator.below(range * (range + 1));
        items.swap(i as usize, (both / (range + 1)) as usize);
        items.swap(i as usize + 1, (both % (range + 1)) as usize);
        i += 2;
    }
}

/// The places of a sorted listing of `count` files in the order DALI's `random_shuffle` reads them.
#[must_use]
pub fn dali_order(count: usize) -> Vec<u32> {
    let count = u32::try_from(count).expect("fewer than 2^32 files");
    let mut order: Vec<u32> = (0..count).collect();
    std_shuffle(&mut order, &mut Mt19937::new(DALI_SEED));
    order
}

/// The places of a sorted listing of `count` files in the order in which rank `rank` of `ranks` reads
/// them with torch's `DistributedSampler(shuffle=True, seed=0)` in `epoch`. All ranks read equally many:
/// what is missing for that is repeated from the start of the order.
///
/// # Panics
///
/// With 2^32 / 20 files or more, from where torch draws 64 bits.
#[must_use]
pub fn distributed_order(count: usize, epoch: u32, rank: usize, ranks: usize) -> Vec<u32> {
    let places = u32::try_from(count).ok().filter(|count| *count < u32::MAX / 20);
    let places = places.expect("fewer files than torch draws 64 bits for");
    let mut order: Vec<u32> = (0..places).collect();
    let mut generator = Mt19937::new(epoch);
    for i in 0..places.saturating_sub(1) {
        let other = i + generator.next_u32() % (places - i);
        order.swap(i as usize, other as usize);
    }
    let whole = count.div_ceil(ranks) * ranks;
    let repeated: Vec<u32> = order.iter().cycle().take(whole).copied().collect();
    repeated.into_iter().skip(rank).step_by(ranks).collect()
}

/// The part of a listing of `count` files that shard `index` of `shards` reads: DALI rounds down
/// at both ends, so shards differ by at most one file and cover every file once.
#[must_use]
pub fn shard(count: usize, index: usize, shards: usize) -> std::ops::Range<usize> {
    count * index / shards..count * (index + 1) / shards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fnv(order: &[u32]) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in order.iter().flat_map(|place| place.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash
    }

    #[test]
    fn the_generator_is_the_one_of_the_standard() {
        // The standard fixes the 10,000th draw of a default-seeded generator.
        let mut generator = Mt19937::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn shuffles_are_what_libstdcxx_makes() {
        let mut sizes = 0;
        for line in include_str!("../tests/golden/std_shuffle.txt").lines() {
            let (head, tail) = line.split_once(" |").expect("golden line");
            let mut head = head.split(' ');
            let count: usize = head.next().expect("size").parse().expect("size");
            let hash = u64::from_str_radix(head.next().expect("hash"), 16).expect("hash");
            let first: Vec<u32> = head.map(|n| n.parse().expect("place")).collect();
            let last: Vec<u32> =
                tail.split_whitespace().map(|n| n.parse().expect("place")).collect();
            let order = dali_order(count);
            assert_eq!(order[..first.len()], first, "the start of {count}");
            assert_eq!(order[count - last.len()..], last, "the end of {count}");
            assert_eq!(fnv(&order), hash, "the whole of {count}");
            sizes += 1;
        }
        assert_eq!(sizes, 15);
    }

    #[test]
    fn distributed_orders_are_what_torch_draws() {
        // From torch 1.13: list(DistributedSampler(range(n), num_replicas, rank)) after set_epoch.
        let ranks: Vec<Vec<u32>> = (0..4).map(|rank| distributed_order(10, 0, rank, 4)).collect();
        assert_eq!(ranks, [[4, 3, 6], [1, 9, 2], [7, 0, 4], [5, 8, 1]]);
        let order = distributed_order(20_000, 7, 3, 8);
        assert_eq!(order[..5], [816, 309, 7973, 2343, 11951]);
        assert_eq!(fnv(&order), 0x5f37_dfce_6875_fcbc);
    }

    #[test]
    fn shards_cover_every_file_once() {
        for (count, shards) in [(10, 3), (6_000, 32), (7, 8), (1_281_167, 32)] {
            let mut next = 0;
            for index in 0..shards {
                let range = shard(count, index, shards);
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, count);
        }
    }
}
