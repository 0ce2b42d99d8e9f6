//! Runs many scenarios, or one with everything that happens printed.
//!
//! ```text
//! feedline-sim --seeds 1000 [--from 5000]     prints each failure, and a summary
//! FEEDLINE_SIM_SEED=17 feedline-sim           prints all events of one; RUST_LOG=debug adds the nodes' log
//! ```

use std::process::ExitCode;
use std::time::Duration;

use feedline_sim::{Options, run};

fn main() -> ExitCode {
    let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number(std::env::var("FEEDLINE_SIM_SEED").ok()) {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
        return one(seed);
    }
    let (mut seeds, mut from) = (100, 0);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), number(arguments.next())) {
            ("--seeds", Some(value)) => seeds = value,
            ("--from", Some(value)) => from = value,
            _ => {
                eprintln!("usage: feedline-sim [--seeds N] [--from SEED]");
                return ExitCode::from(2);
            }
        }
    }
    many(from, seeds)
}

fn one(seed: u64) -> ExitCode {
    match run(&Options { seed, prints: true, sabotage: None }) {
        Ok(report) => {
            println!("{report:#?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn many(from: u64, seeds: u64) -> ExitCode {
    let (mut failed, mut reads, mut gets, mut wait_max) = (0_u64, 0, 0, (Duration::ZERO, 0));
    for seed in from..from + seeds {
        match run(&Options { seed, ..Options::default() }) {
            Ok(report) => {
                reads += report.reads;
                gets += report.gets;
                wait_max = wait_max.max((report.wait_max, seed));
            }
            Err(failure) => {
                failed += 1;
                println!("{failure}\n");
            }
        }
    }
    let (longest, of) = wait_max;
    println!(
        "{seeds} seeds from {from}: {failed} failed; {reads} reads, {gets} requests to the bucket, the \
         longest read {longest:?} (seed {of})"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
