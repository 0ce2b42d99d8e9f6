//! The status of a node, gathered from the counters that each link keeps of its own.

use std::collections::BTreeMap;

use feedline_cluster::{LocalCopies, PeerState};
use feedline_gateway::api::{
    CacheDirStatus, ClusterStatus, DataSetStatus, FillStatus, MembersFrom, MountedSource,
    NamespaceStatus, PeerStatus, ReadStatus, S3Status, Status, TlsStatus,
};
use feedline_store::{RetryCause, Verb};

use crate::admin::NodeAdmin;

/// Everything about the node now. Memory only, `/proc/self` aside.
pub(crate) fn of(node: &NodeAdmin) -> Status {
    let chain = node.chain();
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        mountpoint: node.config().mountpoint.display().to_string(),
        sources: chain
            .mounted
            .iter()
            .map(|mounted| MountedSource { path: mounted.path.clone(), url: mounted.url.clone() })
            .collect(),
        uptime_s: node.uptime().as_secs_f64(),
        open_mode: "none".into(),
        resident_bytes: resident_bytes(),
        namespace: namespace(node),
        fill: fill(node),
        loads: node.load_jobs().running(),
        cluster: cluster(node),
        ..Default::default()
    };
    store(node, &mut status);
    cache(node, &mut status);
    mount(node, &mut status);
    status
}

fn store(node: &NodeAdmin, status: &mut Status) {
    for store in node.chain().stores.values() {
        let stats = store.stats();
        for verb in Verb::ALL {
            *status.requests.entry(verb.label().into()).or_default() += stats.requests(verb);
        }
        for cause in RetryCause::ALL {
            let count = stats.retries(cause);
            if 0 < count {
                *status.retries.entry(cause.label().into()).or_default() += count;
            }
        }
        status.reads.store_bytes += stats.bytes_read();
        status.requests_in_flight += store.limiter().in_flight() as u64;
        status.requests_limit += store.limiter().limit() as u64;
    }
}

fn cache(node: &NodeAdmin, status: &mut Status) {
    let stats = node.chain().cache.stats();
    status.reads = ReadStatus {
        hits: stats.hits,
        hit_bytes: stats.hit_bytes,
        misses: stats.misses,
        ..std::mem::take(&mut status.reads)
    };
    let dirs = stats.dirs.into_iter().map(|dir| CacheDirStatus {
        dir: dir.dir.display().to_string(),
        quota_bytes: dir.quota_bytes,
        used_bytes: dir.used_bytes,
        objects: dir.objects,
        pinned: dir.pinned,
        state: dir.state,
        evicted: dir.evicted,
        corrupt: dir.corrupt,
    });
    status.cache = dirs.collect();
}

fn mount(node: &NodeAdmin, status: &mut Status) {
    let Some(mount) = node.mount() else { return };
    let (mode, reason) = mount.open_mode();
    status.open_mode = mode.to_string();
    status.open_mode_reason = reason.map(str::to_owned);
    let (transport, reason) = mount.transport();
    status.transport = transport.to_string();
    status.transport_reason = reason.map(str::to_owned);
    let stats = mount.stats();
    status.reads.passthrough_opens = stats.passthrough_opens;
    status.reads.cached_opens = stats.cached_opens;
    // The cache is not asked again for a file that the kernel still holds: those are hits too.
    status.reads.hits += stats.reused_opens;
    status.inodes = stats.inodes;
    status.fuse_requests =
        stats.requests.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
}

fn namespace(node: &NodeAdmin) -> NamespaceStatus {
    let stats = node.chain().namespace.stats();
    let hidden: BTreeMap<_, _> =
        stats.hidden.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect();
    NamespaceStatus {
        directories: stats.directories,
        entries: stats.entries,
        hidden,
        hidden_examples: stats.hidden_examples,
        lists: stats.lists,
    }
}

fn fill(node: &NodeAdmin) -> FillStatus {
    let fill = node.chain().fill.status();
    let data_sets = fill.scans.into_iter().map(|scan| DataSetStatus {
        path: scan.root,
        files: scan.files,
        handled: scan.handled,
        read: scan.read,
        readers: scan.readers,
        state: scan.state,
        order: scan.order,
        confidence: scan.confidence,
        recognised_after: scan.known_after,
        watched: scan.watched,
        push: scan.push,
    });
    FillStatus {
        data_sets: data_sets.collect(),
        in_flight: fill.in_flight,
        window: fill.window,
        files: fill.files,
        bytes: fill.bytes,
        failed: fill.failed,
        pushed_files: fill.pushed_files,
        pushed_bytes: fill.pushed_bytes,
        dropped: fill.dropped,
    }
}

fn cluster(node: &NodeAdmin) -> Option<ClusterStatus> {
    let now = node.chain().cluster.get()?.status();
    let settings = node.config().cluster.as_ref()?;
    let peers = now.peers.into_iter().map(|peer| PeerStatus {
        address: peer.address,
        node: peer.node.map(|node| node.to_string()),
        quota_bytes: peer.quota_bytes,
        state: match peer.state {
            PeerState::Up => "up".into(),
            PeerState::Slow => "slow".into(),
            PeerState::Down => "down".into(),
            PeerState::Unknown => "unknown".into(),
        },
        trouble: peer.trouble,
        wire: peer.wire,
        latency_ms: peer.mean_ms,
        latency_ms_p99: peer.p99_ms,
        in_flight: peer.in_flight,
        requests: peer.requests,
        objects: peer.objects,
        bytes: peer.bytes,
        passed_by: peer.passed.into_iter().map(|(by, count)| (by.label().into(), count)).collect(),
    });
    let facts = node.chain().etcd.get().map(|etcd| etcd.facts().borrow().clone());
    let members_from = now.sources.into_iter().map(|it| MembersFrom {
        facts_trouble: facts
            .as_ref()
            .filter(|_| it.kind == "etcd" && it.trouble.is_none())
            .and_then(|facts| facts.trouble.clone()),
        source: it.kind.into(),
        place: it.place,
        found: it.found,
        trouble: it.trouble,
        heard_unix_s: it.heard_unix_ms.map(|ms| ms / 1000),
        lost_unix_s: it.lost_unix_ms.map(|ms| ms / 1000),
        remembered: it.is_remembered,
    });
    Some(ClusterStatus {
        members_from: members_from.collect(),
        node: now.node.to_string(),
        address: now.address.to_string(),
        epoch: now.epoch,
        fingerprint: format!("{:016x}", now.fingerprint),
        members: now.members,
        quota_bytes: now.quota_bytes,
        local_copies: match settings.local_copies {
            LocalCopies::Auto => "auto".into(),
            LocalCopies::Always => "always".into(),
            LocalCopies::Never => "never".into(),
        },
        requests_saved: now.from_peers,
        bytes_from_peers: now.bytes_from_peers,
        handed_over: now.handed_over,
        fell_back: now.fell_back,
        served: now.served,
        bytes_to_peers: now.bytes_served,
        refused: now.refused,
        s3: s3(node),
        tls: now
            .tls
            .map(|tls| TlsStatus { expires_unix_s: tls.expires_unix_s, trouble: tls.trouble }),
        peers: peers.collect(),
        nodes: Vec::new(),
    })
}

fn s3(node: &NodeAdmin) -> S3Status {
    let Some(s3) = node.chain().s3.get() else { return S3Status::default() };
    let stats = s3.stats();
    S3Status {
        access: s3.access().label().into(),
        requests: stats.requests,
        errors: stats.errors,
        bytes: stats.bytes,
    }
}

/// Resident memory of this process; 0 if `/proc` is not there.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
