//! What a mount is made of: settings (data) and components (code).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use feedline_model::{AccessObserver, BlockSource, Clock, ObjectIndex, Tree};
use tokio::runtime::Handle;

/// How files are opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OpenMode {
    /// The kernel reads cached files alone; what is not cached is answered by the daemon.
    #[default]
    Passthrough,
    /// No OPEN reaches the daemon; every read that is not in the page cache does.
    None,
}

impl fmt::Display for OpenMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passthrough => "passthrough",
            Self::None => "none",
        })
    }
}

/// How requests come from the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Transport {
    /// Classic: rings were measured to be no better in the rows that matter, and the kernel's side
    /// of them is young (docs/decisions/008).
    #[default]
    Auto,
    /// Read and write of `/dev/fuse`.
    Classic,
    /// A ring per CPU (FUSE over io_uring); classic where the kernel does not offer them.
    Uring,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Classic => "classic",
            Self::Uring => "uring",
        })
    }
}

/// Settings of a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountConfig {
    /// An existing directory. What is in it is hidden while mounted.
    pub mountpoint: PathBuf,
    /// The mode asked for; see [`crate::MountHandle::open_mode`] for the one in effect.
    pub open: OpenMode,
    /// The transport asked for; see [`crate::MountHandle::transport`] for the one in effect.
    pub transport: Transport,
    /// The owner of everything.
    pub uid: u32,
    /// The group of everything.
    pub gid: u32,
    /// Permission bits taken from 0444 (files) and 0555 (directories).
    pub umask: u32,
    /// Let other users in. Without root this needs `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: bool,
    /// Threads that take requests. None of them ever waits for the store.
    pub threads: usize,
    /// Read-ahead requests in flight, at most: in mmap mode the only limit on reads in flight.
    pub max_background: u16,
    /// How far the kernel reads ahead in files that we serve; also the largest READ it sends.
    pub read_ahead_bytes: u64,
    /// Backing ids of closed files kept for the next open. Each takes 300 bytes of kernel memory.
    pub idle_backing_max: usize,
    /// Inodes that the kernel may remember before it is asked to drop files' names, oldest first. Each
    /// takes 1.7 KB of kernel memory and 0.4 KB here.
    pub inodes_max: usize,
    /// Shown as the device in `/proc/mounts`: the bucket's URL.
    pub fs_name: String,
    /// Shown as the type, after `fuse.`.
    pub subtype: String,
    /// The directories of the cache, tried once for whether the kernel takes backing files there.
    pub cache_dirs: Vec<PathBuf>,
}

impl MountConfig {
    /// The defaults for a mountpoint.
    #[must_use]
    pub fn new(mountpoint: impl Into<PathBuf>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            open: OpenMode::Passthrough,
            transport: Transport::Auto,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            umask: 0o022,
            allow_other: rustix::process::geteuid().is_root(),
            // On two cores two beat four (20,000 x 110 KB, dropped: 0.84 against 0.79 x ext4, hot
            // CPU 46 against 50 ms per 1,000 files); more than four only take turns. At least two,
            // so that one may open a file whose inode is not in memory.
            threads: std::thread::available_parallelism()
                .map_or(2, |cores| cores.get().clamp(2, 4)),
            // The kernel's default of 12 gave DALI 312 images/s at 30 ms a file, 256 gave 695.
            max_background: 512,
            read_ahead_bytes: 1 << 20,
            // An ImageNet class shuffle comes back to a file once per epoch; 65,536 ids are
            // 20 MB of kernel memory, and reopening costs an open and an ioctl.
            idle_backing_max: 65_536,
            // ImageNet's 1.28 million files fit; beyond it the kernel itself forgets when memory is short.
            inodes_max: 2_000_000,
            fs_name: "feedline".into(),
            subtype: "feedline".into(),
            cache_dirs: Vec::new(),
        }
    }
}

/// What `statfs` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// Bytes in the buckets, as far as listed, plus what is free.
    pub bytes_total: u64,
    /// Bytes free. A read-only mount has none.
    pub bytes_free: u64,
    /// Files, as far as listed.
    pub files: u64,
}

/// Gives the capacity, from memory.
#[derive(Clone)]
pub struct CapacityProvider(Arc<dyn Fn() -> Capacity + Send + Sync>);

impl CapacityProvider {
    /// Wraps a function that must not block.
    pub fn new(provide: impl Fn() -> Capacity + Send + Sync + 'static) -> Self {
        Self(Arc::new(provide))
    }

    /// The capacity now.
    #[must_use]
    pub fn now(&self) -> Capacity {
        (self.0)()
    }
}

impl fmt::Debug for CapacityProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapacityProvider")
    }
}

/// Components of a mount.
#[derive(Clone, Debug)]
pub struct MountParts {
    /// Names, sizes, times.
    pub tree: Arc<dyn Tree>,
    /// Complete objects on this node. The mount registers itself as its holder.
    pub index: Arc<dyn ObjectIndex>,
    /// Bytes of everything.
    pub blocks: Arc<dyn BlockSource>,
    /// Who is told which files are used, if anybody.
    pub observer: Option<Arc<dyn AccessObserver>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where tasks run.
    pub runtime: Handle,
    /// What `statfs` shows.
    pub capacity: CapacityProvider,
}
