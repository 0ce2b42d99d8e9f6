//! `feedline bench`: one subcommand per measurement.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::train;

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
        BenchCommand::Worker { config } => {
            let config = serde_json::from_str(&config).context("the worker's configuration")?;
            train::worker::run(&config)
        }
    }
}
