//! One comparison as a value: which systems, which clients, what they read, from what kind of bucket.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::loaders::Loader;
use crate::train::Decode;

/// A config file as written. Unknown names are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The heading of the report.
    pub title: String,
    /// Rounds; the median of each figure counts.
    #[serde(default = "three")]
    pub rounds: usize,
    /// Epochs, by the state of the page cache before each; the first begins with an empty cache on disk.
    #[serde(default = "all_states")]
    pub epochs: Vec<State>,
    /// The system that ratios are to; the last one if none is named.
    pub baseline: Option<String>,
    /// What is read.
    pub data: DataSet,
    /// Where it is read from.
    pub bucket: BucketShape,
    /// Who reads.
    pub client: Vec<Client>,
    /// Through what.
    pub system: Vec<SystemConfig>,
}

/// What the kernel holds when an epoch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing, and the system's own cache is empty. Only the first epoch can be it.
    Cold,
    /// Nothing: its caches were dropped.
    Dropped,
    /// What the epoch before left.
    Hot,
    /// What the epoch before left of the system's own cache on disk: its daemon ended and was started again, with
    /// the reader. What has no daemon has nothing to lose.
    Restart,
}

/// JPEGs made from a seed; made once and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSet {
    /// How many.
    pub files: usize,
    /// Class folders.
    pub classes: usize,
    /// Mean size in bytes; the smallest is a fifth of it, the largest four times as large, as far as
    /// images can be made (8 to 700 KB).
    #[serde(default = "mean_bytes")]
    pub mean_bytes: u64,
}

/// How the bucket answers: options of `feedline s3sim`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketShape {
    /// Median time to the first byte, such as `25ms`.
    pub latency: String,
    /// Bandwidth of all connections together, such as `250MB/s`; none without a cap.
    pub bandwidth: Option<String>,
    /// More flags of `feedline s3sim`.
    #[serde(default)]
    pub flags: Vec<String>,
}

/// What reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Which program.
    pub kind: ClientKind,
    /// `native`, `fio`: reader threads; each number is measured.
    #[serde(default = "eight")]
    pub readers: Vec<usize>,
    /// `dali`, `torch`: what happens to a file.
    #[serde(default = "decode")]
    pub decode: Decode,
    /// `dali`, `torch`: processes, each with a shard.
    #[serde(default = "two")]
    pub processes: usize,
    /// `dali`: threads of each process. `torch`: its DataLoader's workers.
    #[serde(default = "one")]
    pub workers: usize,
    /// `dali`, `torch`: images in a batch.
    #[serde(default = "batch")]
    pub batch_size: usize,
    /// `dali`, `torch`: pause after a batch.
    #[serde(default)]
    pub step_ms: u64,
    /// `dali`: read files instead of mapping them.
    #[serde(default)]
    pub no_mmap: bool,
}

/// The programs that read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKind {
    /// `feedline bench read`: threads read whole files in random order.
    Native,
    /// Real DALI.
    Dali,
    /// Real torch.
    Torch,
    /// fio: threads read whole files in random order, each its share.
    Fio,
}

impl Client {
    /// The real loader behind it.
    #[must_use]
    pub fn loader(&self) -> Option<Loader> {
        match self.kind {
            ClientKind::Native | ClientKind::Fio => None,
            ClientKind::Dali => Some(Loader::Dali),
            ClientKind::Torch => Some(Loader::Torch),
        }
    }

    /// As tables name it, with so many readers.
    #[must_use]
    pub fn name(&self, readers: usize) -> String {
        let Some(loader) = self.loader() else {
            let name = if self.kind == ClientKind::Fio { "fio" } else { "native" };
            return format!("{name}, {readers} readers");
        };
        let Self { processes, workers, .. } = self;
        let name = match loader {
            Loader::Dali => "DALI",
            Loader::Torch => "torch",
        };
        let decode = if self.decode == Decode::Jpeg { "decoding" } else { "only reading" };
        let mmap = if self.no_mmap { ", no mmap" } else { "" };
        format!("{name}, {processes} processes x {workers} workers, {decode}{mmap}")
    }

    /// What its p50 and p99 are the time of: clients show different things.
    #[must_use]
    pub fn latency_of(&self) -> &'static str {
        match (self.kind, self.decode) {
            (ClientKind::Native, _) => "open, read and close of a file",
            (ClientKind::Fio, _) => "one read(2) of a whole file, without open and close",
            (ClientKind::Dali, _) => "the wait for a batch",
            (ClientKind::Torch, Decode::None) => "open, read and close of a file",
            (ClientKind::Torch, _) => "open, read and decoding of a file",
        }
    }
}

/// What stands between client and bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemConfig {
    /// As tables name it; for Feedline, what stands behind `feedline`.
    pub name: String,
    /// Which program.
    pub kind: SystemKind,
    /// `feedline`, `juicefs`: more flags of its `mount`.
    #[serde(default)]
    pub flags: Vec<String>,
    /// `s3fs`, `rclone`, `juicefs`: with its disk cache.
    #[serde(default = "yes")]
    pub cached: bool,
    /// `http`: connections; the best of them is measured.
    #[serde(default = "connections")]
    pub connections: Vec<usize>,
}

/// The programs in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemKind {
    /// The same files on the local file system.
    Ext4,
    /// `feedline mount`.
    Feedline,
    /// s3fs, tuned for reading.
    S3fs,
    /// rclone mount, tuned for reading.
    Rclone,
    /// JuiceFS, tuned for reading, over an import of the data set.
    Juicefs,
    /// None: a bare HTTP client in place of the native client.
    Http,
}

fn three() -> usize {
    3
}
fn two() -> usize {
    2
}
fn one() -> usize {
    1
}
fn batch() -> usize {
    256
}
fn yes() -> bool {
    true
}
fn eight() -> Vec<usize> {
    vec![8]
}
fn decode() -> Decode {
    Decode::Jpeg
}
fn mean_bytes() -> u64 {
    110_000
}
fn connections() -> Vec<usize> {
    vec![16, 64, 128, 256]
}
fn all_states() -> Vec<State> {
    vec![State::Cold, State::Dropped, State::Hot]
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// Names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Checks a file's text.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        ensure!(!config.client.is_empty(), "there is no [[client]]");
        ensure!(!config.system.is_empty(), "there is no [[system]]");
        ensure!((1..=100).contains(&config.rounds), "rounds is from 1 to 100");
        ensure!(config.data.files >= config.data.classes, "a class folder needs a file");
        ensure!(config.data.classes > 0, "it takes a class folder");
        let first = config.epochs.first().context("epochs is empty")?;
        ensure!(*first == State::Cold, "the first epoch is cold: its cache is empty");
        let again = config.epochs.iter().filter(|state| **state == State::Cold).count() > 1;
        ensure!(!again, "only the first epoch can be cold");
        let mut names: Vec<&str> = config.system.iter().map(|one| one.name.as_str()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        ensure!(names.len() == count, "two systems have the same name");
        if let Some(baseline) = &config.baseline {
            ensure!(names.contains(&baseline.as_str()), "the baseline {baseline} is no system");
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "title = 't'\n[data]\nfiles = 10\nclasses = 2\n[bucket]\nlatency = '25ms'\n\
        [[client]]\nkind = 'native'\n[[system]]\nname = 'a'\nkind = 'feedline'\nflags = ['--fill', 'off']\n";

    #[test]
    fn what_is_not_written_has_the_usual_value() {
        let config = Config::parse(TEXT).expect("a config");
        assert_eq!((config.rounds, config.epochs.len()), (3, 3));
        assert_eq!(config.client[0].readers, [8]);
        assert_eq!(config.system[0].flags, ["--fill", "off"]);
    }

    #[test]
    fn fio_is_named_with_its_readers_and_what_it_times() {
        let config = Config::parse(&TEXT.replace("'native'", "'fio'")).expect("a config");
        let client = &config.client[0];
        assert_eq!(client.name(8), "fio, 8 readers");
        assert!(client.latency_of().contains("one read"), "{}", client.latency_of());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let refused = |from: &str, to: &str| {
            format!("{:#}", Config::parse(&TEXT.replacen(from, to, 1)).expect_err("refused"))
        };
        assert!(refused("files = 10", "files = 1").contains("class folder"));
        assert!(refused("title", "speed = 1\ntitle").contains("speed"));
        assert!(refused("title", "epochs = ['hot']\ntitle").contains("first epoch"));
        assert!(refused("title", "epochs = ['cold', 'cold']\ntitle").contains("only the first"));
        assert!(refused("title", "baseline = 'b'\ntitle").contains("no system"));
    }

    #[test]
    fn the_configs_of_the_repository_are_ones() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/configs");
        let mut found = 0;
        for entry in fs::read_dir(folder).expect("listed") {
            Config::read(&entry.expect("an entry").path()).expect("a config");
            found += 1;
        }
        assert!(found >= 5, "{found} configs");
    }
}
