//! The life of a mount: prepare, mount, probe what the kernel can do, serve, end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use fuser::{BackgroundSession, INodeNo, Notifier, Session, SessionACL};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use tokio::sync::{mpsc, watch};

use crate::attr::Owner;
use crate::backing::Backing;
use crate::config::{MountConfig, MountParts, OpenMode, Transport};
use crate::error::MountError;
use crate::fuse::{Fuse, InitOptions};
use crate::handler::{Handler, Parts};
use crate::mountpoint::{self, Unmount};
use crate::notice::{self, Notice, Pages, Recipient};
use crate::opening::Holder;
use crate::stats::{MountStats, add};
use crate::uring::{self, Rings, Service};

/// How long the end of a handle waits for the threads: they end within milliseconds of the unmount.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Starts mounts.
#[derive(Debug)]
pub struct Mount;

/// A running mount. Dropping it unmounts, by force if need be.
#[derive(Debug)]
pub struct MountHandle {
    handler: Arc<Handler<Backing>>,
    parts: MountParts,
    path: PathBuf,
    device: String,
    mode: (OpenMode, Option<String>),
    transport: (Transport, Option<String>),
    ended: watch::Receiver<bool>,
    alive: Arc<AtomicBool>,
    /// Gets a word, or is cut off, when the threads have ended.
    finished: Mutex<Receiver<()>>,
    /// Detached with files open, perhaps: the threads serve those for as long as they are open.
    lazy: AtomicBool,
}

/// A mount that is taken away again unless starting it succeeds.
struct Undo<'a> {
    path: &'a Path,
    device: &'a str,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            let _ = mountpoint::unmount(self.path, self.device, Unmount::Abort);
        }
    }
}

impl Mount {
    /// Mounts and serves until the handle is dropped, [`MountHandle::unmount`] is called or someone
    /// else unmounts. The file system answers when this returns. Blocks for milliseconds; up to 5 s
    /// if a hung mount is in the way.
    ///
    /// # Errors
    ///
    /// See [`MountError`].
    pub fn start(config: &MountConfig, parts: MountParts) -> Result<MountHandle, MountError> {
        let root = rustix::process::geteuid().is_root();
        if config.allow_other && !root && !user_allow_other() {
            return Err(MountError::AllowOther);
        }
        let path = mountpoint::prepare(&config.mountpoint)?;
        let why = match config.transport {
            Transport::Classic | Transport::Auto => None,
            Transport::Uring => match uring::unavailable() {
                Some(why) => Some(why),
                None => match start(config, &path, &parts, (Transport::Uring, None)) {
                    Err(Failure::Ring(why)) => Some(why),
                    Err(Failure::Mount(error)) => return Err(error),
                    Ok(mount) => return Ok(mount),
                },
            },
        };
        if let Some(why) = &why {
            tracing::warn!(why, "no FUSE over io_uring: the classic transport is used");
        }
        match start(config, &path, &parts, (Transport::Classic, why)) {
            Ok(mount) => Ok(mount),
            Err(Failure::Mount(error)) => Err(error),
            Err(Failure::Ring(why)) => {
                Err(MountError::system("FUSE over io_uring", io::Error::other(why)))
            }
        }
    }
}

/// Why a mount was not made.
enum Failure {
    /// Rings will not do here: the classic transport may.
    Ring(String),
    /// Neither will do.
    Mount(MountError),
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        Self::Mount(error)
    }
}

fn new_handler(
    config: &MountConfig,
    parts: &MountParts,
    notices: mpsc::Sender<Notice>,
) -> Arc<Handler<Backing>> {
    Handler::new(Parts {
        tree: Arc::clone(&parts.tree),
        index: Arc::clone(&parts.index),
        blocks: Arc::clone(&parts.blocks),
        observer: parts.observer.clone(),
        clock: Arc::clone(&parts.clock),
        runtime: parts.runtime.clone(),
        notices,
        owner: Owner { uid: config.uid, gid: config.gid, umask: config.umask },
        idle_backing_max: config.idle_backing_max,
        inodes_max: config.inodes_max,
        threads: threads(config),
    })
}

/// Mounts with one transport and serves. Leaves nothing if it fails.
fn start(
    config: &MountConfig,
    path: &Path,
    parts: &MountParts,
    transport: (Transport, Option<String>),
) -> Result<MountHandle, Failure> {
    let (sender, queue) = mpsc::channel(notice::QUEUE_MAX);
    let handler = new_handler(config, parts, sender);
    let (able, options) = (Arc::new(OnceLock::new()), init_options(config, transport.0));
    let fuse = Fuse {
        handler: Arc::clone(&handler),
        options,
        capacity: parts.capacity.clone(),
        device: Weak::new(),
        able: Arc::clone(&able),
    };
    let (session, own) = connect(config, path, fuse)?;
    let device = mountpoint::mounts_at(path)?
        .last()
        .map(|top| top.device.clone())
        .ok_or_else(|| MountError::system("mount", io::Error::other("it is gone already")))?;
    let mut undo = Undo { path, device: &device, armed: true };
    let able = able.get().copied().unwrap_or_default();
    let mode = decide_mode(config, able.passthrough, own.as_ref());
    let _ = handler.passthrough.set(mode.0 == OpenMode::Passthrough);
    let _ = handler.over_ring.set(able.ring);
    parts.index.set_holder(Arc::new(Holder(Arc::downgrade(&handler))));
    let rings = match transport.0 {
        Transport::Auto | Transport::Classic => None,
        Transport::Uring => {
            if !able.ring {
                return Err(Failure::Ring("the kernel did not agree to it".into()));
            }
            let backing_device = own.as_ref().map(Arc::downgrade).unwrap_or_default();
            let service = Service {
                handler: Arc::clone(&handler),
                capacity: parts.capacity.clone(),
                device: backing_device,
                no_opendir: options.no_opendir,
            };
            Some(start_rings(service, &session, options.max_background, &undo)?)
        }
    };
    let background = session
        .spawn()
        .map_err(|error| MountError::system("starting the request threads", error))?;
    mountpoint::set_read_ahead(&device, config.read_ahead_bytes);
    if let Some(reason) = &mode.1 {
        tracing::warn!(reason, "open mode is {}", mode.0);
    }
    let served = Served { background, rings, device: own };
    let (ended, alive, finished) = watch_over(served, &handler, queue, parts)?;
    undo.armed = false;
    drop(undo);
    let (path, parts) = (path.to_owned(), parts.clone());
    let (finished, lazy) = (Mutex::new(finished), AtomicBool::new(false));
    Ok(MountHandle { handler, parts, path, device, mode, transport, ended, alive, finished, lazy })
}

fn init_options(config: &MountConfig, transport: Transport) -> InitOptions {
    InitOptions {
        passthrough: config.open == OpenMode::Passthrough,
        no_opendir: !broken_directory_cache(),
        max_background: config.max_background.max(1),
        ring: transport == Transport::Uring,
    }
}

/// Starts the queue threads of a connection for which the kernel waits for them.
fn start_rings(
    service: Service,
    session: &Session<Fuse>,
    max_background: u16,
    undo: &Undo<'_>,
) -> Result<Rings, Failure> {
    let device = session.as_fd().try_clone_to_owned();
    let device = device.map_err(|error| Failure::Ring(error.to_string()))?;
    let (path, name) = (undo.path.to_owned(), undo.device.to_owned());
    let trouble = move || {
        let _ = mountpoint::unmount(&path, &name, Unmount::Abort);
    };
    let (rings, started) =
        Rings::start(service, &Arc::new(device), max_background, trouble.clone());
    started.map(|()| rings).map_err(|error| {
        // Gives back what the kernel took, or there would be no end.
        trouble();
        Failure::Ring(error.to_string())
    })
}

/// Request threads. Without open they also read the cache's disk (see `reading.rs`), so two more
/// keep it busy: on two cores 0.88 x ext4 with four, 0.57 x with two (caches dropped).
fn threads(config: &MountConfig) -> usize {
    config.threads.max(1) + if config.open == OpenMode::None { 2 } else { 0 }
}

/// Mounts and shakes hands. The second result is the device, if we hold it, for the probe.
fn connect(
    config: &MountConfig,
    path: &Path,
    mut fuse: Fuse,
) -> Result<(Session<Fuse>, Option<Arc<OwnedFd>>), MountError> {
    let acl = if config.allow_other { SessionACL::All } else { SessionACL::Owner };
    let mut options = fuser::Config::default();
    options.acl = acl;
    options.n_threads = Some(threads(config));
    options.clone_fd = true;
    let failed = |error| MountError::system("FUSE handshake", error);
    if let Some(device) = mountpoint::mount(config, path)? {
        let copy = Arc::new(device.try_clone().map_err(failed)?);
        fuse.device = Arc::downgrade(&copy);
        let session = Session::from_fd(fuse, device, acl, options).map_err(|error| {
            let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
            failed(error)
        })?;
        return Ok((session, Some(copy)));
    }
    use fuser::MountOption as Option_;
    options.mount_options = vec![
        Option_::FSName(config.fs_name.replace(',', "\\,")),
        Option_::Subtype(config.subtype.clone()),
        Option_::RO,
        Option_::NoSuid,
        Option_::NoDev,
        Option_::NoAtime,
        Option_::DefaultPermissions,
    ];
    Ok((Session::new(fuse, path, &options).map_err(failed)?, None))
}

/// True if `/etc/fuse.conf` lets users let others in.
fn user_allow_other() -> bool {
    std::fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"))
}

/// Linux 6.9 to 6.12 may lose entries of a directory whose listing the kernel keeps, which is what
/// no-opendir implies.
fn broken_directory_cache() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    ((6, 9)..=(6, 12)).contains(&version)
}

/// The mode in effect, and why it is not the one asked for.
fn decide_mode(
    config: &MountConfig,
    kernel: bool,
    device: Option<&Arc<OwnedFd>>,
) -> (OpenMode, Option<String>) {
    if config.open == OpenMode::None {
        return (OpenMode::None, None);
    }
    let none = |reason: String| (OpenMode::None, Some(reason));
    if !kernel {
        return none("passthrough needs Linux 6.9".into());
    }
    let Some(device) = device else {
        return none("passthrough needs CAP_SYS_ADMIN: run as root".into());
    };
    for dir in &config.cache_dirs {
        if let Err(error) = probe_backing(&Arc::downgrade(device), dir) {
            let dir = dir.display();
            return match error.raw_os_error() {
                Some(libc::EPERM) => none("passthrough needs CAP_SYS_ADMIN: run as root".into()),
                Some(libc::ELOOP) => {
                    none(format!("{dir} is on a stacked file system (overlayfs?)"))
                }
                _ => none(format!("the kernel takes no backing file from {dir}: {error}")),
            };
        }
    }
    (OpenMode::Passthrough, None)
}

/// Hands the kernel an unnamed file of `dir`, and takes it back.
fn probe_backing(device: &Weak<OwnedFd>, dir: &Path) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|error| io::Error::other(format!("no unnamed file can be made: {error}")))?;
    Backing::new(device, &file).map(drop)
}

struct KernelNotices {
    notifier: Notifier,
    handler: std::sync::Weak<Handler<Backing>>,
}

impl Recipient for KernelNotices {
    fn closed(&self) -> Vec<u64> {
        self.handler.upgrade().map_or_else(Vec::new, |handler| handler.closed.take())
    }

    fn pages_of(&self, inode: u64) -> Pages {
        self.handler.upgrade().map_or(Pages::Keep, |handler| handler.pages_of(inode))
    }

    fn drop_pages(&self, inode: u64) {
        self.sent(self.notifier.inval_inode(INodeNo(inode), 0, 0));
    }

    fn drop_name(&self, directory: u64, name: &str) {
        self.sent(self.notifier.inval_entry(INodeNo(directory), name.as_ref()));
    }

    fn surplus(&self, part: usize) -> Option<Vec<(u64, Box<str>)>> {
        self.handler.upgrade().and_then(|handler| handler.surplus(part))
    }
}

impl KernelNotices {
    fn sent(&self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::debug!(%error, "the kernel refused a notice");
        }
        if let Some(handler) = self.handler.upgrade() {
            add(&handler.counters.invalidations, 1);
        }
    }
}

type Watched = (watch::Receiver<bool>, Arc<AtomicBool>, Receiver<()>);

/// What ends together.
struct Served {
    background: BackgroundSession,
    rings: Option<Rings>,
    /// Backing ids can be made and closed while this is held.
    device: Option<Arc<OwnedFd>>,
}

/// Starts the thread that sends notices and the one that waits for the end.
fn watch_over(
    served: Served,
    handler: &Arc<Handler<Backing>>,
    queue: mpsc::Receiver<Notice>,
    parts: &MountParts,
) -> Result<Watched, MountError> {
    let failed = |error| MountError::system("starting a thread", error);
    let (end, ended) = watch::channel(false);
    let (stop, mut stopped) = watch::channel(false);
    let alive = Arc::new(AtomicBool::new(true));
    let Served { background, rings, device } = served;
    let recipient =
        KernelNotices { notifier: background.notifier(), handler: Arc::downgrade(handler) };
    let (clock, runtime) = (Arc::clone(&parts.clock), parts.runtime.clone());
    // A thread of its own and not a task: a notice waits for the locks of the inode.
    let notices = std::thread::Builder::new()
        .name("mount-notices".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = notice::run(queue, recipient, clock) => {}
                    _ = stopped.wait_for(|stopped| *stopped) => {}
                }
            });
        })
        .map_err(failed)?;
    let (lives, served) = (Arc::clone(&alive), Arc::clone(handler));
    let (finish, finished) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("mount-session".into())
        .spawn(move || {
            if let Err(error) = background.join() {
                tracing::error!(%error, "the mount ended with an error");
            }
            lives.store(false, Ordering::Release);
            // What waits for the bucket holds the device with its reply.
            served.ended.send_replace(true);
            drop(served);
            if let Some(rings) = rings {
                rings.end();
            }
            drop(device);
            // The notices hold the device too: the end is known when nothing does any more.
            stop.send_replace(true);
            let _ = notices.join();
            end.send_replace(true);
            let _ = finish.send(());
        })
        .map_err(failed)?;
    Ok((ended, alive, finished))
}

impl MountHandle {
    /// Where it is mounted, as `/proc/mounts` names it.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.path
    }

    /// The open mode in effect, and why it is not the one asked for.
    #[must_use]
    pub fn open_mode(&self) -> (OpenMode, Option<&str>) {
        (self.mode.0, self.mode.1.as_deref())
    }

    /// The transport in effect, and why it is not the one asked for.
    #[must_use]
    pub fn transport(&self) -> (Transport, Option<&str>) {
        (self.transport.0, self.transport.1.as_deref())
    }

    /// Counters now.
    #[must_use]
    pub fn stats(&self) -> MountStats {
        self.handler.stats()
    }

    /// True while the request threads run.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Sends a `statfs` through the kernel and back. True if the answer came within `timeout`: the
    /// request threads take requests. For a watchdog; a hung mount costs a thread of the runtime's
    /// blocking pool per call until it answers.
    pub async fn ping(&self, timeout: Duration) -> bool {
        let path = self.path.clone();
        let asked = self.parts.runtime.spawn_blocking(move || rustix::fs::statfs(&path).is_ok());
        tokio::select! {
            answer = asked => answer.unwrap_or(false) && self.is_alive(),
            () = self.parts.clock.sleep(timeout) => false,
        }
    }

    /// Unmounts. Blocks until the kernel let go of the mountpoint; [`MountHandle::wait`] tells
    /// when the last open file is closed too.
    ///
    /// # Errors
    ///
    /// [`MountError::Busy`] if files are open and `how` is [`Unmount::Normal`].
    pub fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        if how == Unmount::Lazy {
            self.lazy.store(true, Ordering::Relaxed);
        }
        mountpoint::unmount(&self.path, &self.device, how)
    }

    /// Completes when the mount has ended: unmounted by whomever, and the last file closed.
    pub async fn wait(&self) {
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

impl Drop for MountHandle {
    fn drop(&mut self) {
        if self.unmount(Unmount::Normal).is_err() {
            let _ = self.unmount(Unmount::Abort);
        }
        // Once unmounted the threads end at once; nothing holds the device after this. Unless the
        // mount lives on elsewhere: under another mount, or in another mount namespace.
        if !self.lazy.load(Ordering::Relaxed)
            && let Err(RecvTimeoutError::Timeout) = self.finished.lock().recv_timeout(END_WITHIN)
        {
            mountpoint::abort(&self.device);
            tracing::warn!(mountpoint = %self.path.display(),
                "the mount is still in use, under another mount or in another mount namespace; \
                 its threads go on until it is unmounted there");
        }
    }
}
