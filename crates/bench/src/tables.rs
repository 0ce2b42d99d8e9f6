//! What every table of rows with targets needs: the rows that were asked for, and the file of the result.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

/// The rows that `only` asks for, which are names or parts of names with commas between them; without it, all.
///
/// # Errors
///
/// If there is none for one of them; says which there are.
pub(crate) fn chosen<R: Clone>(
    all: &[R],
    name: impl Fn(&R) -> &str,
    only: Option<&str>,
) -> Result<Vec<R>> {
    let Some(only) = only else { return Ok(all.to_vec()) };
    // A whole name means this row and not those whose names contain it.
    let is_name = |part: &str| all.iter().any(|row| name(row) == part);
    let is_meant = |row: &R, part: &str| match is_name(part) {
        true => name(row) == part,
        false => name(row).contains(part),
    };
    let parts: Vec<&str> = only.split(',').map(str::trim).collect();
    for part in &parts {
        if part.is_empty() || !all.iter().any(|row| is_meant(row, part)) {
            let names: Vec<&str> = all.iter().map(&name).collect();
            bail!("--only {part:?} matches no row; there are {}", names.join(", "));
        }
    }
    let wanted = |row: &&R| parts.iter().any(|part| is_meant(row, part));
    Ok(all.iter().filter(wanted).cloned().collect())
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
