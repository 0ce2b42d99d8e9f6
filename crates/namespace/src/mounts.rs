//! The mount table: which bucket and key prefix a path of the tree stands for.
//!
//! The deepest mounted path that contains a path wins, so a mounted path hides keys of the same
//! name in the bucket around it. Directories that only lead to a mounted path exist by
//! configuration: they cost no request and never expire.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use feedline_model::{Directory, DirectoryBuilder, Lister};

use crate::config::{ConfigError, Mounted};
use crate::rules::check_path;

/// How long a directory that exists by configuration is good for: longer than any process runs,
/// short enough that no sum of milliseconds overflows.
const LEAD_TTL_MS: u64 = 100 * 365 * 24 * 3600 * 1000;
/// After a source did not answer, how long outdated listings of it are served without asking
/// again: one slow failure a second, not one for each directory.
pub(crate) const DOWN_PAUSE_MS: u64 = 1000;

/// One mounted bucket or prefix.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) path: String,
    pub(crate) lister: Arc<dyn Lister>,
    pub(crate) prefix: String,
    /// Until when the source counts as down, in milliseconds since 1970.
    down_until_ms: AtomicU64,
    /// The outage was logged.
    warned: AtomicBool,
    /// A background preload is under way.
    pub(crate) preloading: AtomicBool,
}

impl Mount {
    /// True for a moment after the source did not answer.
    pub(crate) fn is_down(&self, now_ms: u64) -> bool {
        let until = self.down_until_ms.load(Ordering::Relaxed);
        now_ms < until && until <= now_ms + DOWN_PAUSE_MS
    }

    /// Takes note that the source answered. Logs the end of an outage.
    pub(crate) fn answered(&self) {
        self.down_until_ms.store(0, Ordering::Relaxed);
        if self.warned.swap(false, Ordering::Relaxed) {
            tracing::info!(mount = self.path, "the store answers again");
        }
    }

    /// Takes note that the source did not answer. Logs the begin of an outage, once.
    pub(crate) fn failed(&self, now_ms: u64, error: &feedline_model::ReadError) {
        self.down_until_ms.store(now_ms + DOWN_PAUSE_MS, Ordering::Relaxed);
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(mount = self.path, %error, "no listing; known directories are served");
        }
    }
}

/// A directory that exists by configuration, below another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) name: String,
    /// A bucket is mounted exactly here, so everything of this name around it is hidden.
    pub(crate) mounted: bool,
}

/// What a path of the tree stands for.
#[derive(Debug)]
pub(crate) struct Place {
    /// Index of the mount.
    pub(crate) mount: usize,
    /// Prefix of the keys in the directory: empty, or with a final `/`.
    pub(crate) key_prefix: String,
    /// Directories that lead to mounts below, sorted.
    pub(crate) children: Vec<Child>,
    /// The mount's own root: exists even if it is empty.
    pub(crate) is_root: bool,
}

/// All mounts.
#[derive(Debug)]
pub(crate) struct Mounts {
    /// Sorted by path.
    all: Vec<Mount>,
    /// Directories that no bucket stands behind.
    leads: HashMap<String, Arc<Directory>>,
}

/// What follows `ancestor` in `path`, without a slash; `None` if it is no ancestor nor equal.
pub(crate) fn below<'a>(path: &'a str, ancestor: &str) -> Option<&'a str> {
    if ancestor.is_empty() {
        return Some(path);
    }
    let rest = path.strip_prefix(ancestor)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// The path one level up, `""` for the first level.
pub(crate) fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..slash])
}

impl Mounts {
    /// Checks and sorts the configured mounts. `now_ms` dates the leading directories.
    pub(crate) fn new(mounted: Vec<Mounted>, now_ms: u64) -> Result<Self, ConfigError> {
        let mut all = Vec::with_capacity(mounted.len());
        for Mounted { tree_path, lister, mut prefix } in mounted {
            let path = tree_path.trim_matches('/').to_owned();
            if let Err(reason) = check_path(&path) {
                return Err(ConfigError::InvalidPath { path, why: reason.name() });
            }
            if !prefix.is_empty() && !prefix.ends_with('/') {
                prefix.push('/');
            }
            let (down_until_ms, warned, preloading) = Default::default();
            all.push(Mount { path, lister, prefix, down_until_ms, warned, preloading });
        }
        all.sort_by(|a: &Mount, b| a.path.cmp(&b.path));
        if all.is_empty() {
            return Err(ConfigError::NoMount);
        }
        if let Some(pair) = all.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return Err(ConfigError::Duplicate { path: pair[0].path.clone() });
        }
        let mut mounts = Self { all, leads: HashMap::new() };
        mounts.leads = mounts.build_leads(now_ms);
        Ok(mounts)
    }

    fn build_leads(&self, now_ms: u64) -> HashMap<String, Arc<Directory>> {
        let mut leads = HashMap::new();
        for mount in &self.all {
            let mut path = mount.path.as_str();
            while !path.is_empty() {
                path = parent(path);
                if self.covering(path).is_none() && !leads.contains_key(path) {
                    let mut builder = DirectoryBuilder::new();
                    self.children(path).iter().for_each(|child| builder.directory(&child.name));
                    let (directory, _) = builder.build(path, None, now_ms, LEAD_TTL_MS);
                    leads.insert(path.to_owned(), Arc::new(directory));
                }
            }
        }
        leads
    }

    /// Index of the deepest mount that contains `path`.
    fn covering(&self, path: &str) -> Option<usize> {
        let contains = |(_, mount): &(usize, &Mount)| below(path, &mount.path).is_some();
        let deepest = |(_, mount): &(usize, &Mount)| mount.path.len();
        self.all.iter().enumerate().filter(contains).max_by_key(deepest).map(|(index, _)| index)
    }

    fn children(&self, path: &str) -> Vec<Child> {
        let mut children: Vec<Child> = Vec::new();
        for mount in &self.all {
            let Some(rest) = below(&mount.path, path).filter(|rest| !rest.is_empty()) else {
                continue;
            };
            let (name, mounted) =
                rest.split_once('/').map_or((rest, true), |(name, _)| (name, false));
            match children.iter_mut().find(|child| child.name == name) {
                Some(child) => child.mounted |= mounted,
                None => children.push(Child { name: name.to_owned(), mounted }),
            }
        }
        children
    }

    /// The directory that exists by configuration alone.
    pub(crate) fn lead(&self, path: &str) -> Option<&Arc<Directory>> {
        self.leads.get(path)
    }

    /// How many directories exist by configuration alone.
    pub(crate) fn leads_len(&self) -> usize {
        self.leads.len()
    }

    /// What a path stands for; `None` if no bucket stands behind it.
    pub(crate) fn place(&self, path: &str) -> Option<Place> {
        let index = self.covering(path)?;
        let mount = &self.all[index];
        let rest = below(path, &mount.path)?;
        let slash = if rest.is_empty() { "" } else { "/" };
        Some(Place {
            mount: index,
            key_prefix: format!("{}{rest}{slash}", mount.prefix),
            children: self.children(path),
            is_root: rest.is_empty(),
        })
    }

    /// The mount at `index`.
    pub(crate) fn get(&self, index: usize) -> &Mount {
        &self.all[index]
    }

    /// The mount that a path belongs to.
    pub(crate) fn of(&self, path: &str) -> Option<(usize, &Mount)> {
        self.covering(path).map(|index| (index, &self.all[index]))
    }

    /// All mounts, sorted by path.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.all.iter()
    }

    /// What a state file must have been written for: paths, sources and prefixes, in order.
    pub(crate) fn identity(&self) -> String {
        use std::fmt::Write as _;
        self.all.iter().fold(String::new(), |mut text, mount| {
            let source = mount.lister.source().0;
            let _ = writeln!(text, "{}\t{source:016x}\t{}", mount.path, mount.prefix);
            text
        })
    }
}
