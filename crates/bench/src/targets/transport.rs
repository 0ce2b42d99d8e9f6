//! FUSE over io_uring against FUSE over `/dev/fuse`, with memory to spare and with too little of it.
//!
//! # Invariants
//!
//! - Each transport has a mount and a full cache of its own; ext4 is the same files read directly.
//! - Where memory is scarce, readers and daemon are in a cgroup, and the kernel's caches are dropped before
//!   the readers begin: pages that came in before would be charged to somebody else. *Hot* then means
//!   read once before by the same readers, of which what fits is left.
//! - Readers are a process of their own, with as many threads as readers.
//! - The kernel's switch is put back at the end, and mounts are ended in order: a killed daemon can leave
//!   threads that nothing ends (docs/decisions/008).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::cold::feedline;
use super::groups::{Collector, Lab, forget_how_pages_came};
use super::lab::Mount;
use super::rows::{Cache, Ram, transport_name, transports};
use super::sample::Contestant;
use crate::caches::drop_caches;
use crate::cgroup::MemoryGroup;
use crate::read::{Pass, ReadResult};

/// The bucket that is read.
const DATA: &str = "medium";
/// The kernel asks at each mount whether it may use rings.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
/// A group smaller than this has no room for the programs themselves.
const GROUP_BYTES_MIN: u64 = 64 << 20;

/// The switch, on; as it was when dropped.
struct Switch {
    before: String,
}

impl Switch {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(SWITCH)
            .with_context(|| format!("this kernel has no FUSE over io_uring: {SWITCH}"))?;
        fs::write(SWITCH, "Y").with_context(|| format!("switch {SWITCH} on"))?;
        Ok(Self { before })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SWITCH, self.before.trim()) {
            eprintln!("cannot put {SWITCH} back: {error}");
        }
    }
}

/// Somebody who is read through, and what its readers may take.
struct Place {
    name: &'static str,
    dir: PathBuf,
    mount: Option<Mount>,
    group: Option<MemoryGroup>,
}

/// One of the rows.
#[derive(Clone, Copy)]
struct Case {
    cache: Cache,
    readers: usize,
    round: usize,
}

impl Place {
    /// Reads everything in a process of its own.
    fn read(&self, case: Case) -> Result<Pass> {
        if case.cache == Cache::Dropped || self.group.is_some() {
            drop_caches()?;
        }
        let program = std::env::current_exe().context("find the own program")?;
        let mut command = match &self.group {
            Some(group) => group.command(&program),
            None => Command::new(&program),
        };
        // The second pass is the hot one.
        let passes = if case.cache == Cache::Hot { 2 } else { 1 };
        command.args(["bench", "read", "--json"]).arg(&self.dir);
        for (flag, value) in
            [("--readers", case.readers), ("--passes", passes), ("--seed", case.round + 1)]
        {
            command.arg(flag).arg(value.to_string());
        }
        let output = command.stdin(Stdio::null()).output().context("start the readers")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the readers ended with {}: {said}", output.status);
        let result: ReadResult =
            serde_json::from_slice(&output.stdout).context("what the readers found")?;
        result.passes.into_iter().next_back().context("a pass")
    }
}

impl Lab {
    /// Measures every row of one amount of memory, all rounds.
    pub(super) fn transport(&self, ram: Ram, into: &mut Collector<'_>) -> Result<()> {
        // Declared first: put back when the mounts are gone.
        let _switch = Switch::on()?;
        let places = self.transport_places(ram)?;
        forget_how_pages_came()?;
        for round in 0..self.rounds {
            for (cache, readers) in transports() {
                into.round(self, round)?;
                let case = Case { cache, readers, round };
                let mut done: BTreeMap<&str, Contestant> = BTreeMap::new();
                for turn in 0..places.len() {
                    let place = &places[(turn + round) % places.len()];
                    let work = || place.read(case);
                    let read = Contestant::measured(&self.bucket, place.mount.as_ref(), work)?;
                    done.insert(place.name, read);
                }
                let ratio = done["uring"].files_per_s() / done["classic"].files_per_s();
                let all = ["uring", "classic", "ext4"].map(|name| done[name].clone());
                into.add(&transport_name(ram, cache, readers), ratio, all.to_vec());
            }
        }
        for place in places {
            if let Some(mount) = place.mount {
                mount.end()?;
            }
            if let Some(group) = place.group {
                ensure!(group.oom_kills()? == 0, "{}: a process was out of memory", place.name);
            }
        }
        Ok(())
    }

    /// ext4 and both transports, whose caches are full.
    fn transport_places(&self, ram: Ram) -> Result<Vec<Place>> {
        let (_, bytes) = self.size_of(DATA)?;
        let group = |name| match ram {
            Ram::Plenty => Ok(None),
            Ram::Scarce => MemoryGroup::new(name, (bytes / 4).max(GROUP_BYTES_MIN)).map(Some),
        };
        let dir = self.root.join(DATA);
        let mut places = vec![Place { name: "ext4", dir, mount: None, group: group("ext4")? }];
        for name in ["classic", "uring"] {
            let home = self.home.join(format!("transport-{name}"));
            let mount = self.transport_mount(name, &home)?;
            let group = group(name)?;
            if let Some(group) = &group {
                group.add(mount.pid())?;
            }
            places.push(Place { name, dir: mount.dir.clone(), mount: Some(mount), group });
        }
        Ok(places)
    }

    fn transport_mount(&self, transport: &'static str, home: &Path) -> Result<Mount> {
        let flag = format!("--transport={transport}");
        let system = feedline(transport, &["--open=passthrough", &flag]);
        let mount = self.filled_as(&system, DATA, home)?;
        let status = mount.status()?;
        let why = status.transport_reason.unwrap_or_default();
        ensure!(status.transport == transport, "{transport} cannot be had: {why}");
        Ok(mount)
    }
}
