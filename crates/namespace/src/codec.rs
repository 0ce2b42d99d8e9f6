//! How one listing is written in the state file: names share their beginnings, numbers are
//! variable-length, times are differences. About 30 bytes for an object with an MD5 tag.
//!
//! Decoding trusts nothing: whatever the bytes say, it returns `None` rather than panics.

use feedline_model::{Directory, DirectoryBuilder, ETag, ETagRef, EntryKind, Version};

/// Kinds of entries.
const DIRECTORY: u8 = 0;
const FILE_MD5: u8 = 1;
const FILE_OTHER_TAG: u8 = 2;
const FILE_NO_TAG: u8 = 3;

/// Appends an unsigned LEB128 number.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while 0x80 <= number {
        out.push((number as u8) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Small numbers for small differences of either sign.
fn zigzag(number: i64) -> u64 {
    (number.wrapping_shl(1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

/// Reads from a slice, front to back.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.number()?).ok()?;
        self.take(count)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

/// How many bytes two names have in common at the start, ending at a character.
fn shared(a: &str, b: &str) -> usize {
    let mut count = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    while !a.is_char_boundary(count) {
        count -= 1;
    }
    count
}

/// Appends the entries of a listing.
pub(crate) fn put_entries(out: &mut Vec<u8>, directory: &Directory) {
    put_number(out, directory.len() as u64);
    let (mut name_before, mut modified_before) = ("", 0_i64);
    for entry in directory.iter() {
        let common = shared(name_before, entry.name);
        put_number(out, common as u64);
        put_bytes(out, &entry.name.as_bytes()[common..]);
        name_before = entry.name;
        let EntryKind::File(version) = entry.kind else {
            out.push(DIRECTORY);
            continue;
        };
        out.push(match version.etag {
            ETagRef::Md5(_) => FILE_MD5,
            ETagRef::Other(_) => FILE_OTHER_TAG,
            ETagRef::Absent => FILE_NO_TAG,
        });
        put_number(out, version.size);
        put_number(out, zigzag(version.modified_ms.wrapping_sub(modified_before)));
        modified_before = version.modified_ms;
        match version.etag {
            ETagRef::Md5(digest) => out.extend_from_slice(digest),
            ETagRef::Other(text) => put_bytes(out, text.as_bytes()),
            ETagRef::Absent => {}
        }
    }
}

/// Reads what [`put_entries`] wrote; `None` if the bytes are nothing of the kind.
pub(crate) fn take_entries(reader: &mut Reader<'_>) -> Option<DirectoryBuilder> {
    let mut builder = DirectoryBuilder::new();
    let (mut name, mut modified_before) = (String::new(), 0_i64);
    for _ in 0..reader.number()? {
        let common = usize::try_from(reader.number()?).ok()?;
        if !name.is_char_boundary(common) {
            return None;
        }
        name.truncate(common);
        name.push_str(reader.text()?);
        let kind = reader.byte()?;
        if kind == DIRECTORY {
            builder.directory(&name);
            continue;
        }
        let size = reader.number()?;
        let modified_ms = modified_before.wrapping_add(unzigzag(reader.number()?));
        modified_before = modified_ms;
        let etag = match kind {
            FILE_MD5 => ETag::Md5(reader.take(16)?.try_into().ok()?),
            FILE_OTHER_TAG => ETag::Other(reader.text()?.into()),
            FILE_NO_TAG => ETag::Absent,
            _ => return None,
        };
        builder.file(&name, Version { size, modified_ms, etag });
    }
    Some(builder)
}
