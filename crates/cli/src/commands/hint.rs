//! `feedline hint`: tells the daemon in which order a job will read a data set.

use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use feedline_node::api::{HINT_BYTES_MAX, HintOrder, HintRequest};

use crate::daemon::Daemon;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::settings::RunDir;

/// Lines read at most: with two bytes and more a line, what fits into a hint.
const LINES_MAX: usize = HINT_BYTES_MAX / 2;

/// Bytes of a line at most: a path.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Which data set, and its order.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["order", "sampler"]),
    after_help = "FILE holds one entry a line: a file's path below PATH (or its path in the mounted folder), or,
if all lines are numbers, its place from 0 in the sorted list of the files. Blank lines are skipped.
The first files of the order are fetched first; a wrong hint is noticed and dropped.

Not needed for DALI's shuffle, torch's DistributedSampler and reading in the order of the list:
those are recognised. Nor from Python: see `feedline.Sampler` in the package `python/`.

Examples:
  feedline hint /mnt/data/train --order epoch-1.txt
  sort -R files.txt | tee order.txt | feedline hint /mnt/data/train --order -
  feedline hint /mnt/data/train --sampler torch-random --seed 1,2,3"
)]
pub(crate) struct Args {
    /// The order, one file a line; - is standard input.
    #[arg(long, value_name = "FILE")]
    order: Option<PathBuf>,
    /// The sampler that makes the order.
    #[arg(long, value_enum, value_name = "NAME", requires = "seed")]
    sampler: Option<Sampler>,
    /// The seed of each epoch's generator, in the order of the epochs.
    #[arg(long, value_name = "S[,S...]", value_delimiter = ',', conflicts_with = "order")]
    seed: Vec<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run_dir: RunDir,
    /// The data set's folder, or the s3:// URL of something mounted.
    path: String,
}

/// Samplers whose order follows from a seed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sampler {
    /// torch.utils.data.RandomSampler with a generator seeded so at the start of the epoch
    TorchRandom,
}

/// Sends and says how much of the order was known.
pub(crate) fn run(args: &Args) -> Outcome {
    let (daemon, path) = Daemon::find(&args.run_dir, &args.path)?;
    let order = match (&args.order, args.sampler) {
        (Some(file), _) => {
            let root = daemon.mountpoint.join(&path);
            parse(lines(file)?, &root).map_err(|failure| named(failure, file))?
        }
        (None, Some(Sampler::TorchRandom)) => HintOrder::TorchSeeds(args.seed.clone()),
        (None, None) => return Err(Failure::usage("give --order or --sampler").into()),
    };
    let (given, epochs) = (order.len() as u64, matches!(order, HintOrder::TorchSeeds(_)));
    let answer = daemon.hint(&HintRequest { path: path.clone(), from: 0, order })?;
    if args.json {
        output::json(&answer)?;
        return Ok(0);
    }
    let mut out = output::stdout();
    let (files, given_text) = (output::count(answer.files), output::count(given));
    if epochs {
        writeln!(out, "took the order of {given_text} epochs of {files} files")?;
    } else {
        let unknown = match given - answer.matched.min(given) {
            0 => String::new(),
            others => format!("; {} name none and are ignored", output::count(others)),
        };
        writeln!(out, "took {given_text} entries for {files} files{unknown}")?;
    }
    out.flush()?;
    Ok(0)
}

/// The lines of a file that are not blank, in order.
fn lines(file: &Path) -> anyhow::Result<Vec<String>> {
    let name = file.display();
    let mut reader: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let opened = File::open(file).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::not_found(format!("{name}: no such file")),
            _ => Failure::failed(format!("{name}: {error}")),
        });
        Box::new(BufReader::new(opened?))
    };
    let mut lines = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let limit = LINE_BYTES_MAX as u64;
        let read = std::io::Read::take(&mut *reader, limit).read_until(b'\n', &mut line);
        if read.with_context(|| format!("read {name}"))? == 0 {
            break;
        }
        if line.len() == LINE_BYTES_MAX {
            let message = format!("{name}:{number}: longer than a path can be");
            return Err(Failure::usage(message).way_out("one path or position a line").into());
        }
        let text = std::str::from_utf8(&line).map_err(|_| {
            Failure::usage(format!("{name}:{number}: not UTF-8, as names in a bucket are"))
        })?;
        let text = text.trim_end_matches(['\n', '\r']);
        if lines.len() == LINES_MAX {
            return Err(Failure::usage(format!("{name}: more than {LINES_MAX} lines")).into());
        }
        if !text.trim().is_empty() {
            lines.push(text.to_owned());
        }
    }
    Ok(lines)
}

/// Numbers alone are positions; else each line is a path, below `root` or absolute in it.
fn parse(lines: Vec<String>, root: &Path) -> Result<HintOrder, Failure> {
    if lines.is_empty() {
        return Err(Failure::usage("no lines").way_out("one path or position a line"));
    }
    let is_number = |line: &String| line.trim().bytes().all(|byte| byte.is_ascii_digit());
    if lines.iter().all(is_number) {
        let positions = lines.iter().map(|line| {
            line.trim().parse().map_err(|_| {
                Failure::usage(format!("{line}: no position: they end at {}", u32::MAX))
            })
        });
        return positions.collect::<Result<_, _>>().map(HintOrder::Positions);
    }
    let below = |line: String| match Path::new(&line).strip_prefix(root) {
        Ok(below) => below.to_string_lossy().into_owned(),
        Err(_) => line.strip_prefix("./").map(str::to_owned).unwrap_or(line),
    };
    Ok(HintOrder::Files(lines.into_iter().map(below).collect()))
}

/// The failure with the file's name before it.
fn named(failure: Failure, file: &Path) -> Failure {
    Failure { message: format!("{}: {}", file.display(), failure.message), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(lines: &[&str]) -> Result<HintOrder, String> {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        parse(lines, Path::new("/mnt/data/train")).map_err(|failure| failure.message)
    }

    #[test]
    fn numbers_alone_are_positions_and_anything_else_is_a_path() {
        assert_eq!(parsed(&["2", " 0 ", "1"]), Ok(HintOrder::Positions(vec![2, 0, 1])));
        let files = |names: &[&str]| {
            Ok(HintOrder::Files(names.iter().map(|name| (*name).to_owned()).collect()))
        };
        assert_eq!(parsed(&["2", "0.jpg"]), files(&["2", "0.jpg"]));
        let lines = ["a/1.jpg", "/mnt/data/train/b/2 x.jpg", "./c/3.jpg", "/mnt/data/training/4"];
        assert_eq!(
            parsed(&lines),
            files(&["a/1.jpg", "b/2 x.jpg", "c/3.jpg", "/mnt/data/training/4"])
        );
        assert!(parsed(&["4294967296"]).unwrap_err().contains("4294967295"));
        assert_eq!(parsed(&[]).unwrap_err(), "no lines");
    }
}
