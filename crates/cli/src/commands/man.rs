//! `feedline man`: the manual, from the command line's own definition.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::failure::Outcome;
use crate::output;

/// Where to.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  feedline man | man -l -
  feedline man /usr/local/share/man/man1")]
pub(crate) struct Args {
    /// Write one page per command into this directory; without it, the main page is printed.
    dir: Option<PathBuf>,
}

/// Prints or writes the pages.
pub(crate) fn run(args: &Args) -> Outcome {
    let command = Cli::command();
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        clap_mangen::generate_to(command, dir)
            .with_context(|| format!("cannot write to {}", dir.display()))?;
        return Ok(0);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    let mut out = output::stdout();
    out.write_all(&page)?;
    out.flush()?;
    Ok(0)
}
