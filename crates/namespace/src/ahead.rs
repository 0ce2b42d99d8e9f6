//! Listing ahead of a walk: who has listed two folders beside each other in order, and asks for the
//! third, will ask for the next ones.
//!
//! A loader opens the class folders of a data set one after another, so its walk would take one LIST
//! after another: ImageNet's 1,000 folders at 25 ms each are half a minute before the first image.
//! The listings that follow are asked for at once instead, beneath those that somebody waits for.
//! A walk to the end costs no LIST more; one that stops costs at most [`AHEAD`].
//!
//! # Deliberately absent
//!
//! - Depth: folders below the ones ahead are not listed, since a walk may not go there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use feedline_model::EntryKind;

use crate::inner::{Inner, Known};
use crate::mounts::parent;

/// Folders listed ahead at most: what the bucket answers in one round of the usual limit of LISTs.
const AHEAD: usize = 64;

/// Folders before the one asked for that must be known.
const WALKED: usize = 2;

/// The share of the listings kept that may be ahead: a table that is too small for the walk must not lose
/// them again before they are used.
const TABLE_SHARE: usize = 16;

impl Inner {
    /// Somebody waits for the listing of `path`, which was not known.
    pub(crate) fn list_ahead(self: &Arc<Self>, path: &str) {
        if path.is_empty() {
            return;
        }
        let Some(above) = self.table.get(parent(path)) else { return };
        let name = path.rsplit('/').next().unwrap_or(path);
        let Some(at) = above.directory.find(name) else { return };
        let is_folder = |index: &usize| above.directory.entry(*index).kind == EntryKind::Directory;
        let path_of = |index: usize| above.directory.child_path(above.directory.entry(index).name);
        let is_known = |path: &str| matches!(self.known(path), Known::Fresh(_) | Known::Aging(_));
        let before = (0..at).rev().filter(is_folder).take(WALKED);
        let walked = before.filter(|index| is_known(&path_of(*index))).count();
        if walked < WALKED {
            return;
        }
        // Where all LISTs are in use already, more of them help nobody.
        let ahead = if self.lists_free() == 0 { 0 } else { AHEAD };
        let ahead = ahead.min(self.table.directories_max() / TABLE_SHARE);
        for index in (at + 1..above.directory.len()).filter(is_folder).take(ahead) {
            let path = path_of(index);
            if matches!(self.known(&path), Known::Unknown | Known::Outdated(_)) {
                self.counters.ahead.fetch_add(1, Ordering::Relaxed);
                self.refresh_in_background(&path);
            }
        }
    }
}
