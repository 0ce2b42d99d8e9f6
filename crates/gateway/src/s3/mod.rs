//! The S3 side of the node's port: buckets that are mounted, for reading, through the cache.
//!
//! `s3s` speaks the protocol and checks signatures; what an answer holds is asked of `model`'s traits:
//! bytes of the cache, versions and names of the tree, pages of the bucket's own listing.
//!
//! # Invariants
//!
//! - Nothing is written, whoever asks: every method but GET and HEAD is answered 501 before a key is
//!   looked at.
//! - A body is one version of an object. If its bytes cannot be had to the end, the connection is cut.
//! - Bytes on their way to clients have one budget, held until the connection has taken them.
//! - Only keys below a mounted prefix are served, however much more the node's credentials allow.
//! - Neither keys nor signatures are logged. `s3s` logs both; whoever sets up the log leaves it out.
//!
//! # Deliberately absent
//!
//! - No virtual-hosted style: a node has no domain. No versions, no parts, no checksums of the bucket's:
//!   the listing does not tell them.
//! - No HTTP/2: no S3 client speaks it in clear text, and a client that stops reading one stream of a
//!   connection that lives would hold its part of the budget for ever.
//!
//! # Reading order
//!
//! [`keys`] says who may read, `service` answers the calls, `find` looks a key up, `body` streams it,
//! `listing` and `memory` list, `condition` and `failure` are tables.

mod body;
mod condition;
mod failure;
mod find;
mod keys;
mod listing;
mod memory;
mod refusal;
mod service;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use feedline_model::{BlockSource, Clock, Lister, Tree};
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::runtime::Handle;

pub use keys::{S3Access, S3Keys};

use body::Room;
use find::Bucket;
use service::Calls;

/// Why a body ended before its time.
pub type S3BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub type S3Body = UnsyncBoxBody<Bytes, S3BodyError>;

/// A part of a bucket that is mounted.
#[derive(Debug, Clone)]
pub struct S3Mount {
    /// The bucket's name, as clients write it.
    pub bucket: String,
    /// Lists the bucket.
    pub lister: Arc<dyn Lister>,
    /// Only keys with this prefix: empty, or with a slash at its end.
    pub prefix: String,
    /// Where it is in the tree, without slashes at the ends.
    pub path: String,
}

/// What the endpoint is told and handed.
#[derive(Debug)]
pub struct S3Parts {
    /// Everything that is served.
    pub mounts: Vec<S3Mount>,
    /// Who may read.
    pub access: S3Access,
    /// The most bytes on their way to clients. At least a page always fits.
    pub bytes_max: u64,
    /// The cache.
    pub blocks: Arc<dyn BlockSource>,
    /// What is known of the buckets.
    pub tree: Arc<dyn Tree>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where bodies are read ahead of the connection.
    pub tasks: Handle,
}

/// What was served since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct S3Stats {
    /// Requests, refused ones included.
    pub requests: u64,
    /// Of those, answered with an error; a key that is not there is one.
    pub errors: u64,
    /// Bytes of objects.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
}

/// An S3 endpoint for reads. Clones share it.
#[derive(Clone)]
pub struct S3Endpoint {
    service: S3Service,
    access: S3Access,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for S3Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Endpoint").field("access", &self.access).finish_non_exhaustive()
    }
}

impl S3Endpoint {
    /// Makes one. Sends nothing, spawns nothing.
    #[must_use]
    pub fn new(parts: S3Parts) -> Self {
        let counters = Arc::new(Counters::default());
        let calls = Calls {
            buckets: Bucket::of_mounts(parts.mounts),
            tree: parts.tree,
            blocks: parts.blocks,
            clock: Arc::clone(&parts.clock),
            room: Room::new(parts.bytes_max),
            tasks: parts.tasks,
            counters: Arc::clone(&counters),
        };
        let mut builder = S3ServiceBuilder::new(calls);
        builder.set_validation(AnyName);
        if let S3Access::Keys(keys) = &parts.access {
            builder.set_auth(keys.clone());
        }
        Self { service: builder.build(), access: parts.access, counters, clock: parts.clock }
    }

    /// Answers one request. Never fails: what goes wrong is an answer as well.
    #[must_use]
    pub fn answer(&self, request: Request<Incoming>) -> BoxFuture<'static, Response<S3Body>> {
        let this = self.clone();
        Box::pin(async move {
            let response = this.respond(request).await;
            this.counters.requests.fetch_add(1, Ordering::Relaxed);
            if response.status().is_client_error() || response.status().is_server_error() {
                this.counters.errors.fetch_add(1, Ordering::Relaxed);
            }
            response
        })
    }

    /// What was served.
    #[must_use]
    pub fn stats(&self) -> S3Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { requests, errors, bytes } = &*self.counters;
        S3Stats { requests: get(requests), errors: get(errors), bytes: get(bytes) }
    }

    /// Who may read.
    #[must_use]
    pub fn access(&self) -> &S3Access {
        &self.access
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<S3Body> {
        if request.version() == Version::HTTP_2 {
            let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            return refusal::answer(status, "NotImplemented", "S3 is spoken over HTTP/1.1 here");
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let is_whole = refusal::take_body(&*self.clock, request).await;
            let why = "A header or query you provided implies functionality that is not \
                       implemented: this endpoint is read-only. Write to the bucket itself";
            let refused = refusal::answer(StatusCode::NOT_IMPLEMENTED, "NotImplemented", why);
            return if is_whole { refused } else { refusal::last(refused) };
        }
        let request = match &self.access {
            S3Access::Keys(_) => request,
            S3Access::Anonymous => keys::without_signature(request),
            S3Access::Closed(why) => {
                return refusal::answer(StatusCode::FORBIDDEN, "AccessDenied", why);
            }
        };
        match self.service.call(request.map(s3s::Body::from)).await {
            Ok(response) => response.map(BodyExt::boxed_unsync),
            Err(error) => {
                let (status, why) = (StatusCode::INTERNAL_SERVER_ERROR, S3BodyError::from(error));
                refusal::answer(status, "InternalError", &why.to_string())
            }
        }
    }
}

/// Buckets of other stores and of long ago have names that AWS does not give out now.
struct AnyName;

impl s3s::validation::NameValidation for AnyName {
    fn validate_bucket_name(&self, name: &str) -> bool {
        !name.is_empty()
    }
}

#[cfg(test)]
mod tests;
