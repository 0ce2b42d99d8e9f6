//! Real training loaders, DALI and torch, run with the reference scripts of `bench/`.
//!
//! The scripts are part of this program and are written out beside the other scratch files when they
//! run. Each keeps its processes over all epochs and waits before each one, so that caches can be
//! dropped and counters read in between.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::read::Pass;
use crate::targets::lab::{end_process, last_lines, spawn};
use crate::train::Decode;
use crate::units::{Latency, rate};

/// The scripts, by name.
const SCRIPTS: [(&str, &str); 3] = [
    ("training.py", include_str!("../../../bench/training.py")),
    ("dali_train.py", include_str!("../../../bench/dali_train.py")),
    ("torch_train.py", include_str!("../../../bench/torch_train.py")),
];

/// Which loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loader {
    /// NVIDIA's, on the CPU.
    Dali,
    /// torch's DataLoader over torchvision's ImageFolder.
    Torch,
}

impl Loader {
    fn script(self) -> &'static str {
        match self {
            Self::Dali => "dali_train.py",
            Self::Torch => "torch_train.py",
        }
    }

    /// The Python that has it: what `FEEDLINE_DALI_PYTHON` or `FEEDLINE_TORCH_PYTHON` names, else where
    /// `scripts/setup loaders` puts it.
    fn python(self) -> PathBuf {
        let (variable, usual) = match self {
            Self::Dali => ("FEEDLINE_DALI_PYTHON", ".venv-dali/bin/python"),
            Self::Torch => ("FEEDLINE_TORCH_PYTHON", "/usr/bin/python3"),
        };
        std::env::var_os(variable).map_or_else(|| PathBuf::from(usual), PathBuf::from)
    }

    /// Its version, and that of what it takes its images from.
    ///
    /// # Errors
    ///
    /// If it is not installed; says how to install it.
    pub fn version(self) -> Result<String> {
        let (name, code) = match self {
            Self::Dali => ("DALI", "import nvidia.dali as d; print('DALI', d.__version__)"),
            Self::Torch => (
                "torch with torchvision",
                "import torch as t, torchvision as v; \
                 print(f'torch {t.__version__}, torchvision {v.__version__}')",
            ),
        };
        let python = self.python();
        let output = Command::new(&python).args(["-c", code]).output();
        let found = output.ok().filter(|output| output.status.success()).with_context(|| {
            format!("{name} is not installed for {}: run scripts/setup loaders", python.display())
        })?;
        Ok(String::from_utf8_lossy(&found.stdout).trim().to_owned())
    }
}

/// What a loader does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Job {
    pub(crate) loader: Loader,
    pub(crate) decode: Decode,
    /// Processes, each with a shard.
    pub(crate) processes: usize,
    /// Threads (DALI) or workers (torch) of each.
    pub(crate) workers: usize,
    pub(crate) batch_size: usize,
    /// The pause that stands in for a training step.
    pub(crate) step_ms: u64,
    /// DALI reads files instead of mapping them.
    pub(crate) no_mmap: bool,
}

/// What a script says after an epoch.
#[derive(Debug, Clone, Deserialize)]
struct Epoch {
    images: u64,
    bytes: u64,
    seconds: f64,
    cpu_seconds: f64,
    batch_wait: Latency,
    file: Option<Latency>,
}

/// A loader that waits for its next epoch. Dropping it ends its processes.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Running {
    /// Starts `job` on the class folders of `dir`, for at most `epochs`; `home` is for its files. Returns
    /// when every process has imported what it needs.
    pub(crate) fn start(job: &Job, dir: &Path, epochs: usize, home: &Path) -> Result<Self> {
        job.loader.version()?;
        for (name, text) in SCRIPTS {
            let path = home.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        let log = home.join("loader.log");
        let mut command = Command::new(job.loader.python());
        command.arg(home.join(job.loader.script())).arg(dir).arg("--stdin");
        for (flag, value) in [
            ("--epochs", epochs),
            ("--process", job.processes),
            ("--workers", job.workers),
            ("--batch-size", job.batch_size),
        ] {
            command.arg(flag).arg(value.to_string());
        }
        let decode = if job.decode == Decode::Jpeg { "jpeg" } else { "none" };
        command.args(["--print-freq", "0", "--decode", decode]);
        command.args(["--step-ms", &job.step_ms.to_string()]);
        if job.no_mmap {
            command.arg("--no-mmap");
        }
        command.env("PYTHONDONTWRITEBYTECODE", "1").stdout(Stdio::piped());
        command.stderr(File::create(&log).with_context(|| format!("create {}", log.display()))?);
        command.stdin(Stdio::piped());
        let mut child = spawn(&mut command)?;
        let orders = child.stdin.take().context("input of the loader")?;
        let answers = BufReader::new(child.stdout.take().context("output of the loader")?);
        let mut this = Self { child, orders, answers, log };
        this.answer()?;
        Ok(this)
    }

    /// Runs one epoch. The latency of the pass is that of files, or of batches where a loader does not
    /// show its files; `batch_wait` is always that of batches.
    pub(crate) fn epoch(&mut self) -> Result<(Pass, Latency)> {
        writeln!(self.orders).context("start an epoch of the loader")?;
        self.orders.flush()?;
        let epoch: Epoch = serde_json::from_value(self.answer()?).context("the loader's result")?;
        let Epoch { images, bytes, seconds, cpu_seconds, batch_wait, file } = epoch;
        let pass = Pass {
            files: images,
            bytes,
            seconds,
            files_per_s: rate(images as f64, seconds),
            mb_per_s: rate(bytes as f64 / 1e6, seconds),
            cpu_seconds,
            latency: file.unwrap_or(batch_wait),
        };
        Ok((pass, batch_wait))
    }

    /// The next line of JSON; anything else is a library's chatter.
    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.answers.read_line(&mut line).context("read the loader's output")? == 0 {
                bail!("the loader ended: {}", last_lines(&self.log));
            }
            if let Ok(value @ Value::Object(_)) = serde_json::from_str(&line) {
                return Ok(value);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its processes ask the kernel to be ended with it.
        if let Err(error) = end_process(&mut self.child) {
            eprintln!("cannot end the loader: {error:#}");
        }
    }
}
