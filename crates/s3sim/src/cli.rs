//! The command: arguments, and a server that runs until Ctrl-C.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::sim::S3Sim;

/// An S3 server over a folder, with the latency, limits and faults of a cloud.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder whose directories are the buckets; created if missing. The tags of files that lie there
    /// already are no MD5: rclone needs --ignore-checksum for them
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Median time to the first byte, such as 25ms
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = duration)]
    pub latency: Duration,
    /// Spread of the latency: standard deviation of its logarithm, 0 for none
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, value_parser = sigma)]
    pub latency_sigma: f64,
    /// Median time to the first byte of a LIST, if it differs
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub list_latency: Option<Duration>,
    /// Bandwidth of all connections together, such as 250MB/s or 1GiB/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub bandwidth: Option<u64>,
    /// Bandwidth of each connection, such as 80MB/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub connection_bandwidth: Option<u64>,
    /// Requests per second above which the answer is 503 SlowDown
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate_limit: Option<u32>,
    /// Serve a bucket `names` besides, of so many made-up keys in folders of a thousand; read-only
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub names: Option<u32>,
    /// Seed of delays and faults
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Threads that serve
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = threads)]
    pub threads: usize,
    /// Accept only requests signed with this key
    #[arg(long, value_name = "KEY", requires = "secret_key")]
    pub access_key: Option<String>,
    /// The secret that belongs to the access key
    #[arg(long, value_name = "SECRET", requires = "access_key")]
    pub secret_key: Option<String>,
}

/// More threads than this are a typing mistake.
const THREADS_MAX: usize = 256;

/// Splits `25ms` into 25 and `ms`.
fn number_and_unit(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|_| format!("{text:?} does not begin with a number"))?;
    Ok((number, unit.trim()))
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(text)?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        _ => return Err(format!("{text:?} needs a unit: us, ms or s")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit.strip_suffix("/s").unwrap_or(unit) {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("{text:?} needs a unit: B, kB, MB, GB, KiB, MiB or GiB per s")),
    };
    match (number * factor) as u64 {
        0 => Err("a rate of 0 would send nothing, ever".into()),
        bytes_per_s => Ok(bytes_per_s),
    }
}

fn sigma(text: &str) -> Result<f64, String> {
    let sigma: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.0..=5.0).contains(&sigma) { Ok(sigma) } else { Err("must be from 0 to 5".into()) }
}

fn threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (1..=THREADS_MAX).contains(&threads) {
        Ok(threads)
    } else {
        Err(format!("must be from 1 to {THREADS_MAX}"))
    }
}

/// Serves until SIGINT or SIGTERM. Prints `listening on http://ADDRESS` when ready.
///
/// # Errors
///
/// If the folder cannot be used or the address is taken.
pub fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut builder = S3Sim::builder()
        .root(&args.root)
        .listen(args.listen)
        .latency(args.latency)
        .latency_sigma(args.latency_sigma)
        .seed(args.seed)
        .threads(args.threads);
    if let Some(latency) = args.list_latency {
        builder = builder.list_latency(latency);
    }
    if let Some(bytes_per_s) = args.bandwidth {
        builder = builder.bandwidth(bytes_per_s);
    }
    if let Some(bytes_per_s) = args.connection_bandwidth {
        builder = builder.connection_bandwidth(bytes_per_s);
    }
    if let Some(per_s) = args.rate_limit {
        builder = builder.rate_limit(per_s);
    }
    if let Some(count) = args.names {
        builder = builder.names(count);
    }
    if let (Some(access_key), Some(secret_key)) = (&args.access_key, &args.secret_key) {
        builder = builder.credentials(access_key, secret_key);
    }
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        // Installed before the address is printed: whoever has read it may stop us.
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let sim = builder
            .start()
            .with_context(|| format!("cannot serve {} on {}", args.root.display(), args.listen))?;
        let mut out = std::io::stdout();
        writeln!(out, "listening on {}", sim.endpoint())?;
        out.flush()?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_durations_need_a_unit() {
        assert_eq!(rate("250MB/s"), Ok(250_000_000));
        assert_eq!(rate("1.5MiB/s"), Ok(1_572_864));
        assert_eq!(duration("25ms"), Ok(Duration::from_millis(25)));
        assert!(rate("250").is_err() && rate("0B/s").is_err() && duration("25").is_err());
    }
}
