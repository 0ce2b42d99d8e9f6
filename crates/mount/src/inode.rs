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
//! # Bound
//!
//! The kernel decides what it remembers, and forgets under memory pressure. When it remembers more than
//! `inodes_max`, it is asked to drop the names of the files that were not heard of for longest (see
//! [`InodeTable::surplus`]), and answers with FORGETs. A request thread cannot wait for that, so while
//! files are walked faster than names are dropped there are more for a while. Directories are not
//! dropped: a process may stand in one, and would no longer find out where it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use feedline_model::{Directory, Object, ObjectId, ObjectRef};
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::mode::OpenState;

/// The inode number of the root, fixed by FUSE.
pub(crate) const ROOT: u64 = 1;

/// Shards of the table: a few times the request threads, so that they seldom meet.
pub(crate) const SHARDS: usize = 64;

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
    /// When it was last heard of, in [`TICK`]s of inodes made.
    heard: u32,
}

/// Inodes made between two ticks of the table's clock.
const TICK: u64 = 64;

type Shard<B> = Mutex<HashMap<u64, Entry<B>>>;

/// All inodes that the kernel knows.
#[derive(Debug)]
pub(crate) struct InodeTable<B> {
    shards: Box<[Shard<B>]>,
    made: AtomicU64,
    gone: AtomicU64,
}

impl<B> InodeTable<B> {
    /// A table that knows the root.
    pub(crate) fn new() -> Self {
        let table = Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            made: AtomicU64::new(0),
            gone: AtomicU64::new(0),
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
        let mut shard = self.shard(number).lock();
        let entry = shard.get_mut(&number)?;
        entry.heard = self.now();
        Some(Arc::clone(&entry.inode))
    }

    /// Wraps around after 2^38 inodes, which makes a few live longer.
    fn now(&self) -> u32 {
        (self.made.load(Ordering::Relaxed) / TICK) as u32
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
                    entry.heard = self.now();
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
                    let heard = (self.made.fetch_add(1, Ordering::Relaxed) / TICK) as u32;
                    shard.insert(number, Entry { inode: Arc::clone(&inode), lookups: 1, heard });
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
        self.gone.fetch_add(1, Ordering::Relaxed);
        Some(entry.inode)
    }

    /// How many inodes the kernel knows, the root included.
    pub(crate) fn len(&self) -> usize {
        // What is gone was made before, so in this order the difference is never negative.
        let gone = self.gone.load(Ordering::Relaxed);
        self.made.load(Ordering::Relaxed).saturating_sub(gone) as usize
    }

    /// Files that the kernel should forget so that `keep` inodes remain: of one shard, those not
    /// heard of for longest. None that is open. They count as heard of now: who stays, because it is in
    /// use in the kernel, is not named again at once. Cost: a look at each inode of the shard.
    pub(crate) fn surplus(&self, shard: usize, keep: usize) -> Vec<Arc<Inode<B>>> {
        let now = self.now();
        let mut shard = self.shards[shard].lock();
        let count = shard.len().saturating_sub(keep / SHARDS);
        if count == 0 {
            return Vec::new();
        }
        let is_idle = |inode: &Inode<B>| {
            matches!(inode.kind, Kind::File { .. }) && !inode.open.lock().in_use()
        };
        let mut idle: Vec<(u32, u64)> = shard
            .iter()
            .filter(|(_, entry)| is_idle(&entry.inode))
            .map(|(number, entry)| (now.wrapping_sub(entry.heard), *number))
            .collect();
        if count < idle.len() {
            idle.select_nth_unstable_by(count, |a, b| b.cmp(a));
            idle.truncate(count);
        }
        let name = |(_, number)| {
            let entry = shard.get_mut(&number)?;
            entry.heard = now;
            Some(Arc::clone(&entry.inode))
        };
        idle.into_iter().filter_map(name).collect()
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
    fn the_files_not_heard_of_for_longest_are_surplus_and_directories_and_open_files_are_not() {
        let table = InodeTable::<u32>::new();
        let parent: Arc<str> = "".into();
        let look_up = |name: &str| {
            let object = object(name);
            let id = object.id();
            table.look_up(&Identity::File { object, id: &id, parent: &parent })
        };
        let inodes: Vec<_> = (0..10_000).map(|index| look_up(&format!("f{index}"))).collect();
        for index in 0..1_000 {
            table.look_up(&Identity::Directory(&format!("d{index}").into()));
        }
        let heard: Vec<_> = (0..100).map(|index| look_up(&format!("f{index}")).number).collect();
        let open: Vec<_> = inodes[100..200].iter().map(|inode| inode.number).collect();
        inodes[100..200].iter().for_each(|inode| drop(inode.open.lock().begin(true)));
        let mut surplus: Vec<_> =
            (0..SHARDS).flat_map(|shard| table.surplus(shard, 5_000)).collect();
        // 11,001 inodes are known; shards are not all of one size.
        assert!((5_800..6_200).contains(&surplus.len()), "{}", surplus.len());
        assert!(surplus.iter().all(|inode| matches!(inode.kind, Kind::File { .. })));
        assert!(surplus.iter().all(|inode| !open.contains(&inode.number)));
        assert!(surplus.iter().all(|inode| !heard.contains(&inode.number)));
        surplus.drain(..).for_each(|inode| drop(table.forget(inode.number, 1)));
        assert!((0..SHARDS).all(|shard| table.surplus(shard, 5_000).is_empty()));
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
