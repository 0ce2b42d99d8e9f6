//! Which files a training job will open next, told from the opens seen so far.
//!
//! A training loader reads a data set in an order that looks random and is not: DALI shuffles the
//! sorted listing with a seed that is a constant of its source, torch's `DistributedSampler` seeds
//! its permutation with a small number, a file list is the same in every epoch. The oracle computes
//! such orders, compares them with the first few opens of each process, and when one fits says what
//! will be opened next and when a file is needed again.
//!
//! # Words
//!
//! - A *position* is a file's place in the sorted listing of the tree (class folders sorted, names
//!   sorted in each, all concatenated), from 0.
//! - An *order* is a permutation of the positions; a file's *place* is where it stands in an order.
//! - A *stream* is one thread that reads. A stream *locks* on an order when its opens fit it.
//!
//! # How to use it
//!
//! One [`Oracle`] for one data set, behind a lock of the owner's choice:
//!
//! ```
//! use feedline_oracle::{Config, Oracle};
//!
//! let mut oracle = Oracle::new(1_000, Config::default());
//! for position in 0..16 {
//!     oracle.observe(7, position); // each open: the thread and the file
//!     while let Some(work) = oracle.next_work() {
//!         // Heavy: without the lock, in a background thread.
//!         let outcome = work.run();
//!         oracle.accept(outcome);
//!     }
//! }
//! assert_eq!(oracle.upcoming(3), [16, 17, 18]); // to be fetched next, not told twice
//! assert_eq!(oracle.next_use(20), Some(5)); // in how many opens: for eviction
//! assert_eq!(oracle.verdict().sampler, "sequential");
//! ```
//!
//! # What always holds
//!
//! - A prediction is a guess: nothing here may decide what bytes a reader gets.
//! - A stream that reads at random locks at most once in 2^48 tries (see `fit`); a stream that leaves
//!   its order is dropped after three opens.
//! - Every list has a maximum: streams and orders by [`Config`], work by a credit that opens earn.
//!
//! # Reading order
//!
//! `oracle` takes opens in. `fit` is the evidence, `shape` where a stream goes, `walk` a locked stream;
//! `shared` is a queue of several. `sampler` and [`shuffle`] make orders, `search` tries them,
//! `prepare` gets hold of those that will be needed, `succession` is about streams that end and follow
//! one another. `predict` and `verdict` are what comes out.
//! `docs/decisions/006-the-sampler-oracle.md` has the figures.
//!
//! # Deliberately absent
//!
//! - No IO, no clock, no thread, no lock: time is counted in opens, work is handed to the owner.
//! - No names: whoever feeds the oracle maps files to positions.

mod config;
mod fit;
mod known;
mod learn;
mod oracle;
mod order;
mod predict;
mod prepare;
mod sampler;
mod search;
mod shape;
mod shared;
pub mod shuffle;
mod stream;
mod succession;
mod verdict;
mod walk;
mod work;

pub use config::{Config, Hint, Verdict};
pub use oracle::Oracle;
pub use shuffle::{dali_order, distributed_order, shard};
pub use work::{Outcome, Work};
