//! The order of reads as told from outside, where it cannot be recognised: torch's `RandomSampler`,
//! a sampler of the user's own, a file list.
//!
//! A hint makes the data set known at once, without waiting for the first reads, and its first files
//! are fetched first. From then on the oracle compares it with what is really opened, as any other
//! candidate: a wrong hint costs what fill fetched in the wrong order, and is dropped.

use feedline_oracle::Hint;

use crate::engine::Fill;
use crate::set::DataSet;

/// What is known of the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderHint {
    /// Paths below the data set's folder, in the order in which they will be read.
    Files(Vec<String>),
    /// Places in the sorted list of the data set's files, in the order in which they will be read.
    Positions(Vec<u32>),
    /// `torch.randperm` of generators with these seeds, one an epoch.
    TorchSeeds(Vec<u64>),
}

/// What became of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintOutcome {
    /// Files of the data set.
    pub files: u64,
    /// Entries of the hint that name one of them; the others are ignored.
    pub matched: u64,
}

/// Entries of an order for each file of its data set at most: one that repeats files says nothing
/// more after that, and its memory is the daemon's.
const ENTRIES_PER_FILE_MAX: usize = 4;

/// Entries that are taken for any data set: a sampler with replacement may draw often from few files.
const ENTRIES_ANY: usize = 65_536;

/// Seeds of one hint: epochs of the longest training anybody plans.
const SEEDS_MAX: usize = 10_000;

/// Why a hint was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the message of each variant says what it is")]
pub enum HintError {
    #[error("/{root} holds no files")]
    NoFiles { root: String },
    #[error("the order is empty")]
    Empty,
    #[error(
        "none of the {given} entries names one of the {files} files below /{root} (the first is \
         {example:?}): give paths below that folder, or positions from 0 in its sorted list"
    )]
    NoMatch { root: String, files: u32, given: usize, example: String },
    #[error(
        "{given} entries for the {files} files below /{root}: at most {max} are taken; send one \
         epoch's order"
    )]
    TooLong { root: String, files: u32, given: usize, max: usize },
    #[error("prediction is switched off: mount without --oracle off")]
    Off,
}

impl Fill {
    /// Takes a hint about the data set in the folder `root`, whose listings must be known. `from` is who
    /// gives it, such as a rank's process: its next order replaces this one.
    ///
    /// Cost: a walk over the listings in memory and a binary search for each file named: about a
    /// second for a million paths. It blocks for so long, without holding anybody up.
    ///
    /// # Errors
    ///
    /// See [`HintError`].
    pub fn hint(&self, root: &str, from: u32, hint: &OrderHint) -> Result<HintOutcome, HintError> {
        let shared = self.shared();
        if !shared.config.oracle {
            return Err(HintError::Off);
        }
        let set = DataSet::build(&*shared.parts.tree, root, false)
            .ok_or_else(|| HintError::NoFiles { root: root.into() })?;
        let files = u64::from(set.len());
        let (hint, matched) = resolve(&set, from, hint)?;
        let now = shared.parts.clock.monotonic();
        let mut state = shared.state.lock();
        let known = state.scans.iter().position(|scan| !scan.flat && scan.set.same_files(&set));
        if let Some(at) = known {
            state.scans[..=at].rotate_right(1);
        } else {
            let mut scan = shared.new_scan(&mut state, set, false, now);
            state.replace(&mut scan);
            state.insert(scan);
        }
        state.scans[0].hint(hint, now);
        drop(state);
        shared.watch.nudge();
        Ok(HintOutcome { files, matched })
    }
}

/// The hint in positions, and how many of its entries there are.
fn resolve(set: &DataSet, from: u32, hint: &OrderHint) -> Result<(Hint, u64), HintError> {
    let (given, example) = match hint {
        OrderHint::TorchSeeds(seeds) => (seeds.len(), None),
        OrderHint::Positions(given) => (given.len(), given.first().map(u32::to_string)),
        OrderHint::Files(paths) => (paths.len(), paths.first().cloned()),
    };
    let (root, files) = (set.root.to_string(), set.len());
    if given == 0 {
        return Err(HintError::Empty);
    }
    let max = match hint {
        OrderHint::TorchSeeds(_) => SEEDS_MAX,
        _ => ENTRIES_ANY.max((files as usize).saturating_mul(ENTRIES_PER_FILE_MAX)),
    };
    if max < given {
        return Err(HintError::TooLong { root, files, given, max });
    }
    let positions: Vec<u32> = match hint {
        OrderHint::TorchSeeds(seeds) => {
            return Ok((Hint::TorchSeeds(seeds.clone()), seeds.len() as u64));
        }
        OrderHint::Positions(given) => given.iter().copied().filter(|at| *at < files).collect(),
        OrderHint::Files(paths) => {
            paths.iter().filter_map(|path| set.position_of_path(path)).collect()
        }
    };
    if positions.is_empty() {
        let example = example.unwrap_or_default();
        return Err(HintError::NoMatch { root, files, given, example });
    }
    let matched = positions.len() as u64;
    Ok((Hint::Order { from, positions }, matched))
}
