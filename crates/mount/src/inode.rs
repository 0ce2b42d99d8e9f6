//! The inodes that the kernel knows, by number.
//!
//! A number belongs to one *version* of an object (it is derived from the object's id), or to the
//! path of a directory. So a changed object is another inode, and what is open or mapped of the old
//! one stays whole.
//!
//! # Invariants
//!
//! - An entry lives while the kernel has looked it up more often than it forgot it, or while a
//!   handle is open. The root lives for ever.
//! - Two live identities never share a number: on a collision of the 64-bit hashes the next free
//!   number is taken.
//!
//! # Deliberately absent
//!
//! - No bound of its own: the kernel decides what it remembers, and forgets under memory pressure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use feedline_model::{Directory, Object, ObjectId, ObjectRef};
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::mode::OpenState;

/// The inode number of the root, fixed by FUSE.
pub(crate) const ROOT: u64 = 1;

/// Shards of the table: a few times the request threads, so that they seldom meet.
const SHARDS: usize = 64;

/// What an inode stands for.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A directory of the tree.
    Directory {
        /// Its path in the tree.
        path: Arc<str>,
        /// Listings that a reader is in the middle of.
        begun: Mutex<Vec<Arc<Directory>>>,
    },
    /// One version of an object.
    File {
        /// The object.
        object: Object,
        /// Its id.
        id: ObjectId,
        /// The directory through which it was found.
        parent: Arc<str>,
    },
}

/// One inode.
#[derive(Debug)]
pub(crate) struct Inode<B> {
    /// Its number.
    pub(crate) number: u64,
    /// What it stands for.
    pub(crate) kind: Kind,
    /// How it is open.
    pub(crate) open: Mutex<OpenState<B>>,
    /// The kernel may hold pages of it that we answered.
    pub(crate) has_pages: AtomicBool,
}

impl<B> Inode<B> {
    fn is(&self, identity: &Identity<'_>) -> bool {
        match (&self.kind, identity) {
            (Kind::Directory { path, .. }, Identity::Directory(other)) => path == *other,
            (Kind::File { id, .. }, Identity::File { id: other, .. }) => id == *other,
            _ => false,
        }
    }
}

/// Who an inode is to be for.
#[derive(Debug)]
pub(crate) enum Identity<'a> {
    /// The directory with this path.
    Directory(&'a Arc<str>),
    /// One version of an object, as listed. It is made an object only if it has no inode yet.
    File {
        /// The object.
        object: ObjectRef<'a>,
        /// Its id.
        id: &'a ObjectId,
        /// The directory's path.
        parent: &'a Arc<str>,
    },
}

impl Identity<'_> {
    /// The number it has unless another identity took that.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Self::Directory(path) if path.is_empty() => ROOT,
            Self::Directory(path) => usable(hash_path(path)),
            Self::File { id, .. } => usable(id.hash64()),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Directory(path) => {
                Kind::Directory { path: Arc::clone(path), begun: Mutex::default() }
            }
            Self::File { object, id, parent } => {
                Kind::File { object: object.to_object(), id: **id, parent: Arc::clone(parent) }
            }
        }
    }
}

/// 0 means "no inode" to the kernel and 1 is the root.
fn usable(number: u64) -> u64 {
    if number <= ROOT { number + 2 } else { number }
}

/// FNV-1a, then a final mix (both fixed for ever: a directory keeps its number over a remount).
fn hash_path(path: &str) -> u64 {
    let folded = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (folded ^ (folded >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[derive(Debug)]
struct Entry<B> {
    inode: Arc<Inode<B>>,
    lookups: u64,
}

type Shard<B> = Mutex<HashMap<u64, Entry<B>>>;

/// All inodes that the kernel knows.
#[derive(Debug)]
pub(crate) struct InodeTable<B> {
    shards: Box<[Shard<B>]>,
    len: AtomicUsize,
}

impl<B> InodeTable<B> {
    /// A table that knows the root.
    pub(crate) fn new() -> Self {
        let table = Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            len: AtomicUsize::new(0),
        };
        let _ = table.look_up(&Identity::Directory(&Arc::from("")));
        table
    }

    fn shard(&self, number: u64) -> &Shard<B> {
        // The low bits vary as well as any, being of a hash.
        &self.shards[(number % SHARDS as u64) as usize]
    }

    /// The inode with this number.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<Inode<B>>> {
        self.shard(number).lock().get(&number).map(|entry| Arc::clone(&entry.inode))
    }

    /// The inode of `identity`, made if needed, and counts one lookup by the kernel.
    pub(crate) fn look_up(&self, identity: &Identity<'_>) -> Arc<Inode<B>> {
        self.look_up_from(identity.number(), identity)
    }

    fn look_up_from(&self, first: u64, identity: &Identity<'_>) -> Arc<Inode<B>> {
        let mut number = first;
        loop {
            let mut shard = self.shard(number).lock();
            match shard.get_mut(&number) {
                Some(entry) if entry.inode.is(identity) => {
                    entry.lookups += 1;
                    return Arc::clone(&entry.inode);
                }
                Some(_) => number = usable(number.wrapping_add(1)),
                None => {
                    let inode = Arc::new(Inode {
                        number,
                        kind: identity.kind(),
                        open: Mutex::default(),
                        has_pages: AtomicBool::new(false),
                    });
                    shard.insert(number, Entry { inode: Arc::clone(&inode), lookups: 1 });
                    self.len.fetch_add(1, Ordering::Relaxed);
                    return inode;
                }
            }
        }
    }

    /// The live inode of `identity`, without counting a lookup.
    pub(crate) fn find(&self, identity: &Identity<'_>) -> Option<Arc<Inode<B>>> {
        self.find_by(identity.number(), |inode| inode.is(identity))
    }

    /// The live inode of the object with this id.
    pub(crate) fn find_object(&self, wanted: &ObjectId) -> Option<Arc<Inode<B>>> {
        self.find_by(
            usable(wanted.hash64()),
            |inode| matches!(&inode.kind, Kind::File { id, .. } if id == wanted),
        )
    }

    fn find_by(&self, first: u64, is: impl Fn(&Inode<B>) -> bool) -> Option<Arc<Inode<B>>> {
        let mut number = first;
        loop {
            let inode = self.get(number)?;
            if is(&inode) {
                return Some(inode);
            }
            number = usable(number.wrapping_add(1));
        }
    }

    /// Takes back `count` lookups; the entry goes when none is left and no handle is open. What is
    /// returned must be dropped by the caller, outside any lock: it may hold a backing id.
    pub(crate) fn forget(&self, number: u64, count: u64) -> Option<Arc<Inode<B>>> {
        if number == ROOT {
            return None;
        }
        let mut shard = self.shard(number).lock();
        let entry = shard.get_mut(&number)?;
        entry.lookups = entry.lookups.saturating_sub(count);
        if entry.lookups > 0 || entry.inode.open.lock().in_use() {
            return None;
        }
        let entry = shard.remove(&number)?;
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(entry.inode)
    }

    /// How many inodes the kernel knows, the root included.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use feedline_model::{ETagRef, SourceId, VersionRef};

    use super::*;

    fn object(key: &str) -> ObjectRef<'_> {
        let version = VersionRef { size: 1, modified_ms: 0, etag: ETagRef::Absent };
        ObjectRef { source: SourceId(1), key_parts: ["", key], version }
    }

    #[test]
    fn an_inode_goes_when_every_lookup_is_forgotten() {
        let table = InodeTable::<u32>::new();
        let path: Arc<str> = "a/b".into();
        let inode = table.look_up(&Identity::Directory(&path));
        assert_eq!(table.look_up(&Identity::Directory(&path)).number, inode.number);
        assert_eq!(table.len(), 2);
        assert!(table.forget(inode.number, 1).is_none());
        assert!(table.forget(inode.number, 1).is_some());
        assert!(table.get(inode.number).is_none());
        assert!(table.forget(ROOT, 100).is_none());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn two_identities_of_one_hash_get_two_numbers() {
        let table = InodeTable::<u32>::new();
        let parent: Arc<str> = "".into();
        let (a, b) = (object("a"), object("b"));
        let (id_a, id_b) = (a.id(), b.id());
        let of_a = Identity::File { object: a, id: &id_a, parent: &parent };
        let of_b = Identity::File { object: b, id: &id_b, parent: &parent };
        // The number that `b` would have is taken by `a`.
        let first = of_b.number();
        assert_eq!(table.look_up_from(first, &of_a).number, first);
        let inode = table.look_up(&of_b);
        assert_eq!(inode.number, first + 1);
        assert_eq!(table.look_up(&of_b).number, first + 1);
        assert_eq!(table.find_object(&id_b).expect("live").number, first + 1);
    }

    #[test]
    fn an_open_inode_outlives_its_last_lookup() {
        let table = InodeTable::<u32>::new();
        let path: Arc<str> = "d".into();
        let inode = table.look_up(&Identity::Directory(&path));
        let _ = inode.open.lock().begin(true);
        assert!(table.forget(inode.number, 1).is_none());
        let _ = inode.open.lock().settle(None);
        assert!(inode.open.lock().release());
        assert!(table.forget(inode.number, 0).is_some());
    }
}
