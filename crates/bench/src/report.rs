//! Results as one self-contained HTML page: a bar chart of images/s per epoch, the table, the machine.
//!
//! The page loads nothing from anywhere and follows the reader's light or dark setting. It shows the
//! numbers it is given; it measures and computes nothing but ratios to the baseline.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::facts::Facts;

/// One epoch of one system.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DemoEpoch {
    /// Images.
    pub images: u64,
    /// How long they took.
    pub seconds: f64,
    /// Images a second.
    pub images_per_s: f64,
    /// Requests to the bucket during the epoch, of all verbs; `None` when not counted.
    pub bucket_requests: Option<u64>,
}

impl DemoEpoch {
    /// Requests to the bucket for each image.
    #[must_use]
    pub fn requests_per_image(&self) -> Option<f64> {
        let requests = self.bucket_requests?;
        (self.images > 0).then(|| requests as f64 / self.images as f64)
    }
}

/// One way to read the bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DemoSystem {
    /// Its name and version.
    pub name: String,
    /// Its epochs in order; the first is cold.
    pub epochs: Vec<DemoEpoch>,
}

impl DemoSystem {
    /// The last epoch's speed over the first's.
    #[must_use]
    pub fn warm_to_cold(&self) -> Option<f64> {
        let (cold, warm) = (self.epochs.first()?, self.epochs.last()?);
        (cold.images_per_s > 0.0).then(|| warm.images_per_s / cold.images_per_s)
    }
}

/// What the page shows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DemoReport {
    /// The heading.
    pub title: String,
    /// One sentence: the data set, the bucket, the job.
    pub summary: String,
    /// Where it was measured.
    pub facts: Facts,
    /// Each system. The last one is the baseline of the ratios.
    pub systems: Vec<DemoSystem>,
}

impl DemoReport {
    /// How many times the baseline's speed `system` has in `epoch`.
    #[must_use]
    pub fn ratio(&self, system: usize, epoch: usize) -> Option<f64> {
        let speed = |system: &DemoSystem| system.epochs.get(epoch).map(|e| e.images_per_s);
        let baseline = speed(self.systems.last()?)?;
        let own = speed(self.systems.get(system)?)?;
        (baseline > 0.0).then(|| own / baseline)
    }

    /// The table of the page as plain text, for the terminal.
    #[must_use]
    pub fn text_table(&self) -> String {
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.extend(self.rows());
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let mut text = String::new();
        for row in &rows {
            let cells: Vec<String> = row
                .iter()
                .enumerate()
                .map(|(i, cell)| {
                    if i == 0 {
                        format!("{cell:<0$}", width(i))
                    } else {
                        format!("{cell:>0$}", width(i))
                    }
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    fn rows(&self) -> Vec<[String; 6]> {
        let mut rows = Vec::new();
        for (index, system) in self.systems.iter().enumerate() {
            for (number, epoch) in system.epochs.iter().enumerate() {
                let cold = system.epochs[0].images_per_s;
                rows.push([
                    system.name.clone(),
                    (number + 1).to_string(),
                    format!("{:.0}", epoch.images_per_s),
                    self.ratio(index, number).map_or("".to_owned(), |r| format!("{r:.1} x")),
                    if cold > 0.0 {
                        format!("{:.1} x", epoch.images_per_s / cold)
                    } else {
                        String::new()
                    },
                    epoch.requests_per_image().map_or("".to_owned(), |r| format!("{r:.3}")),
                ]);
            }
        }
        rows
    }
}

const HEAD: [&str; 6] =
    ["system", "epoch", "images/s", "to baseline", "to its cold epoch", "requests/image"];

/// Writes the page. The file is either the old one or the whole new one.
///
/// # Errors
///
/// If it cannot be written.
pub fn write_html(path: &Path, report: &DemoReport) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let temporary = path.with_extension("html.tmp");
    fs::write(&temporary, html(report))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("write {}", path.display()))
}

/// Width of every chart in its own units.
pub(crate) const WIDTH: f64 = 800.0;

/// Colours by system; legible on white and on black, and the first five apart for colour-blind readers.
const COLOURS: [&str; 8] =
    ["#0d8f73", "#b0651d", "#5b6ee1", "#a3468c", "#6b7280", "#c93a3a", "#1591b0", "#8a8d0f"];

pub(crate) const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5f6975;--line:#d9dee4;--page:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebef;--soft:#9aa5b1;--line:#333b45;--page:#14181d}}
body{margin:0 auto;max-width:52rem;padding:2rem 1.2rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:0 0 .3rem}p{color:var(--soft);margin:.2rem 0 1.4rem}
svg{width:100%;height:auto;overflow:visible}svg text{fill:var(--ink);font:13px system-ui,sans-serif}
svg .soft{fill:var(--soft)}svg line{stroke:var(--line)}
table{border-collapse:collapse;width:100%;margin:1.6rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:500}
footer{color:var(--soft);font-size:.85rem}
";

fn html(report: &DemoReport) -> String {
    let mut table = String::new();
    for row in report.rows() {
        let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(table, "<tr>{cells}</tr>");
    }
    let head: String = HEAD.iter().map(|name| format!("<th>{name}</th>")).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n\
         <h1>{title}</h1>\n<p>{summary}</p>\n{chart}\n\
         <table><thead><tr>{head}</tr></thead><tbody>\n{table}</tbody></table>\n\
         <footer>{facts}</footer>\n</html>\n",
        title = escape(&report.title),
        summary = escape(&report.summary),
        chart = chart(report),
        facts = escape(&report.facts.line()),
    )
}

/// The chart alone as an SVG file's text, for a README: it brings its own style, and follows the
/// reader's light or dark setting like the page.
#[must_use]
pub fn svg(report: &DemoReport) -> String {
    let style = format!("<style>{STYLE}</style>\n");
    let chart = chart(report).replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1);
    match chart.split_once('\n') {
        Some((opening, rest)) => format!("{opening}\n{style}{rest}\n"),
        None => chart,
    }
}

/// Speeds by epoch.
fn chart(report: &DemoReport) -> String {
    let epochs = report.systems.iter().map(|system| system.epochs.len()).max().unwrap_or(0);
    let groups: Vec<Group> = (0..epochs)
        .map(|number| {
            let note = if number == 0 { " (cold)" } else { "" };
            let speed = |system: &DemoSystem| Some(system.epochs.get(number)?.images_per_s);
            Group {
                label: format!("Epoch {}{note}, images/s", number + 1),
                bars: report.systems.iter().map(|it| (it.name.clone(), speed(it))).collect(),
            }
        })
        .collect();
    bars("Images per second by epoch and system", &groups, 0)
}

/// Bars under one heading: names and values; a bar without a value keeps its colour for the next group.
pub(crate) struct Group {
    pub(crate) label: String,
    pub(crate) bars: Vec<(String, Option<f64>)>,
}

/// Horizontal bars in groups: names and numbers stay legible however unlike the values are.
pub(crate) fn bars(what: &str, groups: &[Group], digits: usize) -> String {
    const LEFT: f64 = 170.0;
    const BAR: f64 = 24.0;
    const ROOM_FOR_NUMBER: f64 = 90.0;
    // What fits to the left of the bars.
    const NAME_CHARS_MAX: usize = 22;
    let values = groups.iter().flat_map(|group| group.bars.iter().filter_map(|(_, value)| *value));
    let most = values.fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let lines: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = groups.len() as f64 * 34.0 + lines as f64 * (BAR + 4.0) + 8.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(what)
    );
    let mut top = 0.0;
    for group in groups {
        let _ = writeln!(
            svg,
            "<text class=\"soft\" x=\"0\" y=\"{}\">{}</text>",
            top + 16.0,
            escape(&group.label)
        );
        for (index, (name, value)) in group.bars.iter().enumerate() {
            let Some(value) = value else { continue };
            let y = top + 26.0 + index as f64 * (BAR + 4.0);
            let length = (WIDTH - LEFT - ROOM_FOR_NUMBER) * value / most;
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{value:.digits$}</text>",
                LEFT - 10.0,
                y + 17.0,
                escape(&cut(name, NAME_CHARS_MAX)),
                length.max(1.0),
                colour(index),
                LEFT + length + 8.0,
                y + 17.0,
            );
        }
        top += 34.0 + group.bars.len() as f64 * (BAR + 4.0);
    }
    let _ = write!(svg, "<line x1=\"{LEFT}\" y1=\"0\" x2=\"{LEFT}\" y2=\"{height}\"/>\n</svg>");
    svg
}

/// The colour of the system at a place of the list.
pub(crate) fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// A name that has room for so many characters.
pub(crate) fn cut(name: &str, chars_max: usize) -> String {
    if name.chars().count() <= chars_max {
        return name.to_owned();
    }
    name.chars().take(chars_max - 1).chain(['…']).collect()
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(images_per_s: f64, requests: u64) -> DemoEpoch {
        DemoEpoch { images: 1_000, seconds: 1.0, images_per_s, bucket_requests: Some(requests) }
    }

    #[test]
    fn names_are_cut_to_their_room() {
        assert_eq!(cut("Feedline", 8), "Feedline");
        assert_eq!(cut("Feedline, só", 8), "Feedlin…");
    }

    #[test]
    fn the_page_holds_the_numbers_and_no_link() {
        let report = DemoReport {
            title: "Three <epochs>".to_owned(),
            summary: "1,000 images".to_owned(),
            facts: Facts { commit: "abc123".to_owned(), ..Facts::default() },
            systems: vec![
                DemoSystem {
                    name: "feedline".to_owned(),
                    epochs: vec![epoch(271.0, 1_013), epoch(4_321.0, 0)],
                },
                DemoSystem {
                    name: "s3fs".to_owned(),
                    epochs: vec![epoch(50.0, 2_000), epoch(137.0, 1_999)],
                },
            ],
        };
        assert_eq!(report.ratio(0, 0), Some(271.0 / 50.0));
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("new/report.html");
        write_html(&path, &report).expect("written");
        let page = fs::read_to_string(path).expect("read");
        for part in [
            "Three &lt;epochs&gt;",
            "271",
            "4321",
            "5.4 x",
            "15.9 x",
            "1.013",
            "2.000",
            "abc123",
            "<rect",
        ] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
        assert!(!page.contains("http") && !page.contains("<script"), "it loads nothing");
        let table = report.text_table();
        assert!(table.contains("4321") && table.contains("31.5 x"), "{table}");
    }
}
