//! A data set: the files below one folder, as a loader numbers them.
//!
//! Loaders list a tree, sort it, and from then on know files by their place in that list: class
//! folders in order of name, and in each its files in order of name. A [`DataSet`] is that list, over
//! the listings that the tree holds anyway; it copies no name.
//!
//! # Deliberately absent
//!
//! - No LIST: only folders whose listing is known belong to it. A loader lists what it will read,
//!   so what is unknown is not about to be read.

use std::cmp::Ordering;
use std::sync::Arc;

use feedline_model::{Directory, EntryKind, Object, ObjectId, Tree};
use hashbrown::HashMap;

/// File names that image loaders take (DALI's and torchvision's lists together). If a folder tree
/// has any of these, loaders count them alone.
const LOADED_EXTENSIONS: [&str; 16] = [
    "jpg", "jpeg", "png", "bmp", "tif", "tiff", "pnm", "ppm", "pgm", "pbm", "jp2", "webp", "flac",
    "ogg", "wav", "npy",
];

/// Folders of one data set at most: a bound against runaway trees. ImageNet has 1,000.
const FOLDERS_MAX: usize = 200_000;

/// One folder and the position of its first file.
#[derive(Debug)]
struct Folder {
    listing: Arc<Directory>,
    first: u32,
    /// Which entries are files of the set; `None`: all of them.
    chosen: Option<Box<[u32]>>,
}

impl Folder {
    fn len(&self) -> u32 {
        let len = self.chosen.as_ref().map_or(self.listing.len(), |chosen| chosen.len());
        u32::try_from(len).unwrap_or(u32::MAX)
    }

    fn entry_at(&self, place: u32) -> usize {
        self.chosen.as_ref().map_or(place, |chosen| chosen[place as usize]) as usize
    }

    fn place_of(&self, entry: usize) -> Option<u32> {
        let entry = u32::try_from(entry).ok()?;
        match &self.chosen {
            None => Some(entry),
            Some(chosen) => chosen.binary_search(&entry).ok().and_then(|at| at.try_into().ok()),
        }
    }
}

/// The files below one folder, numbered in a loader's order.
#[derive(Debug)]
pub(crate) struct DataSet {
    /// The folder's path in the tree.
    pub(crate) root: Arc<str>,
    folders: Vec<Folder>,
    by_path: HashMap<Arc<str>, usize>,
    len: u32,
}

/// True if a loader of images would take the file.
fn is_loaded(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    LOADED_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The order of folders: by class (the first part below the root), then by path.
fn folder_order(a: &str, b: &str) -> Ordering {
    let class = |path: &str| path.find('/').map_or(path.len(), |end| end);
    a[..class(a)].cmp(&b[..class(b)]).then_with(|| a.cmp(b))
}

impl DataSet {
    /// The files below `root`, as far as listings are known; if `flat`, of that folder alone. `None`
    /// without any, or with more than 2^32. Cost: a walk over the listings in memory.
    pub(crate) fn build(tree: &dyn Tree, root: &str, flat: bool) -> Option<Self> {
        let mut listings = Vec::new();
        let mut queue: Vec<Arc<Directory>> = tree.peek(root).into_iter().collect();
        while let Some(listing) = queue.pop() {
            if listings.len() == FOLDERS_MAX {
                break;
            }
            if !flat {
                let below = listing.iter().filter(|entry| entry.kind == EntryKind::Directory);
                queue.extend(below.filter_map(|e| tree.peek(&listing.child_path(e.name))));
            }
            listings.push(listing);
        }
        let relative = |listing: &Directory| {
            listing.path.get(root.len()..).unwrap_or("").trim_start_matches('/').to_owned()
        };
        listings.sort_by(|a, b| folder_order(&relative(a), &relative(b)));
        let images = listings
            .iter()
            .any(|listing| listing.iter().any(|e| is_file(e.kind) && is_loaded(e.name)));
        let mut set =
            Self { root: root.into(), folders: Vec::new(), by_path: HashMap::new(), len: 0 };
        for listing in listings {
            set.add(listing, images)?;
        }
        (set.len > 0).then_some(set)
    }

    fn add(&mut self, listing: Arc<Directory>, images: bool) -> Option<()> {
        let takes = |index: &usize| {
            let entry = listing.entry(*index);
            is_file(entry.kind) && (!images || is_loaded(entry.name))
        };
        let count = (0..listing.len()).filter(takes).count();
        if count == 0 {
            return Some(());
        }
        let chosen = (count < listing.len()).then(|| {
            let indexes = (0..listing.len()).filter(takes);
            indexes.map(|index| u32::try_from(index).unwrap_or(u32::MAX)).collect()
        });
        let first = self.len;
        self.len = first.checked_add(u32::try_from(count).ok()?)?;
        self.by_path.insert(Arc::clone(&listing.path), self.folders.len());
        self.folders.push(Folder { listing, first, chosen });
        Some(())
    }

    /// How many files.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// How many folders with files.
    pub(crate) fn folders(&self) -> usize {
        self.folders.len()
    }

    /// True if the other set numbers the same files in the same versions. Cost: nothing while the
    /// listings are the same, else a comparison of names.
    pub(crate) fn same_files(&self, other: &Self) -> bool {
        let same = |(a, b): (&Folder, &Folder)| {
            Arc::ptr_eq(&a.listing, &b.listing)
                || (a.listing.path == b.listing.path && a.listing.same_entries(&b.listing))
        };
        (&self.root, self.len, self.folders.len()) == (&other.root, other.len, other.folders.len())
            && self.folders.iter().zip(&other.folders).all(same)
    }

    /// True if files of this folder belong to the set.
    pub(crate) fn has_folder(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }

    /// The position of a file of folder `parent`. `None`: not in the set, or not as listed then.
    pub(crate) fn position(&self, parent: &str, object: &Object) -> Option<u32> {
        let folder = &self.folders[*self.by_path.get(parent)?];
        let name = object.key.rsplit('/').next().unwrap_or(&object.key);
        let entry = folder.listing.find(name)?;
        match folder.listing.entry(entry).kind {
            EntryKind::File(version) if version == object.version.as_ref() => {}
            _ => return None,
        }
        Some(folder.first + folder.place_of(entry)?)
    }

    /// The position of the file at `path`, which is relative to the set's folder.
    pub(crate) fn position_of_path(&self, path: &str) -> Option<u32> {
        let path = path.trim_matches('/');
        let (below, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = match (&*self.root, below) {
            (root, "") => root.to_owned(),
            ("", below) => below.to_owned(),
            (root, below) => format!("{root}/{below}"),
        };
        let folder = &self.folders[*self.by_path.get(folder.as_str())?];
        Some(folder.first + folder.place_of(folder.listing.find(name)?)?)
    }

    fn entry(&self, position: u32) -> Option<(&Directory, usize)> {
        let after = self.folders.partition_point(|folder| folder.first <= position);
        let folder = self.folders.get(after.checked_sub(1)?)?;
        let place = position - folder.first;
        (place < folder.len()).then(|| (&*folder.listing, folder.entry_at(place)))
    }

    /// The object at a position. Cost: a binary search over folders and one allocation.
    pub(crate) fn object(&self, position: u32) -> Option<Object> {
        let (listing, entry) = self.entry(position)?;
        listing.object(entry)
    }

    /// The path in the tree of the folder of the file at a position.
    pub(crate) fn folder(&self, position: u32) -> Option<&str> {
        Some(&self.entry(position)?.0.path)
    }

    /// The path in the tree of the file at a position.
    pub(crate) fn path(&self, position: u32) -> Option<String> {
        let (listing, entry) = self.entry(position)?;
        Some(listing.child_path(listing.entry(entry).name))
    }

    /// The hash of every object's id, and its position, by position.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        (0..self.len).filter_map(|position| {
            let (listing, entry) = self.entry(position)?;
            Some((listing.object_id(entry)?.hash64(), position))
        })
    }

    /// The position of every object by the hash of its id. Cost: 12 bytes and one hash a file.
    pub(crate) fn by_id(&self) -> Vec<(u64, u32)> {
        let mut table: Vec<_> = self.ids().collect();
        table.sort_unstable();
        table
    }
}

/// The position of `id` in a table of [`DataSet::by_id`].
pub(crate) fn position_in(table: &[(u64, u32)], id: &ObjectId) -> Option<u32> {
    let at = table.binary_search_by_key(&id.hash64(), |(hash, _)| *hash).ok()?;
    Some(table[at].1)
}

fn is_file(kind: EntryKind<'_>) -> bool {
    matches!(kind, EntryKind::File(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FixedTree;

    fn keys(set: &DataSet) -> Vec<String> {
        (0..set.len()).map(|at| set.object(at).expect("in range").key.to_string()).collect()
    }

    #[test]
    fn files_are_numbered_as_loaders_sort_them() {
        let tree = FixedTree::new(&[
            "train/a/2.jpg",
            "train/a/10.jpg",
            "train/a-b/1.jpg",
            "train/a/deep/1.jpg",
            "train/b/1.JPEG",
            "train/b/notes.txt",
            "train/labels.csv",
            "val/a/1.jpg",
        ]);
        let set = DataSet::build(&tree, "train", false).expect("files");
        assert_eq!(
            keys(&set),
            [
                "train/a/10.jpg",
                "train/a/2.jpg",
                "train/a/deep/1.jpg",
                "train/a-b/1.jpg",
                "train/b/1.JPEG"
            ]
        );
        for at in 0..set.len() {
            let object = set.object(at).expect("in range");
            let parent = object.key.rsplit_once('/').expect("in a folder").0;
            assert_eq!(set.position(parent, &object), Some(at));
        }
        assert_eq!(set.object(5), None);
        assert_eq!(set.position_of_path("a/deep/1.jpg"), Some(2));
        assert_eq!(set.position_of_path("/b/1.JPEG"), Some(4));
        assert_eq!(set.position_of_path("b/notes.txt"), None);
        assert_eq!(set.position_of_path("absent/1.jpg"), None);
        let table = set.by_id();
        let third = set.object(3).expect("in range");
        assert_eq!(position_in(&table, &third.id()), Some(3));
    }

    #[test]
    fn without_an_image_every_file_counts_and_a_flat_set_ends_at_its_folder() {
        let tree = FixedTree::new(&["d/b.npz", "d/a.npz", "d/e/c.npz"]);
        let all = DataSet::build(&tree, "d", false).expect("files");
        assert_eq!(keys(&all), ["d/a.npz", "d/b.npz", "d/e/c.npz"]);
        let flat = DataSet::build(&tree, "d", true).expect("files");
        assert_eq!(keys(&flat), ["d/a.npz", "d/b.npz"]);
        assert!(DataSet::build(&tree, "absent", false).is_none());
    }

    #[test]
    fn another_version_has_no_position() {
        let tree = FixedTree::new(&["d/a"]);
        let set = DataSet::build(&tree, "d", false).expect("files");
        let mut object = set.object(0).expect("one file");
        assert_eq!(set.position("d", &object), Some(0));
        object.version.modified_ms += 1;
        assert_eq!(set.position("d", &object), None);
    }
}
