//! GCS and Azure through object_store's clients.
//!
//! # Deliberately absent
//!
//! - Keys that object_store cannot parse as a path (an empty part, `.`, `..`, control characters): a
//!   listing page with one fails as a whole and says so.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::{Clock, ETag, ListPage, ListRequest, ListedObject, Object, Version};
use futures::TryStreamExt as _;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};

use crate::backend::Backend;
use crate::failure::Failure;
use crate::http::Watchdog;
use crate::observe::observed;

/// A listing is at most a few MiB; this makes the watchdog wait a few seconds longer at most.
const LIST_BYTES: u64 = 1 << 20;

/// One bucket of GCS or container of Azure.
pub(crate) struct CloudBackend {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) lister: Arc<dyn PaginatedListStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timeout: Duration,
}

impl fmt::Debug for CloudBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The stores print their settings, in which some keep secrets.
        f.debug_struct("CloudBackend").finish_non_exhaustive()
    }
}

/// The key as object_store's path, if it survives that unchanged.
pub(crate) fn path_of(key: &str) -> Result<Path, Failure> {
    let path = Path::parse(key)
        .map_err(|e| Failure::Malformed(format!("the key cannot be asked for: {e}")))?;
    if path.as_ref() == key {
        Ok(path)
    } else {
        Err(Failure::Malformed("the key cannot be asked for: a slash at one of its ends".into()))
    }
}

/// The version that object_store reports.
pub(crate) fn version_of(meta: &ObjectMeta) -> Version {
    let tag = meta.e_tag.as_deref().unwrap_or_default();
    Version {
        size: meta.size,
        modified_ms: meta.last_modified.timestamp_millis(),
        etag: ETag::parse(tag.strip_prefix("W/").unwrap_or(tag)),
    }
}

#[async_trait]
impl Backend for CloudBackend {
    async fn get(&self, object: &Object, range: Range<u64>) -> Result<Bytes, Failure> {
        let path = path_of(&object.key)?;
        let expected = range.end - range.start;
        let mut options = GetOptions::new();
        if expected != object.version.size {
            options.range = Some(GetRange::Bounded(range));
        }
        options.if_match = object.version.etag.text().map(|tag| format!("\"{tag}\""));
        let mut watchdog = Watchdog::new(&self.clock, self.timeout, expected);
        let answer = watchdog.guard(observed(self.store.get_opts(&path, options))).await??;
        let found = version_of(&answer.meta);
        let same_tag = found.etag == object.version.etag
            || found.etag == ETag::Absent
            || object.version.etag == ETag::Absent;
        if !same_tag || found.size != object.version.size {
            return Err(Failure::Changed(format!("{found:?} instead of {:?}", object.version)));
        }
        let mut stream = answer.into_stream();
        let mut bytes = Vec::with_capacity(usize::try_from(expected).expect("fits in memory"));
        while let Some(chunk) = watchdog.guard(observed(stream.try_next())).await?? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, Failure> {
        let options = PaginatedListOptions {
            delimiter: request.delimiter.then(|| "/".into()),
            offset: request.after.clone().filter(|_| request.token.is_none()),
            page_token: request.token.clone(),
            ..PaginatedListOptions::default()
        };
        let prefix = (!request.prefix.is_empty()).then_some(request.prefix.as_str());
        let mut watchdog = Watchdog::new(&self.clock, self.timeout, LIST_BYTES);
        let list = observed(self.lister.list_paginated(prefix, options));
        let answer = watchdog.guard(list).await??;
        let objects = answer.result.objects.iter().map(|meta| {
            let mut key = meta.location.to_string();
            // The marker of the prefix itself, whose slash the path has lost.
            if !key.starts_with(&request.prefix) {
                key.push('/');
            }
            ListedObject { key, version: version_of(meta) }
        });
        let prefixes = answer.result.common_prefixes.iter().map(|path| format!("{path}/"));
        Ok(ListPage {
            objects: objects.collect(),
            prefixes: prefixes.collect(),
            next: answer.page_token,
        })
    }
}
