//! How time gets in: handed to whoever needs it, so that tests and the simulator can own it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A future that completes when the time is up.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of time. Only `node` (and programs of their own, such as the bench) holds the real one.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Time since an arbitrary start; never goes backwards. For measuring and for deadlines.
    fn monotonic(&self) -> Duration;

    /// Milliseconds since 1970. For what is persisted or compared between machines.
    fn unix_ms(&self) -> u64;

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> Sleep;
}
