//! Why a mount could not be made or taken away, each with the way out.

use std::io;
use std::path::PathBuf;

/// Why [`crate::Mount::start`] or [`crate::MountHandle::unmount`] failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the doc of each variant covers its fields")]
pub enum MountError {
    /// The mountpoint is missing or not a directory.
    #[error("{}: cannot be a mountpoint ({cause}); create the directory first", path.display())]
    Mountpoint { path: PathBuf, cause: String },

    /// Something live is mounted there.
    #[error(
        "{}: already in use by a live mount of type {fs_type} ({source_name}); unmount it first \
         with `umount {}`, or choose another mountpoint",
        path.display(),
        path.display()
    )]
    InUse { path: PathBuf, fs_type: String, source_name: String },

    /// Something is mounted there whose daemon does not answer.
    #[error(
        "{}: the daemon of the mount there ({source_name}) does not answer; stop it, then run \
         `umount -l {}`",
        path.display(),
        path.display()
    )]
    Hung { path: PathBuf, source_name: String },

    /// Other users can be let in by root only, or where the administrator allows it.
    #[error(
        "--allow-other needs root, or a line `user_allow_other` in /etc/fuse.conf: add it, or mount \
         without --allow-other"
    )]
    AllowOther,

    /// Files of the mount are open.
    #[error(
        "{}: busy, something has files open or its working directory there; `fuser -m {}` names \
         it, a lazy unmount detaches at once and ends when the last file is closed",
        path.display(),
        path.display()
    )]
    Busy { path: PathBuf },

    /// Something else was mounted on top of the mount.
    #[error(
        "{}: covered by another mount ({source_name}); unmount that first with `umount {}`",
        path.display(),
        path.display()
    )]
    Covered { path: PathBuf, source_name: String },

    /// A system call failed.
    #[error("{action}: {source}")]
    System { action: String, source: io::Error },
}

impl MountError {
    pub(crate) fn system(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { action: action.into(), source: source.into() }
    }
}
