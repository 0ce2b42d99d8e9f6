//! The state file: an append-only log of listings, rewritten when more than half is garbage.
//!
//! ```text
//! header   magic and format version (8) | length (4) | identity of the mounts | CRC32C (4)
//! record   payload length (4) | CRC32C of length and payload (4) | payload
//! payload  LISTING path listed_ms content   a directory as listed
//!          AGAIN path listed_ms crc         listed again: the content with this checksum still holds
//!          REMOVED path                     no longer known
//! ```
//!
//! # Invariants
//!
//! - What cannot be read is dropped and costs a LIST, never more: a torn tail is cut off, a record
//!   that fails its checksum is skipped, a file for other mounts or of another format starts anew.
//! - A lost record can only make the answer older, never wrong: AGAIN names the content it means.
//! - A rewrite goes to a temporary file, is synced, and replaces the log by rename.
//!
//! # Deliberately absent
//!
//! - No sync after an append: what a power cut takes is listed again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use feedline_model::Directory;

use crate::codec::{Content, Reader, put_bytes, put_content, put_number, take_content};
use crate::rules::HiddenCounts;

/// Names the format; the last byte is its version.
const MAGIC: &[u8; 8] = b"FDLNTRE\x01";
/// Length and checksum before each payload.
const RECORD_HEADER_BYTES: usize = 8;
/// Garbage below this is not worth a rewrite.
const GARBAGE_BYTES_MIN: u64 = 256 << 10;
/// Records are written together up to about this size.
const WRITE_BYTES: usize = 1 << 20;

const LISTING: u8 = 1;
const AGAIN: u8 = 2;
const REMOVED: u8 = 3;

/// One change to write down.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    Put(Arc<Directory>, HiddenCounts),
    Remove,
}

/// One directory read back.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) listed_ms: u64,
    pub(crate) content: Content,
    checksum: u32,
    bytes: u64,
}

/// What the log holds of one directory.
#[derive(Debug, Clone, Copy)]
struct Written {
    checksum: u32,
    bytes: u64,
}

/// The open log.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    identity: String,
    file: File,
    /// Where the next record goes: the end of the last whole one.
    end: u64,
    live: HashMap<Arc<str>, Written>,
    live_bytes: u64,
}

fn header(identity: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let len = u32::try_from(identity.len()).expect("a config is shorter than 4 GiB");
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(identity.as_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// Appends a record whose payload `fill` writes. Returns the record's length.
fn put_record(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) -> u64 {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    fill(out);
    let payload = start + RECORD_HEADER_BYTES;
    let len = u32::try_from(out.len() - payload).expect("a listing takes less than 4 GiB");
    let len = len.to_le_bytes();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&len), &out[payload..]);
    out[start..start + 4].copy_from_slice(&len);
    out[start + 4..payload].copy_from_slice(&checksum.to_le_bytes());
    (out.len() - start) as u64
}

fn put_listing(out: &mut Vec<u8>, directory: &Directory, content: &[u8]) -> u64 {
    put_record(out, |out| {
        out.push(LISTING);
        put_bytes(out, directory.path.as_bytes());
        put_number(out, directory.listed_ms);
        out.extend_from_slice(content);
    })
}

/// Applies one payload to what was read so far; `None` if it is malformed.
fn apply(payload: &[u8], loaded: &mut HashMap<Arc<str>, Loaded>) -> Option<()> {
    let mut reader = Reader(payload);
    let kind = reader.byte()?;
    let path = reader.text()?;
    if kind == REMOVED {
        loaded.remove(path);
        return Some(());
    }
    let listed_ms = reader.number()?;
    match kind {
        LISTING => {
            let checksum = crc32c::crc32c(reader.0);
            let content = take_content(&mut reader)?;
            let bytes = (payload.len() + RECORD_HEADER_BYTES) as u64;
            loaded.insert(path.into(), Loaded { listed_ms, content, checksum, bytes });
        }
        AGAIN => {
            let checksum = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
            if let Some(known) = loaded.get_mut(path).filter(|known| known.checksum == checksum) {
                known.listed_ms = listed_ms;
            }
        }
        _ => return None,
    }
    Some(())
}

/// Reads all records after the header. Returns the end of the last whole one, and how many were
/// dropped.
fn read_records(
    reader: &mut impl Read,
    start: u64,
    file_bytes: u64,
    loaded: &mut HashMap<Arc<str>, Loaded>,
) -> io::Result<(u64, u64)> {
    let (mut at, mut end, mut dropped) = (start, start, 0);
    let mut payload = Vec::new();
    loop {
        let left = file_bytes - at;
        if left < RECORD_HEADER_BYTES as u64 {
            return Ok((end, dropped + u64::from(0 < left)));
        }
        let (mut len_bytes, mut checksum) = ([0; 4], [0; 4]);
        reader.read_exact(&mut len_bytes)?;
        reader.read_exact(&mut checksum)?;
        let len = u64::from(u32::from_le_bytes(len_bytes));
        if left - (RECORD_HEADER_BYTES as u64) < len {
            return Ok((end, dropped + 1));
        }
        payload.resize(usize::try_from(len).expect("u32 fits usize"), 0);
        reader.read_exact(&mut payload)?;
        at += RECORD_HEADER_BYTES as u64 + len;
        let actual = crc32c::crc32c_append(crc32c::crc32c(&len_bytes), &payload);
        if actual == u32::from_le_bytes(checksum) && apply(&payload, loaded).is_some() {
            end = at;
        } else {
            dropped += 1;
        }
    }
}

impl StateFile {
    /// Opens or makes the log at `path`, and reads what it knows of the mounts `identity`.
    ///
    /// # Errors
    ///
    /// Of the file system only; content that cannot be read is dropped with a warning.
    pub(crate) fn open(
        path: &Path,
        identity: String,
    ) -> io::Result<(Self, HashMap<Arc<str>, Loaded>)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let file_bytes = file.metadata()?.len();
        let expected = header(&identity);
        let mut found = vec![0; expected.len()];
        let mut loaded = HashMap::new();
        let mut reader = BufReader::with_capacity(WRITE_BYTES, &file);
        let known = reader.read_exact(&mut found).is_ok() && found == expected;
        let start = expected.len() as u64;
        let (end, dropped) = if known {
            read_records(&mut reader, start, file_bytes, &mut loaded)?
        } else {
            (start, 0)
        };
        if !known {
            if 0 < file_bytes {
                tracing::warn!(path = %path.display(), "listings of other mounts are dropped");
            }
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&expected)?;
        } else if 0 < dropped {
            tracing::warn!(path = %path.display(), dropped, "damaged listings are dropped");
        }
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        let written = |(path, it): (&Arc<str>, &Loaded)| {
            (Arc::clone(path), Written { checksum: it.checksum, bytes: it.bytes })
        };
        let live: HashMap<_, _> = loaded.iter().map(written).collect();
        let live_bytes = live.values().map(|written| written.bytes).sum();
        Ok((Self { path: path.to_owned(), identity, file, end, live, live_bytes }, loaded))
    }

    /// Appends changes. Cost: about one write per MiB.
    ///
    /// # Errors
    ///
    /// Of the file system. Changes not yet written are lost; the log itself stays whole.
    pub(crate) fn append(&mut self, jobs: HashMap<Arc<str>, Job>) -> io::Result<()> {
        let (mut out, mut content) = (Vec::new(), Vec::new());
        for (path, job) in jobs {
            match job {
                Job::Remove => {
                    if let Some(gone) = self.live.remove(&path) {
                        self.live_bytes -= gone.bytes;
                        put_record(&mut out, |out| {
                            out.push(REMOVED);
                            put_bytes(out, path.as_bytes());
                        });
                    }
                }
                Job::Put(directory, hidden) => {
                    content.clear();
                    put_content(&mut content, &directory, &hidden);
                    self.put(&mut out, path, &directory, &content);
                }
            }
            if WRITE_BYTES <= out.len() {
                self.write(&mut out)?;
            }
        }
        self.write(&mut out)
    }

    fn put(&mut self, out: &mut Vec<u8>, path: Arc<str>, directory: &Directory, content: &[u8]) {
        let checksum = crc32c::crc32c(content);
        let before = self.live.get(&path).copied();
        if before.is_some_and(|before| before.checksum == checksum) {
            put_record(out, |out| {
                out.push(AGAIN);
                put_bytes(out, path.as_bytes());
                put_number(out, directory.listed_ms);
                out.extend_from_slice(&checksum.to_le_bytes());
            });
            return;
        }
        let bytes = put_listing(out, directory, content);
        self.live_bytes = self.live_bytes + bytes - before.map_or(0, |before| before.bytes);
        self.live.insert(path, Written { checksum, bytes });
    }

    fn write(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let result = self.file.write_all(out);
        if let Err(error) = result {
            // What was written of it must go, or the next record could not be found. Nothing that
            // was meant to be written counts as written any more.
            self.live.clear();
            self.live_bytes = 0;
            self.file.set_len(self.end)?;
            self.file.seek(SeekFrom::Start(self.end))?;
            return Err(error);
        }
        self.end += out.len() as u64;
        out.clear();
        Ok(())
    }

    /// True if a rewrite would halve the log.
    pub(crate) fn wants_rewrite(&self) -> bool {
        2 * self.live_bytes + GARBAGE_BYTES_MIN < self.end
    }

    /// Replaces the log by one that holds exactly `directories`.
    ///
    /// # Errors
    ///
    /// Of the file system; the old log then stays in use.
    pub(crate) fn rewrite(
        &mut self,
        directories: &[(Arc<Directory>, HiddenCounts)],
    ) -> io::Result<()> {
        let mut name = self.path.clone().into_os_string();
        name.push(".tmp");
        let temporary = PathBuf::from(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        let mut writer = BufWriter::with_capacity(WRITE_BYTES, file);
        let head = header(&self.identity);
        writer.write_all(&head)?;
        let mut end = head.len() as u64;
        let (mut live, mut live_bytes) = (HashMap::new(), 0);
        let (mut record, mut content) = (Vec::new(), Vec::new());
        for (directory, hidden) in directories {
            record.clear();
            content.clear();
            put_content(&mut content, directory, hidden);
            let bytes = put_listing(&mut record, directory, &content);
            writer.write_all(&record)?;
            (end, live_bytes) = (end + bytes, live_bytes + bytes);
            let checksum = crc32c::crc32c(&content);
            live.insert(Arc::clone(&directory.path), Written { checksum, bytes });
        }
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        (self.file, self.end, self.live, self.live_bytes) = (file, end, live, live_bytes);
        Ok(())
    }

    /// Waits until the disk has everything.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
