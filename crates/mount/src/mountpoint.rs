//! The place in the file tree: what is mounted there, clearing what is dead, mounting, unmounting.
//!
//! # Invariants
//!
//! - A mount that may be hung is never touched by a path walk from a thread that must go on.
//! - Only the mount with the device number that we were given is ever unmounted as ours.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};

use crate::config::MountConfig;
use crate::error::MountError;

/// How long a live mount may take to answer a `statfs`. Ours answers from memory in microseconds; a
/// loaded one within a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Dead mounts on top of each other that are cleared, at most: one per crash of a daemon that was
/// started again without clearing.
const STALE_MAX: usize = 64;

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MountInfo {
    /// `major:minor` of the file system.
    pub(crate) device: String,
    pub(crate) path: PathBuf,
    pub(crate) fs_type: String,
    pub(crate) source: String,
}

/// `\040` and the like, as the kernel writes space, tab, newline and backslash.
fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = octal {
            out.push(byte);
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

fn parse_line(line: &str) -> Option<MountInfo> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let device = left.next()?.to_owned();
    let path = OsString::from_vec(unescape(left.nth(1)?)).into();
    let mut right = right.split(' ');
    let fs_type = right.next()?.to_owned();
    let source = String::from_utf8_lossy(&unescape(right.next()?)).into_owned();
    Some(MountInfo { device, path, fs_type, source })
}

/// What is mounted at `path` (topmost last).
pub(crate) fn mounts_at(path: &Path) -> Result<Vec<MountInfo>, MountError> {
    let text = fs::read("/proc/self/mountinfo")
        .map_err(|error| MountError::system("/proc/self/mountinfo", error))?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().filter_map(parse_line).filter(|info| info.path == path).collect())
}

/// The mountpoint as `/proc` names it. The last part is not looked into: its mount may be dead.
fn absolute(path: &Path) -> Result<PathBuf, MountError> {
    let wrong = |cause: String| MountError::Mountpoint { path: path.to_owned(), cause };
    let full = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
    let name = full.file_name().ok_or_else(|| wrong("the root of the file tree".into()))?;
    let parent = full.parent().ok_or_else(|| wrong("it has no parent".into()))?;
    let parent = parent.canonicalize().map_err(|error| wrong(error.to_string()))?;
    let full = parent.join(name);
    match fs::symlink_metadata(&full) {
        Ok(metadata) if metadata.is_symlink() => {
            full.canonicalize().map_err(|error| wrong(error.to_string()))
        }
        _ => Ok(full),
    }
}

/// Asks a mount for its capacity from a thread of its own. `None`: no answer in time.
fn probe(path: &Path) -> Option<io::Result<()>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = path.to_owned();
    let thread = std::thread::Builder::new().name("mount-probe".into()).spawn(move || {
        let answer = rustix::fs::statfs(&path).map(|_| ()).map_err(io::Error::from);
        let _ = sender.send(answer);
    });
    match thread {
        Ok(_) => receiver.recv_timeout(ANSWER_WITHIN).ok(),
        Err(error) => Some(Err(error)),
    }
}

/// Makes the mountpoint ready: dead mounts are cleared, a live one is an error. Returns the path as
/// `/proc` names it.
pub(crate) fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    // A dead mount at a path makes `symlink_metadata` fail, so it is cleared before that is asked.
    let path = absolute(path)?;
    for _ in 0..STALE_MAX {
        let mounts = mounts_at(&path)?;
        let Some(top) = mounts.last() else { break };
        let fuse = top.fs_type == "fuse" || top.fs_type.starts_with("fuse.");
        let answer = if fuse { probe(&path) } else { Some(Ok(())) };
        match answer {
            None => return Err(MountError::Hung { path, source_name: top.source.clone() }),
            Some(Err(error)) if error.raw_os_error() == Some(libc::ENOTCONN) => {
                tracing::info!(mountpoint = %path.display(), source = top.source,
                    "clearing a mount whose daemon is gone");
                detach(&path, UnmountFlags::DETACH).map_err(|error| {
                    MountError::system(format!("umount {}", path.display()), error)
                })?;
            }
            // A plain file system (a volume, say) may be mounted over.
            Some(_) if !fuse => break,
            Some(_) => {
                return Err(MountError::InUse {
                    path,
                    fs_type: top.fs_type.clone(),
                    source_name: top.source.clone(),
                });
            }
        }
    }
    let metadata = fs::metadata(&path)
        .map_err(|error| MountError::Mountpoint { path: path.clone(), cause: error.to_string() })?;
    if !metadata.is_dir() {
        return Err(MountError::Mountpoint { path, cause: "not a directory".into() });
    }
    if fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
        tracing::warn!(mountpoint = %path.display(),
            "the mountpoint is not empty: what is in it is hidden while mounted");
    }
    Ok(path)
}

fn detach(path: &Path, flags: UnmountFlags) -> io::Result<()> {
    match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => {
            // Without root, the setuid helper may do it.
            let mut helper = std::process::Command::new("fusermount3");
            helper.arg("-u").arg("-q");
            if flags.intersects(UnmountFlags::DETACH | UnmountFlags::FORCE) {
                helper.arg("-z");
            }
            let status = helper.arg("--").arg(path).status()?;
            if status.success() { Ok(()) } else { Err(io::ErrorKind::ResourceBusy.into()) }
        }
        other => other.map_err(io::Error::from),
    }
}

/// Opens `/dev/fuse` and mounts it. `Ok(None)`: the kernel does not let this user mount.
pub(crate) fn mount(config: &MountConfig, path: &Path) -> Result<Option<OwnedFd>, MountError> {
    let device =
        fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(|error| {
            MountError::system("/dev/fuse (is the fuse module loaded? try `modprobe fuse`)", error)
        })?;
    let device = OwnedFd::from(device);
    let mode = fs::metadata(path)
        .map_err(|error| MountError::system(path.display().to_string(), error))?
        .permissions()
        .mode();
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if config.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).expect("digits and letters");
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    let fs_type = format!("fuse.{}", config.subtype);
    let source = config.fs_name.replace('\0', "");
    match rustix::mount::mount(source.as_str(), path, fs_type.as_str(), flags, data.as_c_str()) {
        Ok(()) => Ok(Some(device)),
        Err(rustix::io::Errno::PERM) => Ok(None),
        Err(error) => Err(MountError::system(format!("mount {}", path.display()), error)),
    }
}

/// How to unmount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// Fails if files are open.
    Normal,
    /// Detaches at once; open files are served until they are closed.
    Lazy,
    /// Detaches at once and ends the connection: what is open fails, except that files in
    /// passthrough mode stay readable.
    Abort,
}

/// Unmounts the file system with `device` from `path`; nothing to do if it is not there.
pub(crate) fn unmount(path: &Path, device: &str, how: Unmount) -> Result<(), MountError> {
    let mounts = mounts_at(path)?;
    if !mounts.iter().any(|mount| mount.device == device) {
        return Ok(());
    }
    if let Some(top) = mounts.last()
        && top.device != device
    {
        if how == Unmount::Abort {
            abort(device);
        }
        return Err(MountError::Covered { path: path.to_owned(), source_name: top.source.clone() });
    }
    let flags = match how {
        Unmount::Normal => UnmountFlags::empty(),
        Unmount::Lazy => UnmountFlags::DETACH,
        Unmount::Abort => UnmountFlags::DETACH | UnmountFlags::FORCE,
    };
    detach(path, flags).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => MountError::Busy { path: path.to_owned() },
        _ => MountError::system(format!("umount {}", path.display()), error),
    })
}

/// Ends a FUSE connection without touching a path, where the kernel's control file system is
/// mounted. All requests then fail; what is mounted stays so.
pub(crate) fn abort(device: &str) {
    let Some((_, minor)) = device.split_once(':') else { return };
    // Absent in many containers: there is then no other way.
    let _ = fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
}

/// Raises how far the kernel reads ahead in files that we serve.
pub(crate) fn set_read_ahead(device: &str, bytes: u64) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = fs::write(&path, (bytes >> 10).to_string()) {
        tracing::warn!(%error, path, "read-ahead stays at the kernel's 128 KiB");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read_with_its_escapes() {
        let line = r"36 35 0:47 / /mnt/a\040b\134c ro,nosuid shared:1 - fuse.feedline s3://b/p rw";
        let info = parse_line(line).expect("well formed");
        assert_eq!(info.device, "0:47");
        assert_eq!(info.path, Path::new("/mnt/a b\\c"));
        assert_eq!(info.fs_type, "fuse.feedline");
        assert_eq!(info.source, "s3://b/p");
    }
}
