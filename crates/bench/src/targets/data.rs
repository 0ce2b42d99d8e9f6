//! The data sets of the table. They are made once and kept, since making them takes longer than most rows.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::dataset::{MakeArgs, Random, make, progress_bar};
use crate::files::list_tree;

/// How large everything is.
pub(super) struct Sizes {
    images: usize,
    classes: usize,
    large_bytes: u64,
    many: usize,
    subset: usize,
    medium: usize,
    million: usize,
}

/// What the targets are stated for.
pub(super) const FULL: Sizes = Sizes {
    images: 20_000,
    classes: 100,
    large_bytes: 2 << 30,
    many: 100_000,
    subset: 400,
    medium: 4_000,
    million: MILLION_FULL,
};
/// Enough that everything happens.
pub(super) const QUICK: Sizes = Sizes {
    images: 1_000,
    classes: 20,
    large_bytes: 128 << 20,
    many: 5_000,
    subset: 60,
    medium: 1_000,
    million: MILLION_QUICK,
};

/// What there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Small files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Folders that they are in.
    pub folders: u64,
    /// Bytes of the large object.
    pub large_bytes: u64,
    /// Files that are walked.
    pub many: u64,
    /// Files, taken evenly from the small ones, that are read cold and that s3fs reads: it needs a
    /// second for every 30 to 50.
    pub subset: u64,
    /// Files, taken likewise, that real loaders read and decode, and that are twice a small cache.
    pub medium: u64,
    /// Tiny objects that are cached when the daemon restarts.
    #[serde(default)]
    pub million: u64,
}

impl Data {
    /// One line for people.
    pub(super) fn line(&self) -> String {
        let Self { files, bytes, folders, large_bytes, many, subset, medium, million } = self;
        format!(
            "{files} files in {folders} folders, {:.0} MB; one of {} MiB; {many} to walk; {subset} cold and for s3fs; {medium} to decode; {million} tiny ones",
            *bytes as f64 / 1e6,
            large_bytes >> 20
        )
    }
}

/// Makes what is not there yet in `root`, a folder per bucket.
pub(super) fn make_all(root: &Path, sizes: &Sizes) -> Result<Data> {
    let small = root.join("small");
    let bar = progress_bar("images");
    let made = make(&MakeArgs::new(&small, sizes.images, sizes.classes, 1), &bar)?;
    bar.finish_and_clear();
    make_large(&root.join("large"), sizes.large_bytes)?;
    make_many(&root.join("many"), sizes.many)?;
    make_subset(&small, &root.join("subset"), sizes.subset)?;
    make_subset(&small, &root.join("medium"), sizes.medium)?;
    make_million(&root.join(MILLION), sizes.million)?;
    crate::interrupt::check()?;
    Ok(Data {
        files: made.files,
        bytes: made.bytes,
        folders: sizes.classes as u64,
        large_bytes: sizes.large_bytes,
        many: sizes.many as u64,
        subset: sizes.subset as u64,
        medium: sizes.medium as u64,
        million: sizes.million as u64,
    })
}

/// The bucket of very many tiny objects.
pub(crate) const MILLION: &str = "million";
/// How many: of the full data, and of the quick one.
pub(crate) const MILLION_FULL: usize = 1_000_000;
/// See [`MILLION_FULL`].
pub(crate) const MILLION_QUICK: usize = 20_000;
/// They are names of so many files each: ext4 ends at 65,000.
const LINKS_MAX: usize = 50_000;

/// Where number `index` of the very many lies below their folder.
pub(super) fn million_path(index: usize) -> PathBuf {
    PathBuf::from(format!("train/c{:04}/{index:07}.jpg", index / 1_000))
}

/// Tiny files in class folders of a thousand, most of them further links to others.
pub(crate) fn make_million(folder: &Path, files: usize) -> Result<()> {
    let path = |index: usize| folder.join(million_path(index));
    if path(files - 1).exists() {
        return Ok(());
    }
    for index in 0..files {
        crate::interrupt::check()?;
        let (path, first) = (path(index), path(index / LINKS_MAX * LINKS_MAX));
        if let Some(parent) = path.parent().filter(|_| index.is_multiple_of(1_000)) {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        let made = if path == first {
            fs::write(&path, [b'x'; 100])
        } else {
            match fs::hard_link(&first, &path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                made => made,
            }
        };
        made.with_context(|| format!("make {}", path.display()))?;
    }
    Ok(())
}

/// One file of noise that no disk compresses.
fn make_large(folder: &Path, bytes: u64) -> Result<()> {
    let path = folder.join("large.bin");
    if fs::metadata(&path).is_ok_and(|found| found.len() == bytes) {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(&path)?);
        let mut random = Random::new(1, 2);
        for _ in 0..bytes / 8 {
            file.write_all(&random.next().to_le_bytes())?;
        }
        file.flush()
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Small files in folders of a thousand, for walks.
fn make_many(folder: &Path, files: usize) -> Result<()> {
    let path = |index: usize| folder.join(format!("d{:03}/{index:06}", index / 1_000));
    if path(files - 1).exists() {
        return Ok(());
    }
    for index in 0..files {
        crate::interrupt::check()?;
        let path = path(index);
        if let Some(parent) = path.parent().filter(|_| index.is_multiple_of(1_000)) {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        fs::write(&path, index.to_string()).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Some of the files of `small` under the same names, as further links to them.
fn make_subset(small: &Path, folder: &Path, files: usize) -> Result<()> {
    let all = list_tree(small)?;
    for path in all.iter().step_by((all.len() / files).max(1)).take(files) {
        let link = folder.join(path.strip_prefix(small).context("a file of the data set")?);
        let parent = link.parent().context("a file lies in a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        if !link.exists() {
            fs::hard_link(path, &link).with_context(|| format!("link {}", link.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_twice_it_is_the_same() {
        let root = tempfile::tempdir().expect("temporary folder");
        let path = |name: &str| root.path().join(name);
        for _ in 0..2 {
            make_large(&path("large"), 4096).expect("made");
            make_many(&path("many"), 1_100).expect("made");
            make_subset(&path("many"), &path("subset"), 7).expect("linked");
            make_million(&path("million"), 1_500).expect("linked");
        }
        let files = |name: &str| list_tree(&path(name)).expect("listed");
        assert_eq!(
            ["large", "many", "subset", "million"].map(|name| files(name).len()),
            [1, 1_100, 7, 1_500]
        );
        assert_eq!(files("million")[1_499], path("million").join(million_path(1_499)));
        let text = |path: &Path| fs::read_to_string(path).expect("read");
        assert_eq!(text(&path("many/d001/001042")), "1042");
        let last = files("subset").pop().expect("a file");
        assert_eq!(
            text(&last),
            last.file_name().and_then(|n| n.to_str()).expect("a name").trim_start_matches('0')
        );
    }
}
