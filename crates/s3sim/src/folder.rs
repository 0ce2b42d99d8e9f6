//! Objects as files: `bucket directory / key`.
//!
//! # Invariants
//!
//! - A file appears whole, by rename from a scratch directory on the same file system, so a reader
//!   sees the old object or the new one.
//! - The tag and headers of a stored object lie in an extended attribute, with the size and time
//!   they belong to: a file that is changed by other means loses them and gets a tag of its own.
//!   Where the file system keeps no such attributes, every file is one of those.
//! - A key that no path can hold is refused by [`path_of`]; the caller keeps it in memory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;

use crate::object::{Entry, StoredHeaders, Tag, unix_ms};

/// Below the served root; no bucket may start with a dot, so it is never listed.
pub(crate) const SCRATCH_DIR: &str = ".s3sim";

/// Where the tag and the headers of a stored object lie.
const ATTRIBUTE: &str = "user.s3sim";

/// The longest attribute read: S3 allows 2 KB of metadata, and ext4 stores up to one block.
const ATTRIBUTE_BYTES_MAX: usize = 4096;

/// The longest name of a directory entry on Linux.
const PART_BYTES_MAX: usize = 255;

/// The longest path that one system call takes is 4096 bytes; this leaves room for the root.
const KEY_PATH_BYTES_MAX: usize = 3072;

/// How often a store is tried again because an empty directory was pruned under it.
const PRUNE_RACES_MAX: usize = 8;

/// The file that holds `key`, or `None` if no file can.
pub(crate) fn path_of(dir: &Path, key: &str) -> Option<PathBuf> {
    let plain = key.len() <= KEY_PATH_BYTES_MAX
        && !key.chars().any(char::is_control)
        && key.split('/').all(|part| {
            !part.is_empty() && part != "." && part != ".." && part.len() <= PART_BYTES_MAX
        });
    plain.then(|| dir.join(key))
}

/// Opens an object. `None` if there is no such file, or if a directory stands in its place.
pub(crate) fn open(path: &Path) -> io::Result<Option<(File, Entry, StoredHeaders)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut text = [0; ATTRIBUTE_BYTES_MAX];
    let bytes = rustix::fs::fgetxattr(&file, ATTRIBUTE, &mut text[..]).unwrap_or(0);
    let (tag, headers) = parse_attribute(&text[..bytes], &metadata).unwrap_or_default();
    Ok(Some((file, entry(&metadata, tag), headers)))
}

/// What a listing says of the file. `None` for anything but a file.
pub(crate) fn inspect(path: &Path) -> io::Result<Option<Entry>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut text = [0; ATTRIBUTE_BYTES_MAX];
    let bytes = rustix::fs::getxattr(path, ATTRIBUTE, &mut text[..]).unwrap_or(0);
    let (tag, _) = parse_attribute(&text[..bytes], &metadata).unwrap_or_default();
    Ok(Some(entry(&metadata, tag)))
}

fn entry(metadata: &fs::Metadata, tag: Option<Tag>) -> Entry {
    Entry {
        size: metadata.len(),
        modified_ms: metadata.modified().map_or(0, unix_ms),
        tag: tag.unwrap_or_else(|| Tag::of_file(metadata)),
    }
}

/// True if the name leads nowhere, or to a directory where a file was meant.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory | InvalidFilename)
}

/// Moves a scratch file into place under `dir`. `Ok(false)` if no file can stand there because
/// a directory does, or because a part of the path is a file.
pub(crate) fn publish(scratch: &Path, path: &Path) -> io::Result<bool> {
    let parent = path.parent().expect("a key's path lies below its bucket");
    for _ in 0..PRUNE_RACES_MAX {
        let moved = match fs::rename(scratch, path) {
            // Directories are made only when they turn out to be missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(parent).and_then(|()| fs::rename(scratch, path))
            }
            moved => moved,
        };
        match moved {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // Pruned; make it again.
            Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::AlreadyExists => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("{}: its directory keeps disappearing", path.display())))
}

/// Writes a scratch file whole, with its tag and headers.
pub(crate) fn write_scratch(
    path: &Path,
    bytes: &[u8],
    tag: Tag,
    headers: &StoredHeaders,
) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    set_attribute(&file, tag, headers)
}

/// Records tag and headers; they hold while the size and time of the file do.
pub(crate) fn set_attribute(file: &File, tag: Tag, headers: &StoredHeaders) -> io::Result<()> {
    let metadata = file.metadata()?;
    let (size, seconds, ns) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    let mut text = format!("{tag} {size} {seconds}.{ns:09}\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\n"));
    }
    if let Err(error) = rustix::fs::fsetxattr(file, ATTRIBUTE, text.as_bytes(), XattrFlags::empty())
    {
        tracing::debug!(%error, "tag and headers not kept: no extended attributes here");
    }
    Ok(())
}

/// Reads an attribute back; `None` if it does not belong to the file as it is now.
fn parse_attribute(text: &[u8], metadata: &fs::Metadata) -> Option<(Option<Tag>, StoredHeaders)> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    let mut words = lines.next()?.split(' ');
    let tag = Tag::parse(words.next()?)?;
    let time = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
    if words.next()? != metadata.len().to_string() || words.next()? != time {
        return None;
    }
    let headers = lines.filter_map(|line| line.split_once(": "));
    Some((Some(tag), headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
}

/// Deletes a file, and the directories above it that are left empty, up to the bucket's.
pub(crate) fn remove(dir: &Path, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => fs::remove_file(path)?,
        Ok(_) => return Ok(false),
        Err(error) if is_absent(&error) => return Ok(false),
        Err(error) => return Err(error),
    }
    let above = path.ancestors().skip(1).take_while(|above| *above != dir);
    for above in above {
        if fs::remove_dir(above).is_err() {
            break; // Not empty, or already gone.
        }
    }
    Ok(true)
}

/// The identity of a directory's content: it changes when an entry is made or removed.
pub(crate) fn stamp(dir: &Path) -> Option<(i64, i64)> {
    let metadata = fs::metadata(dir).ok()?;
    metadata.is_dir().then(|| (metadata.mtime(), metadata.mtime_nsec()))
}

/// Visits the files and directories below `dir`, the directory itself first. Names that are not
/// UTF-8 cannot be keys and are left out, as are links to directories, which could form a ring.
pub(crate) fn walk(
    dir: &Path,
    directory: &mut dyn FnMut(&str, (i64, i64)),
    file: &mut dyn FnMut(String, Entry),
) -> io::Result<()> {
    let mut todo = vec![(dir.to_owned(), String::new())];
    while let Some((path, prefix)) = todo.pop() {
        // The stamp first: an entry made during the walk makes it differ later.
        let Some(stamp) = stamp(&path) else { continue };
        directory(&prefix, stamp);
        for item in fs::read_dir(&path)? {
            let item = item?;
            let Some(name) = item.file_name().to_str().map(str::to_owned) else {
                tracing::warn!(path = %item.path().display(), "not UTF-8: not served");
                continue;
            };
            if item.file_type()?.is_dir() {
                todo.push((item.path(), format!("{prefix}{name}/")));
            } else if let Ok(Some(entry)) = inspect(&item.path()) {
                file(format!("{prefix}{name}"), entry);
            }
        }
    }
    Ok(())
}
