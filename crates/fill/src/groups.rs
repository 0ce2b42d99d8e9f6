//! Which data set an access belongs to, when none is known for its folder yet.
//!
//! A file lies in a folder `root/class` of a data set `root`, or in `root` itself (a flat set). One
//! folder alone cannot tell, so: as long as one folder is read, that folder is the set; when a second
//! one beside it is read, their parent is. A process that reads in three sets beside each other reads
//! their parent: data sets nested deeper than classes. (Two do not suffice: `train` and `val`.)

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::watch::Seen;

/// Different files of a folder, or of folders beside each other, that must have been read before
/// anything is done: what `ls`, `file` or a look into a folder reads is less.
pub(crate) const READS_MIN: usize = 8;

/// Sets beside each other that make one reader a reader of their parent.
const SIBLINGS: usize = 3;

/// Parents watched at once; when there are more, all are forgotten.
const PENDING_MAX: usize = 1_024;

/// The parent of a path in the tree; `None` for the root.
pub(crate) fn parent_of(path: &str) -> Option<&str> {
    if path.is_empty() {
        None
    } else {
        Some(path.rsplit_once('/').map_or("", |(parent, _)| parent))
    }
}

/// Accesses kept of one parent, to be told to the set once there is one.
const SEEN_MAX: usize = 64;

/// A data set that should exist.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Its folder.
    pub(crate) root: String,
    /// Only the files of this folder itself.
    pub(crate) flat: bool,
    /// The accesses that led here, in order.
    pub(crate) seen: Vec<Seen>,
}

/// A set there is, as seen from one beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beside {
    /// Its folder.
    pub(crate) root: Arc<str>,
    /// Only the files of that folder itself.
    pub(crate) flat: bool,
    /// The process that asks reads it too.
    pub(crate) same_reader: bool,
}

/// Accesses of folders beside each other that belong to no set.
#[derive(Debug, Default)]
struct Pending {
    folders: HashSet<Arc<str>>,
    files: HashSet<u64>,
    seen: Vec<Seen>,
}

impl Pending {
    fn note(&mut self, seen: &Seen) {
        self.folders.insert(Arc::clone(&seen.parent));
        self.files.insert(seen.object.id().hash64());
        if self.seen.len() < SEEN_MAX {
            self.seen.push(seen.clone());
        }
    }
}

/// Accesses of folders that belong to no set, by parent.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pending: HashMap<String, Pending>,
}

impl Groups {
    /// An access of a folder that belongs to no set. Returns the set to make of what was seen so
    /// far, if it suffices. `sets_in` gives the sets whose folder lies directly in a folder.
    pub(crate) fn accessed(
        &mut self,
        seen: &Seen,
        sets_in: impl Fn(&str) -> Vec<Beside>,
    ) -> Option<Wanted> {
        let folder = &seen.parent;
        let Some(parent) = parent_of(folder) else { return self.in_root(seen) };
        let pending = self.pending(parent);
        pending.note(seen);
        // A flat set beside this folder was a folder of the same set all along.
        let flat_beside = sets_in(parent).iter().any(|set| set.flat);
        if pending.files.len() < READS_MIN && !flat_beside {
            return None;
        }
        let several = pending.folders.len() > 1 || flat_beside;
        let seen = self.pending.remove(parent).unwrap_or_default().seen;
        if !several {
            return Some(Wanted { root: folder.to_string(), flat: true, seen });
        }
        let mut root = parent;
        if let Some(above) = parent_of(parent) {
            let mine = |set: &Beside| !set.flat && set.same_reader && *set.root != *parent;
            if sets_in(above).iter().filter(|set| mine(set)).count() + 1 >= SIBLINGS {
                root = above;
            }
        }
        Some(Wanted { root: root.to_owned(), flat: false, seen })
    }

    /// Forgets what was read below `path`, as far as it belongs to no set.
    pub(crate) fn forget(&mut self, path: &str) {
        self.pending.retain(|parent, _| !is_inside(parent, path));
    }

    /// Files in the root of the tree: nothing is above or beside it.
    fn in_root(&mut self, seen: &Seen) -> Option<Wanted> {
        // No parent has this name: a path part is never empty.
        let pending = self.pending("/");
        pending.note(seen);
        if pending.files.len() < READS_MIN {
            return None;
        }
        let pending = self.pending.remove("/").unwrap_or_default();
        Some(Wanted { root: seen.parent.to_string(), flat: true, seen: pending.seen })
    }

    fn pending(&mut self, parent: &str) -> &mut Pending {
        if self.pending.len() >= PENDING_MAX && !self.pending.contains_key(parent) {
            self.pending.clear();
        }
        self.pending.entry_ref(parent).or_default()
    }
}

/// True if the folder `path` is `root` or lies below it.
pub(crate) fn is_inside(path: &str, root: &str) -> bool {
    root.is_empty()
        || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use feedline_model::{ETag, Object, SourceId, Version};

    use super::*;

    fn beside(root: &str, flat: bool, same_reader: bool) -> Beside {
        Beside { root: root.into(), flat, same_reader }
    }

    /// Reads `files` files, one after another in these folders, and says after how many there was a
    /// set: its folder, and whether it is flat.
    fn read(folders: &[&str], files: u64, sets: &[Beside]) -> Option<(u64, String, bool)> {
        let mut groups = Groups::default();
        (0..files).find_map(|file| {
            let folder = folders[file as usize % folders.len()];
            let version = Version { size: 1, modified_ms: 1, etag: ETag::Absent };
            let key = format!("{folder}/{file}").into();
            let object = Object { source: SourceId(1), key, version };
            let seen =
                Seen { process: 1, parent: folder.into(), object, is_hit: false, is_sample: false };
            let sets_in = |parent: &str| {
                sets.iter().filter(|set| parent_of(&set.root) == Some(parent)).cloned().collect()
            };
            let wanted = groups.accessed(&seen, sets_in)?;
            assert_eq!(wanted.seen.len() as u64, file + 1);
            Some((file + 1, wanted.root, wanted.flat))
        })
    }

    #[test]
    fn a_few_files_are_no_data_set() {
        assert_eq!(read(&["train/a", "train/b"], READS_MIN as u64 - 1, &[]), None);
    }

    #[test]
    fn one_folder_is_a_flat_set_and_several_are_their_parents() {
        assert_eq!(read(&["train/a"], 100, &[]), Some((8, "train/a".into(), true)));
        assert_eq!(read(&["train/a", "train/b"], 100, &[]), Some((8, "train".into(), false)));
        assert_eq!(read(&[""], 100, &[]), Some((8, String::new(), true)));
        assert_eq!(read(&["a", "b"], 100, &[]), Some((8, String::new(), false)));
    }

    #[test]
    fn a_second_folder_beside_a_flat_set_makes_both_one_set_at_once() {
        let sets = [beside("train/a", true, false)];
        assert_eq!(read(&["train/b"], 100, &sets), Some((1, "train".into(), false)));
    }

    #[test]
    fn a_reader_of_three_sets_beside_each_other_reads_their_parent() {
        let folders = ["years/2024/a", "years/2024/b"];
        let two = [beside("years/2022", false, true), beside("years/2023", false, true)];
        assert_eq!(read(&folders, 100, &two), Some((8, "years".into(), false)));
        let others = [beside("years/2022", false, true), beside("years/2023", false, false)];
        assert_eq!(read(&folders, 100, &others), Some((8, "years/2024".into(), false)));
    }
}
