//! `/metrics` of a working node, read as Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};

use feedline_s3sim::{FaultKind, FaultRule, Faults};

use crate::common::{Site, tree};

/// Samples by metric name, then by their labels as text.
type Samples = BTreeMap<String, BTreeMap<String, f64>>;

/// Reads the text format, and fails where a scraper would: each family has one HELP and one TYPE
/// before its samples, names and labels are well formed, no sample comes twice, values are numbers.
fn parse(text: &str) -> Samples {
    let is_name = |name: &str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().next().is_some_and(|c| !c.is_ascii_digit())
    };
    let (mut helps, mut types) = (BTreeSet::new(), BTreeMap::new());
    let mut samples = Samples::new();
    assert!(text.ends_with('\n'), "the last line must end");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(!words.is_empty() && helps.insert(name.to_owned()), "{line}");
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, kind) = of.split_once(' ').unwrap();
            assert!(matches!(kind, "counter" | "gauge"), "{line}");
            assert!(!samples.contains_key(name), "TYPE after samples: {line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
        } else {
            let (left, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match left.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
                None => (left, ""),
            };
            assert!(is_name(name) && types.contains_key(name) && helps.contains(name), "{line}");
            for label in labels.split("\",").filter(|label| !label.is_empty()) {
                let (label, _) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                assert!(is_name(label), "{line}");
            }
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && 0.0 <= value, "{line}");
            let family = samples.entry(name.to_owned()).or_default();
            assert!(family.insert(labels.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    assert_eq!(helps, types.keys().cloned().collect(), "HELP and TYPE go together");
    for (name, kind) in types {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
    }
    samples
}

#[test]
fn metrics_are_prometheus_text_with_everything_that_an_operator_watches() {
    let mut site = Site::new(tree(2, 10));
    // No fill: what is counted is what was asked for. And the second look finds it all on disk,
    // where the first may still find a file on its way there.
    site.set("metrics_listen", "127.0.0.1:0").set("fill", "off").set("retry_budget", "20s");
    let node = site.start();
    site.sim.set_faults(FaultRule::next(FaultKind::SlowDown, 3));
    site.read_all();
    site.sim.set_faults(Faults::none());
    site.until("all on disk", || {
        site.du(&node.client(), "").cached_files == site.content.len() as u64
    });
    site.read_all();

    let samples = parse(&site.call(node.client().metrics()).unwrap());
    let value = |name: &str, labels: &str| {
        let family = samples.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        *family.get(labels).unwrap_or_else(|| panic!("{name}: {labels:?} not in {family:?}"))
    };
    let dir = format!("dir=\"{}\"", site.path("cache").display());
    let (used, quota) =
        (value("feedline_cache_used_bytes", &dir), value("feedline_cache_quota_bytes", &dir));
    assert!(0.0 < used && used < quota && quota == f64::from(1 << 30), "{used} of {quota}");
    let empty = site.content.values().filter(|bytes| bytes.is_empty()).count();
    let files = (site.content.len() - empty) as f64;
    assert!(files <= value("feedline_cache_hits_total", ""));
    assert_eq!(value("feedline_cache_misses_total", ""), files);
    let stats = site.sim.stats();
    assert_eq!(value("feedline_store_requests_total", "verb=\"GET\""), stats.get as f64);
    assert_eq!(value("feedline_store_requests_total", "verb=\"LIST\""), stats.list as f64);
    assert_eq!(value("feedline_store_retries_total", "cause=\"503\""), 3.0);
    assert!(0.0 < samples["feedline_fuse_requests_total"].values().sum::<f64>());
    assert!(0.0 < value("feedline_opens_total", "mode=\"passthrough\""));
    assert_eq!(samples["feedline_info"].len(), 1);
    let info = samples["feedline_info"].keys().next().unwrap();
    assert!(info.contains("open_mode=\"passthrough\"") && info.contains("version="), "{info}");
    assert!(f64::from(1 << 20) < value("feedline_resident_bytes", ""));

    // Over TCP, as a scraper asks, it is the same set.
    let address = node.metrics_address().unwrap();
    let answer = http_get(address, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(parse(body).keys().eq(samples.keys()));
    node.stop().unwrap();
}

fn http_get(address: std::net::SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    // HTTP/1.0: the body comes whole, and its end is that of the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
