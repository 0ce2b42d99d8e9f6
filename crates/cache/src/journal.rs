//! How the index survives: a snapshot, and a journal of what came after it.
//!
//! Both are plain bytes. The snapshot is one checksummed text of records and pages; the journal
//! is a header and batches, each with its length and checksum, so that a torn tail is found and
//! dropped. A journal belongs to the snapshot of the same generation, else it is ignored.
//! Replaying is idempotent: a snapshot may be taken while changes go on, if the changes since its
//! start are in the journal after it.
//!
//! Deliberately absent: files, and any knowledge of what the entries mean.

use feedline_model::ObjectId;

use crate::index::Record;

const SNAPSHOT_MAGIC: &[u8; 8] = b"fdlsnap1";
const JOURNAL_MAGIC: &[u8; 8] = b"fdljrnl1";
/// Magic and generation.
pub(crate) const JOURNAL_HEADER_BYTES: usize = 16;
const BATCH_HEADER_BYTES: usize = 8;

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const PAGE: u8 = 3;

/// One page of a large object that is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PageEntry {
    pub(crate) id: ObjectId,
    pub(crate) page: u32,
    pub(crate) crc: u32,
}

/// One change of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// The record is now this one.
    Put(Record),
    /// The object is gone.
    Remove(ObjectId),
    /// A page of a partial object arrived.
    Page(PageEntry),
}

/// Appends an entry to a batch under construction.
pub(crate) fn encode(entry: &Entry, out: &mut Vec<u8>) {
    match entry {
        Entry::Put(record) => {
            out.push(PUT);
            out.extend_from_slice(&record.to_bytes());
        }
        Entry::Remove(id) => {
            out.push(REMOVE);
            out.extend_from_slice(&id.0);
        }
        Entry::Page(page) => {
            out.push(PAGE);
            out.extend_from_slice(&page.id.0);
            out.extend_from_slice(&page.page.to_le_bytes());
            out.extend_from_slice(&page.crc.to_le_bytes());
        }
    }
}

fn decode(bytes: &mut &[u8], dir: u8) -> Option<Entry> {
    let (kind, rest) = bytes.split_first()?;
    let entry = match *kind {
        PUT => {
            let (record, rest) = rest.split_first_chunk::<32>()?;
            *bytes = rest;
            Entry::Put(Record::from_bytes(record, dir))
        }
        REMOVE => {
            let (id, rest) = rest.split_first_chunk::<16>()?;
            *bytes = rest;
            Entry::Remove(ObjectId(*id))
        }
        PAGE => {
            let (id, rest) = rest.split_first_chunk::<16>()?;
            let (page, rest) = rest.split_first_chunk::<4>()?;
            let (crc, rest) = rest.split_first_chunk::<4>()?;
            *bytes = rest;
            Entry::Page(PageEntry {
                id: ObjectId(*id),
                page: u32::from_le_bytes(*page),
                crc: u32::from_le_bytes(*crc),
            })
        }
        _ => return None,
    };
    Some(entry)
}

/// The first bytes of a journal.
pub(crate) fn journal_header(generation: u64) -> [u8; JOURNAL_HEADER_BYTES] {
    let mut header = [0; JOURNAL_HEADER_BYTES];
    header[..8].copy_from_slice(JOURNAL_MAGIC);
    header[8..].copy_from_slice(&generation.to_le_bytes());
    header
}

/// Wraps encoded entries as one batch.
pub(crate) fn batch(entries: &[u8]) -> Vec<u8> {
    let length = u32::try_from(entries.len()).expect("a batch is far below 4 GiB");
    let mut out = Vec::with_capacity(BATCH_HEADER_BYTES + entries.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(entries).to_le_bytes());
    out.extend_from_slice(entries);
    out
}

/// Replays the sound part of a journal. True if every byte of it was sound.
pub(crate) fn replay(bytes: &[u8], generation: u64, dir: u8, mut apply: impl FnMut(Entry)) -> bool {
    let Some((header, mut rest)) = bytes.split_first_chunk::<JOURNAL_HEADER_BYTES>() else {
        return false;
    };
    if *header != journal_header(generation) {
        return false;
    }
    while let Some((head, body)) = rest.split_first_chunk::<BATCH_HEADER_BYTES>() {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        // An empty batch is never written: zeros, as a crash leaves them, end the journal.
        if length == 0 || length > body.len() || crc32c::crc32c(&body[..length]) != crc {
            return false;
        }
        let mut entries = &body[..length];
        while !entries.is_empty() {
            let Some(entry) = decode(&mut entries, dir) else { return false };
            apply(entry);
        }
        rest = &body[length..];
    }
    rest.is_empty()
}

/// Builds a snapshot piece by piece; the pieces are written in order.
#[derive(Debug, Default)]
pub(crate) struct SnapshotWriter {
    crc: u32,
    bytes: u64,
}

impl SnapshotWriter {
    /// The first piece.
    pub(crate) fn header(&mut self, generation: u64) -> Vec<u8> {
        let mut out = SNAPSHOT_MAGIC.to_vec();
        out.extend_from_slice(&generation.to_le_bytes());
        self.add(&out);
        out
    }

    /// Accounts for a piece of encoded entries.
    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, piece);
        self.bytes += piece.len() as u64;
    }

    /// The last piece: length and checksum.
    pub(crate) fn trailer(&self) -> Vec<u8> {
        let mut out = self.bytes.to_le_bytes().to_vec();
        out.extend_from_slice(&self.crc.to_le_bytes());
        out
    }
}

/// Bytes of an encoded [`Entry::Put`]: what one object takes in a snapshot.
pub(crate) const PUT_BYTES: u64 = 33;

/// Reads a snapshot. Returns its generation, or `None` if any byte of it is unsound; `apply` has
/// then not been called.
pub(crate) fn read_snapshot(bytes: &[u8], dir: u8, mut apply: impl FnMut(Entry)) -> Option<u64> {
    let (body, trailer) = bytes.split_last_chunk::<12>()?;
    let (length, crc) = trailer.split_at(8);
    if length != (body.len() as u64).to_le_bytes() || crc != crc32c::crc32c(body).to_le_bytes() {
        return None;
    }
    let (magic, rest) = body.split_first_chunk::<8>()?;
    let (generation, mut rest) = rest.split_first_chunk::<8>()?;
    if magic != SNAPSHOT_MAGIC {
        return None;
    }
    while !rest.is_empty() {
        apply(decode(&mut rest, dir)?);
    }
    Some(u64::from_le_bytes(*generation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::State;

    fn id(number: u8) -> ObjectId {
        ObjectId([number; 16])
    }

    fn journal_of(batches: &[&[Entry]]) -> Vec<u8> {
        let mut out = journal_header(9).to_vec();
        for entries in batches {
            let mut body = Vec::new();
            for entry in *entries {
                encode(entry, &mut body);
            }
            out.extend_from_slice(&batch(&body));
        }
        out
    }

    #[test]
    fn a_journal_torn_anywhere_gives_a_prefix_of_its_batches() {
        let put = Entry::Put(Record::new(id(1), 5, 2, State::Complete));
        let page = Entry::Page(PageEntry { id: id(2), page: 3, crc: 4 });
        let all = [put, page, Entry::Remove(id(1))];
        let whole = journal_of(&[&all[..2], &all[2..]]);
        for cut in 0..=whole.len() {
            for zeroed in [false, true] {
                let mut bytes = whole[..cut].to_vec();
                if zeroed {
                    bytes.resize(whole.len() + 64, 0);
                }
                let mut seen = Vec::new();
                let sound = replay(&bytes, 9, 2, |entry| seen.push(entry));
                assert!([0, 2, 3].contains(&seen.len()), "cut at {cut}");
                assert_eq!(seen[..], all[..seen.len()]);
                assert_eq!(seen.len() == 3, cut == whole.len());
                if sound {
                    assert!(!zeroed, "zeros were taken for entries");
                }
            }
        }
        assert!(!replay(&whole, 8, 2, |_| panic!("a journal of another generation")));
    }

    #[test]
    fn a_snapshot_with_any_byte_changed_is_refused() {
        let mut writer = SnapshotWriter::default();
        let mut bytes = writer.header(7);
        let mut piece = Vec::new();
        encode(&Entry::Put(Record::new(id(1), 5, 0, State::Complete)), &mut piece);
        assert_eq!(piece.len() as u64, PUT_BYTES);
        writer.add(&piece);
        bytes.extend_from_slice(&piece);
        bytes.extend_from_slice(&writer.trailer());
        assert_eq!(read_snapshot(&bytes, 0, |_| ()), Some(7));
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            assert_eq!(read_snapshot(&broken, 0, |_| panic!("applied")), None, "byte {at}");
        }
    }
}
