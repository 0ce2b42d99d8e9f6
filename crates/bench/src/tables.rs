//! What every table of rows with targets needs: the rows that were asked for, and the file of the result.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

/// The rows that `only` asks for: the one of this name, or those whose names contain it; without it, all.
///
/// # Errors
///
/// If there is none; says which there are.
pub(crate) fn chosen<R: Clone>(
    all: &[R],
    name: impl Fn(&R) -> &str,
    only: Option<&str>,
) -> Result<Vec<R>> {
    // A whole name means this row and not those whose names end alike.
    let is_name = |only: &str| all.iter().any(|row| name(row) == only);
    let wanted = |row: &&R| match only {
        None => true,
        Some(only) if is_name(only) => name(row) == only,
        Some(only) => name(row).contains(only),
    };
    let chosen: Vec<R> = all.iter().filter(wanted).cloned().collect();
    if chosen.is_empty() {
        let names: Vec<&str> = all.iter().map(name).collect();
        bail!("--only matches no row; there are {}", names.join(", "));
    }
    Ok(chosen)
}

/// Writes a result as `STEM.json` into a folder, which is made if need be.
///
/// # Errors
///
/// Of the file system.
pub(crate) fn write_json(folder: &Path, stem: &str, result: &impl Serialize) -> Result<PathBuf> {
    let path = folder.join(format!("{stem}.json"));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, serde_json::to_string_pretty(result)? + "\n"))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
