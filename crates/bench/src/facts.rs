//! What a result must carry to mean anything later: the machine, the versions and the commit.

use std::fs;

use serde::{Deserialize, Serialize};

/// Where and with what a result was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The commit that this program was built from, `+` when its sources had changes; `unknown` if it was
    /// built outside of a repository.
    pub commit: String,
    /// Version of this package.
    pub version: String,
    /// True for an unoptimised build: such figures are not comparable.
    pub debug_build: bool,
    /// Kernel release.
    pub kernel: String,
    /// CPU model and number of CPUs.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Seconds since 1970 when it was measured.
    pub unix_seconds: u64,
    /// The arguments of the process.
    pub command: Vec<String>,
}

impl Facts {
    /// Collects them. Cost: a few small files.
    #[must_use]
    pub fn collect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib: u64 = field(&meminfo, "MemTotal")
            .and_then(|text| text.split_whitespace().next().and_then(|n| n.parse().ok()))
            .unwrap_or(0);
        Self {
            commit: env!("FEEDLINE_COMMIT").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            debug_build: cfg!(debug_assertions),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib * 1024,
            unix_seconds: crate::time::unix_seconds(),
            command: std::env::args().collect(),
        }
    }

    /// What the files of a result are called, without their endings.
    pub(crate) fn stem(&self, kind: &str) -> String {
        format!("{kind}-{}-{}", self.unix_seconds, self.commit.trim_end_matches('+'))
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let build = if self.debug_build { ", DEBUG BUILD: figures are not comparable" } else { "" };
        let gib = self.memory_bytes >> 30;
        let Self { commit, kernel, cpu, cpus, .. } = self;
        format!("{cpus} x {cpu}, {gib} GiB, Linux {kernel}, commit {commit}{build}")
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}
