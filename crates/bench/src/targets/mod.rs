//! `feedline bench targets`: the whole target table in one run on this machine, as ratios.
//!
//! Every scenario is measured several times, ours and the yardstick alternating, and the median of
//! the figures is compared with the target. The bucket is `feedline s3sim` with a cloud's latency.
//! The data sets and the caches lie below one folder on a real file system, which is the yardstick.

mod lab;
mod rows;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::dataset::{MakeArgs, make};
use crate::facts::Facts;
use crate::units::median;
use lab::Bucket;
use rows::{Lab, SCENARIOS, Scenario};
pub use rows::{Sample, Target};

/// `feedline bench targets`
#[derive(Debug, Clone, clap::Args)]
pub struct TargetsArgs {
    /// Where data sets and caches go; needs 20 GB and a real file system (not tmpfs, not overlayfs)
    #[arg(long, default_value = "/var/tmp/feedline-bench", value_name = "DIR")]
    pub dir: PathBuf,
    /// Smaller data and three rounds: shows that everything runs, not how fast
    #[arg(long)]
    pub quick: bool,
    /// Only rows whose name contains this
    #[arg(long, value_name = "ROW")]
    pub only: Option<String>,
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
    /// The scenario.
    pub name: String,
    /// What the figure is.
    pub figure_of: String,
    /// How much must be reached.
    pub target: Target,
    /// The median; `None` if it could not be measured.
    pub figure: Option<f64>,
    /// True if the figure reaches the target.
    pub met: bool,
    /// Why it could not be measured.
    pub error: Option<String>,
    /// Every measurement.
    pub samples: Vec<Sample>,
}

/// The result of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TargetsResult {
    /// Where it was measured.
    pub facts: Facts,
    /// First line of `s3fs --version`.
    pub s3fs: String,
    /// True for the small variant: its figures are not comparable.
    pub quick: bool,
    /// The table.
    pub rows: Vec<RowResult>,
}

/// How large everything is.
struct Sizes {
    images: usize,
    classes: usize,
    large_bytes: u64,
    many: usize,
    s3fs_files: usize,
    rounds: usize,
}

const FULL: Sizes = Sizes {
    images: 20_000,
    classes: 100,
    large_bytes: 2 << 30,
    many: 100_000,
    s3fs_files: 500,
    rounds: 5,
};
const QUICK: Sizes = Sizes {
    images: 1_000,
    classes: 20,
    large_bytes: 128 << 20,
    many: 5_000,
    s3fs_files: 100,
    rounds: 3,
};

/// Measures, prints the table, writes the JSON.
///
/// # Errors
///
/// If nothing can be measured at all, or a row could not be (after all others were). A missed target is
/// a result, not an error.
pub fn run(args: &TargetsArgs) -> Result<TargetsResult> {
    let scenarios: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|row| args.only.as_deref().is_none_or(|only| row.name.contains(only)))
        .collect();
    if scenarios.is_empty() {
        let names: Vec<&str> = SCENARIOS.iter().map(|row| row.name).collect();
        bail!("--only matches no row; there are {}", names.join(", "));
    }
    let sizes = if args.quick { QUICK } else { FULL };
    let facts = Facts::collect();
    println!("{}", facts.line());
    let mut lab = prepare(args, &sizes)?;
    let mut rows = Vec::new();
    for scenario in scenarios {
        let row = measure(&mut lab, scenario, sizes.rounds);
        println!("{}", line(&row));
        rows.push(row);
    }
    let home = lab.home.clone();
    drop(lab);
    fs::remove_dir_all(&home).with_context(|| format!("remove {}", home.display()))?;
    let result = TargetsResult { facts, s3fs: s3fs_version(), quick: args.quick, rows };
    let path = args.results.join(format!(
        "targets-{}-{}.json",
        result.facts.unix_seconds,
        result.facts.commit.trim_end_matches('+')
    ));
    fs::create_dir_all(&args.results)
        .and_then(|()| fs::write(&path, serde_json::to_string_pretty(&result)? + "\n"))
        .with_context(|| format!("write {}", path.display()))?;
    println!("{}", path.display());
    let failed = result.rows.iter().filter(|row| row.error.is_some()).count();
    anyhow::ensure!(failed == 0, "{failed} rows could not be measured");
    Ok(result)
}

fn measure(lab: &mut Lab, scenario: &Scenario, rounds: usize) -> RowResult {
    let mut samples = Vec::new();
    let mut error = None;
    for round in 0..rounds {
        match lab.measure(scenario, round) {
            Ok(sample) => samples.push(sample),
            Err(cause) => {
                error = Some(format!("{cause:#}"));
                break;
            }
        }
    }
    let figures: Vec<f64> = samples.iter().map(|sample| sample.figure).collect();
    let figure = median(&figures).filter(|_| error.is_none());
    RowResult {
        name: scenario.name.to_owned(),
        figure_of: scenario.figure.to_owned(),
        target: scenario.target,
        figure,
        met: figure.is_some_and(|figure| scenario.target.is_met(figure)),
        error,
        samples,
    }
}

fn line(row: &RowResult) -> String {
    let target = match row.target {
        Target::AtLeast(least) => format!(">= {least}"),
        Target::AtMost(most) => format!("<= {most}"),
    };
    let verdict = if row.met { "met" } else { "MISSED" };
    match (&row.figure, &row.error) {
        (Some(figure), _) => {
            format!("{:<26} {figure:>9.2} {:<11} {target:>8}  {verdict}", row.name, row.figure_of)
        }
        (None, error) => {
            let why = error.as_deref().unwrap_or("no sample");
            format!("{:<26} not measured: {why}", row.name)
        }
    }
}

/// Makes the data sets that are not there yet, and starts the bucket.
fn prepare(args: &TargetsArgs, sizes: &Sizes) -> Result<Lab> {
    let name = if args.quick { "quick" } else { "full" };
    let root = args.dir.join(name);
    let small = root.join("small");
    let bar: ProgressBar = crate::dataset::progress_bar("images");
    let made = make(&MakeArgs::new(&small, sizes.images, sizes.classes, 1), &bar)?;
    bar.finish_and_clear();
    make_large(&root.join("large"), sizes.large_bytes)?;
    make_many(&root.join("many"), sizes.many)?;
    let home = args.dir.join(format!("run-{}", std::process::id()));
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    Ok(Lab {
        bucket: Bucket::start(&root, &args.latency)?,
        root,
        home,
        files: made.files,
        folders: sizes.classes as u64,
        s3fs_files: sizes.s3fs_files,
        next_home: 0,
    })
}

/// One file of noise that no disk compresses.
fn make_large(folder: &std::path::Path, bytes: u64) -> Result<()> {
    use std::io::Write;
    let path = folder.join("large.bin");
    if fs::metadata(&path).is_ok_and(|found| found.len() == bytes) {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(&path)?);
        let mut random = crate::dataset::Random::new(1, 2);
        for _ in 0..bytes / 8 {
            file.write_all(&random.next().to_le_bytes())?;
        }
        file.flush()
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Small files in folders of a thousand, for walks.
fn make_many(folder: &std::path::Path, files: usize) -> Result<()> {
    let last =
        folder.join(format!("d{:03}", (files - 1) / 1_000)).join(format!("{:06}", files - 1));
    if last.exists() {
        return Ok(());
    }
    for index in 0..files {
        let parent = folder.join(format!("d{:03}", index / 1_000));
        if index.is_multiple_of(1_000) {
            fs::create_dir_all(&parent).with_context(|| format!("create {}", parent.display()))?;
        }
        let path = parent.join(format!("{index:06}"));
        fs::write(&path, index.to_string()).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
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
