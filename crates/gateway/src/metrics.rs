//! Prometheus text: one table of names, units and meanings, rendered from a [`Status`] on request.
//!
//! Rendering on request, rather than counting in a global recorder, keeps metrics off the read path:
//! the links of the chain already count what `feedline status` shows, and both show the same.
//! Names follow the Prometheus rules: base units in the name, counters end in `_total`.

use std::fmt::Write as _;

use crate::api::{ClusterStatus, MembersFrom, PeerStatus, Status};

/// The content type of the text format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether a value only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, except when the daemon restarts.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One value of a metric, with its labels.
type Sample = (Vec<(&'static str, String)>, f64);

/// One line of the table.
#[derive(Debug)]
pub struct Metric {
    /// The name, with its unit.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// `bytes`, `seconds` or empty for plain counts.
    pub unit: &'static str,
    /// One sentence.
    pub help: &'static str,
    samples: fn(&Status) -> Vec<Sample>,
}

const fn counter(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    samples: fn(&Status) -> Vec<Sample>,
) -> Metric {
    Metric { name, kind: Kind::Counter, unit, help, samples }
}

const fn gauge(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    samples: fn(&Status) -> Vec<Sample>,
) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, help, samples }
}

/// Every metric there is.
pub const METRICS: &[Metric] = &[
    gauge("feedline_info", "", "Always 1; the labels say what runs.", |s| {
        vec![(
            vec![
                ("version", s.version.clone()),
                ("mountpoint", s.mountpoint.clone()),
                ("open_mode", s.open_mode.clone()),
            ],
            1.0,
        )]
    }),
    gauge("feedline_uptime_seconds", "seconds", "Time since the mount began to serve.", |s| {
        one_f64(s.uptime_s)
    }),
    gauge("feedline_resident_bytes", "bytes", "Resident memory of the daemon.", |s| {
        one(s.resident_bytes)
    }),
    gauge("feedline_inodes", "", "Inodes that the kernel holds.", |s| one(s.inodes)),
    counter("feedline_store_requests_total", "", "Requests to the object store, by verb.", |s| {
        labelled("verb", &s.requests)
    }),
    counter("feedline_store_retries_total", "", "Requests sent again, by cause.", |s| {
        labelled("cause", &s.retries)
    }),
    gauge("feedline_store_requests_in_flight", "", "Requests to the store under way.", |s| {
        one(s.requests_in_flight)
    }),
    gauge(
        "feedline_store_requests_limit",
        "",
        "Requests allowed in flight now; adapts to 503s.",
        |s| one(s.requests_limit),
    ),
    counter("feedline_store_read_bytes_total", "bytes", "Bytes fetched from the store.", |s| {
        one(s.reads.store_bytes)
    }),
    counter("feedline_cache_hits_total", "", "Reads or opens answered from the cache.", |s| {
        one(s.reads.hits)
    }),
    counter("feedline_cache_misses_total", "", "Objects or pages that were fetched.", |s| {
        one(s.reads.misses)
    }),
    counter(
        "feedline_cache_hit_bytes_total",
        "bytes",
        "Bytes that the daemon itself answered from the cache.",
        |s| one(s.reads.hit_bytes),
    ),
    gauge("feedline_cache_quota_bytes", "bytes", "Quota of each cache directory.", |s| {
        by_dir(s, |d| d.quota_bytes)
    }),
    gauge("feedline_cache_used_bytes", "bytes", "Bytes on disk, blocks included.", |s| {
        by_dir(s, |d| d.used_bytes)
    }),
    gauge("feedline_cache_objects", "", "Complete objects.", |s| by_dir(s, |d| d.objects)),
    gauge("feedline_cache_pinned_objects", "", "Objects pinned.", |s| by_dir(s, |d| d.pinned)),
    gauge("feedline_cache_dir_up", "", "0 if the directory was set aside.", |s| {
        by_dir(s, |d| u64::from(!d.state.starts_with("set aside")))
    }),
    counter("feedline_cache_evicted_total", "", "Objects evicted.", |s| by_dir(s, |d| d.evicted)),
    counter("feedline_cache_corrupt_total", "", "Objects that failed their checksum.", |s| {
        by_dir(s, |d| d.corrupt)
    }),
    counter("feedline_fill_files_total", "", "Files fetched ahead of the reads.", |s| {
        one(s.fill.files)
    }),
    counter("feedline_fill_bytes_total", "bytes", "Bytes fetched ahead of the reads.", |s| {
        one(s.fill.bytes)
    }),
    counter("feedline_fill_failures_total", "", "Fetches ahead that failed.", |s| {
        one(s.fill.failed)
    }),
    counter(
        "feedline_pushed_files_total",
        "",
        "Files brought from the cache's disk into the page cache ahead of the reads.",
        |s| one(s.fill.pushed_files),
    ),
    counter(
        "feedline_pushed_bytes_total",
        "bytes",
        "Bytes brought from the cache's disk into the page cache ahead of the reads.",
        |s| one(s.fill.pushed_bytes),
    ),
    gauge("feedline_fill_in_flight", "", "Fetches ahead under way.", |s| one(s.fill.in_flight)),
    gauge("feedline_fill_window", "", "Fetches ahead allowed under way now.", |s| {
        one(s.fill.window)
    }),
    gauge("feedline_cluster_members", "", "Nodes that share their caches.", |s| {
        of_cluster(s, |c| c.members)
    }),
    gauge("feedline_cluster_epoch", "", "Lists of members that this node has seen.", |s| {
        of_cluster(s, |c| c.epoch)
    }),
    gauge(
        "feedline_cluster_source_up",
        "",
        "0 if what names the members cannot be heard, and they stay as they were.",
        |s| {
            let all = s.cluster.iter().flat_map(|cluster| &cluster.members_from);
            let up = |it: &MembersFrom| f64::from(u8::from(it.trouble.is_none()));
            all.map(|it| (vec![("source", it.source.clone())], up(it))).collect()
        },
    ),
    counter(
        "feedline_cluster_requests_saved_total",
        "",
        "Objects and pages read from peers instead of the bucket.",
        |s| of_cluster(s, |c| c.requests_saved),
    ),
    counter(
        "feedline_cluster_fallbacks_total",
        "",
        "Reads of others' objects from the bucket.",
        |s| of_cluster(s, |c| c.fell_back),
    ),
    counter("feedline_cluster_served_total", "", "Objects and pages served to peers.", |s| {
        of_cluster(s, |c| c.served)
    }),
    counter("feedline_cluster_served_bytes_total", "bytes", "Bytes served to peers.", |s| {
        of_cluster(s, |c| c.bytes_to_peers)
    }),
    gauge(
        "feedline_cluster_certificate_expiry_timestamp_seconds",
        "seconds",
        "When this node's certificate ends.",
        |s| {
            let tls = s.cluster.iter().filter_map(|cluster| cluster.tls.as_ref());
            tls.map(|tls| (Vec::new(), tls.expires_unix_s as f64)).collect()
        },
    ),
    counter("feedline_s3_requests_total", "", "Requests of S3 clients to this node.", |s| {
        of_cluster(s, |c| c.s3.requests)
    }),
    counter("feedline_s3_errors_total", "", "Of those, answered with an error.", |s| {
        of_cluster(s, |c| c.s3.errors)
    }),
    counter("feedline_s3_sent_bytes_total", "bytes", "Bytes of objects sent to S3 clients.", |s| {
        of_cluster(s, |c| c.s3.bytes)
    }),
    counter("feedline_peer_read_bytes_total", "bytes", "Bytes read from each peer.", |s| {
        by_peer(s, |p| p.bytes as f64)
    }),
    counter("feedline_peer_requests_total", "", "Requests sent to each peer.", |s| {
        by_peer(s, |p| p.requests as f64)
    }),
    gauge("feedline_peer_up", "", "0 if the peer is passed by or unknown.", |s| {
        by_peer(s, |p| f64::from(u8::from(p.state == "up")))
    }),
    gauge("feedline_peer_latency_seconds", "seconds", "Mean time of a peer's answers.", |s| {
        by_peer(s, |p| p.latency_ms / 1000.0)
    }),
    counter("feedline_peer_passed_by_total", "", "Times a peer was passed by, by reason.", |s| {
        let peers = s.cluster.iter().flat_map(|cluster| &cluster.peers);
        let each = peers.flat_map(|peer| peer.passed_by.iter().map(move |by| (peer, by)));
        let sample = |(peer, (reason, count)): (&PeerStatus, (&String, &u64))| {
            let labels = vec![("peer", peer.address.clone()), ("reason", reason.clone())];
            (labels, *count as f64)
        };
        each.map(sample).collect()
    }),
    counter("feedline_opens_total", "", "Opens, by who serves the reads.", |s| {
        vec![
            (vec![("mode", "passthrough".into())], s.reads.passthrough_opens as f64),
            (vec![("mode", "daemon".into())], s.reads.cached_opens as f64),
        ]
    }),
    counter("feedline_fuse_requests_total", "", "Requests from the kernel, by name.", |s| {
        labelled("request", &s.fuse_requests)
    }),
    gauge("feedline_directories", "", "Directories listed.", |s| one(s.namespace.directories)),
    gauge("feedline_entries", "", "Entries in listed directories.", |s| one(s.namespace.entries)),
    gauge("feedline_hidden_keys", "", "Keys that are no valid path, by reason.", |s| {
        labelled("reason", &s.namespace.hidden)
    }),
];

fn one(value: u64) -> Vec<Sample> {
    one_f64(value as f64)
}

fn one_f64(value: f64) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn labelled(label: &'static str, values: &std::collections::BTreeMap<String, u64>) -> Vec<Sample> {
    values.iter().map(|(key, value)| (vec![(label, key.clone())], *value as f64)).collect()
}

fn by_dir(status: &Status, value: fn(&crate::api::CacheDirStatus) -> u64) -> Vec<Sample> {
    status.cache.iter().map(|dir| (vec![("dir", dir.dir.clone())], value(dir) as f64)).collect()
}

fn of_cluster(status: &Status, value: fn(&ClusterStatus) -> u64) -> Vec<Sample> {
    status.cluster.iter().map(|cluster| (Vec::new(), value(cluster) as f64)).collect()
}

fn by_peer(status: &Status, value: fn(&PeerStatus) -> f64) -> Vec<Sample> {
    let peers = status.cluster.iter().flat_map(|cluster| &cluster.peers);
    peers.map(|peer| (vec![("peer", peer.address.clone())], value(peer))).collect()
}

/// The whole text. Cost: a few kilobytes of formatting, no lock, no IO.
#[must_use]
pub fn render(status: &Status) -> String {
    let mut out = String::with_capacity(8 << 10);
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {} {}", metric.name, metric.help);
        let _ = writeln!(out, "# TYPE {} {kind}", metric.name);
        for (labels, value) in (metric.samples)(status) {
            out.push_str(metric.name);
            for (index, (label, text)) in labels.iter().enumerate() {
                let before = if index == 0 { '{' } else { ',' };
                let _ = write!(out, "{before}{label}=\"{}\"", escaped(text));
            }
            if !labels.is_empty() {
                out.push('}');
            }
            let _ = writeln!(out, " {value}");
        }
    }
    out
}

/// A label value with backslash, quote and line feed escaped, as the text format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::CacheDirStatus;

    #[test]
    fn every_name_is_unique_and_says_its_kind_and_unit() {
        let mut seen = std::collections::HashSet::new();
        for metric in METRICS {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert!(metric.name.starts_with("feedline_"), "{}", metric.name);
            let counter = metric.kind == Kind::Counter;
            assert_eq!(metric.name.ends_with("_total"), counter, "{}", metric.name);
            let base = metric.name.trim_end_matches("_total");
            for unit in ["bytes", "seconds"] {
                assert_eq!(base.ends_with(&format!("_{unit}")), metric.unit == unit, "{base}");
            }
        }
    }

    #[test]
    fn labels_are_escaped_and_values_plain() {
        let status = Status {
            cache: vec![CacheDirStatus {
                dir: "/a\"b\\c\n".into(),
                quota_bytes: 10_000_000_000,
                state: "set aside: EIO".into(),
                ..Default::default()
            }],
            requests: [("GET".to_owned(), 7)].into(),
            ..Default::default()
        };
        let text = render(&status);
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        has(r#"feedline_cache_quota_bytes{dir="/a\"b\\c\n"} 10000000000"#);
        has(r#"feedline_cache_dir_up{dir="/a\"b\\c\n"} 0"#);
        has(r#"feedline_store_requests_total{verb="GET"} 7"#);
        has("# TYPE feedline_store_requests_total counter");
        has("feedline_resident_bytes 0");
    }
}
