//! The public face: opens go in, predictions come out.

/// How much the oracle may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes that orders and their inverses may take. An order of n files takes 8 n bytes, the
    /// sequential one nothing; two are kept where the next epoch's is known.
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
    /// The positions that will be opened, in order, in every epoch. May leave positions out and
    /// name one more than once; those outside of the data set are ignored.
    Order(Vec<u32>),
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

/// Heavy work to be done without holding the lock around the oracle.
#[derive(Debug)]
pub struct Work {}

/// What [`Work`] found.
#[derive(Debug)]
pub struct Outcome {}

impl Work {
    /// Does the work: at most a few million draws, tens of milliseconds.
    #[must_use]
    pub fn run(self) -> Outcome {
        Outcome {}
    }
}

/// Predicts the opens of one data set. See the crate's documentation.
#[derive(Debug)]
pub struct Oracle {
    n: u32,
    config: Config,
}

impl Oracle {
    /// An oracle for a data set of `n` files. Cheap; memory is taken when orders are tried.
    #[must_use]
    pub fn new(n: u32, config: Config) -> Self {
        Self { n, config }
    }

    /// A stream opened a position. A position repeated at once counts once. Positions from `n` on
    /// are ignored. Cost: about a microsecond.
    pub fn observe(&mut self, stream: u32, position: u32) {
        let _ = (stream, position);
    }

    /// The stream's thread is gone. A stream that ended with its epoch is expected to be followed
    /// by another.
    pub fn end_stream(&mut self, stream: u32) {
        let _ = stream;
    }

    /// Work that would help, if there is any: ask after some opens (a few dozen), run it without
    /// the lock, give the outcome to [`Oracle::accept`]. There is one at a time: `None` also while
    /// an outcome is awaited.
    pub fn next_work(&mut self) -> Option<Work> {
        None
    }

    /// Takes in what [`Work::run`] found.
    pub fn accept(&mut self, outcome: Outcome) {
        let Outcome {} = outcome;
    }

    /// What is believed now.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict {
            sampler: "unknown".to_owned(),
            confidence: 0.0,
            locked: 0,
            streams: 0,
            reads_to_lock: None,
        }
    }

    /// The positions that the locked streams will open next and that were not yet told, in the
    /// order they will be needed if the streams advance at the same speed; at most `ahead` opens
    /// ahead of where each stream is. A position may be told again where the prediction changed.
    pub fn upcoming(&mut self, ahead: usize) -> Vec<u32> {
        let _ = ahead;
        Vec::new()
    }

    /// In how many opens, over all locked streams, the position is needed next: 1 is the very next
    /// open. `u64::MAX`: known not to be needed in this epoch and the next. `None`: unknown.
    /// Cost: about a microsecond with 8 streams.
    #[must_use]
    pub fn next_use(&self, position: u32) -> Option<u64> {
        let _ = position;
        None
    }

    /// An order from outside. It is believed after few opens, and dropped like any other when it fails.
    pub fn hint(&mut self, hint: Hint) {
        let _ = hint;
    }

    /// The order in which the last whole epoch of an unknown sampler was read, to be kept over a
    /// restart.
    #[must_use]
    pub fn export_learned(&self) -> Option<Vec<u32>> {
        None
    }

    /// What [`Oracle::export_learned`] gave in an earlier life. Ignored if it is no order of `n` files.
    pub fn import_learned(&mut self, order: Vec<u32>) {
        let _ = order;
    }

    /// The number of files.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.n
    }

    /// Whether the data set has no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// What it may cost.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}
