//! What a scenario runs against: a bucket with latency, mounts of it, and what they cost.
//!
//! Everything is driven as a user would: `feedline s3sim`, `feedline mount`, `feedline status`,
//! `feedline umount`, s3fs. Dropping a value ends the process and takes the mount away, so that an
//! error or a panic leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What the simulated bucket accepts; it checks signatures, not who they belong to.
const CREDENTIALS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "bench"),
    ("AWS_SECRET_ACCESS_KEY", "bench-secret"),
    ("AWS_REGION", "us-east-1"),
];

/// The `feedline` command itself.
fn feedline() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find the own program")?);
    command.envs(CREDENTIALS);
    Ok(command)
}

/// Runs to the end; an error carries what it wrote to standard error.
fn finish(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, why.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A running `feedline s3sim`.
#[derive(Debug)]
pub(super) struct Bucket {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub(super) url: String,
}

impl Bucket {
    /// Serves the buckets that are the folders of `root`.
    pub(super) fn start(root: &Path, latency: &str) -> Result<Self> {
        let mut child = feedline()?
            .args(["s3sim", "--listen", "127.0.0.1:0", "--latency", latency, "--root"])
            .arg(root)
            .stdout(Stdio::piped())
            .spawn()
            .context("start feedline s3sim")?;
        let output = child.stdout.take().context("output of feedline s3sim")?;
        let mut this = Self { child, url: String::new() };
        for line in BufReader::new(output).lines() {
            if let Some((_, url)) = line?.split_once("listening on ") {
                this.url = url.trim().trim_end_matches('/').to_owned();
                return Ok(this);
            }
        }
        bail!("feedline s3sim ended without saying where it listens")
    }

    /// The counters of `/__stats`: requests by verb.
    pub(super) fn requests(&self) -> Result<Requests> {
        let address = self.url.strip_prefix("http://").context("the bucket's address")?;
        let mut stream = TcpStream::connect(address).context("ask the bucket for its counters")?;
        write!(stream, "GET /__stats HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        // The body is one JSON object; with chunked encoding its braces still enclose it.
        let body = answer.find('{').zip(answer.rfind('}')).map(|(from, to)| &answer[from..=to]);
        let stats: Value = serde_json::from_str(body.context("the bucket gave no counters")?)?;
        let count = |verb: &str| {
            stats[verb].as_u64().with_context(|| format!("no count of {verb} in {stats}"))
        };
        Ok(Requests { get: count("get")?, head: count("head")?, list: count("list")? })
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requests to the bucket by verb.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Requests {
    pub(super) get: u64,
    pub(super) head: u64,
    pub(super) list: u64,
}

impl Requests {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            get: self.get - before.get,
            head: self.head - before.head,
            list: self.list - before.list,
        }
    }

    pub(super) fn total(self) -> u64 {
        self.get + self.head + self.list
    }
}

/// Which program mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    /// Feedline, with its mode of opening files.
    Feedline(&'static str),
    /// s3fs, tuned for reading, with its disk cache.
    S3fs,
}

/// A mounted bucket.
#[derive(Debug)]
pub(super) struct Mount {
    system: System,
    /// Where it is mounted.
    pub(super) dir: PathBuf,
    daemon: u32,
    mounted: bool,
}

impl Mount {
    /// Mounts `bucket` at a folder below `home`, caching below `home` too. The same `home` finds the
    /// cache again.
    pub(super) fn new(system: System, at: &Bucket, bucket: &str, home: &Path) -> Result<Self> {
        let (dir, cache) = (home.join("mnt"), home.join("cache"));
        for folder in [&dir, &cache] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let mut this = Self { system, dir, daemon: 0, mounted: true };
        this.daemon = match system {
            System::Feedline(open) => this.feedline(open, at, bucket, &cache)?,
            System::S3fs => this.s3fs(at, bucket, home, &cache)?,
        };
        Ok(this)
    }

    fn feedline(&self, open: &str, at: &Bucket, bucket: &str, cache: &Path) -> Result<u32> {
        let mut command = feedline()?;
        command.arg("mount").arg(format!("s3://{bucket}")).arg(&self.dir);
        command.args(["--endpoint", &at.url, "--metadata-ttl", "1h", "--open", open]);
        command.arg("--cache").arg(format!("{}:40GiB", cache.display()));
        // The daemon keeps what it inherits: pipes that outlive the command would never end.
        command.stdout(Stdio::null());
        let status = command.status().with_context(|| format!("start {command:?}"))?;
        anyhow::ensure!(status.success(), "{command:?} ended with {status}");
        let mut command = feedline()?;
        command.args(["status", "--json"]);
        let status: Value = serde_json::from_str(&finish(command)?)?;
        let pid = daemon_pid(&status, &self.dir.display().to_string());
        pid.with_context(|| format!("no daemon for {} in {status}", self.dir.display()))
    }

    fn s3fs(&self, at: &Bucket, bucket: &str, home: &Path, cache: &Path) -> Result<u32> {
        let password = home.join("passwd-s3fs");
        fs::write(&password, "bench:bench-secret\n")?;
        fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let options = format!(
            "url={},use_path_request_style,sigv4,passwd_file={},ro,umask=0022,complement_stat,\
             kernel_cache,max_background=1000,parallel_count=30,multireq_max=30,\
             max_stat_cache_size=2000000,stat_cache_expire=86400,enable_noobj_cache,listobjectsv2,\
             attr_timeout=3600,entry_timeout=3600,use_cache={},ensure_diskfree=10240",
            at.url,
            password.display(),
            cache.display()
        );
        let mut command = Command::new("s3fs");
        command.arg(bucket).arg(&self.dir).args(["-f", "-o", &options]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("start s3fs (apt-get install s3fs)")?;
        let pid = child.id();
        // s3fs says nothing when it serves: look until the folder is another file system, at most 10 s.
        for _ in 0..100 {
            if is_mountpoint(&self.dir) {
                return Ok(pid);
            }
            crate::time::sleep(Duration::from_millis(100));
        }
        bail!("s3fs did not mount {bucket} within 10 s")
    }

    /// Takes the mount away and waits until it is gone.
    pub(super) fn end(mut self) -> Result<()> {
        self.mounted = false;
        match self.system {
            System::Feedline(_) => {
                let mut command = feedline()?;
                command.arg("umount").arg(&self.dir);
                finish(command).map(drop)
            }
            System::S3fs => {
                let mut command = Command::new("umount");
                command.arg(&self.dir);
                finish(command).map(drop)
            }
        }
    }

    /// CPU seconds of the daemon so far.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.daemon)).unwrap_or_default();
        // Fields 14 and 15; the name in field 2 may hold spaces and ends at the last parenthesis.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks =
            fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok());
        ticks.sum::<f64>() / TICKS_PER_SECOND
    }

    /// The most memory that the daemon ever held, in bytes.
    pub(super) fn peak_resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon))?;
        kib_field(&status, "VmHWM:").context("peak memory of the daemon")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted && is_mountpoint(&self.dir) {
            // After an error: detach at once; the daemon ends when its mount is gone.
            let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
        }
    }
}

/// The kernel counts CPU time in hundredths of a second in /proc, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds that the whole machine spent in the kernel so far (system, irq, softirq).
pub(super) fn kernel_cpu_seconds() -> f64 {
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

/// Bytes of file contents in memory.
pub(super) fn page_cache_bytes() -> Result<u64> {
    kib_field(&fs::read_to_string("/proc/meminfo")?, "Cached:").context("Cached in /proc/meminfo")
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn is_mountpoint(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.display().to_string();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(dir.as_str()))
}

/// The pid of the daemon that serves `mountpoint`, wherever the status lists it.
fn daemon_pid(status: &Value, mountpoint: &str) -> Option<u32> {
    match status {
        Value::Array(items) => items.iter().find_map(|item| daemon_pid(item, mountpoint)),
        Value::Object(fields) => {
            if fields.get("mountpoint").and_then(Value::as_str) == Some(mountpoint) {
                return fields.get("pid")?.as_u64()?.try_into().ok();
            }
            fields.values().find_map(|value| daemon_pid(value, mountpoint))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_of_a_mountpoint_is_found() {
        let one = serde_json::json!({"pid": 7, "mountpoint": "/mnt/a"});
        let many = serde_json::json!([one, {"pid": 8, "mountpoint": "/mnt/b"}]);
        assert_eq!(daemon_pid(&one, "/mnt/a"), Some(7));
        assert_eq!(daemon_pid(&many, "/mnt/b"), Some(8));
        assert_eq!(daemon_pid(&many, "/mnt/c"), None);
    }
}
