//! One node's SSD: files, index, quota, eviction, pins, crash recovery and single flight.
//!
//! [`Cache`] is a link of the read chain: it answers from its directories, or asks the next link
//! once, however many ask, and keeps what it got. One object is one file. Losing any file, or the
//! whole directory, at any moment is safe.
//!
//! # Invariants
//!
//! - Bytes are served only if they are known to be right: written by this process, or recorded
//!   before a clean stop, or verified against their checksum since. What goes to another node is
//!   compared each time, page by page.
//! - A directory never holds more bytes on disk than its quota: space is reserved before a write.
//! - Nobody waits for the disk who only wants bytes that have arrived: files are written behind.
//! - A disk's trouble is never a read error: the next link answers.
//!
//! # Deliberately absent
//!
//! - No fsync per object, and no sync at a stop: what a crash or a reboot may have torn is verified
//!   before it is served (see `directory::Found`).
//! - No empty objects: they have no page, so a read of one is answered here without the store, and
//!   none has a file or a record. `open` says `None` and `contains` false for them; whoever asks
//!   "how much is cached" counts an object of size 0 as here.
//! - No names: the cache knows ids of versions, never paths or keys (except to ask the next link).
//! - No clock, no randomness of its own.
//!
//! # Reading order
//!
//! [`config`], then `cache` (one read, followed), `flight`, `fill` and `writes` (a miss), `partial` (large
//! objects), `index`, `sums` and `journal` (what is here), `directory` and `disk` (where), [`worth`], [`hunt`]
//! and `evict` (what goes), `push` (what comes into memory), `check`, `lend` (what other nodes are given).

mod budget;
mod cache;
mod check;
pub mod config;
mod directory;
mod disk;
mod evict;
mod fill;
mod flight;
pub mod hunt;
mod index;
mod journal;
mod lend;
mod local;
mod maintain;
mod partial;
mod push;
mod readahead;
mod reuse;
mod slots;
mod stats;
mod sums;
pub mod worth;
mod writes;

#[cfg(test)]
mod tests;

pub use cache::Cache;
pub use check::{CheckProgress, CheckReport};
pub use config::{CacheConfig, CacheDirConfig, CacheError};
pub use evict::Freed;
pub use stats::{CacheStats, DirStats};
