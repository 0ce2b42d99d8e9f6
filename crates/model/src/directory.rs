//! A directory: the complete, immutable listing of one prefix, sorted by name.
//!
//! Names lie end to end in one text, and a record of 48 bytes follows each, so that a million
//! entries are two allocations. A refreshed listing is a new `Directory`.

use std::sync::Arc;

use crate::object::{Object, SourceId, Version};

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind<'a> {
    /// A directory below this one.
    Directory,
    /// An object, in the version listed.
    File(&'a Version),
}

/// One entry of a directory, borrowed from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRef<'a> {
    /// The last part of the path: no slash, not empty, not `.` or `..`, at most 255 bytes.
    pub name: &'a str,
    /// Directory or object.
    pub kind: EntryKind<'a>,
}

/// Where an entry's name ends in the joined names, and its version if it is an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    name_end: u32,
    file: Option<Version>,
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
    /// How long the kernel may rely on this listing, counted from `listed_ms`, in milliseconds.
    pub ttl_ms: u64,
    names: Box<str>,
    records: Box<[Record]>,
}

impl Directory {
    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The entry at `index` in name order.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`Directory::len`].
    #[must_use]
    pub fn entry(&self, index: usize) -> EntryRef<'_> {
        let kind = match &self.records[index].file {
            Some(version) => EntryKind::File(version),
            None => EntryKind::Directory,
        };
        EntryRef { name: self.name(index), kind }
    }

    fn name(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.records[index - 1].name_end as usize };
        &self.names[start..self.records[index].name_end as usize]
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
        let version = self.records[index].file.clone()?;
        let (source, prefix) = self.origin.as_ref()?;
        let key = format!("{prefix}{}", self.name(index)).into();
        Some(Object { source: *source, key, version })
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
        self.names == other.names && self.records == other.records
    }

    /// Milliseconds for which the listing may still be relied on at `now_ms`; 0 when outdated.
    #[must_use]
    pub fn fresh_ms(&self, now_ms: u64) -> u64 {
        (self.listed_ms + self.ttl_ms).saturating_sub(now_ms)
    }
}

/// Collects entries in any order and makes a sorted [`Directory`] of them.
#[derive(Debug, Default)]
pub struct DirectoryBuilder {
    entries: Vec<(Box<str>, Option<Version>)>,
}

impl DirectoryBuilder {
    /// Starts empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    pub fn directory(&mut self, name: &str) {
        self.entries.push((name.into(), None));
    }

    /// Adds an object.
    pub fn file(&mut self, name: &str, version: Version) {
        self.entries.push((name.into(), Some(version)));
    }

    /// Sorts and joins. Where a directory and an object share a name, the directory stays and the
    /// object's name is returned: it cannot be shown. A name added twice stays once.
    #[must_use]
    pub fn build(
        mut self,
        path: &str,
        origin: Option<(SourceId, Arc<str>)>,
        listed_ms: u64,
        ttl_ms: u64,
    ) -> (Directory, Vec<Box<str>>) {
        // Directories first among equal names, so that a shadowed object comes second.
        self.entries.sort_by(|a, b| (&a.0, a.1.is_some()).cmp(&(&b.0, b.1.is_some())));
        let mut shadowed = Vec::new();
        let mut names =
            String::with_capacity(self.entries.iter().map(|(name, _)| name.len()).sum());
        let mut records: Vec<Record> = Vec::with_capacity(self.entries.len());
        let mut last: Option<(Box<str>, bool)> = None;
        for (name, file) in self.entries {
            if let Some((last_name, last_is_file)) = &last
                && *last_name == name
            {
                if file.is_some() && !last_is_file {
                    shadowed.push(name);
                }
                continue;
            }
            names.push_str(&name);
            last = Some((name, file.is_some()));
            let name_end =
                u32::try_from(names.len()).expect("a directory holds under 4 GiB of names");
            records.push(Record { name_end, file });
        }
        let directory = Directory {
            path: path.into(),
            origin,
            listed_ms,
            changed_ms: listed_ms,
            ttl_ms,
            names: names.into(),
            records: records.into(),
        };
        (directory, shadowed)
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
