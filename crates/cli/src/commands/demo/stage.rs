//! The actors of the demo: the bucket, a Feedline mount, an s3fs mount. Each is what a user would
//! start, by the same command; dropping one ends it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use feedline_bench::s3fs::S3fs;

use crate::mountinfo;

/// The bucket's name.
pub(super) const BUCKET: &str = "demo";

/// How long a mount may take to appear.
const MOUNT_TIME_MAX: Duration = Duration::from_secs(30);

/// Requests that the bucket has answered.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Requests {
    /// Of any kind.
    pub(super) total: u64,
}

impl Requests {
    /// Those since `before`.
    pub(super) fn since(self, before: Self) -> u64 {
        self.total - before.total
    }
}

/// An S3 server over a folder.
#[derive(Debug)]
pub(super) struct Bucket {
    process: Child,
    /// `http://127.0.0.1:PORT`.
    pub(super) endpoint: String,
}

impl Bucket {
    /// Serves the folders in `root` as buckets.
    pub(super) fn start(root: &Path, latency: &str) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["s3sim", "--listen", "127.0.0.1:0", "--latency", latency, "--root"])
            .arg(root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the bucket")?;
        let mut line = String::new();
        let output = process.stdout.take().context("the bucket's output")?;
        BufReader::new(output).read_line(&mut line)?;
        let Some(at) = line.find("http://") else { bail!("the bucket did not start: {line}") };
        Ok(Self { endpoint: line[at..].trim().to_owned(), process })
    }

    /// What it has answered so far.
    pub(super) fn requests(&self) -> Result<Requests> {
        let host = self.endpoint.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host)?;
        write!(stream, "GET /__stats HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").context("an HTTP answer")?.1;
        let stats: serde_json::Value =
            serde_json::from_str(body).context("the bucket's counters")?;
        let verbs = ["get", "head", "list", "put", "post", "delete"];
        Ok(Requests { total: verbs.iter().filter_map(|verb| stats[*verb].as_u64()).sum() })
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A mounted bucket.
#[derive(Debug)]
pub(super) struct Mounted {
    /// Where.
    pub(super) dir: PathBuf,
    by: By,
}

#[derive(Debug)]
enum By {
    Feedline,
    S3fs(Child),
}

impl Mounted {
    /// By Feedline, with its defaults.
    pub(super) fn feedline(bucket: &Bucket, work: &Path) -> Result<Self> {
        let dir = made(work, "feedline")?;
        let cache = format!("{}:100GiB", made(work, "feedline-cache")?.display());
        let output = Command::new(std::env::current_exe()?)
            .args(["mount", &format!("s3://{BUCKET}")])
            .arg(&dir)
            .args(["--endpoint", &bucket.endpoint, "--cache", &cache])
            .envs(credentials())
            .output()
            .context("start feedline mount")?;
        if !output.status.success() {
            bail!("feedline mount: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self { dir, by: By::Feedline })
    }

    /// By s3fs, with its best options for reading and with its cache.
    pub(super) fn s3fs(bucket: &Bucket, work: &Path) -> Result<Self> {
        let dir = made(work, "s3fs")?;
        let cache = made(work, "s3fs-cache")?;
        let (_, access_key) = credentials()[0];
        let (_, secret_key) = credentials()[1];
        let s3fs = S3fs {
            endpoint: &bucket.endpoint,
            bucket: BUCKET,
            credentials: &format!("{access_key}:{secret_key}"),
            mountpoint: &dir,
            cache: Some(&cache),
            password_file: &work.join("s3fs-password"),
        };
        let process = s3fs
            .command()?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start s3fs (apt-get install s3fs; or run with --no-s3fs)")?;
        let mounted = Self { dir, by: By::S3fs(process) };
        mounted.wait_until_there()?;
        Ok(mounted)
    }

    #[expect(clippy::disallowed_methods, reason = "waits for another program's mount")]
    fn wait_until_there(&self) -> Result<()> {
        let start = Instant::now();
        while mountinfo::at(&self.dir)?.is_none() {
            if start.elapsed() > MOUNT_TIME_MAX {
                bail!("s3fs did not mount {} within {MOUNT_TIME_MAX:?}", self.dir.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        match &mut self.by {
            By::Feedline => {
                let program = std::env::current_exe().unwrap_or_else(|_| "feedline".into());
                let _ = Command::new(program).arg("umount").arg(&self.dir).output();
            }
            By::S3fs(process) => {
                let _ = crate::unmount::lazily(&self.dir);
                let _ = process.wait();
            }
        }
    }
}

/// The bucket takes any; s3fs and the S3 protocol want some.
fn credentials() -> [(&'static str, &'static str); 3] {
    [
        ("AWS_ACCESS_KEY_ID", "demo"),
        ("AWS_SECRET_ACCESS_KEY", "demo-secret"),
        ("AWS_REGION", "us-east-1"),
    ]
}

fn made(work: &Path, name: &str) -> Result<PathBuf> {
    let dir = work.join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}
