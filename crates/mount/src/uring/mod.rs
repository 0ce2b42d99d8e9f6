//! FUSE over io_uring: the second transport, own code, for kernels that offer it (Linux 6.14, module
//! parameter `enable_uring`).
//!
//! ```text
//!  kernel, queue of CPU 0 -> slots -> thread 0: serve -> handler -> answer, at once or later,
//!  kernel, queue of CPU 1 -> slots -> thread 1                      from any thread
//! ```
//!
//! A request goes to the queue of the CPU its process runs on, and is served by the thread of that
//! CPU: one system call commits answers and fetches what is next, and nobody wakes another CPU.
//! The FUSE library still shakes hands, and takes FORGET and INTERRUPT, which never come over a
//! ring. While rings are promised (INIT) and not all queues have slots, the kernel holds requests back.
//!
//! # Invariants
//!
//! - A slot is in the hands of one side at a time (`slot`), and a request is answered once (`queue`).
//! - A queue thread never waits for the store, nor for a disk to read data: the other requests of its
//!   CPU would, too. It does wait for the inode of a small cached file that it opens, as the request
//!   threads of the other transport do: handing that on costs a sixth of a cold read's CPU (figures:
//!   docs/decisions/008).
//! - A queue thread that ends while the mount lives takes the connection down: nobody else serves
//!   its CPU.
//!
//! # Deliberately absent
//!
//! - Fewer queues than CPUs: the kernel takes no less.
//!
//! # Reading order
//!
//! `slot`, `ring`, `queue`; `serve` and `wire` for the requests.

mod queue;
mod ring;
mod serve;
mod slot;
mod wire;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use queue::{Answers, Queue};
pub(crate) use serve::Service;

/// Tells whether the kernel offers the transport to new mounts.
const ENABLED: &str = "/sys/module/fuse/parameters/enable_uring";

/// Requests of processes that wait, per CPU, beside the kernel's own read-ahead: a loader's workers
/// in LOOKUP, OPEN or their own READ.
const FOREGROUND: usize = 64;

/// Slots of one queue, at most. One costs 150 bytes in the kernel and 4 KiB here once used.
const SLOTS_MAX: usize = 1024;

/// Slots of a queue whose CPU is not running.
const SLOTS_OFFLINE: usize = 4;

/// How long the threads may take to register: microseconds a slot.
const START_WITHIN: Duration = Duration::from_secs(10);

/// How long the kernel may take to give slots back after a connection ended: it looks every 50 ms.
const END_WITHIN: Duration = Duration::from_secs(3);

/// Why the transport cannot be used here, if so.
pub(crate) fn unavailable() -> Option<String> {
    match fs::read_to_string(ENABLED) {
        Ok(enabled) if enabled.trim() == "Y" => ring::possible()
            .err()
            .map(|error| format!("this process may not use io_uring: {error}")),
        Ok(_) => Some(format!("off in the kernel: `echo Y > {ENABLED}` before mounting")),
        Err(_) => Some("this kernel has no FUSE over io_uring (Linux 6.14)".into()),
    }
}

/// The CPUs in a list such as `0-3,8`.
fn cpus(list: &str) -> Vec<u16> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u16>().ok(), last.trim().parse::<u16>().ok());
        first.zip(last).map(|(first, last)| first..=last)
    };
    list.trim().split(',').filter_map(part).flatten().collect()
}

/// Which queues (with how many slots) each thread serves: a thread for each CPU that runs, to which the
/// queues of the others are dealt out.
fn deal(possible: &[u16], online: &[u16], slots: usize) -> Vec<Vec<(u16, usize)>> {
    let runs = |cpu: &&u16| online.contains(cpu);
    let mut threads: Vec<Vec<_>> =
        possible.iter().filter(runs).map(|cpu| vec![(*cpu, slots)]).collect();
    if threads.is_empty() {
        threads.push(Vec::new());
    }
    let count = threads.len();
    for (index, cpu) in possible.iter().filter(|cpu| !runs(cpu)).enumerate() {
        threads[index % count].push((*cpu, SLOTS_OFFLINE));
    }
    threads
}

/// The queue threads of a mount.
#[derive(Debug)]
pub(crate) struct Rings {
    threads: Vec<(JoinHandle<()>, Arc<Answers>)>,
    /// Cut off when every thread has ended.
    running: Receiver<()>,
}

impl Rings {
    /// Starts the threads and registers all queues. `background_max` is what the kernel was told at
    /// INIT; `trouble` is called if a thread ends before the connection does.
    ///
    /// # Errors
    ///
    /// The second result. The connection can then not be used, and must be taken away before
    /// [`Rings::end`].
    pub(crate) fn start(
        service: Service,
        device: &Arc<OwnedFd>,
        background_max: u16,
        trouble: impl Fn() + Clone + Send + 'static,
    ) -> (Self, io::Result<()>) {
        let read = |name: &str| {
            cpus(&fs::read_to_string(format!("/sys/devices/system/cpu/{name}")).unwrap_or_default())
        };
        let (possible, online) = (read("possible"), read("online"));
        let slots = (usize::from(background_max) + FOREGROUND).min(SLOTS_MAX);
        let queues = deal(&possible, &online, slots);
        let service = Arc::new(service);
        let (started, starts) = sync_channel(queues.len());
        let (ended, running) = sync_channel(1);
        let mut rings = Self { threads: Vec::new(), running };
        for queues in queues {
            let thread = Thread {
                service: Arc::clone(&service),
                device: Arc::clone(device),
                queues,
                started: started.clone(),
                _ended: ended.clone(),
            };
            if let Err(error) = rings.spawn(thread, trouble.clone()) {
                return (rings, Err(error));
            }
        }
        let all = rings.threads.iter().try_for_each(|_| {
            starts
                .recv_timeout(START_WITHIN)
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        });
        (rings, all)
    }

    fn spawn(&mut self, thread: Thread, trouble: impl Fn() + Send + 'static) -> io::Result<()> {
        let answers = Arc::new(Answers::new()?);
        let own = Arc::clone(&answers);
        let handle = std::thread::Builder::new()
            .name(format!("mount-ring-{}", self.threads.len()))
            .spawn(move || {
                let run = std::panic::catch_unwind(AssertUnwindSafe(|| thread.run(own)));
                let error = match run {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error,
                    Err(_) => io::Error::other("a panic"),
                };
                tracing::error!(%error, "a ring of the mount failed: its connection is ended");
                trouble();
            })?;
        self.threads.push((handle, answers));
        Ok(())
    }

    /// Ends the threads of a connection that has ended. Blocks for milliseconds.
    pub(crate) fn end(self) {
        for (_, answers) in &self.threads {
            answers.end();
        }
        if self.running.recv_timeout(END_WITHIN) == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            tracing::warn!("the kernel keeps ring entries of a connection that has ended");
            for (_, answers) in &self.threads {
                answers.stop();
            }
        }
        for (thread, _) in self.threads {
            let _ = thread.join();
        }
    }
}

/// What a queue thread begins with.
struct Thread {
    service: Arc<Service>,
    device: Arc<OwnedFd>,
    queues: Vec<(u16, usize)>,
    started: SyncSender<io::Result<()>>,
    _ended: SyncSender<()>,
}

impl Thread {
    fn run(self, answers: Arc<Answers>) -> io::Result<()> {
        if let Some((cpu, _)) = self.queues.first() {
            pin(*cpu);
        }
        let mut queue = match Queue::start(&self.device, answers, &self.queues) {
            Ok(queue) => queue,
            Err(error) => {
                // Whoever starts us undoes the mount.
                let _ = self.started.send(Err(error));
                return Ok(());
            }
        };
        // The ring holds the device from here on.
        drop(self.device);
        let _ = self.started.send(Ok(()));
        queue.run(|reply| self.service.serve(reply))
    }
}

/// Keeps this thread on `cpu`, where its requests come from. In a container without that CPU it runs
/// elsewhere, which costs a wake-up across CPUs.
fn pin(cpu: u16) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu.into());
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_is_read() {
        assert_eq!(cpus("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(cpus("0\n"), [0]);
        assert!(cpus("").is_empty());
    }

    #[test]
    fn every_possible_cpu_has_a_queue_and_every_running_one_a_thread() {
        let dealt = deal(&[0, 1, 2, 3, 4], &[0, 2], 100);
        assert_eq!(dealt, [vec![(0, 100), (1, 4), (4, 4)], vec![(2, 100), (3, 4)]]);
        assert_eq!(deal(&[0], &[], 100), [vec![(0, 4)]]);
    }
}
