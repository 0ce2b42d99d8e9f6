//! The files that a job could not load, in a file of their own: as many as there are, and none in memory.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use feedline_gateway::api::LoadFailure;
use serde::{Deserialize, Serialize};

/// Bytes of a line at most that are read back: a path and a reason.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    path: String,
    reason: String,
}

/// Where the failures of a pass go.
#[derive(Debug)]
pub(crate) struct Failures {
    out: BufWriter<File>,
    /// The first write that failed: the file is then not whole.
    broken: Option<io::Error>,
}

impl Failures {
    /// Begins anew.
    pub(crate) fn create(file: &Path) -> io::Result<Self> {
        Ok(Self { out: BufWriter::new(File::create(file)?), broken: None })
    }

    pub(crate) fn add(&mut self, path: &str, reason: &str) {
        let line = Line { path: path.to_owned(), reason: reason.to_owned() };
        let written = serde_json::to_writer(&mut self.out, &line).map_err(io::Error::other);
        if let Err(error) = written.and_then(|()| self.out.write_all(b"\n")) {
            self.broken.get_or_insert(error);
        }
    }

    /// Hands on what is buffered.
    ///
    /// # Errors
    ///
    /// If this, or any write before it, failed.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.broken.take().map_or_else(|| self.out.flush(), Err)
    }
}

/// Reads a file of failures back, one by one. A line cut short by a crash is the end.
pub(crate) fn read(file: &Path) -> io::Result<impl Iterator<Item = LoadFailure> + Send + use<>> {
    let mut reader = BufReader::new(File::open(file)?);
    let mut text = Vec::new();
    Ok(std::iter::from_fn(move || {
        text.clear();
        let read = io::Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut text);
        let line: Line = serde_json::from_slice(&text).ok().filter(|_| read.is_ok())?;
        Some(LoadFailure { path: line.path, reason: line.reason })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_back_up_to_a_line_that_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.failed");
        let mut failures = Failures::create(&file).unwrap();
        let odd = "a\nb\"ü\u{fffd}";
        failures.add(odd, "gone");
        failures.add("c", "no room");
        failures.flush().unwrap();
        let back: Vec<_> = read(&file).unwrap().collect();
        assert_eq!(back.len(), 2);
        assert_eq!((&*back[0].path, &*back[1].reason), (odd, "no room"));
        let text = std::fs::read(&file).unwrap();
        std::fs::write(&file, &text[..text.len() - 4]).unwrap();
        assert_eq!(read(&file).unwrap().count(), 1);
        Failures::create(&file).unwrap();
        assert_eq!(read(&file).unwrap().count(), 0);
    }
}
