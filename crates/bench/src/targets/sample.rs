//! What one measurement holds: every contestant, what it read and what that cost.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::lab::{Bucket, Mount, kernel_cpu_seconds};
use crate::meta::Walk;
use crate::read::{Pass, Plan};

/// Requests to the bucket by verb.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Objects or ranges read.
    pub get: u64,
    /// Questions for one object's metadata.
    pub head: u64,
    /// Pages of a listing.
    pub list: u64,
    /// PUT, POST and DELETE: a reader sends none.
    pub other: u64,
}

impl Requests {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            get: self.get - before.get,
            head: self.head - before.head,
            list: self.list - before.list,
            other: self.other - before.other,
        }
    }

    pub(crate) fn total(self) -> u64 {
        self.get + self.head + self.list + self.other
    }
}

/// What a pass cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// CPU seconds of the daemon, user and system.
    pub daemon_cpu_s: f64,
    /// CPU seconds of the readers, user and system.
    pub readers_cpu_s: f64,
    /// CPU seconds in the kernel, of all work on the machine: readers, daemon, bucket, writeback.
    pub kernel_cpu_s: f64,
    /// `daemon_cpu_s` for each GB (1,000,000,000 bytes) read.
    pub daemon_cpu_s_per_gb: f64,
    /// `readers_cpu_s` for each GB read.
    pub readers_cpu_s_per_gb: f64,
    /// `kernel_cpu_s` for each GB read.
    pub kernel_cpu_s_per_gb: f64,
}

/// One of those that are compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Contestant {
    /// `ext4`, `feedline passthrough`, `feedline none` or `s3fs`.
    pub name: String,
    /// What it read.
    pub pass: Option<Pass>,
    /// What it listed.
    pub walk: Option<Walk>,
    /// What it cost.
    pub cost: Option<Cost>,
    /// Requests to the bucket meanwhile.
    pub requests: Option<Requests>,
    /// Memory of the daemon afterwards.
    pub resident_bytes: Option<u64>,
    /// The most memory that the daemon held since its start.
    pub peak_resident_bytes: Option<u64>,
    /// Page cache that came in.
    pub page_cache_bytes: Option<u64>,
    /// What the cache of whoever was measured takes on the disk afterwards.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Opens that found the file whole in the cache, of all opens.
    #[serde(default)]
    pub hit_rate: Option<f64>,
    /// Reads on demand after which the order was recognised; `None` if it never was.
    #[serde(default)]
    pub recognised_after: Option<u64>,
}

impl Contestant {
    /// Reads once and takes down what it cost. `None` for the plain file system.
    pub(crate) fn read(
        bucket: &Bucket,
        mount: Option<&Mount>,
        plan: &Plan,
        number: usize,
    ) -> Result<Self> {
        Self::measured(bucket, mount, || plan.pass(number))
    }

    /// Takes down what `work` cost, which reads through the mount.
    pub(crate) fn measured(
        bucket: &Bucket,
        mount: Option<&Mount>,
        work: impl FnOnce() -> Result<Pass>,
    ) -> Result<Self> {
        let requests = bucket.requests()?;
        let daemon = mount.map_or(0.0, Mount::cpu_seconds);
        let kernel = kernel_cpu_seconds();
        let pass = work()?;
        let kernel_cpu_s = kernel_cpu_seconds() - kernel;
        let daemon_cpu_s = mount.map_or(0.0, Mount::cpu_seconds) - daemon;
        let gb = (pass.bytes as f64 / 1e9).max(f64::MIN_POSITIVE);
        let readers_cpu_s = pass.cpu_seconds;
        let cost = Cost {
            daemon_cpu_s,
            readers_cpu_s,
            kernel_cpu_s,
            daemon_cpu_s_per_gb: daemon_cpu_s / gb,
            readers_cpu_s_per_gb: readers_cpu_s / gb,
            kernel_cpu_s_per_gb: kernel_cpu_s / gb,
        };
        let mut this = Self::named(mount)?;
        this.requests = Some(bucket.requests()?.since(requests));
        (this.pass, this.cost) = (Some(pass), Some(cost));
        Ok(this)
    }

    /// The same under another name.
    pub(crate) fn renamed(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// Walks once.
    pub(crate) fn walk(mount: Option<&Mount>, root: &Path) -> Result<Self> {
        let walk = crate::meta::walk(root)?;
        Ok(Self { walk: Some(walk), ..Self::named(mount)? })
    }

    fn named(mount: Option<&Mount>) -> Result<Self> {
        let Some(mount) = mount else {
            return Ok(Self { name: "ext4".to_owned(), ..Self::default() });
        };
        let (resident, peak) = mount.resident_bytes()?;
        Ok(Self {
            name: mount.system.name(),
            resident_bytes: Some(resident),
            peak_resident_bytes: Some(peak),
            ..Self::default()
        })
    }

    pub(crate) fn files_per_s(&self) -> f64 {
        self.pass.as_ref().map_or(0.0, |pass| pass.files_per_s)
    }

    /// Requests to the bucket for each file that was read.
    pub(crate) fn requests_per_file(&self) -> f64 {
        let files = self.pass.as_ref().map_or(0, |pass| pass.files).max(1);
        self.requests.map_or(0.0, |requests| requests.total() as f64 / files as f64)
    }

    pub(crate) fn mb_per_s(&self) -> f64 {
        self.pass.as_ref().map_or(0.0, |pass| pass.mb_per_s)
    }
}

/// One measurement of a row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What is compared with the target.
    pub figure: f64,
    /// Whoever took part, in the order in which they were measured.
    pub contestants: Vec<Contestant>,
}
