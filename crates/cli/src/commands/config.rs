//! `feedline config`: each setting with its value, where that came from, and what it means.

use std::io::Write as _;

use feedline_node::api::SettingInfo;

use crate::daemon::Daemon;
use crate::failure::Outcome;
use crate::output::{self, Table};
use crate::settings::SettingFlags;

/// Whose settings.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  feedline config                         what a mount here would use
  feedline config --cache /ssd:500GiB     the same, with that flag
  feedline config /mnt/data               what the daemon of that mount uses

Flags win over FEEDLINE_* variables, these over the configuration file, and that over defaults.")]
pub(crate) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// A path in a mounted folder: what its daemon uses. Without it, what a mount here would use.
    path: Option<String>,
    #[command(flatten)]
    settings: SettingFlags,
}

/// Resolves, or asks, and prints.
pub(crate) fn run(args: &Args) -> Outcome {
    let list = match &args.path {
        Some(path) => Daemon::find(&args.settings.run_dir(), path)?.0.config()?,
        None => resolved(&args.settings)?,
    };
    if args.json {
        output::json(&list)?;
        return Ok(0);
    }
    let mut table = Table::new(&["setting", "value", "source", "meaning"]);
    for setting in list {
        let value = if setting.value.is_empty() { "-".to_owned() } else { setting.value };
        table.row([setting.name, value, setting.source, setting.help]);
    }
    let mut out = output::stdout();
    table.write(&mut out, "")?;
    out.flush()?;
    Ok(0)
}

/// The settings that a mount started here would have.
fn resolved(flags: &SettingFlags) -> anyhow::Result<Vec<SettingInfo>> {
    let (config, missing) = flags.resolve_without_mount()?;
    let written = |info: &SettingInfo| !missing.contains(&info.name.as_str());
    Ok(config.settings.into_iter().filter(written).collect())
}
