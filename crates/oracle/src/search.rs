//! Trying samplers against what was opened, a bounded piece at a time.
//!
//! Only a few orders can be kept, so candidates are made one after another, compared with the latest
//! opens of each stream, and thrown away unless they fit. What that costs, for n files:
//!
//! | piece | draws |
//! | --- | --- |
//! | DALI's shuffle, kept at hand from then on | n |
//! | the first 4,096 places of `randperm`, for each of 201 seeds | 0.8 million |
//! | `shuffle_after_epoch`, the first epochs of each kind | 14 n |
//! | *deep*: the rest of those epochs, and the whole of each `randperm` | about 590 n |
//!
//! A stream that is seen from the start of its epoch reads among the first places of the order, so
//! the first pieces find every known sampler; the deep ones are for a job that was joined midway. A
//! draw with its swap takes 8 ns where the order fits the processor's caches, 20 to 45 ns for 1 to
//! 10 million files. The quick pieces live on a credit of [`QUICK_CREDIT`] draws and [`QUICK_OPEN`]
//! more for each open, the deep ones on [`DEEP_CREDIT`] and [`DEEP_OPEN`], so that a job that never
//! fits costs about a microsecond an open.

use std::ops::Range;
use std::sync::Arc;

use crate::fit::{BITS_COLD, Fit, Joint, Steps};
use crate::order::Order;
use crate::sampler::{Chain, Sampler};
use crate::shuffle::torch_randperm_start;

/// Draws for quick pieces: at first and at most, ...
const QUICK_CREDIT: u64 = 64 << 20;
/// ... and added by each open.
const QUICK_OPEN: u64 = 64;
/// Draws for deep pieces at first, ...
const DEEP_CREDIT: u64 = 8 << 20;
/// ... at most, ...
const DEEP_CREDIT_MAX: u64 = 64 << 20;
/// ... and added by each open.
const DEEP_OPEN: u64 = 32;
/// Places of a `randperm` that the quick piece makes: 64 ranks that have read 64 files each.
const START_PLACES: u32 = 4_096;
/// Epochs of each chain that belong to the quick pieces.
const CHAIN_QUICK: u32 = 4;
/// Opens before the chains of a large data set are tried: they are dear, so once the streams have
/// shown enough.
const CHAIN_OPENS: u64 = 40;
/// Opens before the deep pieces are tried.
const DEEP_OPENS: u64 = 32;
/// Draws of one deep piece, about 20 ms.
const PIECE_DRAWS: u64 = 2 << 20;

/// The latest opens of all streams that wait for an order together, where a queue shows, and then
/// those of each; the oldest first.
pub(crate) type Samples = Vec<Vec<u32>>;

/// What is tried next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The first places of these torch seeds.
    Starts(Vec<(Sampler, u64)>),
    /// Epochs of a chain, from this one (at least 1); `carry` is the order of the epoch before, which
    /// a deep piece gives back.
    Chain { chain: Chain, epochs: Range<u32>, carry: Vec<u32>, deep: bool },
    /// The whole of these torch seeds.
    Seeds(Range<u64>),
}

/// What a piece found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Orders that fit, made whole.
    pub(crate) orders: Vec<Arc<Order>>,
    /// Where a deep chain stands, to go on from.
    pub(crate) carry: Option<Vec<u32>>,
}

impl Piece {
    /// Tries the piece against the samples.
    pub(crate) fn run(self, n: u32, samples: &Samples) -> Found {
        let mut trial = Trial::new(n, samples);
        match self {
            Self::Starts(seeds) => trial.starts(&seeds),
            Self::Chain { chain, epochs, carry, deep } => {
                let (orders, carry) = trial.chain(chain, epochs, carry);
                Found { orders, carry: deep.then_some(carry) }
            }
            Self::Seeds(seeds) => {
                let mut found = Found::default();
                for seed in seeds {
                    let sampler = Sampler::Torch(seed);
                    let order = sampler.positions(n, None).unwrap_or_default();
                    found.orders.extend(trial.whole(sampler, order));
                }
                found
            }
        }
    }

    /// Draws that it takes.
    pub(crate) fn draws(&self, n: u32) -> u64 {
        let (n, starts) = (u64::from(n), u64::from(n.min(START_PLACES)));
        match self {
            Self::Starts(seeds) => starts * seeds.len() as u64,
            Self::Chain { epochs, .. } => n * epochs.len() as u64,
            Self::Seeds(seeds) => n * (seeds.end - seeds.start),
        }
    }
}

/// The samples, ready to be compared with one order after another.
struct Trial {
    n: u32,
    /// For each position that occurs in a sample its slot, from 1; 0 for all others.
    slots: Vec<u16>,
    /// The slots of each sample.
    samples: Vec<Vec<u16>>,
    /// The place of each slot in the order that is tried; `u32::MAX`: not among its first places.
    places: Vec<u32>,
}

impl Trial {
    fn new(n: u32, samples: &Samples) -> Self {
        let mut slots = vec![0_u16; n as usize];
        let mut count = 0_u16;
        let mut slot = |&position: &u32| {
            let slot = &mut slots[position as usize];
            if *slot == 0 && count < u16::MAX {
                count += 1;
                *slot = count;
            }
            *slot
        };
        let samples = samples.iter().map(|sample| sample.iter().map(&mut slot).collect()).collect();
        Self { n, slots, samples, places: vec![u32::MAX; usize::from(count) + 1] }
    }

    /// Whether the samples fit an order of which these places are known.
    fn fits(&mut self, start: &[u32]) -> bool {
        self.places.fill(u32::MAX);
        for (place, &position) in (0_u32..).zip(start) {
            let slot = usize::from(self.slots[position as usize]);
            if slot != 0 {
                self.places[slot] = place;
            }
        }
        let mut joint = Joint::default();
        self.samples.iter().enumerate().any(|(at, sample)| {
            let mut fit = match at {
                0 => Fit::of_many(self.n),
                _ => Fit::new(Steps::default(), self.n),
            };
            for &slot in sample {
                let place = self.places[usize::from(slot)];
                fit.feed_place((place != u32::MAX).then_some(place));
            }
            if 0 < at {
                joint.add(fit.best(), sample.len());
            }
            BITS_COLD <= fit.best() || joint.is_enough()
        })
    }

    fn whole(&mut self, sampler: Sampler, order: Vec<u32>) -> Option<Arc<Order>> {
        self.fits(&order).then(|| Arc::new(Order::table(sampler, self.n, order)))
    }

    /// Makes only the first places of each seed, in one array that is put back after each.
    fn starts(&mut self, seeds: &[(Sampler, u64)]) -> Found {
        let count = self.n.min(START_PLACES) as usize;
        let mut order: Vec<u32> = (0..self.n).collect();
        let mut swapped = Vec::with_capacity(count);
        let mut found = Found::default();
        for &(sampler, seed) in seeds {
            torch_randperm_start(&mut order, seed, count, |_, other| swapped.push(other));
            let fits = self.fits(&order[..count]);
            for place in (0..count).chain(swapped.drain(..)) {
                order[place] = u32::try_from(place).unwrap_or(0);
            }
            if fits {
                let whole = crate::shuffle::torch_randperm(self.n, seed);
                found.orders.push(Arc::new(Order::table(sampler, self.n, whole)));
            }
        }
        found
    }

    fn chain(
        &mut self,
        chain: Chain,
        epochs: Range<u32>,
        carry: Vec<u32>,
    ) -> (Vec<Arc<Order>>, Vec<u32>) {
        let mut order = if carry.is_empty() { (0..self.n).collect() } else { carry };
        let mut found = Vec::new();
        for epoch in epochs {
            chain.advance(&mut order, epoch);
            if self.fits(&order) {
                let sampler = Sampler::DaliEpoch(chain, epoch);
                found.push(Arc::new(Order::table(sampler, self.n, order.clone())));
            }
        }
        (found, order)
    }
}

/// Which pieces were tried and which are due.
#[derive(Debug)]
pub(crate) struct Search {
    n: u32,
    keys: u64,
    epochs: u32,
    quick_credit: u64,
    deep_credit: u64,
    /// The next quick piece; `None`: there is none due.
    quick: Option<u8>,
    /// The next deep piece.
    deep: Option<Deep>,
    /// Opens of the data set at which the quick pieces are tried again.
    due: u64,
}

/// Where the deep pieces stand.
#[derive(Debug, Default)]
struct Deep {
    key: u64,
    chain: usize,
    /// The next epoch of the chain, less one, and the order of the epoch before it.
    epoch: u32,
    carry: Vec<u32>,
}

/// Opens at which the quick pieces are tried; later at each doubling.
const SCHEDULE: [u64; 4] = [6, 16, 32, 56];
/// Opens after which they are tried for a new stream, once the schedule has ended.
const AGAIN: u64 = 8;

impl Search {
    pub(crate) fn new(n: u32, keys: u64, epochs: u32) -> Self {
        Self {
            n,
            keys,
            epochs,
            quick_credit: QUICK_CREDIT,
            deep_credit: DEEP_CREDIT,
            quick: None,
            deep: None,
            due: SCHEDULE[0],
        }
    }

    /// One more open. Cost: an addition.
    pub(crate) fn opened(&mut self) {
        self.quick_credit = (self.quick_credit + QUICK_OPEN).min(QUICK_CREDIT);
        self.deep_credit = (self.deep_credit + DEEP_OPEN).min(DEEP_CREDIT_MAX);
    }

    /// Whether the quick pieces are due at this number of opens.
    pub(crate) fn is_due(&self, opens: u64) -> bool {
        self.due <= opens
    }

    /// Begins with the quick pieces.
    pub(crate) fn begin(&mut self, opens: u64) {
        self.quick = Some(0);
        self.due = SCHEDULE.into_iter().find(|&due| opens < due).unwrap_or(2 * opens);
        self.deep.get_or_insert_default();
    }

    /// A stream came that waits for an order: try again soon.
    pub(crate) fn hurry(&mut self, opens: u64) {
        if SCHEDULE.into_iter().all(|due| due <= opens) {
            self.due = self.due.min(opens + AGAIN);
        }
    }

    /// Nobody waits for an order: drop what is under way.
    pub(crate) fn rest(&mut self) {
        self.quick = None;
        self.deep = None;
    }

    /// The next piece, if there is one and the credit allows it. `hints`: seeds given from outside.
    pub(crate) fn piece(&mut self, hints: &[u64], opens: u64) -> Option<Piece> {
        let quick = self.quick.and_then(|stage| self.quick_piece(stage, hints, opens));
        let is_quick = quick.is_some();
        if !is_quick {
            self.quick = None;
        }
        let deep_now = !is_quick && DEEP_OPENS <= opens;
        let mut piece = quick.or_else(|| self.deep_piece().filter(|_| deep_now))?;
        let draws = piece.draws(self.n);
        let (credit, most) = if is_quick {
            (&mut self.quick_credit, QUICK_CREDIT)
        } else {
            (&mut self.deep_credit, DEEP_CREDIT_MAX)
        };
        if *credit < draws.min(most / 2) {
            return None;
        }
        *credit = credit.saturating_sub(draws);
        match self.quick {
            Some(stage) => self.quick = Some(stage + 1),
            None => self.take_deep(&mut piece),
        }
        Some(piece)
    }

    fn quick_piece(&self, stage: u8, hints: &[u64], opens: u64) -> Option<Piece> {
        let stage = usize::from(stage);
        match stage {
            0 => {
                let hinted = (0_u32..).zip(hints).map(|(i, &seed)| (Sampler::HintSeed(i), seed));
                let keys = (0..=self.keys).map(|key| (Sampler::Torch(key), key));
                Some(Piece::Starts(hinted.chain(keys).collect()))
            }
            _ => {
                let chains = 4 * u64::from(CHAIN_QUICK) * u64::from(self.n);
                if opens < CHAIN_OPENS && QUICK_CREDIT / 8 < chains {
                    return None;
                }
                let &chain = Chain::ALL.get(stage - 1)?;
                // The first epoch shuffles the listing, compounding or not.
                let first = if chain.compounds() { 1 } else { 2 };
                let epochs = first..CHAIN_QUICK.min(self.epochs) + 1;
                Some(Piece::Chain { chain, epochs, carry: Vec::new(), deep: false })
            }
        }
    }

    fn deep_piece(&self) -> Option<Piece> {
        let deep = self.deep.as_ref()?;
        let each = (PIECE_DRAWS / u64::from(self.n.max(1))).max(1);
        if deep.key <= self.keys {
            return Some(Piece::Seeds(deep.key..(deep.key + each).min(self.keys + 1)));
        }
        let &chain = Chain::ALL.get(deep.chain)?;
        let last = deep.epoch.saturating_add(u32::try_from(each).unwrap_or(1)).min(self.epochs);
        let epochs = deep.epoch + 1..last + 1;
        Some(Piece::Chain { chain, epochs, carry: Vec::new(), deep: true })
    }

    /// Notes that a deep piece is under way; it takes along the order that its chain goes on from.
    fn take_deep(&mut self, piece: &mut Piece) {
        let Some(deep) = &mut self.deep else { return };
        match piece {
            Piece::Seeds(seeds) => deep.key = seeds.end,
            Piece::Chain { epochs, carry, .. } => {
                *carry = std::mem::take(&mut deep.carry);
                deep.epoch = epochs.end - 1;
            }
            Piece::Starts(_) => {}
        }
    }

    /// Takes back the order that a deep piece of a chain ended with.
    pub(crate) fn resume(&mut self, carry: Vec<u32>) {
        let Some(deep) = &mut self.deep else { return };
        if deep.key <= self.keys {
            return;
        }
        if deep.epoch < self.epochs {
            deep.carry = carry;
        } else {
            deep.chain += 1;
            deep.epoch = 0;
            if Chain::ALL.len() <= deep.chain {
                self.deep = None;
            }
        }
    }
}
