//! Settings: every source, their order, and the words of every error.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// Inputs with a source and a mount point, so that only what a test adds can be wrong.
fn inputs(flags: &[(&str, &str)], env: &[(&str, &str)], file: Option<PathBuf>) -> Inputs {
    let own = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    Inputs { flags: own(flags), env: own(env), file, file_default: None }
}

fn resolve(inputs: &Inputs) -> Result<ResolvedConfig, ConfigError> {
    ResolvedConfig::resolve(&Merged::load(inputs)?)
}

const BASE: [(&str, &str); 2] = [("source", "s3://b/p"), ("mountpoint", "/mnt/data")];

fn flags(more: &[(&str, &str)]) -> Result<ResolvedConfig, ConfigError> {
    resolve(&inputs(&[&BASE, more].concat(), &[], None))
}

/// A file in a directory of its own, `feedline.toml`.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("feedline.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

/// The error for this file, without the directory.
fn file_error(text: &str) -> String {
    let (dir, path) = file(text);
    let error = resolve(&inputs(&[], &[], Some(path))).unwrap_err().to_string();
    error.replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn the_defaults_are_sound_and_within_their_limits() {
    let config = flags(&[]).unwrap();
    assert_eq!(config.mounts[0].url, "s3://b/p");
    assert_eq!(config.metadata_ttl, Duration::from_secs(600));
    assert_eq!(config.buffer_bytes, 128 << 20);
    assert_eq!(config.umask, 0o022);
    assert_eq!(config.requests_max, 384);
    assert!((2..=8).contains(&config.threads));
    assert_eq!(config.cache.len(), 1);
    assert_eq!(config.cache[0].size, CacheSize::Percent(10));
    assert!(config.cache[0].dir.ends_with(crate::paths::mount_id("/mnt/data".as_ref())));
}

#[test]
fn the_defaults_are_those_of_the_rooms_that_use_them() {
    let config = flags(&[]).unwrap();
    let store = feedline_store::StoreConfig::new("s3://b");
    assert_eq!(config.requests_max, store.requests_in_flight_max);
    assert_eq!(config.retry_budget, store.retry_budget);
    assert_eq!(config.request_timeout, store.request_timeout);
    let cache = feedline_cache::CacheConfig::new(Vec::new());
    assert_eq!(config.buffer_bytes, cache.buffer_bytes);
    assert_eq!(config.scrub_bytes_per_s, cache.scrub_bytes_per_s);
    let mount = feedline_mount::MountConfig::new("/mnt/data");
    assert_eq!(config.fuse_threads, mount.threads);
    assert_eq!(config.max_background, mount.max_background);
    assert_eq!(u64::from(config.read_ahead_bytes), mount.read_ahead_bytes);
    assert_eq!(
        (u32::from(config.umask), config.uid, config.gid),
        (mount.umask, mount.uid, mount.gid)
    );
    assert_eq!(config.allow_other, mount.allow_other);
}

#[test]
fn the_table_is_small_and_every_row_is_used_and_described() {
    assert!(SETTINGS.len() < 40);
    let config = flags(&[]).unwrap();
    for setting in SETTINGS {
        assert_eq!(find(setting.name).unwrap().name, setting.name, "twice");
        assert!(!setting.help.is_empty() && !setting.help.ends_with('.'), "{}", setting.name);
        assert!(setting.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        assert!(config.settings.iter().any(|info| info.name == setting.name));
        let secret = ["secret", "password", "token", "key"];
        // The place where one lies is none.
        let is_place = matches!(setting.kind, Kind::Path);
        let is_secret = secret.iter().any(|word| setting.name.contains(word)) && !is_place;
        assert!(!is_secret, "{}", setting.name);
    }
    assert_eq!(find("metadata_ttl").unwrap().flag(), "--metadata-ttl");
    assert_eq!(find("metadata_ttl").unwrap().env(), "FEEDLINE_METADATA_TTL");
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default_for_every_setting() {
    // Two values of each kind that differ from the default and from each other.
    let values = |setting: &Setting| match setting.kind {
        Kind::Size { .. } => ["16MiB", "15MiB", "14MiB"].map(str::to_owned),
        Kind::Rate => ["1MiB/s", "2MiB/s", "3MiB/s"].map(str::to_owned),
        Kind::Duration { .. } => ["31s", "32s", "33s"].map(str::to_owned),
        Kind::Count { .. } => ["21", "22", "23"].map(str::to_owned),
        Kind::Switch => ["true", "true", "true"].map(str::to_owned),
        Kind::Choice(words) => [words[0], words[1], words[0]].map(str::to_owned),
        Kind::Path => ["/a", "/b", "/c"].map(str::to_owned),
        Kind::Text => ["s3://a", "s3://b", "s3://c"].map(str::to_owned),
        Kind::Octal => ["001", "002", "003"].map(str::to_owned),
        Kind::Address => ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(str::to_owned),
        Kind::CacheDirs => ["/a:1GiB", "/b:1GiB", "/c:1GiB"].map(str::to_owned),
        Kind::Peers => ["a:1", "b:1,c:2", "[::1]:3"].map(str::to_owned),
        Kind::Etcd => ["http://a:1", "http://b", "https://u@c/x"].map(str::to_owned),
        Kind::Fill => ["off", "train/*", "a,b"].map(str::to_owned),
    };
    for setting in SETTINGS {
        let [a, b, c] = values(setting);
        let (_dir, path) = file(&format!("{} = \"{c}\"\n", setting.name));
        let env = (setting.env(), b.clone());
        let value = |inputs: &Inputs| Merged::load(inputs).unwrap().values[setting.name].clone();
        let mut given = inputs(&[(setting.name, &a)], &[(&env.0, &env.1)], Some(path.clone()));
        assert_eq!((value(&given).text, value(&given).origin), (a, Origin::Flag));
        given.flags.clear();
        assert_eq!((value(&given).text, value(&given).origin), (b, Origin::Env));
        given.env.clear();
        assert_eq!((value(&given).text, value(&given).origin), (c, Origin::File(path, 1)));
    }
}

#[test]
fn the_sources_are_told_with_each_value() {
    let (_dir, path) = file("# a comment\nbuffer = \"64MiB\"\nallow_other = true\nuid = 7\n");
    let given = inputs(
        &[&BASE[..], &[("metadata-ttl", "90s")]].concat(),
        &[("FEEDLINE_RETRY_BUDGET", "1m"), ("PATH", "/bin"), ("FEEDLINE_PORT", "tcp://1")],
        Some(path.clone()),
    );
    let config = resolve(&given).unwrap();
    let told = |name: &str| {
        let info = config.settings.iter().find(|info| info.name == name).unwrap();
        (info.value.clone(), info.source.clone())
    };
    let is = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    let in_file = |line: u32| format!("file {}:{line}", path.display());
    assert_eq!(told("metadata_ttl"), is("90s", "flag"));
    assert_eq!(told("retry_budget"), is("1m", "env FEEDLINE_RETRY_BUDGET"));
    assert_eq!(told("buffer"), is("64MiB", &in_file(2)));
    assert_eq!(told("allow_other"), is("true", &in_file(3)));
    assert_eq!(told("uid"), is("7", &in_file(4)));
    assert_eq!(told("open"), is("passthrough", "default"));
    assert_eq!((config.buffer_bytes, config.uid, config.allow_other), (64 << 20, 7, true));
    assert_eq!(config.warnings, ["FEEDLINE_PORT is no setting and is ignored"]);
}

#[test]
fn the_file_may_be_named_by_the_environment_and_must_then_exist() {
    let (_dir, path) = file("buffer = \"32MiB\"\n");
    let name = path.to_str().unwrap();
    let config = resolve(&inputs(&BASE, &[("FEEDLINE_CONFIG", name)], None)).unwrap();
    assert_eq!(config.buffer_bytes, 32 << 20);
    let absent = inputs(&BASE, &[("FEEDLINE_CONFIG", "/absent.toml")], None);
    let error = resolve(&absent).unwrap_err().to_string();
    assert_eq!(error, "/absent.toml: No such file or directory (os error 2)");
    let mut by_default = inputs(&BASE, &[], None);
    by_default.file_default = Some("/absent.toml".into());
    assert!(resolve(&by_default).is_ok(), "the usual file may be missing");
}

#[test]
fn several_buckets_share_a_tree_and_inherit_what_they_do_not_say() {
    let (_dir, path) = file(concat!(
        "mountpoint = \"/mnt/data\"\nregion = \"eu-1\"\nanonymous = true\n",
        "[[mounts]]\npath = \"/train/\"\nurl = \"s3://a\"\n",
        "[[mounts]]\npath = \"val\"\nurl = \"s3://b/v\"\nregion = \"us-2\"\nanonymous = false\n",
        "endpoint = \"http://127.0.0.1:9\"\npath_style = \"never\"\n",
    ));
    let config = resolve(&inputs(&[], &[], Some(path))).unwrap();
    let [a, b] = &config.mounts[..] else { panic!("{:?}", config.mounts) };
    assert_eq!((&*a.path, a.region.as_deref(), a.anonymous), ("train", Some("eu-1"), true));
    assert_eq!((&*b.path, b.region.as_deref(), b.anonymous), ("val", Some("us-2"), false));
    assert_eq!((a.endpoint.as_deref(), a.path_style), (None, PathStyle::Auto));
    assert_eq!(b.endpoint.as_deref(), Some("http://127.0.0.1:9"));
    assert_eq!(b.path_style, PathStyle::Never);
    assert!(config.settings.iter().any(|info| info.value == "s3://b/v on /val"));
}

#[test]
fn the_cache_takes_several_directories_from_one_flag_or_many() {
    let config = flags(&[("cache", "/a:100GiB"), ("cache", "/b:5%,/c:1GB")]).unwrap();
    let shown: Vec<_> = config.cache.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["/a:100GiB", "/b:5%", "/c:1GB"]);
    let (_dir, path) = file("cache = [\"/x:1GiB\", \"/y:2GiB\"]\n");
    let config = resolve(&inputs(&BASE, &[], Some(path))).unwrap();
    assert_eq!(config.cache.len(), 2);
}

#[test]
fn a_wrong_url_of_etcd_is_told_without_what_may_be_a_password() {
    let said = |url: &str| flags(&[("etcd", url)]).unwrap_err().to_string();
    let plain = r#"--etcd: "a:1" needs URLs such as http://etcd:2379; "a:1" is none"#;
    assert_eq!(said("a:1"), plain);
    let hidden = r#"--etcd: needs URLs such as http://etcd:2379; "…@a" is none"#;
    assert_eq!(said("ftp://me:hunter2@a"), hidden);
}

#[test]
fn a_wrong_flag_names_flag_value_and_limit() {
    let cases: &[(&str, &str, &str)] = &[
        ("buffer", "1MiB", r#"--buffer: "1MiB" is below the limit of 16MiB"#),
        (
            "buffer",
            "64",
            r#"--buffer: "64" is no size: write a number and a unit, such as 64MiB or 10GB"#,
        ),
        (
            "metadata_ttl",
            "10",
            r#"--metadata-ttl: "10" is no duration: write a number and a unit, such as 90s, 10m or 1h"#,
        ),
        ("retry_budget", "2d", r#"--retry-budget: "2d" is above the limit of 1h"#),
        (
            "retry_budget",
            "5s",
            "retry_budget: 5s is shorter than request_timeout (10s): no attempt could be repeated",
        ),
        (
            "scrub_rate",
            "4MiB",
            r#"--scrub-rate: "4MiB" is no rate: write a size for each second, such as 250MB/s"#,
        ),
        ("requests_max", "0", r#"--requests-max: "0" is below the limit of 1"#),
        ("requests_max", "many", r#"--requests-max: "many" is no whole number"#),
        ("open", "fast", r#"--open: "fast" is none of: passthrough, none"#),
        ("transport", "fast", r#"--transport: "fast" is none of: auto, classic, uring"#),
        ("anonymous", "maybe", r#"--anonymous: "maybe" is neither true nor false"#),
        ("umask", "9", r#"--umask: "9" is no octal mask from 000 to 777"#),
        ("ca_file", "ca.pem", r#"--ca-file: "ca.pem" is no absolute path"#),
        (
            "metrics_listen",
            "9464",
            r#"--metrics-listen: "9464" is no address: write IP:PORT, such as 127.0.0.1:9464"#,
        ),
        (
            "cache",
            "/a",
            r#"--cache: "/a" needs DIR:SIZE, such as /var/cache/feedline:500GiB; "/a" has no size"#,
        ),
        (
            "listen",
            "7001",
            r#"--listen: "7001" is no address: write IP:PORT, such as 127.0.0.1:9464"#,
        ),
        ("peers", "a:1,b", r#"--peers: "a:1,b" needs HOST:PORT or dns://NAME:PORT; "b" is none"#),
        ("peers", "a:1", "peers: needs listen as well: where the others reach this node"),
        ("cluster_secrets", "t", r#"--cluster-secrets: "t" is no absolute path"#),
        ("cache", "a:1GiB", r#"--cache: "a:1GiB" "a" is no absolute path"#),
        ("cache", "/a:1GiB,/a:2GiB", r#"--cache: "/a:1GiB,/a:2GiB" names /a twice"#),
        ("cache", "/a:200%", r#"--cache: "/a:200%" "200%" is no percentage from 1% to 99%"#),
        ("cache", "/a:1MiB", r#"--cache: "/a:1MiB" "1MiB" is below the limit of 64MiB"#),
        ("cache", "/mnt/data/c:1GiB", "cache: /mnt/data/c lies within the mount point"),
        ("mountpoint", "data", r#"MOUNTPOINT: "data" is no absolute path"#),
        (
            "source",
            "bucket",
            r#"SOURCE: "bucket" is no URL: write s3://BUCKET/PREFIX, or https://HOST for an endpoint"#,
        ),
        ("buffr", "1GiB", "--buffr: is no setting; did you mean buffer?"),
        ("password", "x", "--password: is no setting; `feedline config` prints all of them"),
    ];
    for (name, value, expected) in cases {
        assert_eq!(flags(&[(name, value)]).unwrap_err().to_string(), *expected);
    }
}

#[test]
fn a_wrong_variable_is_named_as_the_variable() {
    let error = resolve(&inputs(&BASE, &[("FEEDLINE_BUFFER", "1MiB")], None)).unwrap_err();
    assert_eq!(error.to_string(), r#"FEEDLINE_BUFFER: "1MiB" is below the limit of 16MiB"#);
}

#[test]
fn a_wrong_line_of_the_file_is_named_with_its_number() {
    let base = "source = \"s3://b\"\nmountpoint = \"/m\"\n";
    let cases: &[(&str, &str)] = &[
        ("bufer = \"1GiB\"", "feedline.toml:3: bufer: is no setting; did you mean buffer?"),
        ("buffer = \"1MiB\"", r#"feedline.toml:3: buffer: "1MiB" is below the limit of 16MiB"#),
        ("buffer = 1.5", "feedline.toml:3: buffer: is neither text, number, true nor false"),
        ("\n\nuid = -1", r#"feedline.toml:5: uid: "-1" is no whole number"#),
        ("mounts = 3", "feedline.toml:3: mounts: is no table: write [[mounts]]"),
        (
            "[[mounts]]\nurl = \"s3://a\"",
            "feedline.toml:1: source: is given beside [[mounts]] of the file: keep one of them",
        ),
        ("[[mounts]]\npath = \"x\"", "feedline.toml:3: mounts[0]: missing field `url`"),
    ];
    for (text, expected) in cases {
        assert_eq!(file_error(&format!("{base}{text}\n")), *expected);
    }
    let error = file_error("buffer = \n");
    assert!(error.starts_with("feedline.toml:1: "), "{error}");
    let mounts = "mountpoint = \"/m\"\n[[mounts]]\npath = \"x\"\nurl = \"s3://a\"\n";
    let error = file_error(&format!("{mounts}bucket = \"b\"\n"));
    assert!(error.starts_with("feedline.toml:5: mounts[0]: unknown field `bucket`"), "{error}");
    let error = file_error(&format!("{mounts}[[mounts]]\npath = \"x/\"\nurl = \"s3://b\"\n"));
    assert_eq!(error, "feedline.toml:5: mounts[1]: path \"x\" is used by an earlier [[mounts]]");
    let error = file_error("mountpoint = \"/m\"\n[[mounts]]\npath = \"a//b\"\nurl = \"s3://a\"\n");
    assert!(error.contains("has a part that is empty"), "{error}");
}

#[test]
fn what_is_missing_is_said() {
    let error = resolve(&inputs(&[("source", "s3://b")], &[], None)).unwrap_err();
    assert_eq!(error.to_string(), "mountpoint: is missing: name the directory to mount on");
    let error = resolve(&inputs(&[("mountpoint", "/m")], &[], None)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "source: is missing: name what to mount, such as s3://BUCKET/PREFIX"
    );
}

#[test]
fn a_credential_in_a_url_is_refused_and_not_repeated() {
    for (name, url) in [("source", "s3://AKIA:hunter2@b/p"), ("endpoint", "http://u:hunter2@h")] {
        let error = flags(&[(name, url)]).unwrap_err().to_string();
        assert!(error.contains("holds a credential"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
