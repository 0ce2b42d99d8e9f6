//! `feedline doctor`: looks at everything a mount depends on and says what to do about what is bad.

mod bucket;
mod machine;

use std::io::Write as _;

use serde::Serialize;

use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};
use crate::settings::SettingFlags;

/// What to look at.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  feedline doctor                                          this machine
  feedline doctor s3://bucket/prefix --cache /ssd:500GiB   also the bucket and that disk

The exit code is 1 when something would keep a mount from working.")]
pub(crate) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// A bucket to reach, such as s3://bucket/prefix.
    source: Option<String>,
    #[command(flatten)]
    settings: SettingFlags,
}

/// How it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    state: State,
    detail: String,
    way_out: Option<String>,
}

impl Check {
    fn new(name: impl Into<String>, state: State, detail: impl Into<String>) -> Self {
        Self { name: name.into(), state, detail: detail.into(), way_out: None }
    }

    fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(name, State::Ok, detail)
    }

    fn warn(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(name, State::Warn, detail)
    }

    fn fail(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(name, State::Fail, detail)
    }

    fn way_out(mut self, way_out: impl Into<String>) -> Self {
        self.way_out = Some(way_out.into());
        self
    }
}

/// Looks, prints, and fails if anything failed.
pub(crate) fn run(args: &Args) -> Outcome {
    let mut checks = vec![
        machine::fuse_device(),
        machine::user_mounts(),
        machine::passthrough(),
        machine::fusectl(),
        machine::descriptors(),
    ];
    checks.extend(bucket::checks(args));
    let failed = checks.iter().any(|check| check.state == State::Fail);
    if args.json {
        output::json(&checks)?;
    } else {
        print(&checks)?;
    }
    Ok(if failed { Exit::Failed as u8 } else { 0 })
}

fn print(checks: &[Check]) -> std::io::Result<()> {
    let mut table = Table::new(&["", "", ""]);
    for check in checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        table.row([state.to_owned(), check.name.clone(), check.detail.clone()]);
        if let Some(way_out) = &check.way_out {
            table.row([String::new(), String::new(), format!("way out: {way_out}")]);
        }
    }
    let mut out = output::stdout();
    table.write(&mut out, "")?;
    out.flush()
}
