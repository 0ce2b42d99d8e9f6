//! Puts what the state file knew into an empty table, and reads it from there when it is used.

use std::collections::HashMap;
use std::sync::Arc;

use crate::inner::Inner;
use crate::kept::{Content, Kept};
use crate::mounts::{Mounts, parent};
use crate::rules::HiddenCounts;
use crate::state::Loaded;
use crate::table::{Table, has_directory};

/// Fills `table`, without reading any entries. Left out: listings dated in the future (the clock was
/// set back) and those of no mount.
pub(crate) fn fill(table: &Table, mounts: &Mounts, loaded: HashMap<Arc<str>, Loaded>, now_ms: u64) {
    for (path, Loaded { kept, hidden, .. }) in loaded {
        if kept.listed_ms <= now_ms && mounts.of(&path).is_some() {
            table.restore(path, Arc::new(kept), hidden);
        }
    }
}

impl Inner {
    /// Reads `path` from the state file if it lies there, and before it the directories above it: one
    /// that the listing of its parent denies is not known (the record of its removal was lost), and
    /// neither is one that is damaged.
    pub(crate) async fn wake(&self, path: &str) {
        if self.table.kept(path).is_none() {
            return;
        }
        let top = self.mounts.of(path).map_or(0, |(_, mount)| mount.path.len());
        let mut line = vec![path];
        while let Some(last) = line.last().filter(|last| top < last.len()) {
            line.push(parent(last));
        }
        for path in line.into_iter().rev() {
            let Some((kept, hidden)) = self.table.kept(path) else { continue };
            if self.is_denied(path) {
                self.forget_kept(path);
                return;
            }
            self.read_kept(path, kept, hidden).await;
        }
    }

    /// True if the listing of the parent, in memory, lacks the directory.
    fn is_denied(&self, path: &str) -> bool {
        let is_root = self.mounts.of(path).is_none_or(|(_, mount)| mount.path == path);
        let name = path.rsplit('/').next().unwrap_or(path);
        !is_root
            && self
                .table
                .get(parent(path))
                .is_some_and(|found| !has_directory(&found.directory, name))
    }

    fn forget_kept(&self, path: &str) {
        let removed = self.table.remove_subtree(path);
        if let Some(persist) = &self.persist {
            persist.remove(&removed);
        }
    }

    async fn read_kept(&self, path: &str, kept: Arc<Kept>, hidden: HiddenCounts) {
        let Some(place) = self.mounts.place(path) else { return };
        let source = self.mounts.get(place.mount).lister.source();
        let origin = (source, Arc::from(place.key_prefix.as_str()));
        let (reading, ttl_ms) = (Arc::clone(&kept), self.ttl_ms);
        let owned: Arc<str> = path.into();
        let read = self.handle.spawn_blocking(move || {
            reading.directory(&hidden, &owned, origin, ttl_ms).map(Arc::new)
        });
        // An error means that the runtime is being shut down.
        let Ok(read) = read.await else { return };
        if let Some(directory) = read {
            self.table.replace(path, &kept, Content::Known(directory));
        } else if self.table.remove_kept(path, &kept)
            && let Some(persist) = &self.persist
        {
            tracing::warn!(path, "a damaged listing is dropped");
            persist.damaged(path.into());
        }
    }
}
