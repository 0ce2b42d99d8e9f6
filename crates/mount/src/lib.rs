//! The FUSE file system: a tree of objects as a folder, read-only.
//!
//! ```text
//!  kernel -> fuse or uring -> handler: names and attributes <- model::Tree
//!            (translate)     readdir, opening, reading <- model::ObjectIndex, BlockSource
//!            notices <- (a thread of its own) <- handler
//! ```
//!
//! # Invariants
//!
//! - Only this crate names FUSE and errno, and in it only `fuse`, `session` and `backing` name `fuser`.
//! - A request thread never waits for the network.
//! - An inode is one version of one object: bytes of two versions never meet in one file.
//! - While any handle of an inode is open, its mode (passthrough or cached) does not change.
//! - Notices to the kernel are sent from a thread of their own, never under a lock.
//!
//! # Deliberately absent
//!
//! - No writes, no `FUSE_WRITEBACK_CACHE` (it excludes passthrough).
//!
//! # Reading order
//!
//! `handler`, `mode`, `opening`, `reading`, `readdir`; then `session` for how a mount lives, and
//! `uring` for the second transport.

mod ahead;
mod attr;
mod backing;
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
mod uring;

pub use config::{Capacity, CapacityProvider, MountConfig, MountParts, OpenMode, Transport};
pub use error::MountError;
pub use mountpoint::Unmount;
pub use session::{Mount, MountHandle};
pub use stats::MountStats;
