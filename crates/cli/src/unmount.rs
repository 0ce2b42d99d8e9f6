//! Taking a mount away without the help of whoever serves it.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::UnmountFlags;

/// Detaches `mountpoint`: gone from the tree at once, released when its last user lets go. Without
/// the privilege, libfuse's `fusermount3` does it for the mount's owner.
///
/// # Errors
///
/// If neither may.
pub(crate) fn lazily(mountpoint: &Path) -> io::Result<()> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    let Err(error) = rustix::mount::unmount(mountpoint, flags) else { return Ok(()) };
    if error != rustix::io::Errno::PERM {
        return Err(error.into());
    }
    let status = Command::new("fusermount3")
        .args(["-u", "-z", "-q", "--"])
        .arg(mountpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(error.into()) }
}
