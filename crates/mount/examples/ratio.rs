//! Whole-file reads through mounts against the same files read from their file system directly.
//!
//! `ratio DIR [NAME=VALUE]...` fills DIR once with complete objects, mounts them once per contestant, and
//! reads all of them in random order, contestants alternated. Needs root, and for `uring` that the kernel
//! has it switched on. Prints and, with `json=FILE`, writes the medians and every round.
//!
//! | name | meaning | default |
//! | --- | --- | --- |
//! | `files`, `bytes` | the data set | 20000, 110000 |
//! | `rounds` | counted rounds; 0: only serve until the input ends, for other programs to measure | 5 |
//! | `warm` | rounds before, not counted | 1 |
//! | `threads` | request threads of the classic transport | 2 |
//! | `readers` | numbers of readers | 8 |
//! | `states` | `hot`, or `dropped`: the kernel's caches dropped before each pass | hot,dropped |
//! | `contestants` | `ext4` (first: the others are compared with it), `classic`, `uring`, `none`, `none-uring` | ext4,classic,none |

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
    ObjectIndex, Priority, Push, ReadError, Residence, SourceId, Tree, Version,
};
use feedline_mount::{
    Capacity, CapacityProvider, Mount, MountConfig, MountHandle, MountParts, OpenMode, Transport,
};
use feedline_testkit::{RealClock, object_bytes};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

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

    fn push(&self, _object: &Object, _push: Push) -> Residence {
        Residence::Unknown
    }

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
fn pass(paths: &[PathBuf], size: u64, readers: usize) -> (f64, f64) {
    let cpu = cpu_ms();
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..readers {
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

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What is asked for on the command line.
struct Plan {
    dir: PathBuf,
    files: usize,
    size: u64,
    rounds: usize,
    warm: usize,
    threads: usize,
    readers: Vec<usize>,
    states: Vec<String>,
    contestants: Vec<String>,
    json: Option<PathBuf>,
}

fn plan() -> Outcome<Plan> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let given: HashMap<String, String> = arguments
        .map(|text| text.split_once('=').map(|(name, value)| (name.into(), value.into())))
        .collect::<Option<_>>()
        .ok_or("arguments after the directory are NAME=VALUE")?;
    let text = |name: &str, or: &str| given.get(name).cloned().unwrap_or_else(|| or.to_owned());
    let number = |name: &str, or: &str| text(name, or).parse::<usize>();
    let words = |name: &str, or: &str| text(name, or).split(',').map(str::to_owned).collect();
    Ok(Plan {
        dir,
        files: number("files", "20000")?,
        size: number("bytes", "110000")? as u64,
        rounds: number("rounds", "5")?,
        warm: number("warm", "1")?,
        threads: number("threads", "2")?,
        readers: text("readers", "8").split(',').map(str::parse).collect::<Result<_, _>>()?,
        states: words("states", "hot,dropped"),
        contestants: words("contestants", "ext4,classic,none"),
        json: given.get("json").map(PathBuf::from),
    })
}

fn mount(plan: &Plan, contestant: &str, cache: &Path, parts: &MountParts) -> Outcome<MountHandle> {
    let at = plan.dir.join(contestant);
    fs::create_dir_all(&at)?;
    let mut config = MountConfig::new(at);
    config.threads = plan.threads;
    config.cache_dirs = vec![cache.to_owned()];
    (config.open, config.transport) = match contestant {
        "classic" => (OpenMode::Passthrough, Transport::Classic),
        "uring" => (OpenMode::Passthrough, Transport::Uring),
        "none" => (OpenMode::None, Transport::Classic),
        "none-uring" => (OpenMode::None, Transport::Uring),
        other => return Err(format!("no contestant {other}").into()),
    };
    let mount = Mount::start(&config, parts.clone())?;
    match (mount.open_mode(), mount.transport()) {
        ((open, _), (transport, _)) if (open, transport) == (config.open, config.transport) => {
            Ok(mount)
        }
        other => Err(format!("{contestant} cannot be had: {other:?}").into()),
    }
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

/// What one state, number of readers and contestant gave.
struct Row {
    state: String,
    readers: usize,
    contestant: String,
    files_per_s: Vec<f64>,
    cpu_ms_per_1000: Vec<f64>,
    /// Of each round to the first contestant in that round.
    ratios: Vec<f64>,
}

/// All rounds of one state and number of readers, contestants alternated.
fn measure(
    plan: &Plan,
    (state, readers): (&str, usize),
    sets: &[(String, Vec<PathBuf>)],
    rng: &mut StdRng,
) -> Outcome<Vec<Row>> {
    let row = |(contestant, _): &(String, Vec<PathBuf>)| Row {
        state: state.to_owned(),
        readers,
        contestant: contestant.clone(),
        files_per_s: Vec::new(),
        cpu_ms_per_1000: Vec::new(),
        ratios: Vec::new(),
    };
    let mut rows: Vec<Row> = sets.iter().map(row).collect();
    let mut order: Vec<usize> = (0..plan.files).collect();
    for round in 0..plan.warm + plan.rounds {
        order.shuffle(rng);
        for (set, row) in sets.iter().zip(&mut rows) {
            let paths: Vec<PathBuf> = order.iter().map(|index| set.1[*index].clone()).collect();
            if state == "dropped" {
                fs::write("/proc/sys/vm/drop_caches", "3")?;
                std::thread::sleep(Duration::from_millis(300));
            }
            let (rate, cpu) = pass(&paths, plan.size, readers);
            if round >= plan.warm {
                row.files_per_s.push(rate);
                row.cpu_ms_per_1000.push(cpu);
            }
        }
    }
    let first = rows[0].files_per_s.clone();
    for row in &mut rows {
        row.ratios = row.files_per_s.iter().zip(&first).map(|(own, first)| own / first).collect();
        println!(
            "{state:<8} {readers:>3} readers  {:<12} {:>9.0} files/s  {:.2} x  CPU {:>5.1} ms per 1,000 files",
            row.contestant,
            median(&row.files_per_s),
            median(&row.ratios),
            median(&row.cpu_ms_per_1000),
        );
    }
    Ok(rows)
}

fn json(plan: &Plan, rows: &[Row]) -> String {
    let list = |values: &[f64]| {
        let values: Vec<String> = values.iter().map(|value| format!("{value:.3}")).collect();
        format!("[{}]", values.join(", "))
    };
    let row = |row: &Row| {
        format!(
            "    {{\"state\": \"{}\", \"readers\": {}, \"contestant\": \"{}\", \"ratio\": {:.3}, \
             \"cpu_ms_per_1000_files\": {:.1}, \"files_per_s\": {}, \"ratios\": {}, \"cpu\": {}}}",
            row.state,
            row.readers,
            row.contestant,
            median(&row.ratios),
            median(&row.cpu_ms_per_1000),
            list(&row.files_per_s),
            list(&row.ratios),
            list(&row.cpu_ms_per_1000)
        )
    };
    let rows: Vec<String> = rows.iter().map(row).collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{{\n  \"kernel\": \"{}\", \"cpus\": {cpus}, \"files\": {}, \"bytes\": {}, \"rounds\": {},\n  \
         \"rows\": [\n{}\n  ]\n}}\n",
        kernel.trim(),
        plan.files,
        plan.size,
        plan.rounds,
        rows.join(",\n")
    )
}

fn main() -> Outcome<()> {
    let plan = plan()?;
    let clock = RealClock::shared();
    let cache = plan.dir.join("objects");
    let (complete, names) = set_up(&cache, plan.files, plan.size, clock.unix_ms())?;
    let direct = direct_paths(&complete, &names, plan.size);
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
    let (mut mounts, mut sets) = (Vec::new(), Vec::new());
    for contestant in &plan.contestants {
        if contestant == "ext4" {
            sets.push((contestant.clone(), direct.clone()));
            continue;
        }
        let mount = mount(&plan, contestant, &cache, &parts)?;
        let paths = names.iter().map(|name| mount.mountpoint().join(name)).collect();
        sets.push((contestant.clone(), paths));
        mounts.push(mount);
    }
    if plan.rounds == 0 {
        println!("serving");
        std::io::stdin().read_to_end(&mut Vec::new())?;
    } else {
        let mut rng = StdRng::seed_from_u64(1);
        let mut rows = Vec::new();
        for state in &plan.states {
            for readers in &plan.readers {
                rows.extend(measure(&plan, (state, *readers), &sets, &mut rng)?);
            }
        }
        if let Some(file) = &plan.json {
            fs::write(file, json(&plan, &rows))?;
        }
    }
    for mount in &mounts {
        println!("{}: {:?}", mount.mountpoint().display(), mount.stats());
    }
    Ok(())
}
