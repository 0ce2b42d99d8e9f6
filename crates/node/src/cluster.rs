//! How a node joins its cluster: who it is, what it must know, and the link that asks the others.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use feedline_cluster::{
    Cluster, ClusterConfig, ClusterParts, Entropy, Etcd, Link, NodeId, Sources, Tcp, Tls, Versions,
};
use feedline_gateway::S3Endpoint;
use feedline_model::Clock;
use tokio::runtime::Handle;

use crate::chain::{self, Chain};
use crate::config::{ClusterSettings, ResolvedConfig};
use crate::etcd;
use crate::files;
use crate::members::MembersFile;
use crate::role::StartError;
use crate::s3;
use crate::secrets::{self, Secrets};

/// The share of the buffer that may be on its way to peers: as much again as fetches may take would
/// double what the operator set.
const SERVE_SHARE: u64 = 2;

/// What a node has once it has joined: the port's guest, and where facts of the cluster lie, if anywhere.
pub(crate) type Joined = (Cluster, S3Endpoint, Option<Arc<Etcd>>);

/// Joins, and waits a moment for the others to answer. Whoever else comes to the port is served S3.
pub(crate) async fn join(
    config: &ResolvedConfig,
    settings: &ClusterSettings,
    chain: &Chain,
    link: &Arc<Link>,
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
) -> Result<Joined, StartError> {
    let secrets = secrets(settings)?;
    let tls = tls(settings, &secrets, clock)?;
    let etcd =
        etcd::source(settings, secrets.etcd.clone(), &chain.mounted, &config.mountpoint, clock)?;
    let s3 = s3::endpoint(config, settings, &secrets, chain, clock, tasks);
    let directory = etcd.clone().map(|etcd| etcd as _);
    let entropy = Entropy::new(random);
    let quota_bytes = chain.cache.stats().dirs.iter().map(|dir| dir.quota_bytes).sum();
    let state_dir = chain::state_dir(config)?;
    let memory = MembersFile::of(&state_dir, tasks);
    let cluster = ClusterConfig {
        node: node_id(&state_dir)?,
        age: cache_age(&state_dir, &**clock),
        instance: random_number(),
        version: env!("CARGO_PKG_VERSION").into(),
        wire: versions(),
        quota_bytes,
        listen: settings.listen,
        peers: settings.peers.clone(),
        token: secrets.token,
        local_copies: settings.local_copies,
        serve_bytes_max: config.buffer_bytes / SERVE_SHARE,
        // As long as the owner itself tries before it gives up.
        answer_max: config.retry_budget + config.request_timeout,
    };
    let parts = ClusterParts {
        blocks: Arc::clone(&chain.cache) as _,
        index: Arc::clone(&chain.cache) as _,
        mounted: chain.mounted.iter().map(|it| (it.source, it.prefix.clone())).collect(),
        net: Arc::new(Tcp(tasks.clone())),
        tls,
        clock: Arc::clone(clock),
        entropy,
        guest: Some(s3::guest(&s3)),
        sources: Sources { directory, memory: Some(memory), ..Sources::default() },
        runtime: tasks.clone(),
    };
    chain.cache.set_ownership(Arc::clone(link) as _);
    let cluster = Cluster::start(cluster, parts, Arc::clone(link))?;
    cluster.settle().await;
    Ok((cluster, s3, etcd))
}

/// What this node speaks with others. A debug build passes for another version if a test says so: versions that
/// are to come can be mixed with this one before there are any.
fn versions() -> Versions {
    match std::env::var("TEST_FEEDLINE_WIRE") {
        Ok(text) if cfg!(debug_assertions) => {
            text.parse().unwrap_or_else(|why| panic!("TEST_FEEDLINE_WIRE: {why}"))
        }
        _ => Versions::OURS,
    }
}

/// What the port's secrets are; an error if they leave it open and nobody said that it may be.
fn secrets(settings: &ClusterSettings) -> Result<Secrets, StartError> {
    let Some(dir) = &settings.secrets_dir else { return Ok(Secrets::default()) };
    let secrets = Secrets::read(dir)?;
    if !secrets.close_the_port() && !settings.is_open() {
        return Err(StartError::Open { listen: settings.listen, secrets: dir.clone() });
    }
    Ok(secrets)
}

/// With what this node proves to be one, read again from time to time; `None`: the port speaks no TLS.
fn tls(
    settings: &ClusterSettings,
    secrets: &Secrets,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<Tls>>, StartError> {
    let (Some(dir), Some(first)) = (settings.secrets_dir.clone(), secrets.tls.clone()) else {
        return Ok(None);
    };
    let path = dir.clone();
    let read = move || secrets::tls_files(&dir)?.ok_or_else(|| "its files of TLS are gone".into());
    let tls = Tls::new(first, read, Arc::clone(clock));
    let tls = tls.map_err(|why| StartError::Secrets { path, why })?;
    Ok(Some(Arc::new(tls)))
}

/// The node's id: drawn once, then kept beside the objects that it says whose they are.
fn node_id(state_dir: &Path) -> Result<NodeId, StartError> {
    let file = state_dir.join("node-id");
    let failed = |source| StartError::CacheDir { dir: file.clone(), source };
    match fs::read_to_string(&file) {
        Ok(text) => {
            if let Ok(id) = u64::from_str_radix(text.trim(), 16) {
                return Ok(NodeId(id));
            }
            // Cut short by a crash: as good as none.
            tracing::warn!(file = %file.display(), "holds no node id; a new one is drawn");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let id = NodeId(random_number());
    files::replace(&file, format!("{id}\n").as_bytes(), true).map_err(failed)?;
    Ok(id)
}

/// How long the node has had its id, which is as old as its cache. After a clock that went wrong it may be off:
/// then a question to another node is in vain.
fn cache_age(state_dir: &Path, clock: &dyn Clock) -> Duration {
    let drawn = fs::metadata(state_dir.join("node-id")).and_then(|file| file.modified()).ok();
    let drawn = drawn.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    drawn.map_or(Duration::ZERO, |at| Duration::from_millis(clock.unix_ms()).saturating_sub(at))
}

/// Drawn anew each time.
pub(crate) fn random_number() -> u64 {
    let mut bytes = [0; 8];
    random(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Bytes from the kernel, good enough for secrets.
fn random(bytes: &mut [u8]) {
    let read = fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(bytes));
    read.expect("every Linux has /dev/urandom, and it never ends");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LocalCopies;

    #[test]
    fn a_node_keeps_its_id_and_draws_another_only_if_it_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let id = node_id(dir.path()).unwrap();
        assert_eq!(node_id(dir.path()).unwrap(), id);
        assert_ne!(node_id(other.path()).unwrap(), id);
        fs::write(dir.path().join("node-id"), "").unwrap();
        let drawn = node_id(dir.path()).unwrap();
        assert_ne!(drawn, id);
        assert_eq!(node_id(dir.path()).unwrap(), drawn);
    }

    #[test]
    fn a_port_that_others_can_reach_needs_a_secret_or_the_operators_word() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("s3-keys"), "AK SK").unwrap();
        let settings = |listen: &str, insecure| ClusterSettings {
            listen: listen.parse().unwrap(),
            peers: Vec::new(),
            etcd: None,
            local_copies: LocalCopies::Auto,
            secrets_dir: Some(dir.path().to_owned()),
            insecure,
        };
        let refused = secrets(&settings("0.0.0.0:7001", false)).unwrap_err();
        assert!(matches!(refused, StartError::Open { .. }), "{refused}");
        assert!(secrets(&settings("0.0.0.0:7001", true)).is_ok());
        assert!(secrets(&settings("127.0.0.1:7001", false)).is_ok());
        fs::write(dir.path().join("token"), "0123456789abcdef0123456789abcdef").unwrap();
        assert!(secrets(&settings("0.0.0.0:7001", false)).unwrap().token.is_some());
        fs::remove_file(dir.path().join("token")).unwrap();
        let authority = feedline_testkit::Authority::new();
        authority.for_names(&["localhost"]).write(dir.path()).unwrap();
        assert!(secrets(&settings("0.0.0.0:7001", false)).unwrap().token.is_none());
    }
}
