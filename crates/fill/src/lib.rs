//! Fill: fetches what a loader will read before it asks.
//!
//! A training job reads every file of a data set once an epoch, so a cache that only answers runs a
//! cold epoch at the loader's own parallelism over the bucket's latency. [`Fill`] watches which files
//! are opened; once they show that a data set is being read, it reads the rest of it through the
//! cache at [`Priority::Fill`](feedline_model::Priority::Fill), many at once, in the order in which the
//! processes will want them as far as the [oracle](feedline_oracle) knows it.
//!
//! ```text
//!  mount --accessed--> watch -> groups: which data set? -> oracle: who reads in which order?
//!                                   |
//!                    engine: next positions -> cache.read(.., Fill) -> window: how many at once
//!  cache --next_use--> foresight: when is this object needed again?
//! ```
//!
//! # Invariants
//!
//! - Fill changes no byte and fetches no object that is here or under way: it goes through the
//!   cache's own flights, and a demand read joins them.
//! - It runs ahead of what was read by a bounded factor, so that opening a few files of a huge folder
//!   costs a few thousand GETs, not all of them.
//! - It asks for no listing, and writes only into free space.
//! - A request thread that reports an access takes one short lock and no more.
//!
//! # Deliberately absent
//!
//! - No bytes are kept here, and nothing is known of disks, quotas or FUSE. What is to outlive the node goes
//!   to a [`OrderMemory`], which somebody else has.
//!
//! # Reading order
//!
//! `set`, `groups`, `window`, then `scan` (one data set being read) and `engine` (the loop). [`load`] stands
//! beside that: files brought in because somebody said so.

mod bits;
mod config;
mod engine;
mod foresight;
mod groups;
mod hint;
pub mod load;
mod memory;
mod push;
mod rate;
mod readers;
mod rest;
mod scan;
mod set;
mod status;
mod watch;
mod window;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use config::{FillConfig, FillParts, Liveness};
pub use engine::Fill;
pub use hint::{HintError, HintOutcome, OrderHint};
pub use memory::{KeptOrder, OrderMemory};
pub use status::{FillStatus, ScanStatus};
