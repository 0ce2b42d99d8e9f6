//! Sizes and rates as people write them, and percentiles.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Reads `110KB`, `64MiB`, `2G` or a plain number of bytes. `KB` is 1,000, `KiB` and `K` are 1,024.
///
/// # Errors
///
/// Says which part is not understood.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 =
        text[..digits].parse().map_err(|_| format!("'{text}' does not start with a number"))?;
    let factor = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        unit => return Err(format!("unknown unit '{unit}'; use KB, MB, GB, KiB, MiB or GiB")),
    };
    Ok((number * factor).round() as u64)
}

/// Durations of many like operations, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50_us: f64,
    /// Only one in a hundred took longer.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    /// Sorts `nanoseconds` in place and reads the percentiles (nearest rank). Empty gives zeros.
    pub fn of(nanoseconds: &mut [u64]) -> Self {
        nanoseconds.sort_unstable();
        let Some(&longest) = nanoseconds.last() else { return Self::default() };
        let at = |percent: usize| {
            let rank = (nanoseconds.len() * percent).div_ceil(100).max(1);
            microseconds(nanoseconds[rank - 1])
        };
        Self { p50_us: at(50), p99_us: at(99), max_us: microseconds(longest) }
    }
}

/// Durations counted in classes 3 % wide (32 to an octave), so that those of many processes can be
/// added up and still give percentiles.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    counts: BTreeMap<u32, u64>,
}

impl Histogram {
    /// Counts one duration.
    pub fn add(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(32);
        let octave = nanoseconds.ilog2();
        let class = octave * 32 + ((nanoseconds >> (octave - 5)) as u32 & 31);
        *self.counts.entry(class).or_default() += 1;
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for (class, count) in &other.counts {
            *self.counts.entry(*class).or_default() += count;
        }
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Its percentiles, each the middle of its class.
    #[must_use]
    pub fn latency(&self) -> Latency {
        let total = self.count();
        let at = |percent: u64| {
            let rank = (total * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let class = self.counts.iter().find(|(_, count)| {
                seen += **count;
                seen >= rank
            });
            class.map_or(0.0, |(class, _)| {
                let (octave, part) = (class / 32, class % 32);
                2_f64.powi(octave as i32) * (1.0 + (f64::from(part) + 0.5) / 32.0) / 1e3
            })
        };
        Latency { p50_us: at(50), p99_us: at(99), max_us: at(100) }
    }
}

fn microseconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6
}

/// The middle value; the mean of the two middle ones when there is an even number. Empty: `None`.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// `count` over `seconds`, or zero when no time passed.
#[must_use]
pub fn rate(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_decimal_and_binary_units() {
        assert_eq!(parse_size("110KB"), Ok(110_000));
        assert_eq!(parse_size("1.5MiB"), Ok(1_572_864));
        assert_eq!(parse_size("7"), Ok(7));
        assert!(parse_size("KB").is_err());
        assert!(parse_size("1 parsec").is_err());
    }

    #[test]
    fn histograms_add_up_and_are_within_three_percent() {
        let (mut low, mut high) = (Histogram::default(), Histogram::default());
        for n in 1..=100 {
            let half = if n <= 50 { &mut low } else { &mut high };
            half.add(Duration::from_micros(n * 10));
        }
        low.merge(&high);
        let latency = low.latency();
        assert_eq!(low.count(), 100);
        assert!((latency.p50_us / 500.0 - 1.0).abs() < 0.03, "{latency:?}");
        assert!((latency.p99_us / 990.0 - 1.0).abs() < 0.03, "{latency:?}");
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut values: Vec<u64> = (1..=100).map(|n| n * 1000).rev().collect();
        let latency = Latency::of(&mut values);
        assert_eq!(latency, Latency { p50_us: 50.0, p99_us: 99.0, max_us: 100.0 });
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }
}
