//! Configuration in two steps: as written ([`Merged`]), then checked and resolved
//! ([`ResolvedConfig`]), which is all that the rest of the program sees.
//!
//! # Invariants
//!
//! - Every setting is one row of [`SETTINGS`]; flags, variables, file and manual follow from it.
//! - An error says where the value was written, the value, and the limit it broke.
//! - No credential is a setting: they come from the standard chain of the cloud, and a URL that
//!   holds one is refused without printing it.

mod cluster;
mod resolved;
mod table;
#[cfg(test)]
mod tests;
pub mod units;
mod written;

pub use cluster::{ClusterSettings, LocalCopies};
pub use resolved::{
    CacheDir, Listing, LogFormat, MountConfig, OpenMode, PathStyle, ResolvedConfig, Transport,
};
pub use table::{CacheSize, Fill, Kind, SETTINGS, Setting, find};
pub use written::{ConfigError, FILE_DEFAULT, Inputs, Merged, Origin};
