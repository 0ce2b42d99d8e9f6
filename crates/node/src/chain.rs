//! The chain of one read, nested here and nowhere else:
//!
//! ```text
//! mount -> cache -> link -> router -> store (retries, limit) -> bucket
//!   |       ^        '- peers, if the node belongs to a cluster; they are served by the cache
//!   |       ^- fill, which the mount tells what is opened, and its loader, which loads tell
//!   \-> namespace -> store (LIST)
//! ```

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use feedline_cache::{Cache, CacheConfig, CacheDirConfig};
use feedline_cluster::{Cluster, Etcd, Link};
use feedline_fill::load::{Keeper, LoadParts, Loader};
use feedline_fill::{Fill, FillConfig, FillParts, Liveness};
use feedline_gateway::S3Endpoint;
use feedline_model::{BlockSource, Clock, Lister, Object, SourceId};
use feedline_mount::{Capacity, CapacityProvider, Mount, MountHandle, MountParts};
use feedline_namespace::{Mounted, Namespace, NamespaceConfig};
use feedline_store::{Environment, Store, StoreConfig};
use tokio::runtime::Handle;

use crate::config::{
    self, CacheSize, Listing, MountConfig, OpenMode, PathStyle, ResolvedConfig, Transport,
};
use crate::orders::Orders;
use crate::role::StartError;
use crate::router::Router;

/// LISTs in flight at most: S3 answers one in 50 ms or more, and a walk gains little beyond.
const LISTS_MAX: usize = 64;

/// Listings in memory at most. ImageNet has 2,000 directories; a million of 30 entries are 3 GB, so
/// this is a bound against runaway trees, not a budget.
const DIRECTORIES_MAX: usize = 1_000_000;

/// What `df` shows as size and as free: 1 PiB, nothing used. A bucket has no end; what the listings
/// add up to would be a part of it only, growing while a tree is walked, and a mount that fills up
/// would raise alarms about nothing. For the same reason no inodes are counted (`df -i` shows `-`).
const CAPACITY_BYTES: u64 = 1 << 50;

/// A bucket or prefix in the tree; its store is that of its bucket.
#[derive(Debug)]
pub(crate) struct MountedStore {
    pub(crate) path: String,
    pub(crate) url: String,
    pub(crate) source: SourceId,
    pub(crate) prefix: String,
}

/// All links but the mount.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) mounted: Vec<MountedStore>,
    /// Each bucket once, however many of its prefixes are mounted.
    pub(crate) stores: HashMap<SourceId, Arc<Store>>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) namespace: Namespace,
    pub(crate) fill: Arc<Fill>,
    /// Brings files in on somebody's order.
    pub(crate) loader: Arc<Loader>,
    pub(crate) link: Arc<Link>,
    /// Set when the node has joined one.
    pub(crate) cluster: Arc<OnceLock<Cluster>>,
    /// What else its port serves.
    pub(crate) s3: OnceLock<S3Endpoint>,
    /// Where facts of the cluster lie, if it has an etcd.
    pub(crate) etcd: OnceLock<Arc<Etcd>>,
}

impl Chain {
    /// What is mounted: where in the tree, the bucket, and the prefix of its keys.
    pub(crate) fn mounted_places(&self) -> Vec<(String, u64, String)> {
        let place = |it: &MountedStore| (it.path.clone(), it.source.0, it.prefix.clone());
        self.mounted.iter().map(place).collect()
    }
}

/// Opens and nests everything. Sends no request.
pub(crate) fn build(
    config: &ResolvedConfig,
    environment: &Environment,
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
) -> Result<Chain, StartError> {
    let (mounted, stores) = open_stores(config, environment, clock, tasks)?;
    let routes = stores.iter().map(|(id, store)| (*id, Arc::clone(store) as Arc<dyn BlockSource>));
    let router = Arc::new(Router::new(routes.collect()));
    let link = Link::new(router);
    let next = Arc::clone(&link) as Arc<dyn BlockSource>;
    let cache = Cache::open(cache_config(config)?, next, Arc::clone(clock), tasks.clone())?;
    let state_dir = state_dir(config)?;
    let namespace = NamespaceConfig {
        mounts: mounted
            .iter()
            .map(|mounted| Mounted {
                tree_path: mounted.path.clone(),
                lister: Arc::clone(&stores[&mounted.source]) as Arc<dyn Lister>,
                prefix: mounted.prefix.clone(),
            })
            .collect(),
        metadata_ttl: config.metadata_ttl,
        listing: match config.listing {
            Listing::Lazy => feedline_namespace::Listing::Lazy,
            Listing::Eager => feedline_namespace::Listing::Eager,
        },
        state_file: Some(state_dir.join("listings")),
        lists_max: LISTS_MAX.min(config.requests_max),
        directories_max: DIRECTORIES_MAX,
    };
    let namespace = Namespace::open(namespace, Arc::clone(clock), tasks.clone())?;
    let fill = start_fill(config, &state_dir, &cache, &namespace, &link, clock, tasks);
    let loader = Loader::new(LoadParts {
        index: Arc::clone(&cache) as _,
        blocks: Arc::clone(&cache) as _,
        keeper: Arc::new(Keeps(Arc::clone(&cache))),
        clock: Arc::clone(clock),
        window_max: config.requests_max * FILL_SHARE.0 / FILL_SHARE.1,
    });
    let (cluster, s3, etcd) = Default::default();
    Ok(Chain { mounted, stores, cache, namespace, fill, loader, link, cluster, s3, etcd })
}

/// The cache's word for what it keeps.
#[derive(Debug)]
struct Keeps(Arc<Cache>);

#[async_trait]
impl Keeper for Keeps {
    async fn is_kept(&self, object: &Object) -> bool {
        self.0.is_kept(object).await
    }
}

/// The share of the requests in flight that fill may take: what the store's limit leaves it.
const FILL_SHARE: (usize, usize) = (7, 8);

/// What may be brought into the page cache ahead of the reads: fill's default, or this part of the
/// memory that is free for the page cache if that is less, so that it cannot push out itself what it
/// brought.
const PUSH_PART: u64 = 16;

fn push_bytes_max() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let default = FillConfig::default().push_bytes_max;
    kib.map_or(default, |kib| (kib << 10) / PUSH_PART).min(default)
}

/// True if the kernel reads cached files itself. Without root it refuses to, and the mount answers
/// reads from our memory.
fn is_passthrough(config: &ResolvedConfig) -> bool {
    config.open == OpenMode::Passthrough && rustix::process::geteuid().is_root()
}

fn start_fill(
    config: &ResolvedConfig,
    state_dir: &Path,
    cache: &Arc<Cache>,
    namespace: &Namespace,
    link: &Arc<Link>,
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
) -> Arc<Fill> {
    let settings = FillConfig {
        enabled: config.fill != config::Fill::Off,
        patterns: match &config.fill {
            config::Fill::Only(patterns) => patterns.clone(),
            config::Fill::On | config::Fill::Off => Vec::new(),
        },
        oracle: config.oracle,
        rate_bytes_per_s: config.fill_bytes_per_s,
        window_max: config.requests_max * FILL_SHARE.0 / FILL_SHARE.1,
        push_bytes_max: if is_passthrough(config) { push_bytes_max() } else { 0 },
    };
    let parts = FillParts {
        tree: Arc::new(namespace.clone()),
        index: Arc::clone(cache) as _,
        blocks: Arc::clone(cache) as _,
        ownership: Some(Arc::clone(link) as _),
        memory: config.oracle.then(|| Arc::new(Orders::of(state_dir)) as _),
        clock: Arc::clone(clock),
        runtime: tasks.clone(),
        liveness: Liveness::new(|thread| Path::new(&format!("/proc/{thread}")).exists()),
    };
    let fill = Fill::start(settings, parts);
    cache.set_foresight(fill.foresight());
    fill
}

/// Shows the chain to the kernel.
pub(crate) fn mount(
    chain: &Chain,
    config: &ResolvedConfig,
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
) -> Result<MountHandle, StartError> {
    let settings = feedline_mount::MountConfig {
        open: match config.open {
            OpenMode::Passthrough => feedline_mount::OpenMode::Passthrough,
            OpenMode::None => feedline_mount::OpenMode::None,
        },
        transport: match config.transport {
            Transport::Auto => feedline_mount::Transport::Auto,
            Transport::Classic => feedline_mount::Transport::Classic,
            Transport::Uring => feedline_mount::Transport::Uring,
        },
        uid: config.uid,
        gid: config.gid,
        umask: u32::from(config.umask),
        allow_other: config.allow_other,
        threads: config.fuse_threads,
        max_background: config.max_background,
        read_ahead_bytes: u64::from(config.read_ahead_bytes),
        fs_name: match &chain.mounted[..] {
            [one] => one.url.clone(),
            _ => "feedline".into(),
        },
        cache_dirs: config.cache.iter().map(|cache| cache.dir.clone()).collect(),
        ..feedline_mount::MountConfig::new(&config.mountpoint)
    };
    let parts = MountParts {
        tree: Arc::new(chain.namespace.clone()),
        index: Arc::clone(&chain.cache) as _,
        blocks: Arc::clone(&chain.cache) as _,
        observer: Some(Arc::clone(&chain.fill) as _),
        clock: Arc::clone(clock),
        runtime: tasks.clone(),
        capacity: CapacityProvider::new(|| Capacity {
            bytes_total: CAPACITY_BYTES,
            bytes_free: CAPACITY_BYTES,
            files: 0,
        }),
    };
    Ok(Mount::start(&settings, parts)?)
}

pub(crate) type Stores = (Vec<MountedStore>, HashMap<SourceId, Arc<Store>>);

pub(crate) fn open_stores(
    config: &ResolvedConfig,
    environment: &Environment,
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
) -> Result<Stores, StartError> {
    let mut mounted = Vec::new();
    let mut stores: HashMap<SourceId, Arc<Store>> = HashMap::new();
    let mut first_of: HashMap<SourceId, &MountConfig> = HashMap::new();
    for mount in &config.mounts {
        let settings = store_config(config, mount, environment.clone());
        // Jitter must differ between nodes that start together; it need not be secret.
        let seed = clock.unix_ms() ^ (u64::from(std::process::id()) << 32);
        let store = Store::open(&settings, Arc::clone(clock), tasks.clone(), seed)?;
        let id = store.source();
        if let Some(warning) = contradiction(first_of.entry(id).or_insert(mount), mount) {
            tracing::warn!("{warning}");
        }
        stores.entry(id).or_insert_with(|| Arc::clone(&store));
        let (path, url) = (mount.path.clone(), mount.url.clone());
        mounted.push(MountedStore { path, url, source: id, prefix: store.prefix().to_owned() });
    }
    Ok((mounted, stores))
}

/// What to log when two mounts of one bucket are set up differently: a bucket is one store with one
/// limit, so the first mount decides. (Another endpoint makes it another bucket.)
fn contradiction(first: &MountConfig, other: &MountConfig) -> Option<String> {
    let differs = [
        ("region", first.region != other.region),
        ("path_style", first.path_style != other.path_style),
        ("anonymous", first.anonymous != other.anonymous),
        ("ca_file", first.ca_file != other.ca_file),
    ];
    let names: Vec<_> = differs.iter().filter(|(_, differs)| *differs).map(|(n, _)| *n).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} and {} are in one bucket and differ in {}: what the first says holds for both",
            first.url,
            other.url,
            names.join(", ")
        )
    })
}

fn store_config(
    config: &ResolvedConfig,
    mount: &MountConfig,
    environment: Environment,
) -> StoreConfig {
    StoreConfig {
        endpoint: mount.endpoint.clone(),
        region: mount.region.clone(),
        path_style: match mount.path_style {
            PathStyle::Auto => None,
            PathStyle::Always => Some(true),
            PathStyle::Never => Some(false),
        },
        anonymous: mount.anonymous,
        ca_file: mount.ca_file.clone(),
        request_timeout: config.request_timeout,
        retry_budget: config.retry_budget,
        requests_in_flight_max: config.requests_max,
        environment,
        ..StoreConfig::new(&mount.url)
    }
}

fn cache_config(config: &ResolvedConfig) -> Result<CacheConfig, StartError> {
    let mut dirs = Vec::new();
    for cache in &config.cache {
        let failed = |source| StartError::CacheDir { dir: cache.dir.clone(), source };
        if let Some(parent) = cache.dir.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let quota_bytes = match cache.size {
            CacheSize::Bytes(bytes) => bytes,
            CacheSize::Percent(percent) => percent_of_disk(&cache.dir, percent).map_err(failed)?,
        };
        dirs.push(CacheDirConfig { dir: cache.dir.clone(), quota_bytes });
    }
    Ok(CacheConfig {
        buffer_bytes: config.buffer_bytes,
        keep_pages: is_passthrough(config),
        scrub_bytes_per_s: config.scrub_bytes_per_s,
        ..CacheConfig::new(dirs)
    })
}

fn percent_of_disk(dir: &Path, percent: u8) -> std::io::Result<u64> {
    let existing = if dir.exists() { dir } else { dir.parent().unwrap_or(Path::new("/")) };
    let disk = rustix::fs::statvfs(existing)?;
    Ok(disk.f_blocks.saturating_mul(disk.f_frsize) / 100 * u64::from(percent))
}

/// Where listings, pins and learned orders are kept: beside the objects in the first cache directory, whose lock
/// makes this daemon their only user. The cache leaves names alone that are not its own. The quota
/// does not count them: an ImageNet name takes 28 bytes, and at most twice that before a rewrite,
/// which is a part of 2,000 of what its file takes. An order takes 4 bytes more (see `orders`).
pub(crate) fn state_dir(config: &ResolvedConfig) -> Result<PathBuf, StartError> {
    let first = config.cache.first().expect("a resolved config has a cache directory");
    let dir = first.dir.join("namespace");
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StartError::CacheDir { dir, source: error })
        }
        _ => Ok(dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::config::{Inputs, Merged};

    #[tokio::test]
    async fn two_prefixes_of_a_bucket_share_one_store_and_say_where_they_disagree() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("feedline.toml");
        let text = "mountpoint = \"/mnt\"\nendpoint = \"http://127.0.0.1:9\"\n\
             [[mounts]]\npath = \"a\"\nurl = \"s3://b/one\"\n\
             [[mounts]]\npath = \"b\"\nurl = \"s3://b/two\"\nanonymous = true\nregion = \"eu\"\n\
             [[mounts]]\npath = \"c\"\nurl = \"s3://b/one\"\nendpoint = \"http://127.0.0.2:9\"\n";
        fs::write(&file, text).unwrap();
        let inputs = Inputs { file: Some(file), ..Inputs::default() };
        let config = ResolvedConfig::resolve(&Merged::load(&inputs).unwrap()).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let environment = Environment::from_pairs([("AWS_ACCESS_KEY_ID", "a")]);
        let (mounted, stores) =
            open_stores(&config, &environment, &clock, &Handle::current()).unwrap();
        assert_eq!(stores.len(), 2, "one a bucket, and another endpoint is another bucket");
        assert_eq!(mounted[0].source, mounted[1].source);
        assert_ne!(mounted[0].source, mounted[2].source);
        assert_eq!(
            mounted.iter().map(|m| m.prefix.as_str()).collect::<Vec<_>>(),
            ["one/", "two/", "one/"]
        );
        let said = contradiction(&config.mounts[0], &config.mounts[1]).unwrap();
        assert!(
            said.contains("s3://b/two") && said.contains("differ in region, anonymous:"),
            "{said}"
        );
        assert_eq!(contradiction(&config.mounts[0], &config.mounts[0]), None);
    }
}
