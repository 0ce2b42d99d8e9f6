//! The log: lines for people or JSON for machines, on standard error.

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat};

/// The S3 server library logs requests with their signatures, and every missing key as an error.
const SILENT: &str = "s3s=off";

/// Sends everything logged from now on to standard error. Call once, before [`crate::Node::start`].
///
/// `level` is a level, or a list such as `feedline_store=debug,info`.
///
/// # Errors
///
/// If `level` cannot be read, or a log was set up before.
pub fn init(format: LogFormat, level: &str) -> Result<(), ConfigError> {
    let error = |message: String| ConfigError { place: "log_level".into(), message };
    let filter = EnvFilter::try_new(level).map_err(|why| error(format!("{level:?}: {why}")))?;
    let filter = filter.add_directive(SILENT.parse().expect("a directive"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Human => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|why| error(format!("the log is already set up: {why}")))
}
