//! What filling the cache costs, beside the bare writing of the same files: the files of an epoch
//! of small images from a source that answers at once, written by `read()`, then reopened.
//!
//! `cargo run --release -p feedline-cache --example fill -- DIR [files] [bytes]`. DIR is on the
//! file system to measure and must not exist; it is removed afterwards.
//!
//! Deliberately absent: latency and bandwidth of a store. This is the price of the cache alone.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use feedline_cache::{Cache, CacheConfig, CacheDirConfig};
use feedline_model::clock::Sleep;
use feedline_model::{BlockSource, Clock, ETag, Object, Priority, ReadError, SourceId, Version};

/// Alternated, because runs scatter: compare the best of each.
const ROUNDS: u32 = 3;

/// Answers at once, without copying.
#[derive(Debug)]
struct Instantly(Bytes);

#[async_trait]
impl BlockSource for Instantly {
    async fn read(
        &self,
        _: &Object,
        range: std::ops::Range<u64>,
        _: Priority,
    ) -> Result<Bytes, ReadError> {
        let at = |offset: u64| usize::try_from(offset).expect("fits in memory");
        Ok(self.0.slice(at(range.start)..at(range.end)))
    }
}

/// The machine's clock: an example is a program of its own.
struct Real(Instant);

impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Real")
    }
}

impl Clock for Real {
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn unix_ms(&self) -> u64 {
        0
    }
    #[expect(clippy::disallowed_methods, reason = "the clock itself")]
    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// CPU time of this process, user and system.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let nanoseconds = u32::try_from(time.tv_nsec).expect("below a second");
    Duration::new(u64::try_from(time.tv_sec).expect("positive"), nanoseconds)
}

/// Runs `work` and prints its rate and its CPU per file.
fn measure<T>(what: &str, files: u32, work: impl FnOnce() -> T) -> T {
    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    let (start, before) = (Instant::now(), cpu());
    let done = work();
    let (wall, used) = (start.elapsed(), cpu() - before);
    println!(
        "{what:<34} {:>9.0} files/s {:>8.1} us CPU a file {:>8.3} s",
        f64::from(files) / wall.as_secs_f64(),
        used.as_secs_f64() * 1e6 / f64::from(files),
        wall.as_secs_f64(),
    );
    done
}

fn bare(root: &Path, files: u32, content: &Bytes, writers: u32) {
    for folder in 0..256 {
        std::fs::create_dir_all(root.join(format!("objects/{folder:02x}"))).expect("a folder");
    }
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let temporary = root.join(format!("w{writer}"));
            std::fs::create_dir(&temporary).expect("a folder");
            scope.spawn(move || {
                for file in (writer..files).step_by(writers as usize) {
                    let name = u64::from(file).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    let new = temporary.join(format!("{name:032x}"));
                    let last = root.join(format!("objects/{:02x}/{name:032x}", name >> 56));
                    std::fs::File::create(&new).expect("a file").write_all(content).expect("space");
                    std::fs::rename(new, last).expect("the folder is there");
                }
            });
        }
    });
}

fn object(number: u32, size: u64) -> Object {
    let version = Version { size, modified_ms: 0, etag: ETag::Absent };
    Object { source: SourceId(1), key: format!("{number:08}").into(), version }
}

fn fill(runtime: &tokio::runtime::Runtime, root: &Path, files: u32, content: &Bytes, readers: u32) {
    let config =
        CacheConfig::new(vec![CacheDirConfig { dir: root.join("cache"), quota_bytes: 1 << 40 }]);
    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    let clock = Arc::new(Real(Instant::now()));
    let source = Arc::new(Instantly(content.clone()));
    let open = || {
        let handle = runtime.handle().clone();
        Cache::open(config.clone(), source.clone(), clock.clone(), handle).expect("it opens")
    };
    let cache = open();
    let size = content.len() as u64;
    let next = Arc::new(AtomicU32::new(0));
    measure(&format!("cache, {readers} readers"), files, || {
        runtime.block_on(async {
            let tracker = tokio_util::task::TaskTracker::new();
            for _ in 0..readers {
                let (cache, next) = (cache.clone(), next.clone());
                let reader = async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= files {
                            return;
                        }
                        let object = object(number, size);
                        cache.read(&object, 0..size, Priority::Demand).await.expect("served");
                    }
                };
                tracker.spawn_on(reader, runtime.handle());
            }
            tracker.close();
            tracker.wait().await;
            while cache.stats().flights > 0 {
                clock.sleep(Duration::from_millis(10)).await;
            }
        });
    });
    let stats = cache.stats();
    assert_eq!((stats.objects(), stats.not_kept), (u64::from(files), 0));
    measure("  close", files, || runtime.block_on(cache.close()));
    drop(cache);
    let cache = measure("  open again", files, open);
    assert_eq!(cache.stats().objects(), u64::from(files));
    runtime.block_on(cache.close());
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().expect("give a directory that does not exist yet");
    let root = Path::new(&root);
    let mut number =
        |default| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (files, bytes) = (number(20_000), number(110_000));
    let content = Bytes::from(vec![7; bytes as usize]);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().build().expect("threads can be started");
    for round in 0..ROUNDS {
        println!("round {round}: {files} files of {bytes} bytes");
        // Removed at the end only: ext4 searches long for inodes when many were just freed.
        let fresh = |what: &str| {
            let dir = root.join(format!("{what}-{round}"));
            std::fs::create_dir_all(&dir).expect("it can be created");
            // What the run before left dirty is not this one's cost.
            rustix::fs::sync();
            dir
        };
        for writers in [1, 4] {
            let dir = fresh(&format!("bare{writers}"));
            measure(&format!("bare, {writers} writers"), files, || {
                bare(&dir, files, &content, writers)
            });
        }
        for readers in [8, 64] {
            let dir = fresh(&format!("fill{readers}"));
            fill(&runtime, &dir, files, &content, readers);
        }
    }
    std::fs::remove_dir_all(root).expect("ours");
}
