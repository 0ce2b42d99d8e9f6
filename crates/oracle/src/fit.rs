//! How well a stream fits an order, in bits.
//!
//! A stream that reads at random stands at a place of an order that nothing foretells: each place
//! costs log2(n) bits to tell. A stream that follows the order can be told in fewer: "the same step
//! as last time" is one bit. The evidence is the difference, summed over a run of opens:
//!
//! | step to the next place | bits to tell it |
//! | --- | --- |
//! | the same as the latest one | 1 |
//! | the same as the one before that differed (a worker's jump to its next batch) | 2 |
//! | forward by 1, 2, 4, … 128: the usual numbers of ranks | 7 |
//! | forward by any d | 4 + (2 floor(log2 d) + 1) |
//! | backward by any d, only where several streams are looked at as one | 3 + (2 floor(log2 d) + 1) |
//!
//! A stream that steps backward begins a new run: whoever draws from a queue goes forward.
//!
//! # Why chance does not lock
//!
//! The lengths in the table form a prefix code: the sum of 2^-length over all places is at most 1
//! (Kraft). So for a stream that reads at random, 2^evidence is a non-negative supermartingale with
//! mean 1 at most, and by Ville's inequality it *ever* exceeds 2^T with probability at most 2^-T,
//! however long the run goes on and whatever n is. A run whose evidence falls to zero begins anew,
//! so R opens of one stream against one order lock falsely with probability at most R 2^-T. With
//! T = 48, 1,000 orders tried and 10^6 opens: 3.6e-6.
//!
//! What it costs in opens: a shard of DALI's order of 20,000 files (log2 n = 14.3) gains 9.3 bits at
//! its second open and 13.3 at each later one: 48 bits after 5 opens.

use crate::order::Order;

/// Evidence for an order that nobody is known to follow.
pub(crate) const BITS_COLD: f32 = 48.0;
/// Evidence for an order learned in an earlier epoch.
pub(crate) const BITS_PRIOR: f32 = 32.0;
/// Evidence for an order given as a hint, that other streams follow, or that follows theirs. A random stream beside
/// them locks falsely once in a million opens, for three opens.
pub(crate) const BITS_FOLLOWED: f32 = 20.0;
/// Evidence for an order that the streams together have just been found on.
pub(crate) const BITS_PROVEN: f32 = 7.0;
/// Opens during which that is enough.
pub(crate) const PROVEN_OPENS: u64 = 256;
/// Opens of a run that the sequential and the reversed order ask for besides: listings and small
/// scans of neighbours are not drawn at random.
pub(crate) const RUN_LISTING: u32 = 8;
/// Steps backward in a row at which the run of several streams ends. Threads that draw from a queue
/// overtake each other, so single ones are no sign against an order.
const BACK_MAX: u32 = 3;
/// The largest of the usual numbers of ranks, which have a short code.
const USUAL_MAX: u32 = 128;
/// What the evidence is capped at: nothing more is to be gained.
const BITS_MAX: f32 = 256.0;

/// Steps that are expected, from streams of the same job; 0 where none is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) latest: u32,
    pub(crate) other: u32,
}

/// The evidence of one stream for one order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fit {
    /// The latest place; meaningless while `run` is 0.
    last: u32,
    steps: Steps,
    expected: Steps,
    bits: f32,
    best: f32,
    run: u32,
    /// Steps backward in a row.
    back: u32,
    /// How many steps backward in a row end the run.
    back_max: u32,
    /// Places of the order, and the bits that tell one.
    len: u32,
    place_bits: f32,
}

impl Fit {
    /// A fit that has seen nothing. `expected` steps are told in 1 and 2 bits from the start.
    /// `len`: the places of the order.
    pub(crate) fn new(expected: Steps, len: u32) -> Self {
        Self {
            last: 0,
            steps: expected,
            expected,
            bits: 0.0,
            best: 0.0,
            run: 0,
            back: 0,
            back_max: 1,
            len,
            place_bits: bits(len),
        }
    }

    /// A fit of several streams looked at as one.
    pub(crate) fn of_many(len: u32) -> Self {
        Self { back_max: BACK_MAX, ..Self::new(Steps::default(), len) }
    }

    /// Takes in an open of a position.
    pub(crate) fn feed(&mut self, order: &Order, position: u32) {
        self.feed_place(order.place(position));
    }

    /// Takes in an open at a place of the order; `None`: the order lacks it.
    pub(crate) fn feed_place(&mut self, place: Option<u32>) {
        let len = self.len;
        let Some(place) = place else {
            self.run = 0;
            self.bits = 0.0;
            self.steps = self.expected;
            return;
        };
        if self.run == 0 {
            self.begin(place);
            return;
        }
        let forward = if self.last < place { place - self.last } else { place + (len - self.last) };
        if forward == len || forward == 0 {
            return; // the same place again
        }
        self.back = if len - forward < forward { self.back + 1 } else { 0 };
        if self.back_max <= self.back {
            self.begin(place); // whoever goes backward reads another order
            return;
        }
        self.bits += self.place_bits - self.cost(forward, len);
        self.last = place;
        self.run += 1;
        if self.bits <= 0.0 {
            self.begin(place);
            return;
        }
        self.bits = self.bits.min(BITS_MAX);
        self.best = self.best.max(self.bits);
        if self.back == 0 && forward != self.steps.latest {
            self.steps = Steps { latest: forward, other: self.steps.latest };
        }
    }

    /// Credits a run that begins at its first place, one of few where a stream was expected.
    pub(crate) fn credit(&mut self, bits: f32) {
        if self.run == 1 {
            self.bits = bits.max(0.0);
        }
    }

    fn begin(&mut self, place: u32) {
        self.last = place;
        self.run = 1;
        self.back = 0;
        self.bits = 0.0;
        self.steps = self.expected;
    }

    /// The bits it takes to tell a step.
    fn cost(&self, forward: u32, len: u32) -> f32 {
        if forward == self.steps.latest {
            return 1.0;
        }
        if forward == self.steps.other {
            return 2.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 31")]
        let gamma = |step: u32| 2.0 * step.ilog2() as f32 + 1.0;
        if len - forward < forward {
            return 3.0 + gamma(len - forward);
        }
        let usual = forward.is_power_of_two() && forward <= USUAL_MAX;
        let any = 4.0 + gamma(forward);
        if usual { any.min(7.0) } else { any }
    }

    /// The evidence of the run that is on.
    pub(crate) fn bits(&self) -> f32 {
        self.bits
    }

    /// The most evidence there ever was.
    pub(crate) fn best(&self) -> f32 {
        self.best
    }

    /// Opens in the run that is on.
    pub(crate) fn run(&self) -> u32 {
        self.run
    }
}

/// The evidence of several streams together, none of which need be enough alone.
///
/// If each of S streams reads at random, the evidence b of one over R opens exceeds x with
/// probability at most R 2^-x, so the mean of 2^(b/2), b counted from 0, is at most 2 sqrt(R), and by
/// Markov's inequality the sum over the streams exceeds T with probability at most
/// 2^(-T/2) times the product of 2 sqrt(R): hence the threshold
/// T = 2 ([`BITS_COLD`] + the sum of 1 + log2(R) / 2).
#[derive(Debug, Default)]
pub(crate) struct Joint {
    sum: f32,
    threshold: f32,
}

impl Joint {
    /// Adds the evidence of a stream over so many opens.
    pub(crate) fn add(&mut self, bits: f32, opens: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a logarithm needs no more")]
        let opens = opens.max(1) as f32;
        self.sum += bits.max(0.0);
        self.threshold += 2.0 + opens.log2();
    }

    /// Whether chance would bring as much only once in 2^48.
    pub(crate) fn is_enough(&self) -> bool {
        2.0 * BITS_COLD + self.threshold <= self.sum
    }
}

/// log2 of a number of places.
pub(crate) fn bits(len: u32) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a logarithm needs no more")]
    let len = len.max(1) as f32;
    len.log2()
}
