//! Pins: what is kept whole on this node, and what the cluster keeps, of which each node pins what it owns.
//!
//! A copy of what another node owns is not pinned by a pin of the cluster: pinned copies of a data set that
//! is larger than one cache would leave no space for what this node is to keep for all.
//!
//! # Invariants
//!
//! - A list of pins and what is pinned by it change together, one path at a time. A path leaves its list when what
//!   it pinned is let go of: whoever is stopped in between finds it there, and does it again.

use std::collections::BTreeSet;

use feedline_gateway::ApiError;
use feedline_gateway::api::Usage;
use feedline_model::{Keeping, Ownership as _};
use futures::StreamExt as _;

use super::{NodeAdmin, id_at};
use crate::pins::{self, Pins};

impl NodeAdmin {
    /// Applies both lists anew. Whoever pins or unpins meanwhile waits for one path at most.
    pub(super) async fn apply_pins(&self) {
        for (pins, is_shared) in [(&self.pins, false), (&self.shared_pins, true)] {
            for path in pins.paths() {
                let _turn = self.pinning.lock().await;
                // Unpinned since the list was read.
                if pins.covering(&path).is_none() {
                    continue;
                }
                let applied = if is_shared {
                    self.apply_shared_pin(&path).await.map(|_| ())
                } else {
                    self.pin_below(&path).await
                };
                if let Err(error) = applied {
                    tracing::warn!(path, %error, "pinned path cannot be listed");
                }
            }
        }
    }

    /// Adds a path to what is kept whole on this node, and applies it.
    pub(super) async fn pin_here(&self, path: &str) -> Result<(), ApiError> {
        let _turn = self.pinning.lock().await;
        self.pins.add(path).map_err(|error| ApiError::internal(error.to_string()))?;
        self.pin_below(path).await
    }

    /// Pins everything below a path on this node.
    async fn pin_below(&self, path: &str) -> Result<(), ApiError> {
        let mut batches = std::pin::pin!(self.objects_below(path).await?);
        while let Some(batch) = batches.next().await {
            let (directory, objects) = batch?;
            let ids = objects.iter().map(|index| id_at(&directory, *index)).collect();
            self.chain.cache.pin(ids).await;
        }
        Ok(())
    }

    /// Why a path cannot be unpinned, if it is because of one above it.
    pub(super) fn pinned_above(&self, pins: &Pins, path: &str) -> Option<ApiError> {
        let above = path.rsplit_once('/').map(|(parent, _)| parent);
        let above = above.or((!path.is_empty()).then_some(""));
        let pinned = above.and_then(|above| pins.covering(above))?;
        Some(ApiError::bad_request(format!(
            "/{path} is pinned by /{pinned}: unpin that, then pin what shall stay"
        )))
    }

    /// True if neither list has anything else than what these hold.
    fn pins_nothing_but(&self, own: Option<&str>, shared: Option<&str>) -> bool {
        [(&self.pins, own), (&self.shared_pins, shared)].into_iter().all(|(pins, but)| {
            pins.paths().iter().all(|path| but.is_some_and(|but| pins::holds(but, path)))
        })
    }

    /// Takes back every pin of a path on this node. `was_pinned`: so it was, though no list may have it any more.
    pub(super) async fn unpin_below(
        &self,
        path: &str,
        was_pinned: bool,
    ) -> Result<Usage, ApiError> {
        let _turn = self.pinning.lock().await;
        let all = [&self.pins, &self.shared_pins];
        if let Some(error) = all.iter().find_map(|pins| self.pinned_above(pins, path)) {
            return Err(error);
        }
        let usage = match self.usage(path).await {
            // Gone from the bucket: the pin goes too, and there is nothing left to let go of.
            Err(error)
                if error.kind == "not_found"
                    && (was_pinned || all.iter().any(|pins| pins.any_below(path))) =>
            {
                None
            }
            usage => Some(usage?),
        };
        if self.pins_nothing_but(Some(path), Some(path)) {
            // With the last pin go those of versions that no listing names any more.
            self.chain.cache.unpin_all().await;
        } else if usage.is_some() {
            let mut batches = std::pin::pin!(self.objects_below(path).await?);
            while let Some(batch) = batches.next().await {
                let (directory, files) = batch?;
                let ids = files.iter().map(|index| id_at(&directory, *index)).collect();
                self.chain.cache.unpin(ids).await;
            }
        }
        for pins in all {
            pins.remove(path).map_err(|error| ApiError::internal(error.to_string()))?;
        }
        Ok(usage.unwrap_or_default())
    }

    /// Adds a path to the pins that all nodes share, and applies it: the files of it that are kept here, and
    /// how much of them is here.
    pub(super) async fn share_pin(&self, path: &str) -> Result<(u64, u64), ApiError> {
        let _turn = self.pinning.lock().await;
        self.shared_pins.add(path).map_err(|error| ApiError::internal(error.to_string()))?;
        self.apply_shared_pin(path).await
    }

    /// Pins what this node owns below a path, and lets go of what it does no more.
    async fn apply_shared_pin(&self, path: &str) -> Result<(u64, u64), ApiError> {
        let (mut files, mut bytes) = (0, 0);
        let mut batches = std::pin::pin!(self.objects_below(path).await?);
        while let Some(batch) = batches.next().await {
            let (directory, objects) = batch?;
            let link = &self.chain.link;
            let is_whole = |index: &usize| {
                let path = directory.child_path(directory.entry(*index).name);
                self.pins.covering(&path).is_some()
            };
            let (mine, others): (Vec<_>, Vec<_>) = objects
                .into_iter()
                .filter(|index| !is_whole(index))
                .map(|index| id_at(&directory, index))
                .partition(|id| link.keeping(id) == Keeping::Own);
            files += mine.len() as u64;
            bytes += mine.iter().map(|id| self.chain.cache.cached_bytes(id)).sum::<u64>();
            self.chain.cache.pin(mine).await;
            self.chain.cache.unpin(others).await;
        }
        Ok((files, bytes))
    }

    /// Has these in the list of what all nodes share, and applies what that changes; whoever pins or unpins
    /// meanwhile waits for one path at most. `is_last_word`: nothing else was heard since. False: something could
    /// not be done, and is to be tried again.
    pub(super) async fn take_shared_pins(
        &self,
        wanted: &BTreeSet<String>,
        is_last_word: impl Fn() -> bool,
    ) -> bool {
        let is_new = |path: &&String| !self.shared_pins.contains(path);
        let new: BTreeSet<_> = wanted.iter().filter(is_new).cloned().collect();
        // First of all, so that each of them is named while one above it is let go of.
        if !new.is_empty()
            && let Err(error) = self.shared_pins.add_all(new.clone())
        {
            tracing::warn!(%error, "the pins of the cluster cannot be written down");
            return false;
        }
        let is_done = self.let_go_of_others(wanted, is_last_word).await;
        for path in new {
            let _turn = self.pinning.lock().await;
            // Unpinned meanwhile.
            if !self.shared_pins.contains(&path) {
                continue;
            }
            tracing::info!(path, "pinned in the cluster");
            if let Err(error) = self.apply_shared_pin(&path).await {
                // Tried again each metadata_ttl, as all that is in the list.
                tracing::warn!(path, %error, "pinned path cannot be listed");
            }
        }
        is_done
    }

    /// Lets go of what the list has and is not wanted.
    async fn let_go_of_others(
        &self,
        wanted: &BTreeSet<String>,
        is_last_word: impl Fn() -> bool,
    ) -> bool {
        let mut is_done = true;
        for path in self.shared_pins.paths() {
            if wanted.contains(&path) {
                continue;
            }
            let _turn = self.pinning.lock().await;
            if !is_last_word() {
                // It may be about this very path.
                return false;
            }
            // Unpinned here meanwhile.
            if !self.shared_pins.contains(&path) {
                continue;
            }
            tracing::info!(path, "unpinned in the cluster");
            match self.let_go_below(&path, wanted).await {
                Err(error) if error.kind != "not_found" => {
                    tracing::warn!(path, %error, "what was unpinned cannot be listed");
                    is_done = false;
                }
                _ => {
                    if let Err(error) = self.shared_pins.remove_one(&path) {
                        tracing::warn!(path, %error, "the pins of the cluster cannot be written down");
                        is_done = false;
                    }
                }
            }
        }
        is_done
    }

    /// Lets go of what lies below a path and neither is wanted nor pinned on this node alone.
    async fn let_go_below(&self, path: &str, wanted: &BTreeSet<String>) -> Result<(), ApiError> {
        if wanted.is_empty() && self.pins_nothing_but(None, Some(path)) {
            // With the last pin go those of versions that no listing names any more.
            self.chain.cache.unpin_all().await;
            return Ok(());
        }
        let mut batches = std::pin::pin!(self.objects_below(path).await?);
        while let Some(batch) = batches.next().await {
            let (directory, objects) = batch?;
            let is_free = |index: &usize| {
                let path = directory.child_path(directory.entry(*index).name);
                !pins::covers(wanted, &path) && self.pins.covering(&path).is_none()
            };
            let ids = objects.into_iter().filter(is_free).map(|index| id_at(&directory, index));
            self.chain.cache.unpin(ids.collect()).await;
        }
        Ok(())
    }

    /// Takes back [`Self::share_pin`], but for what is pinned on this node by itself.
    pub(super) async fn unshare_pin(&self, path: &str) -> Result<(u64, u64), ApiError> {
        let _turn = self.pinning.lock().await;
        if let Some(pinned) = self.pinned_above(&self.shared_pins, path) {
            return Err(pinned);
        }
        let forget = || {
            let removed = self.shared_pins.remove(path);
            removed.map_err(|error| ApiError::internal(error.to_string()))
        };
        if self.pins_nothing_but(None, Some(path)) {
            // With the last pin go those of versions that no listing names any more.
            let files = self.chain.cache.unpin_all().await;
            return forget().map(|()| (files, 0));
        }
        let batches = match self.objects_below(path).await {
            // Nothing is left to let go of.
            Err(error) if error.kind == "not_found" => return forget().map(|()| (0, 0)),
            batches => batches?,
        };
        let (mut files, mut bytes) = (0, 0);
        let mut batches = std::pin::pin!(batches);
        while let Some(batch) = batches.next().await {
            let (directory, objects) = batch?;
            let ids: Vec<_> = objects
                .into_iter()
                .filter(|index| {
                    let path = directory.child_path(directory.entry(*index).name);
                    self.pins.covering(&path).is_none()
                })
                .map(|index| id_at(&directory, index))
                .collect();
            bytes += ids.iter().map(|id| self.chain.cache.cached_bytes(id)).sum::<u64>();
            files += self.chain.cache.unpin(ids).await;
        }
        forget()?;
        Ok((files, bytes))
    }
}
