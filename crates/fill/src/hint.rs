//! The order of reads as told from outside, where it cannot be recognised: torch's `RandomSampler`,
//! a sampler of the user's own, a file list.
//!
//! A hint makes the data set known at once, without waiting for the first reads, and its first files
//! are fetched first. From then on the oracle compares it with what is really opened, as any other
//! candidate: a wrong hint costs what fill fetched in the wrong order, and is dropped.

use feedline_oracle::Hint;

use crate::engine::Fill;
use crate::scan::{Rest, Scan};
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

/// Why a hint was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the message of each variant says what it is")]
pub enum HintError {
    #[error("/{root} holds no files, or has not been listed")]
    NoFiles { root: String },
    #[error("none of the {given} entries names a file below /{root} (the first is {example:?})")]
    NoMatch { root: String, given: usize, example: String },
    #[error("prediction is switched off (setting oracle)")]
    Off,
}

impl Fill {
    /// Takes a hint about the data set in the folder `root`, whose listings must be known. `from` is who
    /// gives it, such as a rank's process: its next order replaces this one.
    ///
    /// Cost: a binary search for each file named.
    ///
    /// # Errors
    ///
    /// See [`HintError`].
    pub fn hint(&self, root: &str, from: u32, hint: &OrderHint) -> Result<HintOutcome, HintError> {
        let shared = self.shared();
        if !shared.config.oracle {
            return Err(HintError::Off);
        }
        let now = shared.parts.clock.monotonic();
        let mut state = shared.state.lock();
        let known = state.scans.iter().position(|scan| *scan.set.root == *root && !scan.flat);
        let at = match known {
            Some(at) => at,
            None => {
                let set = DataSet::build(&*shared.parts.tree, root, false)
                    .ok_or_else(|| HintError::NoFiles { root: root.into() })?;
                let number = state.next_number();
                let mut scan = Scan::new(number, set, false, true, now);
                if !shared.config.enabled {
                    scan.rest = Rest::Off;
                }
                state.insert(scan);
                0
            }
        };
        let scan = &mut state.scans[at];
        let files = u64::from(scan.set.len());
        let (hint, matched) = resolve(&scan.set, from, hint)?;
        scan.hint(hint, now);
        drop(state);
        shared.watch.nudge();
        Ok(HintOutcome { files, matched })
    }
}

/// The hint in positions, and how many of its entries there are.
fn resolve(set: &DataSet, from: u32, hint: &OrderHint) -> Result<(Hint, u64), HintError> {
    let no_match = |given: usize, example: Option<String>| HintError::NoMatch {
        root: set.root.to_string(),
        given,
        example: example.unwrap_or_default(),
    };
    match hint {
        OrderHint::TorchSeeds(seeds) => Ok((Hint::TorchSeeds(seeds.clone()), seeds.len() as u64)),
        OrderHint::Positions(given) => {
            let valid: Vec<u32> = given.iter().copied().filter(|at| *at < set.len()).collect();
            if valid.is_empty() {
                return Err(no_match(given.len(), given.first().map(u32::to_string)));
            }
            let matched = valid.len() as u64;
            Ok((Hint::Order { from, positions: valid }, matched))
        }
        OrderHint::Files(paths) => {
            let positions: Vec<u32> =
                paths.iter().filter_map(|path| set.position_of_path(path)).collect();
            if positions.is_empty() {
                return Err(no_match(paths.len(), paths.first().cloned()));
            }
            let matched = positions.len() as u64;
            Ok((Hint::Order { from, positions }, matched))
        }
    }
}
