//! The first walk of a mount, with a stat of every entry, against the same tree on its file system.
//!
//! `walk DIR [FOLDERS] [FILES] [ROUNDS] [drop]`: makes FOLDERS of FILES empty files each in `DIR/files`, and in
//! each round walks them twice (the second time counts), then a fresh mount of the same tree at
//! `DIR/mount`, whose listing is known, twice. Prints entries/s (median), ratios, and what walker and
//! daemon spent. Needs root. With `drop` the kernel's caches are dropped before the first walk.

#![expect(clippy::disallowed_methods, reason = "a program of its own that measures real time")]

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use feedline_model::{
    BlockSource, CachedFile, Directory, DirectoryBuilder, ETag, Object, ObjectHolder, ObjectId,
    ObjectIndex, Priority, Push, ReadError, Residence, SourceId, Tree, Version,
};
use feedline_mount::{Capacity, CapacityProvider, Mount, MountConfig, MountParts, Unmount};
use feedline_testkit::RealClock;
use rustix::time::{ClockId, clock_gettime};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Nothing is on disk; the listing is all there is.
#[derive(Debug)]
struct Known {
    folders: HashMap<String, Arc<Directory>>,
}

impl ObjectIndex for Known {
    fn open(&self, _object: &Object) -> Option<CachedFile> {
        None
    }

    fn contains(&self, _id: &ObjectId) -> bool {
        false
    }

    fn touch(&self, _id: &ObjectId) {}

    fn push(&self, _object: &Object, _push: Push) -> Residence {
        Residence::Unknown
    }

    fn free_bytes(&self) -> u64 {
        0
    }

    fn set_holder(&self, _holder: Arc<dyn ObjectHolder>) {}
}

#[async_trait::async_trait]
impl BlockSource for Known {
    async fn read(&self, o: &Object, _: Range<u64>, _: Priority) -> Result<Bytes, ReadError> {
        Err(ReadError::NotFound { location: o.key.as_ref().into(), cause: "nothing is".into() })
    }
}

#[async_trait::async_trait]
impl Tree for Known {
    fn peek(&self, path: &str) -> Option<Arc<Directory>> {
        self.folders.get(path).cloned()
    }

    async fn list(&self, path: &str) -> Result<Option<Arc<Directory>>, ReadError> {
        Ok(self.peek(path))
    }

    fn expire(&self, _path: &str) {}
}

fn known(folders: usize, files: usize, now: u64) -> Known {
    let day_ms = 86_400_000;
    let mut known = Known { folders: HashMap::new() };
    let mut root = DirectoryBuilder::new();
    for folder in 0..folders {
        let path = format!("d{folder:03}");
        root.directory(&path);
        let mut builder = DirectoryBuilder::new();
        for file in 0..files {
            let etag = ETag::Md5([file as u8; 16]);
            let modified_ms = 1_700_000_000_000 + file as i64 * 1_000;
            let version = Version { size: 100_000 + file as u64, modified_ms, etag };
            builder.file(&format!("{:06}", folder * files + file), version);
        }
        let origin = Some((SourceId(1), format!("{path}/").into()));
        let (listing, _) = builder.build(&path, origin, now, day_ms);
        known.folders.insert(path, Arc::new(listing));
    }
    let (listing, _) = root.build("", Some((SourceId(1), "".into())), now, day_ms);
    known.folders.insert(String::new(), Arc::new(listing));
    known
}

fn make_files(dir: &Path, folders: usize, files: usize) -> Outcome<()> {
    for folder in 0..folders {
        let path = dir.join(format!("d{folder:03}"));
        fs::create_dir_all(&path)?;
        for file in 0..files {
            let path = path.join(format!("{:06}", folder * files + file));
            if !path.exists() {
                fs::write(path, "")?;
            }
        }
    }
    Ok(())
}

/// Seconds of CPU time.
fn cpu(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// One walk: seconds, and CPU seconds of the walker and of all else in this process.
#[derive(Clone, Copy)]
struct Walk {
    entries: u64,
    seconds: f64,
    walker: f64,
    daemon: f64,
}

fn walk(root: &Path) -> Outcome<Walk> {
    let (all, own) = (cpu(ClockId::ProcessCPUTime), cpu(ClockId::ThreadCPUTime));
    let start = Instant::now();
    let (mut entries, mut folders) = (0, vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            entries += 1;
            if entry.metadata()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let walker = cpu(ClockId::ThreadCPUTime) - own;
    let daemon = cpu(ClockId::ProcessCPUTime) - all - walker;
    Ok(Walk { entries, seconds, walker, daemon })
}

fn median(walks: &[Walk], of: impl Fn(&Walk) -> f64) -> f64 {
    let mut values: Vec<f64> = walks.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, or: usize| arguments.get(index).map_or(Ok(or), |text| text.parse::<usize>());
    let dir = PathBuf::from(arguments.first().ok_or("which directory?")?);
    let (folders, files, rounds) = (number(1, 100)?, number(2, 1_000)?, number(3, 5)?);
    let drop_caches = arguments.get(4).is_some_and(|word| word == "drop");
    make_files(&dir.join("files"), folders, files)?;
    let clock = RealClock::shared();
    let known = Arc::new(known(folders, files, clock.unix_ms()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let at = dir.join("mount");
    fs::create_dir_all(&at)?;
    let (mut ext4, mut first, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        walk(&dir.join("files"))?;
        ext4.push(walk(&dir.join("files"))?);
        let parts = MountParts {
            tree: Arc::clone(&known) as _,
            index: Arc::clone(&known) as _,
            blocks: Arc::clone(&known) as _,
            observer: None,
            clock: Arc::clone(&clock),
            runtime: runtime.handle().clone(),
            capacity: CapacityProvider::new(Capacity::default),
        };
        let mount = Mount::start(&MountConfig::new(&at), parts)?;
        if drop_caches {
            fs::write("/proc/sys/vm/drop_caches", "3")?;
        }
        first.push(walk(&at)?);
        again.push(walk(&at)?);
        if ext4[round].entries != first[round].entries {
            return Err("the walks saw different trees".into());
        }
        if round + 1 == rounds {
            println!("{:?}", mount.stats());
        }
        mount.unmount(Unmount::Normal)?;
    }
    let base = median(&ext4, |walk| walk.seconds);
    for (name, walks) in [("ext4", &ext4), ("first", &first), ("again", &again)] {
        let per_entry =
            |of: fn(&Walk) -> f64| median(walks, |walk| of(walk) * 1e6 / walk.entries as f64);
        println!(
            "{name:<6} {:.2} us an entry, {:.2} x ext4; CPU {:.2} walker, {:.2} daemon",
            per_entry(|walk| walk.seconds),
            base / median(walks, |walk| walk.seconds),
            per_entry(|walk| walk.walker),
            per_entry(|walk| walk.daemon),
        );
    }
    Ok(())
}
