//! `feedline bench compare`: any systems, any clients, any bucket, from one config file.
//!
//! Clients read the same files through each system in turn, over several rounds; every figure is the
//! median of the rounds, and a ratio is the median of the rounds' ratios. Whoever read another number of
//! files or bytes than the others ends the comparison with an error: speeds of unequal work say nothing.
//! What is not installed is named in the result and left out. A signal ends the comparison; the rounds that had ended
//! are written all the same, marked as a part.

mod config;
mod page;
mod stage;
mod timeline;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

pub use config::{
    BucketShape, Client, ClientKind, Config, DataSet, State, SystemConfig, SystemKind,
};
pub use timeline::Point;

use crate::facts::Facts;
use crate::tables::write_json;
use crate::targets::{Contestant, Requests};
use crate::units::{Latency, median};
use stage::Stage;

/// `feedline bench compare`
#[derive(Debug, Clone, clap::Args)]
pub struct CompareArgs {
    /// What to compare; bench/configs has examples
    pub config: PathBuf,
    /// Rounds, in place of the config's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Fail if anything that the config names is not installed
    #[arg(long)]
    pub strict: bool,
    /// Where data sets (kept) and caches (removed) go: a real file system
    #[arg(long, default_value = "/var/tmp/feedline-bench", value_name = "DIR")]
    pub dir: PathBuf,
    /// Where the JSON and the page go
    #[arg(long, default_value = "bench/results", value_name = "DIR")]
    pub results: PathBuf,
}

/// One epoch of one system and client, over all rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EpochResult {
    /// What the page cache held before.
    pub state: State,
    /// Images or files a second, the median.
    pub files_per_s: f64,
    /// Over the baseline's, the median of the rounds' ratios; `None` without a baseline's figure.
    pub to_baseline: Option<f64>,
    /// Requests to the bucket for each file, the median.
    pub requests_per_file: f64,
    /// Each round: what was read and what it cost.
    pub rounds: Vec<Contestant>,
    /// Waits for a batch, by round, for loaders that have batches.
    pub batch_waits: Vec<Latency>,
}

/// One system with one client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaseResult {
    /// The client, with its readers.
    pub client: String,
    /// Reader threads of a native client or fio.
    pub readers: Option<usize>,
    /// What the client's p50 and p99 are the time of.
    pub latency_of: String,
    /// The system.
    pub system: String,
    /// One after the other.
    pub epochs: Vec<EpochResult>,
    /// The first epoch of the first round, moment by moment.
    pub timeline: Vec<Point>,
}

/// Named in the config, and not there or not to be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Client or system.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// A copy of the data set that a system needs before it can serve anything; part of no figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Import {
    /// The program that has it now.
    pub into: String,
    /// How long it took.
    pub seconds: f64,
    /// What the bucket was asked: the data set read, and the copy written (`other`).
    pub requests: Requests,
}

/// The result of a run; the page is drawn from it alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompareResult {
    /// Where it was measured.
    pub facts: Facts,
    /// Versions of everything that took part.
    pub versions: BTreeMap<String, String>,
    /// What was asked.
    pub config: Config,
    /// Files of the data set.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// A signal came: only the rounds that had ended by then are here.
    #[serde(default)]
    pub partial: bool,
    /// Not installed.
    pub left_out: Vec<LeftOut>,
    /// What JuiceFS needed before the first round.
    pub import: Option<Import>,
    /// How long all of it took.
    pub seconds: f64,
    /// Every client with every system.
    pub cases: Vec<CaseResult>,
}

/// Measures, prints the table, writes JSON and page.
///
/// # Errors
///
/// If the config makes no sense, something could not be measured (after all else was, and was written), the
/// work was unequal, a signal came (what was measured by then is written), or, with `--strict`, something is
/// not installed.
pub fn run(args: &CompareArgs) -> Result<CompareResult> {
    let mut config = Config::read(&args.config)?;
    if let Some(rounds) = args.rounds {
        config.rounds = rounds as usize;
    }
    let (versions, mut left_out) = take_stock(&mut config);
    for LeftOut { name, reason } in &left_out {
        ensure!(!args.strict, "{name}: {reason}");
        eprintln!("left out: {name}: {reason}");
    }
    ensure!(!config.client.is_empty() && !config.system.is_empty(), "nothing is left to compare");
    crate::interrupt::watch()?;
    let (started, facts) = (crate::time::now(), Facts::collect());
    println!("{}", facts.line());
    let stage = Stage::prepare(&config, &args.dir)?;
    let Measured { rounds, failed, is_partial: partial } = stage.measure(&config)?;
    let (files, bytes, import) = (stage.files, stage.bytes, stage.import.clone());
    drop(stage);
    ensure!(
        !partial || !rounds.is_empty(),
        "interrupted before a round had ended: nothing is written"
    );
    let cases = add_up(&config, rounds)?;
    left_out.extend(failed.iter().cloned());
    let seconds = started.elapsed().as_secs_f64();
    let result = CompareResult {
        facts,
        versions,
        config,
        files,
        bytes,
        partial,
        left_out,
        import,
        seconds,
        cases,
    };
    println!("{}", page::text(&result));
    let mut name = args.config.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if partial {
        name += "-partial";
    }
    write(&args.results, &name, &result)?;
    ensure!(!partial, "interrupted: the rounds that had ended are written, as a part");
    ensure!(failed.is_empty(), "{} cases could not be measured", failed.len());
    Ok(result)
}

/// JSON and page, beside each other.
fn write(folder: &Path, name: &str, result: &CompareResult) -> Result<()> {
    let json = write_json(folder, &result.facts.stem(name), result)?;
    let html = json.with_extension("html");
    fs::write(&html, page::html(result)).with_context(|| format!("write {}", html.display()))?;
    for path in [json, html] {
        println!("{}", path.display());
    }
    Ok(())
}

/// Takes what is not installed out of `config`, and says which version the rest has.
fn take_stock(config: &mut Config) -> (BTreeMap<String, String>, Vec<LeftOut>) {
    let mut versions = BTreeMap::new();
    let mut left_out = Vec::new();
    versions.insert("feedline".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let mut keep = |name: &str, version: Result<String>| match version {
        Ok(version) => {
            versions.insert(name.to_owned(), version);
            true
        }
        Err(error) => {
            let gone = LeftOut { name: name.to_owned(), reason: format!("{error:#}") };
            if !left_out.contains(&gone) {
                left_out.push(gone);
            }
            false
        }
    };
    config.client.retain(|client| match client.loader() {
        None if client.kind == ClientKind::Fio => keep("fio", program_version("fio".as_ref())),
        None => true,
        Some(loader) => keep(&format!("{loader:?}").to_lowercase(), loader.version()),
    });
    config.system.retain(|system| match system.kind {
        SystemKind::Ext4 | SystemKind::Feedline | SystemKind::Http => true,
        SystemKind::S3fs => keep(&system.name, program_version("s3fs".as_ref())),
        SystemKind::Rclone => keep(&system.name, program_version("rclone".as_ref())),
        SystemKind::Juicefs => keep(&system.name, program_version(&crate::juicefs::program())),
    });
    (versions, left_out)
}

/// The first line of what a program says of itself.
fn program_version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").env_remove("AWS_CA_BUNDLE").output();
    let program = program.display();
    let output =
        output.with_context(|| format!("{program} is not installed: run scripts/setup loaders"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next().filter(|_| output.status.success());
    Ok(line.with_context(|| format!("{program} --version fails"))?.to_owned())
}

/// What one epoch of one round measured.
#[derive(Debug, Clone)]
struct Sample {
    contestant: Contestant,
    batch_wait: Option<Latency>,
}

/// What is measured: a client, with its number of readers, and a system.
#[derive(Debug, Clone)]
struct Key {
    client: String,
    readers: Option<usize>,
    latency_of: &'static str,
    system: String,
}

/// Every epoch of a case in one round, and the moments of its first.
#[derive(Debug, Default)]
struct Round {
    epochs: Vec<Sample>,
    timeline: Vec<Point>,
}

/// Rounds by case, in the order of the config.
type Rounds = Vec<(Key, Vec<Round>)>;

/// What there is after the last round, or after a signal.
#[derive(Debug, Default)]
struct Measured {
    /// Those that have ended, of each case that has any.
    rounds: Rounds,
    /// Cases that could not be measured: no round of them counts.
    failed: Vec<LeftOut>,
    /// Some are missing since a signal came.
    is_partial: bool,
}

/// Medians and ratios. Refuses unequal work.
fn add_up(config: &Config, rounds: Rounds) -> Result<Vec<CaseResult>> {
    refuse_unequal_work(&rounds)?;
    ensure!(!rounds.is_empty(), "nothing could be measured");
    let last = config.system.last().map(|system| system.name.clone()).unwrap_or_default();
    let baseline = config.baseline.clone().unwrap_or(last);
    let speeds = |client: &str, epoch: usize| -> Option<Vec<f64>> {
        let of = |(key, _): &&(Key, Vec<Round>)| key.client == client && key.system == baseline;
        let (_, rounds) = rounds.iter().find(of)?;
        rounds.iter().map(|round| Some(round.epochs.get(epoch)?.contestant.files_per_s())).collect()
    };
    let mut cases = Vec::new();
    for (Key { client, readers, latency_of, system }, own) in &rounds {
        let epochs = config.epochs.iter().enumerate().map(|(number, state)| {
            let samples: Vec<&Sample> =
                own.iter().filter_map(|round| round.epochs.get(number)).collect();
            summary(*state, &samples, speeds(client, number))
        });
        cases.push(CaseResult {
            client: client.clone(),
            readers: *readers,
            latency_of: (*latency_of).to_owned(),
            system: system.clone(),
            epochs: epochs.collect(),
            timeline: own.first().map(|round| round.timeline.clone()).unwrap_or_default(),
        });
    }
    Ok(cases)
}

fn summary(state: State, samples: &[&Sample], baseline: Option<Vec<f64>>) -> EpochResult {
    let of = |figure: &dyn Fn(&Contestant) -> f64| {
        let values: Vec<f64> = samples.iter().map(|sample| figure(&sample.contestant)).collect();
        median(&values).unwrap_or_default()
    };
    let ratios = baseline.map(|baseline| {
        let pairs = samples.iter().zip(&baseline).filter(|(_, theirs)| **theirs > 0.0);
        let ratios: Vec<f64> =
            pairs.map(|(sample, theirs)| sample.contestant.files_per_s() / theirs).collect();
        median(&ratios)
    });
    EpochResult {
        state,
        files_per_s: of(&Contestant::files_per_s),
        to_baseline: ratios.flatten(),
        requests_per_file: of(&Contestant::requests_per_file),
        rounds: samples.iter().map(|sample| sample.contestant.clone()).collect(),
        batch_waits: samples.iter().filter_map(|sample| sample.batch_wait).collect(),
    }
}

/// An error that names both if two systems read different numbers of files or bytes with one client.
fn refuse_unequal_work(rounds: &Rounds) -> Result<()> {
    let work = |sample: &Sample| {
        sample.contestant.pass.as_ref().map_or((0, 0), |pass| (pass.files, pass.bytes))
    };
    let mut first: BTreeMap<&str, (&str, (u64, u64))> = BTreeMap::new();
    for (Key { client, system, .. }, own) in rounds {
        for sample in own.iter().flat_map(|round| &round.epochs) {
            let (other, expected) = *first.entry(client).or_insert((system, work(sample)));
            let (files, bytes) = work(sample);
            if (files, bytes) != expected {
                bail!(
                    "unequal work cannot be compared: {client} read {files} files of {bytes} bytes through \
                     {system}, and {} of {} through {other}",
                    expected.0,
                    expected.1
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Pass;

    fn round(files: u64, files_per_s: f64) -> Round {
        let pass = Some(Pass { files, bytes: 10 * files, files_per_s, ..Pass::default() });
        let contestant = Contestant { pass, ..Contestant::default() };
        Round { epochs: vec![Sample { contestant, batch_wait: None }], timeline: Vec::new() }
    }

    fn key(system: &str) -> Key {
        Key {
            client: "native, 8 readers".to_owned(),
            readers: Some(8),
            latency_of: "a file",
            system: system.to_owned(),
        }
    }

    fn config() -> Config {
        let text = "title = 't'\nepochs = ['cold']\nbaseline = 'b'\n[data]\nfiles = 10\nclasses = 2\n\
            [bucket]\nlatency = '25ms'\n[[client]]\nkind = 'native'\n[[system]]\nname = 'a'\n\
            kind = 'feedline'\n[[system]]\nname = 'b'\nkind = 'ext4'\n";
        Config::parse(text).expect("a config")
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios() {
        let rounds = vec![
            (key("a"), vec![round(10, 30.0), round(10, 80.0), round(10, 50.0)]),
            (key("b"), vec![round(10, 10.0), round(10, 20.0), round(10, 50.0)]),
        ];
        let cases = add_up(&config(), rounds).expect("equal work");
        assert_eq!(cases[0].epochs[0].files_per_s, 50.0);
        assert_eq!(cases[0].epochs[0].to_baseline, Some(3.0));
        assert_eq!(cases[1].epochs[0].to_baseline, Some(1.0));
    }

    #[test]
    fn unequal_work_is_refused_and_both_are_named() {
        let rounds = vec![(key("a"), vec![round(10, 30.0)]), (key("b"), vec![round(9, 10.0)])];
        let error = add_up(&config(), rounds).expect_err("refused").to_string();
        assert!(error.contains("through b") && error.contains("through a"), "{error}");
    }
}
