//! One training process: lists, shuffles, reads its shard, decodes, and takes a step a batch.
//!
//! ```text
//! reader thread: listing order -> 1,024-sample buffer -> batches of opened files
//!   -> decode thread (and its helpers): fault in or use, decode     [one batch ahead]
//!   -> main thread: the stand-in step
//! ```
//!
//! # Invariants
//!
//! - The file system sees the files in exactly the order of the listing's shuffle; the buffer only
//!   changes which sample goes into which batch, as in DALI.
//! - The first file that cannot be read or decoded ends the process, with its path and errno.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use feedline_oracle::{dali_order, distributed_order, shard};

use super::protocol::{Event, Order, ProcessEpoch, WorkerConfig};
use super::{Decode, ReadOrder};
use crate::dataset::Random;
use crate::files::{Bytes, Mapping, list_classes, read_whole};
use crate::jpeg::{SampleDecoder, VALUES};
use crate::read::cpu_seconds;
use crate::time::now;
use crate::units::{Histogram, rate};

/// From here on an epoch is no longer beginning: what read ahead has had time to begin.
const SETTLE: Duration = Duration::from_secs(2);
/// Batches that the reader is ahead of the decoder: DALI's `prefetch_queue_depth`, less the one that
/// is being decoded.
const BATCHES_AHEAD: usize = 1;

/// Why a worker cannot go on.
#[derive(Debug)]
struct Failure {
    path: PathBuf,
    error: anyhow::Error,
}

/// A file that was opened and, without mmap, read.
struct Sample {
    index: u32,
    bytes: Bytes,
    /// When it was opened.
    at: Instant,
    opened: Duration,
    read: Duration,
}

/// Runs a worker until it is told to end or its parent is gone.
///
/// # Errors
///
/// After it has told the parent why it cannot go on.
pub fn run(config: &WorkerConfig) -> Result<()> {
    // Whatever kills the parent, no worker goes on loading the machine.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("ask to end with the parent")?;
    send(&Event::Ready)?;
    let mut listing = None;
    for line in io::stdin().lock().lines() {
        let order = serde_json::from_str(&line.context("read an order")?).context("an order")?;
        let Order::Epoch { epoch } = order else { return Ok(()) };
        if !config.settings.keep_pipeline {
            listing = None;
        }
        match run_epoch(config, epoch, &mut listing) {
            Ok(done) => send(&Event::Epoch(done))?,
            Err(failure) => return report(failure),
        }
    }
    Ok(())
}

fn report(failure: Failure) -> Result<()> {
    let Failure { path, error } = failure;
    let errno = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error));
    let path = path.display().to_string();
    send(&Event::Failed { path: path.clone(), errno, message: format!("{error:#}") })?;
    anyhow::bail!("{path}: {error:#}")
}

fn send(event: &Event) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(event)?)?;
    stdout.flush().context("tell the parent")
}

fn run_epoch(
    config: &WorkerConfig,
    epoch: usize,
    listing: &mut Option<Vec<PathBuf>>,
) -> Result<ProcessEpoch, Failure> {
    let settings = &config.settings;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| Failure { path, error }
    };
    let started = now();
    let cpu_before = cpu_seconds();
    if listing.is_none() {
        *listing = Some(list_classes(&settings.dir).map_err(at(&settings.dir))?);
    }
    let files: &[PathBuf] = listing.as_deref().unwrap_or_default();
    let list_seconds = started.elapsed().as_secs_f64();
    // A pipeline that lives on moves to the next shard; one built anew starts at its own again.
    let moves = settings.keep_pipeline && !settings.stick_to_shard;
    let number = (config.shard + if moves { epoch } else { 0 }) % config.shards;
    let order = order_of(settings.order, files.len(), epoch, (number, config.shards));
    let order = &order;
    let mut result = ProcessEpoch {
        process: config.process,
        epoch,
        shard: number,
        list_seconds,
        ..Default::default()
    };
    let random = Random::new(settings.seed, (epoch as u64) << 32 | config.process as u64);
    std::thread::scope(|scope| {
        let (batches_in, batches) = sync_channel(BATCHES_AHEAD);
        // Nothing waits between decoder and step: while a step runs, the next batch is decoded and kept.
        let (ready_in, ready) = sync_channel(0);
        let picks = random.clone();
        let reader = scope.spawn(move || read_shard(config, files, order, picks, &batches_in));
        let settled = started + SETTLE;
        let decoder =
            scope.spawn(move || decode_all(config, files, settled, random, &batches, &ready_in));
        let sent = step_all(config, epoch, order.len(), &ready);
        // The queues are closed from the end that failed: whoever waits at one stops, and the first
        // failure in the order of the pipeline is the cause.
        drop(ready);
        let read = reader.join().expect("the reader does not panic");
        let decoded = decoder.join().expect("the decoder does not panic");
        read?;
        let decoded = decoded?;
        sent.map_err(at(Path::new("the parent")))?;
        result.images = order.len() as u64;
        result.bytes = decoded.bytes;
        result.open = decoded.open;
        result.read = decoded.read;
        result.file = decoded.file;
        result.settled = decoded.settled;
        result.decode = decoded.decode;
        Ok(())
    })?;
    result.seconds = started.elapsed().as_secs_f64();
    result.cpu_seconds = cpu_seconds() - cpu_before;
    Ok(result)
}

/// The places of the listing that shard or rank `number` of all reads, in this order.
fn order_of(
    order: ReadOrder,
    count: usize,
    epoch: usize,
    (number, all): (usize, usize),
) -> Vec<u32> {
    let shuffled = match order {
        ReadOrder::Dali => dali_order(count),
        ReadOrder::Distributed => return distributed_order(count, epoch as u32, number, all),
        ReadOrder::Sorted => (0..count as u32).collect(),
    };
    shuffled[shard(count, number, all)].to_vec()
}

/// The reader: opens in order, and picks from the buffer what goes into the next batch.
fn read_shard(
    config: &WorkerConfig,
    files: &[PathBuf],
    order: &[u32],
    mut random: Random,
    batches: &SyncSender<Vec<Sample>>,
) -> Result<(), Failure> {
    let (size, fill) = (config.settings.batch_size, config.settings.initial_fill);
    let mut buffer: Vec<Sample> = Vec::with_capacity(fill);
    let mut batch = Vec::with_capacity(size);
    let mut next = order.iter();
    let mut left = order.len();
    while left > 0 {
        while buffer.len() < fill {
            let Some(&index) = next.next() else { break };
            let path = &files[index as usize];
            let sample = open(index, path, config.settings.no_mmap)
                .map_err(|error| Failure { path: path.clone(), error: error.into() })?;
            buffer.push(sample);
        }
        batch.push(buffer.swap_remove(random.below(buffer.len())));
        left -= 1;
        if batch.len() == size || left == 0 {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(size));
            if batches.send(full).is_err() {
                break;
            }
        }
    }
    Ok(())
}

fn open(index: u32, path: &Path, no_mmap: bool) -> io::Result<Sample> {
    let started = now();
    if no_mmap {
        let mut bytes = Vec::new();
        read_whole(path, &mut bytes)?;
        let read = started.elapsed();
        let (bytes, opened) = (Bytes::Owned(bytes), Duration::ZERO);
        return Ok(Sample { index, bytes, at: started, opened, read });
    }
    let bytes = Bytes::Mapped(Mapping::open(path)?);
    Ok(Sample { index, bytes, at: started, opened: started.elapsed(), read: Duration::ZERO })
}

/// What a decoding thread measured.
#[derive(Default)]
struct Decoded {
    bytes: u64,
    open: Histogram,
    read: Histogram,
    file: Histogram,
    settled: Histogram,
    decode: Histogram,
}

impl Decoded {
    fn merge(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.open.merge(&other.open);
        self.read.merge(&other.read);
        self.file.merge(&other.file);
        self.settled.merge(&other.settled);
        self.decode.merge(&other.decode);
    }
}

fn decode_all(
    config: &WorkerConfig,
    files: &[PathBuf],
    settled: Instant,
    mut random: Random,
    batches: &Receiver<Vec<Sample>>,
    ready: &SyncSender<usize>,
) -> Result<Decoded, Failure> {
    let mut total = Decoded::default();
    while let Ok(batch) = batches.recv() {
        let images = batch.len();
        let queue = Mutex::new(batch.into_iter());
        let outcome: Result<Vec<Decoded>, Failure> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..config.settings.threads)
                .map(|_| {
                    let random = Random::new(random.next(), 0);
                    let queue = &queue;
                    let decode = config.settings.decode;
                    scope.spawn(move || decode_some(decode, files, settled, random, queue))
                })
                .collect();
            threads.into_iter().map(|t| t.join().expect("decoding does not panic")).collect()
        });
        outcome?.iter().for_each(|part| total.merge(part));
        if ready.send(images).is_err() {
            break;
        }
    }
    Ok(total)
}

fn decode_some(
    decode: Decode,
    files: &[PathBuf],
    settled: Instant,
    mut random: Random,
    queue: &Mutex<std::vec::IntoIter<Sample>>,
) -> Result<Decoded, Failure> {
    let mut part = Decoded::default();
    let mut decoder: Option<SampleDecoder> = None;
    let mut values = Vec::new();
    loop {
        let next = queue.lock().expect("nobody panics with the queue").next();
        let Some(sample) = next else { return Ok(part) };
        let at =
            |error: anyhow::Error| Failure { path: files[sample.index as usize].clone(), error };
        let started = now();
        if let Bytes::Mapped(mapping) = &sample.bytes {
            mapping.populate().context("read the mapped file").map_err(at)?;
        }
        let read = started.elapsed() + sample.read;
        let bytes = sample.bytes.as_ref();
        part.bytes += bytes.len() as u64;
        part.open.add(sample.opened);
        part.read.add(read);
        part.file.add(sample.opened + read);
        if sample.at > settled {
            part.settled.add(sample.opened + read);
        }
        if decode == Decode::Jpeg {
            let started: Instant = now();
            let decoder = match &mut decoder {
                Some(decoder) => decoder,
                none => none.insert(SampleDecoder::new().map_err(at)?),
            };
            values.resize(VALUES, 0.0);
            decoder.decode(bytes, &mut random, &mut values).map_err(at)?;
            std::hint::black_box(&values);
            part.decode.add(started.elapsed());
        }
    }
}

/// The training side: a pause per batch instead of a GPU.
fn step_all(
    config: &WorkerConfig,
    epoch: usize,
    images: usize,
    ready: &Receiver<usize>,
) -> Result<()> {
    let settings = &config.settings;
    let batches = images.div_ceil(settings.batch_size);
    let (mut since, mut images) = (now(), 0);
    for batch in 1..=batches {
        let Ok(count) = ready.recv() else { return Ok(()) };
        images += count;
        crate::time::sleep(Duration::from_millis(settings.step_ms));
        if settings.print_freq > 0 && batch.is_multiple_of(settings.print_freq) {
            let images_per_s = rate(images as f64, since.elapsed().as_secs_f64());
            send(&Event::Speed { epoch, batch, batches, images_per_s })?;
            (since, images) = (now(), 0);
        }
    }
    Ok(())
}
