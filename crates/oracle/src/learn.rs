//! Remembers in which order an epoch was read, so that the same order is known in the next.

/// Opens of files that were opened in this epoch already, beyond which the next epoch has begun:
/// at least this many, ...
const AGAIN_MIN: u32 = 32;
/// ... and one for so many files.
const AGAIN_PART: u32 = 200;
/// Files that an epoch may leave out, as one for so many: a loader drops its last batch.
const MISSING_PART: u32 = 10;
/// Of fewer files an epoch does not end with its last file: an order of so few is hardly told from chance.
const FILES_MIN: u32 = 16;

/// Watches one data set. Takes 4 bytes and 2 bits a file while it records.
#[derive(Debug)]
pub(crate) struct Recorder {
    n: u32,
    now: Epoch,
    /// Opens that seem to belong to the next epoch.
    next: Epoch,
    /// How much of the present epoch [`Recorder::unfinished`] has given.
    given: u32,
}

#[derive(Debug, Default)]
struct Epoch {
    order: Vec<u32>,
    seen: Vec<u64>,
    /// Opens that a known order foretold.
    foretold: u32,
}

impl Epoch {
    fn add(&mut self, position: u32, foretold: bool, n: u32) -> bool {
        if self.seen.is_empty() {
            self.seen = vec![0; n.div_ceil(64) as usize];
        }
        let (word, bit) = ((position / 64) as usize, 1_u64 << (position % 64));
        if self.seen[word] & bit != 0 {
            return false;
        }
        self.seen[word] |= bit;
        self.order.push(position);
        self.foretold += u32::from(foretold);
        true
    }

    fn len(&self) -> u32 {
        u32::try_from(self.order.len()).unwrap_or(u32::MAX)
    }
}

impl Recorder {
    pub(crate) fn new(n: u32) -> Self {
        Self { n, now: Epoch::default(), next: Epoch::default(), given: 0 }
    }

    /// Takes in an open. Returns the order of a whole epoch, unless a known order foretold most of it: when
    /// its last file is opened, or, if some are left out, when the next one has begun.
    pub(crate) fn observe(&mut self, position: u32, foretold: bool) -> Option<Vec<u32>> {
        if self.now.add(position, foretold, self.n) {
            let all = FILES_MIN <= self.n && self.now.len() == self.n;
            return if all { self.turn() } else { None };
        }
        if !self.next.add(position, foretold, self.n) {
            return None;
        }
        let again = (self.n / AGAIN_PART).max(AGAIN_MIN).min(self.n / 2);
        if self.next.len() < again.max(1) {
            return None;
        }
        self.turn()
    }

    /// The next epoch begins.
    fn turn(&mut self) -> Option<Vec<u32>> {
        let done = std::mem::replace(&mut self.now, std::mem::take(&mut self.next));
        self.given = 0;
        self.is_worth_it(&done).then_some(done.order)
    }

    fn is_worth_it(&self, epoch: &Epoch) -> bool {
        let whole = self.n - self.n / MISSING_PART <= epoch.len();
        whole && epoch.foretold < epoch.len() / 2
    }

    /// The order of the present epoch, if it is as good as whole and has grown since it was last given.
    pub(crate) fn unfinished(&mut self) -> Option<Vec<u32>> {
        let grown = self.given < self.now.len() && self.is_worth_it(&self.now);
        grown.then(|| {
            self.given = self.now.len();
            self.now.order.clone()
        })
    }

    /// The opens of the present epoch so far, in order.
    pub(crate) fn recorded(&self) -> &[u32] {
        &self.now.order
    }

    /// Goes on from an epoch of which these were opened before.
    pub(crate) fn resume(&mut self, opened: impl Iterator<Item = u32>) {
        for position in opened.filter(|position| *position < self.n) {
            self.now.add(position, false, self.n);
        }
    }
}
