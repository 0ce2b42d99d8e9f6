//! The state file: an append-only log of listings, rewritten when more than half is garbage.
//!
//! ```text
//! header   magic and format version (8) | length (4) | identity of the mounts | CRC32C (4)
//! record   length of head (4) | length of body (4) | CRC32C of lengths and head (4) | head | body
//! LISTING  head: path listed_ms changed_ms hidden... count crc   a directory as listed; crc is of the
//!          body, which holds the entries
//! AGAIN    head: path listed_ms crc    listed again: the entries with this checksum still hold
//! REMOVED  head: path                  no longer known
//! ```
//!
//! Opening reads the heads alone: 10,000 directories of 1,000 files are 10,000 small reads and not 300
//! MB. The entries of a directory are read, checked and decoded when it is first used.
//!
//! # Invariants
//!
//! - What cannot be read is dropped and costs a LIST, never more: a torn tail is cut off, a record
//!   that fails its checksum is skipped (a body: when it is first used), a file for other mounts or of
//!   another format starts anew.
//! - A lost record can only make the answer older, never wrong: AGAIN names the content it means.
//! - A rewrite goes to a temporary file, is synced, and replaces the log by rename.
//!
//! # Deliberately absent
//!
//! - No sync after an append: what a power cut takes is listed again.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use feedline_model::Directory;

use crate::codec::{Reader, put_bytes, put_entries, put_number};
use crate::kept::{Content, Kept, head_checksum};
use crate::rules::HiddenCounts;

/// Names the format; the last byte is its version.
const MAGIC: &[u8; 8] = b"FDLNTRE\x02";
/// Two lengths and a checksum before each head.
const RECORD_HEADER_BYTES: usize = 12;
/// Garbage below this is not worth a rewrite.
const GARBAGE_BYTES_MIN: u64 = 256 << 10;
/// Records are written together up to about this size.
const WRITE_BYTES: usize = 1 << 20;
/// Heads are read through a buffer of this size: a head is some 100 bytes, the body behind it is
/// skipped.
const READ_BYTES: usize = 4 << 10;
/// No head is longer: a path of 4 KiB and some numbers.
const HEAD_BYTES_MAX: u64 = 16 << 10;

const LISTING: u8 = 1;
const AGAIN: u8 = 2;
const REMOVED: u8 = 3;

/// One change to write down.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    Put(Arc<Directory>, HiddenCounts),
    Remove,
}

/// One directory of the log.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) kept: Kept,
    pub(crate) hidden: HiddenCounts,
    bytes: u64,
}

/// What the log holds of one directory.
#[derive(Debug, Clone, Copy)]
struct Written {
    checksum: u32,
    bytes: u64,
    /// Where its entries lie, and how long they are.
    body: (u64, u32),
}

/// The open log.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    identity: String,
    file: Arc<File>,
    /// Where the next record goes: the end of the last whole one.
    end: u64,
    live: HashMap<Arc<str>, Written>,
    live_bytes: u64,
}

/// A kept directory that a rewrite moved.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) path: Arc<str>,
    pub(crate) old: Arc<Kept>,
    pub(crate) new: Arc<Kept>,
}

/// A directory for a rewrite of the log.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) path: Arc<str>,
    pub(crate) content: Content,
    pub(crate) hidden: HiddenCounts,
}

fn header(identity: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let len = u32::try_from(identity.len()).expect("a config is shorter than 4 GiB");
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(identity.as_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// Appends a record with the head that `fill` writes, and `body`. Returns the record's length.
fn put_record(out: &mut Vec<u8>, body: &[u8], fill: impl FnOnce(&mut Vec<u8>)) -> u64 {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    fill(out);
    let head = start + RECORD_HEADER_BYTES;
    let length = |bytes: usize| u32::try_from(bytes).expect("a listing takes less than 4 GiB");
    let (head_bytes, body_bytes) = (length(out.len() - head), length(body.len()));
    out[start..start + 4].copy_from_slice(&head_bytes.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&body_bytes.to_le_bytes());
    let lengths = crc32c::crc32c(&out[start..start + 8]);
    let checksum = crc32c::crc32c_append(lengths, &out[head..]);
    out[start + 8..head].copy_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(body);
    (out.len() - start) as u64
}

/// What the head of a listing says.
#[derive(Debug, Clone, Copy)]
struct Head<'a> {
    path: &'a str,
    listed_ms: u64,
    changed_ms: u64,
    hidden: &'a HiddenCounts,
    count: u64,
    checksum: u32,
}

fn put_listing(out: &mut Vec<u8>, head: Head<'_>, entries: &[u8]) -> u64 {
    put_record(out, entries, |out| {
        out.push(LISTING);
        put_bytes(out, head.path.as_bytes());
        put_number(out, head.listed_ms);
        put_number(out, head.changed_ms);
        head.hidden.iter().for_each(|count| put_number(out, u64::from(*count)));
        put_number(out, head.count);
        out.extend_from_slice(&head.checksum.to_le_bytes());
    })
}

/// Where `entries` lie that end at `end`, and how long they are.
fn body_before(end: u64, entries: &[u8]) -> (u64, u32) {
    let bytes = u32::try_from(entries.len()).expect("a listing takes less than 4 GiB");
    (end - u64::from(bytes), bytes)
}

/// Where the body of a record lies.
#[derive(Debug)]
struct Body<'a> {
    file: &'a Arc<File>,
    offset: u64,
    bytes: u32,
}

/// Applies one head to what was read so far; `None` if it is malformed.
fn apply(head: &[u8], body: &Body<'_>, loaded: &mut HashMap<Arc<str>, Loaded>) -> Option<()> {
    let mut reader = Reader(head);
    let kind = reader.byte()?;
    let path = reader.text()?;
    if kind == REMOVED {
        loaded.remove(path);
        return Some(());
    }
    let listed_ms = reader.number()?;
    match kind {
        LISTING => {
            let changed_ms = reader.number()?;
            let mut hidden = HiddenCounts::default();
            for count in &mut hidden {
                *count = u32::try_from(reader.number()?).ok()?;
            }
            let count = reader.number()?;
            let checksum = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
            let (file, offset, bytes) = (Arc::clone(body.file), body.offset, body.bytes);
            let kept = Kept { file, offset, bytes, checksum, listed_ms, changed_ms, count };
            let bytes = (RECORD_HEADER_BYTES + head.len()) as u64 + u64::from(body.bytes);
            loaded.insert(path.into(), Loaded { kept, hidden, bytes });
        }
        AGAIN => {
            let checksum = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
            if let Some(known) =
                loaded.get_mut(path).filter(|known| known.kept.checksum == checksum)
            {
                known.kept.listed_ms = listed_ms;
            }
        }
        _ => return None,
    }
    Some(())
}

/// Reads the heads of all records from `start` on. Returns the end of the last whole record, and how
/// many were dropped.
fn read_records(
    file: &Arc<File>,
    start: u64,
    file_bytes: u64,
    loaded: &mut HashMap<Arc<str>, Loaded>,
) -> io::Result<(u64, u64)> {
    let mut reader = BufReader::with_capacity(READ_BYTES, &**file);
    reader.seek(SeekFrom::Start(start))?;
    let (mut at, mut end, mut dropped) = (start, start, 0);
    let mut head = Vec::new();
    loop {
        let left = file_bytes - at;
        if left < RECORD_HEADER_BYTES as u64 {
            return Ok((end, dropped + u64::from(0 < left)));
        }
        let (mut lengths, mut checksum) = ([0; 8], [0; 4]);
        reader.read_exact(&mut lengths)?;
        reader.read_exact(&mut checksum)?;
        let [a, b, c, d, rest @ ..] = lengths;
        let head_bytes = u64::from(u32::from_le_bytes([a, b, c, d]));
        let body_bytes = u32::from_le_bytes(rest);
        let whole = RECORD_HEADER_BYTES as u64 + head_bytes + u64::from(body_bytes);
        // A head that long was never written: where the next record begins is not known.
        if left < whole || HEAD_BYTES_MAX < head_bytes {
            return Ok((end, dropped + 1));
        }
        head.resize(usize::try_from(head_bytes).expect("u32 fits usize"), 0);
        reader.read_exact(&mut head)?;
        reader.seek_relative(i64::from(body_bytes))?;
        let offset = at + RECORD_HEADER_BYTES as u64 + head_bytes;
        at += whole;
        let actual = crc32c::crc32c_append(crc32c::crc32c(&lengths), &head);
        let body = Body { file, offset, bytes: body_bytes };
        if actual == u32::from_le_bytes(checksum) && apply(&head, &body, loaded).is_some() {
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
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let file = Arc::new(file);
        let file_bytes = file.metadata()?.len();
        let expected = header(&identity);
        let mut found = vec![0; expected.len()];
        let mut loaded = HashMap::new();
        let known = (&*file).read_exact(&mut found).is_ok() && found == expected;
        let start = expected.len() as u64;
        let (end, dropped) =
            if known { read_records(&file, start, file_bytes, &mut loaded)? } else { (start, 0) };
        if !known {
            if 0 < file_bytes {
                tracing::warn!(path = %path.display(),
                    "listings of other mounts, or of another release, are dropped");
            }
            file.set_len(0)?;
            (&*file).seek(SeekFrom::Start(0))?;
            (&*file).write_all(&expected)?;
        } else if 0 < dropped {
            tracing::warn!(path = %path.display(), dropped, "damaged listings are dropped");
        }
        file.set_len(end)?;
        (&*file).seek(SeekFrom::Start(end))?;
        let written = |(path, it): (&Arc<str>, &Loaded)| {
            let body = (it.kept.offset, it.kept.bytes);
            (Arc::clone(path), Written { checksum: it.kept.checksum, bytes: it.bytes, body })
        };
        let live: HashMap<_, _> = loaded.iter().map(written).collect();
        let live_bytes = live.values().map(|written| written.bytes).sum();
        Ok((Self { path: path.to_owned(), identity, file, end, live, live_bytes }, loaded))
    }

    /// Appends changes. `damaged`: directories whose entries in the log are not to be relied on.
    /// Cost: about one write per MiB.
    ///
    /// # Errors
    ///
    /// Of the file system. Changes not yet written are lost; the log itself stays whole.
    pub(crate) fn append(
        &mut self,
        jobs: HashMap<Arc<str>, Job>,
        damaged: &HashSet<Arc<str>>,
    ) -> io::Result<()> {
        let (mut out, mut entries) = (Vec::new(), Vec::new());
        for path in damaged {
            self.remove(&mut out, path);
        }
        for (path, job) in jobs {
            match job {
                Job::Remove => self.remove(&mut out, &path),
                Job::Put(directory, hidden) => {
                    entries.clear();
                    put_entries(&mut entries, &directory);
                    self.put(&mut out, path, &directory, &hidden, &entries);
                }
            }
            if WRITE_BYTES <= out.len() {
                self.write(&mut out)?;
            }
        }
        self.write(&mut out)
    }

    fn remove(&mut self, out: &mut Vec<u8>, path: &Arc<str>) {
        if let Some(gone) = self.live.remove(path) {
            self.live_bytes -= gone.bytes;
            put_record(out, &[], |out| {
                out.push(REMOVED);
                put_bytes(out, path.as_bytes());
            });
        }
    }

    fn put(
        &mut self,
        out: &mut Vec<u8>,
        path: Arc<str>,
        directory: &Directory,
        hidden: &HiddenCounts,
        entries: &[u8],
    ) {
        // What is hidden may change without the entries: then all is written again.
        let checksum = crc32c::crc32c_append(head_checksum(directory, hidden), entries);
        let before = self.live.get(&path).copied();
        if before.is_some_and(|before| before.checksum == checksum) {
            put_record(out, &[], |out| {
                out.push(AGAIN);
                put_bytes(out, path.as_bytes());
                put_number(out, directory.listed_ms);
                out.extend_from_slice(&checksum.to_le_bytes());
            });
            return;
        }
        let head = Head {
            path: &path,
            listed_ms: directory.listed_ms,
            changed_ms: directory.changed_ms,
            hidden,
            count: directory.len() as u64,
            checksum,
        };
        let bytes = put_listing(out, head, entries);
        self.live_bytes = self.live_bytes + bytes - before.map_or(0, |before| before.bytes);
        // What is in `out` comes to lie behind what is written.
        let body = body_before(self.end + out.len() as u64, entries);
        self.live.insert(path, Written { checksum, bytes, body });
    }

    fn write(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let result = (&*self.file).write_all(out);
        if let Err(error) = result {
            // What was written of it must go, or the next record could not be found. Nothing that
            // was meant to be written counts as written any more.
            self.live.clear();
            self.live_bytes = 0;
            self.file.set_len(self.end)?;
            (&*self.file).seek(SeekFrom::Start(self.end))?;
            return Err(error);
        }
        self.end += out.len() as u64;
        out.clear();
        Ok(())
    }

    /// Where `directory`, the last one put of its path, lies; `None` if it could not be written.
    pub(crate) fn kept(&self, directory: &Directory) -> Option<Kept> {
        let Written { checksum, body: (offset, bytes), .. } = *self.live.get(&directory.path)?;
        Some(Kept {
            file: Arc::clone(&self.file),
            offset,
            bytes,
            checksum,
            listed_ms: directory.listed_ms,
            changed_ms: directory.changed_ms,
            count: directory.len() as u64,
        })
    }

    /// True if a rewrite would halve the log.
    pub(crate) fn wants_rewrite(&self) -> bool {
        2 * self.live_bytes + GARBAGE_BYTES_MIN < self.end
    }

    /// Replaces the log by one that holds exactly `directories`, of which a kept one whose entries are
    /// damaged is left out. Returns where those that are kept lie now.
    ///
    /// # Errors
    ///
    /// Of the file system; the old log then stays in use.
    pub(crate) fn rewrite(&mut self, directories: &[Snapshot]) -> io::Result<Vec<Moved>> {
        let mut name = self.path.clone().into_os_string();
        name.push(".tmp");
        let temporary = PathBuf::from(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        let file = Arc::new(file);
        let mut writer = BufWriter::with_capacity(WRITE_BYTES, &*file);
        let head = header(&self.identity);
        writer.write_all(&head)?;
        let mut end = head.len() as u64;
        let (mut live, mut live_bytes) = (HashMap::new(), 0);
        let (mut record, mut entries, mut moved) = (Vec::new(), Vec::new(), Vec::new());
        for Snapshot { path, content, hidden } in directories {
            record.clear();
            let head = match content {
                Content::Known(directory) => {
                    entries.clear();
                    put_entries(&mut entries, directory);
                    let of_head = head_checksum(directory, hidden);
                    let checksum = crc32c::crc32c_append(of_head, &entries);
                    let (listed_ms, changed_ms) = (directory.listed_ms, directory.changed_ms);
                    let count = directory.len() as u64;
                    Head { path, listed_ms, changed_ms, hidden, count, checksum }
                }
                Content::Kept(kept) => {
                    let Some(bytes) = kept.read(hidden)? else { continue };
                    entries = bytes;
                    let Kept { listed_ms, changed_ms, count, checksum, .. } = **kept;
                    Head { path, listed_ms, changed_ms, hidden, count, checksum }
                }
            };
            let bytes = put_listing(&mut record, head, &entries);
            writer.write_all(&record)?;
            (end, live_bytes) = (end + bytes, live_bytes + bytes);
            let body = body_before(end, &entries);
            live.insert(Arc::clone(path), Written { checksum: head.checksum, bytes, body });
            if let Content::Kept(old) = content {
                let (offset, _) = body;
                let new = Arc::new(Kept { file: Arc::clone(&file), offset, ..Kept::clone(old) });
                moved.push(Moved { path: Arc::clone(path), old: Arc::clone(old), new });
            }
        }
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        (self.file, self.end, self.live, self.live_bytes) = (file, end, live, live_bytes);
        Ok(moved)
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
