//! `feedline bench names`: a bucket of millions of names over HTTP: listed, held in memory, and found again at the
//! next start.
//!
//! The bucket is `feedline s3sim --names`, which makes names up as they are asked for, so that nothing but
//! their number is limited. `crates/namespace/examples/scale.rs` measures the same without a network: what a
//! listing costs in itself.
//!
//! # What is measured
//!
//! - **Listing**: the whole tree by `feedline mount --listing eager`, against a bare client that sends as many
//!   LISTs at once and looks at none: what the bucket gives on this machine.
//! - **Memory**: the daemon's, once it knows all names, for each of them and beyond its text.
//! - **Start**: a new daemon over the listings on the disk, the kernel's caches dropped, until it has mounted and
//!   answered with one folder of a thousand names. It asks the bucket nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::caches::drop_caches;
use crate::facts::Facts;
use crate::http::Fetch;
use crate::tables::write_json;
use crate::targets::lab::{Bucket, Mount, Scratch};
use crate::targets::system::System;
use crate::targets::{Requests, Target, scratch};
use crate::time::now;

/// The simulator's bucket of made-up names, the names in each of its folders, and the length of one.
const BUCKET: &str = "names";
const FOLDER_NAMES: u64 = 1_000;
const NAME_BYTES: u64 = "ILSVRC2012_val_00000000.JPEG".len() as u64;

/// LISTs that the daemon sends at once.
const LISTS_MAX: usize = 64;

/// How often the daemon is asked how far it is, and how long it may stand still.
const POLL: Duration = Duration::from_millis(50);
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

/// `feedline bench names`
#[derive(Debug, Clone, clap::Args, Serialize, Deserialize)]
pub struct NamesArgs {
    /// Names in the bucket, in folders of a thousand
    #[arg(long, default_value_t = 10_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    pub names: u32,
    /// Time to the first byte of a LIST
    #[arg(long, default_value = "50ms")]
    pub latency: String,
    /// Where cache and listings go (removed): a real file system
    #[arg(long, default_value = "/var/tmp/feedline-bench", value_name = "DIR")]
    pub dir: PathBuf,
    /// Where the JSON goes
    #[arg(long, default_value = "bench/results", value_name = "DIR")]
    pub results: PathBuf,
}

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamesRow {
    /// What was measured.
    pub name: String,
    /// The figure.
    pub figure: f64,
    /// What it is a multiple of, or its unit.
    pub unit: String,
    /// How much must be reached.
    pub target: Target,
    /// True if it is.
    pub met: bool,
    /// What else must be known to read it.
    pub note: String,
}

/// The result of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NamesResult {
    /// Where it was measured.
    pub facts: Facts,
    /// What was asked.
    pub args: NamesArgs,
    /// The daemon that listed.
    pub listing: Listing,
    /// The one after it.
    pub start: Start,
    /// What is to be reached.
    pub rows: Vec<NamesRow>,
}

/// What listing everything took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// Of a client that looks at nothing.
    pub bare_seconds: f64,
    /// From the daemon's start until it knew every name.
    pub seconds: f64,
    /// LISTs and whatever else it sent.
    pub requests: Requests,
    /// CPU seconds of the daemon.
    pub cpu_seconds: f64,
    /// Memory of the daemon then, and at most.
    pub resident_bytes: u64,
    /// See `resident_bytes`.
    pub peak_resident_bytes: u64,
    /// How long its end took, which writes what is not on the disk yet.
    pub end_seconds: f64,
    /// The file of its listings.
    pub file_bytes: u64,
}

/// What a start over these listings took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Until it was mounted.
    pub mounted_seconds: f64,
    /// Until one folder was listed too.
    pub seconds: f64,
    /// What the bucket was asked.
    pub requests: Requests,
    /// Memory of the daemon then.
    pub resident_bytes: u64,
}

/// Measures, prints, writes the JSON.
///
/// # Errors
///
/// If something could not be measured, or a signal came. A missed target is a result, not an error.
pub fn run(args: &NamesArgs) -> Result<NamesResult> {
    crate::interrupt::watch()?;
    let facts = Facts::collect();
    println!("{}", facts.line());
    let home = Scratch::new(&scratch(&args.dir)?)?;
    let root = home.join("buckets");
    let flags = ["--names", &args.names.to_string(), "--list-latency", &args.latency];
    let bucket = Bucket::start(&root, &flags)?;
    let bed = Bed { names: args.names.into(), home: home.join("mount"), bucket };
    let listing = bed.list()?;
    let start = bed.start()?;
    let rows = rows(bed.names, &listing, &start);
    drop((bed, home));
    let result = NamesResult { facts, args: args.clone(), listing, start, rows };
    println!("{} names in folders of {FOLDER_NAMES}, {} to a LIST\n", args.names, args.latency);
    for row in &result.rows {
        let NamesRow { name, figure, unit, target, met, note } = row;
        let verdict = if *met { "met" } else { "MISSED" };
        println!("{name:<16} {figure:>8.2} {unit:<14} {target:>7}  {verdict:<6}  {note}");
    }
    let path = write_json(&args.results, &result.facts.stem("names"), &result)?;
    println!("\n{}", path.display());
    Ok(result)
}

/// What is measured, and against what.
struct Bed {
    names: u64,
    /// Of the mount: the second finds what the first has left.
    home: PathBuf,
    bucket: Bucket,
}

impl Bed {
    fn folders(&self) -> u64 {
        self.names.div_ceil(FOLDER_NAMES)
    }

    fn folder(number: u64) -> String {
        format!("n{number:08}")
    }

    fn mount(&self) -> Result<Mount> {
        let flags = vec!["--listing=eager".to_owned()];
        let system = System::Feedline { name: "eager".to_owned(), flags };
        Mount::new(&system, &self.bucket, BUCKET, &self.home)
    }

    /// How long the LISTs of all folders take by themselves.
    fn bare_seconds(&self) -> Result<f64> {
        let prefixes: Vec<String> =
            (0..self.folders()).map(|folder| Self::folder(folder) + "/").collect();
        let lists = Fetch::lists(&self.bucket.url, BUCKET, &prefixes)?;
        let order: Vec<usize> = (0..prefixes.len()).collect();
        Ok(lists.pass(LISTS_MAX, &order, None)?.seconds)
    }

    fn list(&self) -> Result<Listing> {
        eprintln!("the LISTs alone ...");
        let bare_seconds = self.bare_seconds()?;
        eprintln!("a mount that lists everything ...");
        let (before, started) = (self.bucket.requests()?, now());
        let mount = self.mount()?;
        self.wait_for_all(&mount)?;
        let seconds = started.elapsed().as_secs_f64();
        let (resident_bytes, peak_resident_bytes) = mount.resident_bytes()?;
        let cpu_seconds = mount.cpu_seconds();
        let requests = self.bucket.requests()?.since(before);
        let started = now();
        mount.end()?;
        let end_seconds = started.elapsed().as_secs_f64();
        let file = self.home.join("cache/namespace/listings");
        let file_bytes =
            fs::metadata(&file).with_context(|| format!("look at {}", file.display()))?.len();
        Ok(Listing {
            bare_seconds,
            seconds,
            requests,
            cpu_seconds,
            resident_bytes,
            peak_resident_bytes,
            end_seconds,
            file_bytes,
        })
    }

    /// Waits until the daemon knows every name.
    fn wait_for_all(&self, mount: &Mount) -> Result<()> {
        let all = self.names + self.folders();
        let (mut known, mut grown) = (0, now());
        while known < all {
            crate::interrupt::pause(POLL)?;
            let entries = mount.status()?.namespace.entries;
            if known < entries {
                (known, grown) = (entries, now());
            }
            let stands_still = grown.elapsed() < STANDSTILL_MAX;
            ensure!(stands_still, "{known} of {all} entries for {STANDSTILL_MAX:?}");
        }
        ensure!(known == all, "{known} entries where {all} are listed");
        Ok(())
    }

    fn start(&self) -> Result<Start> {
        eprintln!("a start over its listings ...");
        drop_caches()?;
        let (before, started) = (self.bucket.requests()?, now());
        let mount = self.mount()?;
        let mounted_seconds = started.elapsed().as_secs_f64();
        // Whole, and far from where a reader of the file begins.
        let folder = mount.dir.join(Self::folder((self.names / FOLDER_NAMES) / 2));
        let names = names_in(&folder)?;
        let seconds = started.elapsed().as_secs_f64();
        ensure!(names == FOLDER_NAMES, "{} has {names} names", folder.display());
        let requests = self.bucket.requests()?.since(before);
        let (resident_bytes, _) = mount.resident_bytes()?;
        mount.end()?;
        Ok(Start { mounted_seconds, seconds, requests, resident_bytes })
    }
}

fn names_in(folder: &Path) -> Result<u64> {
    let names = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    Ok(names.count() as u64)
}

fn rows(names: u64, listing: &Listing, start: &Start) -> Vec<NamesRow> {
    let row = |name: &str, figure: f64, unit: &str, target: Target, note: String| NamesRow {
        name: name.to_owned(),
        figure,
        unit: unit.to_owned(),
        target,
        met: target.is_met(figure),
        note,
    };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let each = listing.resident_bytes as f64 / names as f64 - NAME_BYTES as f64;
    vec![
        row(
            "listing",
            listing.bare_seconds / listing.seconds,
            "x bare LISTs",
            Target::AtLeast(0.8),
            format!(
                "{:.1} s for {} LISTs, {:.1} s of the daemon's CPU; the LISTs alone {:.1} s",
                listing.seconds, listing.requests.list, listing.cpu_seconds, listing.bare_seconds
            ),
        ),
        row(
            "memory",
            each,
            "bytes a name",
            Target::AtMost(100.0),
            format!(
                "beyond its text of {NAME_BYTES}; the whole daemon has {:.0} MiB, had at most {:.0}",
                mib(listing.resident_bytes),
                mib(listing.peak_resident_bytes)
            ),
        ),
        row(
            "start",
            start.seconds,
            "s",
            Target::AtMost(2.0),
            format!(
                "{:.2} s until mounted, then a folder; {:.0} MiB; from a file of {:.0} MiB, written at the \
                 end in {:.1} s",
                start.mounted_seconds,
                mib(start.resident_bytes),
                mib(listing.file_bytes),
                listing.end_seconds
            ),
        ),
        row(
            "start-requests",
            start.requests.total() as f64,
            "requests",
            Target::AtMost(0.0),
            "to the bucket meanwhile".to_owned(),
        ),
    ]
}
