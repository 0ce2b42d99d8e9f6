//! fio as a client: each reader opens its files one after the other, reads each in one call, and closes it.
//!
//! fio's own patterns cannot do that: they read in blocks of one size and leave the rest of a file out.
//! Its replay of a recorded log can: every reader gets a log of its own (`open`, `read 0 BYTES`, `close`
//! for each of its files), played without pauses. fio stats every file of its logs before its clock
//! starts. Latency is that of the one read, without open and close: fio shows no other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::http::Object;
use crate::read::Pass;
use crate::targets::lab::run_to_end;
use crate::units::{Latency, rate};

/// fio takes no longer name from a log.
const NAME_BYTES_MAX: usize = 255;

/// What all readers have in common. It is told to drop and to announce nothing of its own: the state of
/// the page cache is ours to set.
const COMMON: &str = "[global]\nioengine=sync\nthread=1\nrw=read\nallow_file_create=0\ninvalidate=0\n\
    fadvise_hint=0\nreplay_no_stall=1\nclat_percentiles=0\nlat_percentiles=1\npercentile_list=50:99\n\
    group_reporting=1\n";

/// Files below a folder, and who reads them.
#[derive(Debug)]
pub(crate) struct Fio<'a> {
    dir: PathBuf,
    home: PathBuf,
    files: &'a [Object],
    readers: usize,
}

impl<'a> Fio<'a> {
    /// `files` with their lengths, below `dir`; logs are written into `home`.
    ///
    /// # Errors
    ///
    /// If a file has a name or a length that fio's log cannot hold.
    pub(crate) fn new(
        dir: &Path,
        home: &Path,
        files: &'a [Object],
        readers: usize,
    ) -> Result<Self> {
        for Object { key, bytes } in files {
            let fits = key.len() <= NAME_BYTES_MAX && !key.contains(char::is_whitespace);
            ensure!(fits && bytes.is_some_and(|bytes| bytes > 0), "fio cannot read {key:?}");
        }
        let readers = readers.clamp(1, files.len().max(1));
        Ok(Self { dir: dir.to_owned(), home: home.to_owned(), files, readers })
    }

    /// How many files there are.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// Reads once, in this order: the first reader the first file, the second the second, and so on.
    ///
    /// # Errors
    ///
    /// If fio fails or did not read all; or a signal came.
    pub(crate) fn pass(&self, order: &[usize]) -> Result<Pass> {
        let mut job = COMMON.to_owned();
        for reader in 0..self.readers {
            let log = self.home.join(format!("fio-{reader}.log"));
            // Writing to a String cannot fail.
            let _ = writeln!(job, "[reader-{reader}]\nread_iolog={}", log.display());
            let own = order.iter().skip(reader).step_by(self.readers);
            write(&log, &replay(own.map(|place| &self.files[*place])))?;
        }
        let (jobs, output) = (self.home.join("readers.fio"), self.home.join("fio.json"));
        write(&jobs, &job)?;
        let mut command = Command::new("fio");
        // The logs name files below the folder.
        command.current_dir(&self.dir).args(["--readonly", "--output-format=json"]);
        command.arg(format!("--output={}", output.display())).arg(&jobs);
        run_to_end(&mut command, &self.home.join("fio.log"))?;
        let text = fs::read_to_string(&output).context("what fio wrote")?;
        let pass = parse(&text)?;
        let bytes: u64 = order.iter().filter_map(|place| self.files[*place].bytes).sum();
        let (files, read) = (pass.files, pass.bytes);
        ensure!(
            (files, read) == (order.len() as u64, bytes),
            "fio read {read} of {bytes} bytes in {files} reads of {} files",
            order.len()
        );
        Ok(pass)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// A log that opens, reads and closes each file.
fn replay<'a>(files: impl Iterator<Item = &'a Object> + Clone) -> String {
    let mut log = "fio version 2 iolog\n".to_owned();
    for file in files.clone() {
        let _ = writeln!(log, "{} add", file.key);
    }
    for Object { key, bytes } in files {
        let bytes = bytes.unwrap_or_default();
        let _ = writeln!(log, "{key} open\n{key} read 0 {bytes}\n{key} close");
    }
    log
}

/// The part of fio's JSON that is used.
#[derive(Debug, Deserialize)]
struct Output {
    /// One, as the readers are reported together.
    jobs: [Readers; 1],
}

/// All readers.
#[derive(Debug, Deserialize)]
struct Readers {
    error: i64,
    /// Milliseconds of all readers together.
    job_runtime: f64,
    /// Per cent of `job_runtime`.
    usr_cpu: f64,
    sys_cpu: f64,
    read: Reads,
}

#[derive(Debug, Deserialize)]
struct Reads {
    io_bytes: u64,
    total_ios: u64,
    /// Milliseconds, rounded up, of the slowest reader.
    runtime: f64,
    lat_ns: Nanoseconds,
}

#[derive(Debug, Deserialize)]
struct Nanoseconds {
    max: f64,
    #[serde(default)]
    percentile: BTreeMap<String, f64>,
}

fn parse(text: &str) -> Result<Pass> {
    // Warnings stand before it.
    let json = text.find('{').map_or("", |begin| &text[begin..]);
    let output: Output = serde_json::from_str(json).context("the result of fio")?;
    let [Readers { error, job_runtime, usr_cpu, sys_cpu, read }] = output.jobs;
    ensure!(error == 0, "fio ended with error {error}");
    let Reads { io_bytes, total_ios, runtime, lat_ns } = read;
    let seconds = runtime / 1e3;
    let percentile = |name| lat_ns.percentile.get(name).map_or(0.0, |ns| ns / 1e3);
    Ok(Pass {
        files: total_ios,
        bytes: io_bytes,
        seconds,
        files_per_s: rate(total_ios as f64, seconds),
        mb_per_s: rate(io_bytes as f64 / 1e6, seconds),
        cpu_seconds: (usr_cpu + sys_cpu) / 100.0 * job_runtime / 1e3,
        latency: Latency {
            p50_us: percentile("50.000000"),
            p99_us: percentile("99.000000"),
            max_us: lat_ns.max / 1e3,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, bytes: u64) -> Object {
        Object { key: key.to_owned(), bytes: Some(bytes) }
    }

    #[test]
    fn a_log_reads_each_file_whole_and_closes_it_before_the_next() {
        let files = [object("a/1", 5), object("b/2", 7)];
        let steps = "fio version 2 iolog\na/1 add\nb/2 add\na/1 open\na/1 read 0 5\na/1 close\n\
            b/2 open\nb/2 read 0 7\nb/2 close\n";
        assert_eq!(replay(files.iter()), steps);
    }

    #[test]
    fn names_that_a_log_cannot_hold_are_refused() {
        let fio = |object| Fio::new(Path::new("/d"), Path::new("/h"), &[object], 8).map(drop);
        assert!(fio(object("a b", 1)).is_err());
        assert!(fio(object("a", 0)).is_err());
        assert!(fio(object(&"a".repeat(256), 1)).is_err());
        assert!(fio(object("a", 1)).is_ok());
    }

    #[test]
    fn fio_reads_every_byte_of_files_of_any_length() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let dir = folder.path().join("data");
        fs::create_dir(&dir).expect("created");
        // Less than a page, whole pages, and an odd end.
        let files: Vec<Object> = [1_u64, 4_096, 70_001, 200_000, 5_000]
            .iter()
            .enumerate()
            .map(|(number, bytes)| object(&format!("f{number}"), *bytes))
            .collect();
        for Object { key, bytes } in &files {
            let length = usize::try_from(bytes.expect("given")).expect("small");
            fs::write(dir.join(key), vec![7; length]).expect("written");
        }
        let fio = Fio::new(&dir, folder.path(), &files, 2).expect("names fit");
        let pass =
            fio.pass(&[3, 0, 4, 2, 1]).expect("fio is installed, or scripts/setup was not run");
        assert_eq!((pass.files, pass.bytes), (5, 279_098));
        assert!(pass.seconds > 0.0 && pass.latency.p50_us > 0.0, "{pass:?}");
        assert!(pass.latency.p99_us <= pass.latency.max_us * 1.1, "{pass:?}");
        // A file that is shorter than it should be is an error, not less work.
        fs::write(dir.join("f3"), "short").expect("written");
        assert!(fio.pass(&[3, 0, 4, 2, 1]).is_err());
    }
}
