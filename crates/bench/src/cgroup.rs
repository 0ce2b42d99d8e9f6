//! A memory cgroup: the most that some processes and the page cache they bring in may take together.
//!
//! It is made at the root of whatever hierarchy has the memory controller, of either version of
//! cgroups. Pages are charged to the group of the process that brought them in first: whoever wants to
//! see a limit felt drops the kernel's caches before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How often removing a group is tried: its last process may be on its way out.
const REMOVALS_MAX: usize = 50;
/// Time between two of them.
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// Moves the shell into the group whose `cgroup.procs` is its name, and becomes the program.
const ENTER_AND_RUN: &str = r#"echo $$ > "$0" && exec "$@""#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A memory cgroup of one's own. Dropping it removes it; its processes must have ended by then.
#[derive(Debug)]
pub struct MemoryGroup {
    dir: PathBuf,
    version: Version,
}

impl MemoryGroup {
    /// Makes a group that may take `bytes` of memory, page cache and kernel memory included, and no
    /// swap. `name` tells the groups of one process apart.
    ///
    /// # Errors
    ///
    /// If there is no memory controller, or it may not be used; says where it was looked for.
    pub fn new(name: &str, bytes: u64) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
        let Some((root, version)) = hierarchy(&mounts) else {
            bail!("no mounted cgroup hierarchy has the memory controller (see /proc/self/mounts)");
        };
        if version == Version::Two {
            set(&root.join("cgroup.subtree_control"), "+memory")?;
        }
        let dir = root.join(format!("feedline-{name}-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| {
            format!("create the memory cgroup {}: it takes root", dir.display())
        })?;
        let this = Self { dir, version };
        // Swap is kept out of it where the kernel has any. The limit of memory with swap of version 1 is no
        // way to do that: recent kernels do not count how often it is reached.
        let (limit, swap) = match version {
            Version::One => ("memory.limit_in_bytes", "memory.swappiness"),
            Version::Two => ("memory.max", "memory.swap.max"),
        };
        set(&this.dir.join(limit), &bytes.to_string())?;
        let swap = this.dir.join(swap);
        if swap.exists() {
            set(&swap, "0")?;
        }
        Ok(this)
    }

    /// Moves a process into the group, with all its threads. What it took before stays where it is charged.
    ///
    /// # Errors
    ///
    /// If there is no such process.
    pub fn add(&self, pid: u32) -> Result<()> {
        set(&self.procs(), &pid.to_string())
    }

    /// A command that runs `program` in the group from its first instruction on.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", ENTER_AND_RUN]).arg(self.procs()).arg(program);
        command
    }

    /// Processes that were killed because the group was out of memory.
    ///
    /// # Errors
    ///
    /// If the kernel does not count them.
    pub fn oom_kills(&self) -> Result<u64> {
        match self.version {
            Version::One => self.count("memory.oom_control", "oom_kill"),
            Version::Two => self.count("memory.events", "oom_kill"),
        }
    }

    /// How often something had to go before more could come.
    ///
    /// # Errors
    ///
    /// If the kernel does not count it.
    pub fn times_full(&self) -> Result<u64> {
        match self.version {
            Version::One => {
                let text = self.read("memory.failcnt")?;
                text.trim().parse().with_context(|| format!("memory.failcnt is {text:?}"))
            }
            Version::Two => self.count("memory.events", "max"),
        }
    }

    fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// The number after `key` in a file of lines `key number`.
    fn count(&self, name: &str, key: &str) -> Result<u64> {
        let text = self.read(name)?;
        let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        let count = found.and_then(|count| count.trim().parse().ok());
        count.with_context(|| format!("{name} does not count {key}: {text}"))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let mut removed = fs::remove_dir(&self.dir);
        for _ in 0..REMOVALS_MAX {
            if removed.is_ok() {
                return;
            }
            crate::time::sleep(REMOVAL_PAUSE);
            removed = fs::remove_dir(&self.dir);
        }
        if let Err(error) = removed {
            eprintln!("cannot remove the cgroup {}: {error}", self.dir.display());
        }
    }
}

fn set(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("write {value} to {}", path.display()))
}

/// The root of the hierarchy that has the memory controller.
fn hierarchy(mounts: &str) -> Option<(PathBuf, Version)> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (dir, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let dir = PathBuf::from(dir);
        match kind {
            "cgroup" => options.split(',').any(|it| it == "memory").then_some((dir, Version::One)),
            "cgroup2" => {
                let controllers = fs::read_to_string(dir.join("cgroup.controllers")).ok()?;
                let has = controllers.split_whitespace().any(|it| it == "memory");
                has.then_some((dir, Version::Two))
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_with_the_memory_controller_is_found() {
        let mounts = "proc /proc proc rw 0 0\ncgroup /c/cpu cgroup rw,cpu 0 0\n\
             cgroup2 /nowhere cgroup2 rw 0 0\ncgroup /c/memory cgroup rw,memory 0 0\n";
        let found = hierarchy(mounts).expect("the last one");
        assert_eq!(found, (PathBuf::from("/c/memory"), Version::One));
        assert_eq!(hierarchy("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn a_process_that_takes_more_than_its_group_may_have_is_killed_and_counted() {
        let group = match MemoryGroup::new("greedy", 32 << 20) {
            Ok(group) => group,
            // A container may well have none, or may not make any.
            Err(error) => return eprintln!("no memory cgroup here, nothing was tested: {error:#}"),
        };
        let modest = group.command(Path::new("true")).status().expect("sh runs");
        assert!(modest.success() && group.oom_kills().expect("counted") == 0);
        // dd keeps one block in memory: this one is twice what the group may have.
        let mut greedy = group.command(Path::new("dd"));
        greedy.args(["if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", "status=none"]);
        assert!(!greedy.status().expect("sh runs").success());
        assert!(group.oom_kills().expect("counted") >= 1);
        assert!(group.times_full().expect("counted") >= 1);
        let dir = group.dir.clone();
        drop(group);
        assert!(!dir.exists(), "the group is gone");
    }
}
