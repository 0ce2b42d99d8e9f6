//! A bucket of very many keys that nobody stored: each is made of its number when it is asked for, so that
//! ten million take no memory here and no inode anywhere.
//!
//! Keys lie in folders of a thousand. Sizes, times and tags differ from key to key, as those of a data set
//! do. The bytes of an object are its number, over and over.
//!
//! # Deliberately absent
//!
//! - Writes: they are refused.

use std::ops::Bound;

use bytes::Bytes;

use crate::object::{Entry, Tag};

/// The bucket's name.
pub(crate) const BUCKET: &str = "names";

/// Keys of a folder: what one LIST gives.
const FOLDER_KEYS: u64 = 1_000;

/// The first modification, in milliseconds since 1970: some day in 2023.
const MODIFIED_MS: i64 = 1_700_000_000_000;

/// See the module's head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MadeUp {
    count: u64,
}

impl MadeUp {
    /// At most 100 million keys: numbers have eight digits, so that their order is that of the texts.
    pub(crate) fn new(count: u32) -> Self {
        Self { count: u64::from(count) }
    }

    fn key(number: u64) -> String {
        format!("n{:08}/ILSVRC2012_val_{number:08}.JPEG", number / FOLDER_KEYS)
    }

    fn entry(number: u64) -> Entry {
        // Spreads a number over all bits (Knuth's multiplicative hash).
        let spread = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Entry {
            size: 20_000 + spread % 300_000,
            modified_ms: MODIFIED_MS + (spread % 100_000) as i64 * 1_000,
            tag: Tag::of_number(spread),
        }
    }

    /// The keys from `start` on, in the order of their bytes.
    pub(crate) fn from(self, start: Bound<&str>) -> impl Iterator<Item = (String, Entry)> {
        let before = |key: &str| match start {
            Bound::Included(start) => key < start,
            Bound::Excluded(start) => key <= start,
            Bound::Unbounded => false,
        };
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if before(&Self::key(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low..self.count).map(|number| (Self::key(number), Self::entry(number)))
    }

    /// An object, if there is one of this key.
    pub(crate) fn find(self, key: &str) -> Option<(Entry, Bytes)> {
        let digits = key.strip_suffix(".JPEG")?.rsplit_once('_')?.1;
        let number: u64 = digits.parse().ok().filter(|number| *number < self.count)?;
        let entry = (Self::key(number) == key).then(|| Self::entry(number))?;
        let bytes: Vec<u8> =
            number.to_le_bytes().into_iter().cycle().take(entry.size as usize).collect();
        Some((entry, bytes.into()))
    }
}
