//! A whole cluster in one process, from one seed: the real nodes of `cluster` over simulated time, network,
//! caches and bucket, with readers that check every byte while nodes die and wires are cut.
//!
//! ```text
//! seed -> plan: nodes, objects, readers, faults
//!          |
//!         run -> node (readers -> cache -> Link -> bucket)   real: Link, peers, server, membership, hyper
//!                       |                                    simulated: clock, net, cache, bucket
//!                      net (wires, pipes)
//! ```
//!
//! # Invariants
//!
//! - One seed, one scenario: time, chance and the order of tasks come from it. Nothing of this crate asks the
//!   machine's clock, its sockets or its threads; `tests/same.rs` compares whole runs.
//! - What is simulated keeps the contract of what it stands for; only what a plan says goes wrong does.
//!
//! - What is asked of the cluster is a [`Promise`], and for each there is a [`Sabotage`] that breaks it and nothing
//!   else.
//!
//! # Reading order
//!
//! [`Promise`], `plan` and `faults` (the scenario), `run` (what happens and what is asked), `node`, `reader`, `job`,
//! then the world: `clock`, `net`, `pipe`, `wires`, `bucket`, `cache`, `directory`.

mod bucket;
mod cache;
mod clock;
mod directory;
mod faults;
mod job;
mod net;
mod node;
mod pipe;
mod plan;
mod promise;
mod reader;
mod rng;
mod run;
mod sabotage;
#[cfg(test)]
mod tests;
mod trace;
mod wires;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

pub use plan::Kind;
pub use promise::Promise;
pub use sabotage::Sabotage;

/// What to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The scenario.
    pub seed: u64,
    /// Everything that happens is printed.
    pub prints: bool,
    /// Something is broken on purpose, to see that it is found.
    pub sabotage: Option<Sabotage>,
}

/// A scenario that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it was about.
    pub kind: Kind,
    /// Of everything that happened: equal for two runs only if they were the same.
    pub hash: u64,
    /// How much happened.
    pub events: u64,
    /// Reads that gave bytes.
    pub reads: u64,
    /// Reads that failed because the bucket did.
    pub errors: u64,
    /// Requests to the bucket.
    pub gets: u64,
    /// The longest read.
    pub wait_max: Duration,
    /// Simulated time.
    pub lived: Duration,
}

/// A scenario in which a promise was broken. Its text says how to run it again.
#[derive(Clone)]
pub struct Failure {
    /// The scenario.
    pub seed: u64,
    /// What was promised and not kept.
    pub broken: BTreeSet<Promise>,
    /// What was wrong, the first things first.
    pub complaints: Vec<String>,
    plan: String,
    last: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}:\n  {}", self.seed, self.complaints.join("\n  "))?;
        writeln!(
            f,
            "\nthe scenario: {}\nthe last events:\n  {}",
            self.plan,
            self.last.join("\n  ")
        )?;
        write!(
            f,
            "\nrun it again, with all events printed: FEEDLINE_SIM_SEED={} cargo run -p feedline-sim",
            self.seed
        )
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Runs the scenario of a seed, on this thread. Cost: 10 to 500 ms in a debug build, little memory.
///
/// # Errors
///
/// A promise that was not kept.
pub fn run(options: &Options) -> Result<Report, Failure> {
    run::run(&plan::Plan::draw(options.seed), options)
}
