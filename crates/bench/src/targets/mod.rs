//! `feedline bench targets`: the whole target table in one run on this machine, as ratios.
//!
//! Every row is measured several times, the contestants taking turns, and the median of the figures is
//! compared with the target. The bucket is `feedline s3sim` with a cloud's latency. The data sets and
//! the caches lie below one folder on a real file system, which is the yardstick. The data sets stay
//! for the next run; all else is gone when the command ends, however it ends.

mod cold;
pub(crate) mod data;
mod groups;
pub(crate) mod lab;
mod larger;
mod order;
mod restart;
mod rows;
pub(crate) mod sample;
pub(crate) mod system;
mod table;
mod transport;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::caches::Removals;
use crate::facts::Facts;
use crate::loaders::Loader;
use crate::tables::{self, write_json};
use crate::units::median;
use data::{Data, FULL, QUICK};
use groups::{Collector, Lab};
use lab::{Bucket, Scratch};
pub use rows::Target;
use rows::{Cold, Group, Row};
pub use sample::{Contestant, Cost, Requests, Sample};

/// `feedline bench targets`
#[derive(Debug, Clone, clap::Args)]
pub struct TargetsArgs {
    /// Where data sets (kept) and caches (removed) go; needs 45 GB on a real file system
    #[arg(long, default_value = "/var/tmp/feedline-bench", value_name = "DIR")]
    pub dir: PathBuf,
    /// Smaller data and three rounds: shows that everything runs, not how fast
    #[arg(long)]
    pub quick: bool,
    /// Only the row of this name, or rows whose names contain it; several with commas between them
    #[arg(long, value_name = "ROW")]
    pub only: Option<String>,
    /// Measurements of each row [default: 5, with --quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Time to the first byte of the bucket
    #[arg(long, default_value = "25ms")]
    pub latency: String,
    /// Where the JSON goes
    #[arg(long, default_value = "bench/results", value_name = "DIR")]
    pub results: PathBuf,
}

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowResult {
    /// The row.
    pub name: String,
    /// What the figure is a multiple of, or its unit.
    pub unit: String,
    /// How much must be reached; `None` for a row that only explains another.
    pub target: Option<Target>,
    /// The median; `None` if it could not be measured.
    pub figure: Option<f64>,
    /// True if the figure reaches the target; `None` without a target.
    pub met: Option<bool>,
    /// Who was how fast and what else must be known to read the figure.
    pub note: String,
    /// Why it could not be measured.
    pub error: Option<String>,
    /// Every measurement.
    pub samples: Vec<Sample>,
}

/// The result of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TargetsResult {
    /// Where it was measured, with the kernel and Feedline's version.
    pub facts: Facts,
    /// First line of `s3fs --version`.
    pub s3fs: String,
    /// Versions of DALI and torch, if they took part.
    #[serde(default)]
    pub loaders: Vec<String>,
    /// True for the small variant: its figures are not comparable.
    pub quick: bool,
    /// What was read.
    pub data: Data,
    /// Time to the first byte of the bucket.
    pub latency: String,
    /// Measurements of each row.
    pub rounds: usize,
    /// How long all of it took.
    pub seconds: f64,
    /// The table.
    pub rows: Vec<RowResult>,
}

/// Measures, prints the table, writes the JSON.
///
/// # Errors
///
/// If nothing can be measured at all, a signal came, or a row could not be measured (after all others
/// were). A missed target is a result, not an error.
pub fn run(args: &TargetsArgs) -> Result<TargetsResult> {
    let rows = chosen(args.only.as_deref())?;
    crate::interrupt::watch()?;
    let started = crate::time::now();
    let facts = Facts::collect();
    println!("{}", facts.line());
    let (lab, data) = prepare(args)?;
    println!("{}", data.line());
    let results = measure_all(&lab, &rows);
    let rounds = lab.rounds;
    drop(lab);
    crate::interrupt::check()?;
    let result = TargetsResult {
        facts,
        s3fs: s3fs_version(),
        loaders: loaders(&rows),
        quick: args.quick,
        data,
        latency: args.latency.clone(),
        rounds,
        seconds: started.elapsed().as_secs_f64(),
        rows: results,
    };
    println!("\n{}", table::whole(&result));
    let kind = if result.quick { "quick" } else { "targets" };
    let path = write_json(&args.results, &result.facts.stem(kind), &result)?;
    println!("{} ({:.0} s)", path.display(), result.seconds);
    let failed = result.rows.iter().filter(|row| row.error.is_some()).count();
    ensure!(failed == 0, "{failed} rows could not be measured");
    Ok(result)
}

fn chosen(only: Option<&str>) -> Result<Vec<Row>> {
    tables::chosen(&rows::rows(), |row| &row.name, only)
}

/// Group by group. A group that fails leaves the others to be measured; a signal ends all.
fn measure_all(lab: &Lab, rows: &[Row]) -> Vec<RowResult> {
    let mut results: Vec<RowResult> = Vec::new();
    while let Some(row) = rows.get(results.len()) {
        if crate::interrupt::is_interrupted() {
            break;
        }
        let done = results.len();
        let group: Vec<&Row> = rows[done..].iter().take_while(|r| r.group == row.group).collect();
        let progress = |what: &str| {
            let (from, to) = (done + 1, done + group.len());
            eprintln!("[rows {from}-{to} of {}] {}: {what}", rows.len(), names(&group));
        };
        let mut collector = Collector { samples: BTreeMap::new(), progress: &progress };
        let error = lab.measure(row.group, &mut collector).err().map(|error| format!("{error:#}"));
        for row in &group {
            let samples = collector.samples.remove(&row.name).unwrap_or_default();
            let result = summary(row, samples, error.clone());
            println!("{}", table::line(&result));
            results.push(result);
        }
    }
    results
}

fn names(rows: &[&Row]) -> String {
    let mut text = rows[0].name.clone();
    if let [_, .., last] = rows {
        text = format!("{text} to {}", last.name);
    }
    text
}

fn summary(row: &Row, samples: Vec<Sample>, error: Option<String>) -> RowResult {
    let figures: Vec<f64> = samples.iter().map(|sample| sample.figure).collect();
    let figure = median(&figures).filter(|_| error.is_none());
    let met = row.target.map(|target| figure.is_some_and(|figure| target.is_met(figure)));
    RowResult {
        name: row.name.clone(),
        unit: row.unit.to_owned(),
        target: row.target,
        figure,
        met,
        note: table::note(row, &samples),
        error,
        samples,
    }
}

/// Makes the data sets that are not there yet, clears what a killed run left, and starts the bucket.
fn prepare(args: &TargetsArgs) -> Result<(Lab, Data)> {
    let dir = scratch(&args.dir)?;
    let (sizes, rounds, name) = if args.quick { (QUICK, 3, "quick") } else { (FULL, 5, "full") };
    let root = dir.join(name);
    eprintln!("data sets in {} (made once, kept for the next run) ...", root.display());
    let data = data::make_all(&root, &sizes)?;
    let removals = Removals::below(&dir, data.files)?;
    let home = Scratch::new(&dir)?;
    let bucket = Bucket::start(&root, &["--latency", &args.latency])?;
    let lab = Lab {
        home,
        bucket,
        root,
        files: data.files,
        bytes: data.bytes,
        folders: data.folders,
        latency: args.latency.clone(),
        removals,
        rounds: args.rounds.map_or(rounds, |rounds| rounds as usize),
    };
    Ok((lab, data))
}

/// Makes the folder for data sets and caches, without what a killed run left in it.
pub(crate) fn scratch(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    // Mounts are looked up by the path that the kernel shows.
    let dir = dir.canonicalize().with_context(|| format!("find {}", dir.display()))?;
    clear_leftovers(&dir)?;
    Ok(dir)
}

/// Removes the scratch of runs that were killed; one that still runs is left alone.
fn clear_leftovers(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(pid) = name.strip_prefix("run-").filter(|pid| pid.parse::<u32>().is_ok()) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            lab::detach(&path);
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn loaders(rows: &[Row]) -> Vec<String> {
    let take_part = rows.iter().any(|row| row.group == Group::Cold(Cold::Loaders));
    let all = [Loader::Dali, Loader::Torch].iter().filter(|_| take_part);
    all.filter_map(|loader| loader.version().ok()).collect()
}

fn s3fs_version() -> String {
    let output = std::process::Command::new("s3fs").arg("--version").output();
    output.map_or_else(
        |_| "not installed".to_owned(),
        |output| {
            String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_takes_a_part_of_a_name_and_says_which_there_are() {
        assert_eq!(chosen(Some("walk")).expect("two rows").len(), 2);
        assert_eq!(chosen(Some("dropped-none")).expect("no large row").len(), 1);
        assert_eq!(chosen(Some("dropped-none, walk")).expect("three rows").len(), 3);
        let error = chosen(Some("walk,nothing")).expect_err("no row").to_string();
        assert!(
            error.contains("\"nothing\"")
                && error.contains("hot-passthrough")
                && error.contains("walk-first"),
            "{error}"
        );
    }

    #[test]
    fn scratch_of_a_killed_run_is_removed_and_that_of_a_living_one_is_not() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let own = dir.path().join(format!("run-{}", std::process::id()));
        // Above the kernel's greatest pid.
        let dead = dir.path().join("run-4194305");
        for folder in [&own, &dead, &dir.path().join("full"), &dir.path().join("run-of-mine")] {
            fs::create_dir_all(folder.join("cache")).expect("created");
        }
        clear_leftovers(dir.path()).expect("cleared");
        assert!(own.exists() && !dead.exists());
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 3);
    }

    #[test]
    fn the_figure_is_the_median_and_an_error_leaves_none() {
        let row = chosen(Some("hot-passthrough")).expect("one row").remove(0);
        let sample = |figure| Sample { figure, contestants: Vec::new() };
        let samples = vec![sample(0.4), sample(0.9), sample(0.6)];
        let done = summary(&row, samples.clone(), None);
        assert_eq!((done.figure, done.met), (Some(0.6), Some(true)));
        let failed = summary(&row, samples, Some("no disk".to_owned()));
        assert_eq!((failed.figure, failed.met), (None, Some(false)));
        assert!(table::line(&failed).contains("no disk"));
    }
}
