//! What a namespace is built from. Checked once, in [`crate::Namespace::open`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use feedline_model::Lister;

/// One bucket or prefix in the tree.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// Where in the tree; `""` is the root. Slashes at the ends are ignored.
    pub tree_path: String,
    /// Lists the bucket.
    pub lister: Arc<dyn Lister>,
    /// Which keys of the bucket; `""` is all of them. A missing final `/` is added.
    pub prefix: String,
}

/// When the store is asked for a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listing {
    /// When somebody needs it: one LIST per 1,000 names of that directory.
    #[default]
    Lazy,
    /// All of them at the start and at each refresh: one LIST per 1,000 names of the whole tree,
    /// many prefixes in parallel. Cheaper than lazy where directories are small.
    Eager,
}

/// Settings of a namespace.
#[derive(Debug, Clone)]
pub struct NamespaceConfig {
    /// At least one. A mounted path hides a key of the same name in the bucket around it.
    pub mounts: Vec<Mounted>,
    /// For how long a listing is believed.
    pub metadata_ttl: Duration,
    /// Lazy or eager.
    pub listing: Listing,
    /// Where listings are kept over a restart; `None`: nowhere. One namespace at a time may use
    /// a file: the owner of the directory it is in sees to that.
    pub state_file: Option<PathBuf>,
    /// LIST requests in flight, at most. At least 1.
    pub lists_max: usize,
    /// Listings kept in memory, at most; the least recently used go first. At least 1.
    pub directories_max: usize,
}

/// Why a namespace cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the doc of each variant covers its fields")]
pub enum ConfigError {
    /// Nothing is mounted.
    #[error("mounts is empty: name at least one bucket")]
    NoMount,
    /// Two entries for one path.
    #[error("mounts: {path:?} is given twice; give each bucket its own path")]
    Duplicate { path: String },
    /// The path cannot be one.
    #[error("mounts: {path:?} is no valid path ({why})")]
    InvalidPath { path: String, why: &'static str },
    /// A maximum of nothing.
    #[error("{field} is 0, must be at least 1")]
    Zero { field: &'static str },
}
