//! Puts objects into a store, for `feedline dataset put`.
//!
//! # Deliberately absent
//!
//! - Deleting, copying, making buckets. The read path never comes here.

use std::fmt;
use std::io;
use std::io::Write as _;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use feedline_model::{ReadError, Version};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};

use crate::cloud::{path_of, version_of};
use crate::failure::Failure;
use crate::folder::{self, FolderBackend, io_failure};
use crate::observe::observed;
use crate::stats::{StoreStats, Verb};

/// Bytes of a part. S3 allows 10,000 parts of at least 5 MiB: with 64 MiB, objects of 640 GB.
const PART_BYTES: usize = 64 << 20;

/// Parts of one object under way at once, which bounds an upload's memory to 192 MiB.
const PARTS_IN_FLIGHT: usize = 2;

/// Where objects go.
#[derive(Clone)]
pub(crate) enum UploadTarget {
    /// Through object_store, with its own retries.
    Store(Arc<dyn ObjectStore>),
    /// Into files.
    Folder(FolderBackend),
}

/// Writes objects under keys of one bucket. Cheap to clone; many puts may run at once.
#[derive(Clone)]
pub struct Uploader {
    pub(crate) target: UploadTarget,
    pub(crate) stats: Arc<StoreStats>,
    /// `s3://bucket`, for messages.
    pub(crate) base: Arc<str>,
}

impl fmt::Debug for Uploader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploader").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Uploader {
    /// Stores `bytes` under `key` (whole, with the prefix), replacing what was there. Atomic: readers
    /// see the old object or the new one. Cost: one PUT; at most 5 GiB.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]; retried like a read.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ReadError> {
        let length = bytes.len() as u64;
        self.stats.count_request(Verb::Put);
        let result = match &self.target {
            UploadTarget::Store(store) => match path_of(key) {
                Ok(path) => {
                    observed(store.put(&path, PutPayload::from_bytes(bytes))).await.map(drop)
                }
                Err(failure) => Err(failure),
            },
            UploadTarget::Folder(folder) => {
                let chunks = futures::stream::iter([Ok(bytes)]);
                put_file(folder, key, chunks).await
            }
        };
        if result.is_ok() {
            self.stats.count_written(length);
        }
        result.map_err(|failure| self.error(key, failure))
    }

    /// Stores what `chunks` gives under `key`, in parts if it is large. Returns the bytes stored. If
    /// the stream or the store fails, nothing is stored and the parts are removed.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]; an error of the stream is [`ReadError::Unavailable`].
    pub async fn put_stream(
        &self,
        key: &str,
        chunks: impl Stream<Item = io::Result<Bytes>> + Send + Unpin,
    ) -> Result<u64, ReadError> {
        let mut length = 0;
        let mut counted = chunks.inspect_ok(|chunk| length += chunk.len() as u64);
        let result = match &self.target {
            UploadTarget::Store(store) => put_parts(store, &self.stats, key, &mut counted).await,
            UploadTarget::Folder(folder) => {
                self.stats.count_request(Verb::Put);
                put_file(folder, key, &mut counted).await
            }
        };
        result.map_err(|failure| self.error(key, failure))?;
        self.stats.count_written(length);
        Ok(length)
    }

    /// The version of `key` in the store, or `None` if there is none; on S3 its time is in whole
    /// seconds, unlike a listing's: compare size and tag. Cost: one HEAD.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub async fn head(&self, key: &str) -> Result<Option<Version>, ReadError> {
        self.stats.count_request(Verb::Head);
        let found = match &self.target {
            UploadTarget::Store(store) => match path_of(key) {
                Ok(path) => observed(store.head(&path)).await.map(|meta| version_of(&meta)),
                Err(failure) => Err(failure),
            },
            UploadTarget::Folder(folder) => match folder.path(key) {
                Ok(path) => {
                    let metadata = move |_: &FolderBackend| {
                        std::fs::metadata(path).map_err(|e| io_failure(&e))
                    };
                    folder.blocking(metadata).await.map(|metadata| folder::version_of(&metadata))
                }
                Err(failure) => Err(failure),
            },
        };
        match found.map_err(|failure| self.error(key, failure)) {
            Ok(version) => Ok(Some(version)),
            Err(ReadError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn error(&self, key: &str, failure: Failure) -> ReadError {
        self.stats.count_error();
        failure.into_read_error(format!("{}/{key}", self.base).into(), std::time::Duration::ZERO)
    }
}

/// Collects the next part; `None` at the end.
async fn next_part(
    chunks: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin),
) -> Result<Option<Bytes>, Failure> {
    let mut part = BytesMut::new();
    while part.len() < PART_BYTES {
        match chunks.next().await {
            Some(chunk) => part.extend_from_slice(&chunk.map_err(|e| io_failure(&e))?),
            None if part.is_empty() => return Ok(None),
            None => break,
        }
    }
    Ok(Some(part.freeze()))
}

async fn put_parts(
    store: &Arc<dyn ObjectStore>,
    stats: &StoreStats,
    key: &str,
    chunks: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin),
) -> Result<(), Failure> {
    let path = path_of(key)?;
    let first = next_part(chunks).await?.unwrap_or_default();
    if first.len() < PART_BYTES {
        stats.count_request(Verb::Put);
        return observed(store.put(&path, PutPayload::from_bytes(first))).await.map(drop);
    }
    let mut upload = observed(store.put_multipart(&path)).await?;
    let result = send_parts(&mut *upload, stats, first, chunks).await;
    if result.is_err() {
        // The first error is the one to report; parts left over are the bucket's lifecycle's.
        let _ = upload.abort().await;
    }
    result
}

async fn send_parts(
    upload: &mut dyn MultipartUpload,
    stats: &StoreStats,
    first: Bytes,
    chunks: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin),
) -> Result<(), Failure> {
    let mut in_flight = futures::stream::FuturesUnordered::new();
    let mut part = Some(first);
    while let Some(bytes) = part {
        if in_flight.len() == PARTS_IN_FLIGHT {
            in_flight.next().await.unwrap_or(Ok(()))?;
        }
        stats.count_request(Verb::Put);
        in_flight.push(observed(upload.put_part(PutPayload::from_bytes(bytes))));
        part = next_part(chunks).await?;
    }
    while let Some(result) = in_flight.next().await {
        result?;
    }
    drop(in_flight);
    observed(upload.complete()).await.map(drop)
}

/// Writes a file beside its final name and renames it into place.
async fn put_file(
    folder: &FolderBackend,
    key: &str,
    mut chunks: impl Stream<Item = io::Result<Bytes>> + Unpin,
) -> Result<(), Failure> {
    let path = folder.path(key)?;
    let parent = path.parent().expect("a key is below the root").to_owned();
    let root = folder.root.clone();
    let mut file = folder
        .blocking(move |_| {
            // Not the root itself: an absent folder is an error, as an absent bucket is.
            std::fs::metadata(&root).map_err(|e| io_failure(&e))?;
            std::fs::create_dir_all(&parent).map_err(|e| io_failure(&e))?;
            TemporaryFile::create(&parent).map_err(|e| io_failure(&e))
        })
        .await?;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| io_failure(&e))?;
        file = folder
            .blocking(move |_| {
                file.file.write_all(&chunk).map_err(|e| io_failure(&e))?;
                Ok(file)
            })
            .await?;
    }
    folder.blocking(move |_| file.publish(&path).map_err(|e| io_failure(&e))).await
}

/// A file without its final name; removed unless published.
struct TemporaryFile {
    file: std::fs::File,
    path: Option<std::path::PathBuf>,
}

impl TemporaryFile {
    fn create(parent: &std::path::Path) -> io::Result<Self> {
        // Another upload into this directory takes the next number.
        for number in 0..u32::MAX {
            let path = parent.join(format!(".feedline-upload-{}-{number}", std::process::id()));
            match std::fs::File::create_new(&path) {
                Ok(file) => return Ok(Self { file, path: Some(path) }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::other("too many uploads into one directory"))
    }

    fn publish(mut self, path: &std::path::Path) -> io::Result<()> {
        if let Some(temporary) = &self.path {
            std::fs::rename(temporary, path)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Already failing: a file left over is the lesser evil, and its name tells what it is.
            let _ = std::fs::remove_file(path);
        }
    }
}
