//! Every error that the kernel can be given, and the one table from [`ReadError`] to it.
//!
//! # Deliberately absent
//!
//! - No wildcard: a new kind of error does not compile until someone decides what a process sees.

use feedline_model::ReadError;

/// An error number as a process sees it. Positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    /// No such file or directory.
    pub(crate) const NOENT: Self = Self(libc::ENOENT);
    /// Not a directory.
    pub(crate) const NOTDIR: Self = Self(libc::ENOTDIR);
    /// Is a directory.
    pub(crate) const ISDIR: Self = Self(libc::EISDIR);
    /// The bytes or the listing could not be had.
    pub(crate) const IO: Self = Self(libc::EIO);
    /// The inode is not known any more, or its object was replaced in the bucket.
    pub(crate) const STALE: Self = Self(libc::ESTALE);
    /// The mount is read-only.
    pub(crate) const ROFS: Self = Self(libc::EROFS);
    /// A name longer than 255 bytes.
    pub(crate) const NAMETOOLONG: Self = Self(libc::ENAMETOOLONG);
    /// Not implemented: the kernel does not ask again during this mount.
    pub(crate) const NOSYS: Self = Self(libc::ENOSYS);
    /// Not a terminal: what `ioctl(TCGETS)` on a file says.
    pub(crate) const NOTTY: Self = Self(libc::ENOTTY);
    /// Makes no sense for this kind of file.
    pub(crate) const INVAL: Self = Self(libc::EINVAL);
}

impl From<&ReadError> for Errno {
    fn from(error: &ReadError) -> Self {
        match error {
            ReadError::NotFound { .. } => Self::NOENT,
            ReadError::Forbidden { .. } => Self(libc::EACCES),
            ReadError::Changed { .. } => Self::STALE,
            ReadError::Unavailable { .. } | ReadError::Rejected { .. } => Self::IO,
        }
    }
}
