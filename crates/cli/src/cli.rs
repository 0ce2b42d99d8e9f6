//! The command line as a whole: which subcommands there are, and how their errors end the process.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use crate::commands::{
    alluxio, check, completions, config, demo, doctor, hint, load, ls, man, mount, stat, status,
    top, umount, usage, watchdog,
};
use crate::failure::{self, Failure, Outcome};

/// Under every long help: what a script may rely on.
const AFTER_HELP: &str = "Exit codes:
  0  done
  1  it failed, or a check found something bad
  2  the command line or the configuration makes no sense
  3  no such path, or no daemon serves it

Examples:
  feedline mount s3://bucket/imagenet /mnt/data --cache /ssd/feedline:500GiB
  feedline status
  feedline top
  feedline ls --cached -R /mnt/data
  feedline umount /mnt/data

Settings come from flags, then FEEDLINE_* variables, then the configuration file;
`feedline config` prints each with its source. Credentials come from the standard chain
of the cloud (environment, profile, web identity, instance), never from a flag.";

/// An S3 bucket as a local folder, cached on this machine's SSD, for training jobs.
#[derive(Debug, Parser)]
#[command(name = "feedline", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a bucket as a folder.
    Mount(mount::Args),
    /// Take a mounted folder away.
    Umount(umount::Args),
    /// What runs here, and the whole cluster: nodes, hit rate, cache, bucket requests.
    Status(status::Args),
    /// The whole cluster live in the terminal: rates, jobs, peers in trouble.
    Top(top::Args),
    /// List a directory, and what of it is cached on which node.
    Ls(ls::Args),
    /// Everything about one file or directory.
    Stat(stat::Args),
    /// How much lies below a path, and how much of it is on which node.
    #[command(after_help = "Example:\n  feedline du /mnt/data/train")]
    Du(usage::Args),
    /// Bring data into the cache ahead of its use, and follow the jobs that do.
    Load(load::Args),
    /// Drop everything below a path from the cache (never from the bucket).
    #[command(
        after_help = "Pinned files stay. In a cluster it is dropped on all nodes; --node-only drops it on this one.
The exit code is 1 when a node did not answer: it is named, and the others are done.\n\nExample:\n  feedline free /mnt/data/old-set"
    )]
    Free(usage::Args),
    /// Keep everything below a path from eviction.
    #[command(
        after_help = "In a cluster each node keeps what it owns of it, so that the whole is kept once; --node-only keeps
everything here, copies of what others own too. The exit code is 1 when a node did not answer. With etcd the pin is kept
there: who was silent, or joins later, learns of it; while etcd is away nothing is pinned.\n\nExample:\n  feedline pin /mnt/data/val"
    )]
    Pin(usage::Args),
    /// Take back a pin.
    #[command(
        after_help = "In a cluster it is taken back on all nodes, with etcd also on those that are down now.\n\nExample:\n  feedline unpin /mnt/data/val"
    )]
    Unpin(usage::Args),
    /// Tell in which order a job will read a data set, where that cannot be recognised.
    Hint(hint::Args),
    /// Read back what is cached below a path and verify it.
    Check(check::Args),
    /// Each setting: value, source, meaning.
    Config(config::Args),
    /// Look for what would keep a mount from working or from being fast, and say what to do.
    Doctor(doctor::Args),
    /// Measure a mounted folder the way training jobs read it.
    Bench(feedline_bench::BenchArgs),
    /// Make or upload data sets in ImageNet's layout.
    Dataset(feedline_bench::dataset::DatasetArgs),
    /// Serve a folder as S3, with the latency, limits and faults of a cloud.
    S3sim(feedline_s3sim::Args),
    /// Show what Feedline does, on this machine alone, in about two minutes.
    Demo(demo::Args),
    /// Write shell completions to standard output.
    Completions(completions::Args),
    /// Write the manual pages.
    Man(man::Args),
    /// Alluxio's names for `load` and `du`.
    #[command(hide = true, subcommand)]
    Fs(alluxio::Fs),
    /// Alluxio's names for `load`.
    #[command(hide = true, subcommand)]
    Job(alluxio::Job),
}

/// Runs a command line; the answer is the exit code.
pub(crate) fn run(args: Vec<OsString>) -> u8 {
    if args.get(1).is_some_and(|command| command == watchdog::COMMAND) {
        return run_watchdog(&args[1..]);
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return report_usage(&error),
    };
    match dispatch(cli.command, &args) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

/// The watchdog is no command for people, and stays small: it is read without the other commands.
fn run_watchdog(args: &[OsString]) -> u8 {
    let outcome = match watchdog::Line::try_parse_from(args) {
        Ok(line) => watchdog::run(&line.args),
        Err(error) => return report_usage(&error),
    };
    outcome.unwrap_or_else(|error| failure::report(&error))
}

fn dispatch(command: Command, args: &[OsString]) -> Outcome {
    match command {
        Command::Mount(mount) => mount::run(&mount, args),
        Command::Umount(args) => umount::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Stat(args) => stat::run(&args),
        Command::Du(args) => usage::run(usage::Verb::Du, &args),
        Command::Load(args) => load::run(&args),
        Command::Free(args) => usage::run(usage::Verb::Free, &args),
        Command::Pin(args) => usage::run(usage::Verb::Pin, &args),
        Command::Unpin(args) => usage::run(usage::Verb::Unpin, &args),
        Command::Hint(args) => hint::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => feedline_bench::run(args).map(|()| 0),
        Command::Dataset(args) => feedline_bench::dataset::run(args).map(|()| 0),
        Command::S3sim(args) => feedline_s3sim::run(args).map(|()| 0),
        Command::Demo(args) => demo::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Fs(command) => alluxio::fs(&command),
        Command::Job(command) => alluxio::job(&command),
    }
}

/// Help and version go to standard output as clap lays them out; a mistake is one line like any
/// other error, with clap's guess or the command's help as the way out.
fn report_usage(error: &clap::Error) -> u8 {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe is no error.
        let _ = error.print();
        return 0;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return failure::Exit::Usage as u8;
    }
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let way_out = suggestion(error).unwrap_or_else(|| "see `feedline help COMMAND`".to_owned());
    failure::report(&Failure::usage(message).way_out(way_out).into())
}

fn suggestion(error: &clap::Error) -> Option<String> {
    let kinds =
        [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue];
    kinds.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(word) => Some(format!("did you mean {word}?")),
        ContextValue::Strings(words) => Some(format!("did you mean {}?", words.first()?)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
