//! What is mounted, read from `/proc/self/mountinfo`: never by touching a mount, which may hang.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where it is mounted.
    pub(crate) mountpoint: PathBuf,
    /// `st_dev` of its files.
    pub(crate) device: Device,
    /// Such as `fuse.feedline`.
    pub(crate) fs_type: String,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    /// 0 for file systems without a block device, such as FUSE.
    pub(crate) major: u32,
    /// For FUSE: the name of the connection under `/sys/fs/fuse/connections`.
    pub(crate) minor: u32,
}

/// All mounts of this mount namespace, in the order they were mounted.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub(crate) fn mounts() -> io::Result<Vec<Mount>> {
    // Lossy: a mountpoint that is not UTF-8 is escaped by nobody, so lines are taken as bytes.
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// The mount that is visible at exactly `mountpoint`: the last one mounted there.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub(crate) fn at(mountpoint: &Path) -> io::Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rev().find(|mount| mount.mountpoint == mountpoint))
}

/// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [FIELDS]... - TYPE SOURCE SUPER_OPTIONS`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mountpoint = unescape(fields.nth(1)?);
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount {
        mountpoint: PathBuf::from(OsString::from_vec(mountpoint)),
        device: Device { major: major.parse().ok()?, minor: minor.parse().ok()? },
        fs_type: String::from_utf8_lossy(fs_type).into_owned(),
    })
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits =
            tail.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        if let (b'\\', Some(digits)) = (first, digits) {
            plain.push(digits.iter().fold(0u8, |value, digit| value << 3 | (digit - b'0')));
            rest = &tail[3..];
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields_is_read() {
        let line =
            b"98 27 0:53 / /mnt/my\\040data rw,nosuid shared:4 master:1 - fuse.feedline s3://b rw";
        let mount = parse(line).unwrap();
        assert_eq!(mount.mountpoint, Path::new("/mnt/my data"));
        assert_eq!(mount.device, Device { major: 0, minor: 53 });
        assert_eq!(mount.fs_type, "fuse.feedline");
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(at(Path::new("/")).unwrap().is_some());
        assert_eq!(at(Path::new("/no such mount")).unwrap(), None);
    }
}
