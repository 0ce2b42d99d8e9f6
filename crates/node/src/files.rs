//! Small files that must be whole whenever they are read: replaced by rename, never written in place.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Replaces a file as a whole, by way of the same name with the ending `new`. `sync`: it is on the disk
/// itself before it takes the place, for what a power cut must not take back.
pub(crate) fn replace(file: &Path, text: &[u8], sync: bool) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut out = File::create(&new)?;
    out.write_all(text)?;
    if sync {
        out.sync_all()?;
    }
    fs::rename(&new, file)
}
