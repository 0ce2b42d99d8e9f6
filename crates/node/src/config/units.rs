//! Sizes, rates and durations as people write them: a number and a unit, never a bare number.

use std::time::Duration;

/// Size units, largest first, so that printing takes the first that divides. A power of two has an
/// `i`; without it, it is a power of ten, as disk makers and network people count.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

const DURATION_UNITS_MS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `64MiB` or `1.5GB` as bytes. `0` needs no unit.
///
/// # Errors
///
/// One sentence that says how to write it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, SIZE_UNITS)
        .ok_or_else(|| "is no size: write a number and a unit, such as 64MiB or 10GB".to_owned())
}

/// Reads `250MB/s` as bytes a second. `0` needs no unit.
///
/// # Errors
///
/// One sentence that says how to write it.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let size = text.trim().strip_suffix("/s").or_else(|| (text.trim() == "0").then_some("0"));
    size.and_then(|size| parse(size, SIZE_UNITS))
        .ok_or_else(|| "is no rate: write a size for each second, such as 250MB/s".to_owned())
}

/// Reads `90s`, `10m`, `1h`, `500ms` or `2d`. `0` needs no unit.
///
/// # Errors
///
/// One sentence that says how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, DURATION_UNITS_MS).map(Duration::from_millis).ok_or_else(|| {
        "is no duration: write a number and a unit, such as 90s, 10m or 1h".to_owned()
    })
}

/// A decimal number followed by one of `units`, times that unit.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    if text == "0" {
        return Some(0);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    let scale = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let product = number.parse::<f64>().ok()? * scale as f64;
    // 2^53: beyond it a float no longer holds every whole number.
    (product < 9_007_199_254_740_992.0).then_some(product.round() as u64)
}

/// Bytes in the largest unit that divides them: `64MiB`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    format_in(bytes, SIZE_UNITS)
}

/// Bytes a second: `4MiB/s`.
#[must_use]
pub fn format_rate(bytes_per_s: u64) -> String {
    if bytes_per_s == 0 { "0".into() } else { format!("{}/s", format_size(bytes_per_s)) }
}

/// A duration in the largest unit that divides it: `10m`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    format_in(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), DURATION_UNITS_MS)
}

fn format_in(value: u64, units: &[(&str, u64)]) -> String {
    if value == 0 {
        return "0".into();
    }
    let (name, scale) =
        units.iter().find(|(_, scale)| value.is_multiple_of(*scale)).expect("the last unit is 1");
    format!("{}{name}", value / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("10GB", 10_000_000_000),
            ("1.5GiB", 3 << 29),
            ("1 TiB", 1 << 40),
            ("7B", 7),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse_rate("250MB/s"), Ok(250_000_000));
        assert_eq!(parse_rate("0"), Ok(0));
        for (text, ms) in [("90s", 90_000), ("10m", 600_000), ("1h", 3_600_000), ("500ms", 500)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn a_number_without_its_unit_is_refused() {
        for text in ["10", "", "MiB", "-1MiB", "1mib", "1.2.3GB", "99999999999TiB", "1e3MB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["10", "10MB", "MB/s", "/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        for text in ["10", "10 minutes", "1S", ""] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for bytes in [0, 1, 1023, 1 << 20, 10_000_000_000, 3 << 29, u64::MAX] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
            assert_eq!(parse_rate(&format_rate(bytes)), Ok(bytes));
        }
        for ms in [0, 1, 1500, 90_000, 600_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        assert_eq!(format_duration(Duration::from_secs(600)), "10m");
        assert_eq!(format_size(64 << 20), "64MiB");
    }
}
