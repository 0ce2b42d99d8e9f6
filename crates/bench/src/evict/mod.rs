//! `feedline bench evict`: what a cache that is too small keeps, by policy, on traces.
//!
//! No bytes are moved. Our policy is run by the code that the cache runs, so that the table is about
//! what is shipped; `docs/decisions/007` holds one.
//!
//! # Reading order
//!
//! [`traces`] is what is used, [`classic`] what others do, [`ours`] what we do.

pub mod classic;
pub mod ours;
pub mod traces;

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use classic::{Belady, Lru, Policy, S3Fifo, Sieve};
use ours::{Knowledge, Ours};
use traces::Trace;

/// `feedline bench evict`
#[derive(Debug, Clone, clap::Args)]
pub struct EvictArgs {
    /// Objects of each generated trace
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..))]
    pub objects: u32,
    /// Size of the cache, as a share of the data in use
    #[arg(long, default_value_t = 0.5, value_name = "SHARE", value_parser = parse_share)]
    pub cache: f64,
    /// Trace file instead of the generated traces (lines of NAME SIZE [SET]); repeatable
    #[arg(long, value_name = "FILE")]
    pub trace: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if share > 0.0 && share <= 1.0 { Ok(share) } else { Err("must be above 0, at most 1".into()) }
}

/// One policy on one trace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The trace.
    pub trace: String,
    /// The policy.
    pub policy: String,
    /// Uses that found their object here, after the first epoch.
    pub hit_rate: f64,
    /// The same over the cache's share of the data.
    pub to_share: f64,
    /// Objects fetched from the bucket for each use, after the first epoch: 1 is no cache.
    pub fetches_per_use: f64,
    /// Objects written to the cache for each use, after the first epoch.
    pub writes_per_use: f64,
}

/// Makes a policy for a trace and a size in bytes.
pub type Make = for<'a> fn(&'a Trace, u64) -> Box<dyn Policy + 'a>;

/// Every policy, in the order of the table.
pub const POLICIES: [(&str, Make); 9] = [
    ("LRU", |trace, bytes| Box::new(Lru::new(trace, bytes))),
    ("S3-FIFO", |trace, bytes| Box::new(S3Fifo::new(trace, bytes))),
    ("SIEVE", |trace, bytes| Box::new(Sieve::new(trace, bytes))),
    ("ours, no foresight", |trace, bytes| {
        Box::new(Ours::new(trace, bytes, Knowledge::Nothing, false))
    }),
    ("ours, sets known", |trace, bytes| Box::new(Ours::new(trace, bytes, Knowledge::Sets, false))),
    ("ours, order known", |trace, bytes| {
        Box::new(Ours::new(trace, bytes, Knowledge::Order, false))
    }),
    ("Belady", |trace, bytes| Box::new(Belady::new(trace, bytes))),
    ("ours, sets known, fill", |trace, bytes| {
        Box::new(Ours::new(trace, bytes, Knowledge::Sets, true))
    }),
    ("ours, order known, fill", |trace, bytes| {
        Box::new(Ours::new(trace, bytes, Knowledge::Order, true))
    }),
];

/// Runs one policy over one trace with a cache of this share of the data.
#[must_use]
pub fn simulate(trace: &Trace, name: &str, make: Make, share: f64) -> Row {
    let bytes = (trace.data_bytes as f64 * share) as u64;
    let mut policy = make(trace, bytes);
    let (mut hits, mut filled, mut written) = (0, 0, 0);
    for (at, object) in trace.uses.iter().enumerate() {
        if at == trace.count_from {
            (filled, written) = (policy.filled(), policy.written());
        }
        let hit = policy.use_object(at, *object);
        hits += u64::from(hit && at >= trace.count_from);
    }
    let uses = trace.uses.len() - trace.count_from;
    let of_uses = |count: u64| count as f64 / uses as f64;
    let hit_rate = of_uses(hits);
    Row {
        trace: trace.name.clone(),
        policy: name.to_owned(),
        hit_rate,
        to_share: hit_rate / share,
        fetches_per_use: 1.0 - hit_rate + of_uses(policy.filled() - filled),
        writes_per_use: of_uses(policy.written() - written),
    }
}

/// `feedline bench evict`: simulates and prints.
///
/// # Errors
///
/// If a trace file cannot be read.
pub fn run(args: &EvictArgs) -> Result<Vec<Row>> {
    let traces = if args.trace.is_empty() {
        traces::generated(args.objects as usize)
    } else {
        args.trace.iter().map(|path| Trace::load(path)).collect::<Result<_>>()?
    };
    let mut rows = Vec::new();
    for trace in &traces {
        for (name, make) in POLICIES {
            rows.push(simulate(trace, name, make, args.cache));
        }
    }
    if args.json {
        let json = serde_json::json!({
            "facts": Facts::collect(), "cache_share": args.cache, "rows": rows,
        });
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        print!("{}", table(&rows, args.cache));
    }
    Ok(rows)
}

/// The rows as text, a heading for each trace.
fn table(rows: &[Row], share: f64) -> String {
    let mut text = String::new();
    let mut trace = "";
    for row in rows {
        if row.trace != trace {
            let head = format!("{}, cache {share} of the data", row.trace);
            text += &format!("\n{head:48} hit rate  /share  fetches  writes\n");
            trace = &row.trace;
        }
        let Row { policy, hit_rate, to_share, fetches_per_use, writes_per_use, .. } = row;
        text += &format!(
            "  {policy:46} {hit_rate:8.3} {to_share:7.2} {fetches_per_use:8.3} {writes_per_use:7.3}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests;
