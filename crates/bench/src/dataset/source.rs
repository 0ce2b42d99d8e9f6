//! What `dataset put` uploads: the files of a folder, or the images in ImageNet's original tars.
//!
//! `ILSVRC2012_img_train.tar` holds a tar for each class, `ILSVRC2012_img_val.tar` the images alone; their
//! classes are in a list of `ILSVRC2012_val_00000001.JPEG n01751748` lines. Tars are read once from
//! start to end; nothing is unpacked to disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tar::{Archive, Entry};

use crate::files::list_tree;

/// The largest file taken from a tar: the original images are at most a few MB.
const TAR_IMAGE_BYTES_MAX: u64 = 64 << 20;

/// One object to upload.
#[derive(Debug)]
pub(super) struct Item {
    /// Key below the prefix.
    pub(super) key: String,
    /// Bytes.
    pub(super) size: u64,
    pub(super) body: Body,
}

/// Where its bytes are.
#[derive(Debug)]
pub(super) enum Body {
    File(PathBuf),
    Memory(Vec<u8>),
}

/// What takes an item; `false` ends the walk.
pub(super) type Sink<'a> = &'a mut dyn FnMut(Item) -> bool;

/// Goes through `source` once. `wanted` says which keys need their bytes; an item of the others has an
/// empty body.
pub(super) fn walk(
    source: &Path,
    val_map: Option<&Path>,
    wanted: &dyn Fn(&str, u64) -> bool,
    sink: Sink<'_>,
) -> Result<()> {
    let metadata =
        std::fs::metadata(source).with_context(|| format!("stat {}", source.display()))?;
    if metadata.is_dir() {
        ensure!(val_map.is_none(), "--val-map goes with a tar, not with a folder");
        return walk_folder(source, sink);
    }
    let named = |error: anyhow::Error| error.context(format!("in {}", source.display()));
    let file = File::open(source).with_context(|| format!("open {}", source.display()))?;
    let reader = BufReader::with_capacity(1 << 20, file);
    match val_map {
        Some(map) => walk_val(reader, &read_map(map)?, wanted, sink).map_err(named),
        None => walk_train(reader, wanted, sink).map_err(named),
    }
}

fn walk_folder(root: &Path, sink: Sink<'_>) -> Result<()> {
    for path in list_tree(root)? {
        let size =
            std::fs::metadata(&path).with_context(|| format!("stat {}", path.display()))?.len();
        let key = path.strip_prefix(root).context("a file below the folder")?;
        let key = key
            .to_str()
            .with_context(|| format!("{}: the name is not UTF-8", path.display()))?
            .to_owned();
        if !sink(Item { key, size, body: Body::File(path) }) {
            break;
        }
    }
    Ok(())
}

fn read_map(path: &Path) -> Result<HashMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut map = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(image), Some(class), None) = (words.next(), words.next(), words.next()) else {
            bail!("{}:{}: not `IMAGE CLASS`: {line}", path.display(), number + 1);
        };
        ensure!(is_plain(class), "{}:{}: no class folder: {class}", path.display(), number + 1);
        map.insert(image.to_owned(), class.to_owned());
    }
    Ok(map)
}

/// True for a name that is one part of a key.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

/// The last part of an entry's name; `None` for anything but a file.
fn file_name<R: Read>(entry: &Entry<'_, R>) -> Result<Option<String>> {
    if !entry.header().entry_type().is_file() {
        return Ok(None);
    }
    let path = entry.path().context("an entry's name")?;
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(Some(name.with_context(|| format!("{}: the name is not UTF-8", path.display()))?.to_owned()))
}

fn walk_train(reader: impl Read, wanted: &dyn Fn(&str, u64) -> bool, sink: Sink<'_>) -> Result<()> {
    for class in Archive::new(reader).entries()? {
        let class = class.context("read the tar")?;
        let Some(name) = file_name(&class)? else { continue };
        let Some(wnid) = name.strip_suffix(".tar").filter(|wnid| is_plain(wnid)) else {
            bail!(
                "{name} is no class tar; give the tar of class tars (ILSVRC2012_img_train.tar), \
                 or --val-map FILE with the validation images"
            );
        };
        for image in Archive::new(class).entries()? {
            let mut image = image.with_context(|| format!("read {name}"))?;
            let Some(file) = file_name(&image)? else { continue };
            if !give(&mut image, format!("train/{wnid}/{file}"), wanted, sink)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn walk_val(
    reader: impl Read,
    classes: &HashMap<String, String>,
    wanted: &dyn Fn(&str, u64) -> bool,
    sink: Sink<'_>,
) -> Result<()> {
    for image in Archive::new(reader).entries()? {
        let mut image = image.context("read the tar")?;
        let Some(file) = file_name(&image)? else { continue };
        let class =
            classes.get(&file).with_context(|| format!("{file}: no class in the --val-map"))?;
        if !give(&mut image, format!("val/{class}/{file}"), wanted, sink)? {
            break;
        }
    }
    Ok(())
}

fn give<R: Read>(
    image: &mut Entry<'_, R>,
    key: String,
    wanted: &dyn Fn(&str, u64) -> bool,
    sink: Sink<'_>,
) -> Result<bool> {
    let size = image.size();
    ensure!(size <= TAR_IMAGE_BYTES_MAX, "{key}: {size} bytes are no image");
    let mut bytes = Vec::new();
    if wanted(&key, size) {
        image.read_to_end(&mut bytes).with_context(|| format!("{key}: read from the tar"))?;
        ensure!(bytes.len() as u64 == size, "{key}: the tar ends in the middle of it");
    }
    Ok(sink(Item { key, size, body: Body::Memory(bytes) }))
}
