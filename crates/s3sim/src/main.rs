//! The s3sim command.

use clap::Parser;

/// An S3 server over a folder, with the latency, limits and faults of a cloud.
#[derive(Debug, Parser)]
#[command(name = "s3sim", version)]
struct Command {
    #[command(flatten)]
    args: feedline_s3sim::Args,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    feedline_s3sim::run(Command::parse().args)
}
