//! Which paths are pinned: a list that outlives the daemon.
//!
//! A pin is a path, not a set of objects: what appears below it later is pinned too. The cache knows
//! ids only, so the role applies this list to it, at start and whenever the list changes.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;

use crate::files;

/// The pinned paths, relative to the root of the mount.
#[derive(Debug)]
pub(crate) struct Pins {
    file: PathBuf,
    paths: Mutex<BTreeSet<String>>,
}

impl Pins {
    /// Reads the list; a missing file is an empty one. A damaged one is an error: forgetting pins
    /// would evict what somebody wanted kept.
    pub(crate) fn open(file: PathBuf) -> io::Result<Self> {
        let paths = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                io::Error::other(format!("{}: damaged list of pins: {error}", file.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, paths: Mutex::new(paths) })
    }

    /// A file of this name beside the list.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.file.with_file_name(name)
    }

    /// All pinned paths.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.paths.lock().iter().cloned().collect()
    }

    /// The pinned path that holds `path`: itself or one above it.
    pub(crate) fn covering(&self, path: &str) -> Option<String> {
        let paths = self.paths.lock();
        paths.iter().find(|pinned| holds(pinned, path)).cloned()
    }

    /// True if `path` or something below it is pinned by itself.
    pub(crate) fn any_below(&self, path: &str) -> bool {
        self.paths.lock().iter().any(|pinned| holds(path, pinned))
    }

    /// Adds a path. Those below it are then implied and leave the list.
    pub(crate) fn add(&self, path: &str) -> io::Result<()> {
        self.add_all([path.to_owned()].into())
    }

    /// The same with some at once.
    pub(crate) fn add_all(&self, new: BTreeSet<String>) -> io::Result<()> {
        self.change(|paths| {
            paths.retain(|pinned| !covers(&new, pinned));
            paths.extend(new);
        })
    }

    /// Removes a path and those below it.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        self.change(|paths| paths.retain(|pinned| !holds(path, pinned)))
    }

    /// Removes a path alone: those below it stay.
    pub(crate) fn remove_one(&self, path: &str) -> io::Result<()> {
        self.change(|paths| paths.retain(|pinned| pinned != path))
    }

    /// True if the path is in the list by itself.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.paths.lock().contains(path)
    }

    /// True if exactly these are in the list.
    pub(crate) fn are(&self, paths: &BTreeSet<String>) -> bool {
        *self.paths.lock() == *paths
    }

    /// Changes the list, and keeps the change only if it reached the disk. The list is short and
    /// changes by hand, so the lock may be held over the write.
    fn change(&self, change: impl FnOnce(&mut BTreeSet<String>)) -> io::Result<()> {
        let mut paths = self.paths.lock();
        let mut changed = paths.clone();
        change(&mut changed);
        let text = serde_json::to_vec_pretty(&changed).map_err(io::Error::other)?;
        files::replace(&self.file, &text, true)?;
        *paths = changed;
        Ok(())
    }
}

/// These without those that others of them imply.
pub(crate) fn outermost(paths: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let all: BTreeSet<_> = paths.into_iter().collect();
    let is_implied = |path: &str| above(path).any(|above| all.contains(above));
    all.iter().filter(|path| !is_implied(path)).cloned().collect()
}

/// True if one of these is `path`, or above it.
pub(crate) fn covers(paths: &BTreeSet<String>, path: &str) -> bool {
    paths.contains(path) || above(path).any(|above| paths.contains(above))
}

/// The folders above a path, the root first.
fn above(path: &str) -> impl Iterator<Item = &str> {
    let root = (!path.is_empty()).then_some("");
    root.into_iter().chain(path.match_indices('/').map(|(at, _)| &path[..at]))
}

/// True if `path` is `above` or lies below it. The root holds everything.
pub(crate) fn holds(above: &str, path: &str) -> bool {
    match path.strip_prefix(above) {
        Some(rest) => above.is_empty() || rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_holds_what_lies_below_it_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pins.json");
        let pins = Pins::open(file.clone()).unwrap();
        pins.add("train/a").unwrap();
        pins.add("val").unwrap();
        assert_eq!(pins.covering("train/a/1.jpg").as_deref(), Some("train/a"));
        assert_eq!(pins.covering("train/a").as_deref(), Some("train/a"));
        assert_eq!(pins.covering("train/ab"), None);
        assert_eq!(pins.covering(""), None);
        assert!(pins.any_below("train") && pins.any_below("train/a"));
        assert!(!pins.any_below("train/a/1.jpg") && !pins.any_below("tra"));
        pins.add("train").unwrap();
        assert_eq!(pins.paths(), ["train", "val"], "train/a is implied");
        assert_eq!(Pins::open(file.clone()).unwrap().paths(), ["train", "val"]);
        // One below another goes in alone, and the other goes without it.
        pins.change(|paths| paths.extend(["train/a".to_owned()])).unwrap();
        pins.remove_one("train").unwrap();
        assert!(pins.contains("train/a") && !pins.contains("train"));
        let wanted = outermost(["val/b", "val", "train/a", "val-2"].map(str::to_owned));
        assert_eq!(wanted.iter().collect::<Vec<_>>(), ["train/a", "val", "val-2"]);
        assert_eq!(outermost(["a", "", "b/c"].map(str::to_owned)), [String::new()].into());
        assert!(!pins.are(&wanted));
        pins.add("val-2").unwrap();
        assert!(pins.are(&wanted) && Pins::open(file.clone()).unwrap().are(&wanted));
        pins.remove("").unwrap();
        assert_eq!(Pins::open(file.clone()).unwrap().paths(), [""; 0]);
        std::fs::write(&file, "x").unwrap();
        assert!(Pins::open(file).unwrap_err().to_string().contains("damaged"));
    }
}
