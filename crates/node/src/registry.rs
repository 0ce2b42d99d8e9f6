//! The run directory: how a command finds the daemon that serves a path.
//!
//! `<run_dir>/<id of the mount point>/` holds `admin.sock`, `pid`, `log` and `mount.json`. Nothing
//! here touches a mount point: a hung mount would hang the command that wants to end it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::ResolvedConfig;
use crate::paths;

pub(crate) const SOCKET: &str = "admin.sock";
const MOUNT_FILE: &str = "mount.json";

/// `mount.json`, as it lies on disk.
#[derive(Debug, Serialize, Deserialize)]
struct MountFile {
    mountpoint: PathBuf,
    sources: Vec<String>,
    pid: u32,
}

/// One daemon that has registered, alive or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// What it has mounted.
    pub sources: Vec<String>,
    /// Its process id.
    pub pid: u32,
    /// Its directory within the run directory.
    pub dir: PathBuf,
}

impl Registered {
    /// Its admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }

    /// Where a daemon in the background writes its log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// True if it answers on its socket. Does not touch the mount.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }

    /// Removes what a daemon that died without doing so left behind, its log aside.
    ///
    /// # Errors
    ///
    /// If a file is there and cannot be removed.
    pub fn clear(&self) -> io::Result<()> {
        for file in [SOCKET, "pid", MOUNT_FILE] {
            remove_if_there(&self.dir.join(file))?;
        }
        // Stays if there is a log.
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }
}

/// The directory of the daemon for `mountpoint`, whether or not one runs.
#[must_use]
pub fn dir_of(run_dir: &Path, mountpoint: &Path) -> PathBuf {
    run_dir.join(paths::mount_id(mountpoint))
}

/// Where a daemon with this configuration writes its log when it runs in the background.
#[must_use]
pub fn log_file(config: &ResolvedConfig) -> PathBuf {
    dir_of(&config.run_dir, &config.mountpoint).join("log")
}

/// Every daemon registered in `run_dir`, by mount point; those that died without cleaning up too.
///
/// # Errors
///
/// If the directory is there and cannot be read. A missing one is no daemon.
pub fn running(run_dir: &Path) -> io::Result<Vec<Registered>> {
    let entries = match fs::read_dir(run_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let dir = entry?.path();
        // A daemon that ends meanwhile takes its file with it.
        let Ok(text) = fs::read(dir.join(MOUNT_FILE)) else { continue };
        match serde_json::from_slice::<MountFile>(&text) {
            Ok(MountFile { mountpoint, sources, pid }) => {
                found.push(Registered { mountpoint, sources, pid, dir });
            }
            Err(error) => tracing::warn!(dir = %dir.display(), %error, "{MOUNT_FILE} is damaged"),
        }
    }
    found.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok(found)
}

/// The daemon whose mount holds `path` (absolute, without `.` and `..`), the deepest if several, and
/// the rest of the path relative to its mount.
///
/// # Errors
///
/// As [`running`].
pub fn locate(run_dir: &Path, path: &Path) -> io::Result<Option<(Registered, PathBuf)>> {
    let all = running(run_dir)?;
    let holds = all.into_iter().filter(|daemon| path.starts_with(&daemon.mountpoint));
    let deepest = holds.max_by_key(|daemon| daemon.mountpoint.components().count());
    Ok(deepest.map(|daemon| {
        let rest = path.strip_prefix(&daemon.mountpoint).expect("it starts with it").to_owned();
        (daemon, rest)
    }))
}

/// A daemon's own entry; dropping it takes the entry back.
#[derive(Debug)]
pub(crate) struct Registration {
    entry: Registered,
}

impl Registration {
    /// The directory for a daemon of `mountpoint`, made (mode 0700) if missing.
    pub(crate) fn prepare(run_dir: &Path, mountpoint: &Path) -> io::Result<PathBuf> {
        let dir = dir_of(run_dir, mountpoint);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&dir)?;
        Ok(dir)
    }

    /// Makes the daemon known; after this, commands find it.
    pub(crate) fn announce(
        dir: PathBuf,
        mountpoint: &Path,
        sources: Vec<String>,
    ) -> io::Result<Self> {
        let pid = std::process::id();
        let entry = Registered { mountpoint: mountpoint.to_owned(), sources, pid, dir };
        let file =
            MountFile { mountpoint: entry.mountpoint.clone(), sources: entry.sources.clone(), pid };
        fs::write(entry.dir.join("pid"), format!("{pid}\n"))?;
        let text = serde_json::to_vec(&file).map_err(io::Error::other)?;
        // By rename, so that no command reads half of it.
        let temporary = entry.dir.join("mount.json.new");
        fs::write(&temporary, text)?;
        fs::rename(&temporary, entry.dir.join(MOUNT_FILE))?;
        Ok(Self { entry })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // The log of a daemon that ended as asked says nothing that anybody looks for.
        let _ = remove_if_there(&self.entry.log_file());
        if let Err(error) = self.entry.clear() {
            tracing::warn!(dir = %self.entry.dir.display(), %error, "the run directory stays");
        }
    }
}

fn remove_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_finds_the_deepest_mount_that_holds_it_until_the_daemon_ends() {
        let run = tempfile::tempdir().unwrap();
        let register = |mountpoint: &str| {
            let mountpoint = Path::new(mountpoint);
            let dir = Registration::prepare(run.path(), mountpoint).unwrap();
            Registration::announce(dir, mountpoint, vec!["s3://b".into()]).unwrap()
        };
        let outer = register("/mnt/data");
        let inner = register("/mnt/data/inner");
        let find = |path: &str| {
            let found = locate(run.path(), Path::new(path)).unwrap();
            found.map(|(daemon, rest)| {
                (daemon.mountpoint.display().to_string(), rest.display().to_string())
            })
        };
        let is = |mountpoint: &str, rest: &str| Some((mountpoint.to_owned(), rest.to_owned()));
        assert_eq!(find("/mnt/data/a/b"), is("/mnt/data", "a/b"));
        assert_eq!(find("/mnt/data"), is("/mnt/data", ""));
        assert_eq!(find("/mnt/data/inner/x"), is("/mnt/data/inner", "x"));
        assert_eq!(find("/mnt/database"), None);
        assert!(!running(run.path()).unwrap()[0].is_alive(), "nobody listens");
        drop(inner);
        assert_eq!(find("/mnt/data/inner/x"), is("/mnt/data", "inner/x"));
        drop(outer);
        assert_eq!(running(run.path()).unwrap(), []);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 0, "nothing is left");
        assert_eq!(running(&run.path().join("absent")).unwrap(), []);
    }

    #[test]
    fn mount_points_that_look_alike_have_their_own_directory() {
        let run = Path::new("/run/feedline");
        assert_ne!(dir_of(run, Path::new("/a/b")), dir_of(run, Path::new("/a-b")));
        let long = dir_of(run, Path::new(&"/very-long".repeat(100)));
        assert!(long.join("admin.sock").as_os_str().len() < 108, "fits a socket address");
    }
}
