//! A cluster of nodes on this machine, and what it is measured with.
//!
//! [`nodes`](Nodes) starts it (each node in a network namespace, see [`crate::netns`]), [`epochs`] runs a
//! training job on all of it, and `feedline bench cluster`, here, measures the table of targets: every
//! row several times, the median of the figures compared with the target, JSON with machine and commit.
//!
//! Data sets are those of `feedline bench targets` and stay for the next run; all else is gone when the
//! command ends, however it ends.

pub mod epochs;
mod groups;
mod nodes;
mod rows;
mod verify;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::caches::Removals;
use crate::dataset::{MakeArgs, make, progress_bar};
use crate::facts::Facts;
use crate::tables::{self, write_json};
use crate::targets::data::{MILLION_FULL, MILLION_QUICK};
use crate::targets::lab::Scratch;
use crate::targets::{Contestant, Target, scratch};
use crate::units::median;
use epochs::ClusterEpoch;
use groups::{Lab, Samples};
pub use nodes::{Nodes, Shape};
use rows::{ROWS, Row};

/// Nodes that the targets are stated for.
pub(crate) const NODES: usize = 4;

/// `feedline bench cluster`
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterArgs {
    /// Where data sets (kept) and caches (removed) go; needs 20 GB on a real file system
    #[arg(long, default_value = "/var/tmp/feedline-bench", value_name = "DIR")]
    pub dir: PathBuf,
    /// Smaller data and one round: shows that everything runs, not how fast
    #[arg(long)]
    pub quick: bool,
    /// Only the row of this name, or rows whose names contain it; several with commas between them
    #[arg(long, value_name = "ROW")]
    pub only: Option<String>,
    /// Measurements of each row [default: 5, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Time to the first byte of the bucket
    #[arg(long, default_value = "25ms")]
    pub latency: String,
    /// Where the JSON goes
    #[arg(long, default_value = "bench/results", value_name = "DIR")]
    pub results: PathBuf,
}

/// Images and class folders. The full ones are what the targets are stated for.
const FULL: (usize, usize) = (20_000, 100);
const QUICK: (usize, usize) = (2_000, 20);

/// One measurement of a row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterSample {
    /// What is compared with the target.
    pub figure: f64,
    /// What one must know to read it.
    pub note: String,
    /// The epochs, of a job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub epochs: Vec<ClusterEpoch>,
    /// Who was compared, of a comparison.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contestants: Vec<Contestant>,
}

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterRow {
    /// The row.
    pub name: String,
    /// What the figure is a multiple of, or its unit.
    pub unit: String,
    /// How much must be reached.
    pub target: Target,
    /// The median; `None` if it could not be measured.
    pub figure: Option<f64>,
    /// True if the figure reaches the target.
    pub met: bool,
    /// Why it could not be measured.
    pub error: Option<String>,
    /// Every measurement.
    pub samples: Vec<ClusterSample>,
}

/// The result of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterResult {
    /// Where it was measured, with the kernel and Feedline's version.
    pub facts: Facts,
    /// True for the small variant: its figures are not comparable.
    pub quick: bool,
    /// Nodes, each in a network namespace.
    pub nodes: usize,
    /// Files of the data set.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Time to the first byte of the bucket.
    pub latency: String,
    /// Measurements of each row.
    pub rounds: usize,
    /// How long all of it took.
    pub seconds: f64,
    /// The table.
    pub rows: Vec<ClusterRow>,
}

/// Measures, prints the table, writes the JSON.
///
/// # Errors
///
/// If nothing can be measured at all (it needs root and iproute2), a signal came, or a row could not be
/// measured (after all others were). A missed target is a result, not an error.
pub fn run(args: &ClusterArgs) -> Result<ClusterResult> {
    let rows = chosen(args.only.as_deref())?;
    crate::interrupt::watch()?;
    let started = crate::time::now();
    let facts = Facts::collect();
    println!("{}", facts.line());
    let lab = prepare(args)?;
    println!("{NODES} nodes; {} files, {:.0} MB", lab.files, lab.bytes as f64 / 1e6);
    let results = measure_all(&lab, &rows);
    let (files, bytes, rounds) = (lab.files, lab.bytes, lab.rounds);
    drop(lab);
    crate::interrupt::check()?;
    let result = ClusterResult {
        facts,
        quick: args.quick,
        nodes: NODES,
        files,
        bytes,
        latency: args.latency.clone(),
        rounds,
        seconds: started.elapsed().as_secs_f64(),
        rows: results,
    };
    println!("\n{}", table(&result));
    let kind = if result.quick { "quick-cluster" } else { "cluster" };
    let path = write_json(&args.results, &result.facts.stem(kind), &result)?;
    println!("{} ({:.0} s)", path.display(), result.seconds);
    let failed = result.rows.iter().filter(|row| row.error.is_some()).count();
    ensure!(failed == 0, "{failed} rows could not be measured");
    Ok(result)
}

fn chosen(only: Option<&str>) -> Result<Vec<Row>> {
    tables::chosen(&ROWS, |row| row.name, only)
}

/// Group by group. A group that fails leaves the others to be measured; a signal ends all.
fn measure_all(lab: &Lab, rows: &[Row]) -> Vec<ClusterRow> {
    let mut results: Vec<ClusterRow> = Vec::new();
    while let Some(row) = rows.get(results.len()) {
        if crate::interrupt::is_interrupted() {
            break;
        }
        let group = rows[results.len()..].iter().take_while(|other| other.group == row.group);
        let mut samples = Samples::default();
        let error = lab.measure(row.group, &mut samples).err().map(|error| format!("{error:#}"));
        for row in group {
            let result = summary(row, samples.take(row.name), error.clone());
            println!("{}", line(&result));
            results.push(result);
        }
    }
    results
}

fn summary(row: &Row, samples: Vec<ClusterSample>, error: Option<String>) -> ClusterRow {
    let figures: Vec<f64> = samples.iter().map(|sample| sample.figure).collect();
    let figure = median(&figures).filter(|_| error.is_none());
    ClusterRow {
        name: row.name.to_owned(),
        unit: row.unit.to_owned(),
        target: row.target,
        figure,
        met: figure.is_some_and(|figure| row.target.is_met(figure)),
        error,
        samples,
    }
}

/// One row: name, figure, target, verdict, and the note of the last measurement.
fn line(row: &ClusterRow) -> String {
    let verdict = if row.met { "met" } else { "MISSED" };
    let ClusterRow { name, unit, target, .. } = row;
    let note = row.samples.last().map_or("", |sample| &sample.note);
    match row.figure {
        Some(figure) => {
            format!("{name:<22} {figure:>9.4} {unit:<11} {target:>8}  {verdict:<6}  {note}")
        }
        None => {
            let why = row.error.as_deref().unwrap_or("no sample");
            format!("{name:<22} not measured: {why}")
        }
    }
}

fn table(result: &ClusterResult) -> String {
    let lines: Vec<String> = result.rows.iter().map(line).collect();
    let met = result.rows.iter().filter(|row| row.met).count();
    let count = result.rows.len();
    format!(
        "{}\n\n{met} of {count} targets met, median of {} rounds",
        lines.join("\n"),
        result.rounds
    )
}

/// Makes the data set if it is not there yet, and clears what a killed run left.
fn prepare(args: &ClusterArgs) -> Result<Lab> {
    let dir = scratch(&args.dir)?;
    let (name, (images, classes), rounds) =
        if args.quick { ("quick-cluster", QUICK, 1) } else { ("full", FULL, 5) };
    let root = dir.join(name);
    eprintln!("data set in {} (made once, kept for the next run) ...", root.display());
    let bar = progress_bar("images");
    let made = make(&MakeArgs::new(&root.join(groups::BUCKET), images, classes, 1), &bar)?;
    bar.finish_and_clear();
    crate::interrupt::check()?;
    let removals = Removals::below(&dir, made.files)?;
    Ok(Lab {
        removals,
        home: Scratch::new(&dir)?,
        root,
        files: made.files,
        bytes: made.bytes,
        latency: args.latency.clone(),
        rounds: args.rounds.map_or(rounds, |rounds| rounds as usize),
        very_many: if args.quick { MILLION_QUICK } else { MILLION_FULL },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_takes_a_part_of_a_name_and_says_which_there_are() {
        assert_eq!(chosen(Some("killed")).expect("two rows").len(), 2);
        assert_eq!(chosen(None).expect("all").len(), ROWS.len());
        let error = chosen(Some("nothing")).expect_err("no row").to_string();
        assert!(error.contains("fixed-gets") && error.contains("quota-hits"), "{error}");
    }

    #[test]
    fn the_figure_is_the_median_and_an_error_leaves_none() {
        let row = ROWS[0];
        let sample = |figure| ClusterSample { figure, ..ClusterSample::default() };
        let samples = vec![sample(1.0), sample(3.0), sample(1.0005)];
        let done = summary(&row, samples.clone(), None);
        assert_eq!((done.figure, done.met), (Some(1.0005), true));
        let failed = summary(&row, samples, Some("no root".to_owned()));
        assert_eq!((failed.figure, failed.met), (None, false));
        assert!(line(&failed).contains("no root"));
        assert!(line(&summary(&row, Vec::new(), None)).contains("no sample"));
    }
}
