//! Bakes the commit into the program: a result carries what was measured, wherever the program runs then.

use std::fs;
use std::path::Path;
use std::process::Command;

/// What the program is made of: a change elsewhere leaves it the same.
const SOURCES: [&str; 4] =
    [":(top,glob)crates/*/src/**", ":(top,glob)bench/*.py", ":/Cargo.toml", ":/Cargo.lock"];

fn main() {
    println!("cargo::rustc-env=FEEDLINE_COMMIT={}", commit().unwrap_or("unknown".to_owned()));
    for crate_dir in fs::read_dir("..").into_iter().flatten().flatten() {
        again_after(&crate_dir.path().join("src"));
    }
    for script in ["training.py", "dali_train.py", "torch_train.py"] {
        again_after(&Path::new("../../bench").join(script));
    }
    for path in ["build.rs", "../../Cargo.toml", "../../Cargo.lock"] {
        again_after(Path::new(path));
    }
    // The one changes with every commit, the other when another branch is checked out.
    for name in ["logs/HEAD", "HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            again_after(Path::new(&path));
        }
    }
}

/// `+` at its end: the sources had changes. `None` outside of a repository.
fn commit() -> Option<String> {
    let hash = git(&["rev-parse", "--short=12", "HEAD"])?;
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    let changes = git(&[&status[..], &SOURCES].concat())?;
    Some(if changes.is_empty() { hash } else { format!("{hash}+") })
}

fn git(args: &[&str]) -> Option<String> {
    // Others may be at work in the repository: no lock is taken for what is only looked at.
    let output = Command::new("git").arg("--no-optional-locks").args(args).output().ok()?;
    let text = || String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then(text)
}

/// What is not there counts as changed each time.
fn again_after(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}
