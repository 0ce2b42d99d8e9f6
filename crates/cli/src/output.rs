//! How answers look: sizes, counts, ages, tables, JSON. Text for people is aligned and uses binary
//! units; JSON is what the admin API said, for scripts.

use std::io::{self, Write};

use serde::Serialize;

/// Standard output, buffered. A write error is the command's error, so that a closed pipe ends it.
pub(crate) fn stdout() -> io::BufWriter<io::StdoutLock<'static>> {
    io::BufWriter::new(io::stdout().lock())
}

/// Prints one value as indented JSON.
///
/// # Errors
///
/// If standard output is closed.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    let mut out = stdout();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Bytes with a binary unit, at most four digits: `110 KiB`, `1.5 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 would be printed as 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// A count with a comma every three digits.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in its two largest units: `3d 4h`, `12m 5s`.
pub(crate) fn duration(seconds: f64) -> String {
    let total = seconds.max(0.0) as u64;
    let (days, hours, minutes, rest) =
        (total / 86_400, total / 3_600 % 24, total / 60 % 60, total % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// `part` of `whole` as a percentage, or `-` of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{:.1} %", part as f64 * 100.0 / whole as f64)
}

/// Milliseconds since 1970 as `2026-01-31 23:59`, UTC.
pub(crate) fn time(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1000);
    let (year, month, day) = civil_date(seconds.div_euclid(86_400));
    let minutes = seconds.rem_euclid(86_400) / 60;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", minutes / 60, minutes % 60)
}

/// The proleptic Gregorian date of a day counted from 1970-01-01 (Hinnant's `civil_from_days`).
fn civil_date(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468; // days from 0000-03-01
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Text in columns, two spaces apart. A column whose heading starts with `>` is aligned right.
#[derive(Debug)]
pub(crate) struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts with headings. All-empty headings are not printed.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let first: Vec<String> =
            headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        let rows = if first.iter().all(String::is_empty) { Vec::new() } else { vec![first] };
        Self { right, rows }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Writes the table; every line starts with `indent`.
    ///
    /// # Errors
    ///
    /// If `out` is closed.
    pub(crate) fn write(&self, out: &mut impl Write, indent: &str) -> io::Result<()> {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> =
            (0..self.right.len()).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                if self.right[column] {
                    line.push_str(&pad);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&pad);
                }
                line.push_str("  ");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_counts_and_ages_read_well() {
        let sizes = [0, 1023, 1024, 112_640, 1_048_575, 1_610_612_736].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "110 KiB", "1.0 MiB", "1.5 GiB"]);
        assert_eq!([0, 999, 1000, 1_281_167].map(count), ["0", "999", "1,000", "1,281,167"]);
        assert_eq!(
            [59.9, 61.0, 3_600.0, 90_000.0].map(duration),
            ["59s", "1m 1s", "1h 0m", "1d 1h"]
        );
        assert_eq!((percent(1, 3), percent(0, 0)), ("33.3 %".into(), "-".into()));
    }

    #[test]
    fn times_are_utc_dates() {
        let times = [0, 951_782_400_000, 1_767_225_540_000, -60_000].map(time);
        let expected =
            ["1970-01-01 00:00", "2000-02-29 00:00", "2025-12-31 23:59", "1969-12-31 23:59"];
        assert_eq!(times, expected);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", ">size"]);
        table.row(["a".into(), "1".into()]);
        table.row(["long".into(), "1000".into()]);
        let mut text = Vec::new();
        table.write(&mut text, " ").unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), " name  size\n a        1\n long  1000\n");
    }
}
