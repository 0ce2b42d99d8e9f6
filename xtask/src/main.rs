//! Repository checks that no compiler makes: `cargo xtask tidy`.
//!
//! Every complaint says what to do about it. [`source`] reads single files (headers, sizes, words),
//! [`rooms`] compares the drawn directions between crates with what Cargo.toml and `use` say.

mod rooms;
mod source;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

/// One thing to mend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// Path relative to the repository, with `:line` where that helps.
    pub(crate) place: String,
    /// What is wrong and how to mend it.
    pub(crate) mend: String,
}

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(count) => {
            eprintln!("tidy: {count} complaints");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the subcommand; returns the number of complaints.
fn run() -> Result<usize> {
    let task = std::env::args().nth(1);
    if task.as_deref() != Some("tidy") {
        bail!("usage: cargo xtask tidy");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
    let files = tracked_files(root)?;
    let mut complaints = rooms::check(root)?;
    let mut seen = 0_usize;
    for file in files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "rs")) {
        let text = std::fs::read_to_string(root.join(file))
            .with_context(|| format!("read {}", file.display()))?;
        complaints.extend(source::check(&file.display().to_string(), &text));
        seen += 1;
    }
    complaints.extend(files.iter().filter_map(|file| source::check_kind(file)));
    for complaint in &complaints {
        println!("{}: {}", complaint.place, complaint.mend);
    }
    if seen == 0 {
        bail!("no Rust file found: the check would have shown nothing");
    }
    println!("tidy: {seen} files checked");
    Ok(complaints.len())
}

/// The files git tracks or would track, that exist.
fn tracked_files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("run git ls-files")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    let names = String::from_utf8(output.stdout).context("file names are UTF-8")?;
    let files = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    Ok(files.filter(|file| root.join(file).is_file()).collect())
}
