//! The parent of the training processes: starts them, keeps them in step, adds up.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result, bail};

use super::protocol::{Event, Order, ProcessEpoch, WorkerConfig};
use super::{EpochResult, TrainArgs, TrainResult};
use crate::caches::drop_caches;
use crate::facts::Facts;
use crate::time::now;
use crate::units::{Histogram, Latency, rate};

/// Events that may wait for the parent; a worker that is further ahead waits.
const EVENTS: usize = 1_024;

/// Called with what happens while it runs: the process and its event.
pub type Watch<'a> = &'a mut dyn FnMut(usize, &Event);

/// `feedline bench train`: runs, prints, and writes the JSON.
///
/// # Errors
///
/// If a worker fails: the file and the errno, or the signal that ended it.
pub fn run(args: &TrainArgs) -> Result<TrainResult> {
    let facts = Facts::collect();
    println!("{}", facts.line());
    let mut running = Train::start(args)?;
    let mut epochs = Vec::new();
    for epoch in 0..args.epochs {
        if args.drop_caches {
            drop_caches()?;
        }
        let result = running.epoch(epoch, &mut print_speed)?;
        print_epoch(&result);
        epochs.push(result);
    }
    running.end()?;
    print_sum(&epochs);
    let result = result(args, facts, epochs);
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(&result)? + "\n")
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(result)
}

/// The same without printing; `watch` sees every event.
///
/// # Errors
///
/// As [`run`].
pub fn train(args: &TrainArgs, watch: Watch<'_>) -> Result<TrainResult> {
    let mut running = Train::start(args)?;
    let mut epochs = Vec::new();
    for epoch in 0..args.epochs {
        if args.drop_caches {
            drop_caches()?;
        }
        epochs.push(running.epoch(epoch, watch)?);
    }
    running.end()?;
    Ok(result(args, Facts::collect(), epochs))
}

fn result(args: &TrainArgs, facts: Facts, epochs: Vec<EpochResult>) -> TrainResult {
    TrainResult {
        facts,
        settings: args.settings.clone(),
        processes: args.processes,
        nodes: args.nodes,
        drop_caches: args.drop_caches,
        epochs,
    }
}

fn print_speed(process: usize, event: &Event) {
    if let Event::Speed { epoch, batch, batches, images_per_s } = event {
        println!(
            "epoch {epoch} process {process} batch {batch}/{batches}: {images_per_s:.0} images/s"
        );
    }
}

fn print_epoch(result: &EpochResult) {
    for part in &result.processes {
        let Latency { p50_us, p99_us, .. } = part.file.latency();
        let ProcessEpoch { process, epoch, images, seconds, .. } = part;
        let speed = rate(*images as f64, *seconds);
        println!(
            "epoch {epoch} process {process}: {images} images in {seconds:.2} s, {speed:.0} images/s, \
             file p50 {p50_us:.0} us p99 {p99_us:.0} us"
        );
    }
    let EpochResult { epoch, images, seconds, images_per_s, open, read, decode, .. } = result;
    println!(
        "epoch {epoch} node: {images} images in {seconds:.2} s, {images_per_s:.0} images/s; p50/p99 us: \
         open {:.0}/{:.0}, read {:.0}/{:.0}, decode {:.0}/{:.0}",
        open.p50_us, open.p99_us, read.p50_us, read.p99_us, decode.p50_us, decode.p99_us
    );
}

fn print_sum(epochs: &[EpochResult]) {
    let images: u64 = epochs.iter().map(|epoch| epoch.images).sum();
    let seconds: f64 = epochs.iter().map(|epoch| epoch.seconds).sum();
    let speed = rate(images as f64, seconds);
    println!("sum: {images} images in {seconds:.2} s, {speed:.0} images/s");
}

/// Running workers that wait for an epoch. Dropping it ends them.
#[derive(Debug)]
pub struct Train {
    workers: Vec<Worker>,
    events: Receiver<(usize, Option<Event>)>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    orders: ChildStdin,
}

impl Train {
    /// Starts the workers and waits until each is ready.
    ///
    /// # Errors
    ///
    /// If a process cannot be started, or ends at once.
    pub fn start(args: &TrainArgs) -> Result<Self> {
        let (sender, events) = sync_channel(EVENTS);
        let mut this = Self { workers: Vec::new(), events };
        for process in 0..args.processes.max(1) {
            this.workers.push(start_worker(args, process, &sender)?);
        }
        drop(sender);
        let mut waiting = this.workers.len();
        while waiting > 0 {
            let (process, event) = this.next_event()?;
            match event {
                Event::Ready => waiting -= 1,
                other => bail!("process {process} began with {other:?}"),
            }
        }
        Ok(this)
    }

    /// Runs one epoch in all of them, from a common start.
    ///
    /// # Errors
    ///
    /// If a worker fails: the file and the errno, or the signal that ended it.
    pub fn epoch(&mut self, epoch: usize, watch: Watch<'_>) -> Result<EpochResult> {
        let started = now();
        for (process, worker) in self.workers.iter_mut().enumerate() {
            order(worker, Order::Epoch { epoch })
                .with_context(|| format!("start epoch {epoch} in process {process}"))?;
        }
        let mut parts = Vec::new();
        while parts.len() < self.workers.len() {
            let (process, event) = self.next_event()?;
            watch(process, &event);
            if let Event::Epoch(part) = event {
                parts.push(part);
            }
        }
        parts.sort_by_key(|part| part.process);
        Ok(sum(epoch, started.elapsed().as_secs_f64(), parts))
    }

    /// Ends the workers and waits for them.
    ///
    /// # Errors
    ///
    /// If one does not end well.
    pub fn end(mut self) -> Result<()> {
        for (process, mut worker) in self.workers.drain(..).enumerate() {
            order(&mut worker, Order::End).with_context(|| format!("end process {process}"))?;
            let status = worker.child.wait()?;
            if !status.success() {
                bail!("process {process} ended with {status}");
            }
        }
        Ok(())
    }

    fn next_event(&mut self) -> Result<(usize, Event)> {
        let (process, event) = self.events.recv().context("all training processes are gone")?;
        match event {
            Some(Event::Failed { path, errno, message }) => {
                let errno = errno.map_or_else(String::new, |errno| format!(" (errno {errno})"));
                bail!("process {process}: {path}: {message}{errno}")
            }
            Some(event) => Ok((process, event)),
            None => {
                let status = self.workers[process].child.wait()?;
                let hint = match status.signal() {
                    Some(libc::SIGBUS) => ": a mapped file became shorter or unreadable (SIGBUS)",
                    Some(libc::SIGKILL) => ": killed, perhaps for want of memory",
                    _ => "",
                };
                bail!("process {process} ended in the middle of its work, {status}{hint}")
            }
        }
    }
}

impl Drop for Train {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // It may have ended already; what matters is that none stays.
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

fn start_worker(
    args: &TrainArgs,
    process: usize,
    events: &SyncSender<(usize, Option<Event>)>,
) -> Result<Worker> {
    let config = WorkerConfig {
        settings: args.settings.clone(),
        process,
        shard: args.nodes.index * args.processes + process,
        shards: args.nodes.count * args.processes,
    };
    let program = std::env::current_exe().context("find the own program")?;
    let mut child = Command::new(&program)
        .args(["bench", "worker", &serde_json::to_string(&config)?])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let orders = child.stdin.take().context("the worker's input")?;
    let output = child.stdout.take().context("the worker's output")?;
    let events = events.clone();
    std::thread::Builder::new().name(format!("worker {process}")).spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { break };
            // Something else on its output is a mistake of ours; waiting for more would hang.
            let event = serde_json::from_str(&line).unwrap_or_else(|error| Event::Failed {
                path: "worker".to_owned(),
                errno: None,
                message: format!("no event ({error}): {line}"),
            });
            if events.send((process, Some(event))).is_err() {
                return;
            }
        }
        // The parent may be done with it: then nobody wants to know.
        let _ = events.send((process, None));
    })?;
    Ok(Worker { child, orders })
}

fn order(worker: &mut Worker, order: Order) -> Result<()> {
    writeln!(worker.orders, "{}", serde_json::to_string(&order)?)?;
    worker.orders.flush()?;
    Ok(())
}

fn sum(epoch: usize, seconds: f64, processes: Vec<ProcessEpoch>) -> EpochResult {
    let images = processes.iter().map(|part| part.images).sum::<u64>();
    let all = |of: fn(&ProcessEpoch) -> &Histogram| {
        let mut total = Histogram::default();
        processes.iter().for_each(|part| total.merge(of(part)));
        total.latency()
    };
    EpochResult {
        epoch,
        images,
        bytes: processes.iter().map(|part| part.bytes).sum(),
        seconds,
        images_per_s: rate(images as f64, seconds),
        open: all(|part| &part.open),
        read: all(|part| &part.read),
        file: all(|part| &part.file),
        decode: all(|part| &part.decode),
        processes,
    }
}
