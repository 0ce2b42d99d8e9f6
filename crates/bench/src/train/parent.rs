//! The parent of the training processes: starts them, keeps them in step, adds up.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
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
    println!("{}", epoch_table(result));
}

/// One line for each process and one for the node: speed, and what a file took in its parts.
fn epoch_table(result: &EpochResult) -> String {
    let mut text = format!(
        "epoch {:<4} {:>8} {:>8} {:>9} {:>7} {:>7} {:>7} {:>17} {:>17} {:>17}\n{:>58} {:>17} {:>17} {:>17}",
        result.epoch,
        "images",
        "seconds",
        "images/s",
        "MB/s",
        "list s",
        "CPU s",
        "open",
        "read",
        "decode",
        "",
        "p50/p99 us",
        "p50/p99 us",
        "p50/p99 us"
    );
    let mut add = |who: String, [images, seconds, mb, list, cpu]: [f64; 5], parts: [Latency; 3]| {
        let [open, read, decode] =
            parts.map(|part| format!("{:.0}/{:.0}", part.p50_us, part.p99_us));
        let speed = rate(images, seconds);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n{who:<10} {images:>8} {seconds:>8.2} {speed:>9.0} {:>7.0} {list:>7.2} {cpu:>7.2} {open:>17} {read:>17} {decode:>17}",
            rate(mb, seconds)
        );
    };
    for part in &result.processes {
        let ProcessEpoch { images, bytes, seconds, list_seconds, cpu_seconds, .. } = part;
        add(
            format!("process {}", part.process),
            [*images as f64, *seconds, *bytes as f64 / 1e6, *list_seconds, *cpu_seconds],
            [part.open.latency(), part.read.latency(), part.decode.latency()],
        );
    }
    let list = result.processes.iter().map(|part| part.list_seconds).fold(0.0, f64::max);
    let cpu: f64 = result.processes.iter().map(|part| part.cpu_seconds).sum();
    add(
        "node".to_owned(),
        [result.images as f64, result.seconds, result.bytes as f64 / 1e6, list, cpu],
        [result.open, result.read, result.decode],
    );
    text
}

fn print_sum(epochs: &[EpochResult]) {
    let images: u64 = epochs.iter().map(|epoch| epoch.images).sum();
    let seconds: f64 = epochs.iter().map(|epoch| epoch.seconds).sum();
    let speed = rate(images as f64, seconds);
    let each: Vec<String> =
        epochs.iter().map(|epoch| format!("{:.0}", epoch.images_per_s)).collect();
    println!(
        "sum: {images} images in {seconds:.2} s, {speed:.0} images/s; by epoch {}",
        each.join(", ")
    );
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
        settled: all(|part| &part.settled),
        decode: all(|part| &part.decode),
        processes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_table_has_a_line_for_each_process_and_the_node() {
        let part = |process, micros| {
            let mut part = ProcessEpoch { process, images: 10, seconds: 2.0, ..Default::default() };
            part.open.add(Duration::from_micros(micros));
            part
        };
        let table = epoch_table(&sum(3, 4.0, vec![part(0, 100), part(1, 9_000)]));
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 5, "{table}");
        assert!(lines[0].starts_with("epoch 3") && lines[2].starts_with("process 0"), "{table}");
        // 20 images in 4 s, and the quick open of one process beside the slow one of the other.
        let node: Vec<&str> = lines[4].split_whitespace().collect();
        assert_eq!(node[..4], ["node", "20", "4.00", "5"], "{table}");
        let (p50, p99) = node[7].split_once('/').expect("two percentiles");
        let near = |text: &str, value: f64| {
            (text.parse::<f64>().expect("a number") / value - 1.0).abs() < 0.04
        };
        assert!(near(p50, 100.0) && near(p99, 9_000.0), "{table}");
    }
}
