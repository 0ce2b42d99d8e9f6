//! The scenarios of the target table. Each is a value: what, against what, how much, and how it is
//! measured once. The frame (`mod`) repeats and alternates them and takes the medians.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::lab::{Bucket, Mount, Requests, System, kernel_cpu_seconds, page_cache_bytes};
use crate::caches::drop_caches;
use crate::meta::walk;
use crate::read::{self, Access, Pass, ReadArgs};

/// How much must be reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The figure is at least this.
    AtLeast(f64),
    /// The figure is at most this.
    AtMost(f64),
}

impl Target {
    /// True if `figure` reaches it.
    #[must_use]
    pub fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
        }
    }
}

/// Where files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    /// In the page cache: one pass before the one that counts.
    Hot,
    /// On disk, all kernel caches dropped.
    Dropped,
}

/// What a scenario measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Small files, all in Feedline's cache, against ext4.
    Small { open: &'static str, cache: Cache },
    /// One 2 GiB object, cached, against ext4.
    Large { access: Access, readers: usize, cache: Cache },
    /// Page cache after a cold epoch over the bytes of the data set.
    PageCache,
    /// An empty cache against s3fs with an empty cache.
    ColdS3fs,
    /// Everything read before, against s3fs the same.
    HotS3fs,
    /// GETs, LISTs and HEADs of a cold epoch over what is allowed.
    ColdRequests,
    /// Requests of a warm epoch, and of one after a restart.
    WarmRequests,
    /// Walk with stat, the listing known, against ext4.
    Walk,
    /// Peak resident MiB of the daemon after three epochs.
    Resident,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scenario {
    /// What `--only` matches, and the JSON carries.
    pub(super) name: &'static str,
    /// What the figure is.
    pub(super) figure: &'static str,
    pub(super) target: Target,
    pub(super) kind: Kind,
}

const fn row(name: &'static str, figure: &'static str, target: Target, kind: Kind) -> Scenario {
    Scenario { name, figure, target, kind }
}

use Cache::{Dropped, Hot};
use Target::{AtLeast, AtMost};

const OF_EXT4: &str = "x ext4";

/// The whole table, in its order.
pub(super) const SCENARIOS: [Scenario; 16] = [
    row("hot-passthrough", OF_EXT4, AtLeast(0.5), Kind::Small { open: "passthrough", cache: Hot }),
    row("hot-none", OF_EXT4, AtLeast(0.95), Kind::Small { open: "none", cache: Hot }),
    row("dropped", OF_EXT4, AtLeast(0.75), Kind::Small { open: "passthrough", cache: Dropped }),
    large("large-sequential-hot", Access::Read, 1, Hot),
    large("large-sequential-dropped", Access::Read, 1, Dropped),
    large("large-mmap-hot", Access::Mmap, 1, Hot),
    large("large-mmap-dropped", Access::Mmap, 1, Dropped),
    large("large-random-hot", Access::Random128k, 8, Hot),
    large("large-random-dropped", Access::Random128k, 8, Dropped),
    row("page-cache", "x data set", AtMost(1.05), Kind::PageCache),
    row("cold-s3fs", "x s3fs", AtLeast(5.0), Kind::ColdS3fs),
    row("hot-s3fs", "x s3fs", AtLeast(150.0), Kind::HotS3fs),
    row("cold-requests", "of allowed", AtMost(1.0), Kind::ColdRequests),
    row("warm-requests", "requests", AtMost(0.0), Kind::WarmRequests),
    row("walk", OF_EXT4, AtLeast(0.4), Kind::Walk),
    row("resident", "MiB", AtMost(64.0), Kind::Resident),
];

const fn large(name: &'static str, access: Access, readers: usize, cache: Cache) -> Scenario {
    let least = match cache {
        Hot => 0.95,
        Dropped => 0.85,
    };
    row(name, OF_EXT4, AtLeast(least), Kind::Large { access, readers, cache })
}

/// What one measurement gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What is compared with the target.
    pub figure: f64,
    /// Ours, and the yardstick's, where both were read.
    pub ours: Option<Pass>,
    /// See `ours`.
    pub yardstick: Option<Pass>,
    /// CPU seconds of the daemon for each GB read.
    pub daemon_cpu_s_per_gb: Option<f64>,
    /// CPU seconds of the kernel, all work on the machine, for each GB read.
    pub kernel_cpu_s_per_gb: Option<f64>,
    /// Requests to the bucket: GET, HEAD, LIST.
    pub requests: Option<[u64; 3]>,
    /// The most memory that the daemon held, bytes.
    pub peak_resident_bytes: Option<u64>,
}

/// What the scenarios share: the bucket, its folders, and scratch space.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) bucket: Bucket,
    /// Holds a folder per bucket: `small`, `large`, `many`. Reading it directly is the ext4 yardstick.
    pub(super) root: PathBuf,
    /// For caches and mountpoints.
    pub(super) home: PathBuf,
    /// Files and class folders of `small`.
    pub(super) files: u64,
    pub(super) folders: u64,
    /// Files that s3fs must read in its scenarios: it needs a second for 50.
    pub(super) s3fs_files: usize,
    /// A new number for each cache that must be empty.
    pub(super) next_home: u32,
}

impl Lab {
    /// Measures `scenario` once.
    pub(super) fn measure(&mut self, scenario: &Scenario, round: usize) -> Result<Sample> {
        match scenario.kind {
            Kind::Small { open, cache } => {
                let mount = self.filled(open, "small", None)?;
                let ours = ReadArgs::new(&mount.dir);
                let yardstick = ReadArgs::new(&self.root.join("small"));
                let sample = self.compare(&mount, &ours, &yardstick, cache, round)?;
                mount.end()?;
                Ok(sample)
            }
            Kind::Large { access, readers, cache } => {
                let args = |dir: &Path| ReadArgs {
                    access,
                    readers,
                    ..ReadArgs::new(&dir.join("large.bin"))
                };
                let mount = self.filled("passthrough", "large", Some("large.bin"))?;
                let yardstick = args(&self.root.join("large"));
                let sample = self.compare(&mount, &args(&mount.dir), &yardstick, cache, round)?;
                mount.end()?;
                Ok(sample)
            }
            Kind::PageCache => self.page_cache(),
            Kind::ColdS3fs => self.against_s3fs(true),
            Kind::HotS3fs => self.against_s3fs(false),
            Kind::ColdRequests => self.cold_requests(),
            Kind::WarmRequests => self.warm_requests(),
            Kind::Walk => self.walk(),
            Kind::Resident => self.resident(),
        }
    }

    /// A mount whose cache holds everything; the cache stays for the next call.
    fn filled(&self, open: &'static str, bucket: &str, file: Option<&str>) -> Result<Mount> {
        let home = self.home.join(format!("filled-{bucket}"));
        let mount = Mount::new(System::Feedline(open), &self.bucket, bucket, &home)?;
        let path = file.map_or(mount.dir.clone(), |file| mount.dir.join(file));
        pass(&ReadArgs { readers: if file.is_some() { 1 } else { 64 }, ..ReadArgs::new(&path) })?;
        Ok(mount)
    }

    /// An empty cache.
    fn empty(&mut self, system: System) -> Result<Mount> {
        self.next_home += 1;
        let home = self.home.join(format!("empty-{}", self.next_home));
        Mount::new(system, &self.bucket, "small", &home)
    }

    /// Takes a mount of [`Lab::empty`] away, with its cache.
    fn discard(&self, mount: Mount) -> Result<()> {
        let home = mount.dir.parent().context("a mount lies in its home")?.to_owned();
        mount.end()?;
        fs::remove_dir_all(&home).with_context(|| format!("remove {}", home.display()))
    }

    /// Both read the same in the same order; who goes first alternates by round.
    fn compare(
        &self,
        mount: &Mount,
        ours: &ReadArgs,
        yardstick: &ReadArgs,
        cache: Cache,
        round: usize,
    ) -> Result<Sample> {
        let mut sample = Sample::default();
        for turn in 0..2 {
            let is_ours = (turn + round).is_multiple_of(2);
            let args = if is_ours { ours } else { yardstick };
            match cache {
                Hot => {
                    pass(args)?;
                }
                Dropped => drop_caches()?,
            }
            let cpu = Cpu::now(mount);
            let result = pass(args)?;
            if is_ours {
                cpu.until_now(mount, result.bytes, &mut sample);
                sample.ours = Some(result);
            } else {
                sample.yardstick = Some(result);
            }
        }
        sample.peak_resident_bytes = mount.peak_resident_bytes().ok();
        Ok(sample.with_ratio())
    }

    fn page_cache(&mut self) -> Result<Sample> {
        let mount = self.empty(System::Feedline("passthrough"))?;
        // The bucket reads the same disk through the same page cache: with its files already in, what
        // is added is the mount's alone.
        pass(&ReadArgs::new(&self.root.join("small")))?;
        let before = page_cache_bytes()?;
        let ours = pass(&ReadArgs::new(&mount.dir))?;
        let added = page_cache_bytes()?.saturating_sub(before);
        let figure = added as f64 / ours.bytes as f64;
        self.discard(mount)?;
        Ok(Sample { figure, ours: Some(ours), ..Sample::default() })
    }

    fn against_s3fs(&mut self, cold: bool) -> Result<Sample> {
        let mut sample = Sample::default();
        for system in [System::Feedline("passthrough"), System::S3fs] {
            let before = self.bucket.requests()?;
            let mount = self.empty(system)?;
            let args = ReadArgs { files: self.s3fs_files, ..ReadArgs::new(&mount.dir) };
            let mut result = pass(&args)?;
            if !cold {
                result = pass(&args)?;
            }
            if system == System::S3fs {
                sample.yardstick = Some(result);
            } else {
                sample.ours = Some(result);
                sample.requests = Some(triple(self.bucket.requests()?.since(before)));
                sample.peak_resident_bytes = mount.peak_resident_bytes().ok();
            }
            self.discard(mount)?;
        }
        Ok(sample.with_ratio())
    }

    fn cold_requests(&mut self) -> Result<Sample> {
        let before = self.bucket.requests()?;
        let mount = self.empty(System::Feedline("passthrough"))?;
        let ours = pass(&ReadArgs { readers: 64, ..ReadArgs::new(&mount.dir) })?;
        let used = self.bucket.requests()?.since(before);
        self.discard(mount)?;
        let lists = self.files as f64 / 1_000.0 + self.folders as f64 + 10.0;
        // One HEAD is one too many: it shows as a figure above any limit.
        let worst = (used.get as f64 / self.files as f64).max(used.list as f64 / lists);
        let figure = if used.head > 0 { f64::INFINITY } else { worst };
        Ok(Sample { figure, ours: Some(ours), requests: Some(triple(used)), ..Sample::default() })
    }

    fn warm_requests(&mut self) -> Result<Sample> {
        let mut used = Requests::default();
        let mut figure = 0.0;
        // The second mount is a restart: the cache and the listing come from disk.
        for _ in 0..2 {
            let mount = self.filled("passthrough", "small", None)?;
            let before = self.bucket.requests()?;
            pass(&ReadArgs::new(&mount.dir))?;
            used = self.bucket.requests()?.since(before);
            figure += used.total() as f64;
            mount.end()?;
        }
        let before = self.bucket.requests()?;
        self.filled("passthrough", "small", None)?.end()?;
        figure += self.bucket.requests()?.since(before).total() as f64;
        Ok(Sample { figure, requests: Some(triple(used)), ..Sample::default() })
    }

    fn walk(&self) -> Result<Sample> {
        let home = self.home.join("walk");
        let mount = Mount::new(System::Feedline("passthrough"), &self.bucket, "many", &home)?;
        walk(&mount.dir)?;
        walk(&self.root.join("many"))?;
        let (ours, yardstick) = (walk(&mount.dir)?, walk(&self.root.join("many"))?);
        mount.end()?;
        anyhow::ensure!(ours.entries == yardstick.entries, "the walks saw different trees");
        let figure = ours.entries_per_s / yardstick.entries_per_s;
        Ok(Sample { figure, ..Sample::default() })
    }

    fn resident(&mut self) -> Result<Sample> {
        let mount = self.empty(System::Feedline("passthrough"))?;
        for _ in 0..3 {
            pass(&ReadArgs::new(&mount.dir))?;
        }
        let peak = mount.peak_resident_bytes()?;
        self.discard(mount)?;
        let figure = peak as f64 / f64::from(1 << 20);
        Ok(Sample { figure, peak_resident_bytes: Some(peak), ..Sample::default() })
    }
}

impl Sample {
    fn with_ratio(mut self) -> Self {
        if let (Some(ours), Some(yardstick)) = (&self.ours, &self.yardstick) {
            self.figure = ours.mb_per_s / yardstick.mb_per_s;
        }
        self
    }
}

/// CPU counters before a pass.
struct Cpu {
    daemon: f64,
    kernel: f64,
}

impl Cpu {
    fn now(mount: &Mount) -> Self {
        Self { daemon: mount.cpu_seconds(), kernel: kernel_cpu_seconds() }
    }

    fn until_now(self, mount: &Mount, bytes: u64, sample: &mut Sample) {
        let gigabytes = bytes as f64 / 1e9;
        sample.daemon_cpu_s_per_gb = Some((mount.cpu_seconds() - self.daemon) / gigabytes);
        sample.kernel_cpu_s_per_gb = Some((kernel_cpu_seconds() - self.kernel) / gigabytes);
    }
}

fn pass(args: &ReadArgs) -> Result<Pass> {
    read::measure(args)?.pop().context("a pass")
}

fn triple(requests: Requests) -> [u64; 3] {
    [requests.get, requests.head, requests.list]
}
