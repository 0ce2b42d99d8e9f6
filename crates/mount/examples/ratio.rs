//! Whole-file reads through the mount against the same files read from their file system directly.
//!
//! `ratio DIR [FILES] [BYTES] [ROUNDS] [THREADS]`: fills DIR once with complete objects, mounts them
//! twice (passthrough at `DIR/p`, none at `DIR/n`), and reads all of them with 8 readers in random
//! order, alternated, hot and with the kernel's caches dropped. Prints files/s (median) and ratios.
//! With 0 rounds it only serves until its input ends, for other programs to measure. Needs root.

#![expect(clippy::disallowed_methods, reason = "a program of its own that measures real time")]

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use feedline_model::{
    BlockSource, CachedFile, Directory, DirectoryBuilder, ETag, Object, ObjectHolder, ObjectId,
    ObjectIndex, Priority, ReadError, SourceId, Tree, Version,
};
use feedline_mount::{
    Capacity, CapacityProvider, Mount, MountConfig, MountHandle, MountParts, OpenMode,
};
use feedline_testkit::{RealClock, object_bytes};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

const READERS: usize = 8;
const FOLDERS: usize = 100;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Everything is complete, and nothing is ever evicted.
#[derive(Debug)]
struct Complete {
    files: HashMap<ObjectId, (PathBuf, u64)>,
    folders: HashMap<String, Arc<Directory>>,
}

impl ObjectIndex for Complete {
    fn open(&self, object: &Object) -> Option<CachedFile> {
        let (path, size) = self.files.get(&object.id())?;
        let file = File::open(path).ok()?;
        (file.metadata().ok()?.len() == *size)
            .then(|| CachedFile { file: Arc::new(file), size: *size })
    }

    fn contains(&self, id: &ObjectId) -> bool {
        self.files.contains_key(id)
    }

    fn free_bytes(&self) -> u64 {
        u64::MAX
    }
    fn touch(&self, _id: &ObjectId) {}

    fn set_holder(&self, _holder: Arc<dyn ObjectHolder>) {}
}

#[async_trait::async_trait]
impl BlockSource for Complete {
    async fn read(&self, o: &Object, r: Range<u64>, _: Priority) -> Result<Bytes, ReadError> {
        let bytes = fs::read(&self.files[&o.id()].0).expect("set up before");
        Ok(Bytes::from(bytes).slice(r.start as usize..r.end as usize))
    }
}

#[async_trait::async_trait]
impl Tree for Complete {
    fn peek(&self, path: &str) -> Option<Arc<Directory>> {
        self.folders.get(path).cloned()
    }

    async fn list(&self, path: &str) -> Result<Option<Arc<Directory>>, ReadError> {
        Ok(self.peek(path))
    }

    fn expire(&self, _path: &str) {}
}

/// Where each object lies on disk and in the tree.
fn set_up(dir: &Path, files: usize, size: u64, now: u64) -> Outcome<(Complete, Vec<PathBuf>)> {
    let mut complete = Complete { files: HashMap::new(), folders: HashMap::new() };
    let mut names = Vec::new();
    let bytes = object_bytes(1, size);
    let mut root = DirectoryBuilder::new();
    for folder in 0..FOLDERS.min(files) {
        let path = format!("class-{folder:03}");
        root.directory(&path);
        let mut builder = DirectoryBuilder::new();
        for file in (folder..files).step_by(FOLDERS) {
            let version = Version { size, modified_ms: 1, etag: ETag::Absent };
            let name = format!("image-{file:06}.jpg");
            builder.file(&name, version.clone());
            let key = format!("{path}/{name}");
            let object = Object { source: SourceId(1), key: key.as_str().into(), version };
            let id = object.id().to_string();
            let place = dir.join(&id[..2]).join(&id);
            if !place.exists() {
                fs::create_dir_all(place.parent().ok_or("no parent")?)?;
                fs::write(&place, &bytes)?;
            }
            complete.files.insert(object.id(), (place, size));
            names.push(PathBuf::from(key));
        }
        let origin = Some((SourceId(1), format!("{path}/").into()));
        let (listing, _) = builder.build(&path, origin, now, 86_400_000);
        complete.folders.insert(path, Arc::new(listing));
    }
    let (listing, _) = root.build("", Some((SourceId(1), "".into())), now, 86_400_000);
    complete.folders.insert(String::new(), Arc::new(listing));
    Ok((complete, names))
}

/// CPU milliseconds of this process so far: readers and daemon.
fn cpu_ms() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").expect("procfs");
    let after = text.rsplit(')').next().unwrap_or_default();
    // User and system time in ticks of 10 ms are the 12th and 13th field after the name.
    let ticks = after.split_whitespace().skip(11).take(2).map(|t| t.parse::<f64>().unwrap_or(0.0));
    ticks.sum::<f64>() * 10.0
}

/// Reads all of `paths` with all readers; files per second and CPU milliseconds per 1,000 files.
fn pass(paths: &[PathBuf], size: u64) -> (f64, f64) {
    let cpu = cpu_ms();
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut buffer = vec![0; 1 << 20];
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut file = File::open(path).expect("open");
                    let mut total = 0;
                    loop {
                        let read = file.read(&mut buffer).expect("read");
                        total += read as u64;
                        if read == 0 {
                            break;
                        }
                    }
                    assert_eq!(total, size, "{}", path.display());
                }
            });
        }
    });
    let rate = paths.len() as f64 / start.elapsed().as_secs_f64();
    (rate, (cpu_ms() - cpu) * 1000.0 / paths.len() as f64)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn mount(
    at: &Path,
    cache: &Path,
    open: OpenMode,
    threads: usize,
    parts: &MountParts,
) -> Outcome<MountHandle> {
    fs::create_dir_all(at)?;
    let mut config = MountConfig::new(at);
    (config.open, config.threads) = (open, threads);
    config.cache_dirs = vec![cache.to_owned()];
    Ok(Mount::start(&config, parts.clone())?)
}

/// The files behind `names`, on their own file system.
fn direct_paths(complete: &Complete, names: &[PathBuf], size: u64) -> Vec<PathBuf> {
    let place = |name: &PathBuf| {
        let version = Version { size, modified_ms: 1, etag: ETag::Absent };
        let key = name.to_string_lossy().as_ref().into();
        let id = Object { source: SourceId(1), key, version }.id();
        complete.files[&id].0.clone()
    };
    names.iter().map(place).collect()
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, or: u64| arguments.get(index).map_or(Ok(or), |text| text.parse::<u64>());
    let dir = PathBuf::from(arguments.first().ok_or("which directory?")?);
    let (files, size) = (number(1, 20_000)? as usize, number(2, 110_000)?);
    let (rounds, threads) = (number(3, 5)?, number(4, 4)? as usize);
    let clock = RealClock::shared();
    let cache = dir.join("objects");
    let (complete, names) = set_up(&cache, files, size, clock.unix_ms())?;
    let direct = direct_paths(&complete, &names, size);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let complete = Arc::new(complete);
    let parts = MountParts {
        tree: Arc::clone(&complete) as _,
        index: Arc::clone(&complete) as _,
        blocks: complete as _,
        observer: None,
        clock,
        runtime: runtime.handle().clone(),
        capacity: CapacityProvider::new(Capacity::default),
    };
    let passthrough = mount(&dir.join("p"), &cache, OpenMode::Passthrough, threads, &parts)?;
    let none = mount(&dir.join("n"), &cache, OpenMode::None, threads, &parts)?;
    if rounds == 0 {
        println!("serving");
        std::io::stdin().read_to_end(&mut Vec::new())?;
        println!("{:?}\n{:?}", passthrough.stats(), none.stats());
        return Ok(());
    }
    let sets: [(&str, Vec<PathBuf>); 3] = [
        ("ext4", direct),
        ("passthrough", names.iter().map(|name| passthrough.mountpoint().join(name)).collect()),
        ("none", names.iter().map(|name| none.mountpoint().join(name)).collect()),
    ];
    let mut order: Vec<usize> = (0..files).collect();
    let mut rng = StdRng::seed_from_u64(1);
    for dropped in [false, true] {
        let mut rates = vec![Vec::new(); sets.len()];
        let mut cpus = vec![Vec::new(); sets.len()];
        for round in 0..=rounds {
            order.shuffle(&mut rng);
            for ((set, rates), cpus) in sets.iter().zip(&mut rates).zip(&mut cpus) {
                let paths: Vec<PathBuf> = order.iter().map(|index| set.1[*index].clone()).collect();
                if dropped {
                    fs::write("/proc/sys/vm/drop_caches", "3")?;
                    std::thread::sleep(Duration::from_millis(300));
                }
                let (rate, cpu) = pass(&paths, size);
                // The first round warms up.
                if round > 0 {
                    rates.push(rate);
                    cpus.push(cpu);
                }
            }
        }
        let ext4 = median(&mut rates[0]);
        for ((set, rates), cpus) in sets.iter().zip(&mut rates).zip(&mut cpus) {
            let (rate, cpu) = (median(rates), median(cpus));
            println!(
                "{:<8} {:<12} {rate:>9.0} files/s  {:.2} x  CPU {cpu:>4.0} ms per 1,000 files",
                if dropped { "dropped" } else { "hot" },
                set.0,
                rate / ext4
            );
        }
    }
    println!("{:?}\n{:?}", passthrough.stats(), none.stats());
    Ok(())
}
