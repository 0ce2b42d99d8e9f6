//! One cache directory: its layout, its lock, its space, its log and its health.
//!
//! ```text
//! DIR/feedline-cache.json    what this directory is, and in which version
//! DIR/lock                   flock and pid of the daemon that uses it
//! DIR/clean                  only after a clean stop
//! DIR/index.snapshot, index.journal
//! DIR/objects/xx/<32 hex>    complete objects, fanned out by the first byte of the id
//! DIR/partial/pages/<32 hex> large objects that are being filled
//! DIR/partial/w<n>/<32 hex>  small objects that are being written while `objects` is swept, a directory per
//!                            writer
//! ```
//!
//! Invariants: bytes on disk never exceed the quota, because they are reserved first; log entries
//! reach the journal in the order in which the index changed; no lock is held while the disk works,
//! except the journal's own.
//!
//! Deliberately absent: which objects to keep (`evict`) and what is in the index (`maintain`).

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use feedline_model::ObjectId;
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, Mode, OFlags};
use tokio::sync::{Notify, watch};

use crate::config::{CacheDirConfig, CacheError, QUOTA_BYTES_MIN};
use crate::disk::{Disk, Trouble};
use crate::hunt::Hunt;
use crate::index::UNIT_BYTES;
use crate::journal::{self, Entry, JOURNAL_HEADER_BYTES, PUT_BYTES};
use crate::stats::Counter;
use crate::worth::Claim;

const IDENTITY: &str = "feedline-cache.json";
const IDENTITY_NEW: &str = "feedline-cache.json.new";
const IDENTITY_TEXT: &str = "{\"format\":\"feedline-cache\",\"version\":1}\n";
pub(crate) const CLEAN: &str = "clean";
pub(crate) const SNAPSHOT: &str = "index.snapshot";
pub(crate) const SNAPSHOT_NEW: &str = "index.snapshot.new";
pub(crate) const JOURNAL: &str = "index.journal";

/// Files written at once per cache: file creation in one file system scales to a few threads, and
/// each has its own temporary directory, which four writers sharing one would fight over.
pub(crate) const WRITERS: usize = 4;

/// Kept free for the growth of the fan-out directories and the small files, on top of the index.
const HEADROOM_BYTES: u64 = 128 << 10;

/// Reserved with each write for the growth of its fan-out directory, until that is looked at:
/// a split of a full directory adds two blocks.
pub(crate) const GROWTH_BYTES: u64 = 2 * UNIT_BYTES;

/// How long a full disk is left alone: long enough for an operator's cleaning to show, short
/// enough that nobody restarts for it.
const FULL_MS: u64 = 30_000;

/// Log entries gathered while writers are busy: 60 objects, which a kill would lose. The `write(2)`
/// is a thousandth of what these objects cost.
const PENDING_BYTES: usize = 2 << 10;

/// `f_type` of overlayfs: its copy-up and rename semantics, and no passthrough on top of it.
const OVERLAYFS: i64 = 0x794c_7630;

/// How the directory was found.
///
/// A clean stop syncs nothing: the marker names the boot, and while the machine has not been
/// rebooted the kernel has every byte that was written, on disk or not. After a reboot the index
/// is whole (the file system keeps the order of marker and renames, and the index has checksums),
/// and the content of each object is verified when it is first opened: 50 us for 110 KB, unnoticed
/// beside reading them from disk. Waiting at the stop for all that is dirty on the file system
/// took seconds, anybody's dirty data included.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Found {
    /// New or empty: nothing to load.
    Fresh,
    /// Stopped in order, in this boot of the machine.
    Clean,
    /// Stopped in order, and the machine was rebooted since: the index is believed, the contents
    /// are not.
    Rebooted,
    /// Anything else: besides, there may be files that the index does not know.
    Unclean,
}

/// What the kernel calls this boot; `None` (no `/proc`) is like no other.
fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Takes the clean marker away and says what it meant. Without a sync: a marker that comes back
/// after a crash is of another boot.
fn take_marker(dir: &Path) -> io::Result<Found> {
    let path = dir.join(CLEAN);
    let found = match std::fs::read(&path) {
        Ok(text) if boot_id().is_some_and(|boot| text.trim_ascii() == boot.as_bytes()) => {
            Found::Clean
        }
        // Cut short by a crash just after it was made: as if it was not there.
        Ok(text) if text.trim_ascii().is_empty() => Found::Unclean,
        Ok(_) => Found::Rebooted,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Unclean),
        Err(error) => return Err(error),
    };
    std::fs::remove_file(&path)?;
    Ok(found)
}

#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) file: Option<File>,
    pub(crate) bytes: u64,
    pub(crate) generation: u64,
    pub(crate) snapshot_bytes: u64,
    /// A snapshot is being written: changes wait for the journal after it.
    pub(crate) paused: bool,
}

/// Who waits for the next search for victims, and for how many bytes.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Searches begun so far.
    pub(crate) begun: u64,
    pub(crate) waiting: Vec<(Claim, u64)>,
}

/// The last search for victims that has ended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Round {
    pub(crate) number: u64,
    pub(crate) freed: bool,
}

/// One open cache directory.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) number: u8,
    pub(crate) path: PathBuf,
    pub(crate) quota_bytes: u64,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) found: Found,
    /// Tells directories apart in placement; the same after a restart.
    pub(crate) seed: u64,
    pub(crate) journal: Mutex<Journal>,
    pending: Mutex<Vec<u8>>,
    used: AtomicU64,
    pub(crate) records: AtomicU64,
    fanout_bytes: Vec<AtomicU64>,
    trouble: Mutex<Option<Arc<str>>>,
    is_set_aside: AtomicBool,
    is_stale: AtomicBool,
    full_until_ms: AtomicU64,
    /// A disk that was full before the quota: the quota that would have fitted.
    shrunk_to: AtomicU64,
    /// False until files that the index does not know are gone.
    pub(crate) swept: watch::Sender<bool>,
    /// Who waits for space, and for how much: at most what is in flight.
    pub(crate) claims: Mutex<Claims>,
    /// Bytes for which a snapshot found no space.
    pub(crate) index_wanted: AtomicU64,
    pub(crate) kick: Notify,
    pub(crate) round: watch::Sender<Round>,
    pub(crate) hunt: Hunt,
    pub(crate) evicted: Counter,
    pub(crate) corrupt: Counter,
    pub(crate) warned_not_kept: AtomicBool,
    _lock: File,
}

/// Path of a complete object.
pub(crate) fn object_path(id: &ObjectId) -> String {
    format!("objects/{:02x}/{id}", id.0[0])
}

/// Path of an object that fills in pages.
pub(crate) fn partial_path(id: &ObjectId) -> String {
    format!("partial/pages/{id}")
}

/// Path of a small object that writer `writer` is writing.
pub(crate) fn writing_path(writer: usize, id: &ObjectId) -> String {
    format!("partial/w{writer}/{id}")
}

impl Dir {
    /// Opens, creates or refuses a directory. `disk_of` wraps its root.
    pub(crate) fn open(
        number: u8,
        config: &CacheDirConfig,
        disk_of: &dyn Fn(OwnedFd) -> Arc<dyn Disk>,
    ) -> Result<Self, CacheError> {
        let dir = &config.dir;
        let fail = |action: &'static str| {
            move |error: io::Error| CacheError::Io { dir: dir.clone(), action, error }
        };
        if config.quota_bytes < QUOTA_BYTES_MIN {
            let (quota_bytes, min) = (config.quota_bytes, QUOTA_BYTES_MIN);
            return Err(CacheError::QuotaTooSmall { dir: dir.clone(), quota_bytes, min });
        }
        let created = match std::fs::create_dir(dir) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(fail("create it")(error)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty())
            .map_err(|error| fail("open it")(error.into()))?;
        let kind = rustix::fs::fstatfs(&root).map_err(|e| fail("look at it")(e.into()))?;
        if kind.f_type == OVERLAYFS {
            if created {
                // Best effort: nothing is left of what was refused.
                let _ = std::fs::remove_dir(dir);
            }
            return Err(CacheError::FileSystem { dir: dir.clone(), kind: "overlayfs" });
        }
        let fresh = check_identity(dir)?;
        let lock = take_lock(dir)?;
        create_layout(dir).map_err(fail("create its folders"))?;
        let found = take_marker(dir).map_err(fail("read its clean marker"))?;
        let found = if fresh { Found::Fresh } else { found };
        let disk_root = rustix::io::fcntl_dupfd_cloexec(&root, 0)
            .map_err(|error| fail("open it")(error.into()))?;
        Ok(Self::assemble(number, config, disk_of(disk_root), found, lock))
    }

    fn assemble(
        number: u8,
        config: &CacheDirConfig,
        disk: Arc<dyn Disk>,
        found: Found,
        lock: File,
    ) -> Self {
        let fanout_bytes: Vec<_> = (0..256)
            .map(|byte| AtomicU64::new(disk.disk_bytes(&format!("objects/{byte:02x}"))))
            .collect();
        let fixed = [".", "objects", "partial", "partial/pages", IDENTITY, "lock"];
        let mut used: u64 = fixed.iter().map(|path| disk.disk_bytes(path)).sum();
        used += (0..WRITERS).map(|n| disk.disk_bytes(&format!("partial/w{n}"))).sum::<u64>();
        used += fanout_bytes.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum::<u64>();
        // The clean marker takes a block when it is there.
        used += UNIT_BYTES;
        let journal =
            Journal { file: None, bytes: 0, generation: 0, snapshot_bytes: 0, paused: false };
        Self {
            number,
            path: config.dir.clone(),
            quota_bytes: config.quota_bytes,
            disk,
            found,
            seed: feedline_model::SourceId::of_url(&config.dir.to_string_lossy()).0,
            journal: Mutex::new(journal),
            pending: Mutex::default(),
            used: AtomicU64::new(used),
            records: AtomicU64::new(0),
            fanout_bytes,
            trouble: Mutex::default(),
            is_set_aside: AtomicBool::new(false),
            is_stale: AtomicBool::new(false),
            full_until_ms: AtomicU64::new(0),
            shrunk_to: AtomicU64::new(u64::MAX),
            swept: watch::Sender::new(found != Found::Unclean),
            claims: Mutex::default(),
            index_wanted: AtomicU64::new(0),
            kick: Notify::new(),
            round: watch::Sender::new(Round::default()),
            hunt: Hunt::default(),
            evicted: Counter::default(),
            corrupt: Counter::default(),
            warned_not_kept: AtomicBool::new(false),
            _lock: lock,
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// The most bytes that may be used before an object is refused: the quota less room for the
    /// next snapshot beside the present one.
    pub(crate) fn object_limit(&self) -> u64 {
        let index = self.records.load(Ordering::Relaxed) * PUT_BYTES;
        let quota = self.quota_bytes.min(self.shrunk_to.load(Ordering::Relaxed));
        quota.saturating_sub(HEADROOM_BYTES + index)
    }

    /// Above this, eviction starts in the background, so that writers rarely wait for it.
    pub(crate) fn high_water(&self) -> u64 {
        let limit = self.object_limit();
        limit - limit / 32
    }

    /// Down to here.
    pub(crate) fn low_water(&self) -> u64 {
        let limit = self.object_limit();
        limit - limit / 16
    }

    /// How far below the limit the dead are evicted at once.
    pub(crate) fn margin(&self) -> u64 {
        self.object_limit() / 16
    }

    fn reserve_below(&self, bytes: u64, limit: u64) -> bool {
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= limit)
        });
        taken.is_ok()
    }

    /// Takes space for an object, or says that there is none.
    pub(crate) fn try_reserve(&self, bytes: u64) -> bool {
        self.reserve_below(bytes, self.object_limit())
    }

    /// Takes space for the index: up to the quota itself.
    pub(crate) fn try_reserve_index(&self, bytes: u64) -> bool {
        self.reserve_below(bytes, self.quota_bytes)
    }

    /// Gives space back.
    pub(crate) fn release(&self, bytes: u64) {
        let _ = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            Some(used.saturating_sub(bytes))
        });
    }

    /// Accounts for space that is taken already.
    pub(crate) fn account(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// The same, first out of what was reserved for it: nothing is counted twice, not even for a moment.
    pub(crate) fn account_reserved(&self, bytes: u64, reserved: &mut u64) {
        let covered = bytes.min(*reserved);
        *reserved -= covered;
        self.account(bytes - covered);
    }

    /// Looks at the fan-out directory of `id` after a file was added to it.
    pub(crate) fn account_fanout(&self, id: &ObjectId) {
        let now = self.disk.disk_bytes(&format!("objects/{:02x}", id.0[0]));
        let before = self.fanout_bytes[usize::from(id.0[0])].swap(now, Ordering::AcqRel);
        if now >= before {
            self.account(now - before);
        } else {
            self.release(before - now);
        }
    }

    /// Notes a change; the caller holds the index, which gives the order.
    pub(crate) fn log(&self, entry: &Entry) {
        journal::encode(entry, &mut self.pending.lock());
    }

    /// Brings the changes so far to the journal, unless a snapshot is being written. The cost is
    /// one `write(2)`; whoever comes while another writes finds little left to do.
    pub(crate) fn flush(&self) {
        let mut journal = self.journal.lock();
        if journal.paused || self.is_set_aside() {
            return;
        }
        if let Err(error) = self.append(&mut journal) {
            self.note(&error, 0);
        }
    }

    /// Flushes when enough has gathered that the next batch is worth a `write(2)`.
    pub(crate) fn flush_if_long(&self) {
        if self.pending.lock().len() >= PENDING_BYTES {
            self.flush();
        }
    }

    /// As `flush`, for who holds the journal already. True: nothing is left to write.
    pub(crate) fn append(&self, journal: &mut Journal) -> io::Result<bool> {
        let Some(file) = &journal.file else { return Ok(false) };
        let (entries, grown) = {
            let mut pending = self.pending.lock();
            if pending.is_empty() {
                return Ok(true);
            }
            let bytes = journal.bytes + pending.len() as u64 + 8;
            let grown = blocks(bytes) - blocks(journal.bytes);
            if grown > 0 && !self.try_reserve_index(grown) {
                // Nothing is lost but time after a crash; eviction makes room, the next flush
                // tries again.
                self.kick.notify_one();
                return Ok(false);
            }
            (std::mem::take(&mut *pending), grown)
        };
        let batch = journal::batch(&entries);
        if let Err(error) = self.disk.write_at(file, &batch, journal.bytes) {
            // The entries are gone; only a snapshot has them now.
            self.release(grown);
            self.set_stale();
            return Err(error);
        }
        journal.bytes += batch.len() as u64;
        Ok(true)
    }

    /// Drops changes that a snapshot about to be taken will hold.
    pub(crate) fn forget_pending(&self) {
        self.pending.lock().clear();
    }

    /// Starts an empty journal after the snapshot of `generation`.
    pub(crate) fn restart_journal(&self, journal: &mut Journal, generation: u64) -> io::Result<()> {
        let file = self.disk.create(JOURNAL)?;
        self.disk.write_at(&file, &journal::journal_header(generation), 0)?;
        self.release(blocks(journal.bytes));
        journal.bytes = JOURNAL_HEADER_BYTES as u64;
        self.account(blocks(journal.bytes));
        journal.generation = generation;
        journal.file = Some(file);
        Ok(())
    }

    /// True if the journal has grown so long that a snapshot is due.
    pub(crate) fn is_snapshot_due(&self) -> bool {
        let journal = self.journal.lock();
        let long = (1 << 20_u64).min(self.quota_bytes / 64).max(journal.snapshot_bytes);
        !journal.paused && journal.bytes > long && !self.is_set_aside()
    }

    pub(crate) fn is_set_aside(&self) -> bool {
        self.is_set_aside.load(Ordering::Acquire)
    }

    /// True if nothing should be written here now.
    pub(crate) fn is_full(&self, now_ms: u64) -> bool {
        let until = self.full_until_ms.load(Ordering::Acquire);
        if until == 0 {
            return false;
        }
        if now_ms >= until {
            self.full_until_ms.store(0, Ordering::Release);
            self.shrunk_to.store(u64::MAX, Ordering::Release);
            return false;
        }
        true
    }

    /// Draws the consequence of an IO error.
    pub(crate) fn note(&self, error: &io::Error, now_ms: u64) -> Trouble {
        let trouble = Trouble::of(error);
        match trouble {
            Trouble::Full => {
                if self.full_until_ms.swap(now_ms + FULL_MS, Ordering::AcqRel) == 0 {
                    tracing::warn!(dir = %self.path.display(), %error,
                        "the disk is full below the cache's quota; not filling for a while");
                }
                self.shrunk_to.store(self.used() - self.used() / 16, Ordering::Release);
                self.kick.notify_one();
            }
            Trouble::Sick => {
                if !self.is_set_aside.swap(true, Ordering::AcqRel) {
                    tracing::error!(dir = %self.path.display(), %error,
                        "cache directory set aside; reads go on without it");
                    *self.trouble.lock() = Some(error.to_string().into());
                }
            }
            Trouble::File => {
                tracing::debug!(dir = %self.path.display(), %error, "a cached file failed");
            }
        }
        trouble
    }

    /// `ok`, `full` or `set aside: REASON`.
    pub(crate) fn state_text(&self, now_ms: u64) -> String {
        if let Some(reason) = &*self.trouble.lock() {
            return format!("set aside: {reason}");
        }
        if self.is_full(now_ms) { "full" } else { "ok" }.to_owned()
    }

    /// Leaves the clean marker.
    pub(crate) fn mark_clean(&self) -> io::Result<()> {
        let Some(boot) = boot_id() else { return Ok(()) };
        let file = self.disk.create(CLEAN)?;
        self.disk.write_at(&file, format!("{boot}\n").as_bytes(), 0)
    }

    /// The index in memory says something that no log entry can: a snapshot is due before a clean
    /// stop.
    pub(crate) fn set_stale(&self) {
        self.is_stale.store(true, Ordering::Release);
    }

    pub(crate) fn clear_stale(&self) {
        self.is_stale.store(false, Ordering::Release);
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Acquire)
    }
}

/// Bytes on disk of a file of `bytes` bytes.
pub(crate) fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT_BYTES) * UNIT_BYTES
}

/// True if the directory is new; an error if it is somebody else's.
fn check_identity(dir: &Path) -> Result<bool, CacheError> {
    let fail = |action: &'static str| {
        move |error: io::Error| CacheError::Io { dir: dir.to_owned(), action, error }
    };
    match std::fs::read_to_string(dir.join(IDENTITY)) {
        Ok(text) if text == IDENTITY_TEXT => return Ok(false),
        Ok(found) => {
            let found = found.chars().take(80).collect();
            return Err(CacheError::Version { dir: dir.to_owned(), found });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("read its identity")(error)),
    }
    for entry in std::fs::read_dir(dir).map_err(fail("list it"))? {
        let name = entry.map_err(fail("list it"))?.file_name();
        // A new ext4 has lost+found; a start that was cut short leaves the lock file.
        if name != "lost+found" && name != "lock" && name != IDENTITY_NEW {
            let example = name.to_string_lossy().into_owned();
            return Err(CacheError::Foreign { dir: dir.to_owned(), example });
        }
    }
    Ok(true)
}

fn take_lock(dir: &Path) -> Result<File, CacheError> {
    let path = dir.join("lock");
    let fail = |error: io::Error| CacheError::Io { dir: dir.to_owned(), action: "lock it", error };
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
    if let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(fail(error.into()));
        }
        let pid = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
        let pid = if pid.is_empty() { "unknown".to_owned() } else { pid };
        return Err(CacheError::Locked { dir: dir.to_owned(), pid });
    }
    file.set_len(0).map_err(fail)?;
    writeln!(file, "{}", std::process::id()).map_err(fail)?;
    Ok(file)
}

fn create_layout(dir: &Path) -> io::Result<()> {
    // First, and by rename: a start that was cut short leaves no half identity, nor folders
    // without one.
    let identity = dir.join(IDENTITY);
    if !identity.exists() {
        let new = dir.join(IDENTITY_NEW);
        std::fs::write(&new, IDENTITY_TEXT)?;
        std::fs::rename(new, identity)?;
    }
    for byte in 0..256 {
        std::fs::create_dir_all(dir.join(format!("objects/{byte:02x}")))?;
    }
    std::fs::create_dir_all(dir.join("partial/pages"))?;
    for entry in std::fs::read_dir(dir.join("partial"))? {
        let entry = entry?;
        if entry.file_name() != "pages" {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    for writer in 0..WRITERS {
        std::fs::create_dir(dir.join(format!("partial/w{writer}")))?;
    }
    Ok(())
}
