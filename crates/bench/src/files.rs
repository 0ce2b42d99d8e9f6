//! Listing and reading files the way loaders do, each step timed.
//!
//! Deliberately absent: any retry or skip. A file that cannot be read is an error with its path and
//! errno, for whoever measures to report.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use anyhow::{Context, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// The whole of a file, however it came.
#[derive(Debug)]
pub enum Bytes {
    /// Read into memory.
    Owned(Vec<u8>),
    /// Mapped.
    Mapped(Mapping),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped(mapping) => mapping.as_ref(),
        }
    }
}

/// A private read-only mapping of a whole file.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

#[expect(unsafe_code, reason = "mmap is what is measured")]
// SAFETY: the mapping is read-only and owned; any thread may read or unmap it.
unsafe impl Send for Mapping {}
#[expect(unsafe_code, reason = "mmap is what is measured")]
// SAFETY: shared reads of a read-only mapping.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// As DALI does: open, fstat, mmap, close, madvise(WILLNEED of the whole file). The advice starts
    /// the reads and does not wait for them: so one thread that opens has many reads in flight, and
    /// whoever uses the bytes faults much later.
    ///
    /// # Errors
    ///
    /// Those of the system calls.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if length == 0 {
            return Ok(Self { address: NonNull::dangling(), length });
        }
        #[expect(unsafe_code, reason = "mmap is what is measured")]
        // SAFETY: a new mapping at an address the kernel chooses, of a file open for reading.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ,
                MapFlags::PRIVATE,
                file.as_fd(),
                0,
            )?
        };
        let mapping =
            Self { address: NonNull::new(address.cast()).expect("mmap gives no null"), length };
        mapping.advise(Advice::WillNeed)?;
        Ok(mapping)
    }

    /// Faults every page in. Unlike touching the pages, an IO error is an errno and not a SIGBUS.
    ///
    /// # Errors
    ///
    /// EFAULT when the file system cannot give a page.
    pub fn populate(&self) -> io::Result<()> {
        self.advise(Advice::LinuxPopulateRead)
    }

    fn advise(&self, advice: Advice) -> io::Result<()> {
        if self.length == 0 {
            return Ok(());
        }
        #[expect(unsafe_code, reason = "mmap is what is measured")]
        // SAFETY: the range is exactly this mapping, and neither advice changes its contents.
        let result =
            unsafe { rustix::mm::madvise(self.address.as_ptr().cast(), self.length, advice) };
        Ok(result?)
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        #[expect(unsafe_code, reason = "mmap is what is measured")]
        // SAFETY: mapped and readable for `length` bytes until drop. The data sets measured are not
        // written while they are read; a mapping cut short would end the process, never corrupt it.
        unsafe {
            std::slice::from_raw_parts(self.address.as_ptr(), self.length)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            #[expect(unsafe_code, reason = "mmap is what is measured")]
            // SAFETY: the range is exactly this mapping and nobody can hold a slice of it any more.
            let result = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.length) };
            debug_assert!(result.is_ok(), "munmap of an own mapping");
        }
    }
}

/// Opens, reads to the end into `buffer` (which is cleared) and closes. Returns the bytes read.
///
/// # Errors
///
/// Those of the system calls; a file that turns out shorter than its fstat said is one too.
pub fn read_whole(path: &Path, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    buffer.clear();
    buffer.reserve(usize::try_from(size).map_err(io::Error::other)?);
    let read = file.read_to_end(buffer)?;
    if read as u64 != size {
        let message = format!("read {read} bytes of a file of {size}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    Ok(read)
}

/// The files of class folders, as DALI lists them: the folders of `root` (each with a stat) sorted by
/// name, in each the files (no stat; the directory entry says that it is one) sorted by name. Names
/// that begin with a dot are left out.
///
/// # Errors
///
/// If a folder cannot be read, or there is not one file.
pub fn list_classes(root: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in read_dir(root)? {
        let path = root.join(entry.file_name());
        // fs::metadata is stat(2) on the path: what the loader sends, also where d_type is known.
        if fs::metadata(&path).with_context(|| format!("stat {}", path.display()))?.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    let mut files = Vec::new();
    for folder in folders {
        let mut names = Vec::new();
        for entry in read_dir(&folder)? {
            let is_file = entry
                .file_type()
                .with_context(|| format!("type of {}", entry.path().display()))?
                .is_file();
            if is_file {
                names.push(entry.file_name());
            }
        }
        names.sort();
        files.extend(names.into_iter().map(|name| folder.join(name)));
    }
    anyhow::ensure!(
        !files.is_empty(),
        "{}: no file in any class folder; give the folder that holds the class folders",
        root.display()
    );
    Ok(files)
}

fn read_dir(path: &Path) -> Result<Vec<fs::DirEntry>> {
    let hidden = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().first() == Some(&b'.');
    let entries: io::Result<Vec<_>> = fs::read_dir(path)
        .and_then(|entries| entries.filter(|e| !e.as_ref().is_ok_and(&hidden)).collect());
    entries.with_context(|| format!("list {}", path.display()))
}

/// Every file below `root`, sorted by path; names that begin with a dot are left out.
///
/// # Errors
///
/// If a folder cannot be read.
pub fn list_tree(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in read_dir(&folder)? {
            let kind =
                entry.file_type().with_context(|| format!("type of {}", entry.path().display()))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// KiB of `mapping` that this process has mapped in.
    fn resident_kib(mapping: &Mapping) -> u64 {
        let start = format!("{:x}-", mapping.as_ref().as_ptr() as usize);
        let smaps = fs::read_to_string("/proc/self/smaps").expect("read");
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
        let line = lines.find(|line| line.starts_with("Rss:")).expect("the mapping is listed");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    #[test]
    fn opening_maps_no_page_and_populating_maps_every_page() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("file");
        fs::write(&path, vec![7; 1_000_001]).expect("written");
        let mapping = Mapping::open(&path).expect("mapped");
        assert_eq!(resident_kib(&mapping), 0);
        mapping.populate().expect("populated");
        assert_eq!(resident_kib(&mapping), 1_000_001_u64.div_ceil(4096) * 4);
        assert!(mapping.as_ref().iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_mapping_cut_short_is_an_errno_and_no_signal() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("file");
        fs::write(&path, vec![7; 100_000]).expect("written");
        let mapping = Mapping::open(&path).expect("mapped");
        File::options().write(true).open(&path).and_then(|f| f.set_len(10)).expect("cut");
        let error = mapping.populate().expect_err("there is no such page");
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }
}
