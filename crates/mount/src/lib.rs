//! The FUSE file system: a tree of objects as a folder, read-only.
//!
//! ```text
//!  kernel -> fuse (translates) -> handler: names and attributes <- model::Tree
//!                                   readdir, opening, reading   <- model::ObjectIndex, BlockSource
//!            notices <- (a thread of its own) <- handler
//! ```
//!
//! # Invariants
//!
//! - Only this crate names FUSE and errno, and in it only `fuse` and `session` name `fuser`.
//! - A request thread never waits for the network.
//! - An inode is one version of one object: bytes of two versions never meet in one file.
//! - While any handle of an inode is open, its mode (passthrough or cached) does not change.
//! - Notices to the kernel are sent from a thread of their own, never under a lock.
//!
//! # Deliberately absent
//!
//! - No writes, no `FUSE_WRITEBACK_CACHE` (it excludes passthrough), no `FUSE_OVER_IO_URING` (the
//!   FUSE library does not serve those queues).
//!
//! # Reading order
//!
//! `handler`, `mode`, `opening`, `reading`, `readdir`; then `session` for how a mount lives.

mod ahead;
mod attr;
mod config;
mod errno;
mod error;
mod fuse;
mod handler;
mod inode;
mod mode;
mod mountpoint;
mod notice;
mod opening;
mod readdir;
mod reading;
mod session;
mod stats;

pub use config::{Capacity, CapacityProvider, MountConfig, MountParts, OpenMode};
pub use error::MountError;
pub use mountpoint::Unmount;
pub use session::{Mount, MountHandle};
pub use stats::MountStats;
