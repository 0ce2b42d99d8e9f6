//! The table: what is promised, against whom, how much. Rows that are measured together form a group.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::system::BUFFER_MIB;
use crate::read::Access;

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

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => f.pad(&format!(">= {least}")),
            Self::AtMost(most) => f.pad(&format!("<= {most}")),
        }
    }
}

/// Where files are when they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cache {
    /// In the page cache: read once before, through the same mount.
    Hot,
    /// On disk, all kernel caches dropped.
    Dropped,
}

impl Cache {
    /// As rows are called after it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Dropped => "dropped",
        }
    }
}

/// What is read from an empty cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cold {
    /// From a bucket that gives 250 MB/s in all.
    Capped,
    /// From a bucket without a cap: the CPU is the limit.
    Uncapped,
    /// By real DALI and real torch.
    Loaders,
}

/// What the bucket gives in the rows of ourselves against ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// 250 MB/s in all: the link is the limit.
    Capped,
    /// As much as it can: the CPU is the limit, and whatever we do beside the reads is missing to them.
    Uncapped,
}

/// How much memory readers, daemon and page cache may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ram {
    /// As much as there is.
    Plenty,
    /// A quarter of the bytes of the files, by a cgroup.
    Scarce,
}

/// What is measured together, in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// Small files, all in Feedline's cache, against ext4, by so many readers.
    Small(Cache, usize),
    /// One large object, cached, against ext4.
    Large(Access, Cache),
    /// From an empty cache: a cold epoch, two warm ones, a restart, one more.
    Life,
    /// An empty cache and a full one against s3fs.
    S3fs,
    /// Walk with stat, the listing known, against ext4.
    Walk,
    /// From empty caches, against a bare HTTP client.
    Cold(Cold),
    /// From empty caches, in an order that cannot be known, against ourselves without prediction and without
    /// any help.
    Order(Link),
    /// Twice as much data as the cache takes.
    Larger,
    /// A new daemon over a million cached objects.
    Restart,
    /// FUSE over io_uring against FUSE over `/dev/fuse`.
    Transport(Ram),
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// What `--only` matches, and the JSON carries.
    pub(super) name: String,
    /// What the figure is a multiple of, or its unit.
    pub(super) unit: &'static str,
    /// `None`: shown because it explains another row.
    pub(super) target: Option<Target>,
    pub(super) group: Group,
}

/// Feedline's two modes; both are measured.
pub(super) const MODES: [&str; 2] = ["passthrough", "none"];

/// Of small files.
const READERS: usize = 8;

/// The ways a large object is read, with the readers.
pub(super) const LARGE: [(&str, Access, usize); 3] =
    [("sequential", Access::Read, 1), ("mmap", Access::Mmap, 1), ("random", Access::Random128k, 8)];

/// What `Group::Small` rows are called.
pub(super) fn small_name(cache: Cache, readers: usize, mode: &str) -> String {
    let one = if readers == 1 { "-one" } else { "" };
    format!("{}{one}-{mode}", cache.name())
}

/// What `Group::Large` rows are called.
pub(super) fn large_name(access: Access, cache: Cache, mode: &str) -> String {
    let how = LARGE.iter().find(|(_, of, _)| *of == access).map_or("", |(how, _, _)| how);
    format!("large-{how}-{}-{mode}", cache.name())
}

/// The whole table, in its order; rows of one group are neighbours.
pub(super) fn rows() -> Vec<Row> {
    use Target::{AtLeast, AtMost};
    let mut rows = Vec::new();
    let mut row = |name: String, unit, target, group| rows.push(Row { name, unit, target, group });
    const OF_EXT4: &str = "x ext4";
    for (mode, least) in MODES.iter().zip([0.58, 0.95]) {
        let hot = Group::Small(Cache::Hot, READERS);
        row(small_name(Cache::Hot, READERS, mode), OF_EXT4, Some(AtLeast(least)), hot);
    }
    for (mode, least) in MODES.iter().zip([0.85, 0.75]) {
        let dropped = Group::Small(Cache::Dropped, READERS);
        row(small_name(Cache::Dropped, READERS, mode), OF_EXT4, Some(AtLeast(least)), dropped);
    }
    // As above: the promise about one reader is about the default mode.
    for (mode, target) in MODES.iter().zip([Some(AtLeast(0.85)), None]) {
        row(small_name(Cache::Dropped, 1, mode), OF_EXT4, target, Group::Small(Cache::Dropped, 1));
    }
    for (_, access, _) in LARGE {
        for (cache, least) in [(Cache::Hot, 0.95), (Cache::Dropped, 0.85)] {
            for mode in MODES {
                // The promise is about the default mode: replies carry each byte once more.
                let target = (mode == "passthrough").then_some(AtLeast(least));
                let name = large_name(access, cache, mode);
                row(name, OF_EXT4, target, Group::Large(access, cache));
            }
        }
    }
    let of_life: [(&str, &str, f64); 5] = [
        ("page-cache", "x data set", 1.05),
        ("cold-requests", "of allowed", 1.0),
        ("warm-requests", "requests", 0.0),
        ("restart-requests", "requests", 0.0),
        ("resident", "MiB", 64.0 + BUFFER_MIB as f64),
    ];
    for (name, unit, most) in of_life {
        for mode in MODES {
            row(format!("{name}-{mode}"), unit, Some(AtMost(most)), Group::Life);
        }
    }
    row("cold-s3fs".to_owned(), "x s3fs", Some(AtLeast(5.0)), Group::S3fs);
    for mode in MODES {
        row(format!("hot-s3fs-{mode}"), "x s3fs", Some(AtLeast(150.0)), Group::S3fs);
    }
    row("walk-first".to_owned(), OF_EXT4, Some(AtLeast(0.4)), Group::Walk);
    row("walk-again".to_owned(), OF_EXT4, None, Group::Walk);
    for (name, unit, target, cold) in COLD {
        row(name.to_owned(), unit, Some(target), Group::Cold(cold));
    }
    for (name, unit, target, group) in OTHERS {
        row(name.to_owned(), unit, Some(target), group);
    }
    for ram in [Ram::Plenty, Ram::Scarce] {
        for (cache, readers) in transports() {
            let name = transport_name(ram, cache, readers);
            row(name, "x classic", None, Group::Transport(ram));
        }
    }
    rows
}

/// The rows of ourselves against ourselves.
const OTHERS: [(&str, &str, Target, Group); 8] = [
    ("cold-unknown-order", "x off", Target::AtLeast(0.98), Group::Order(Link::Capped)),
    ("cold-wrong-order", "x off", Target::AtLeast(0.98), Group::Order(Link::Capped)),
    ("uncapped-unknown-order", "x off", Target::AtLeast(0.98), Group::Order(Link::Uncapped)),
    ("uncapped-wrong-order", "x off", Target::AtLeast(0.98), Group::Order(Link::Uncapped)),
    ("uncapped-demand", "x demand", Target::AtLeast(1.0), Group::Order(Link::Uncapped)),
    ("larger-unknown", "x share", Target::AtLeast(0.95), Group::Larger),
    ("larger-known", "x share", Target::AtLeast(1.2), Group::Larger),
    ("restart-million", "s", Target::AtMost(2.0), Group::Restart),
];

/// Where the files are, and how many readers there are, in the rows of each `Group::Transport`.
pub(super) fn transports() -> impl Iterator<Item = (Cache, usize)> {
    let caches = [Cache::Hot, Cache::Dropped].into_iter();
    caches.flat_map(|cache| [1, 8, 32].into_iter().map(move |readers| (cache, readers)))
}

/// What `Group::Transport` rows are called.
pub(super) fn transport_name(ram: Ram, cache: Cache, readers: usize) -> String {
    let ram = match ram {
        Ram::Plenty => "plenty",
        Ram::Scarce => "scarce",
    };
    format!("transport-{ram}-{}-{readers}", cache.name())
}

/// The rows from empty caches.
const COLD: [(&str, &str, Target, Cold); 16] = [
    ("cold-capped-fill", "x http", Target::AtLeast(0.85), Cold::Capped),
    ("cold-capped-demand", "x demand", Target::AtLeast(6.0), Cold::Capped),
    ("cold-capped-s3fs", "x s3fs", Target::AtLeast(35.0), Cold::Capped),
    ("cold-capped-dali", "x http", Target::AtLeast(0.93), Cold::Capped),
    ("identified-dali", "reads", Target::AtMost(64.0), Cold::Capped),
    ("cold-paced-dali", "ms", Target::AtMost(3.0), Cold::Capped),
    ("cold-capped-distributed", "x http", Target::AtLeast(0.93), Cold::Capped),
    ("identified-distributed", "reads", Target::AtMost(64.0), Cold::Capped),
    ("cold-paced-distributed", "ms", Target::AtMost(3.0), Cold::Capped),
    ("cold-uncapped", "x http", Target::AtLeast(0.35), Cold::Uncapped),
    ("cold-cpu", "x http", Target::AtMost(2.0), Cold::Uncapped),
    ("cold-resident", "MiB", Target::AtMost(512.0), Cold::Uncapped),
    ("cold-dali-decode", "x ext4", Target::AtLeast(0.9), Cold::Loaders),
    ("cold-dali-read", "x http", Target::AtLeast(0.8), Cold::Loaders),
    ("cold-torch-decode", "x ext4", Target::AtLeast(0.9), Cold::Loaders),
    ("cold-torch-read", "x http", Target::AtLeast(0.8), Cold::Loaders),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_groups_are_neighbours() {
        let rows = rows();
        let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), rows.len());
        let mut groups: Vec<Group> = rows.iter().map(|row| row.group).collect();
        groups.dedup();
        let runs = groups.len();
        groups.dedup_by_key(|group| format!("{group:?}"));
        assert_eq!(runs, groups.len());
        assert_eq!(
            runs, 21,
            "3 of small files, 6 of the large one, life, s3fs, walk, 3 cold, 2 of orders, larger, restart, \
             2 of transports"
        );
    }

    #[test]
    fn targets_include_their_bound() {
        assert!(Target::AtLeast(0.5).is_met(0.5) && !Target::AtLeast(0.5).is_met(0.49));
        assert!(Target::AtMost(0.0).is_met(0.0) && !Target::AtMost(0.0).is_met(1.0));
        assert!(!Target::AtLeast(0.5).is_met(f64::NAN) && !Target::AtMost(1.0).is_met(f64::NAN));
    }
}
