//! What goes into the oracle besides opens, and what comes out besides predictions.

/// How much the oracle may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes that orders and their inverses may take. An order of n files takes 8 n bytes, the
    /// sequential one nothing. The orders in use and those of their next epochs are kept whatever
    /// they take. Besides, an epoch in an unknown order is recorded in 4 n bytes (not if 12 n are more
    /// than this), its order held in 4 n more until the owner takes it, and a piece of work takes up to
    /// 14 n bytes while it runs.
    pub memory_bytes_max: u64,
    /// The largest `seed + epoch` of torch's `DistributedSampler` that is tried.
    pub torch_key_max: u64,
    /// The last epoch of DALI's `shuffle_after_epoch` that is tried.
    pub dali_epoch_max: u32,
    /// Streams that are remembered; beyond, the one silent for longest is forgotten.
    pub streams_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memory_bytes_max: 192 << 20,
            torch_key_max: 200,
            dali_epoch_max: 100,
            streams_max: 4_096,
        }
    }
}

/// An order given from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// The positions that will be opened, in order. May leave positions out and name one more than
    /// once; those outside of the data set are ignored. Workers may share it, batch by batch. Until
    /// the giver replaces it, it is expected again in every epoch.
    Order {
        /// Who gives it, such as a rank's process: a later order from there replaces this one, and an
        /// empty one takes it back.
        from: u32,
        /// 4 to 12 bytes a position are taken.
        positions: Vec<u32>,
    },
    /// `torch.randperm(n)` of a CPU generator with these seeds, one an epoch, in this order. Ranks
    /// and workers may share it as with `DistributedSampler`.
    TorchSeeds(Vec<u64>),
}

/// What is believed of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The sampler and its parameters in words: `dali shuffled, seed 524287, 8 shards`,
    /// `torch DistributedSampler, seed + epoch = 3, 8 ranks`, `sequential`, `reversed`,
    /// `learned from an earlier epoch`, `hint`, `unknown`.
    pub sampler: String,
    /// The share of the latest opens that were where they were expected, 0 to 1.
    pub confidence: f64,
    /// Streams that are locked on an order.
    pub locked: usize,
    /// Streams that are reading, locked or not.
    pub streams: usize,
    /// Opens that were seen before the first stream locked on the order.
    pub reads_to_lock: Option<u64>,
}
