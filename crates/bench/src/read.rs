//! `feedline bench read`: how fast a folder of files, or one large file, can be read.
//!
//! Readers are threads of this process (as in the measurements that set the targets): what is
//! measured is the file system, and threads start together and share one clock.
//!
//! For a folder, every pass reads each file once, whole, in the order chosen; the readers take the
//! next file from one shared list. For a single file there are three ways: from start to end, by
//! mapping it, or blocks of 128 KiB at random places.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::caches::drop_caches;
use crate::dataset::Random;
use crate::facts::Facts;
use crate::files::{Mapping, list_tree, read_whole};
use crate::time::now;
use crate::units::{Histogram, Latency, rate};

/// Bytes of one read at a random place.
const RANDOM_READ_BYTES: usize = 128 << 10;
/// Bytes of one read from start to end: what `cp` and most programs use at least.
const SEQUENTIAL_READ_BYTES: usize = 1 << 20;

/// In which order the files of a folder are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Shuffled by the seed.
    Random,
    /// By path.
    Sorted,
}

impl Order {
    /// The places of `count` files of a sorted listing; equal seeds and passes give equal orders.
    pub(crate) fn of(self, count: usize, seed: u64, pass: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        if self == Self::Random {
            shuffle(&mut order, &mut Random::new(seed, pass as u64));
        }
        order
    }
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// read(2) from start to end.
    Read,
    /// Map it and read every byte.
    Mmap,
    /// pread(2) of 128 KiB at random places (a single large file only).
    Random128k,
}

/// `feedline bench read`
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct ReadArgs {
    /// Folder, or one large file
    pub path: PathBuf,
    /// Reader threads
    #[arg(long, default_value_t = 8)]
    pub readers: usize,
    /// Order of the files
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub order: Order,
    /// How each file is read
    #[arg(long, value_enum, default_value_t = Access::Read)]
    pub access: Access,
    /// Seed of the order and of the random places
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Read only so many files (the first of the order); 0 reads all
    #[arg(long, default_value_t = 0)]
    pub files: usize,
    /// How often
    #[arg(long, default_value_t = 1)]
    pub passes: usize,
    /// Drop the kernel's caches before every pass (needs root)
    #[arg(long)]
    pub drop_caches: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl ReadArgs {
    /// One pass over `path` with 8 readers in random order.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            readers: 8,
            order: Order::Random,
            access: Access::Read,
            seed: 1,
            files: 0,
            passes: 1,
            drop_caches: false,
            json: false,
        }
    }
}

/// One pass.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    /// Files read (or blocks, at random places).
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the start of the first reader to the end of the last.
    pub seconds: f64,
    /// Files a second.
    pub files_per_s: f64,
    /// Millions of bytes a second.
    pub mb_per_s: f64,
    /// CPU seconds of the readers, user and system.
    pub cpu_seconds: f64,
    /// Open, read and close, per file (or one pread).
    pub latency: Latency,
}

impl Pass {
    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Self { files, seconds, files_per_s, mb_per_s, cpu_seconds, latency, .. } = self;
        format!(
            "{files} files in {seconds:.2} s, {files_per_s:.0} files/s, {mb_per_s:.0} MB/s, \
             p50 {:.0} us, p99 {:.0} us, CPU {cpu_seconds:.2} s",
            latency.p50_us, latency.p99_us
        )
    }
}

/// The result of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadResult {
    /// Where it was measured.
    pub facts: Facts,
    /// What was asked.
    pub args: ReadArgs,
    /// One after the other.
    pub passes: Vec<Pass>,
}

/// `feedline bench read`: measures and prints.
///
/// # Errors
///
/// As [`measure`].
pub fn run(args: &ReadArgs) -> Result<ReadResult> {
    let result = ReadResult { facts: Facts::collect(), args: args.clone(), passes: measure(args)? };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&result)?);
        return Ok(result);
    }
    println!("{}", result.facts.line());
    for (number, pass) in result.passes.iter().enumerate() {
        println!("pass {number}: {}", pass.line());
    }
    Ok(result)
}

/// Measures every pass.
///
/// # Errors
///
/// The first file that cannot be read, with its path.
pub fn measure(args: &ReadArgs) -> Result<Vec<Pass>> {
    let plan = Plan::new(args)?;
    (0..args.passes.max(1))
        .map(|number| {
            if args.drop_caches {
                drop_caches()?;
            }
            plan.pass(number)
        })
        .collect()
}

/// What is read, listed once: a pass measures reading alone.
#[derive(Debug)]
pub struct Plan {
    args: ReadArgs,
    /// `None` when the path is one file.
    files: Option<Vec<PathBuf>>,
}

impl Plan {
    /// Lists the folder.
    ///
    /// # Errors
    ///
    /// If it cannot be listed, holds nothing, or the way of reading does not fit.
    pub fn new(args: &ReadArgs) -> Result<Self> {
        let path = &args.path;
        let single =
            std::fs::metadata(path).with_context(|| format!("stat {}", path.display()))?.is_file();
        ensure!(
            single || args.access != Access::Random128k,
            "--access random128k needs a single file, and {} is a folder",
            path.display()
        );
        let files = if single { None } else { Some(list_tree(path)?) };
        let holds_any = files.as_ref().is_none_or(|files| !files.is_empty());
        ensure!(holds_any, "{} holds no file", path.display());
        Ok(Self { args: args.clone(), files })
    }

    /// Reads once; equal numbers read in the same order.
    ///
    /// # Errors
    ///
    /// The first file that cannot be read, with its path; or a signal.
    pub fn pass(&self, number: usize) -> Result<Pass> {
        match &self.files {
            None => one_file(&self.args, number),
            Some(files) => folder(&self.args, files, number),
        }
    }
}

/// What one reader did.
#[derive(Default)]
struct Share {
    files: u64,
    bytes: u64,
    latency: Histogram,
}

/// Runs `work` in every reader from a common start.
fn with_readers(readers: usize, work: impl Fn(usize) -> Result<Share> + Sync) -> Result<Pass> {
    let readers = readers.max(1);
    let barrier = Barrier::new(readers);
    let cpu_before = cpu_seconds();
    // Each reader takes its own times: on a busy machine another thread would look at the clock late.
    let runs: Vec<(Instant, Result<Share>, Instant)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..readers)
            .map(|reader| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    let started = now();
                    let share = work(reader);
                    (started, share, now())
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("readers do not panic")).collect()
    });
    let started = runs.iter().map(|(started, _, _)| *started).min().unwrap_or_else(now);
    let ended = runs.iter().map(|(_, _, ended)| *ended).max().unwrap_or_else(now);
    let seconds = (ended - started).as_secs_f64();
    let mut pass = Pass { seconds, cpu_seconds: cpu_seconds() - cpu_before, ..Pass::default() };
    let mut latency = Histogram::default();
    for (_, share, _) in runs {
        let share = share?;
        pass.files += share.files;
        pass.bytes += share.bytes;
        latency.merge(&share.latency);
    }
    pass.files_per_s = rate(pass.files as f64, seconds);
    pass.mb_per_s = rate(pass.bytes as f64 / 1e6, seconds);
    pass.latency = latency.latency();
    Ok(pass)
}

fn folder(args: &ReadArgs, files: &[PathBuf], pass: usize) -> Result<Pass> {
    let mut order = args.order.of(files.len(), args.seed, pass);
    if args.files > 0 {
        order.truncate(args.files);
    }
    let next = AtomicUsize::new(0);
    with_readers(args.readers, |_| {
        let mut share = Share::default();
        let mut buffer = Vec::new();
        while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            crate::interrupt::check()?;
            let path = &files[index];
            let started = now();
            let bytes = match args.access {
                Access::Mmap => map_whole(path),
                Access::Read | Access::Random128k => read_whole(path, &mut buffer),
            };
            let bytes = bytes.with_context(|| format!("read {}", path.display()))?;
            share.latency.add(started.elapsed());
            share.bytes += bytes as u64;
            share.files += 1;
        }
        Ok(share)
    })
}

/// Fisher and Yates.
fn shuffle(order: &mut [usize], random: &mut Random) {
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i + 1));
    }
}

/// Maps and reads every byte, as a program that maps does: mapping alone takes so little for pages in
/// memory that it could not be measured. Returns the length.
fn map_whole(path: &Path) -> io::Result<usize> {
    let mapping = Mapping::open(path)?;
    mapping.populate()?;
    let (words, rest) = mapping.as_ref().as_chunks::<8>();
    let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
    std::hint::black_box((sum, rest));
    Ok(mapping.as_ref().len())
}

fn one_file(args: &ReadArgs, pass: usize) -> Result<Pass> {
    let path = &args.path;
    with_readers(args.readers, |reader| {
        let started = now();
        let mut share = Share::default();
        let result = match args.access {
            Access::Mmap => map_whole(path).map(|bytes| share.bytes = bytes as u64),
            Access::Read => read_in_order(path).map(|bytes| share.bytes = bytes),
            Access::Random128k => {
                let random = Random::new(args.seed, (pass as u64) << 32 | reader as u64);
                read_at_random(path, args.readers, random, &mut share)
            }
        };
        result.with_context(|| format!("read {}", path.display()))?;
        if args.access != Access::Random128k {
            share.files = 1;
            share.latency.add(started.elapsed());
        }
        Ok(share)
    })
}

fn read_in_order(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let mut buffer = vec![0; SEQUENTIAL_READ_BYTES];
    let mut at = 0;
    loop {
        crate::interrupt::check()?;
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(at),
            read => at += read as u64,
        }
    }
}

/// Each reader reads its share of the file's bytes, so that all together read it about once.
fn read_at_random(
    path: &Path,
    readers: usize,
    mut random: Random,
    share: &mut Share,
) -> io::Result<()> {
    let file = File::open(path)?;
    let blocks =
        usize::try_from(file.metadata()?.len()).map_err(io::Error::other)? / RANDOM_READ_BYTES;
    let mut buffer = vec![0; RANDOM_READ_BYTES];
    for _ in 0..blocks.div_ceil(readers.max(1)) {
        crate::interrupt::check()?;
        let at = (random.below(blocks) * RANDOM_READ_BYTES) as u64;
        let started = now();
        file.read_exact_at(&mut buffer, at)?;
        share.latency.add(started.elapsed());
        share.bytes += RANDOM_READ_BYTES as u64;
        share.files += 1;
    }
    Ok(())
}

/// CPU time of this process so far, user and system.
pub(crate) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
