//! What the server knows of an object: tag, size, time, and the headers it was stored with.

use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use md5::{Digest, Md5};

/// An entity tag: 16 bytes, and the number of parts for an object that was uploaded in parts.
///
/// MD5 of the bytes where the server saw them (as S3 does); for a file that was put into the folder
/// by other means, a mix of size, time and inode, which costs no read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    digest: [u8; 16],
    parts: u16,
}

impl Tag {
    /// Of the bytes themselves.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self { digest: Md5::digest(bytes).into(), parts: 0 }
    }

    /// Of an object made of parts: the MD5 of their MD5s.
    pub(crate) fn of_parts(parts: &[Tag]) -> Self {
        let mut md5 = Md5::new();
        for part in parts {
            md5.update(part.digest);
        }
        Self { digest: md5.finalize().into(), parts: parts.len() as u16 }
    }

    /// Of a file that the server did not write: the same while size, time and inode are.
    pub(crate) fn of_file(metadata: &Metadata) -> Self {
        let time = (metadata.mtime() as u64)
            .wrapping_mul(1_000_000_000)
            .wrapping_add(metadata.mtime_nsec() as u64);
        let high = mix(mix(mix(1, metadata.len()), time), metadata.ino());
        let low = mix(mix(mix(2, metadata.ino()), time), metadata.len());
        Self { digest: (u128::from(high) << 64 | u128::from(low)).to_be_bytes(), parts: 0 }
    }

    /// Of an object that is made up of a number.
    pub(crate) fn of_number(number: u64) -> Self {
        let digest = u128::from(mix(1, number)) << 64 | u128::from(mix(2, number));
        Self { digest: digest.to_be_bytes(), parts: 0 }
    }

    /// Reads a tag as it is printed, without quotes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (hex, parts) = match text.split_once('-') {
            Some((hex, parts)) => (hex, parts.parse().ok()?),
            None => (text, 0),
        };
        if hex.len() != 32 {
            return None;
        }
        let digest = u128::from_str_radix(hex, 16).ok()?.to_be_bytes();
        Some(Self { digest, parts })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.digest))?;
        if self.parts != 0 {
            write!(f, "-{}", self.parts)?;
        }
        Ok(())
    }
}

/// Mixes a value into a hash (the `SplitMix64` finalizer; Steele, Lea and Flood, OOPSLA 2014).
fn mix(hash: u64, value: u64) -> u64 {
    let mut z = hash ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A line of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) size: u64,
    pub(crate) modified_ms: i64,
    pub(crate) tag: Tag,
}

impl Entry {
    pub(crate) fn modified(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.modified_ms.max(0) as u64)
    }
}

/// The headers an object was stored with and is served with: content type, `x-amz-meta-*` and such.
pub(crate) type StoredHeaders = Vec<(String, String)>;

/// The bytes of an object.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    Memory(Bytes),
    File(std::sync::Arc<File>),
}

/// An object as found: what a GET needs.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) entry: Entry,
    pub(crate) headers: StoredHeaders,
    pub(crate) data: Data,
}

/// Milliseconds since 1970, rounded down, as listings print them.
pub(crate) fn unix_ms(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Year, month, day, hour, minute, second, and the day of the week (0 is Thursday), in UTC.
///
/// Days to dates by Howard Hinnant's `civil_from_days`.
fn civil(time: SystemTime) -> (i64, u32, u32, u64, u64, u64, usize) {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let doe = shifted.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = (if mp < 10 { mp + 3 } else { mp - 9 }) as u32;
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month, day, rest / 3_600, rest / 60 % 60, rest % 60, (days % 7) as usize)
}

/// As in XML answers: `2026-01-31T23:59:59.000Z`.
pub(crate) fn iso8601(time: SystemTime) -> String {
    let (year, month, day, hour, minute, second, _) = civil(time);
    let ms = unix_ms(time).rem_euclid(1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// As in signatures: `20260131T235959Z`. Sorted as text it is sorted by time.
pub(crate) fn basic(time: SystemTime) -> String {
    let (year, month, day, hour, minute, second, _) = civil(time);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// As in HTTP headers: `Sat, 31 Jan 2026 23:59:59 GMT`.
pub(crate) fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day, hour, minute, second, weekday) = civil(time);
    let (weekday, month) = (DAYS[weekday], MONTHS[month as usize - 1]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_s3_prints_them() {
        let time = UNIX_EPOCH + Duration::from_millis(1_709_211_845_678); // A leap day.
        assert_eq!(iso8601(time), "2024-02-29T13:04:05.678Z");
        assert_eq!(basic(time), "20240229T130405Z");
        assert_eq!(http_date(time), "Thu, 29 Feb 2024 13:04:05 GMT");
        assert_eq!(http_date(UNIX_EPOCH), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn a_tag_reads_back_as_printed() {
        let plain = Tag::of_bytes(b"");
        assert_eq!(plain.to_string(), "d41d8cd98f00b204e9800998ecf8427e");
        let parts = Tag::of_parts(&[plain, plain]);
        assert!(parts.to_string().ends_with("-2"));
        for tag in [plain, parts] {
            assert_eq!(Tag::parse(&tag.to_string()), Some(tag));
        }
        assert_eq!(Tag::parse("no tag"), None);
    }
}
