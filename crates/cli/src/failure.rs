//! How a command ends: exit codes, and an error with a way out.
//!
//! Every error a person sees is printed in one place, `main`, as `feedline: WHAT` and, where there is
//! something to do about it, a second line `way out: …`. Nothing else writes to standard error, but
//! for progress bars and logs.

use std::fmt;
use std::io;

/// The exit codes, as every `--help` documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It did not work, or a check found something bad.
    Failed = 1,
    /// The command line, an option or the configuration makes no sense.
    Usage = 2,
    /// No such path, or no daemon serves it.
    NotFound = 3,
}

impl Exit {
    /// The code that a daemon's relayed number stands for.
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            2 => Self::Usage,
            3 => Self::NotFound,
            _ => Self::Failed,
        }
    }
}

/// An error as the person at the terminal sees it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What went wrong, one sentence that names the thing.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) way_out: Option<String>,
    /// How the process ends.
    pub(crate) exit: Exit,
}

impl Failure {
    /// Something did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), way_out: None, exit: Exit::Failed }
    }

    /// The command line or the configuration makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), way_out: None, exit: Exit::Usage }
    }

    /// A path or a daemon is not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { message: message.into(), way_out: None, exit: Exit::NotFound }
    }

    /// Adds what to do about it.
    pub(crate) fn way_out(mut self, way_out: impl Into<String>) -> Self {
        self.way_out = Some(way_out.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What a command says to `main`: an exit code for an end without an error message.
pub(crate) type Outcome = anyhow::Result<u8>;

/// True if the reader of our output went away (`feedline ls | head`): not an error.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
            || cause
                .downcast_ref::<serde_json::Error>()
                .is_some_and(|e| e.io_error_kind() == Some(io::ErrorKind::BrokenPipe))
    })
}

/// Prints an error and gives the exit code that belongs to it.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    if is_broken_pipe(error) {
        return 0;
    }
    let (text, exit) = render(error);
    eprint!("{text}");
    exit as u8
}

/// The lines printed for an error, and its exit code. The message is flattened to one line.
fn render(error: &anyhow::Error) -> (String, Exit) {
    let failure = error.downcast_ref::<Failure>();
    let message = one_line(&format!("{error:#}"));
    let mut text = format!("feedline: {message}\n");
    if let Some(way_out) = failure.and_then(|failure| failure.way_out.as_deref()) {
        text.push_str(&format!("way out: {}\n", one_line(way_out)));
    }
    (text, failure.map_or(Exit::Failed, |failure| failure.exit))
}

/// Joins the lines of a message, so that a log or a script sees one.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_its_way_out_another() {
        let failure = Failure::not_found("/x:\n  no daemon").way_out("feedline status");
        let (text, exit) = render(&failure.into());
        assert_eq!(text, "feedline: /x: no daemon\nway out: feedline status\n");
        assert_eq!(exit, Exit::NotFound);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let error: anyhow::Error = io::Error::from(io::ErrorKind::BrokenPipe).into();
        assert!(is_broken_pipe(&error.context("writing")));
        assert!(!is_broken_pipe(&anyhow::anyhow!("other")));
    }
}
