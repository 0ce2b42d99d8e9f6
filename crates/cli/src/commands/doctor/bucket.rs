//! What the configuration points at: the bucket, its clock, the cache disks.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use feedline_node::config::{CacheDir, ResolvedConfig};
use feedline_node::{Reached, ReachedEtcd, Unreached};

use super::{Args, Check, machine};
/// S3 refuses signatures that are 15 minutes off; a third of that is a clock that drifts.
const SKEW_WARN: Duration = Duration::from_secs(300);
/// From here on S3 refuses.
const SKEW_FAIL: Duration = Duration::from_secs(900);
/// How long the endpoint may take to tell its time.
const DATE_TIMEOUT: Duration = Duration::from_secs(3);

/// Checks of the configuration, each cache directory, and, with a source, the bucket.
pub(super) fn checks(args: &Args) -> Vec<Check> {
    let name = "configuration";
    let mut flags = args.settings.clone();
    if let Some(source) = &args.source {
        flags.set("source", source);
    }
    let config = match flags.resolve_without_mount() {
        Ok((config, _)) => config,
        Err(error) => {
            return vec![
                Check::fail(name, format!("{error:#}"))
                    .way_out("`feedline config --help` explains each setting"),
            ];
        }
    };
    let mut checks = vec![match config.warnings.as_slice() {
        [] => Check::ok(name, "makes sense"),
        warnings => Check::warn(name, warnings.join("; ")),
    }];
    checks.extend(config.cache.iter().map(|CacheDir { dir, size }| machine::cache_dir(dir, *size)));
    checks.extend(etcd(&config));
    if args.source.is_some() {
        checks.extend(config.mounts.iter().filter_map(|m| m.endpoint.as_deref()).filter_map(clock));
        checks.extend(reach(&config));
    }
    checks
}

/// One listing of each bucket, as a mount would begin.
fn reach(config: &ResolvedConfig) -> Vec<Check> {
    let check = |reached: Reached| {
        let name = format!("bucket {}", reached.url);
        match reached.outcome {
            Ok(took) => Check::ok(name, format!("lists in {} ms", took.as_millis())),
            Err(Unreached { error, way_out }) => Check::fail(name, error).way_out(way_out),
        }
    };
    feedline_node::reach(config).into_iter().map(check).collect()
}

/// Who is listed in the etcd that is configured.
fn etcd(config: &ResolvedConfig) -> Option<Check> {
    let ReachedEtcd { place, outcome } = feedline_node::reach_etcd(config)?;
    let name = format!("etcd {place}");
    Some(match outcome {
        // The cluster's name follows from what is mounted.
        Ok((_, took)) if config.mounts.is_empty() => {
            Check::ok("etcd", format!("answers in {} ms", took.as_millis()))
        }
        Ok((nodes, took)) => {
            Check::ok(name, format!("answers in {} ms, lists {nodes} nodes", took.as_millis()))
        }
        Err(Unreached { error, way_out }) => Check::fail(name, error).way_out(way_out),
    })
}

/// Compares clocks with an endpoint that speaks plain HTTP. Over TLS the bucket itself says it:
/// `RequestTimeTooSkewed`.
fn clock(endpoint: &str) -> Option<Check> {
    let authority = endpoint.strip_prefix("http://")?.split('/').next()?;
    let theirs = ask_date(authority)?;
    #[expect(clippy::disallowed_methods, reason = "compares this machine's clock")]
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let skew = Duration::from_secs(ours.abs_diff(theirs));
    let detail = format!("{} s apart from {authority}", skew.as_secs());
    let check = match skew {
        skew if skew >= SKEW_FAIL => Check::fail("clock", detail),
        skew if skew >= SKEW_WARN => Check::warn("clock", detail),
        _ => return Some(Check::ok("clock", detail)),
    };
    Some(check.way_out("set the clock: run chrony or systemd-timesyncd"))
}

/// The `Date` of an answer, seconds since 1970. No answer is none of this check's business.
fn ask_date(authority: &str) -> Option<u64> {
    let address =
        if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let address = address.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&address, DATE_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(DATE_TIMEOUT)).ok()?;
    let request = format!("HEAD / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut head = Vec::new();
    // A head is under 4 KiB; an endpoint that sends more is cut off.
    stream.take(4096).read_to_end(&mut head).ok()?;
    let head = String::from_utf8_lossy(&head);
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    })?;
    parse_date(date)
}

/// Reads `Sun, 22 Nov 2026 20:12:14 GMT`.
fn parse_date(text: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let fields: Vec<&str> = text.split([' ', ':']).filter(|field| !field.is_empty()).collect();
    let [_, day, month, year, hour, minute, second, "GMT"] = fields.as_slice() else {
        return None;
    };
    let number = |field: &str| field.parse::<u64>().ok();
    let month = MONTHS.find(*month)? as u64 / 3;
    let year = number(year)?;
    // Days before each month of a year that begins in March (Hinnant's `days_from_civil`).
    let (march_year, march_month) =
        if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let day_of_year = (153 * march_month + 2) / 5 + number(day)? - 1;
    let days =
        march_year * 365 + march_year / 4 - march_year / 100 + march_year / 400 + day_of_year;
    let days = days.checked_sub(719_468)?; // from 0000-03-01 to 1970-01-01
    Some(days * 86_400 + number(hour)? * 3_600 + number(minute)? * 60 + number(second)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_date_is_read() {
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse_date("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
        assert_eq!(parse_date("Wed, 31 Dec 2025 23:59:00 GMT"), Some(1_767_225_540));
        assert_eq!(parse_date("yesterday"), None);
    }
}
