//! A listing that lies in the state file until it is used.
//!
//! Ten million files are half a gigabyte of listings and take seconds to decode; a job uses some of
//! them. So what a restart finds on disk stays there: a directory is read when it is first listed.
//!
//! # Invariants
//!
//! - What is read is checked before it is believed: a listing that fails is not known, and costs a
//!   LIST.
//! - Reading blocks on the disk, so it is done on a thread that may block, never where the kernel or a
//!   task waits for memory only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use feedline_model::{Directory, SourceId};

use crate::codec::{Reader, put_number, take_entries};
use crate::rules::HiddenCounts;

/// Where the entries of a directory lie, and what is known without reading them.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// Stays open when the log is replaced, until nothing lies in it any more.
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
    /// Of [`head_checksum`] and the entries.
    pub(crate) checksum: u32,
    pub(crate) listed_ms: u64,
    pub(crate) changed_ms: u64,
    /// How many entries.
    pub(crate) count: u64,
}

/// A directory in the table.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// In memory.
    Known(Arc<Directory>),
    /// On disk.
    Kept(Arc<Kept>),
}

impl Content {
    /// How many entries.
    pub(crate) fn count(&self) -> u64 {
        match self {
            Self::Known(directory) => directory.len() as u64,
            Self::Kept(kept) => kept.count,
        }
    }

    /// When it was listed.
    pub(crate) fn listed_ms(&self) -> u64 {
        match self {
            Self::Known(directory) => directory.listed_ms,
            Self::Kept(kept) => kept.listed_ms,
        }
    }
}

/// What is checked together with the entries, so that "listed again" means all of it.
pub(crate) fn head_checksum(directory: &Directory, hidden: &HiddenCounts) -> u32 {
    checksum_of(directory.changed_ms, hidden)
}

fn checksum_of(changed_ms: u64, hidden: &HiddenCounts) -> u32 {
    let mut head = Vec::new();
    put_number(&mut head, changed_ms);
    hidden.iter().for_each(|count| put_number(&mut head, u64::from(*count)));
    crc32c::crc32c(&head)
}

impl Kept {
    /// Reads the entries as they were written; `None` if they are damaged. Blocks.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn read(&self, hidden: &HiddenCounts) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; self.bytes as usize];
        self.file.read_exact_at(&mut bytes, self.offset)?;
        let head = checksum_of(self.changed_ms, hidden);
        Ok((crc32c::crc32c_append(head, &bytes) == self.checksum).then_some(bytes))
    }

    /// Reads and decodes the directory; `None` if it is damaged or cannot be read. Blocks.
    pub(crate) fn directory(
        &self,
        hidden: &HiddenCounts,
        path: &str,
        origin: (SourceId, Arc<str>),
        ttl_ms: u64,
    ) -> Option<Directory> {
        let bytes = match self.read(hidden) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(path, %error, "a saved listing cannot be read");
                return None;
            }
        };
        let builder = take_entries(&mut Reader(&bytes))?;
        let (mut directory, _) = builder.build(path, Some(origin), self.listed_ms, ttl_ms);
        directory.changed_ms = self.changed_ms;
        directory.is_whole = *hidden == HiddenCounts::default();
        (directory.len() as u64 == self.count).then_some(directory)
    }
}
