//! Step two: checked values, with the defaults that need the machine, and checks across fields.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use feedline_gateway::api::SettingInfo;

use super::cluster::{self, ClusterSettings};
use super::table::{self, CacheSize, Fill, SETTINGS, Value};
use super::units;
use super::written::{ConfigError, Merged, MountWritten, Origin};
use crate::paths;

/// Whether the bucket goes into the path of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathStyle {
    /// When an endpoint is given.
    Auto,
    /// In the path.
    Always,
    /// In the host name.
    Never,
}

/// When directories are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// When somebody asks.
    Lazy,
    /// All of them at start.
    Eager,
}

/// How the kernel opens cached files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// By passthrough to the cached file, where the kernel can.
    Passthrough,
    /// Not at all: the kernel's page cache and read replies.
    None,
}

/// How requests come from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// What was measured to be better: classic, so far.
    Auto,
    /// Read from `/dev/fuse`.
    Classic,
    /// Over io_uring, where the kernel offers it.
    Uring,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// One bucket or prefix, and where in the tree it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountConfig {
    /// Path in the tree, without slashes at the ends; empty is the root.
    pub path: String,
    /// `s3://bucket/prefix`.
    pub url: String,
    /// Where the store answers, if not the cloud's own address.
    pub endpoint: Option<String>,
    /// Region, if given.
    pub region: Option<String>,
    /// Whether the bucket goes into the path.
    pub path_style: PathStyle,
    /// Unsigned requests.
    pub anonymous: bool,
    /// Certificates to trust as well.
    pub ca_file: Option<PathBuf>,
}

/// One cache directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDir {
    /// The directory.
    pub dir: PathBuf,
    /// Its quota.
    pub size: CacheSize,
}

/// Everything, checked. Printing it shows no credential: there is none in it.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each field is the setting of its name, explained in SETTINGS")]
pub struct ResolvedConfig {
    pub mountpoint: PathBuf,
    pub mounts: Vec<MountConfig>,
    pub requests_max: usize,
    pub retry_budget: Duration,
    pub request_timeout: Duration,
    pub cache: Vec<CacheDir>,
    pub buffer_bytes: u64,
    pub scrub_bytes_per_s: u64,
    pub metadata_ttl: Duration,
    pub listing: Listing,
    pub open: OpenMode,
    pub transport: Transport,
    pub fill: Fill,
    pub fill_bytes_per_s: u64,
    pub oracle: bool,
    pub uid: u32,
    pub gid: u32,
    pub umask: u16,
    pub allow_other: bool,
    pub fuse_threads: usize,
    pub max_background: u16,
    pub read_ahead_bytes: u32,
    pub threads: usize,
    pub run_dir: PathBuf,
    pub metrics_listen: Option<SocketAddr>,
    /// `None`: the node caches for itself.
    pub cluster: Option<ClusterSettings>,
    pub log_format: LogFormat,
    pub log_level: String,
    /// Zero: off.
    pub watchdog: Duration,
    /// Each setting as in effect, with its source: the answer to `feedline config`.
    pub settings: Vec<SettingInfo>,
    /// What is odd but no error; to be logged at start.
    pub warnings: Vec<String>,
}

impl ResolvedConfig {
    /// Checks all values, computes the defaults that need the machine, and checks across fields.
    ///
    /// # Errors
    ///
    /// The first value that is unusable, in the order of [`SETTINGS`].
    pub fn resolve(merged: &Merged) -> Result<Self, ConfigError> {
        for setting in SETTINGS {
            merged.value(setting.name)?;
        }
        let mountpoint = merged.path("mountpoint")?.ok_or_else(|| {
            ConfigError::new("mountpoint", "is missing: name the directory to mount on")
        })?;
        let mounts = resolve_mounts(merged)?;
        let cache = resolve_cache(merged, &mountpoint)?;
        let mut config = Self {
            mounts,
            requests_max: merged.count("requests_max", 0)?,
            retry_budget: merged.duration("retry_budget")?,
            request_timeout: merged.duration("request_timeout")?,
            cache,
            buffer_bytes: merged.count("buffer", 0)?,
            scrub_bytes_per_s: merged.count("scrub_rate", 0)?,
            metadata_ttl: merged.duration("metadata_ttl")?,
            listing: match merged.text("listing")?.as_str() {
                "eager" => Listing::Eager,
                _ => Listing::Lazy,
            },
            open: match merged.text("open")?.as_str() {
                "none" => OpenMode::None,
                _ => OpenMode::Passthrough,
            },
            transport: match merged.text("transport")?.as_str() {
                "classic" => Transport::Classic,
                "uring" => Transport::Uring,
                _ => Transport::Auto,
            },
            fill: match merged.value("fill")? {
                Some(Value::Fill(fill)) => fill,
                _ => Fill::On,
            },
            fill_bytes_per_s: merged.count("fill_rate", 0)?,
            oracle: matches!(merged.value("oracle")?, Some(Value::Switch(true))),
            uid: merged.count("uid", rustix::process::getuid().as_raw())?,
            gid: merged.count("gid", rustix::process::getgid().as_raw())?,
            umask: merged.count("umask", 0)?,
            allow_other: match merged.value("allow_other")? {
                Some(Value::Switch(allow)) => allow,
                _ => rustix::process::geteuid().is_root(),
            },
            fuse_threads: merged.count("fuse_threads", fuse_threads_default())?,
            max_background: merged.count("max_background", 0)?,
            read_ahead_bytes: merged.count("read_ahead", 0)?,
            threads: merged.count("threads", threads_default())?,
            run_dir: merged.run_dir()?,
            metrics_listen: match merged.value("metrics_listen")? {
                Some(Value::Address(address)) => Some(address),
                _ => None,
            },
            cluster: cluster::resolve(merged)?,
            log_format: match merged.text("log_format")?.as_str() {
                "json" => LogFormat::Json,
                _ => LogFormat::Human,
            },
            log_level: merged.text("log_level")?,
            watchdog: merged.duration("watchdog")?,
            settings: Vec::new(),
            warnings: merged.warnings.clone(),
            mountpoint,
        };
        config.settings = config.describe(merged);
        config.check()?;
        Ok(config)
    }

    /// Checks across fields.
    fn check(&self) -> Result<(), ConfigError> {
        for CacheDir { dir, .. } in &self.cache {
            if dir.starts_with(&self.mountpoint) {
                let why = format!("{} lies within the mount point", dir.display());
                return Err(ConfigError::new("cache", why));
            }
        }
        if self.retry_budget < self.request_timeout {
            let why = format!(
                "{} is shorter than request_timeout ({}): no attempt could be repeated",
                units::format_duration(self.retry_budget),
                units::format_duration(self.request_timeout)
            );
            return Err(ConfigError::new("retry_budget", why));
        }
        Ok(())
    }

    /// Each setting with the value in effect, computed defaults included.
    fn describe(&self, merged: &Merged) -> Vec<SettingInfo> {
        let cache: Vec<_> = self.cache.iter().map(CacheDir::to_string).collect();
        let mut list: Vec<SettingInfo> = SETTINGS
            .iter()
            .map(|setting| {
                let computed = match setting.name {
                    "cache" => cache.join(","),
                    "allow_other" => self.allow_other.to_string(),
                    "uid" => self.uid.to_string(),
                    "gid" => self.gid.to_string(),
                    "threads" => self.threads.to_string(),
                    "fuse_threads" => self.fuse_threads.to_string(),
                    "run_dir" => self.run_dir.display().to_string(),
                    _ => setting.default.to_owned(),
                };
                let (value, source) = match merged.values.get(setting.name) {
                    Some(written) => {
                        (written.text.clone(), describe_origin(setting, &written.origin))
                    }
                    None => (computed, "default".to_owned()),
                };
                let (name, help) = (setting.name.to_owned(), setting.help.to_owned());
                SettingInfo { name, value, source, help }
            })
            .collect();
        for (index, (mount, written)) in self.mounts.iter().zip(&merged.mounts).enumerate() {
            let file = merged.file.clone().unwrap_or_default();
            list.push(SettingInfo {
                name: format!("mounts[{index}]"),
                value: format!("{} on /{}", mount.url, mount.path),
                source: format!("file {}:{}", file.display(), written.line),
                help: "A bucket or prefix, and where in the tree it is shown".into(),
            });
        }
        list
    }
}

impl std::fmt::Display for CacheDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.size {
            CacheSize::Bytes(bytes) => {
                write!(f, "{}:{}", self.dir.display(), units::format_size(bytes))
            }
            CacheSize::Percent(percent) => write!(f, "{}:{percent}%", self.dir.display()),
        }
    }
}

fn describe_origin(setting: &table::Setting, origin: &Origin) -> String {
    match origin {
        Origin::Flag => "flag".into(),
        Origin::Env => format!("env {}", setting.env()),
        Origin::File(file, line) => format!("file {}:{line}", file.display()),
        Origin::Default => "default".into(),
    }
}

/// As many as cores, at least 2 so that one busy task never stops the rest, at most 8 because
/// passthrough leaves little to do and each thread costs a stack and an allocator arena.
fn threads_default() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

/// What `mount` measured as best; it alone knows why.
fn fuse_threads_default() -> usize {
    feedline_mount::MountConfig::new("/").threads
}

fn resolve_cache(merged: &Merged, mountpoint: &Path) -> Result<Vec<CacheDir>, ConfigError> {
    if let Some(Value::CacheDirs(dirs)) = merged.value("cache")? {
        return Ok(dirs.into_iter().map(|(dir, size)| CacheDir { dir, size }).collect());
    }
    // One directory for each mount point: a cache directory belongs to one daemon. A tenth of the
    // disk is enough to be useful and never what fills it.
    let dir = paths::cache_dir_default().join(paths::mount_id(mountpoint));
    Ok(vec![CacheDir { dir, size: CacheSize::Percent(10) }])
}

fn resolve_mounts(merged: &Merged) -> Result<Vec<MountConfig>, ConfigError> {
    let source = merged.text("source")?;
    if !source.is_empty() && !merged.mounts.is_empty() {
        let why = "is given beside [[mounts]] of the file: keep one of them";
        return Err(ConfigError::new(merged.place("source"), why));
    }
    if !source.is_empty() {
        return Ok(vec![one_mount(merged, &merged.place("source"), &default_mount(source))?]);
    }
    if merged.mounts.is_empty() {
        let why = "is missing: name what to mount, such as s3://BUCKET/PREFIX";
        return Err(ConfigError::new("source", why));
    }
    let mut mounts: Vec<MountConfig> = Vec::new();
    for (index, written) in merged.mounts.iter().enumerate() {
        let file = merged.file.clone().unwrap_or_default();
        let place = format!("{}:{}: mounts[{index}]", file.display(), written.line);
        let mount = one_mount(merged, &place, written)?;
        if mounts.iter().any(|other| other.path == mount.path) {
            let why = format!("path {:?} is used by an earlier [[mounts]]", mount.path);
            return Err(ConfigError::new(place, why));
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

fn default_mount(url: String) -> MountWritten {
    MountWritten {
        path: String::new(),
        url,
        endpoint: None,
        region: None,
        path_style: None,
        anonymous: None,
        ca_file: None,
        line: 0,
    }
}

fn one_mount(
    merged: &Merged,
    place: &str,
    written: &MountWritten,
) -> Result<MountConfig, ConfigError> {
    let path = written.path.trim_matches('/').to_owned();
    let bad_part = |part: &str| part.is_empty() || part == "." || part == ".." || 255 < part.len();
    if !path.is_empty() && path.split('/').any(bad_part) {
        let why = format!("path {path:?} has a part that is empty, `.`, `..` or over 255 bytes");
        return Err(ConfigError::new(place, why));
    }
    let text = |own: &Option<String>, name: &str| -> Result<Option<String>, ConfigError> {
        match own {
            Some(own) => Ok(Some(own.clone()).filter(|text| !text.is_empty())),
            None => Ok(Some(merged.text(name)?).filter(|text| !text.is_empty())),
        }
    };
    let endpoint = text(&written.endpoint, "endpoint")?;
    for url in [Some(&written.url), endpoint.as_ref()].into_iter().flatten() {
        check_url(place, url)?;
    }
    let path_style = match text(&written.path_style, "path_style")?.as_deref() {
        Some("auto") | None => PathStyle::Auto,
        Some("always") => PathStyle::Always,
        Some("never") => PathStyle::Never,
        Some(other) => {
            let why = format!("path_style {other:?} is none of: auto, always, never");
            return Err(ConfigError::new(place, why));
        }
    };
    let ca_file = match &written.ca_file {
        Some(file) if !Path::new(file).is_absolute() => {
            let why = format!("ca_file {file:?} is no absolute path");
            return Err(ConfigError::new(place, why));
        }
        Some(file) => Some(file.into()),
        None => merged.path("ca_file")?,
    };
    Ok(MountConfig {
        path,
        url: written.url.clone(),
        region: text(&written.region, "region")?,
        path_style,
        anonymous: match written.anonymous {
            Some(anonymous) => anonymous,
            None => merged.switch("anonymous")?,
        },
        ca_file,
        endpoint,
    })
}

/// A URL must have a scheme and must not hold a credential; the message does not repeat one.
fn check_url(place: &str, url: &str) -> Result<(), ConfigError> {
    let Some((_, rest)) = url.split_once("://") else {
        let why =
            format!("{url:?} is no URL: write s3://BUCKET/PREFIX, or https://HOST for an endpoint");
        return Err(ConfigError::new(place, why));
    };
    if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
        let why =
            "holds a credential: give it by the environment or a profile instead, never in a URL";
        return Err(ConfigError::new(place, why));
    }
    Ok(())
}

impl Merged {
    /// Where the operator wrote this setting, as they know it.
    pub(super) fn place(&self, name: &str) -> String {
        let setting = table::find(name).expect("a name of the table");
        match self.values.get(name).map(|written| &written.origin) {
            Some(Origin::Flag) if setting.positional => setting.value_name.to_owned(),
            Some(Origin::Flag) => setting.flag(),
            Some(Origin::Env) => setting.env(),
            Some(Origin::File(file, line)) => format!("{}:{line}: {name}", file.display()),
            Some(Origin::Default) | None => name.to_owned(),
        }
    }

    /// The value in effect, read; `None` if nobody set it and the table has no default.
    pub(super) fn value(&self, name: &'static str) -> Result<Option<Value>, ConfigError> {
        let setting = table::find(name).expect("a name of the table");
        let text = self.values.get(name).map_or(setting.default, |written| &written.text);
        // Empty text takes back what a weaker source says: the value is then computed.
        if text.is_empty() && !matches!(setting.kind, table::Kind::Text) {
            return match setting.default {
                "" => Ok(None),
                _ => Err(ConfigError::new(self.place(name), "is empty")),
            };
        }
        match setting.kind.read(text) {
            Ok(value) => Ok(Some(value)),
            // What stands before an @ may be a password: the reason names the rest.
            Err(why) if matches!(setting.kind, table::Kind::Etcd) && text.contains('@') => {
                Err(ConfigError::new(self.place(name), why))
            }
            Err(why) => Err(ConfigError::new(self.place(name), format!("{text:?} {why}"))),
        }
    }

    /// A number; the limits in the table make it fit `T`.
    fn count<T: TryFrom<u64>>(&self, name: &'static str, default: T) -> Result<T, ConfigError> {
        match self.value(name)? {
            Some(Value::Number(number)) => T::try_from(number)
                .map_err(|_| ConfigError::new(self.place(name), format!("{number} is too large"))),
            _ => Ok(default),
        }
    }

    fn duration(&self, name: &'static str) -> Result<Duration, ConfigError> {
        match self.value(name)? {
            Some(Value::Duration(duration)) => Ok(duration),
            other => unreachable!("{name} is a duration with a default, not {other:?}"),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<String, ConfigError> {
        let setting = table::find(name).expect("a name of the table");
        match self.value(setting.name)? {
            Some(Value::Text(text)) => Ok(text),
            other => unreachable!("{name} is a text, not {other:?}"),
        }
    }

    pub(super) fn switch(&self, name: &'static str) -> Result<bool, ConfigError> {
        match self.value(name)? {
            Some(Value::Switch(value)) => Ok(value),
            other => unreachable!("{name} is a switch with a default, not {other:?}"),
        }
    }

    pub(super) fn path(&self, name: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        match self.value(name)? {
            Some(Value::Path(path)) => Ok(Some(path)),
            None => Ok(None),
            other => unreachable!("{name} is a path, not {other:?}"),
        }
    }
}
