//! Which versions of the protocol a node speaks, and which one two nodes use.
//!
//! A node speaks a range. Both ends say theirs with the hello, in its headers, so that what the hello itself
//! holds may change with a version; then both use the highest that both speak. With none in common they
//! pass each other by. An end that says one number, as the first version did, speaks that one alone.

use std::fmt;
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::{WIRE, WIRE_HEADER, WIRE_NEWEST_HEADER, WIRE_OLDEST};

/// The oldest to the newest, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    oldest: u32,
    newest: u32,
}

impl Versions {
    /// What this binary speaks.
    pub const OURS: Self = Self { oldest: WIRE_OLDEST, newest: WIRE };

    /// One alone.
    #[must_use]
    pub fn only(version: u32) -> Self {
        Self { oldest: version, newest: version }
    }

    /// `None`: that is no range; versions count from 1.
    #[must_use]
    pub fn between(oldest: u32, newest: u32) -> Option<Self> {
        (1 <= oldest && oldest <= newest).then_some(Self { oldest, newest })
    }

    /// The newest.
    #[must_use]
    pub fn newest(self) -> u32 {
        self.newest
    }

    /// The highest that both speak.
    #[must_use]
    pub fn common(self, theirs: Self) -> Option<u32> {
        let highest = self.newest.min(theirs.newest);
        (self.oldest.max(theirs.oldest) <= highest).then_some(highest)
    }

    /// What the other end says; `None`: nothing that makes sense.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let number = |name| headers.get(name).map(|value| value.to_str().ok()?.parse().ok());
        let oldest = number(WIRE_HEADER)??;
        Self::between(oldest, number(WIRE_NEWEST_HEADER).unwrap_or(Some(oldest))?)
    }

    /// Says it. One version alone is said as the first version does.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.insert(HeaderName::from_static(WIRE_HEADER), HeaderValue::from(self.oldest));
        if self.oldest < self.newest {
            let name = HeaderName::from_static(WIRE_NEWEST_HEADER);
            headers.insert(name, HeaderValue::from(self.newest));
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "version {}", self.newest),
            false => write!(f, "versions {} to {}", self.oldest, self.newest),
        }
    }
}

impl FromStr for Versions {
    type Err = String;

    /// `2` or `1..2`, both included.
    fn from_str(text: &str) -> Result<Self, String> {
        let (oldest, newest) = text.split_once("..").unwrap_or((text, text));
        let range = oldest.parse().ok().zip(newest.parse().ok());
        range
            .and_then(|(oldest, newest)| Self::between(oldest, newest))
            .ok_or_else(|| format!("{text:?} is neither a version nor a range as 1..2"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Versions {
        text.parse().unwrap()
    }

    #[test]
    fn two_nodes_use_the_highest_version_that_both_speak_or_none() {
        for (ours, theirs, common) in [
            ("1", "1", Some(1)),
            ("1", "1..2", Some(1)),
            ("1..3", "2..5", Some(3)),
            ("1..9", "4..5", Some(5)),
            ("1", "2", None),
            ("1..2", "3..4", None),
        ] {
            assert_eq!(of(ours).common(of(theirs)), common, "{ours} and {theirs}");
            assert_eq!(of(theirs).common(of(ours)), common, "{theirs} and {ours}");
        }
    }

    #[test]
    fn a_range_survives_the_way_and_what_is_none_is_found() {
        for range in ["1", "1..2", "7..4294967295"] {
            let mut headers = HeaderMap::new();
            of(range).write(&mut headers);
            assert_eq!(Versions::read(&headers), Some(of(range)));
        }
        assert_eq!(Versions::read(&HeaderMap::new()), None);
        for (oldest, newest) in
            [("2", "1"), ("1", "x"), ("-1", "1"), ("0", "1"), ("1", "4294967296")]
        {
            let said = [(WIRE_HEADER, oldest), (WIRE_NEWEST_HEADER, newest)];
            let said = said.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            assert_eq!(Versions::read(&HeaderMap::from_iter(said)), None, "{oldest} to {newest}");
        }
        assert!("2..1".parse::<Versions>().is_err() && "".parse::<Versions>().is_err());
    }

    #[test]
    fn the_first_version_understands_what_is_said() {
        // It compares one header with "1", and looks at no other.
        let mut headers = HeaderMap::new();
        of("1..2").write(&mut headers);
        assert_eq!(headers[WIRE_HEADER], "1");
    }
}
