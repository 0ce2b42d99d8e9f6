//! A directory: the complete, immutable listing of one prefix, sorted by name.
//!
//! Names lie end to end in one text; what is known of the objects lies beside it in columns, each
//! as wide as its numbers need: about 26 bytes for an object with an MD5 tag, beyond its name. A
//! refreshed listing is a new `Directory`.

use std::sync::Arc;

use crate::column::Column;
use crate::object::{ETag, ETagRef, Object, ObjectId, ObjectRef, SourceId, Version, VersionRef};

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind<'a> {
    /// A directory below this one.
    Directory,
    /// An object, in the version listed.
    File(VersionRef<'a>),
}

/// One entry of a directory, borrowed from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRef<'a> {
    /// The last part of the path: no slash, not empty, not `.` or `..`, at most 255 bytes.
    pub name: &'a str,
    /// Directory or object.
    pub kind: EntryKind<'a>,
}

/// Kinds of entries, by what their tags are.
mod kind {
    pub(super) const DIRECTORY: u64 = 0;
    pub(super) const MD5: u64 = 1;
    pub(super) const OTHER_TAG: u64 = 2;
    pub(super) const NO_TAG: u64 = 3;
}

/// Bytes of an MD5 tag.
const MD5_BYTES: usize = 16;

/// What is known of the entries beyond their names. A directory's size and time are those that take
/// the least room.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Records {
    kinds: Column,
    sizes: Column,
    /// Moved up so that times before 1970 sort before the others, as unsigned numbers.
    modified: Column,
    /// All tags, end to end.
    tags: Box<[u8]>,
    /// Where each entry's tag ends; `None` if every entry has an MD5 tag.
    tag_ends: Option<Column>,
}

/// The complete listing of one directory of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Path in the tree, without slashes at the ends; `""` is the root.
    pub path: Arc<str>,
    /// Where its objects live: the source and the key prefix that a name is appended to (it ends
    /// in `/` or is empty). `None` for a directory that only leads to mounted buckets.
    pub origin: Option<(SourceId, Arc<str>)>,
    /// When the listing was taken, in milliseconds since 1970.
    pub listed_ms: u64,
    /// When an entry was last seen to change, in milliseconds since 1970: the directory's mtime.
    pub changed_ms: u64,
    /// Every key with the origin's prefix is shown, here or in a directory below: none is hidden because
    /// it is no path. False if that is not known.
    pub is_whole: bool,
    /// How long the kernel may rely on this listing, counted from `listed_ms`, in milliseconds.
    pub ttl_ms: u64,
    /// Shared with the listing before it if nothing changed.
    entries: Arc<Entries>,
}

/// What is listed.
#[derive(Debug, PartialEq, Eq)]
struct Entries {
    len: usize,
    /// All names, end to end.
    names: Box<str>,
    /// Where each name ends.
    name_ends: Column,
    records: Records,
}

/// Times before 1970 are negative; this maps them to unsigned numbers in the same order, and back.
const fn flip_sign(number: u64) -> u64 {
    number ^ (1 << 63)
}

impl Records {
    fn of(entries: &[Draft]) -> Self {
        let files = || entries.iter().filter_map(|entry| entry.file.as_ref());
        let least_size = files().map(|version| version.size).min().unwrap_or(0);
        let time = |version: &Version| flip_sign(version.modified_ms.cast_unsigned());
        let least_time = files().map(time).min().unwrap_or(0);
        let files = entries.iter().map(|entry| entry.file.as_ref());
        let kinds = Column::of(files.clone().map(|file| match file.map(|version| &version.etag) {
            None => kind::DIRECTORY,
            Some(ETag::Md5(_)) => kind::MD5,
            Some(ETag::Other(_)) => kind::OTHER_TAG,
            Some(ETag::Absent) => kind::NO_TAG,
        }));
        let sizes =
            Column::of(files.clone().map(|file| file.map_or(least_size, |version| version.size)));
        let modified = Column::of(files.map(|file| file.map_or(least_time, time)));
        let tag = |entry: &Draft| match entry.file.as_ref().map(|version| &version.etag) {
            Some(ETag::Md5(_)) => MD5_BYTES,
            Some(ETag::Other(text)) => text.len(),
            Some(ETag::Absent) | None => 0,
        };
        let mut tags = Vec::with_capacity(entries.iter().map(tag).sum());
        for entry in entries {
            match entry.file.as_ref().map(|version| &version.etag) {
                Some(ETag::Md5(digest)) => tags.extend_from_slice(digest),
                Some(ETag::Other(text)) => tags.extend_from_slice(text.as_bytes()),
                Some(ETag::Absent) | None => {}
            }
        }
        let all_md5 = tags.len() == entries.len() * MD5_BYTES
            && (0..entries.len()).all(|index| kinds.get(index) == kind::MD5);
        let ends = entries.iter().scan(0, |end, entry| {
            *end += tag(entry) as u64;
            Some(*end)
        });
        let tag_ends = if all_md5 { None } else { Some(Column::of(ends)) };
        Self { kinds, sizes, modified, tags: tags.into(), tag_ends }
    }

    fn tag(&self, index: usize) -> &[u8] {
        let Some(ends) = &self.tag_ends else {
            return &self.tags[index * MD5_BYTES..][..MD5_BYTES];
        };
        let start = if index == 0 { 0 } else { ends.get(index - 1) as usize };
        &self.tags[start..ends.get(index) as usize]
    }

    fn version(&self, index: usize) -> Option<VersionRef<'_>> {
        let etag = match self.kinds.get(index) {
            kind::DIRECTORY => return None,
            kind::MD5 => self.tag(index).try_into().map_or(ETagRef::Absent, ETagRef::Md5),
            // It was put in as text.
            kind::OTHER_TAG => {
                std::str::from_utf8(self.tag(index)).map_or(ETagRef::Absent, ETagRef::Other)
            }
            _ => ETagRef::Absent,
        };
        let modified_ms = flip_sign(self.modified.get(index)).cast_signed();
        Some(VersionRef { size: self.sizes.get(index), modified_ms, etag })
    }
}

impl Directory {
    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.len == 0
    }

    /// The entry at `index` in name order.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`Directory::len`].
    #[must_use]
    pub fn entry(&self, index: usize) -> EntryRef<'_> {
        let kind = self.version(index).map_or(EntryKind::Directory, EntryKind::File);
        EntryRef { name: self.name(index), kind }
    }

    /// The name of the entry at `index`.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`Directory::len`].
    #[must_use]
    pub fn name(&self, index: usize) -> &str {
        let Entries { len, names, name_ends, .. } = &*self.entries;
        assert!(index < *len, "{index} of {len} entries");
        let start = if index == 0 { 0 } else { name_ends.get(index - 1) as usize };
        &names[start..name_ends.get(index) as usize]
    }

    /// The version of the object at `index`, or `None` if that is a directory.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`Directory::len`].
    #[must_use]
    pub fn version(&self, index: usize) -> Option<VersionRef<'_>> {
        let Entries { len, records, .. } = &*self.entries;
        assert!(index < *len, "{index} of {len} entries");
        records.version(index)
    }

    /// The index of the entry called `name`. Cost: a binary search.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.name(middle).cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// The object at `index`, or `None` if that is a directory.
    #[must_use]
    pub fn object(&self, index: usize) -> Option<Object> {
        self.object_ref(index).map(|object| object.to_object())
    }

    /// The same, borrowed: for its id, or to make it only if need be.
    #[must_use]
    pub fn object_ref(&self, index: usize) -> Option<ObjectRef<'_>> {
        let version = self.version(index)?;
        let (source, prefix) = self.origin.as_ref()?;
        Some(ObjectRef { source: *source, key_parts: [prefix, self.name(index)], version })
    }

    /// The id of the object at `index`: what [`Object::id`] of [`Directory::object`] gives, without
    /// making the object. `None` if that is a directory. Cost: one 128-bit hash, no allocation.
    #[must_use]
    pub fn object_id(&self, index: usize) -> Option<ObjectId> {
        self.object_ref(index).map(|object| object.id())
    }

    /// The path in the tree of the entry called `name`.
    #[must_use]
    pub fn child_path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }

    /// All entries in name order.
    pub fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        (0..self.len()).map(|index| self.entry(index))
    }

    /// True if both list the same names in the same versions.
    #[must_use]
    pub fn same_entries(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entries, &other.entries) || self.entries == other.entries
    }

    /// Takes the entries of `before` in place of its own if they are the same, so that listing again
    /// what did not change takes no memory. True if they are.
    pub fn share_entries(&mut self, before: &Self) -> bool {
        let same = self.same_entries(before);
        if same {
            self.entries = Arc::clone(&before.entries);
        }
        same
    }

    /// Bytes of memory that the entries take beyond their names.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        let Records { kinds, sizes, modified, tags, tag_ends } = &self.entries.records;
        let columns = [kinds, sizes, modified, &self.entries.name_ends];
        columns.into_iter().chain(tag_ends).map(Column::heap_bytes).sum::<usize>() + tags.len()
    }

    /// Milliseconds for which the listing may still be relied on at `now_ms`; 0 when outdated.
    #[must_use]
    pub fn fresh_ms(&self, now_ms: u64) -> u64 {
        (self.listed_ms + self.ttl_ms).saturating_sub(now_ms)
    }
}

/// One entry being collected.
#[derive(Debug)]
struct Draft {
    /// Where its name lies in the text of the builder.
    start: usize,
    end: usize,
    file: Option<Version>,
}

/// Collects entries in any order and makes a sorted [`Directory`] of them.
#[derive(Debug)]
pub struct DirectoryBuilder {
    names: String,
    entries: Vec<Draft>,
    /// Each name added so far is greater than the one before.
    sorted: bool,
}

impl Default for DirectoryBuilder {
    fn default() -> Self {
        Self { names: String::new(), entries: Vec::new(), sorted: true }
    }
}

impl DirectoryBuilder {
    /// Starts empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    pub fn directory(&mut self, name: &str) {
        self.add(name, None);
    }

    /// Adds an object.
    pub fn file(&mut self, name: &str, version: Version) {
        self.add(name, Some(version));
    }

    fn add(&mut self, name: &str, file: Option<Version>) {
        if let Some(last) = self.entries.last() {
            self.sorted &= self.names[last.start..last.end] < *name;
        }
        let start = self.names.len();
        self.names.push_str(name);
        self.entries.push(Draft { start, end: self.names.len(), file });
    }

    /// Sorts and joins. Where a directory and an object share a name, the directory stays and the
    /// object's name is returned: it cannot be shown. A name added twice stays once.
    ///
    /// Cost: nothing is sorted or copied if the names came in order, as stores give them.
    #[must_use]
    pub fn build(
        mut self,
        path: &str,
        origin: Option<(SourceId, Arc<str>)>,
        listed_ms: u64,
        ttl_ms: u64,
    ) -> (Directory, Vec<Box<str>>) {
        let shadowed = if self.sorted { Vec::new() } else { self.sort() };
        let ends = self.entries.iter().map(|entry| entry.end as u64);
        let directory = Directory {
            path: path.into(),
            origin,
            listed_ms,
            changed_ms: listed_ms,
            is_whole: false,
            ttl_ms,
            entries: Arc::new(Entries {
                len: self.entries.len(),
                name_ends: Column::of(ends),
                records: Records::of(&self.entries),
                names: self.names.into(),
            }),
        };
        (directory, shadowed)
    }

    /// Puts the entries in order, each name once. Returns the names of objects that a directory
    /// shadows.
    fn sort(&mut self) -> Vec<Box<str>> {
        let unsorted = std::mem::take(&mut self.names);
        let name = |entry: &Draft| &unsorted[entry.start..entry.end];
        // Directories first among equal names, so that a shadowed object comes second.
        self.entries.sort_by(|a, b| (name(a), a.file.is_some()).cmp(&(name(b), b.file.is_some())));
        let mut shadowed = Vec::new();
        let mut names = String::with_capacity(unsorted.len());
        let mut last: Option<(&str, bool)> = None;
        self.entries.retain_mut(|entry| {
            let name = &unsorted[entry.start..entry.end];
            if let Some((last_name, last_is_file)) = last
                && last_name == name
            {
                if entry.file.is_some() && !last_is_file {
                    shadowed.push(name.into());
                }
                return false;
            }
            last = Some((name, entry.file.is_some()));
            entry.start = names.len();
            names.push_str(name);
            entry.end = names.len();
            true
        });
        self.names = names;
        shadowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ETag;

    fn version(size: u64) -> Version {
        Version { size, modified_ms: 0, etag: ETag::Absent }
    }

    #[test]
    fn entries_come_sorted_and_are_found() {
        let mut builder = DirectoryBuilder::new();
        builder.file("b", version(2));
        builder.directory("c");
        builder.file("a", version(1));
        let origin = Some((SourceId(1), "p/".into()));
        let (directory, shadowed) = builder.build("x", origin, 10, 5);
        assert!(shadowed.is_empty());
        let names: Vec<_> = directory.iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(directory.find("b"), Some(1));
        assert_eq!(directory.find("bb"), None);
        assert_eq!(&*directory.object(1).expect("b is an object").key, "p/b");
        assert_eq!(directory.object(2), None);
        assert_eq!(directory.fresh_ms(12), 3);
        assert_eq!(directory.fresh_ms(20), 0);
    }

    #[test]
    fn versions_of_every_kind_come_back_and_so_do_their_ids() {
        let tags = [
            ETag::Md5([7; 16]),
            ETag::Other("0123-4".into()),
            ETag::Absent,
            ETag::Other("t".repeat(600).into()),
        ];
        for only in [None, Some(0), Some(1), Some(2)] {
            let mut builder = DirectoryBuilder::new();
            let mut expected = Vec::new();
            for (index, etag) in tags.iter().cycle().take(40).enumerate() {
                if only.is_some_and(|only| only != index % tags.len()) {
                    continue;
                }
                let size = [0, 7, u64::MAX, 1 << 33][index / 3 % 4];
                let modified_ms = [0, -5, i64::MAX, i64::MIN, 1_000][index % 5];
                let version = Version { size, modified_ms, etag: etag.clone() };
                builder.file(&format!("f{index:02}"), version.clone());
                expected.push(Some(version));
            }
            if only.is_none() {
                builder.directory("z");
                expected.push(None);
            }
            let origin = Some((SourceId(3), "p/".into()));
            let (directory, _) = builder.build("p", origin, 0, 0);
            assert_eq!(directory.len(), expected.len());
            for (index, version) in expected.iter().enumerate() {
                let object = directory.object(index);
                assert_eq!(object.as_ref().map(|object| &object.version), version.as_ref());
                assert_eq!(directory.object_id(index), object.map(|object| object.id()));
            }
        }
    }

    #[test]
    fn a_thousand_images_take_26_bytes_each_beyond_their_names() {
        let mut builder = DirectoryBuilder::new();
        for index in 0..1_000_u64 {
            let etag = ETag::Md5([index as u8; 16]);
            let modified_ms = 1_700_000_000_000 + (index as i64) * 90_000;
            let version = Version { size: 50_000 + index * 100, modified_ms, etag };
            builder.file(&format!("ILSVRC2012_{index:08}.JPEG"), version);
        }
        let (directory, _) = builder.build("n01440764", None, 0, 0);
        assert_eq!(directory.record_bytes(), 26_000);
    }

    #[test]
    fn the_order_of_collecting_does_not_matter() {
        let names = ["a", "b", "b-c", "bb", "é"];
        let build = |order: &mut dyn Iterator<Item = &&str>| {
            let mut builder = DirectoryBuilder::new();
            order.for_each(|name| builder.file(name, version(name.len() as u64)));
            builder.build("", None, 0, 0).0
        };
        let (forth, back) = (build(&mut names.iter()), build(&mut names.iter().rev()));
        assert!(forth.same_entries(&back));
        assert_eq!(forth, back);
        let mut again = back;
        assert!(again.share_entries(&forth) && Arc::ptr_eq(&again.entries, &forth.entries));
        let mut other = build(&mut names[1..].iter());
        assert!(!other.share_entries(&forth));
        assert_eq!(other.len(), names.len() - 1);
    }

    #[test]
    fn a_directory_shadows_an_object_of_its_name() {
        let mut builder = DirectoryBuilder::new();
        builder.file("a", version(1));
        builder.directory("a");
        builder.directory("a");
        let (directory, shadowed) = builder.build("", None, 0, 0);
        assert_eq!(directory.len(), 1);
        assert_eq!(directory.entry(0).kind, EntryKind::Directory);
        assert_eq!(&*shadowed[0], "a");
        assert_eq!(shadowed.len(), 1);
    }
}
