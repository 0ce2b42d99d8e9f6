//! The bucket as a tree: which directories and files the keys of one or more buckets make, for how
//! long that is believed, and how it survives a restart. Asks a `Lister`, is a `Tree`.
//!
//! # Which keys are shown
//!
//! A key is shown if every part between its slashes is a valid file name, and nothing else needs
//! that name as a directory. Every other key is *hidden*: not shown, but counted by reason in
//! [`NamespaceStats::hidden`], with a few examples, the first of each reason logged.
//!
//! | key | reason |
//! | --- | --- |
//! | `a//b`, `/a` | `empty_part` |
//! | a part `.` or `..` | `dot_part` |
//! | a part with NUL or another ASCII control character (clients cannot fetch it) | `control_character` |
//! | a part over 255 bytes | `part_too_long` |
//! | a path over 4,096 bytes | `path_too_long` |
//! | `a` beside `a/b`: the directory is shown | `shadowed_by_directory` |
//! | a name at which another bucket is mounted | `shadowed_by_mount` |
//! | the marker `a/`: directory `a` exists, even empty; its bytes are not shown | `directory_marker` |
//!
//! What is counted are names in a directory: all keys below `a//` are one hidden name of `a`, since
//! a listing folds them. A directory with nothing but hidden keys exists and is empty.
//!
//! # How long a listing is believed
//!
//! `metadata_ttl` from the moment before its first page was asked for. An access after half of that
//! begins a refresh in the background; after all of it, the caller waits for the store. If the store
//! does not answer, the outdated listing is served, and for a second nobody asks again. A store that
//! *refuses* (access denied, no such bucket) is an answer, and an error.
//!
//! # Invariants
//!
//! - A listing is complete or unknown. An absent name in a complete listing is absent: no request.
//! - The store is asked by LIST only; at most `lists_max` at a time; once per directory at a time,
//!   however many callers wait, and one that goes away cancels nobody.
//! - A path that its parent's listing denies is not known, in memory or after a restart.
//! - Losing the state file, or any part of it, costs LISTs and nothing else.
//!
//! # Deliberately absent
//!
//! - No HEAD, no watching of the bucket: what others change appears within `metadata_ttl`.
//! - No negative entries: absence is what a complete listing says.
//! - No lock on the state file: its owner gives each file to one namespace.
//!
//! # Reading order
//!
//! [`Namespace`] is the face, `inner` decides when to ask; `mounts` says which bucket; `fetch` asks, `gather` and
//! `rules` make directories of keys; `table` keeps them, `state` and `persist` on disk, where `kept` ones lie until `restore` reads them; `preload`
//! and `walk` go over many.

mod ahead;
mod codec;
mod config;
mod fetch;
mod gather;
mod inner;
mod kept;
mod mounts;
mod namespace;
mod persist;
mod preload;
mod restore;
mod rules;
mod state;
mod stats;
mod table;
mod walk;

pub use config::{ConfigError, Listing, Mounted, NamespaceConfig};
pub use namespace::Namespace;
pub use preload::Preloaded;
pub use rules::{HiddenReason, PART_BYTES_MAX, PATH_BYTES_MAX};
pub use stats::NamespaceStats;

#[cfg(test)]
mod tests;
