//! `feedline bench`: one subcommand per measurement.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::{cluster, compare, evict, http, meta, names, read, targets, train};

/// `feedline bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Epochs of a training job: several processes read, decode and wait for a stand-in step
    Train(train::TrainArgs),
    /// Read whole files in random order with several readers, or one large file
    Read(read::ReadArgs),
    /// Get every object of a list over many connections, as the yardstick of a cold read
    Http(http::HttpArgs),
    /// Walk a tree with a stat of every entry
    Meta(meta::MetaArgs),
    /// A bucket of millions of made-up names: listed, held in memory, and there again at the next start
    Names(names::NamesArgs),
    /// Simulate what a cache that is too small keeps, by policy, on traces
    Evict(evict::EvictArgs),
    /// The whole target table, side by side with ext4 and s3fs
    Targets(targets::TargetsArgs),
    /// The target table of a cluster: nodes on this machine, each in a network namespace
    Cluster(cluster::ClusterArgs),
    /// Any systems with any clients from one config file; a table, JSON, and a page with charts
    Compare(compare::CompareArgs),
    /// One training process; started by `train`
    #[command(hide = true)]
    Worker {
        /// Its configuration as JSON
        config: String,
    },
}

/// Runs the command and prints its result.
///
/// # Errors
///
/// Whatever kept it from finishing, with the path named.
pub fn run(args: BenchArgs) -> Result<()> {
    match args.command {
        BenchCommand::Train(args) => train::run(&args).map(drop),
        BenchCommand::Read(args) => read::run(&args).map(drop),
        BenchCommand::Http(args) => http::run(&args).map(drop),
        BenchCommand::Meta(args) => meta::run(&args).map(drop),
        BenchCommand::Names(args) => names::run(&args).map(drop),
        BenchCommand::Evict(args) => evict::run(&args).map(drop),
        BenchCommand::Targets(args) => targets::run(&args).map(drop),
        BenchCommand::Cluster(args) => cluster::run(&args).map(drop),
        BenchCommand::Compare(args) => compare::run(&args).map(drop),
        BenchCommand::Worker { config } => {
            let config = serde_json::from_str(&config).context("the worker's configuration")?;
            train::worker::run(&config)
        }
    }
}
