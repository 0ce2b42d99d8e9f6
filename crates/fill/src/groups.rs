//! Which data set an access belongs to, when none is known for its folder yet.
//!
//! A file lies in a folder `root/class` of a data set `root`, or in `root` itself (a flat set). One
//! folder alone cannot tell, so: as long as one folder is read, that folder is the set; when a second
//! one beside it is read, their parent is. A process that reads in three sets beside each other reads
//! their parent: data sets nested deeper than classes. (Two do not suffice: `train` and `val`.)

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

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

/// A data set that should exist.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its folder.
    pub(crate) root: String,
    /// Only the files of this folder itself.
    pub(crate) flat: bool,
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
}

/// Accesses of folders that belong to no set, by parent.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pending: HashMap<String, Pending>,
}

impl Groups {
    /// An access of a folder that belongs to no set; `file` is a hash of the object's id. Returns the
    /// set to make of what was seen so far, if it suffices. `sets_in` gives the sets whose folder
    /// lies directly in a folder.
    pub(crate) fn accessed(
        &mut self,
        folder: &Arc<str>,
        file: u64,
        sets_in: impl Fn(&str) -> Vec<Beside>,
    ) -> Option<Wanted> {
        let Some(parent) = parent_of(folder) else { return self.in_root(folder, file) };
        let pending = self.pending(parent);
        pending.folders.insert(Arc::clone(folder));
        pending.files.insert(file);
        // A flat set beside this folder was a folder of the same set all along.
        let flat_beside = sets_in(parent).iter().any(|set| set.flat);
        if pending.files.len() < READS_MIN && !flat_beside {
            return None;
        }
        let several = pending.folders.len() > 1 || flat_beside;
        self.pending.remove(parent);
        if !several {
            return Some(Wanted { root: folder.to_string(), flat: true });
        }
        let mut root = parent;
        if let Some(above) = parent_of(parent) {
            let mine = |set: &Beside| !set.flat && set.same_reader && *set.root != *parent;
            if sets_in(above).iter().filter(|set| mine(set)).count() + 1 >= SIBLINGS {
                root = above;
            }
        }
        Some(Wanted { root: root.to_owned(), flat: false })
    }

    /// Files in the root of the tree: nothing is above or beside it.
    fn in_root(&mut self, folder: &Arc<str>, file: u64) -> Option<Wanted> {
        // No parent has this name: a path part is never empty.
        let pending = self.pending("/");
        pending.files.insert(file);
        if pending.files.len() < READS_MIN {
            return None;
        }
        self.pending.remove("/");
        Some(Wanted { root: folder.to_string(), flat: true })
    }

    fn pending(&mut self, parent: &str) -> &mut Pending {
        if self.pending.len() >= PENDING_MAX && !self.pending.contains_key(parent) {
            self.pending.clear();
        }
        self.pending.entry_ref(parent).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(root: &str, flat: bool, same_reader: bool) -> Beside {
        Beside { root: root.into(), flat, same_reader }
    }

    /// Reads `files` files, one after another in these folders, and says what came of it when.
    fn read(folders: &[&str], files: u64, sets: &[Beside]) -> Option<(u64, Wanted)> {
        let mut groups = Groups::default();
        (0..files).find_map(|file| {
            let folder = folders[file as usize % folders.len()].into();
            let sets_in = |parent: &str| {
                sets.iter().filter(|set| parent_of(&set.root) == Some(parent)).cloned().collect()
            };
            groups.accessed(&folder, file, sets_in).map(|wanted| (file + 1, wanted))
        })
    }

    #[test]
    fn a_few_files_are_no_data_set() {
        assert_eq!(read(&["train/a", "train/b"], READS_MIN as u64 - 1, &[]), None);
    }

    #[test]
    fn one_folder_is_a_flat_set_and_several_are_their_parents() {
        let flat = Wanted { root: "train/a".into(), flat: true };
        assert_eq!(read(&["train/a"], 100, &[]), Some((8, flat)));
        let classes = Wanted { root: "train".into(), flat: false };
        assert_eq!(read(&["train/a", "train/b"], 100, &[]), Some((8, classes)));
        let root = Wanted { root: String::new(), flat: true };
        assert_eq!(read(&[""], 100, &[]), Some((8, root)));
        let top = Wanted { root: String::new(), flat: false };
        assert_eq!(read(&["a", "b"], 100, &[]), Some((8, top)));
    }

    #[test]
    fn a_second_folder_beside_a_flat_set_makes_both_one_set_at_once() {
        let classes = Wanted { root: "train".into(), flat: false };
        let sets = [beside("train/a", true, false)];
        assert_eq!(read(&["train/b"], 100, &sets), Some((1, classes)));
    }

    #[test]
    fn a_reader_of_three_sets_beside_each_other_reads_their_parent() {
        let folders = ["years/2024/a", "years/2024/b"];
        let two = [beside("years/2022", false, true), beside("years/2023", false, true)];
        let parent = Wanted { root: "years".into(), flat: false };
        assert_eq!(read(&folders, 100, &two), Some((8, parent)));
        let others = [beside("years/2022", false, true), beside("years/2023", false, false)];
        let own = Wanted { root: "years/2024".into(), flat: false };
        assert_eq!(read(&folders, 100, &others), Some((8, own)));
    }
}
