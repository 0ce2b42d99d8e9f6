//! The table as text. Every speed is a median over the rounds; the JSON holds each measurement.

use std::fmt::Write as _;

use super::rows::{Group, Row};
use super::sample::{Contestant, Sample};
use super::{RowResult, TargetsResult};
use crate::units::median;

/// One row: name, figure, target, verdict, note.
pub(super) fn line(row: &RowResult) -> String {
    let target = row.target.map_or_else(|| "-".to_owned(), |target| target.to_string());
    let verdict = match row.met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    };
    let RowResult { name, unit, note, .. } = row;
    match (&row.figure, &row.error) {
        (Some(figure), _) => {
            format!("{name:<36} {figure:>8.2} {unit:<10} {target:>7}  {verdict:<6}  {note}")
        }
        (None, error) => {
            format!("{name:<36} not measured: {}", error.as_deref().unwrap_or("no sample"))
        }
    }
}

/// What one must know to read the figure.
pub(super) fn note(row: &Row, samples: &[Sample]) -> String {
    let mut parts = Vec::new();
    for name in contestants(samples) {
        let of = |figure: fn(&Contestant) -> Option<f64>| {
            let values: Vec<f64> = samples
                .iter()
                .flat_map(|sample| &sample.contestants)
                .filter(|one| one.name == name)
                .filter_map(figure)
                .collect();
            median(&values).unwrap_or_default()
        };
        let part = match row.group {
            Group::Small(..) | Group::Transport(_) => {
                format!("{name} {:.0} files/s", of(|one| Some(one.files_per_s())))
            }
            Group::Larger => format!(
                "hit rate {:.3} an epoch, {:.2} requests a file, {:.0} files/s",
                of(|one| one.hit_rate),
                of(|one| Some(one.requests_per_file())),
                of(|one| Some(one.files_per_s())),
            ),
            Group::Restart => format!(
                "from the start of the daemon to the first byte; it then holds {:.0} MiB",
                of(|one| Some(one.resident_bytes? as f64 / f64::from(1 << 20))),
            ),
            Group::Large(..) => format!("{name} {:.0} MB/s", of(|one| Some(one.mb_per_s()))),
            Group::Cold(_) if row.name.starts_with("cold-paced") => format!(
                "{name} {:.0} files/s, p99 {:.2} ms after the first 2 s",
                of(|one| Some(one.files_per_s())),
                of(|one| Some(one.pass.as_ref()?.latency.p99_us / 1e3)),
            ),
            Group::S3fs | Group::Cold(_) | Group::Order(_) => format!(
                "{name} {:.0} files/s ({} files, {:.1} requests each)",
                of(|one| Some(one.files_per_s())),
                of(|one| one.pass.as_ref().map(|pass| pass.files as f64)),
                of(|one| Some(one.requests_per_file())),
            ),
            Group::Walk => {
                format!("{name} {:.0} entries/s", of(|one| Some(one.walk.as_ref()?.entries_per_s)))
            }
            Group::Life => life_note(row, &of),
        };
        parts.push(part);
    }
    parts.join(", ")
}

type Figure<'a> = &'a dyn Fn(fn(&Contestant) -> Option<f64>) -> f64;

fn life_note(row: &Row, of: Figure<'_>) -> String {
    if row.name.starts_with("page-cache") {
        let mib = of(|one| Some(one.page_cache_bytes? as f64 / f64::from(1 << 20)));
        return format!("{mib:.0} MiB came in");
    }
    if row.name.starts_with("resident") {
        let mib = of(|one| Some(one.resident_bytes? as f64 / f64::from(1 << 20)));
        return format!("the peak; {mib:.0} MiB afterwards; target: 64 MiB and the --buffer");
    }
    let get = of(|one| Some(one.requests?.get as f64));
    let head = of(|one| Some(one.requests?.head as f64));
    let list = of(|one| Some(one.requests?.list as f64));
    format!("GET {get} HEAD {head} LIST {list} an epoch")
}

/// Their names, in the order of their first appearance.
fn contestants(samples: &[Sample]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for one in samples.iter().take(1).flat_map(|sample| &sample.contestants) {
        if !names.contains(&one.name.as_str()) {
            names.push(&one.name);
        }
    }
    names
}

/// The table, and what it cost.
pub(super) fn whole(result: &TargetsResult) -> String {
    let mut text = format!("{}\n{}\n\n", result.facts.line(), result.data.line());
    for row in &result.rows {
        text.push_str(&line(row));
        text.push('\n');
    }
    let with_target: Vec<bool> = result.rows.iter().filter_map(|row| row.met).collect();
    let met = with_target.iter().filter(|met| **met).count();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\n{met} of {} targets met, median of {} rounds\n",
        with_target.len(),
        result.rounds
    );
    text.push_str(&costs(result));
    text
}

/// CPU and memory of each contestant of each row that reads.
fn costs(result: &TargetsResult) -> String {
    let mut text = format!(
        "{:<36} {:<21} {:>9} {:>9} {:>9} {:>9} {:>9}   {:>9} {:>9}\n",
        "row",
        "contestant",
        "daemon",
        "readers",
        "kernel",
        "peak MiB",
        "requests",
        "p50 us",
        "p99 us"
    );
    let _ = writeln!(text, "{:<36} {:<21} {:>29}", "", "", "CPU s per GB");
    for row in &result.rows {
        for name in contestants(&row.samples) {
            let all: Vec<&Contestant> = row
                .samples
                .iter()
                .flat_map(|sample| &sample.contestants)
                .filter(|one| one.name == name)
                .collect();
            let of = |figure: &dyn Fn(&Contestant) -> Option<f64>| {
                let values: Vec<f64> = all.iter().filter_map(|one| figure(one)).collect();
                median(&values)
            };
            if of(&|one| one.cost.map(|cost| cost.kernel_cpu_s)).is_none() {
                continue;
            }
            let cell = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            let _ = writeln!(
                text,
                "{:<36} {name:<21} {:>9} {:>9} {:>9} {:>9} {:>9}   {:>9} {:>9}",
                row.name,
                cell(of(&|one| Some(one.cost?.daemon_cpu_s_per_gb)), 3),
                cell(of(&|one| Some(one.cost?.readers_cpu_s_per_gb)), 3),
                cell(of(&|one| Some(one.cost?.kernel_cpu_s_per_gb)), 3),
                cell(of(&|one| Some(one.peak_resident_bytes? as f64 / f64::from(1 << 20))), 0),
                cell(of(&|one| Some(one.requests?.total() as f64)), 0),
                cell(of(&|one| Some(one.pass.as_ref()?.latency.p50_us)), 0),
                cell(of(&|one| Some(one.pass.as_ref()?.latency.p99_us)), 0),
            );
        }
    }
    text
}
