//! Reproducible content: the bytes of a test object from its seed, any range without the rest.

use std::ops::Range;

use bytes::Bytes;

/// The finaliser of SplitMix64: uniform words from consecutive inputs, so that content is
/// addressable by offset and an off-by-one range never compares equal.
fn word(seed: u64, index: u64) -> [u8; 8] {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

/// All `size` bytes of the object with this seed.
#[must_use]
pub fn object_bytes(seed: u64, size: u64) -> Bytes {
    object_range(seed, 0..size)
}

/// The bytes at `range` of the object with this seed. Cost: the range only.
#[must_use]
pub fn object_range(seed: u64, range: Range<u64>) -> Bytes {
    let length = usize::try_from(range.end.saturating_sub(range.start)).expect("a test range");
    let mut bytes = Vec::with_capacity(length + 8);
    let skip = usize::try_from(range.start % 8).expect("below 8");
    let mut index = range.start / 8;
    while bytes.len() < length + skip {
        bytes.extend_from_slice(&word(seed, index));
        index += 1;
    }
    Bytes::from(bytes).slice(skip..skip + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_equals_the_slice_of_the_whole() {
        let whole = object_bytes(7, 100);
        assert_eq!(whole.len(), 100);
        for (start, end) in [(0, 0), (0, 100), (3, 4), (7, 9), (8, 16), (99, 100)] {
            let range = object_range(7, start..end);
            assert_eq!(range, whole[start as usize..end as usize]);
        }
        assert_ne!(object_bytes(8, 100), whole);
    }
}
