//! A set of positions in a data set, one bit each.

/// A set of positions.
#[derive(Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
    /// How many are in it.
    pub(crate) count: u32,
}

impl Bits {
    pub(crate) fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], count: 0 }
    }

    pub(crate) fn has(&self, at: u32) -> bool {
        self.words[at as usize / 64] >> (at % 64) & 1 == 1
    }

    /// True if it was not there.
    pub(crate) fn add(&mut self, at: u32) -> bool {
        let fresh = !self.has(at);
        self.words[at as usize / 64] |= 1 << (at % 64);
        self.count += u32::from(fresh);
        fresh
    }

    /// The positions that are in it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let positions = (0_u32..).step_by(64).zip(&self.words);
        positions.flat_map(|(first, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
        })
    }

    pub(crate) fn remove(&mut self, at: u32) {
        self.count -= u32::from(self.has(at));
        self.words[at as usize / 64] &= !(1 << (at % 64));
    }

    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }
}
