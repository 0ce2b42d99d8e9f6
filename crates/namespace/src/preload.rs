//! Whole subtrees at once: a level or two is listed with delimiter to find prefixes, then each
//! prefix is listed flat, many in parallel. Small directories then share their LISTs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use feedline_model::{EntryKind, ReadError};
use futures::stream::{self, StreamExt};

use crate::fetch;
use crate::inner::{Inner, wait};
use crate::mounts::below;
use crate::namespace::Namespace;

/// Levels listed to find prefixes. Two find the class folders of `train/` and `val/`; a tree that
/// is still narrow below has too little to gain.
const DISCOVER_LEVELS: usize = 2;

/// What a preload brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Preloaded {
    /// Directories listed.
    pub directories: u64,
    /// Entries in them.
    pub entries: u64,
}

impl Preloaded {
    fn add(&mut self, other: Self) {
        self.directories += other.directories;
        self.entries += other.entries;
    }
}

impl Namespace {
    /// Lists everything at and below `path`, in whatever bucket it lies, and keeps it.
    ///
    /// Cost: one LIST per 1,000 keys, at least one for each of the prefixes found at the first
    /// levels. The listings count against `directories_max`.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]: the first one met. What was listed before and besides is kept.
    pub async fn preload(&self, path: &str) -> Result<Preloaded, ReadError> {
        let inner = &self.inner;
        let mut total = Preloaded::default();
        if let Some((index, _)) = inner.mounts.of(path) {
            total.add(mount_subtree(inner, index, path).await?);
        }
        let nested = |path_of: &str| path_of != path && below(path_of, path).is_some();
        for (index, mount) in inner.mounts.iter().enumerate() {
            if nested(&mount.path) {
                total.add(mount_subtree(inner, index, &mount.path).await?);
            }
        }
        Ok(total)
    }
}

/// Preloads one mount, unless that is under way.
pub(crate) fn in_background(inner: &Arc<Inner>, index: usize) {
    if inner.mounts.get(index).preloading.swap(true, Ordering::AcqRel) {
        return;
    }
    inner.counters.preloads.fetch_add(1, Ordering::Relaxed);
    let task = Arc::clone(inner);
    inner.handle.spawn(async move {
        let mount = task.mounts.get(index);
        if let Err(error) = mount_subtree(&task, index, &mount.path).await {
            tracing::warn!(mount = mount.path, %error, "not everything could be listed");
        }
        mount.preloading.store(false, Ordering::Release);
    });
}

/// Preloads what lies in mount `index` at and below `top`.
async fn mount_subtree(
    inner: &Arc<Inner>,
    index: usize,
    top: &str,
) -> Result<Preloaded, ReadError> {
    let mut total = Preloaded::default();
    let mut frontier = vec![top.to_owned()];
    for _ in 0..DISCOVER_LEVELS {
        if frontier.is_empty() || inner.lists_max < frontier.len() {
            break;
        }
        let mut found = Vec::new();
        let mut listings = stream::iter(frontier)
            .map(|path| async move { wait(inner.fly(&path), &path).await })
            .buffer_unordered(inner.lists_max);
        while let Some(outcome) = listings.next().await {
            let Some(directory) = outcome? else { continue };
            total.add(Preloaded { directories: 1, entries: directory.len() as u64 });
            let below = directory.iter().filter(|entry| entry.kind == EntryKind::Directory);
            let in_mount = |path: &String| inner.mounts.of(path).is_some_and(|(i, _)| i == index);
            found.extend(below.map(|entry| directory.child_path(entry.name)).filter(in_mount));
        }
        drop(listings);
        frontier = found;
    }
    let mut flat = stream::iter(frontier)
        .map(|path| {
            // A task of its own, so that all cores take part in making directories of keys.
            let task = Arc::clone(inner);
            inner.handle.spawn(async move { flat(&task, &path).await })
        })
        .buffer_unordered(inner.lists_max);
    let mut failure = None;
    while let Some(outcome) = flat.next().await {
        // An error means that the runtime is being shut down.
        let Ok(outcome) = outcome else { break };
        match outcome {
            Ok(part) => total.add(part),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(total), Err)
}

/// Lists everything below one prefix and keeps it.
async fn flat(inner: &Arc<Inner>, path: &str) -> Result<Preloaded, ReadError> {
    let Some(place) = inner.mounts.place(path) else { return Ok(Preloaded::default()) };
    let mount = inner.mounts.get(place.mount);
    let outcome = fetch::subtree(inner, path, place).await;
    inner.note_health(mount, &outcome);
    let listings = outcome?;
    if listings.first().is_none_or(|first| &*first.directory.path != path) {
        inner.vanish(path);
    }
    let mut total = Preloaded::default();
    for listing in listings {
        inner.wake(&listing.directory.path).await;
        let entries = listing.directory.len() as u64;
        total.add(Preloaded { directories: 1, entries });
        inner.store(listing);
    }
    Ok(total)
}
