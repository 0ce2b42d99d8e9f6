//! The samplers that are known: what each is called, how its order is made, what it reads next epoch.

use crate::shuffle::{DALI_SEED, Mt19937, Mt19937x64, dali_order, std_shuffle, torch_randperm};

/// A sampler in one epoch. Two streams read the same order if they have the same sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Sampler {
    /// The listing: DALI without shuffle, torch with `shuffle=False`, a plain scan.
    Sequential,
    /// The listing from its end.
    Reversed,
    /// DALI's `random_shuffle`.
    Dali,
    /// DALI's `shuffle_after_epoch` in its n-th epoch, from 1.
    DaliEpoch(Chain, u32),
    /// `torch.randperm` of a generator with this seed: `DistributedSampler`'s `seed + epoch`.
    Torch(u64),
    /// An explicit order from outside, and who gave it.
    Hint(u32),
    /// The seed at this place of those given from outside.
    HintSeed(u32),
    /// The order of an earlier epoch.
    Learned,
}

/// How `shuffle_after_epoch` makes its orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Chain {
    /// DALI 2.4: `mt19937_64(seed + (epoch << 32))`, each epoch shuffles the last one's order.
    Wide,
    /// The same with checkpointing: each epoch shuffles the listing.
    WideFresh,
    /// Earlier DALI: `mt19937(seed + epoch)`, each epoch shuffles the last one's order.
    Narrow,
    /// The same with checkpointing.
    NarrowFresh,
}

impl Chain {
    /// All of them, the likeliest first.
    pub(crate) const ALL: [Self; 4] =
        [Self::Wide, Self::Narrow, Self::WideFresh, Self::NarrowFresh];

    /// Whether an epoch shuffles what the epoch before left.
    pub(crate) fn compounds(self) -> bool {
        matches!(self, Self::Wide | Self::Narrow)
    }

    /// Turns the order of the epoch before into the order of `epoch`.
    pub(crate) fn advance(self, order: &mut [u32], epoch: u32) {
        if !self.compounds() {
            for (slot, position) in order.iter_mut().zip(0_u32..) {
                *slot = position;
            }
        }
        match self {
            Self::Wide | Self::WideFresh => {
                let seed = u64::from(DALI_SEED) + (u64::from(epoch) << 32);
                std_shuffle(order, &mut Mt19937x64::new(seed));
            }
            Self::Narrow | Self::NarrowFresh => {
                std_shuffle(order, &mut Mt19937::new(DALI_SEED.wrapping_add(epoch)));
            }
        }
    }
}

/// What becomes of a sampler when an epoch ends, unless the job shows otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The order goes on from its first place: DALI takes the next shard.
    Wrap,
    /// The stream begins where it began: `stick_to_shard`, a pipeline made anew, a fixed order.
    Restart,
    /// The stream begins where it began, in the sampler's next order.
    Next,
}

/// Samplers whose epochs are alike: what one epoch shows of a job holds for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Sequential,
    Reversed,
    Dali,
    DaliEpoch(Chain),
    Torch,
    Hint(u32),
    HintSeeds,
    Learned,
}

impl Sampler {
    /// Which epochs are like its own.
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Sequential => Family::Sequential,
            Self::Reversed => Family::Reversed,
            Self::Dali => Family::Dali,
            Self::DaliEpoch(chain, _) => Family::DaliEpoch(chain),
            Self::Torch(_) => Family::Torch,
            Self::Hint(from) => Family::Hint(from),
            Self::HintSeed(_) => Family::HintSeeds,
            Self::Learned => Family::Learned,
        }
    }

    /// The sampler of the next epoch, where that is another order.
    pub(crate) fn next(self) -> Option<Self> {
        match self {
            Self::DaliEpoch(chain, epoch) => Some(Self::DaliEpoch(chain, epoch.checked_add(1)?)),
            Self::Torch(key) => Some(Self::Torch(key.checked_add(1)?)),
            Self::HintSeed(index) => Some(Self::HintSeed(index.checked_add(1)?)),
            Self::Sequential | Self::Reversed | Self::Dali | Self::Hint(_) | Self::Learned => None,
        }
    }

    /// What becomes of a stream with this stride at the end of an epoch if nothing is known of the job.
    pub(crate) fn after(self, stride: u32) -> After {
        match self {
            _ if self.next().is_some() => After::Next,
            _ if stride == 1 => After::Wrap,
            _ => After::Restart,
        }
    }

    /// Whether its streams are DALI's: one thread a shard, shards of equal length.
    pub(crate) fn is_dali(self) -> bool {
        matches!(self, Self::Dali | Self::DaliEpoch(..))
    }

    /// The order for a data set of `n` files. `before` is the order of the epoch before, which only
    /// a chain that compounds needs. Cost: n draws, random writes into 4 n bytes.
    ///
    /// `None` for what cannot be computed: hints and learned orders, a chain without its past.
    pub(crate) fn positions(self, n: u32, before: Option<&[u32]>) -> Option<Vec<u32>> {
        match self {
            Self::Dali => Some(dali_order(n as usize)),
            Self::Torch(seed) => Some(torch_randperm(n, seed)),
            Self::DaliEpoch(chain, epoch) => {
                let mut order = match before {
                    _ if !chain.compounds() || epoch == 1 => (0..n).collect(),
                    Some(before) => before.to_vec(),
                    None => return None,
                };
                chain.advance(&mut order, epoch);
                Some(order)
            }
            Self::Sequential
            | Self::Reversed
            | Self::Hint(_)
            | Self::HintSeed(_)
            | Self::Learned => None,
        }
    }
}
