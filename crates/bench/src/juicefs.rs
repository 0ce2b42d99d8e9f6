//! JuiceFS as a contestant: it serves only its own format, so the data set is imported first.
//!
//! A volume is made in the simulated bucket, and `juicefs sync` copies the data set into it from there, as
//! its user would. Metadata lie in a SQLite file on the local disk, which needs no server and no network.
//! The import is recorded beside the figures and is part of none.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::targets::lab::{CREDENTIALS, run_to_end};

/// The bucket that holds the volume's objects.
pub(crate) const BUCKET: &str = "juicefs";
/// The volume's name: the prefix of its objects.
const VOLUME: &str = "volume";
/// Files that are imported at a time: enough to hide the bucket's latency.
const IMPORTS_MAX: usize = 64;

/// The program: what `FEEDLINE_JUICEFS` names, else where `scripts/setup loaders` puts it, else the one
/// of the `PATH`.
pub(crate) fn program() -> PathBuf {
    let usual = Path::new(".venv/bin/juicefs");
    match std::env::var_os("FEEDLINE_JUICEFS") {
        Some(named) => named.into(),
        None if usual.exists() => usual.to_owned(),
        None => "juicefs".into(),
    }
}

/// A volume that holds a copy of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Its metadata's file.
    metadata: PathBuf,
}

impl Volume {
    /// Makes a volume in the bucket [`BUCKET`] of the server at `endpoint`, which must be there, and
    /// copies the bucket `from` of the same server into it. Metadata and logs are kept in `home`.
    ///
    /// # Errors
    ///
    /// If the program fails, with the last of what it said; or a signal came.
    pub(crate) fn import(endpoint: &str, from: &str, home: &Path) -> Result<Self> {
        fs::create_dir_all(home).with_context(|| format!("create {}", home.display()))?;
        let this = Self { metadata: home.join("metadata.db") };
        let [(_, key), (_, secret), _] = CREDENTIALS;
        let mut format = command(home);
        format.args(["format", "--storage", "s3", "--trash-days", "0", "--bucket"]);
        format.arg(format!("{endpoint}/{BUCKET}"));
        format.args(["--access-key", key, "--secret-key", secret]);
        format.arg(this.address()).arg(VOLUME);
        run_to_end(&mut format, &home.join("format.log")).context("make a volume of JuiceFS")?;
        let host = endpoint.strip_prefix("http://").context("the bucket's address")?;
        let mut sync = command(home);
        // It finds a volume's metadata in a variable of the name that stands in the address.
        sync.env("IMPORTED", this.address());
        sync.args(["sync", "--metrics", ANY_PORT, "--threads", &IMPORTS_MAX.to_string()]);
        sync.arg(format!("minio://{key}:{secret}@{host}/{from}/")).arg("jfs://IMPORTED/");
        run_to_end(&mut sync, &home.join("sync.log")).context("import into JuiceFS")?;
        Ok(this)
    }

    /// What mounts it at `dir`, in the foreground, caching in `cache`; with the options that were found
    /// best for reading, by trial and in its documentation.
    pub(crate) fn mount(&self, dir: &Path, cache: Option<&Path>, flags: &[String]) -> Command {
        let mut mount = command(self.metadata.parent().unwrap_or(Path::new("/")));
        mount.arg("mount").args(["--read-only", "--hide-internal", "--no-usage-report"]);
        mount.args(["--no-syslog", "--no-bgjob", "--backup-meta", "0", "--metrics", ANY_PORT]);
        for kept in ["--attr-cache", "--entry-cache", "--dir-entry-cache", "--open-cache"] {
            mount.args([kept, "1h"]);
        }
        mount.args(["--readdir-cache", "--open-cache-limit", "0", "--max-fuse-io", "1M"]);
        // Blocks wait for its cache disk in a queue of one place for each 4 MiB of buffer and are not kept
        // when it is full: with the default, 32 readers of small files lose half of them.
        mount.args(["--buffer-size", "4096", "--max-readahead", "8"]);
        match cache {
            Some(cache) => mount.arg("--cache-dir").arg(cache).args([
                "--cache-size",
                "200G",
                "--free-space-ratio",
                "0.01",
                "--verify-cache-checksum",
                "none",
            ]),
            None => mount.args(["--cache-size", "0"]),
        };
        mount.args(flags).arg(self.address()).arg(dir);
        mount
    }

    fn address(&self) -> String {
        format!("sqlite3://{}", self.metadata.display())
    }
}

/// Its metrics are always served somewhere; a free port disturbs nobody.
const ANY_PORT: &str = "127.0.0.1:0";

fn command(home: &Path) -> Command {
    let mut command = Command::new(program());
    command.arg("--no-agent").env("HOME", home);
    // What is between us and the world is not between it and the simulated bucket.
    let world = |name: &OsStr| {
        let name = name.to_string_lossy().to_ascii_lowercase();
        name.ends_with("_proxy") || name.starts_with("aws_")
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| world(name)) {
        command.env_remove(name);
    }
    command
}
