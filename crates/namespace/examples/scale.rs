//! A namespace of millions of files: memory, time to list, to save, to start again, to refresh.
//!
//! `scale DIR [FILES] [FOLDERS] [LATENCY_MS] [LISTS_MAX]`: lists a bucket made up in memory, whose LIST
//! takes LATENCY_MS, keeps it in `DIR/state`, then starts itself again over that file. Prints one JSON
//! object per phase. "bound" is the time that the LISTs alone would take, LISTS_MAX at a time.

#![expect(clippy::disallowed_methods, reason = "a program of its own that measures real time")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use feedline_model::{
    ETag, ListPage, ListRequest, ListedObject, Lister, ReadError, SourceId, Tree, Version,
};
use feedline_namespace::{Listing, Mounted, Namespace, NamespaceConfig};
use feedline_testkit::RealClock;
use futures::StreamExt as _;
use tokio::runtime::Handle;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Names in a page, as S3 gives them.
const PAGE: usize = 1_000;

/// A bucket of FOLDERS prefixes with FILES objects in all.
#[derive(Debug, Clone, Copy)]
struct MadeUp {
    files: usize,
    folders: usize,
    latency: Duration,
}

impl MadeUp {
    fn folder_of(prefix: &str) -> Option<usize> {
        prefix.strip_prefix('n')?.strip_suffix('/')?.parse().ok()
    }

    fn object(prefix: &str, index: usize) -> ListedObject {
        let mixed = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut digest = [0; 16];
        digest[..8].copy_from_slice(&mixed.to_le_bytes());
        digest[8..].copy_from_slice(&mixed.rotate_left(17).to_le_bytes());
        let modified_ms = 1_700_000_000_000 + (mixed % 100_000) as i64 * 1_000;
        let version =
            Version { size: 20_000 + mixed % 300_000, modified_ms, etag: ETag::Md5(digest) };
        ListedObject { key: format!("{prefix}ILSVRC2012_val_{index:08}.JPEG"), version }
    }
}

#[async_trait]
impl Lister for MadeUp {
    async fn list(&self, request: &ListRequest) -> Result<ListPage, ReadError> {
        tokio::time::sleep(self.latency).await;
        let from = request.token.as_ref().map_or(0, |token| token.parse().unwrap_or(0));
        let (mut page, count) = (ListPage::default(), self.files / self.folders);
        let (to, of) = match Self::folder_of(&request.prefix) {
            None => {
                let to = (from + PAGE).min(self.folders);
                page.prefixes.extend((from..to).map(|folder| format!("n{folder:08}/")));
                (to, self.folders)
            }
            Some(folder) => {
                let to = (from + PAGE).min(count);
                let object = |index| Self::object(&request.prefix, folder * count + index);
                page.objects.extend((from..to).map(object));
                (to, count)
            }
        };
        page.next = (to < of).then(|| to.to_string());
        Ok(page)
    }

    fn source(&self) -> SourceId {
        SourceId(1)
    }
}

/// A number of `/proc/self/status`, in bytes.
fn memory(field: &str) -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(field)).ok_or("no such line")?;
    let number = line.split_whitespace().nth(1).ok_or("no number")?;
    Ok(number.parse::<u64>()? * 1024)
}

struct Run {
    bucket: MadeUp,
    lists_max: usize,
    state: PathBuf,
}

impl Run {
    fn open(&self) -> Outcome<Namespace> {
        let (tree_path, prefix) = (String::new(), String::new());
        let config = NamespaceConfig {
            mounts: vec![Mounted { tree_path, lister: Arc::new(self.bucket), prefix }],
            metadata_ttl: Duration::from_secs(24 * 3600),
            listing: Listing::Lazy,
            state_file: Some(self.state.clone()),
            lists_max: self.lists_max,
            directories_max: 10_000_000,
        };
        Ok(Namespace::open(config, RealClock::shared(), Handle::current())?)
    }

    /// Bytes of memory for each file beyond its name.
    fn beyond_names(&self, resident: u64) -> f64 {
        let name = "ILSVRC2012_val_00000000.JPEG".len() as f64;
        resident as f64 / self.bucket.files as f64 - name
    }

    async fn list(&self) -> Outcome<()> {
        let before = memory("VmRSS")?;
        let namespace = self.open()?;
        let start = Instant::now();
        let loaded = namespace.preload("").await?;
        let seconds = start.elapsed().as_secs_f64();
        let resident = memory("VmRSS")? - before;
        let lists = namespace.stats().lists;
        let bound = lists as f64 * self.bucket.latency.as_secs_f64() / self.lists_max as f64;
        println!(
            r#"{{"phase": "list", "entries": {}, "lists": {lists}, "seconds": {seconds:.3}, "bound_seconds": {bound:.3}, "of_bound": {:.3}, "resident_bytes": {resident}, "bytes_per_file_beyond_name": {:.1}, "peak_bytes": {}}}"#,
            loaded.entries,
            bound / seconds,
            self.beyond_names(resident),
            memory("VmHWM")?,
        );
        let start = Instant::now();
        namespace.close().await;
        let seconds = start.elapsed().as_secs_f64();
        let bytes = std::fs::metadata(&self.state)?.len();
        println!(
            r#"{{"phase": "save", "seconds_to_close": {seconds:.3}, "file_bytes": {bytes}, "resident_bytes": {}}}"#,
            memory("VmRSS")? - before
        );
        self.refresh(&namespace).await
    }

    /// A thousand directories are listed again: nothing changed.
    async fn refresh(&self, namespace: &Namespace) -> Outcome<()> {
        let count = self.bucket.folders.min(1_000);
        let (before, lists) = (memory("VmRSS")?, namespace.stats().lists);
        let start = Instant::now();
        let paths = (0..count).map(|folder| format!("n{folder:08}"));
        futures::stream::iter(paths)
            .for_each_concurrent(self.lists_max, async |path| {
                namespace.expire(&path);
                let _ = namespace.list(&path).await;
            })
            .await;
        println!(
            r#"{{"phase": "refresh", "directories": {count}, "lists": {}, "seconds": {:.3}, "resident_growth_bytes": {}}}"#,
            namespace.stats().lists - lists,
            start.elapsed().as_secs_f64(),
            memory("VmRSS")?.saturating_sub(before)
        );
        Ok(())
    }

    async fn again(&self) -> Outcome<()> {
        let before = memory("VmRSS")?;
        let start = Instant::now();
        let namespace = self.open()?;
        let open = start.elapsed().as_secs_f64();
        let known = namespace.stats();
        let first = namespace.list("n00000007").await?.ok_or("it was saved")?.len();
        let first_seconds = start.elapsed().as_secs_f64();
        let resident = memory("VmRSS")? - before;
        println!(
            r#"{{"phase": "start", "directories": {}, "entries": {}, "open_seconds": {open:.3}, "first_listing_seconds": {first_seconds:.3}, "first_listing_entries": {first}, "resident_bytes": {resident}}}"#,
            known.directories, known.entries
        );
        let start = Instant::now();
        let mut entries = 0;
        let mut walk = std::pin::pin!(namespace.walk(""));
        while let Some(directory) = walk.next().await {
            entries += directory?.len();
        }
        let resident = memory("VmRSS")? - before;
        println!(
            r#"{{"phase": "walk", "entries": {entries}, "lists": {}, "seconds": {:.3}, "resident_bytes": {resident}, "bytes_per_file_beyond_name": {:.1}}}"#,
            namespace.stats().lists,
            start.elapsed().as_secs_f64(),
            self.beyond_names(resident),
        );
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, or: usize| arguments.get(index).map_or(Ok(or), |text| text.parse::<usize>());
    let dir = Path::new(arguments.first().ok_or("which directory?")?);
    let (files, folders) = (number(1, 10_000_000)?, number(2, 10_000)?);
    let latency = Duration::from_millis(number(3, 50)? as u64);
    let lists_max = number(4, 64)?;
    let bucket = MadeUp { files, folders, latency };
    let run = Run { bucket, lists_max, state: dir.join("state") };
    if arguments.last().is_some_and(|last| last == "again") {
        return run.again().await;
    }
    std::fs::create_dir_all(dir)?;
    let _ = std::fs::remove_file(&run.state);
    run.list().await?;
    let mut again = std::process::Command::new(std::env::current_exe()?);
    let numbers = [files, folders, latency.as_millis() as usize, lists_max];
    again.arg(dir).args(numbers.map(|number| number.to_string())).arg("again");
    if again.status()?.success() { Ok(()) } else { Err("the second start failed".into()) }
}
