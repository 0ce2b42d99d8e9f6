//! The far end of the read chain: S3 and what speaks its protocol, GCS, Azure, a local folder.
//!
//! ```text
//! Store -> RetrySource (budget, back-off) -> Limiter (a permit per try) -> Backend (one request)
//! ```
//!
//! # Invariants
//!
//! - A read gives exactly the bytes of the version asked for, or an error; every GET is pinned to it.
//! - No request is sent without a permit of the [`Limiter`], and none is begun after the retry budget.
//! - Failures become [`feedline_model::ReadError`] in one table, `failure.rs`.
//! - No secret is printed, logged or put into an error.
//!
//! # Deliberately absent
//!
//! - No caching and no joining of equal reads: the cache in front does both.
//! - object_store's own retries on the read path.
//!
//! # Reading order
//!
//! `store.rs` nests everything; `retry.rs` and `limit.rs` are the loop; `s3/` makes requests, `direct` sends them.

mod backend;
mod cloud;
mod config;
mod direct;
mod failure;
mod folder;
mod http;
mod limit;
mod observe;
mod retry;
mod s3;
mod stats;
mod store;
mod upload;

pub use config::{Environment, OpenError, StoreConfig};
pub use failure::RetryCause;
pub use limit::Limiter;
pub use stats::{StoreStats, Verb};
pub use store::Store;
pub use upload::Uploader;
