//! `feedline bench meta`: how fast a tree is walked, with a stat of every entry.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::caches::drop_caches;
use crate::facts::Facts;
use crate::time::now;
use crate::units::rate;

/// `feedline bench meta`
#[derive(Debug, Clone, clap::Args)]
pub struct MetaArgs {
    /// Folder
    pub path: PathBuf,
    /// How often it is walked
    #[arg(long, default_value_t = 2)]
    pub passes: usize,
    /// Drop the kernel's caches before the first walk (needs root)
    #[arg(long)]
    pub drop_caches: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// One walk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Walk {
    /// Files and folders below the root.
    pub entries: u64,
    /// Sum of the sizes of the files.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Entries a second.
    pub entries_per_s: f64,
}

/// `feedline bench meta`: measures and prints.
///
/// # Errors
///
/// The first entry that cannot be listed or stat-ed, with its path.
pub fn run(args: &MetaArgs) -> Result<Vec<Walk>> {
    if args.drop_caches {
        drop_caches()?;
    }
    let walks: Vec<Walk> =
        (0..args.passes.max(1)).map(|_| walk(&args.path)).collect::<Result<_>>()?;
    if args.json {
        let json =
            serde_json::json!({ "facts": Facts::collect(), "path": args.path, "walks": walks });
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        println!("{}", Facts::collect().line());
        for (number, Walk { entries, seconds, entries_per_s, .. }) in walks.iter().enumerate() {
            println!("walk {number}: {entries} entries in {seconds:.3} s, {entries_per_s:.0}/s");
        }
    }
    Ok(walks)
}

/// Walks `root` once, in one thread, with a stat of each entry.
///
/// # Errors
///
/// The first entry that cannot be listed or stat-ed, with its path.
pub fn walk(root: &Path) -> Result<Walk> {
    let started = now();
    let mut result = Walk::default();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", folder.display()))?;
            let metadata =
                entry.metadata().with_context(|| format!("stat {}", entry.path().display()))?;
            result.entries += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                result.bytes += metadata.len();
            }
        }
    }
    result.seconds = started.elapsed().as_secs_f64();
    result.entries_per_s = rate(result.entries as f64, result.seconds);
    Ok(result)
}
