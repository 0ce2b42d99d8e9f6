//! Step one: what was written, where. Flags, then `FEEDLINE_*` variables, then one TOML file, then
//! defaults; the first that says something wins. Nothing is interpreted here but names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::de::{DeTable, DeValue};

use super::table::{self, SETTINGS};

/// The file that is read if it exists and no other is named.
pub const FILE_DEFAULT: &str = "/etc/feedline.toml";

/// Why the configuration is unusable.
///
/// `place` is where the operator wrote it: `--buffer`, `FEEDLINE_BUFFER` or `FILE:LINE: buffer`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    /// Where to look.
    pub place: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl ConfigError {
    pub(super) fn new(place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { place: place.to_string(), message: message.into() }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag (or an argument) of the command.
    Flag,
    /// A `FEEDLINE_*` variable.
    Env,
    /// A line of the file.
    File(PathBuf, usize),
    /// Nobody wrote it.
    Default,
}

/// One value as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// One `[[mounts]]` of the file. What is absent falls back to the setting of the same name.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct MountWritten {
    /// Where in the tree; empty or absent is the root.
    #[serde(default)]
    pub(super) path: String,
    pub(super) url: String,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) path_style: Option<String>,
    pub(super) anonymous: Option<bool>,
    pub(super) ca_file: Option<String>,
    /// Line of the file, for errors.
    #[serde(skip)]
    pub(super) line: usize,
}

/// What the process was given. Made by the caller, so that tests own all of it.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Settings given as flags, by name (`metadata_ttl` or `metadata-ttl`); a later one wins.
    pub flags: Vec<(String, String)>,
    /// All variables of the environment; those that are no settings are ignored.
    pub env: Vec<(String, String)>,
    /// The file named by `--config`, which must exist. `None`: `FEEDLINE_CONFIG`, else
    /// `file_default` if that exists.
    pub file: Option<PathBuf>,
    /// Read if it exists and no other file is named.
    pub file_default: Option<PathBuf>,
}

impl Inputs {
    /// The environment and the usual file of this process, with these flags.
    #[must_use]
    pub fn of_process(flags: Vec<(String, String)>, file: Option<PathBuf>) -> Self {
        // A variable that is no UTF-8 cannot be one of ours.
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { flags, env, file, file_default: Some(FILE_DEFAULT.into()) }
    }
}

/// All that was written, merged: one value for each setting that somebody set.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    pub(super) values: BTreeMap<&'static str, Written>,
    pub(super) mounts: Vec<MountWritten>,
    pub(super) file: Option<PathBuf>,
    /// Variables that look like settings and are none.
    pub warnings: Vec<String>,
}

impl Merged {
    /// Reads the file and merges.
    ///
    /// # Errors
    ///
    /// An unknown name, a file that cannot be read or is no TOML.
    pub fn load(inputs: &Inputs) -> Result<Self, ConfigError> {
        let mut merged = Self::default();
        let from_env =
            inputs.env.iter().find(|(name, _)| name == "FEEDLINE_CONFIG").map(|(_, v)| v.into());
        let default = inputs.file_default.clone().filter(|file| file.exists());
        if let Some(file) = inputs.file.clone().or(from_env).or(default) {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| ConfigError::new(file.display(), error.to_string()))?;
            merged.read_file(&file, &text)?;
            merged.file = Some(file);
        }
        merged.read_env(&inputs.env);
        for (name, text) in &inputs.flags {
            let setting = table::find(&name.replace('-', "_"))
                .ok_or_else(|| ConfigError::new(format!("--{name}"), unknown(name)))?;
            let written = Written { text: text.clone(), origin: Origin::Flag };
            // `--cache` may be repeated: each names one more directory.
            match merged.values.get_mut(setting.name) {
                Some(earlier) if earlier.origin == Origin::Flag && setting.name == "cache" => {
                    earlier.text = format!("{},{text}", earlier.text);
                }
                _ => drop(merged.values.insert(setting.name, written)),
            }
        }
        Ok(merged)
    }

    /// The run directory alone, for commands that look for daemons and mount nothing.
    ///
    /// # Errors
    ///
    /// If the setting is no absolute path.
    pub fn run_dir(&self) -> Result<PathBuf, ConfigError> {
        Ok(self.path("run_dir")?.unwrap_or_else(crate::paths::run_dir_default))
    }

    fn read_env(&mut self, env: &[(String, String)]) {
        for (name, text) in env {
            if !name.starts_with("FEEDLINE_") || name == "FEEDLINE_CONFIG" {
                continue;
            }
            match SETTINGS.iter().find(|setting| setting.env() == *name) {
                Some(setting) => {
                    let written = Written { text: text.clone(), origin: Origin::Env };
                    self.values.insert(setting.name, written);
                }
                // Kubernetes sets such names for a service called feedline: no reason to fail.
                None => self.warnings.push(format!("{name} is no setting and is ignored")),
            }
        }
    }

    fn read_file(&mut self, file: &Path, text: &str) -> Result<(), ConfigError> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let document = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(span.start));
            ConfigError::new(format!("{}:{line}", file.display()), error.message())
        })?;
        for (key, value) in document.into_inner() {
            let line = line_of(key.span().start);
            let name: &str = key.get_ref();
            let place = format!("{}:{line}: {name}", file.display());
            if name == "mounts" {
                self.read_mounts(file, &line_of, value)?;
                continue;
            }
            let setting =
                table::find(name).ok_or_else(|| ConfigError::new(&place, unknown(name)))?;
            let text = plain_text(value.get_ref()).ok_or_else(|| {
                ConfigError::new(&place, "is neither text, number, true nor false")
            })?;
            let origin = Origin::File(file.to_owned(), line);
            self.values.insert(setting.name, Written { text, origin });
        }
        Ok(())
    }

    fn read_mounts(
        &mut self,
        file: &Path,
        line_of: &dyn Fn(usize) -> usize,
        value: toml::Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let line = line_of(value.span().start);
        let DeValue::Array(items) = value.into_inner() else {
            let place = format!("{}:{line}: mounts", file.display());
            return Err(ConfigError::new(place, "is no table: write [[mounts]]"));
        };
        for (index, item) in items.into_iter().enumerate() {
            let line = line_of(item.span().start);
            let mut mount =
                MountWritten::deserialize(item.into_deserializer()).map_err(|error| {
                    let line = error.span().map_or(line, |span| line_of(span.start));
                    let place = format!("{}:{line}: mounts[{index}]", file.display());
                    ConfigError::new(place, error.message())
                })?;
            mount.line = line;
            self.mounts.push(mount);
        }
        Ok(())
    }
}

/// A value of the file as the text that a flag would have; lists of text joined by commas.
fn plain_text(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Array(items) => {
            let texts: Option<Vec<_>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            texts?.join(",")
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}

/// Says that a name is unknown, with the nearest known one.
fn unknown(name: &str) -> String {
    let name = name.replace('-', "_");
    let near = SETTINGS
        .iter()
        .map(|setting| (distance(&name, setting.name), setting.name))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    match near {
        Some((_, near)) => format!("is no setting; did you mean {near}?"),
        None => "is no setting; `feedline config` prints all of them".into(),
    }
}

/// Edits between two short words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
