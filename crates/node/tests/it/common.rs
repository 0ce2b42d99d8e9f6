//! A node over a simulated bucket and a real mount, in directories of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use feedline_node::api::{PathQuery, Status, Usage};
use feedline_node::config::{Inputs, Merged, ResolvedConfig};
use feedline_node::store::Environment;
use feedline_node::{Client, Node, StartError};
use feedline_s3sim::S3Sim;

/// The bucket of every test.
pub(crate) const BUCKET: &str = "data";

const ACCESS_KEY: &str = "AKIDEXAMPLE";
const SECRET_KEY: &str = "hunter2-hunter2-hunter2";

/// The object contents by key.
pub(crate) type Content = BTreeMap<String, Vec<u8>>;

/// A bucket, and room for one node.
pub(crate) struct Site {
    pub(crate) sim: S3Sim,
    pub(crate) content: Content,
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    /// Settings beyond those that every test needs.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
}

/// Bytes that differ between keys, versions and offsets.
pub(crate) fn bytes_of(key: &str, version: u64, size: usize) -> Vec<u8> {
    let mut state = key.bytes().fold(version.wrapping_mul(31) + 7, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            (state >> 56) as u8
        })
        .collect()
}

/// `folders` class folders of `files` files each, of 0 to 20 KB.
pub(crate) fn tree(folders: usize, files: usize) -> Content {
    let mut content = Content::new();
    for folder in 0..folders {
        for file in 0..files {
            let key = format!("train/n{folder:04}/img_{file:05}.jpg");
            let size = (folder * 7919 + file * 104_729) % 20_000;
            content.insert(key.clone(), bytes_of(&key, 1, size));
        }
    }
    content
}

impl Site {
    /// A bucket with this content.
    pub(crate) fn new(content: Content) -> Self {
        assert!(
            rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists(),
            "these tests mount: run them as root, with /dev/fuse"
        );
        let sim = S3Sim::builder().empty().credentials(ACCESS_KEY, SECRET_KEY).start().unwrap();
        sim.create_bucket(BUCKET);
        for (key, bytes) in &content {
            sim.put_object(BUCKET, key, bytes);
        }
        sim.reset_stats();
        // On a disk: a cache cannot lie on overlayfs, and memory has no blocks to count.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let environment =
            vec![("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        Self { sim, content, dir, runtime, settings: Vec::new(), environment }
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    pub(crate) fn config(&self) -> ResolvedConfig {
        let own = |name: &str, value: String| (name.to_owned(), value);
        let mut flags = vec![
            own("source", format!("s3://{BUCKET}")),
            own("mountpoint", self.mnt().display().to_string()),
            own("endpoint", self.sim.endpoint()),
            own("run_dir", self.path("run").display().to_string()),
            // Room for a slow machine: an attempt given up for its sake is one request too many.
            own("retry_budget", "8s".into()),
            own("request_timeout", "8s".into()),
        ];
        if !self.settings.iter().any(|(name, _)| name == "cache") {
            flags.push(own("cache", format!("{}:1GiB", self.path("cache").display())));
        }
        flags.extend(self.settings.clone());
        let inputs = Inputs { flags, ..Inputs::default() };
        ResolvedConfig::resolve(&Merged::load(&inputs).unwrap()).unwrap()
    }

    pub(crate) fn try_start(&self) -> Result<Node, StartError> {
        let environment = Environment::from_pairs(self.environment.iter().copied());
        Node::start_with(self.config(), &environment)
    }

    pub(crate) fn start(&self) -> Node {
        self.try_start().unwrap()
    }

    pub(crate) fn call<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    pub(crate) fn status(&self, client: &Client) -> Status {
        self.call(client.status()).unwrap()
    }

    pub(crate) fn du(&self, client: &Client, path: &str) -> Usage {
        self.call(client.du(&below(path))).unwrap()
    }

    /// Reads the whole tree through the mount and compares every byte.
    pub(crate) fn read_all(&self) {
        let mut found = Content::new();
        walk(&self.mnt(), "", &mut found);
        assert_eq!(found.len(), self.content.len(), "files in the mount");
        for (key, bytes) in &self.content {
            assert!(found[key] == *bytes, "{key} has other bytes");
        }
    }

    /// Waits until `done`, asking again every few milliseconds; fails after 20 s.
    pub(crate) fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let clock = feedline_testkit::RealClock::default();
        for _ in 0..1000 {
            if done() {
                return;
            }
            let pause = Duration::from_millis(20);
            self.call(async { feedline_model::Clock::sleep(&clock, pause).await });
        }
        panic!("not within 20 s: {what}");
    }

    /// True if something is mounted on the mount point.
    pub(crate) fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mnt = self.mnt().display().to_string();
        mounts.lines().any(|line| line.split(' ').nth(4) == Some(&mnt))
    }

    /// Asserts that a node which ended left nothing but its cache.
    pub(crate) fn assert_nothing_left(&self) {
        assert!(!self.is_mounted(), "the mount is left");
        let left: Vec<_> = match fs::read_dir(self.path("run")) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => Vec::new(),
        };
        assert_eq!(left, Vec::<PathBuf>::new(), "files in the run directory");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A test that failed may leave its mount; the directory could not be removed then.
        if self.is_mounted() {
            let flags = rustix::mount::UnmountFlags::DETACH;
            let _ = rustix::mount::unmount(self.mnt(), flags);
        }
    }
}

/// A path and everything below it.
pub(crate) fn below(path: &str) -> PathQuery {
    PathQuery { path: path.into(), recursive: true, cached: false, node_only: false }
}

fn walk(dir: &Path, prefix: &str, found: &mut Content) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), &format!("{name}/"), found);
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
}
