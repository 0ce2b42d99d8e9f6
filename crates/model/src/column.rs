//! Numbers of one kind, one per entry of a directory, in as few bytes each as their spread allows.
//!
//! Sizes of images differ by less than 4 GiB, times of modification are whole seconds (S3) of one
//! epoch, and many columns hold the same number throughout: a u64 each would be mostly zeros.
//!
//! # Invariants
//!
//! - Equal numbers give equal columns: how they are packed depends on nothing but the numbers.

/// Times in milliseconds that are whole seconds are kept as seconds.
const STEP: u64 = 1_000;

/// A sequence of numbers, each `base + step * digit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    base: u64,
    step: u64,
    digits: Digits,
}

/// The narrowest that holds every digit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Digits {
    Zero,
    Bytes(Box<[u8]>),
    Short(Box<[u16]>),
    Word(Box<[u32]>),
    Long(Box<[u64]>),
}

impl Column {
    /// Packs `numbers`, which are gone through three times.
    pub(crate) fn of(numbers: impl Iterator<Item = u64> + Clone) -> Self {
        let (mut base, mut max) = (u64::MAX, 0);
        for number in numbers.clone() {
            base = base.min(number);
            max = max.max(number);
        }
        if max <= base {
            return Self { base: max, step: 1, digits: Digits::Zero };
        }
        let whole = numbers.clone().all(|number| (number - base).is_multiple_of(STEP));
        let step = if whole { STEP } else { 1 };
        let digits = numbers.map(|number| (number - base) / step);
        let digits = match (max - base) / step {
            // The cast keeps every digit: none is larger than the largest, which fits.
            ..=0xff => Digits::Bytes(digits.map(|digit| digit as u8).collect()),
            0x100..=0xffff => Digits::Short(digits.map(|digit| digit as u16).collect()),
            0x1_0000..=0xffff_ffff => Digits::Word(digits.map(|digit| digit as u32).collect()),
            _ => Digits::Long(digits.collect()),
        };
        Self { base, step, digits }
    }

    /// The number at `index`, which must be below the count of numbers.
    pub(crate) fn get(&self, index: usize) -> u64 {
        let digit = match &self.digits {
            Digits::Zero => 0,
            Digits::Bytes(digits) => u64::from(digits[index]),
            Digits::Short(digits) => u64::from(digits[index]),
            Digits::Word(digits) => u64::from(digits[index]),
            Digits::Long(digits) => digits[index],
        };
        self.base + digit * self.step
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        match &self.digits {
            Digits::Zero => 0,
            Digits::Bytes(digits) => digits.len(),
            Digits::Short(digits) => size_of_val(&**digits),
            Digits::Word(digits) => size_of_val(&**digits),
            Digits::Long(digits) => size_of_val(&**digits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packs and reads back; gives the bytes that it took.
    fn bytes_of(numbers: &[u64]) -> usize {
        let column = Column::of(numbers.iter().copied());
        for (index, number) in numbers.iter().enumerate() {
            assert_eq!(column.get(index), *number, "at {index} of {numbers:?}");
        }
        column.heap_bytes()
    }

    #[test]
    fn every_number_comes_back_from_the_narrowest_width_that_holds_it() {
        assert_eq!(bytes_of(&[]), 0);
        assert_eq!(bytes_of(&[7, 7, 7]), 0);
        assert_eq!(bytes_of(&[u64::MAX, u64::MAX - 255]), 2);
        assert_eq!(bytes_of(&[0, 256, 3]), 6);
        assert_eq!(bytes_of(&[0, 65_536, 3]), 12);
        assert_eq!(bytes_of(&[0, u64::from(u32::MAX) + 1]), 16);
        assert_eq!(bytes_of(&[0, u64::MAX, 1]), 24);
    }

    #[test]
    fn whole_seconds_take_a_thousandth() {
        let seconds = 1_700_000_000_000;
        assert_eq!(bytes_of(&[seconds, seconds + 255_000]), 2);
        assert_eq!(bytes_of(&[seconds, seconds + 255_001]), 8);
        // 100 years apart.
        assert_eq!(bytes_of(&[seconds, seconds + 3_155_760_000_000]), 8);
    }
}
