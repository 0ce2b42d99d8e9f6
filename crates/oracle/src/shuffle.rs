//! The generators and shuffles of DALI's file reader and of torch's samplers, bit for bit.
//!
//! DALI shuffles the sorted listing with libstdc++'s `std::shuffle`, over `std::mt19937` or, after
//! each epoch, over `std::mt19937_64`. The result is part of that library's code, not of the C++
//! standard, so it is written out here: the generators, Lemire's bounded draw, and the trick that
//! takes two places from one draw while the square of the range fits the generator.
//! `tests/golden/std_shuffle.txt` holds what the library itself answers.
//!
//! torch's `randperm` is a forward Fisher-Yates with a plain remainder, so its first k places are
//! known after k draws.
//!
//! Deliberately absent: DALI's 1,024-sample buffer, which the file system does not see.

/// The constant that DALI seeds its generator with, whatever seed the user gives.
pub const DALI_SEED: u32 = 524_287;

/// Where the bits of `std_shuffle` come from.
pub trait Bits {
    /// The largest number that [`Bits::below`] can take a range of.
    const MAX: u64;

    /// `std::uniform_int_distribution{0, range - 1}` as libstdc++ 11 and later draws it (Lemire).
    /// `range` is 1 to [`Bits::MAX`].
    fn below(&mut self, range: u64) -> u64;
}

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
}

impl Bits for Mt19937 {
    const MAX: u64 = u32::MAX as u64;

    fn below(&mut self, range: u64) -> u64 {
        let mut product = u64::from(self.next_u32()) * range;
        if (product & Self::MAX) < range {
            let threshold = (Self::MAX + 1 - range) % range;
            while (product & Self::MAX) < threshold {
                product = u64::from(self.next_u32()) * range;
            }
        }
        product >> 32
    }
}

/// Words of state of the 64-bit generator.
const WORDS_64: usize = 312;
/// Distance between the words that are mixed in the 64-bit generator.
const SHIFT_64: usize = 156;

/// The 64-bit Mersenne Twister of the C++ standard.
#[derive(Debug, Clone)]
pub struct Mt19937x64 {
    state: Box<[u64; WORDS_64]>,
    next: usize,
}

impl Mt19937x64 {
    /// A generator in the state that `std::mt19937_64(seed)` starts in.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = Box::new([seed; WORDS_64]);
        for i in 1..WORDS_64 {
            let before = state[i - 1];
            state[i] = 6_364_136_223_846_793_005_u64
                .wrapping_mul(before ^ (before >> 62))
                .wrapping_add(i as u64);
        }
        Self { state, next: WORDS_64 }
    }

    fn refill(&mut self) {
        for i in 0..WORDS_64 {
            let joined = (self.state[i] & 0xffff_ffff_8000_0000)
                | (self.state[(i + 1) % WORDS_64] & 0x7fff_ffff);
            let twisted = (joined >> 1) ^ if joined & 1 == 1 { 0xb502_6f5a_a966_19e9 } else { 0 };
            self.state[i] = self.state[(i + SHIFT_64) % WORDS_64] ^ twisted;
        }
        self.next = 0;
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        if self.next == WORDS_64 {
            self.refill();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= (word >> 29) & 0x5555_5555_5555_5555;
        word ^= (word << 17) & 0x71d6_7fff_eda6_0000;
        word ^= (word << 37) & 0xfff7_eee0_0000_0000;
        word ^ (word >> 43)
    }
}

impl Bits for Mt19937x64 {
    const MAX: u64 = u64::MAX;

    fn below(&mut self, range: u64) -> u64 {
        let mut product = u128::from(self.next_u64()) * u128::from(range);
        if low(product) < range {
            let threshold = range.wrapping_neg() % range;
            while low(product) < threshold {
                product = u128::from(self.next_u64()) * u128::from(range);
            }
        }
        u64::try_from(product >> 64).expect("64 bits are left")
    }
}

/// The low half of a product.
fn low(product: u128) -> u64 {
    u64::try_from(product & u128::from(u64::MAX)).expect("masked to 64 bits")
}

/// Shuffles as libstdc++'s `std::shuffle` does with `generator`.
///
/// # Panics
///
/// With 2^32 - 1 items or more; no file listing is that long.
pub fn std_shuffle<T, G: Bits>(items: &mut [T], generator: &mut G) {
    let count = u64::from(u32::try_from(items.len()).expect("fewer than 2^32 items"));
    if count == 0 {
        return;
    }
    let index = |place: u64| usize::try_from(place).expect("below the length");
    if G::MAX / count < count {
        for i in 1..count {
            let other = generator.below(i + 1);
            items.swap(index(i), index(other));
        }
        return;
    }
    let mut i = 1;
    if count.is_multiple_of(2) {
        let other = generator.below(2);
        items.swap(1, index(other));
        i = 2;
    }
    while i < count {
        let range = i + 1;
        let both = generator.below(range * (range + 1));
        items.swap(index(i), index(both / (range + 1)));
        items.swap(index(i) + 1, index(both % (range + 1)));
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

/// Starts `torch.randperm(n)` of a CPU generator with this seed over `order`, which must hold 0 to
/// n - 1 in order, and makes its first `count` places; `swapped` hears of each pair of places that
/// was exchanged, so that a caller can undo it.
///
/// The algorithm of torch 0.4 to 2.x for n below 2^32 / 20, checked against torch 1.13 and the source
/// of later versions; the generator takes the low 32 bits of the seed.
///
/// # Panics
///
/// With 2^32 positions or more.
pub fn torch_randperm_start(
    order: &mut [u32],
    seed: u64,
    count: usize,
    mut swapped: impl FnMut(usize, usize),
) {
    let n = u32::try_from(order.len()).expect("fewer than 2^32 files");
    let low = u32::try_from(seed & u64::from(u32::MAX)).expect("masked to 32 bits");
    let mut generator = Mt19937::new(low);
    let count = u32::try_from(count).unwrap_or(n).min(n.saturating_sub(1));
    for i in 0..count {
        let other = i + generator.next_u32() % (n - i);
        order.swap(i as usize, other as usize);
        swapped(i as usize, other as usize);
    }
}

/// `torch.randperm(n)` of a CPU generator with this seed.
///
/// # Panics
///
/// With 2^32 positions or more.
#[must_use]
pub fn torch_randperm(n: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    torch_randperm_start(&mut order, seed, n as usize, |_, _| ());
    order
}

/// The places of a sorted listing of `count` files in the order in which rank `rank` of `ranks` reads
/// them with torch's `DistributedSampler(shuffle=True, seed=0)` in `epoch`. All ranks read equally many:
/// what is missing for that is repeated from the start of the order.
///
/// # Panics
///
/// With 2^32 files or more.
#[must_use]
pub fn distributed_order(count: usize, epoch: u32, rank: usize, ranks: usize) -> Vec<u32> {
    let order =
        torch_randperm(u32::try_from(count).expect("fewer than 2^32 files"), u64::from(epoch));
    let whole = count.div_ceil(ranks) * ranks;
    order.iter().cycle().take(whole).skip(rank).step_by(ranks).copied().collect()
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
    fn the_generators_are_those_of_the_standard() {
        // The standard fixes the 10,000th draw of default-seeded generators.
        let mut generator = Mt19937::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
        let mut generator = Mt19937x64::new(5489);
        let last = (0..10_000).map(|_| generator.next_u64()).last();
        assert_eq!(last, Some(9_981_545_732_273_789_042));
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
