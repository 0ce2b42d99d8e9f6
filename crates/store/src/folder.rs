//! A local folder as a store: every file below it is an object, its path is the key.
//!
//! # Invariants
//!
//! - Listings come in S3's order, the bytes of the keys, also across pages.
//! - A read is checked against the version before and after: a file that is rewritten meanwhile gives
//!   [`Failure::Changed`], never a mixture.
//!
//! # Deliberately absent
//!
//! - Names that are not UTF-8 (skipped and counted), sockets, pipes and devices.
//! - Symbolic links that lead back to a directory above themselves; others are followed.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::{ETag, ListPage, ListRequest, ListedObject, Object, Version};
use tokio::runtime::Handle;

use crate::backend::Backend;
use crate::failure::Failure;
use crate::stats::StoreStats;

/// Names in a page. More than S3's 1,000, because each page reads the directories again.
const PAGE_NAMES: usize = 10_000;

/// Directories within directories; symbolic links can make more without being a loop.
const DEPTH_MAX: usize = 128;

/// One directory of this machine.
#[derive(Debug, Clone)]
pub(crate) struct FolderBackend {
    pub(crate) root: Arc<Path>,
    pub(crate) handle: Handle,
    pub(crate) stats: Arc<StoreStats>,
}

impl FolderBackend {
    /// The file of a key, if it is a path that stays within the folder.
    pub(crate) fn path(&self, key: &str) -> Result<PathBuf, Failure> {
        let valid =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if key.split('/').all(valid) {
            Ok(self.root.join(key))
        } else {
            Err(Failure::Malformed(format!("{key:?} is no path of a file")))
        }
    }

    /// Runs `work` where it may block.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let this = self.clone();
        match self.handle.spawn_blocking(move || work(&this)).await {
            Ok(result) => result,
            Err(error) => Err(Failure::Disk(format!("the reading thread ended: {error}"))),
        }
    }
}

/// What an error of the file system means.
pub(crate) fn io_failure(error: &io::Error) -> Failure {
    let text = error.to_string();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
            Failure::Absent(text)
        }
        io::ErrorKind::PermissionDenied => Failure::Denied(text),
        io::ErrorKind::UnexpectedEof => Failure::Changed("the file became shorter".into()),
        _ => Failure::Disk(text),
    }
}

/// A file's version: inode, time in nanoseconds and size, so that a rewrite within one millisecond
/// and a rename into place are both seen.
pub(crate) fn version_of(metadata: &Metadata) -> Version {
    let time_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    let tag = format!("{:x}-{time_ns:x}-{:x}", metadata.ino(), metadata.len());
    Version {
        size: metadata.len(),
        modified_ms: metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000,
        etag: ETag::Other(tag.into()),
    }
}

fn check_version(file: &File, object: &Object) -> Result<(), Failure> {
    let metadata = file.metadata().map_err(|e| io_failure(&e))?;
    if !metadata.is_file() {
        return Err(Failure::Absent("not a regular file".into()));
    }
    let found = version_of(&metadata);
    if found == object.version {
        return Ok(());
    }
    Err(Failure::Changed(format!("{found:?} instead of {:?}", object.version)))
}

#[async_trait]
impl Backend for FolderBackend {
    async fn get(&self, object: &Object, range: Range<u64>) -> Result<Bytes, Failure> {
        let path = self.path(&object.key)?;
        let object = object.clone();
        self.blocking(move |_| {
            let file = File::open(path).map_err(|e| io_failure(&e))?;
            check_version(&file, &object)?;
            let length = usize::try_from(range.end - range.start).expect("fits in memory");
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, range.start).map_err(|e| io_failure(&e))?;
            check_version(&file, &object)?;
            Ok(bytes.into())
        })
        .await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, Failure> {
        let request = request.clone();
        self.blocking(move |this| this.list_page(&request)).await
    }
}

/// A listing under way.
struct Walk<'a> {
    folder: &'a FolderBackend,
    request: &'a ListRequest,
    page: ListPage,
    last: String,
    /// Device and inode of every directory from the root to here.
    above: Vec<(u64, u64)>,
}

impl FolderBackend {
    fn list_page(&self, request: &ListRequest) -> Result<ListPage, Failure> {
        let root = std::fs::metadata(&self.root).map_err(|e| io_failure(&e))?;
        if !root.is_dir() {
            return Err(Failure::Absent("not a directory".into()));
        }
        let base = request.prefix.rfind('/').map_or("", |slash| &request.prefix[..=slash]);
        let mut walk = Walk {
            folder: self,
            request,
            page: ListPage::default(),
            last: String::new(),
            above: Vec::new(),
        };
        if base.is_empty()
            || self.path(base.trim_end_matches('/')).is_ok_and(|_| !base.ends_with("//"))
        {
            walk.directory(base)?;
        }
        Ok(walk.page)
    }
}

impl Walk<'_> {
    /// Lists the directory with this key prefix (empty, or with a slash at its end). True: the page is
    /// full and its token set.
    fn directory(&mut self, prefix: &str) -> Result<bool, Failure> {
        let path = self.folder.root.join(prefix);
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) => return Ok(false),
            // Gone since its name was read, or never there: an empty prefix.
            Err(e) if matches!(io_failure(&e), Failure::Absent(_)) => return Ok(false),
            Err(e) => return Err(io_failure(&e)),
        };
        let identity = (metadata.dev(), metadata.ino());
        if self.above.contains(&identity) || self.above.len() == DEPTH_MAX {
            return Ok(false);
        }
        self.above.push(identity);
        let mut full = false;
        for name in self.names(&path)? {
            let key = format!("{prefix}{name}");
            full = self.entry(&key)?;
            if full {
                break;
            }
        }
        self.above.pop();
        Ok(full)
    }

    /// Names of a directory in S3's order, in which a directory sorts with the slash at its end.
    fn names(&self, path: &Path) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(|e| io_failure(&e))? {
            let entry = entry.map_err(|e| io_failure(&e))?;
            let Ok(mut name) = entry.file_name().into_string() else {
                self.folder.stats.count_skipped(1);
                continue;
            };
            let kind = entry.file_type().map_err(|e| io_failure(&e))?;
            let is_directory = if kind.is_symlink() {
                std::fs::metadata(entry.path()).is_ok_and(|target| target.is_dir())
            } else {
                kind.is_dir()
            };
            if is_directory {
                name.push('/');
            }
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Lists one key, or what is below it if it ends in a slash.
    fn entry(&mut self, key: &str) -> Result<bool, Failure> {
        let prefix = self.request.prefix.as_str();
        let begin = self.request.token.as_deref().or(self.request.after.as_deref());
        let token = begin.unwrap_or_default();
        let is_directory = key.ends_with('/');
        let below_prefix = key.starts_with(prefix);
        let leads_to_prefix = is_directory && prefix.starts_with(key);
        if !(below_prefix || leads_to_prefix) {
            return Ok(false);
        }
        let folded =
            is_directory && below_prefix && self.request.delimiter && key.len() > prefix.len();
        if is_directory && !folded {
            // The token's own directory is gone through again; those before it are done.
            return if key < token && !token.starts_with(key) {
                Ok(false)
            } else {
                self.directory(key)
            };
        }
        // A listing may begin with a key in the midst of a folder: what follows there folds into it.
        let is_begun = folded && key != token && token.starts_with(key);
        if key <= token && !is_begun {
            return Ok(false);
        }
        let version = match std::fs::metadata(self.folder.root.join(key)) {
            _ if is_directory => None,
            Ok(metadata) if metadata.is_file() => Some(version_of(&metadata)),
            // Neither file nor directory, a link to nowhere, or removed since.
            Ok(_) => return Ok(false),
            Err(e) if matches!(io_failure(&e), Failure::Absent(_)) => return Ok(false),
            Err(e) => return Err(io_failure(&e)),
        };
        if self.page.objects.len() + self.page.prefixes.len() == PAGE_NAMES {
            self.page.next = Some(std::mem::take(&mut self.last));
            return Ok(true);
        }
        key.clone_into(&mut self.last);
        match version {
            Some(version) => self.page.objects.push(ListedObject { key: key.to_owned(), version }),
            None => self.page.prefixes.push(key.to_owned()),
        }
        Ok(false)
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
