//! The settings as flags: made from `node`'s table, so that flags, variables, file and manual agree.
//!
//! A relative path in a flag means the working directory of whoever typed it; it is made absolute
//! here, because the daemon runs in `/`.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use feedline_node::config::{ConfigError, Inputs, Kind, Merged, ResolvedConfig, SETTINGS, Setting};

use crate::daemon::absolute;
use crate::failure::Failure;

/// The heading of these flags in help.
const HEADING: &str =
    "Settings (also FEEDLINE_* variables, or lines NAME = \"VALUE\" of the configuration file)";

/// What the flags said: settings by name, and the configuration file.
#[derive(Debug, Clone, Default)]
pub(crate) struct SettingFlags {
    values: Vec<(String, String)>,
    file: Option<PathBuf>,
}

impl SettingFlags {
    /// Adds a setting, as if its flag had been given last.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.push((name.to_owned(), value.into()));
    }

    /// True if a flag gives this setting.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.iter().any(|(known, _)| known == name)
    }

    /// Where to look for daemons, as these flags say: the file they name counts too.
    pub(crate) fn run_dir(&self) -> RunDir {
        let flag = self.values.iter().rev().find(|(name, _)| name == "run_dir");
        let dir = match flag {
            Some((_, dir)) => Some(dir.into()),
            None => self.resolve_without_mount().ok().map(|(config, _)| config.run_dir),
        };
        RunDir { dir }
    }

    /// Everything that was configured, checked.
    ///
    /// # Errors
    ///
    /// The place and the reason, as `node` tells them; and relative paths without a working directory.
    pub(crate) fn resolve(&self) -> anyhow::Result<Result<ResolvedConfig, ConfigError>> {
        let mut flags = Vec::with_capacity(self.values.len());
        for (name, value) in &self.values {
            flags.push((name.clone(), absolute_value(name, value)?));
        }
        let inputs = Inputs::of_process(flags, self.file.clone());
        Ok(Merged::load(&inputs).and_then(|merged| ResolvedConfig::resolve(&merged)))
    }
}

/// Stand-ins for what only `mount` needs to know.
const STAND_INS: [(&str, &str); 2] =
    [("source", "s3://bucket"), ("mountpoint", "/nonexistent/feedline")];

impl SettingFlags {
    /// As [`SettingFlags::resolve`], without a source or a mountpoint if none was configured; also
    /// returns the names of those.
    ///
    /// # Errors
    ///
    /// A usage failure.
    pub(crate) fn resolve_without_mount(
        &self,
    ) -> anyhow::Result<(ResolvedConfig, Vec<&'static str>)> {
        let mut flags = self.clone();
        let mut missing = Vec::new();
        loop {
            let error = match flags.resolve()? {
                Ok(config) => return Ok((config, missing)),
                Err(error) => error,
            };
            let stand_in = STAND_INS.iter().find(|(name, _)| *name == error.place);
            let Some((name, value)) = stand_in.filter(|(name, _)| !flags.has(name)) else {
                return Err(failure(&error).into());
            };
            missing.push(*name);
            flags.set(name, *value);
        }
    }
}

/// Where to look for daemons.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct RunDir {
    /// Where daemons registered, if `mount` was given --run-dir [env: FEEDLINE_RUN_DIR]
    #[arg(id = "run_dir", long = "run-dir", value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl RunDir {
    /// The flag; else as configured; else, if the configuration makes no sense, as it would be
    /// without one. So `status` and `umount` work whatever is wrong with a file.
    ///
    /// # Errors
    ///
    /// If the flag is relative and the working directory is gone.
    pub(crate) fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.dir {
            return absolute(dir);
        }
        Ok(match SettingFlags::default().resolve_without_mount() {
            Ok((config, _)) => config.run_dir,
            Err(_) => std::env::var_os("FEEDLINE_RUN_DIR")
                .map_or_else(feedline_node::paths::run_dir_default, PathBuf::from),
        })
    }
}

/// A configuration error as the person at the terminal sees it.
pub(crate) fn failure(error: &ConfigError) -> Failure {
    Failure::usage(error.to_string()).way_out("`feedline config` explains each setting")
}

/// A path made absolute; values of other kinds as they are.
fn absolute_value(name: &str, value: &str) -> anyhow::Result<String> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    match feedline_node::config::find(name).map(|setting| setting.kind) {
        Some(Kind::Path) if !value.is_empty() => Ok(text(absolute(Path::new(value))?)),
        Some(Kind::CacheDirs) => {
            let mut parts = Vec::new();
            for part in value.split(',') {
                parts.push(match part.rsplit_once(':') {
                    Some((dir, size)) if !dir.is_empty() => {
                        format!("{}:{size}", text(absolute(Path::new(dir))?))
                    }
                    _ => part.to_owned(),
                });
            }
            Ok(parts.join(","))
        }
        _ => Ok(value.to_owned()),
    }
}

fn flag(setting: &Setting) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let help = format!("{}{default}", setting.help);
    let arg = Arg::new(setting.name)
        .long(setting.name.replace('_', "-"))
        .value_name(setting.value_name)
        .long_help(format!("{help} [env: {}]", setting.env()))
        .help(help)
        .help_heading(HEADING)
        .action(ArgAction::Append);
    let choices = setting.choices();
    if setting.is_switch() {
        // What is on already is only ever named to switch it off: `--oracle off`.
        if setting.default == "true" {
            return arg;
        }
        // `--anonymous s3://…` must not take the source for its value.
        return arg.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    if choices.is_empty() { arg } else { arg.value_parser(PossibleValuesParser::new(choices)) }
}

impl clap::Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("Configuration file (TOML) [default: /etc/feedline.toml if it exists] [env: FEEDLINE_CONFIG]")
            .help_heading(HEADING)
            .value_parser(clap::value_parser!(PathBuf));
        let settings = SETTINGS.iter().filter(|setting| !setting.positional);
        settings.fold(command.arg(file), |command, setting| command.arg(flag(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags =
            Self { file: matches.get_one::<PathBuf>("config").cloned(), ..Self::default() };
        for setting in SETTINGS.iter().filter(|setting| !setting.positional) {
            for value in matches.get_many::<String>(setting.name).into_iter().flatten() {
                flags.set(setting.name, value);
            }
        }
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_is_on_takes_its_value_as_a_word_and_one_that_is_off_needs_none() {
        let command = <SettingFlags as clap::Args>::augment_args(
            Command::new("mount").arg(Arg::new("source")),
        );
        let words = "mount --oracle off --anonymous s3://b --fill=off".split(' ');
        let matches = command.try_get_matches_from(words).unwrap();
        let value = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
        assert_eq!(
            ["oracle", "anonymous", "source", "fill"].map(value),
            ["off", "true", "s3://b", "off"]
        );
    }

    #[test]
    fn relative_paths_in_flags_mean_the_working_directory() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            absolute_value("ca_file", "x/ca.pem").unwrap(),
            here.join("x/ca.pem").to_str().unwrap()
        );
        let cache = absolute_value("cache", "a:1GiB,/b:2GiB").unwrap();
        assert_eq!(cache, format!("{}:1GiB,/b:2GiB", here.join("a").display()));
        assert_eq!(absolute_value("log_level", "a/b").unwrap(), "a/b");
    }
}
