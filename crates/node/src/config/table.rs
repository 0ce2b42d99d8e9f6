//! The one table of settings. Flags, variables, the file, `feedline config` and the manual are all
//! derived from it, so that no two of them can disagree.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use feedline_cluster::EtcdUrls;

use super::units;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// The name in the file; flag and variable follow from it.
    pub name: &'static str,
    /// What stands for the value in help: `SIZE`, `DURATION`.
    pub value_name: &'static str,
    /// The default as a person would write it; empty: none, or computed as `help` says.
    pub default: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// True for what the command takes without a flag: the source and the mount point.
    pub positional: bool,
    /// How it is read, and within which limits.
    pub kind: Kind,
}

impl Setting {
    /// The flag: `--metadata-ttl`.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The variable: `FEEDLINE_METADATA_TTL`.
    #[must_use]
    pub fn env(&self) -> String {
        format!("FEEDLINE_{}", self.name.to_uppercase())
    }

    /// True if the flag may stand without a value, which then is `true`.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        matches!(self.kind, Kind::Switch)
    }

    /// The words it may be, if it is a choice.
    #[must_use]
    pub fn choices(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Choice(words) => words,
            Kind::Switch => &["true", "false"],
            _ => &[],
        }
    }
}

/// How a value is read. Limits are inclusive.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the doc of each variant covers its fields")]
pub enum Kind {
    /// Bytes with a unit.
    Size { min: u64, max: u64 },
    /// Bytes a second with a unit; 0 switches off.
    Rate,
    /// Time with a unit. `zero`: 0 is allowed too, and switches off.
    Duration { min: Duration, max: Duration, zero: bool },
    /// A plain number.
    Count { min: u64, max: u64 },
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A file or directory; absolute, so that it means the same to the daemon.
    Path,
    /// Any text but credentials.
    Text,
    /// An octal file mode mask.
    Octal,
    /// `IP:PORT`.
    Address,
    /// Comma-separated `HOST:PORT` or `dns://NAME:PORT`.
    Peers,
    /// Comma-separated URLs of one etcd.
    Etcd,
    /// `on`, `off`, or comma-separated patterns of paths.
    Fill,
    /// Comma-separated `DIR:SIZE`, where a size may also be a percentage of the file system.
    CacheDirs,
}

/// A value, read and within its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    Duration(Duration),
    Switch(bool),
    Text(String),
    Path(PathBuf),
    Address(SocketAddr),
    CacheDirs(Vec<(PathBuf, CacheSize)>),
    Fill(Fill),
    Peers(Vec<String>),
    Etcd(EtcdUrls),
}

/// What is fetched ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fill {
    /// Every data set that is read.
    On,
    /// Nothing.
    Off,
    /// Files whose path in the mount matches one of these.
    Only(Vec<glob::Pattern>),
}

/// How large a cache directory may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheSize {
    /// Bytes.
    Bytes(u64),
    /// Of the size of the file system that holds it: the same after a restart, whatever is on it.
    Percent(u8),
}

impl Kind {
    /// Reads `text`. The error continues a sentence that begins with the name and the value.
    pub(super) fn read(self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match self {
            Self::Size { min, max } => {
                let bytes = units::parse_size(text)?;
                within(bytes, min, max, units::format_size).map(Value::Number)
            }
            Self::Rate => units::parse_rate(text).map(Value::Number),
            Self::Duration { min, max, zero } => {
                let duration = units::parse_duration(text)?;
                if zero && duration.is_zero() {
                    return Ok(Value::Duration(duration));
                }
                within(duration, min, max, units::format_duration).map(Value::Duration)
            }
            Self::Count { min, max } => {
                let count = text.parse().map_err(|_| "is no whole number".to_owned())?;
                within(count, min, max, |count| count.to_string()).map(Value::Number)
            }
            Self::Switch => match text {
                "true" | "yes" | "on" | "1" => Ok(Value::Switch(true)),
                "false" | "no" | "off" | "0" => Ok(Value::Switch(false)),
                _ => Err("is neither true nor false".into()),
            },
            Self::Choice(words) if words.contains(&text) => Ok(Value::Text(text.into())),
            Self::Choice(words) => Err(format!("is none of: {}", words.join(", "))),
            Self::Path => absolute(text).map(Value::Path),
            Self::Text => Ok(Value::Text(text.into())),
            Self::Octal => u64::from_str_radix(text, 8)
                .ok()
                .filter(|mask| *mask <= 0o777)
                .map(Value::Number)
                .ok_or_else(|| "is no octal mask from 000 to 777".into()),
            Self::Address => text
                .parse()
                .map(Value::Address)
                .map_err(|_| "is no address: write IP:PORT, such as 127.0.0.1:9464".into()),
            Self::Peers => read_peers(text).map(Value::Peers),
            Self::Etcd => EtcdUrls::read(text).map(Value::Etcd),
            Self::Fill => read_fill(text).map(Value::Fill),
            Self::CacheDirs => read_cache_dirs(text).map(Value::CacheDirs),
        }
    }
}

fn within<T: PartialOrd>(
    value: T,
    min: T,
    max: T,
    show: impl Fn(T) -> String,
) -> Result<T, String> {
    if value < min {
        return Err(format!("is below the limit of {}", show(min)));
    }
    if max < value {
        return Err(format!("is above the limit of {}", show(max)));
    }
    Ok(value)
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("is no absolute path".into()) }
}

fn read_peers(text: &str) -> Result<Vec<String>, String> {
    let mut peers: Vec<String> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let parts = part.strip_prefix("dns://").unwrap_or(part).rsplit_once(':');
        let is_address = parts.is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains('/')
                && port.parse::<u16>().is_ok_and(|port| 0 < port)
        });
        if !is_address {
            return Err(format!("needs HOST:PORT or dns://NAME:PORT; {part:?} is none"));
        }
        if !peers.iter().any(|other| other == part) {
            peers.push(part.to_owned());
        }
    }
    Ok(peers)
}

fn read_fill(text: &str) -> Result<Fill, String> {
    match text {
        "on" | "true" => Ok(Fill::On),
        "off" | "false" => Ok(Fill::Off),
        patterns => {
            let parts = patterns.split(',').map(str::trim).filter(|part| !part.is_empty());
            let read = |part: &str| {
                let part = part.trim_matches('/');
                glob::Pattern::new(part)
                    .map_err(|why| format!("{part:?} is no pattern: {}", why.msg))
            };
            let patterns: Vec<_> = parts.map(read).collect::<Result<_, _>>()?;
            if patterns.is_empty() {
                return Err("is neither on nor off nor a pattern such as train/*".into());
            }
            Ok(Fill::Only(patterns))
        }
    }
}

/// The smallest cache directory: its own files and a few pages must fit.
const CACHE_DIR_BYTES_MIN: u64 = 64 << 20;

fn read_cache_dirs(text: &str) -> Result<Vec<(PathBuf, CacheSize)>, String> {
    let mut dirs: Vec<(PathBuf, CacheSize)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (dir, size) = part.rsplit_once(':').ok_or_else(|| {
            format!("needs DIR:SIZE, such as /var/cache/feedline:500GiB; {part:?} has no size")
        })?;
        let dir = absolute(dir).map_err(|_| format!("{dir:?} is no absolute path"))?;
        let size = match size.strip_suffix('%').map(str::parse::<u8>) {
            Some(Ok(percent)) if (1..=99).contains(&percent) => CacheSize::Percent(percent),
            Some(_) => return Err(format!("{size:?} is no percentage from 1% to 99%")),
            None => {
                let bytes = units::parse_size(size).map_err(|why| format!("{size:?} {why}"))?;
                let bytes = within(bytes, CACHE_DIR_BYTES_MIN, u64::MAX, units::format_size);
                CacheSize::Bytes(bytes.map_err(|why| format!("{size:?} {why}"))?)
            }
        };
        if dirs.iter().any(|(other, _)| *other == dir) {
            return Err(format!("names {} twice", dir.display()));
        }
        dirs.push((dir, size));
    }
    if dirs.is_empty() {
        return Err("needs at least one DIR:SIZE".into());
    }
    Ok(dirs)
}

const fn setting(
    name: &'static str,
    value_name: &'static str,
    default: &'static str,
    kind: Kind,
    help: &'static str,
) -> Setting {
    Setting { name, value_name, default, help, positional: false, kind }
}

const fn positional(
    name: &'static str,
    value_name: &'static str,
    kind: Kind,
    help: &'static str,
) -> Setting {
    Setting { name, value_name, default: "", help, positional: true, kind }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Every setting there is, `[[mounts]]` aside.
pub const SETTINGS: &[Setting] = &[
    positional(
        "source",
        "SOURCE",
        Kind::Text,
        "What to mount: s3://BUCKET/PREFIX, gs://…, az://… or file:///DIR",
    ),
    positional("mountpoint", "MOUNTPOINT", Kind::Path, "The directory to mount on"),
    setting(
        "endpoint",
        "URL",
        "",
        Kind::Text,
        "Where the object store answers; empty: the cloud's own",
    ),
    setting(
        "region",
        "REGION",
        "",
        Kind::Text,
        "Region of the bucket; empty: AWS_REGION, else us-east-1",
    ),
    setting(
        "path_style",
        "WHEN",
        "auto",
        Kind::Choice(&["auto", "always", "never"]),
        "Bucket in the path instead of the host name; auto: when an endpoint is given",
    ),
    setting(
        "anonymous",
        "BOOL",
        "false",
        Kind::Switch,
        "Send unsigned requests, for public buckets",
    ),
    setting("ca_file", "FILE", "", Kind::Path, "Trust the certificates in this PEM file as well"),
    // 10 Gb/s of 110 KB objects at 30 ms each need about 370 in flight.
    setting(
        "requests_max",
        "N",
        "384",
        Kind::Count { min: 1, max: 4096 },
        "Requests to each bucket in flight at most; falls by itself when the store says 503",
    ),
    // Shorter than a kernel's patience (120 s hung-task warning), long enough to outlast a fail-over.
    setting(
        "retry_budget",
        "DURATION",
        "30s",
        Kind::Duration { min: SECOND, max: HOUR, zero: false },
        "How long a request is tried again before the read fails",
    ),
    setting(
        "request_timeout",
        "DURATION",
        "10s",
        Kind::Duration { min: Duration::from_millis(100), max: HOUR, zero: false },
        "How long one attempt may go without progress",
    ),
    setting(
        "cache",
        "DIR:SIZE,…",
        "",
        Kind::CacheDirs,
        "Cache directories and their quotas (a size or N% of the file system); the listings, about 30 bytes a file, \
         lie in the first and are not counted; empty: 10% under the user's cache directory",
    ),
    setting(
        "buffer",
        "SIZE",
        "128MiB",
        Kind::Size { min: 16 << 20, max: 1 << 40 },
        "Bytes fetched and not yet on disk, at most",
    ),
    setting(
        "scrub_rate",
        "RATE",
        "4MiB/s",
        Kind::Rate,
        "Speed of the background verification of cached files; 0: off",
    ),
    setting(
        "metadata_ttl",
        "DURATION",
        "10m",
        Kind::Duration {
            min: Duration::from_millis(100),
            max: Duration::from_secs(365 * 86_400),
            zero: false,
        },
        "How long a listing is relied on before the bucket is asked again",
    ),
    setting(
        "listing",
        "HOW",
        "lazy",
        Kind::Choice(&["lazy", "eager"]),
        "lazy: list directories when asked; eager: list the whole tree at start",
    ),
    setting(
        "open",
        "MODE",
        "passthrough",
        Kind::Choice(&["passthrough", "none"]),
        "How the kernel opens cached files; none is faster when the data set fits in memory",
    ),
    setting(
        "transport",
        "HOW",
        "auto",
        Kind::Choice(&["auto", "classic", "uring"]),
        "How requests come from the kernel: over /dev/fuse (auto, classic) or io_uring, where fuse.enable_uring is set",
    ),
    setting(
        "fill",
        "WHAT",
        "on",
        Kind::Fill,
        "Fetch ahead what a job that reads a data set will want: on, off, or only files whose path in the mount \
         matches one of these comma-separated patterns (`*` also crosses folders), such as train/*",
    ),
    setting(
        "fill_rate",
        "RATE",
        "0",
        Kind::Rate,
        "Bytes a second fetched ahead, at most; 0: no limit",
    ),
    setting(
        "oracle",
        "BOOL",
        "true",
        Kind::Switch,
        "Recognise the order in which a job's processes read; fetch and read ahead in that order",
    ),
    setting(
        "listen",
        "IP:PORT",
        "",
        Kind::Address,
        "Share the cache with other nodes, and serve it to S3 clients: where they reach this one; beyond this machine only with \
         cluster_secrets or insecure",
    ),
    setting(
        "peers",
        "HOST:PORT,…",
        "",
        Kind::Peers,
        "The addresses of all nodes that share the cache, the same list on each; this node finds itself in it. \
         dns://NAME:PORT stands for all addresses of a name, such as a headless service, looked up every 5 seconds",
    ),
    setting(
        "etcd",
        "URL,…",
        "",
        Kind::Etcd,
        "Instead of peers: http(s)://[USER@]HOST:2379[/CLUSTER] of the etcd where the nodes find each other; CLUSTER: by default \
         those that mount the same. In cluster_secrets: etcd-password, etcd-ca.crt, etcd-tls.crt, etcd-tls.key",
    ),
    setting(
        "local_copies",
        "WHEN",
        "auto",
        Kind::Choice(&["auto", "always", "never"]),
        "Keep what other nodes own here as well; auto: as long as nothing of this node's own needs the space",
    ),
    setting(
        "cluster_secrets",
        "DIR",
        "",
        Kind::Path,
        "A directory with the secrets of listen, each a file that may be absent: token, 32 bytes or more that all \
         nodes share, only who knows it is let in; ca.crt, tls.crt and tls.key, with which nodes \
         speak TLS and know each other; s3-keys, lines of ACCESS_KEY SECRET_KEY that S3 clients sign with",
    ),
    setting(
        "insecure",
        "BOOL",
        "false",
        Kind::Switch,
        "Let listen be reached from other machines without cluster_secrets: anybody there can read the bucket",
    ),
    setting(
        "uid",
        "UID",
        "",
        Kind::Count { min: 0, max: 4_294_967_294 },
        "Owner of all files; empty: the user who mounts",
    ),
    setting(
        "gid",
        "GID",
        "",
        Kind::Count { min: 0, max: 4_294_967_294 },
        "Group of all files; empty: that of the user who mounts",
    ),
    setting("umask", "MASK", "022", Kind::Octal, "Permission bits that files and directories lack"),
    setting(
        "allow_other",
        "BOOL",
        "",
        Kind::Switch,
        "Let other users see the mount; empty: if root mounts, whose jobs run as other users",
    ),
    setting(
        "fuse_threads",
        "N",
        "",
        Kind::Count { min: 1, max: 64 },
        "Threads that take requests from the kernel; empty: as many as cores, 2 to 4",
    ),
    // In mmap mode the only limit on reads in flight; at 30 ms a file 256 gave 695 images/s, 12 gave 312.
    setting(
        "max_background",
        "N",
        "512",
        Kind::Count { min: 12, max: 65_535 },
        "Reads that the kernel sends ahead at once",
    ),
    setting(
        "read_ahead",
        "SIZE",
        "1MiB",
        Kind::Size { min: 0, max: 16 << 20 },
        "How far the kernel reads ahead in files that the daemon serves",
    ),
    setting(
        "threads",
        "N",
        "",
        Kind::Count { min: 2, max: 256 },
        "Worker threads; empty: as many as cores, 2 to 8",
    ),
    setting(
        "run_dir",
        "DIR",
        "",
        Kind::Path,
        "Where daemons keep socket, log and process id; empty: /run/feedline, or $XDG_RUNTIME_DIR/feedline, or /tmp/feedline-UID",
    ),
    setting(
        "metrics_listen",
        "IP:PORT",
        "",
        Kind::Address,
        "Serve /metrics, /healthz and /readyz on this address",
    ),
    setting("log_format", "FORMAT", "human", Kind::Choice(&["human", "json"]), "Form of the log"),
    setting(
        "log_level",
        "LEVEL",
        "info",
        Kind::Text,
        "error, warn, info, debug or trace; also for one part: feedline_store=debug,info",
    ),
    setting(
        "watchdog",
        "DURATION",
        "60s",
        Kind::Duration { min: SECOND, max: DAY, zero: true },
        "Abort a mount whose daemon has not answered for so long; 0: never",
    ),
];

/// The setting of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}
