//! The programs that can stand between a reader and the bucket, each with the options that were found
//! best for reading. Only what is started is decided here; `lab` starts, watches and ends it.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::lab::{CREDENTIALS, feedline};
use crate::juicefs::Volume;
use crate::s3fs::S3fs;

/// Feedline's default `--buffer`, set here by name because the memory target is stated on top of it.
pub(crate) const BUFFER_MIB: u64 = 128;

/// Which program mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum System {
    /// Feedline with more flags of `feedline mount`, under the name of the contestant.
    Feedline {
        /// What stands behind `feedline` in tables.
        name: String,
        /// Flags besides those that say where bucket and cache are.
        flags: Vec<String>,
    },
    /// s3fs, tuned for reading, with its disk cache or without.
    S3fs {
        /// True: with its disk cache.
        cached: bool,
    },
    /// rclone, tuned for reading, with its disk cache or without.
    Rclone {
        /// True: with its disk cache.
        cached: bool,
    },
    /// JuiceFS over what was imported, tuned for reading, with its disk cache or without.
    Juicefs {
        /// What it serves.
        volume: Volume,
        /// True: with its disk cache.
        cached: bool,
        /// More flags of `juicefs mount`.
        flags: Vec<String>,
    },
}

/// Where a mount reads from and what it may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Address of the S3 server.
    pub(crate) endpoint: &'a str,
    pub(crate) bucket: &'a str,
    /// For small files of the program.
    pub(crate) home: &'a Path,
    /// Where it is mounted.
    pub(crate) dir: &'a Path,
    /// For its disk cache.
    pub(crate) cache: &'a Path,
}

impl System {
    /// Feedline with a mode of opening files, and otherwise its defaults.
    pub(crate) fn feedline(open: &str) -> Self {
        Self::Feedline { name: open.to_owned(), flags: vec![format!("--open={open}")] }
    }

    /// As tables and JSON name it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Feedline { name, .. } => format!("feedline {name}"),
            Self::S3fs { cached: true } => "s3fs".to_owned(),
            Self::S3fs { cached: false } => "s3fs plain".to_owned(),
            Self::Rclone { cached: true } => "rclone".to_owned(),
            Self::Rclone { cached: false } => "rclone plain".to_owned(),
            Self::Juicefs { cached: true, .. } => "JuiceFS".to_owned(),
            Self::Juicefs { cached: false, .. } => "JuiceFS plain".to_owned(),
        }
    }

    /// What starts it, in the foreground.
    pub(crate) fn command(&self, place: &Place<'_>) -> Result<Command> {
        match self {
            Self::Feedline { flags, .. } => feedline_command(flags, place),
            Self::S3fs { cached } => S3fs {
                endpoint: place.endpoint,
                bucket: place.bucket,
                credentials: "bench:bench-secret",
                mountpoint: place.dir,
                cache: cached.then_some(place.cache),
                password_file: &place.home.join("passwd-s3fs"),
            }
            .command(),
            Self::Rclone { cached } => Ok(rclone_command(*cached, place)),
            Self::Juicefs { volume, cached, flags } => {
                Ok(volume.mount(place.dir, cached.then_some(place.cache), flags))
            }
        }
    }
}

fn feedline_command(flags: &[String], place: &Place<'_>) -> Result<Command> {
    let mut command = feedline()?;
    command.arg("mount").arg(format!("s3://{}", place.bucket)).arg(place.dir).arg("--foreground");
    command.args(["--endpoint", place.endpoint]);
    let (cache, buffer) = (format!("{}:40GiB", place.cache.display()), format!("{BUFFER_MIB}MiB"));
    // A contestant's own value of these replaces ours.
    for (flag, value) in [("--cache", &*cache), ("--metadata-ttl", "1h"), ("--buffer", &buffer)] {
        if !flags.iter().any(|own| own.split('=').next() == Some(flag)) {
            command.args([flag, value]);
        }
    }
    command.args(flags);
    Ok(command)
}

/// The options that were found best for reading, by trial and in its documentation.
fn rclone_command(cached: bool, place: &Place<'_>) -> Command {
    let mut command = Command::new("rclone");
    for (name, value) in [("TYPE", "s3"), ("PROVIDER", "Other"), ("ENDPOINT", place.endpoint)] {
        command.env(format!("RCLONE_CONFIG_SIM_{name}"), value);
    }
    command.env("RCLONE_CONFIG_SIM_ENV_AUTH", "true").envs(CREDENTIALS);
    // With it rclone 1.60 does not start.
    command.env_remove("AWS_CA_BUNDLE");
    command.env("RCLONE_CONFIG", place.home.join("rclone.conf"));
    command.arg("mount").arg(format!("sim:{}", place.bucket)).arg(place.dir);
    command.args("--read-only --use-server-modtime --no-checksum --poll-interval 0".split(' '));
    command.args("--dir-cache-time 1000h --attr-timeout 1h --vfs-fast-fingerprint".split(' '));
    command.args("--s3-no-head-object --s3-disable-http2 --s3-list-version 2".split(' '));
    command.args("--vfs-read-chunk-size 0 --buffer-size 0 --max-read-ahead 1M".split(' '));
    command.arg("--cache-dir").arg(place.cache);
    if cached {
        command.args("--vfs-cache-mode full --vfs-cache-max-age 1000h".split(' '));
        command.args("--vfs-cache-max-size 200G --vfs-read-ahead 0".split(' '));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contestants_own_flags_replace_those_of_all() {
        let path = Path::new("/x");
        let place = Place { endpoint: "http://e", bucket: "b", home: path, dir: path, cache: path };
        let words = |flags: &[&str]| {
            let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
            let system = System::Feedline { name: "own".to_owned(), flags };
            let command = system.command(&place).expect("a command");
            let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
            words.collect::<Vec<_>>().join(" ")
        };
        assert!(words(&["--open=none"]).ends_with("--metadata-ttl 1h --buffer 128MiB --open=none"));
        let own = words(&["--buffer", "1GiB"]);
        assert!(own.ends_with("--cache /x:40GiB --metadata-ttl 1h --buffer 1GiB"), "{own}");
        let own = words(&["--cache=/y:1GiB"]);
        assert!(own.contains("--cache=/y:1GiB") && !own.contains("/x:40GiB"), "{own}");
    }
}
