//! One test's world: a bucket, a mountpoint, a cache and a run directory, gone without a trace at the end.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use feedline_bench::netns::Network;
use feedline_s3sim::{Builder, S3Sim};
use feedline_testkit::process::has_stopped;
use serde_json::Value;
use tempfile::TempDir;

/// What every sandbox has in its bucket `b`.
pub(crate) const KEYS: [(&str, usize); 4] =
    [("train/a.jpg", 110_000), ("train/b.jpg", 70_000), ("val/c.jpg", 110_001), ("big", 9 << 20)];

pub(crate) const ACCESS_KEY: &str = "feedline";
pub(crate) const SECRET_KEY: &str = "feedline-secret";

/// How long anything may take before a test fails: generous, for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Sandbox {
    dir: TempDir,
    pub(crate) sim: S3Sim,
    /// The mountpoint.
    pub(crate) mnt: PathBuf,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    /// With the bucket's server shaped by `shape`.
    pub(crate) fn with(shape: impl FnOnce(Builder) -> Builder) -> Self {
        Self::serving(|builder| shape(builder).start().unwrap())
    }

    /// With the bucket at the hub of a network, where every node of it can reach it.
    pub(crate) fn at_hub(network: &Network, shape: impl FnOnce(Builder) -> Builder + Send) -> Self {
        let address = SocketAddr::from((network.hub_address(), 0));
        let start = |builder: Builder| shape(builder.listen(address)).start().unwrap();
        Self::serving(|builder| network.hub().run(|| start(builder)).unwrap())
    }

    fn serving(start: impl FnOnce(Builder) -> S3Sim) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests mount: run them as root");
        assert!(Path::new("/dev/fuse").exists(), "these tests mount: they need /dev/fuse");
        // On a disk: a cache refuses tmpfs, which /tmp may be.
        let dir = tempfile::Builder::new().prefix("feedline-cli-").tempdir_in("/var/tmp").unwrap();
        let builder = S3Sim::builder().empty().credentials(ACCESS_KEY, SECRET_KEY);
        let sim = start(builder);
        for (key, size) in KEYS {
            sim.put_object("b", key, content(key, size));
        }
        let mnt = dir.path().join("mnt");
        fs::create_dir(&mnt).unwrap();
        Self { dir, sim, mnt }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The environment of a user of this sandbox, for a program that is not `feedline` itself.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.dir.path())
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("FEEDLINE_RUN_DIR", self.path("run"))
            .env("FEEDLINE_CACHE", format!("{}:1GiB", self.path("cache").display()))
            .env("FEEDLINE_ENDPOINT", self.sim.endpoint())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn feedline<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_feedline"));
        command.args(args);
        command
    }

    /// Runs `feedline` to its end.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Ran {
        Ran::of(&mut self.feedline(args))
    }

    pub(crate) fn mnt_str(&self) -> &str {
        self.mnt.to_str().unwrap()
    }

    /// Mounts bucket `b` in the background with more flags; panics with the errors if that fails.
    pub(crate) fn mount(&self, flags: &[&str]) {
        let mut args = vec!["mount", "s3://b", self.mnt_str()];
        args.extend(flags);
        self.run(&args).ok();
        assert!(self.is_mounted(), "mount returned before anything was mounted");
    }

    pub(crate) fn umount(&self) {
        self.run(&["umount", self.mnt_str()]).ok();
        assert!(!self.is_mounted(), "umount returned with the mount still there");
    }

    /// How many mounts there are.
    pub(crate) fn mounts(&self) -> usize {
        mounts_below(self.dir.path()).len()
    }

    pub(crate) fn is_mounted(&self) -> bool {
        mounts_below(self.dir.path()).contains(&self.mnt)
    }

    pub(crate) fn read(&self, key: &str) -> std::io::Result<Vec<u8>> {
        fs::read(self.mnt.join(key))
    }

    /// Reads a file through the mount and compares it with what was put into the bucket.
    pub(crate) fn read_right(&self, key: &str) {
        let size = KEYS.iter().find(|(known, _)| *known == key).unwrap().1;
        assert!(self.read(key).unwrap() == content(key, size), "{key} has wrong bytes");
    }

    /// The daemon, as it registered.
    pub(crate) fn daemon_pid(&self) -> i32 {
        let status = self.run(&["status", "--json", self.mnt_str()]).json();
        i32::try_from(status["pid"].as_i64().unwrap()).unwrap()
    }

    /// Processes of ours: those with a path of this sandbox on their command line.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let ours = self.dir.path().to_str().unwrap();
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).into_owned();
            (command.contains("feedline\0") && command.contains(ours)).then_some(pid)
        });
        pids.collect()
    }

    /// Nothing serves and nothing is mounted any more.
    pub(crate) fn assert_gone(&self) {
        wait_until("all processes are gone", || self.processes().is_empty());
        assert_eq!(mounts_below(self.dir.path()), Vec::<PathBuf>::new());
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The watchdog sees the daemon's end, and follows; a failed test is cleaned up at once.
        #[expect(clippy::disallowed_methods, reason = "watches other processes in real time")]
        for _ in 0..500 {
            if std::thread::panicking() || self.processes().is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let (mounts, processes) = (mounts_below(self.dir.path()), self.processes());
        for pid in &processes {
            signal(*pid, rustix::process::Signal::KILL);
        }
        for mountpoint in &mounts {
            let _ = rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH);
        }
        if !std::thread::panicking() {
            assert!(mounts.is_empty(), "left mounted: {mounts:?}");
            assert!(processes.is_empty(), "left running: {processes:?}");
        }
    }
}

/// A finished command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::from(command.output().unwrap())
    }

    pub(crate) fn from(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Ended with this code; standard error is one line `feedline: …` (and a way out) with `words`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert!(lines[0].starts_with("feedline: "), "{self:#?}");
        assert!(lines.len() <= 2, "more than an error and its way out: {self:#?}");
        assert!(lines.get(1).is_none_or(|line| line.starts_with("way out: ")), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing: {self:#?}");
        }
    }
}

/// The bytes of a key: seeded by its name, no two blocks alike.
pub(crate) fn content(key: &str, size: usize) -> Vec<u8> {
    let mut state = key.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, &mut holds);
}

#[track_caller]
#[expect(clippy::disallowed_methods, reason = "a test watches other processes in real time")]
pub(crate) fn wait_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal. A process that is to stop has stopped when this returns: until one of its threads has
/// taken the signal, which on a busy machine is later, the others still answer.
#[track_caller]
pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
    if signal == rustix::process::Signal::STOP {
        wait_until("the process to stop", || has_stopped(pid.unsigned_abs()));
    }
}

/// Mountpoints below `dir`.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mountpoints = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    mountpoints.filter(|mountpoint| mountpoint.starts_with(dir)).collect()
}
