//! What crosses the wire between nodes, apart from the types that we compute with.
//!
//! HTTP, four endpoints, all POST with a JSON body, the version (`x-feedline-wire: 1`) on every request and answer:
//!
//! | path | body | answer |
//! | --- | --- | --- |
//! | `/peer/hello` | [`Hello`] | [`HelloAnswer`], or 401 with a [`Challenge`] |
//! | `/peer/read` | [`ReadRequest`] | frames: see [`Frames`] |
//! | `/peer/load/1` | [`LoadRequest`] | frames: a [`LoadSaid`] for each object, or a fault |
//! | `/peer/ask/1` | any JSON | frames: one that carries the answer as JSON; what it means is not this crate's |
//!
//! A hello opens every connection: it says who is there, and proves that both know the cluster's token
//! if there is one. It and its answer carry all versions that an end speaks ([`crate::Versions`]: the header above
//! holds the oldest, `x-feedline-wire-newest` the newest if that is another), all else the highest that both do. A
//! refusal is a status of 400 or more with a [`Refusal`]. Fields that a reader does not
//! know are ignored; what changes the meaning of others raises [`WIRE`].
//!
//! A read answers at once and then says what becomes of each object, so that a node that waits for the
//! bucket can be told from one that is dead: a frame is a kind (one byte), the object's place in the
//! request, the length of what follows, a CRC32C (four bytes each, little endian), and that. The checksum is that
//! of what follows, continued over the nine bytes before it: so what a cache has recorded of the bytes serves, and a
//! bit that flips in the head is noticed as well.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use feedline_model::page::PAGE_BYTES;
use feedline_model::{ETag, Object, ObjectId, Priority, SourceId, Summed, Version};
use serde::{Deserialize, Serialize};

/// The version of all this, the newest that this binary speaks. A node that speaks none of ours is passed by.
pub const WIRE: u32 = 1;

/// The oldest that it still speaks.
pub const WIRE_OLDEST: u32 = 1;

/// The header that carries the version of what follows; with a hello, the oldest that its end speaks.
pub const WIRE_HEADER: &str = "x-feedline-wire";

/// With a hello, the newest, if it is another.
pub const WIRE_NEWEST_HEADER: &str = "x-feedline-wire-newest";

/// Who is there.
pub const HELLO_PATH: &str = "/peer/hello";

/// Bytes of objects.
pub const READ_PATH: &str = "/peer/read";

/// Objects to bring in. A number of its own: nodes that do not know it are asked for all else.
pub const LOAD_PATH: &str = "/peer/load/1";

/// What is asked of a node and is no read. A number of its own, as [`LOAD_PATH`] has.
pub const ASK_PATH: &str = "/peer/ask/1";

/// Of a message for people, so much is told.
const MESSAGE_CHARS: usize = 1_000;

/// The most bytes of an object that one item asks for: caches fetch pages.
pub const ITEM_BYTES_MAX: u64 = PAGE_BYTES;

/// Objects in one request at most: 28 MB of small ones.
pub const ITEMS_MAX: usize = 256;

/// Bytes of a request at most: keys have up to 1,024 bytes, JSON may escape each.
pub const REQUEST_BYTES_MAX: usize = 2 << 20;

/// Bytes of the reason in a fault frame, or of a refusal, at most.
pub const REASON_BYTES_MAX: usize = 16 << 10;

/// One end of a connection introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version; the headers count, but the first version wants it here too.
    pub wire: u32,
    /// Version of the binary, for people.
    pub version: String,
    /// The node.
    pub node: u64,
    /// Drawn at random at each start of the daemon: two with one `node` are found by it.
    pub instance: u64,
    /// What it may keep, in bytes: its weight.
    pub quota_bytes: u64,
    /// 64 hexadecimal digits, drawn for this connection.
    #[serde(default)]
    pub nonce: String,
    /// That it knows the token; see `token`.
    #[serde(default)]
    pub proof: Option<String>,
    /// The node that says this has passed the other one by until now: what that one owns, others were asked for.
    #[serde(default)]
    pub passed_by: bool,
}

/// The other end does so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAnswer {
    /// See [`Hello::wire`].
    pub wire: u32,
    /// Version of the binary, for people.
    pub version: String,
    /// The node.
    pub node: u64,
    /// See [`Hello::instance`].
    pub instance: u64,
    /// What it may keep, in bytes: its weight.
    pub quota_bytes: u64,
    /// How long its cache has existed, in milliseconds; an older version does not say.
    #[serde(default)]
    pub age_ms: Option<u64>,
    /// A read of one object that is not here, in whole or as far as it is asked for, is answered with a
    /// [`FrameKind::Waiting`] at once; so a node that says nothing does not wait for the bucket. An older version
    /// does not do so.
    #[serde(default)]
    pub says_at_once: bool,
}

/// The other end wants a proof first, and gives its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// 64 hexadecimal digits, drawn for this connection and good for one proof.
    pub nonce: String,
    /// That it knows the token.
    pub proof: String,
}

/// Why a request as a whole was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One sentence with the way out.
    pub message: String,
}

/// Which bytes of which objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRequest {
    /// True if somebody waits for them.
    pub demand: bool,
    /// Only what is complete at the other end: it is not to be fetched.
    #[serde(default)]
    pub only_cached: bool,
    /// At most [`ITEMS_MAX`].
    pub items: Vec<Item>,
}

/// Bytes of one version of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The id as the asking end computes it, in hexadecimal digits: the other must agree.
    pub id: String,
    /// The bucket.
    pub source: u64,
    /// The whole key.
    pub key: String,
    /// Size of the version in bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
    /// The entity tag without quotes.
    pub etag: Option<String>,
    /// The first byte.
    pub start: u64,
    /// One past the last byte; at most [`ITEM_BYTES_MAX`] after the first.
    pub end: u64,
}

impl Item {
    /// Asks for `range` of `object`.
    #[must_use]
    pub fn new(object: &Object, id: &ObjectId, range: &Range<u64>) -> Self {
        Self {
            id: id.to_string(),
            source: object.source.0,
            key: object.key.to_string(),
            size: object.version.size,
            modified_ms: object.version.modified_ms,
            etag: object.version.etag.text(),
            start: range.start,
            end: range.end,
        }
    }

    /// What is asked for, checked: both ends mean the same version, and the range lies within it.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn read(self) -> Result<(Object, ObjectId, Range<u64>), String> {
        let etag = self.etag.as_deref().map_or(ETag::Absent, ETag::parse);
        let version = Version { size: self.size, modified_ms: self.modified_ms, etag };
        let object = Object { source: SourceId(self.source), key: self.key.into(), version };
        let id = object.id();
        if id.to_string() != self.id {
            return Err(format!("{}: its id is {id} here and {} there", object.key, self.id));
        }
        let range = self.start..self.end;
        let is_within = range.start < range.end && range.end <= self.size;
        if !is_within || ITEM_BYTES_MAX < range.end - range.start {
            return Err(format!("{}: bytes {range:?} of {}", object.key, self.size));
        }
        Ok((object, id, range))
    }
}

/// Objects that the other end is to bring into its cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// At most [`ITEMS_MAX`]; each stands for the whole object, whatever its range.
    pub items: Vec<Item>,
}

/// What became of an object that was to be brought in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadSaid {
    /// In one word.
    pub word: LoadWord,
    /// For people; empty where there is nothing to say.
    #[serde(default)]
    pub message: String,
}

/// See [`LoadSaid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadWord {
    /// It was there.
    Here,
    /// It was fetched and is there now.
    Fetched,
    /// The cache keeps nothing more.
    NoRoom,
    /// The bucket does not have it.
    NotFound,
    /// The bucket refuses.
    Forbidden,
    /// It was replaced since it was listed.
    Changed,
    /// The bucket does not answer.
    Unavailable,
    /// The store makes no sense of it, or a newer version said something else.
    #[serde(other)]
    Rejected,
}

/// Refuses a request that names nothing, or more than one may.
pub(crate) fn check_count(items: &[Item]) -> Result<(), String> {
    match items.len() {
        1..=ITEMS_MAX => Ok(()),
        count => Err(format!("{count} items: 1 to {ITEMS_MAX} are")),
    }
}

/// Shortens a message for people to what is told of it.
pub(crate) fn cut(message: &mut String) {
    if let Some((at, _)) = message.char_indices().nth(MESSAGE_CHARS) {
        message.truncate(at);
    }
}

/// What a frame carries as JSON.
pub(crate) fn text_of(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("plain data can be written").into()
}

/// The priority of a request.
#[must_use]
pub fn priority(demand: bool) -> Priority {
    if demand { Priority::Demand } else { Priority::Fill }
}

/// Why an object was not given. The asking end goes on to the next node or to the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Not here, and only what is here was asked for.
    NotCached,
    /// This node waits for the same object from another one: no circles.
    Busy,
    /// This node does not mount the bucket.
    NotMounted,
    /// Too many bytes are being served.
    Full,
    /// The bucket did not give it.
    Bucket,
    /// The item makes no sense here.
    Refused,
    /// Said by a newer version.
    #[serde(other)]
    Other,
}

/// What a fault frame carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemFault {
    /// What to make of it.
    pub kind: FaultKind,
    /// For people.
    pub message: String,
}

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// The bytes asked for.
    Bytes,
    /// Nothing yet, but alive: one byte, 1 if what is asked for is here and only the disk is waited for, else
    /// 0.
    Waiting,
    /// An [`ItemFault`] as JSON.
    Fault,
    /// A [`LoadSaid`] as JSON.
    Said,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            Self::Bytes => 1,
            Self::Waiting => 2,
            Self::Fault => 3,
            Self::Said => 4,
        }
    }

    fn of_code(code: u8) -> Option<Self> {
        let all = [Self::Bytes, Self::Waiting, Self::Fault, Self::Said];
        all.into_iter().find(|kind| kind.code() == code)
    }
}

/// Bytes of a head before its checksum.
const SAID_BYTES: usize = 1 + 4 + 4;

/// Bytes of a frame before what it carries.
const HEAD_BYTES: usize = SAID_BYTES + 4;

/// The head of a frame that carries `payload`.
#[must_use]
pub fn head(kind: FrameKind, index: u32, payload: &[u8]) -> Bytes {
    head_of(kind, index, payload.len(), crc32c::crc32c(payload))
}

/// The same for so many bytes of this checksum.
pub(crate) fn head_of(kind: FrameKind, index: u32, length: usize, crc: u32) -> Bytes {
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    head.put_u8(kind.code());
    head.put_u32_le(index);
    head.put_u32_le(u32::try_from(length).expect("an item is at most a page"));
    head.put_u32_le(crc32c::crc32c_append(crc, &head));
    head.freeze()
}

/// Bytes with their checksum, for a cache that has recorded none.
#[must_use]
pub fn summed(bytes: Bytes) -> Summed {
    Summed { crc: crc32c::crc32c(&bytes), bytes }
}

/// A frame as it arrived, its checksum compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is about.
    pub kind: FrameKind,
    /// The object's place in the request.
    pub index: u32,
    /// What it carries.
    pub payload: Bytes,
}

/// What arrived is no frame that was asked for: nothing of the connection is to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Garbage(pub String);

#[derive(Debug, Clone, Copy)]
struct Head {
    kind: FrameKind,
    index: u32,
    length: usize,
    /// Those three as they came.
    said: [u8; SAID_BYTES],
    crc: u32,
}

/// Cuts a stream of bytes into frames. What comes in one piece is not copied. Holds at most one frame
/// beside the piece that came last.
#[derive(Debug, Default)]
pub struct Frames {
    pieces: VecDeque<Bytes>,
    buffered: usize,
    head: Option<Head>,
}

impl Frames {
    /// Takes what arrived.
    pub fn push(&mut self, piece: Bytes) {
        self.buffered += piece.len();
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// Bytes that must arrive until what is next is whole, a head or what a frame carries; 1 if nobody knows.
    pub(crate) fn missing(&self) -> usize {
        let next = self.head.map_or(HEAD_BYTES, |head| head.length);
        next.saturating_sub(self.buffered).max(1)
    }

    /// True between frames: a stream that ends here ends well.
    #[must_use]
    pub fn is_at_a_boundary(&self) -> bool {
        self.head.is_none() && self.buffered == 0
    }

    /// The next whole frame; `None`: more must arrive first. `is_expected` says whether a frame of
    /// this kind, index and length may come, before any of it is kept.
    ///
    /// # Errors
    ///
    /// [`Garbage`]: what came is none, was not expected, or fails its checksum.
    pub fn next(
        &mut self,
        is_expected: impl Fn(FrameKind, u32, usize) -> bool,
    ) -> Result<Option<Frame>, Garbage> {
        if self.head.is_none() {
            let Some(bytes) = self.take(HEAD_BYTES) else { return Ok(None) };
            let number =
                |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            let kind = FrameKind::of_code(bytes[0])
                .ok_or_else(|| Garbage(format!("a frame of unknown kind {}", bytes[0])))?;
            let (index, length, crc) = (number(1), number(5) as usize, number(SAID_BYTES));
            let said = bytes[..SAID_BYTES].try_into().expect("so many bytes");
            if !is_expected(kind, index, length) {
                let what = format!("a frame that nobody asked for: {kind:?} {index} of {length}");
                return Err(Garbage(what));
            }
            self.head = Some(Head { kind, index, length, said, crc });
        }
        let Some(Head { kind, index, length, said, crc }) = self.head else { return Ok(None) };
        let Some(payload) = self.take(length) else { return Ok(None) };
        self.head = None;
        if crc32c::crc32c_append(crc32c::crc32c(&payload), &said) != crc {
            let what = format!("the checksum of {length} bytes and their head is wrong");
            return Err(Garbage(what));
        }
        Ok(Some(Frame { kind, index, payload }))
    }

    /// The next `length` bytes, if they are here.
    fn take(&mut self, length: usize) -> Option<Bytes> {
        if self.buffered < length {
            return None;
        }
        self.buffered -= length;
        let mut taken = BytesMut::new();
        while let Some(first) = self.pieces.front_mut() {
            let missing = length - taken.len();
            if first.len() <= missing {
                let whole = self.pieces.pop_front().expect("it is there");
                if taken.is_empty() && whole.len() == length {
                    return Some(whole);
                }
                taken.reserve(missing);
                taken.extend_from_slice(&whole);
            } else {
                let part = first.split_to(missing);
                if taken.is_empty() {
                    return Some(part);
                }
                taken.extend_from_slice(&part);
            }
            if taken.len() == length {
                break;
            }
        }
        Some(taken.freeze())
    }
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 32 bytes from 64 hexadecimal digits.
#[must_use]
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
