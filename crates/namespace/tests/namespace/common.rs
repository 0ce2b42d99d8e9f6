//! What the tests of this crate share: a namespace over listers in memory and a clock moved by hand.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use feedline_model::{Directory, EntryKind, ReadError, SourceId};
use feedline_namespace::{Listing, Mounted, Namespace, NamespaceConfig};
use feedline_testkit::{FakeClock, MemoryLister};
use tokio::runtime::Handle;

/// The TTL of every test.
pub(crate) const TTL: Duration = Duration::from_secs(60);

/// One bucket at the root.
pub(crate) fn config(lister: &Arc<MemoryLister>) -> NamespaceConfig {
    NamespaceConfig {
        mounts: vec![mounted("", lister, "")],
        metadata_ttl: TTL,
        listing: Listing::Lazy,
        state_file: None,
        lists_max: 8,
        directories_max: 100_000,
    }
}

pub(crate) fn mounted(tree_path: &str, lister: &Arc<MemoryLister>, prefix: &str) -> Mounted {
    let lister = Arc::clone(lister);
    Mounted { tree_path: tree_path.to_owned(), lister, prefix: prefix.to_owned() }
}

pub(crate) fn open(config: NamespaceConfig, clock: &FakeClock) -> Namespace {
    Namespace::open(config, clock.shared(), Handle::current()).expect("the config is valid")
}

/// A lister, a clock and a lazy namespace over them.
pub(crate) fn simple(keys: &[&str]) -> (Arc<MemoryLister>, FakeClock, Namespace) {
    let lister = MemoryLister::new(SourceId(1));
    for key in keys {
        lister.insert(key, 1);
    }
    let clock = FakeClock::new();
    let namespace = open(config(&lister), &clock);
    (lister, clock, namespace)
}

pub(crate) fn with_state(lister: &Arc<MemoryLister>, path: PathBuf) -> NamespaceConfig {
    NamespaceConfig { state_file: Some(path), ..config(lister) }
}

/// Names, directories with a final slash.
pub(crate) fn names(directory: &Directory) -> Vec<String> {
    let shown = |entry: feedline_model::EntryRef<'_>| match entry.kind {
        EntryKind::Directory => format!("{}/", entry.name),
        EntryKind::File(_) => entry.name.to_owned(),
    };
    directory.iter().map(shown).collect()
}

pub(crate) fn unavailable() -> ReadError {
    let (location, cause) = ("s3://b/".into(), "timed out".into());
    ReadError::Unavailable { location, cause, after: Duration::from_secs(1) }
}

/// Lets background tasks run until `done`; fails if that never comes.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1_000_000 {
        if done() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never happened: {what}");
}
