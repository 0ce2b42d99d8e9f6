//! What a job names, one file after another: from the listings, a manifest, or what failed before.
//!
//! # Invariants
//!
//! - Names go through a bounded queue: whoever lists waits for whoever loads.
//! - Whatever a line of a manifest holds, it becomes a file or a failure with a reason.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use feedline_model::{Directory, Object, ReadError, Tree as _};
use feedline_namespace::Namespace;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::failures;
use super::record::Kind;

/// Names that wait at most.
pub(crate) const QUEUE: usize = 1_024;

/// Lines of a manifest looked up at once: each may need the listing of another folder.
const LOOKUPS_AT_ONCE: usize = 32;

/// Bytes of a manifest's line at most: a path, and room for a URL.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Of a line that cannot be a path, so much is shown.
const SHOWN_CHARS: usize = 80;

/// One thing that a job names.
#[derive(Debug)]
pub(crate) enum Entry {
    File { path: String, object: Object },
    Failed { path: String, kind: Kind, reason: String },
}

/// Where in the tree lines are looked up.
#[derive(Debug)]
pub(crate) struct Lookup {
    pub(crate) namespace: Namespace,
    pub(crate) mountpoint: PathBuf,
    /// Path in the tree and URL of what is mounted.
    pub(crate) mounted: Vec<(String, String)>,
}

/// A list of names.
#[derive(Debug, Clone)]
pub(crate) enum Names {
    /// Everything at and below a path of the tree.
    Below(String),
    /// The lines of a file, relative to a path of the tree.
    Manifest { file: PathBuf, base: String },
    /// What failed in a pass before.
    Failed(PathBuf),
}

impl Names {
    /// Sends every name; ends when there are no more, or nobody listens.
    pub(crate) fn send(
        self,
        lookup: Arc<Lookup>,
        tasks: Handle,
        out: mpsc::Sender<Entry>,
    ) -> BoxFuture<'static, ()> {
        match self {
            Self::Below(path) => Box::pin(async move { below(&lookup, &path, &out).await }),
            Self::Manifest { file, base } => {
                let (lines, found) = mpsc::channel(QUEUE);
                let reading = tasks.spawn_blocking(move || read_manifest(&file, &lines));
                Box::pin(look_up(lookup, base, found, reading, out))
            }
            Self::Failed(file) => {
                let (lines, found) = mpsc::channel(QUEUE);
                let reading = tasks.spawn_blocking(move || read_failed(&file, &lines));
                Box::pin(look_up(lookup, String::new(), found, reading, out))
            }
        }
    }
}

/// A line, or the text of one that cannot be a path and why.
type Line = Result<String, (String, String)>;

/// Looks lines up in order, several at once.
async fn look_up(
    lookup: Arc<Lookup>,
    base: String,
    lines: mpsc::Receiver<Line>,
    reading: JoinHandle<io::Result<()>>,
    out: mpsc::Sender<Entry>,
) {
    let base: Arc<str> = base.into();
    let lines = stream::unfold(lines, |mut lines| async move {
        let line = lines.recv().await?;
        Some((line, lines))
    });
    let found = lines.map(|line| -> BoxFuture<'static, Entry> {
        let (lookup, base) = (Arc::clone(&lookup), Arc::clone(&base));
        Box::pin(async move { lookup.line(&base, line).await })
    });
    let mut found = std::pin::pin!(found.buffered(LOOKUPS_AT_ONCE));
    while let Some(entry) = found.next().await {
        if out.send(entry).await.is_err() {
            return;
        }
    }
    let why = match reading.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let reason = format!("the list cannot be read to its end: {why}");
    // Nobody listens any more: then nobody misses it.
    let _ = out.send(Entry::Failed { path: String::new(), kind: Kind::BadLine, reason }).await;
}

/// Everything at and below a path.
async fn below(lookup: &Lookup, path: &str, out: &mpsc::Sender<Entry>) {
    match lookup.find(path).await {
        Ok(Found::Folder) => {}
        Ok(Found::File(object)) => {
            // Nobody listens any more: then nobody misses it.
            let _ = out.send(Entry::File { path: path.to_owned(), object }).await;
            return;
        }
        Ok(Found::Nothing) => {
            let _ = out.send(absent(path)).await;
            return;
        }
        Err(error) => {
            let _ = out.send(unlisted(&error)).await;
            return;
        }
    }
    let mut folders = std::pin::pin!(lookup.namespace.pass_through(path));
    while let Some(folder) = folders.next().await {
        let sent = match folder {
            Ok(folder) => send_folder(&folder, out).await,
            Err(error) => out.send(unlisted(&error)).await.is_ok(),
        };
        if !sent {
            return;
        }
    }
}

/// The files of one folder. False: nobody listens any more.
async fn send_folder(folder: &Directory, out: &mpsc::Sender<Entry>) -> bool {
    for index in 0..folder.len() {
        let Some(object) = folder.object(index) else { continue };
        let path = folder.child_path(folder.name(index));
        if out.send(Entry::File { path, object }).await.is_err() {
            return false;
        }
    }
    true
}

fn unlisted(error: &ReadError) -> Entry {
    let (path, reason) = (error.location().to_owned(), error.to_string());
    Entry::Failed { path, kind: Kind::Unlisted, reason }
}

fn absent(path: &str) -> Entry {
    let (path, reason) = (path.to_owned(), "no such file".to_owned());
    Entry::Failed { path, kind: Kind::Absent, reason }
}

/// What a path stands for.
pub(crate) enum Found {
    File(Object),
    Folder,
    Nothing,
}

impl Lookup {
    /// Looks a path up, in the listing of its folder.
    pub(crate) async fn find(&self, path: &str) -> Result<Found, ReadError> {
        if path.is_empty() {
            let root = self.namespace.list("").await?;
            return Ok(if root.is_some() { Found::Folder } else { Found::Nothing });
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(parent) = self.namespace.list(parent).await? else { return Ok(Found::Nothing) };
        let Some(index) = parent.find(name) else { return Ok(Found::Nothing) };
        Ok(parent.object(index).map_or(Found::Folder, Found::File))
    }

    /// What a line names.
    async fn line(&self, base: &str, line: Line) -> Entry {
        let bad = |path: String, reason: &str| Entry::Failed {
            path,
            kind: Kind::BadLine,
            reason: reason.to_owned(),
        };
        let line = match line {
            Ok(line) => line,
            Err((text, why)) => return bad(text, &why),
        };
        let path = match self.path_of(base, &line) {
            Ok(path) => path,
            Err(why) => return bad(line, why),
        };
        match self.find(&path).await {
            Ok(Found::File(object)) => Entry::File { path, object },
            Ok(Found::Folder) => bad(path, "a folder: each line names a file"),
            Ok(Found::Nothing) => absent(&path),
            Err(error) => Entry::Failed { path, kind: kind_of(&error), reason: error.to_string() },
        }
    }

    /// The path in the tree that a line means.
    fn path_of(&self, base: &str, line: &str) -> Result<String, &'static str> {
        if line.is_empty() {
            return Err("an empty line");
        }
        let path = if line.contains("://") {
            self.below_url(line).ok_or("this URL is not mounted here")?
        } else if let Some(absolute) = line.strip_prefix('/') {
            let root = self.mountpoint.to_str().unwrap_or("").trim_start_matches('/');
            let below = absolute.strip_prefix(root).and_then(|rest| rest.strip_prefix('/'));
            below.ok_or("not in the mounted folder")?.to_owned()
        } else {
            let line = line.strip_prefix("./").unwrap_or(line);
            if base.is_empty() { line.to_owned() } else { format!("{base}/{line}") }
        };
        match path.split('/').find(|part| matches!(*part, "" | "." | "..")) {
            Some("") => Err("a name between its slashes is empty"),
            Some(_) => Err("`.` and `..` are no names of files"),
            None => Ok(path),
        }
    }

    fn below_url(&self, url: &str) -> Option<String> {
        let below = self.mounted.iter().filter_map(|(path, base)| {
            let rest = url.strip_prefix(base.trim_end_matches('/'))?.strip_prefix('/')?;
            let path = if path.is_empty() { rest.to_owned() } else { format!("{path}/{rest}") };
            Some((base.len(), path))
        });
        below.max_by_key(|(length, _)| *length).map(|(_, path)| path)
    }
}

/// Sends the paths of what failed before.
fn read_failed(file: &Path, out: &mpsc::Sender<Line>) -> io::Result<()> {
    for failure in failures::read(file)? {
        if out.blocking_send(Ok(failure.path)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Sends the lines of a manifest as they stand, without their ends.
fn read_manifest(file: &Path, out: &mpsc::Sender<Line>) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(file)?);
    let mut text = Vec::new();
    loop {
        text.clear();
        let limit = LINE_BYTES_MAX as u64;
        if io::Read::take(&mut reader, limit).read_until(b'\n', &mut text)? == 0 {
            return Ok(());
        }
        let is_cut = text.len() == LINE_BYTES_MAX && !text.ends_with(b"\n");
        if is_cut {
            skip_line(&mut reader)?;
        }
        if text.ends_with(b"\n") {
            text.pop();
        }
        if text.ends_with(b"\r") {
            text.pop();
        }
        let shown = || String::from_utf8_lossy(&text).chars().take(SHOWN_CHARS).collect();
        let line = match std::str::from_utf8(&text) {
            _ if is_cut => Err((shown(), "longer than a path can be".into())),
            Ok(line) => Ok(line.to_owned()),
            Err(_) => Err((shown(), "not UTF-8, as names in a bucket are".into())),
        };
        if out.blocking_send(line).is_err() {
            return Ok(());
        }
    }
}

/// Reads on to the end of the line.
fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        let is_end = end.is_some() || buffer.is_empty();
        reader.consume(used);
        if is_end {
            return Ok(());
        }
    }
}

/// A [`ReadError`] as a job counts it, without a wildcard.
pub(crate) fn kind_of(error: &ReadError) -> Kind {
    match error {
        ReadError::NotFound { .. } => Kind::Absent,
        ReadError::Forbidden { .. } => Kind::Forbidden,
        ReadError::Changed { .. } => Kind::Changed,
        ReadError::Unavailable { .. } => Kind::Unavailable,
        ReadError::Rejected { .. } => Kind::Rejected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn lines_come_as_they_stand_and_those_that_cannot_be_paths_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("manifest");
        let long = "x".repeat(3 * LINE_BYTES_MAX);
        let mut text = b"a/1.jpg\n\n ..\r\n\xff\xfe\n".to_vec();
        text.extend(format!("{long}\nlast").bytes());
        std::fs::write(&file, text).unwrap();
        let (out, mut lines) = mpsc::channel(2);
        let reading = Handle::current().spawn_blocking(move || read_manifest(&file, &out));
        let mut found = Vec::new();
        while let Some(line) = lines.recv().await {
            found.push(line.map_err(|(text, why)| (text.chars().count(), why)));
        }
        reading.await.unwrap().unwrap();
        let ok = |text: &str| Ok(text.to_owned());
        let expected = [
            ok("a/1.jpg"),
            ok(""),
            ok(" .."),
            Err((2, "not UTF-8, as names in a bucket are".to_owned())),
            Err((SHOWN_CHARS, "longer than a path can be".to_owned())),
            ok("last"),
        ];
        assert_eq!(found, expected);
    }
}
