//! One try at one request against one kind of store: what the retry loop repeats.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::{ListPage, ListRequest, Object};

use crate::failure::Failure;

/// A kind of store. An implementation sends exactly one request per call and never waits to retry.
#[async_trait]
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    /// Reads a range that is not empty, pinned to the object's version: exactly its bytes.
    async fn get(&self, object: &Object, range: Range<u64>) -> Result<Bytes, Failure>;

    /// Lists one page.
    async fn list(&self, request: &ListRequest) -> Result<ListPage, Failure>;
}
