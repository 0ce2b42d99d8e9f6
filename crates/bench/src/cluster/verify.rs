//! Reads a data set through the mounts of several nodes and compares every byte with the bucket's own
//! files. A read that fails or is wrong is counted, and the others go on: a fault must cost none.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

use crate::files::{list_tree, read_whole};

/// Reader threads of each node: enough that some reads are under way at any moment.
const READERS: usize = 4;

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verified {
    /// Files read whole and found right.
    pub(super) right: u64,
    /// Reads that failed.
    pub(super) failed: u64,
    /// Files with other bytes.
    pub(super) wrong: u64,
    /// The first trouble.
    pub(super) first: Option<String>,
}

/// The files of the bucket's folder, and the folder.
#[derive(Debug)]
pub(super) struct Source {
    folder: PathBuf,
    /// Below the folder.
    files: Vec<PathBuf>,
}

impl Source {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let below = |path: &PathBuf| Ok(path.strip_prefix(folder)?.to_owned());
        let files = list_tree(folder)?.iter().map(below).collect::<Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), files })
    }

    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    /// Reads every file once: the file at place `i` of `order` through the mount `i` modulo their number.
    /// Calls `at_half` once, when half is read.
    pub(super) fn read(
        &self,
        mounts: &[PathBuf],
        order: &[usize],
        at_half: impl FnOnce() -> Result<()>,
    ) -> Result<Verified> {
        let (next, right) = (AtomicUsize::new(0), AtomicU64::new(0));
        let verified = Mutex::new(Verified::default());
        let half = order.len() / 2;
        let read_some = || {
            while let Some(at) = claim(&next, order.len()) {
                if crate::interrupt::is_interrupted() {
                    return;
                }
                match self.read_one(&mounts[at % mounts.len()], order[at]) {
                    Outcome::Right => drop(right.fetch_add(1, Ordering::Relaxed)),
                    trouble => note(&verified, trouble),
                }
            }
        };
        let called = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..READERS * mounts.len()).map(|_| scope.spawn(read_some)).collect();
            while next.load(Ordering::Relaxed) < half && threads.iter().any(|t| !t.is_finished()) {
                crate::time::sleep(std::time::Duration::from_millis(1));
            }
            at_half()
        });
        called.context("in the middle of the epoch")?;
        crate::interrupt::check()?;
        let mut verified = verified.into_inner().context("a reader panicked")?;
        verified.right = right.into_inner();
        Ok(verified)
    }

    fn read_one(&self, mount: &Path, file: usize) -> Outcome {
        let path = mount.join(&self.files[file]);
        let (mut got, mut expected) = (Vec::new(), Vec::new());
        if let Err(error) = read_whole(&path, &mut got) {
            return Outcome::Failed(format!("{}: {error}", path.display()));
        }
        let original = self.folder.join(&self.files[file]);
        match read_whole(&original, &mut expected) {
            Err(error) => Outcome::Failed(format!("{}: {error}", original.display())),
            Ok(_) if got == expected => Outcome::Right,
            Ok(_) => Outcome::Wrong(format!("{}: other bytes", path.display())),
        }
    }
}

enum Outcome {
    Right,
    Failed(String),
    Wrong(String),
}

fn claim(next: &AtomicUsize, all: usize) -> Option<usize> {
    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < all)
}

fn note(verified: &Mutex<Verified>, outcome: Outcome) {
    let Ok(mut verified) = verified.lock() else { return };
    let text = match outcome {
        Outcome::Right => return,
        Outcome::Failed(text) => {
            verified.failed += 1;
            text
        }
        Outcome::Wrong(text) => {
            verified.wrong += 1;
            text
        }
    };
    verified.first.get_or_insert(text);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn wrong_and_missing_files_are_counted_and_the_rest_is_read() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (bucket, mounts) = (dir.path().join("bucket"), ["a", "b"].map(|n| dir.path().join(n)));
        for at in 0..10 {
            for folder in [&bucket, &mounts[0], &mounts[1]] {
                fs::create_dir_all(folder).expect("made");
                fs::write(folder.join(format!("{at}")), format!("content {at}")).expect("written");
            }
        }
        let source = Source::new(&bucket).expect("listed");
        let order: Vec<usize> = (0..10).collect();
        let mut halves = 0;
        let read = |halves: &mut u64| {
            source.read(&mounts, &order, || {
                *halves += 1;
                Ok(())
            })
        };
        let all = read(&mut halves).expect("read");
        assert_eq!((all.right, all.failed, all.wrong, halves), (10, 0, 0, 1));
        // Of the second mount, which reads the odd places.
        fs::write(mounts[1].join("3"), "content 4").expect("written");
        fs::remove_file(mounts[1].join("5")).expect("removed");
        let some = read(&mut halves).expect("read");
        assert_eq!((some.right, some.failed, some.wrong, halves), (8, 1, 1, 2));
        assert!(some.first.is_some());
    }
}
