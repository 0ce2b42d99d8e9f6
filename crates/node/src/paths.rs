//! Where things lie when the operator does not say: run directory, cache directory, and the id of a
//! mount point that names its files in both.

use std::path::{Path, PathBuf};

use feedline_model::SourceId;

/// `/run/feedline` for root, `$XDG_RUNTIME_DIR/feedline` otherwise; without that variable a
/// directory of the user's own under `/tmp`.
#[must_use]
pub fn run_dir_default() -> PathBuf {
    let uid = rustix::process::getuid();
    if uid.is_root() {
        return "/run/feedline".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("feedline"),
        _ => format!("/tmp/feedline-{}", uid.as_raw()).into(),
    }
}

/// `/var/cache/feedline` for root, `$XDG_CACHE_HOME/feedline` or `~/.cache/feedline` otherwise.
#[must_use]
pub fn cache_dir_default() -> PathBuf {
    if rustix::process::getuid().is_root() {
        return "/var/cache/feedline".into();
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    match (variable("XDG_CACHE_HOME"), variable("HOME")) {
        (Some(cache), _) => PathBuf::from(cache).join("feedline"),
        (None, Some(home)) => PathBuf::from(home).join(".cache/feedline"),
        (None, None) => "/var/tmp/feedline".into(),
    }
}

/// Names a mount point in file names: its path for people, and a hash so that `/a-b` and `/a/b`
/// differ.
#[must_use]
pub fn mount_id(mountpoint: &Path) -> String {
    // 48 bytes of path leave room for `admin.sock` within the 108 bytes of a socket address.
    const READABLE_BYTES_MAX: usize = 48;
    let text = mountpoint.to_string_lossy();
    let readable: String = text
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' })
        .take(READABLE_BYTES_MAX)
        .collect();
    let hash = SourceId::of_url(&text).0 as u32;
    format!("{readable}-{hash:08x}")
}
