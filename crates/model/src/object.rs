//! What is read: one version of one object of one source.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

/// Names one bucket, container or folder: the hash of its canonical URL (scheme, endpoint, bucket;
/// no prefix). The same on every node and after every restart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u64);

impl SourceId {
    /// The id of the source with this canonical URL.
    #[must_use]
    pub fn of_url(canonical_url: &str) -> Self {
        Self(xxh3_64(canonical_url.as_bytes()))
    }
}

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceId({:016x})", self.0)
    }
}

/// The entity tag of a version, without quotes. An MD5 tag, by far the most common, takes no heap.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ETag {
    /// 32 lower-case hexadecimal digits, as S3 gives for a single-part upload.
    Md5([u8; 16]),
    /// Any other text: multipart tags, GCS and Azure tags, folders.
    Other(Box<str>),
    /// The store gives none; size and time of modification alone tell versions apart.
    Absent,
}

impl ETag {
    /// Reads a tag as a store sends it, with or without quotes. Empty text is [`ETag::Absent`].
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let bare = text.trim().trim_matches('"');
        if bare.is_empty() {
            return Self::Absent;
        }
        md5_from_hex(bare).map_or_else(|| Self::Other(bare.into()), Self::Md5)
    }

    /// The tag as text without quotes, or `None` when the store gave none.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Md5(digest) => Some(hex(digest)),
            Self::Other(text) => Some(text.to_string()),
            Self::Absent => None,
        }
    }
}

/// 16 bytes from 32 lower-case hexadecimal digits. Upper case is another tag: tags are opaque.
fn md5_from_hex(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 32 {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut digest = [0; 16];
    for (out, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
        *out = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(digest)
}

/// Lower-case hexadecimal digits of `bytes`.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
    text
}

/// What tells one version of an object from another, as the listing gives it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Version {
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970, as the store reports the last modification.
    pub modified_ms: i64,
    /// The entity tag.
    pub etag: ETag,
}

impl Version {
    /// The same, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> VersionRef<'_> {
        let etag = match &self.etag {
            ETag::Md5(digest) => ETagRef::Md5(digest),
            ETag::Other(text) => ETagRef::Other(text),
            ETag::Absent => ETagRef::Absent,
        };
        VersionRef { size: self.size, modified_ms: self.modified_ms, etag }
    }
}

/// A [`Version`] borrowed from where it is kept packed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VersionRef<'a> {
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970, as the store reports the last modification.
    pub modified_ms: i64,
    /// The entity tag.
    pub etag: ETagRef<'a>,
}

impl VersionRef<'_> {
    /// A copy of its own. Cost: an allocation for a tag that is no MD5.
    #[must_use]
    pub fn to_version(self) -> Version {
        let etag = match self.etag {
            ETagRef::Md5(digest) => ETag::Md5(*digest),
            ETagRef::Other(text) => ETag::Other(text.into()),
            ETagRef::Absent => ETag::Absent,
        };
        Version { size: self.size, modified_ms: self.modified_ms, etag }
    }
}

/// An [`ETag`], borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ETagRef<'a> {
    /// 32 lower-case hexadecimal digits.
    Md5(&'a [u8; 16]),
    /// Any other text.
    Other(&'a str),
    /// None.
    Absent,
}

/// One version of one object: all that a link of the chain needs to fetch its bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Object {
    /// The bucket.
    pub source: SourceId,
    /// The whole key in the bucket, prefix included.
    pub key: Arc<str>,
    /// The version seen in the listing; every fetch is pinned to it.
    pub version: Version,
}

impl Object {
    /// The id of this version's bytes. Cost: one 128-bit hash of the key and the version.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        ObjectRef {
            source: self.source,
            key_parts: [&self.key, ""],
            version: self.version.as_ref(),
        }
        .id()
    }
}

/// An [`Object`] borrowed from the listing that knows it.
#[derive(Clone, Copy, Debug)]
pub struct ObjectRef<'a> {
    /// The bucket.
    pub source: SourceId,
    /// The key is these two, joined: the directory's prefix and the name.
    pub key_parts: [&'a str; 2],
    /// The version listed.
    pub version: VersionRef<'a>,
}

impl ObjectRef<'_> {
    /// See [`Object::id`]. Allocates nothing.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        id_of(self.source, self.key_parts, self.version)
    }

    /// A copy of its own. Cost: an allocation for the key, another for a tag that is no MD5.
    #[must_use]
    pub fn to_object(&self) -> Object {
        let key = self.key_parts.concat().into();
        Object { source: self.source, key, version: self.version.to_version() }
    }
}

/// What is hashed is put together here if it fits: one call of the hash over it is three times as
/// fast as telling the hash part by part. Keys are seldom longer than 200 bytes.
const HASHED_TOGETHER_BYTES: usize = 384;

/// Bytes of what is hashed beside the key and the tag: source, length of the key, size, kind of tag.
const HASHED_FIXED_BYTES: usize = 8 + 8 + 8 + 1;

/// The id of the version of the object whose key is the two parts, joined.
fn id_of(source: SourceId, key: [&str; 2], version: VersionRef<'_>) -> ObjectId {
    let key_bytes = key[0].len() + key[1].len();
    let modified = version.modified_ms.to_le_bytes();
    let (kind, tag): (u8, &[u8]) = match version.etag {
        // A tag outranks the time: a copy of the same bytes keeps its tag where stores allow.
        ETagRef::Absent => (0, &modified),
        ETagRef::Md5(digest) => (1, digest),
        ETagRef::Other(text) => (2, text.as_bytes()),
    };
    let parts: [&[u8]; 7] = [
        &source.0.to_le_bytes(),
        &(key_bytes as u64).to_le_bytes(),
        key[0].as_bytes(),
        key[1].as_bytes(),
        &version.size.to_le_bytes(),
        &[kind],
        tag,
    ];
    let total = HASHED_FIXED_BYTES + key_bytes + tag.len();
    let hash = if total <= HASHED_TOGETHER_BYTES {
        let mut together = [0; HASHED_TOGETHER_BYTES];
        let mut end = 0;
        for part in parts {
            together[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        xxh3_128(&together[..end])
    } else {
        let mut hasher = Xxh3::new();
        parts.iter().for_each(|part| hasher.update(part));
        hasher.digest128()
    };
    ObjectId(hash.to_le_bytes())
}

/// Names the bytes of one version of one object, on every node and after every restart.
///
/// 128 bits of XXH3 over source, key and version: with 10 million objects the chance that any two
/// share an id is 1e-25.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub [u8; 16]);

impl ObjectId {
    /// The first 64 bits, uniform: good as a hash, as a placement key or as an inode number.
    #[must_use]
    pub fn hash64(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, etag: &str) -> Object {
        let version = Version { size: 7, modified_ms: 1, etag: ETag::parse(etag) };
        Object { source: SourceId(1), key: key.into(), version }
    }

    #[test]
    fn a_tag_survives_parse_and_text() {
        for tag in ["0123456789abcdef0123456789abcdef", "ABCDEF", "x-2", "0123-4"] {
            assert_eq!(ETag::parse(&format!("\"{tag}\"")).text().as_deref(), Some(tag));
        }
        assert_eq!(ETag::parse("\"\""), ETag::Absent);
    }

    #[test]
    fn an_id_is_fixed_for_ever_and_does_not_depend_on_how_the_key_is_cut() {
        // A cache on disk is found again by it.
        let id = |key: &str| object(key, "x").id().to_string();
        assert_eq!(id("a"), "59a2e10afca84ce9ac97017372e9483b");
        assert_eq!(id(&"k".repeat(300)), "ce1a0384d5e3b16a13607e76281dc4c4");
        assert_eq!(id(&"k".repeat(1_000)), "2998aed4c1d77cc196af92c2bd47fe73");
        for bytes in [1, 100, 358, 359, 360, 1_000] {
            let whole = object(&"k".repeat(bytes), "x");
            for cut in [0, bytes / 2, bytes] {
                let (a, b) = whole.key.split_at(cut);
                assert_eq!(id_of(whole.source, [a, b], whole.version.as_ref()), whole.id());
            }
        }
    }

    #[test]
    fn another_key_or_tag_is_another_id() {
        let base = object("a", "x");
        assert_eq!(base.id(), object("a", "x").id());
        assert_ne!(base.id(), object("b", "x").id());
        assert_ne!(base.id(), object("a", "y").id());
    }
}
