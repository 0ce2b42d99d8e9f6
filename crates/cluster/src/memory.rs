//! What the sources said last, kept over a restart: a node that starts while etcd or DNS is silent greets
//! those who were named before, instead of being alone.
//!
//! Only names of addresses are kept: who answers there is a member, as ever, and who does not is passed by.
//!
//! # Format
//!
//! `feedline-members 1 HASH`, an end of line, and JSON; the hash (XXH3, hexadecimal) is that of the JSON. What
//! is cut, damaged or of another version is as if there were none.
//!
//! # Deliberately absent
//!
//! - Nothing secret: a place in etcd names endpoints and cluster, neither user nor password.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::book::{Found, MEMBERS_MAX};

/// What the first line begins with; another number is another format.
const HEAD: &str = "feedline-members 1 ";

/// What is read at most: all members of one source take less, with 500 bytes for each.
const BYTES_MAX: usize = 500 * MEMBERS_MAX;

/// Where a node keeps what it is to know at its next start.
#[async_trait]
pub trait Memory: fmt::Debug + Send + Sync {
    /// What was kept last, if there is anything.
    fn recall(&self) -> Option<Vec<u8>>;

    /// Has this from now on, instead of what was there: all of it or nothing.
    async fn keep(&self, bytes: Vec<u8>);
}

/// What one source said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) kind: String,
    pub(crate) place: String,
    /// When that held.
    pub(crate) heard_unix_ms: u64,
    pub(crate) found: Vec<Found>,
}

/// The same as it is written.
#[derive(Serialize, Deserialize)]
struct Written {
    kind: String,
    place: String,
    heard_unix_ms: u64,
    /// Key and address.
    nodes: Vec<(String, String)>,
}

impl From<&Said> for Written {
    fn from(said: &Said) -> Self {
        let nodes = said.found.iter().map(|it| (it.key.clone(), it.address.clone())).collect();
        let (kind, place) = (said.kind.clone(), said.place.clone());
        Self { kind, place, heard_unix_ms: said.heard_unix_ms, nodes }
    }
}

impl From<Written> for Said {
    fn from(written: Written) -> Self {
        let Written { kind, place, heard_unix_ms, nodes } = written;
        let found = nodes.into_iter().map(|(key, address)| Found { key, address });
        Self { kind, place, heard_unix_ms, found: found.collect() }
    }
}

pub(crate) fn encode(said: &[Said]) -> Vec<u8> {
    let written: Vec<Written> = said.iter().map(Written::from).collect();
    let json = serde_json::to_vec(&written).expect("strings and numbers");
    let mut bytes = format!("{HEAD}{:016x}\n", xxh3_64(&json)).into_bytes();
    bytes.extend(json);
    bytes
}

/// `None`: it is not what [`encode`] made.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Said>> {
    if BYTES_MAX < bytes.len() {
        return None;
    }
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (head, json) = (&bytes[..end], &bytes[end + 1..]);
    let hash = std::str::from_utf8(head).ok()?.strip_prefix(HEAD)?;
    if u64::from_str_radix(hash, 16).ok()? != xxh3_64(json) {
        return None;
    }
    let written: Vec<Written> = serde_json::from_slice(json).ok()?;
    Some(written.into_iter().map(Said::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Vec<Said> {
        let node = |n: u8| Found { key: format!("/k/{n}"), address: format!("10.0.0.{n}:7001") };
        let of = |kind: &str, nodes: &[u8]| Said {
            kind: kind.into(),
            place: "http://e:1 (cluster b)".into(),
            heard_unix_ms: 1_700_000_000_123,
            found: nodes.iter().copied().map(node).collect(),
        };
        vec![of("etcd", &[1, 2]), of("dns", &[])]
    }

    #[test]
    fn what_was_kept_is_what_was_said() {
        assert_eq!(decode(&encode(&said())), Some(said()));
        assert_eq!(decode(&encode(&[])), Some(Vec::new()));
    }

    #[test]
    fn what_is_cut_or_damaged_anywhere_or_of_another_version_is_nothing() {
        let whole = encode(&said());
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end]), None, "cut at {end}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            // Not the bit that only turns a digit of the hash from `a` to `A`.
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), None, "damaged at {at}");
        }
        let mut longer = whole.clone();
        longer.push(b' ');
        assert_eq!(decode(&longer), None);
        let text = String::from_utf8(whole).unwrap();
        assert_eq!(decode(text.replacen(" 1 ", " 2 ", 1).as_bytes()), None);
        assert_eq!(decode(&vec![b'\n'; BYTES_MAX + 1]), None);
    }
}
