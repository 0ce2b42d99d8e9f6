//! What the machine offers: FUSE, passthrough, limits, the disk for the cache. Reads files under
//! `/proc` and asks the kernel; changes nothing.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use feedline_node::config::CacheSize;
use rustix::process::{Resource, geteuid, getrlimit};

use super::Check;
use crate::output;

/// The first kernel with FUSE passthrough.
const PASSTHROUGH_SINCE: (u32, u32) = (6, 9);

/// The bit of `CAP_SYS_ADMIN` in the capability sets of `/proc/PID/status`.
const CAP_SYS_ADMIN: u32 = 21;

/// One descriptor per file that a job has open and we back, connections, the index: a data loader
/// opens 1,024 files ahead per process.
const DESCRIPTORS_WANTED: u64 = 65_536;

/// File systems by the magic number of statfs(2): their name, and why a cache cannot live there.
const FILE_SYSTEMS: &[(u64, &str, Option<&str>)] = &[
    (0xef53, "ext4", None),
    (0x5846_5342, "xfs", None),
    (0x9123_683e, "btrfs", None),
    (0x2fc1_2fc1, "zfs", None),
    (0xf2f5_2010, "f2fs", None),
    (0x794c_7630, "overlayfs", Some("it cannot back FUSE passthrough")),
    (0x0102_1994, "tmpfs", Some("it would keep the cache in memory")),
    (0x6969, "nfs", Some("it is a network away")),
    (0x6573_5546, "fuse", Some("it cannot back FUSE passthrough")),
];

/// `/dev/fuse` can be opened.
pub(super) fn fuse_device() -> Check {
    let name = "FUSE device";
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Check::ok(name, "/dev/fuse opens"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Check::fail(name, "/dev/fuse does not exist")
                .way_out("`modprobe fuse`; in a container add --device /dev/fuse")
        }
        Err(error) => Check::fail(name, format!("/dev/fuse does not open: {error}"))
            .way_out("run as root, or give the user (or the container) access to /dev/fuse"),
    }
}

/// Whether mounting works without root: `fusermount3`, and `user_allow_other` for other users.
pub(super) fn user_mounts() -> Check {
    let name = "mounting as a user";
    if geteuid().is_root() {
        return Check::ok(name, "running as root: not needed");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("fusermount3").is_file()) {
        return Check::fail(name, "fusermount3 is not in PATH")
            .way_out("install the package fuse3, or run as root");
    }
    let config = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if config.lines().any(|line| line.trim() == "user_allow_other") {
        Check::ok(name, "fusermount3 is there, user_allow_other is set")
    } else {
        Check::warn(name, "user_allow_other is not set in /etc/fuse.conf")
            .way_out("add the line `user_allow_other` if other users (or root) must see the folder")
    }
}

/// Whether cached files can be read at the speed of the disk.
pub(super) fn passthrough() -> Check {
    let name = "passthrough";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if kernel_version(release).is_none_or(|version| version < PASSTHROUGH_SINCE) {
        return Check::warn(name, format!("Linux {release} has none: 6.9 is the first")).way_out(
            "reads go through the daemon; a newer kernel makes large files 3 times faster",
        );
    }
    if !has_sys_admin() {
        return Check::warn(name, "the process lacks CAP_SYS_ADMIN")
            .way_out("run as root, or `setcap cap_sys_admin+ep` on the binary");
    }
    Check::ok(name, format!("Linux {release}, CAP_SYS_ADMIN"))
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has_sys_admin() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .is_some_and(|set| set >> CAP_SYS_ADMIN & 1 == 1)
}

/// Whether the watchdog can abort a hung mount.
pub(super) fn fusectl() -> Check {
    let name = "fusectl";
    let dir = Path::new("/sys/fs/fuse/connections");
    let mounted = crate::mountinfo::at(dir).ok().flatten().is_some();
    match (mounted, dir.exists() && geteuid().is_root()) {
        (true, _) => Check::ok(name, "mounted"),
        (false, true) => Check::ok(name, "not mounted; the watchdog mounts it when it needs it"),
        (false, false) => Check::warn(name, "not mounted, and only root may mount it")
            .way_out("`mount -t fusectl fusectl /sys/fs/fuse/connections`, so that a hung mount can be aborted"),
    }
}

/// Enough open files.
pub(super) fn descriptors() -> Check {
    let name = "open files";
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if hard >= DESCRIPTORS_WANTED {
        return Check::ok(name, format!("up to {}", output::count(hard)));
    }
    Check::warn(name, format!("at most {}", output::count(hard)))
        .way_out(format!("raise `ulimit -Hn` (systemd: LimitNOFILE) to {DESCRIPTORS_WANTED}"))
}

/// The disk of one cache directory: a file system that can hold it, room for the quota, writable.
/// A directory that does not exist yet is judged by the nearest one that does.
pub(super) fn cache_dir(dir: &Path, size: CacheSize) -> Check {
    let name = format!("cache {}", dir.display());
    let Some(existing) = dir.ancestors().find(|ancestor| ancestor.is_dir()) else {
        return Check::fail(name, "no part of the path exists");
    };
    let stat = match rustix::fs::statfs(existing) {
        Ok(stat) => stat,
        Err(error) => return Check::fail(name, format!("{}: {error}", existing.display())),
    };
    // The type of the field differs between architectures; the magic numbers are 32 bits.
    let magic = u64::from(u32::from_ne_bytes((stat.f_type as i32).to_ne_bytes()));
    let known = FILE_SYSTEMS.iter().find(|(number, ..)| *number == magic);
    let file_system = known.map_or("an unknown file system", |(_, file_system, _)| file_system);
    if let Some((_, _, Some(reason))) = known {
        return Check::fail(name, format!("lies on {file_system}: {reason}"))
            .way_out("choose a directory on a local ext4 or xfs: --cache DIR:SIZE");
    }
    if let Err(error) = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK) {
        return Check::fail(name, format!("{} is not writable: {error}", existing.display()))
            .way_out("choose another directory, or become its owner");
    }
    let quota_bytes = match size {
        CacheSize::Bytes(bytes) => bytes,
        CacheSize::Percent(percent) => {
            stat.f_blocks * stat.f_bsize.unsigned_abs() / 100 * u64::from(percent)
        }
    };
    let free_bytes = stat.f_bavail * stat.f_bsize.unsigned_abs();
    let used_bytes = disk_usage(dir);
    let room = format!(
        "{file_system}, {} free, quota {}",
        output::bytes(free_bytes),
        output::bytes(quota_bytes)
    );
    if free_bytes.saturating_add(used_bytes) < quota_bytes {
        return Check::warn(name, room).way_out(
            "the disk fills up before the quota does: free some space or lower the quota",
        );
    }
    Check::ok(name, room)
}

/// Bytes on disk below a cache directory, from the
/// blocks of its files. Stops counting after a million entries, which is seconds.
fn disk_usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut pending: Vec<PathBuf> = vec![dir.to_owned()];
    let (mut bytes, mut entries) = (0, 0u32);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            entries += 1;
            if entries > 1_000_000 {
                return bytes;
            }
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => pending.push(entry.path()),
                Ok(meta) => bytes += meta.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_kernel_release_is_read_whatever_follows_the_numbers() {
        assert_eq!(kernel_version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(kernel_version("5.4"), Some((5, 4)));
        assert_eq!(kernel_version("custom"), None);
    }

    #[test]
    fn memory_is_no_place_for_a_cache_and_a_short_disk_is_warned_of() {
        assert_eq!(
            cache_dir(Path::new("/dev/shm/feedline"), CacheSize::Bytes(1)).state,
            State::Fail
        );
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        assert_eq!(cache_dir(&dir.path().join("new"), CacheSize::Bytes(1)).state, State::Ok);
        assert_eq!(cache_dir(dir.path(), CacheSize::Bytes(u64::MAX)).state, State::Warn);
    }
}
