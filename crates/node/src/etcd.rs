//! The etcd that a cluster's members are listed in: from settings and secrets to a source.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use feedline_cluster::{CLUSTER_NAME_BYTES_MAX, Etcd, EtcdSecrets, Mounted};
use feedline_model::{Clock, SourceId};
use feedline_store::Environment;

use crate::chain::{self, MountedStore};
use crate::clock::SystemClock;
use crate::config::{ClusterSettings, ResolvedConfig};
use crate::reach::Unreached;
use crate::role::StartError;
use crate::secrets::Secrets;

/// What is kept of the bucket's name in the cluster's, for people who look into etcd.
const BUCKET_CHARS_MAX: usize = 40;

/// `None`: no etcd is configured.
pub(crate) fn source(
    settings: &ClusterSettings,
    secrets: EtcdSecrets,
    mounted: &[MountedStore],
    mountpoint: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<Etcd>>, StartError> {
    let Some(urls) = &settings.etcd else { return Ok(None) };
    let etcd = Etcd::new(urls.clone(), secrets, &cluster_name(mounted), Arc::clone(clock));
    let told = Mounted {
        mountpoint: mountpoint.display().to_string(),
        sources: mounted.iter().map(|it| it.url.clone()).collect(),
    };
    etcd.map(|etcd| Some(Arc::new(etcd.telling(told)))).map_err(StartError::Etcd)
}

/// The same on all nodes that mount the same, whatever else they do: the bucket's name, for people, and
/// a hash of all that is mounted (endpoints, buckets and prefixes).
fn cluster_name(mounted: &[MountedStore]) -> String {
    let mut all: Vec<_> = mounted.iter().map(|it| (it.source.0, &*it.prefix)).collect();
    all.sort_unstable();
    all.dedup();
    let text: String =
        all.iter().map(|(source, prefix)| format!("{source:016x} {prefix}\n")).collect();
    let bucket = mounted.iter().min_by_key(|it| (it.source.0, &it.prefix)).map_or("", |it| {
        let path = it.url.split_once("://").map_or(&*it.url, |(_, path)| path);
        path.trim_start_matches('/').split('/').next().unwrap_or_default()
    });
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    let bucket: String = bucket.chars().map(plain).take(BUCKET_CHARS_MAX).collect();
    let name = format!("{bucket}-{:016x}", SourceId::of_url(&text).0);
    debug_assert!(name.len() <= CLUSTER_NAME_BYTES_MAX);
    name
}

/// An etcd that was asked, for `doctor`.
#[derive(Debug)]
pub struct ReachedEtcd {
    /// Where it is, and the cluster's name in it.
    pub place: String,
    /// How many nodes are listed there and how long the answer took, or why there is none.
    pub outcome: Result<(usize, Duration), Unreached>,
}

/// Asks the configured etcd for the nodes, without listing this one; `None`: none is configured. Blocks,
/// for some seconds at most; must not be called within a tokio runtime.
#[must_use]
pub fn reach_etcd(config: &ResolvedConfig) -> Option<ReachedEtcd> {
    let settings = config.cluster.as_ref()?;
    settings.etcd.as_ref()?;
    let failed = |error: String| {
        let way_out = "see --etcd in `feedline config --help`".into();
        ReachedEtcd { place: String::new(), outcome: Err(Unreached { error, way_out }) }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Some(failed(error.to_string())),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let _within = runtime.enter();
    let environment = Environment::from_process();
    let stores = chain::open_stores(config, &environment, &clock, runtime.handle());
    let mounted = stores.map(|(mounted, _)| mounted).unwrap_or_default();
    let secrets = settings.secrets_dir.as_deref().map(|dir: &Path| Secrets::read(dir));
    let etcd = match secrets.transpose() {
        Ok(secrets) => {
            source(settings, secrets.unwrap_or_default().etcd, &mounted, &config.mountpoint, &clock)
        }
        Err(error) => Err(error),
    };
    let etcd = match etcd {
        Ok(etcd) => etcd?,
        Err(error) => return Some(failed(error.to_string())),
    };
    let start = clock.monotonic();
    let outcome = runtime.block_on(etcd.nodes());
    let took = clock.monotonic().saturating_sub(start);
    let outcome = outcome.map(|nodes| (nodes, took)).map_err(|error| Unreached {
        error,
        way_out: "nodes go on with the members they know; new ones wait until it answers".into(),
    });
    Some(ReachedEtcd { place: feedline_cluster::Source::place(&*etcd), outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(path: &str, url: &str, source: u64, prefix: &str) -> MountedStore {
        MountedStore {
            path: path.into(),
            url: url.into(),
            source: SourceId(source),
            prefix: prefix.into(),
        }
    }

    #[test]
    fn clusters_of_other_buckets_or_prefixes_have_other_names_and_the_order_does_not_matter() {
        let a = || mounted("x", "s3://imagenet/train", 1, "train/");
        let b = || mounted("y", "gs://second%20one", 2, "");
        let name = cluster_name(&[a()]);
        assert!(name.starts_with("imagenet-") && name.len() == 9 + 16, "{name}");
        assert_eq!(name, cluster_name(&[mounted("elsewhere", "s3://imagenet/train", 1, "train/")]));
        assert_ne!(name, cluster_name(&[mounted("x", "s3://imagenet/train", 3, "train/")]));
        assert_ne!(name, cluster_name(&[mounted("x", "s3://imagenet/val", 1, "val/")]));
        assert_ne!(name, cluster_name(&[a(), b()]));
        assert_eq!(cluster_name(&[b(), a()]), cluster_name(&[a(), b()]));
        let odd = cluster_name(&[b()]);
        assert!(odd.starts_with("second_20one-"), "{odd}");
        assert!(cluster_name(&[mounted("", &"é/".repeat(9), 1, "")]).starts_with("_-"));
        assert!(cluster_name(&[mounted("", &"b".repeat(999), 1, "")]).len() < 100);
    }
}
