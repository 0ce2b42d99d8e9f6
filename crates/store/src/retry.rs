//! Repeats tries within a budget: back-off with jitter, under the limit of requests in flight.
//!
//! # Invariants
//!
//! - Every try holds a permit; waiting between tries holds none.
//! - No wait between tries ends after the budget, counted from the moment the first try was let in.
//!   What a try waits for its permit is not cut short: the tries ahead of it all end.
//! - What the failure table calls final is never repeated.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::{
    BlockSource, Clock, ListPage, ListRequest, Lister, Object, Priority, ReadError, SourceId,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::backend::Backend;
use crate::failure::Failure;
use crate::limit::{Limiter, Permit};
use crate::stats::{StoreStats, Verb};

/// The first wait is up to this long: about two first bytes of S3.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// No wait is longer, unless the store asks for it: a bucket that is back is found soon.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A store's wish to wait is granted up to here, some ten times what S3 asks for: a proxy that says an
/// hour must not fail a read that the bucket could serve within the budget.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);

/// The same kind of failure is logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How long and how often to try.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryPolicy {
    /// From the first try to the end of the last wait.
    pub(crate) budget: Duration,
}

/// A backend as a link of the read chain.
pub(crate) struct RetrySource {
    backend: Arc<dyn Backend>,
    limiter: Arc<Limiter>,
    stats: Arc<StoreStats>,
    clock: Arc<dyn Clock>,
    policy: RetryPolicy,
    source: SourceId,
    /// `s3://bucket`, for messages.
    base: Arc<str>,
    jitter: Mutex<StdRng>,
    logged: Mutex<HashMap<String, Duration>>,
}

impl fmt::Debug for RetrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetrySource").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// What a [`RetrySource`] is made of.
pub(crate) struct RetryParts {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) stats: Arc<StoreStats>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy: RetryPolicy,
    pub(crate) source: SourceId,
    pub(crate) base: Arc<str>,
    pub(crate) seed: u64,
}

impl RetrySource {
    pub(crate) fn new(parts: RetryParts) -> Self {
        Self {
            backend: parts.backend,
            limiter: parts.limiter,
            stats: parts.stats,
            clock: parts.clock,
            policy: parts.policy,
            source: parts.source,
            base: parts.base,
            jitter: Mutex::new(StdRng::seed_from_u64(parts.seed)),
            logged: Mutex::default(),
        }
    }

    /// Repeats `attempt` until it succeeds, fails for good, or the budget is spent.
    async fn run<T, F>(
        &self,
        verb: Verb,
        priority: Priority,
        location: impl Fn() -> Arc<str>,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut started = None;
        for tries in 0_u32.. {
            let permit = self.limiter.acquire(priority).await;
            let started = *started.get_or_insert_with(|| self.clock.monotonic());
            self.stats.count_request(verb);
            let failure = match attempt().await {
                Ok(value) => {
                    permit.succeeded();
                    return Ok(value);
                }
                Err(failure) => failure,
            };
            let wait = self.note_failure(&failure, tries, permit, &location);
            let spent = self.clock.monotonic().saturating_sub(started);
            let left = self.policy.budget.saturating_sub(spent);
            match wait {
                // The last wait is cut to what is left: the bucket may be back by its end.
                Some(wait) if left > Duration::ZERO => self.clock.sleep(wait.min(left)).await,
                wait => {
                    self.stats.count_error();
                    let after = wait.unwrap_or_default();
                    return Err(failure.into_read_error(location(), after));
                }
            }
        }
        unreachable!("the budget ends long before four thousand million tries")
    }

    /// Counts and logs a failed try, tells the limiter, gives the permit back. Returns how long to
    /// wait before the next try, or `None` if there must be none.
    fn note_failure(
        &self,
        failure: &Failure,
        tries: u32,
        permit: Permit,
        location: &impl Fn() -> Arc<str>,
    ) -> Option<Duration> {
        let cause = failure.retry_cause();
        if let Some(cause) = cause {
            self.stats.count_retry(cause);
            if cause.is_slow_down() {
                permit.slow_down();
            }
        }
        drop(permit);
        self.log(failure, cause.is_some(), location);
        cause?;
        let ceiling = BACKOFF_MAX.min(BACKOFF_FIRST * 2_u32.saturating_pow(tries.min(10)));
        // Full jitter above half of the ceiling: spreads a herd, and never hammers.
        let wait = ceiling.mul_f64(self.jitter.lock().random_range(0.5..1.0));
        Some(failure.retry_after().map_or(wait, |asked| asked.min(RETRY_AFTER_MAX).max(wait)))
    }

    fn log(&self, failure: &Failure, again: bool, location: &impl Fn() -> Arc<str>) {
        // Both belong to the one who asked, and are frequent in a bucket that others write to.
        if matches!(failure, Failure::Changed(_) | Failure::Absent(_)) {
            return;
        }
        let now = self.clock.monotonic();
        {
            let mut logged = self.logged.lock();
            match logged.get(&failure.kind()) {
                Some(at) if now < *at + LOG_INTERVAL => return,
                _ => drop(logged.insert(failure.kind(), now)),
            }
        }
        let (location, why) = (location(), failure.text());
        if again {
            tracing::warn!(%location, %why, "request failed, trying again; \
                more of the kind are counted but not logged for a minute");
        } else {
            tracing::warn!(%location, %why, "request failed for good; \
                more of the kind are counted but not logged for a minute");
        }
    }

    fn locate(&self, key: &str) -> Arc<str> {
        format!("{}/{key}", self.base).into()
    }
}

#[async_trait]
impl BlockSource for RetrySource {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        if range.start > range.end || range.end > object.version.size {
            let size = object.version.size;
            let cause = format!("range {range:?} is outside of the object of {size} bytes");
            return Err(ReadError::Rejected {
                location: self.locate(&object.key),
                cause: cause.into(),
            });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let expected = range.end - range.start;
        let bytes = self
            .run(
                Verb::Get,
                priority,
                || self.locate(&object.key),
                || async {
                    let bytes = self.backend.get(object, range.clone()).await?;
                    let got = bytes.len() as u64;
                    // The last line of defence of "never a short read", whatever the backend did.
                    if got == expected { Ok(bytes) } else { Err(Failure::Short { got, expected }) }
                },
            )
            .await?;
        self.stats.count_read(expected);
        Ok(bytes)
    }
}

#[async_trait]
impl Lister for RetrySource {
    async fn list(&self, request: &ListRequest) -> Result<ListPage, ReadError> {
        // Someone waits for most listings, and they are few: they go with demand.
        let location = || self.locate(&request.prefix);
        let attempt = || async {
            let page = self.backend.list(request).await?;
            // Whoever follows such a token lists the same page for ever.
            if page.next.is_some() && page.next == request.token {
                return Err(Failure::Malformed("the listing's next page is this one again".into()));
            }
            Ok(page)
        };
        self.run(Verb::List, Priority::Demand, location, attempt).await
    }

    fn source(&self) -> SourceId {
        self.source
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
