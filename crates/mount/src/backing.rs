//! Cached files handed to the kernel, by their backing ids.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use fuser::BackingId;

/// `_IOW(229, 2, u32)`: closes a backing id.
const BACKING_CLOSE: libc::c_ulong = 0x4004_e502;

/// A cached file that the kernel holds open for us. Dropping it gives the file back, which frees
/// its space if it was unlinked meanwhile. Costs a system call to make and one to drop.
///
/// Our own and not the FUSE library's type, since that one can only be made from a request that came
/// through the library.
#[derive(Debug)]
pub(crate) struct Backing {
    id: u32,
    /// Gone when the mount has ended, and the kernel's backing ids with it.
    device: Weak<OwnedFd>,
}

impl Backing {
    /// Hands `file` to the kernel.
    ///
    /// # Errors
    ///
    /// The kernel's, and `NotConnected` if the mount has ended or was made without root.
    pub(crate) fn new(device: &Weak<OwnedFd>, file: &File) -> io::Result<Self> {
        let open = device.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let id = BackingId::create_raw(open.as_fd(), file.as_fd())?;
        Ok(Self { id, device: Weak::clone(device) })
    }

    /// What the answer to an OPEN says. Valid while `self` lives.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    fn close(&self, device: &Arc<OwnedFd>) -> io::Result<()> {
        let id = self.id;
        #[expect(unsafe_code, reason = "no crate offers this call")]
        // SAFETY: the descriptor is an open /dev/fuse and the argument points to a live u32.
        let closed = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_CLOSE as _, &raw const id) };
        if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Some(device) = self.device.upgrade()
            && let Err(error) = self.close(&device)
        {
            tracing::debug!(%error, id = self.id, "a backing id could not be closed");
        }
    }
}
