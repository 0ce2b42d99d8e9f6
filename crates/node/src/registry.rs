//! The run directory: how a command finds the daemon that serves a path.
//!
//! `<run_dir>/<id of the mount point>/` holds `admin.sock`, `pid`, `log` and `mount.json`. Nothing
//! here touches a mount point: a hung mount would hang the command that wants to end it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
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

/// Makes the directory of the daemon for `mountpoint`, and the run directory above it, both mode
/// 0700. One that is there already is used if it is safe, as [`running`] says.
///
/// # Errors
///
/// If a directory cannot be made, or the run directory is not safe.
pub fn make_dir(run_dir: &Path, mountpoint: &Path) -> io::Result<PathBuf> {
    let dir = dir_of(run_dir, mountpoint);
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    if let Some(parent) = run_dir.parent() {
        builder.recursive(true).create(parent)?;
    }
    match builder.recursive(false).create(run_dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => refuse_planted(run_dir)?,
    }
    builder.recursive(true).create(&dir)?;
    Ok(dir)
}

/// Refuses a run directory that another user may have put in our way: where everybody may make
/// names (`/tmp`), it must be a directory and no link, of this user, and closed to all others.
/// Anywhere else whoever owns the place above answers for what is in it.
fn refuse_planted(run_dir: &Path) -> io::Result<()> {
    const WRITABLE_BY_ALL: u32 = 0o002;
    let found = fs::symlink_metadata(run_dir)?;
    let above = run_dir.parent().map(fs::metadata).transpose()?;
    if above.is_none_or(|above| above.mode() & WRITABLE_BY_ALL == 0) {
        return Ok(());
    }
    let uid = rustix::process::geteuid().as_raw();
    let why = match (found.is_dir(), found.uid() == uid, found.mode() & 0o7777) {
        (false, ..) if found.is_symlink() => "is a symbolic link".to_owned(),
        (false, ..) => "is not a directory".to_owned(),
        (true, false, _) => format!("belongs to user {}, not to {uid}", found.uid()),
        (true, true, 0o700) => return Ok(()),
        (true, true, mode) => format!("has mode {mode:04o}, not 0700"),
    };
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{why}, in a place where everybody may write; remove it, or name another"),
    ))
}

/// Every daemon registered in `run_dir`, by mount point; those that died without cleaning up too.
///
/// A run directory where everybody may write, such as `/tmp/feedline-UID`, is believed only if it is
/// this user's own with mode 0700: another's could lead commands to another's socket.
///
/// # Errors
///
/// If the directory is there and cannot be read or is not safe. A missing one is no daemon.
pub fn running(run_dir: &Path) -> io::Result<Vec<Registered>> {
    let named = |error: io::Error| {
        let message = format!("{}: run directory (setting run_dir): {error}", run_dir.display());
        io::Error::new(error.kind(), message)
    };
    let entries = match refuse_planted(run_dir).and_then(|()| fs::read_dir(run_dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(named(error)),
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
        let outside = tempfile::tempdir().unwrap();
        let run = outside.path().join("run");
        let register = |mountpoint: &str| {
            let mountpoint = Path::new(mountpoint);
            let dir = make_dir(&run, mountpoint).unwrap();
            Registration::announce(dir, mountpoint, vec!["s3://b".into()]).unwrap()
        };
        let outer = register("/mnt/data");
        let inner = register("/mnt/data/inner");
        let find = |path: &str| {
            let found = locate(&run, Path::new(path)).unwrap();
            found.map(|(daemon, rest)| {
                (daemon.mountpoint.display().to_string(), rest.display().to_string())
            })
        };
        let is = |mountpoint: &str, rest: &str| Some((mountpoint.to_owned(), rest.to_owned()));
        assert_eq!(find("/mnt/data/a/b"), is("/mnt/data", "a/b"));
        assert_eq!(find("/mnt/data"), is("/mnt/data", ""));
        assert_eq!(find("/mnt/data/inner/x"), is("/mnt/data/inner", "x"));
        assert_eq!(find("/mnt/database"), None);
        assert!(!running(&run).unwrap()[0].is_alive(), "nobody listens");
        drop(inner);
        assert_eq!(find("/mnt/data/inner/x"), is("/mnt/data", "inner/x"));
        drop(outer);
        assert_eq!(running(&run).unwrap(), []);
        assert_eq!(fs::read_dir(&run).unwrap().count(), 0, "nothing is left");
        assert_eq!(running(&run.join("absent")).unwrap(), []);
    }

    #[test]
    fn mount_points_that_look_alike_have_their_own_directory() {
        let run = Path::new("/run/feedline");
        assert_ne!(dir_of(run, Path::new("/a/b")), dir_of(run, Path::new("/a-b")));
        let long = dir_of(run, Path::new(&"/very-long".repeat(100)));
        assert!(long.join("admin.sock").as_os_str().len() < 108, "fits a socket address");
    }

    #[test]
    fn a_run_directory_among_everybodys_is_private_or_refused() {
        use std::os::unix::fs::PermissionsExt;
        let everybodys = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(everybodys.path(), 0o1777);
        let run = everybodys.path().join("feedline-1000");
        let mountpoint = Path::new("/mnt/data");
        let refused = |words: &str| {
            let made = make_dir(&run, mountpoint).unwrap_err().to_string();
            let read = running(&run).unwrap_err().to_string();
            assert!(made.contains(words) && read.contains(words), "{made}; {read}");
            assert!(read.contains("feedline-1000"), "{read}");
        };
        // Made by us it is private, whatever the umask, and used again.
        make_dir(&run, mountpoint).unwrap();
        assert_eq!(fs::metadata(&run).unwrap().mode() & 0o7777, 0o700);
        make_dir(&run, mountpoint).unwrap();
        assert_eq!(running(&run).unwrap(), []);
        mode(&run, 0o755);
        refused("mode 0755");
        mode(&run, 0o700);
        std::os::unix::fs::chown(&run, Some(54_321), None).expect("this test needs root");
        refused("belongs to user 54321");
        fs::remove_dir_all(&run).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &run).unwrap();
        refused("symbolic link");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "nothing behind the link");
        fs::remove_file(&run).unwrap();
        fs::write(&run, "").unwrap();
        refused("not a directory");
        // In a place of its owner's, the owner decides.
        mode(everybodys.path(), 0o755);
        fs::remove_file(&run).unwrap();
        fs::create_dir(&run).unwrap();
        mode(&run, 0o755);
        make_dir(&run, mountpoint).unwrap();
    }
}
