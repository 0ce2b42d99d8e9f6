//! What a scenario runs against: a bucket with latency, and mounts of it.
//!
//! Everything is driven as a user would: `feedline s3sim`, `feedline mount --foreground`, s3fs. Each
//! process is a child in a group of its own, so that Ctrl-C reaches only the bench, which then drops
//! these values: dropping one takes the mount away and ends the process. If the bench itself is
//! killed, the kernel asks its children to end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use feedline_node::api::Status;
use feedline_node::{Client, locate};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::sample::Requests;
use super::system::{Place, System};
use crate::netns::Namespace;

/// What the simulated bucket accepts; it checks signatures, not who they belong to.
pub(crate) const CREDENTIALS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "bench"),
    ("AWS_SECRET_ACCESS_KEY", "bench-secret"),
    ("AWS_REGION", "us-east-1"),
];

/// How long a mount may take to serve or to go: a guess far above what healthy ones need.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often one looks. Nothing is measured meanwhile, or the child does it itself.
const POLL: Duration = Duration::from_millis(20);
/// How long a cache may go on writing what was read, and how long nothing may change until it counts as done.
const WRITTEN_MAX: Duration = Duration::from_secs(10);
const WRITTEN_POLL: Duration = Duration::from_millis(200);
/// Lines of a program's own output that an error repeats.
const LOG_LINES: usize = 12;

/// The `feedline` command itself.
pub(crate) fn feedline() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find the own program")?);
    command.envs(CREDENTIALS).stdin(Stdio::null());
    Ok(command)
}

/// Starts a child that no signal of the terminal reaches and that does not outlive us.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    command.process_group(0);
    #[expect(unsafe_code, reason = "the child must ask for the signal itself")]
    // SAFETY: prctl is async-signal-safe, and nothing else runs between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            Ok(())
        });
    }
    command.spawn().with_context(|| format!("start {}", command.get_program().display()))
}

/// Looks until `done`, for at most [`WAIT_MAX`]; true if it came.
pub(crate) fn wait_until(mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let started = crate::time::now();
    while started.elapsed() < WAIT_MAX {
        if done()? {
            return Ok(true);
        }
        crate::time::sleep(POLL);
    }
    Ok(false)
}

/// Asks it to end, and kills it if it does not.
pub(crate) fn end_process(child: &mut Child) -> Result<bool> {
    if let Some(pid) = Pid::from_raw(i32::try_from(child.id())?) {
        // An error means that it is gone already.
        let _ = kill_process(pid, Signal::TERM);
    }
    let ended = wait_until(|| Ok(child.try_wait()?.is_some()))?;
    if !ended {
        child.kill()?;
        child.wait()?;
    }
    Ok(ended)
}

/// Runs a child to its end; what it says goes to `log`.
///
/// # Errors
///
/// If it fails, with the last of what it said; or if a signal came, after ending it.
pub(crate) fn run_to_end(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child = spawn(command)?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Err(signal) = crate::interrupt::check() {
            end_process(&mut child)?;
            return Err(signal.into());
        }
        crate::time::sleep(POLL);
    };
    let program = command.get_program().display();
    ensure!(status.success(), "{program} ended with {status}: {}", last_lines(log));
    Ok(())
}

/// The last lines of a log, for an error.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// A running `feedline s3sim`.
#[derive(Debug)]
pub(crate) struct Bucket {
    child: Child,
    /// `http://ADDRESS:PORT`.
    pub(crate) url: String,
    /// Where it listens, if not on this machine's own network.
    inside: Option<Namespace>,
}

impl Bucket {
    /// Serves the buckets that are the folders of `root`, shaped by more flags of `feedline s3sim`.
    pub(crate) fn start<S: AsRef<OsStr>>(root: &Path, flags: &[S]) -> Result<Self> {
        Self::serve(root, flags, Ipv4Addr::LOCALHOST, None)
    }

    /// The same at an address of a namespace.
    pub(crate) fn start_in<S: AsRef<OsStr>>(
        root: &Path,
        flags: &[S],
        (inside, address): (&Namespace, Ipv4Addr),
    ) -> Result<Self> {
        Self::serve(root, flags, address, Some(inside.clone()))
    }

    fn serve<S: AsRef<OsStr>>(
        root: &Path,
        flags: &[S],
        address: Ipv4Addr,
        inside: Option<Namespace>,
    ) -> Result<Self> {
        let mut command = feedline()?;
        command.args(["s3sim", "--listen", &format!("{address}:0")]).args(flags).arg("--root");
        command.arg(root).stdout(Stdio::piped());
        if let Some(inside) = &inside {
            inside.put(&mut command);
        }
        let mut child = spawn(&mut command)?;
        let output = child.stdout.take().context("output of feedline s3sim")?;
        let mut this = Self { child, url: String::new(), inside };
        for line in BufReader::new(output).lines() {
            if let Some((_, url)) = line?.split_once("listening on ") {
                this.url = url.trim().trim_end_matches('/').to_owned();
                return Ok(this);
            }
        }
        bail!("feedline s3sim ended without saying where it listens")
    }

    /// Asks for a path and returns head and body.
    fn ask(&self, path: &str) -> Result<String> {
        let address = self.url.strip_prefix("http://").context("the bucket's address")?;
        let mut stream = match &self.inside {
            None => TcpStream::connect(address),
            Some(inside) => inside.run(|| TcpStream::connect(address))?,
        }
        .context("connect to the bucket")?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Lists the first key of a bucket: from then on the simulator knows its folder, which can take it
    /// longer than a client waits for an answer.
    pub(crate) fn know(&self, bucket: &str) -> Result<()> {
        let answer = self.ask(&format!("/{bucket}?list-type=2&max-keys=1"))?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "the bucket cannot be listed: {answer}");
        Ok(())
    }

    /// The counters of `/__stats`.
    pub(crate) fn counters(&self) -> Result<Value> {
        let answer = self.ask("/__stats")?;
        // The body is one JSON object; with chunked encoding its braces still enclose it.
        let body = answer.find('{').zip(answer.rfind('}')).map(|(from, to)| &answer[from..=to]);
        Ok(serde_json::from_str(body.context("the bucket gave no counters")?)?)
    }

    /// Requests so far, by verb.
    pub(crate) fn requests(&self) -> Result<Requests> {
        let stats = self.counters()?;
        let count = |verb: &str| {
            stats[verb].as_u64().with_context(|| format!("no count of {verb} in {stats}"))
        };
        Ok(Requests {
            get: count("get")?,
            head: count("head")?,
            list: count("list")?,
            other: count("put")? + count("post")? + count("delete")?,
        })
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A mounted bucket.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) system: System,
    /// Where it is mounted.
    pub(crate) dir: PathBuf,
    /// Holds everything of this mount: mountpoint, cache, log.
    pub(crate) home: PathBuf,
    daemon: Option<Child>,
}

impl Mount {
    /// Mounts `bucket` at a folder below `home`, caching below `home` too. The same `home` finds the
    /// cache again.
    pub(crate) fn new(system: &System, at: &Bucket, bucket: &str, home: &Path) -> Result<Self> {
        Self::new_in(system, at, bucket, home, None)
    }

    /// The same with the daemon in a network namespace.
    pub(crate) fn new_in(
        system: &System,
        at: &Bucket,
        bucket: &str,
        home: &Path,
        inside: Option<&Namespace>,
    ) -> Result<Self> {
        let (dir, cache, log) = (home.join("mnt"), home.join("cache"), home.join("daemon.log"));
        for folder in [&dir, &cache] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let place = Place { endpoint: &at.url, bucket, home, dir: &dir, cache: &cache };
        let mut command = system.command(&place)?;
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        if let Some(inside) = inside {
            inside.put(&mut command);
        }
        let child = spawn(&mut command)?;
        let mut this =
            Self { system: system.clone(), dir, home: home.to_owned(), daemon: Some(child) };
        let log = || fs::read_to_string(&log).unwrap_or_default();
        let served = wait_until(|| {
            let child = this.daemon.as_mut().context("the daemon just started")?;
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}: {}", system.name(), log().trim());
            }
            Ok(is_mountpoint(&this.dir))
        })?;
        ensure!(served, "{} did not mount within {WAIT_MAX:?}: {}", system.name(), log().trim());
        Ok(this)
    }

    /// Takes the mount away and waits until its daemon is gone.
    pub(crate) fn end(mut self) -> Result<()> {
        let mut child = self.daemon.take().context("a mount has a daemon")?;
        let ended = end_process(&mut child)?;
        let clean = ended && !is_mountpoint(&self.dir);
        detach(&self.dir);
        let log = fs::read_to_string(self.home.join("daemon.log")).unwrap_or_default();
        ensure!(clean, "{} did not unmount when asked to end: {}", self.system.name(), log.trim());
        Ok(())
    }

    /// The same, and everything that it kept on disk.
    pub(crate) fn discard(self) -> Result<()> {
        let home = self.home.clone();
        self.end()?;
        fs::remove_dir_all(&home).with_context(|| format!("remove {}", home.display()))
    }

    /// Ends the daemon without a word, as a crash does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("a mount has a daemon")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The process that serves.
    pub(crate) fn pid(&self) -> u32 {
        let started = self.daemon.as_ref().map_or(0, Child::id);
        let served_by_a_child = matches!(self.system, System::Juicefs { .. });
        let child = served_by_a_child.then(|| only_child(started)).flatten();
        child.unwrap_or(started)
    }

    /// What a Feedline daemon says of itself.
    pub(crate) fn status(&self) -> Result<Status> {
        let run_dir = std::env::var_os("FEEDLINE_RUN_DIR").map(PathBuf::from);
        let run_dir = run_dir.unwrap_or_else(feedline_node::paths::run_dir_default);
        // It registers a moment after the kernel shows its mount.
        let mut found = None;
        wait_until(|| {
            found = locate(&run_dir, &self.dir)?;
            Ok(found.is_some())
        })?;
        let (daemon, _) = found.context("no daemon serves the mount")?;
        let client = Client::new(daemon.socket(), self.dir.display().to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(client.status())?)
    }

    /// CPU seconds of the daemon so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // Fields 14 and 15; the name in field 2 may hold spaces and ends at the last parenthesis.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks =
            fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok());
        ticks.sum::<f64>() / TICKS_PER_SECOND
    }

    /// What its cache takes on the disk; `is_writing`: once it has written what it has in hand.
    ///
    /// # Errors
    ///
    /// If a signal ends the run.
    pub(crate) fn disk_bytes(&self, is_writing: bool) -> Result<u64> {
        let cache = self.home.join("cache");
        if !is_writing {
            return Ok(disk_bytes(&cache));
        }
        let mut bytes = None;
        for _ in 0..WRITTEN_MAX.as_millis() / WRITTEN_POLL.as_millis() {
            let before = bytes.replace(disk_bytes(&cache));
            if bytes == before {
                break;
            }
            crate::interrupt::pause(WRITTEN_POLL)?;
        }
        Ok(bytes.unwrap_or_default())
    }

    /// The memory that the daemon holds, and the most that it ever held, in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let field = |name| kib_field(&status, name).context("memory of the daemon");
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(child) = &mut self.daemon {
            // Best effort after an error: readers are gone, so the daemon can go at once.
            detach(&self.dir);
            let _ = end_process(child);
        }
        detach(&self.dir);
    }
}

/// What everything below a folder takes on the disk; what vanishes meanwhile takes nothing.
fn disk_bytes(folder: &Path) -> u64 {
    let below = fs::read_dir(folder).into_iter().flatten().flatten();
    let each = below.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * BLOCK_BYTES,
        Err(_) => 0,
    });
    each.sum()
}

/// What the kernel counts blocks of a file in, on every file system.
const BLOCK_BYTES: u64 = 512;

/// The child of a process that has one.
fn only_child(pid: u32) -> Option<u32> {
    // Each thread has children of its own.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut children =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    children.find_map(|pids| pids.split_whitespace().next()?.parse().ok())
}

/// The kernel counts CPU time in hundredths of a second in /proc, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds that the whole machine spent in the kernel so far (system, irq, softirq).
pub(crate) fn kernel_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|t| t.parse().ok())
        .collect();
    [2, 5, 6].iter().filter_map(|i| fields.get(*i)).sum::<f64>() / TICKS_PER_SECOND
}

/// One field of /proc/meminfo in bytes.
pub(crate) fn memory_bytes(name: &'static str) -> Result<u64> {
    kib_field(&fs::read_to_string("/proc/meminfo")?, name).context(name)
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Everything mounted below `dir`, innermost first.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let paths = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut found: Vec<PathBuf> = paths.filter(|path| path.starts_with(dir)).collect();
    found.reverse();
    found
}

fn is_mountpoint(dir: &Path) -> bool {
    mounts_below(dir).iter().any(|path| path == dir)
}

/// The folder of one run, for caches and mountpoints. Dropping it unmounts what is left there, and removes it.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it below `dir`, where the next run finds it if this one is killed.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let home = dir.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        Ok(Self(home))
    }
}

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        take_away(&self.0);
    }
}

/// Detaches whatever is mounted below `dir`, and removes it. What cannot be done is said.
pub(crate) fn take_away(dir: &Path) {
    detach(dir);
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("cannot remove {}: {error}", dir.display());
    }
}

/// Detaches whatever is mounted at or below `dir`.
pub(crate) fn detach(dir: &Path) {
    for path in mounts_below(dir) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        if let Err(error) = rustix::mount::unmount(&path, flags) {
            eprintln!("cannot unmount {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_ends_when_asked() {
        let mut command = Command::new("sleep");
        let mut child = spawn(command.arg("600")).expect("started");
        assert!(end_process(&mut child).expect("ended"), "sleep ends when asked");
    }

    #[test]
    fn a_path_beside_a_mountpoint_is_none() {
        assert!(is_mountpoint(Path::new("/proc")));
        assert!(!is_mountpoint(Path::new("/pro")));
        assert!(kernel_cpu_seconds() > 0.0);
        assert!(memory_bytes("MemTotal:").expect("read") > 1 << 20);
    }
}
