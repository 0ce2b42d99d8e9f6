//! The tree itself: what is known, how old it may be, and who asks the store.
//!
//! # Invariants
//!
//! - At most one listing of a directory is under way ([`Flight`]); it runs as its own task, so a
//!   caller that goes away cancels nobody.
//! - A listing that was under way when its directory was expired is not believed.
//! - No lock is held while anything is awaited.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use feedline_model::{Clock, Directory, ListPage, ListRequest, ReadError};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::config::Listing;
use crate::fetch;
use crate::gather::DirectoryListing;
use crate::kept::Content;
use crate::mounts::{DOWN_PAUSE_MS, Mount, Mounts, below, parent};
use crate::persist::Persist;
use crate::preload;
use crate::rules::{Examples, check_path};
use crate::table::{Table, has_directory};

/// How far a listing's date may lie ahead of the clock: two threads read it in either order. More
/// means that the clock was set back, and the listing's age is unknown.
const CLOCK_SLACK_MS: u64 = 1000;
/// Refreshes in the background that may wait their turn. Beyond it none is begun: the next access
/// begins it, or the TTL passes and somebody waits.
const REFRESHES_MAX: usize = 256;

/// What a listing came to; shared by everyone who waited for it.
pub(crate) type Outcome = Result<Option<Arc<Directory>>, ReadError>;

/// A listing under way.
#[derive(Debug)]
struct Flight {
    number: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// Counters of work done.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) lists: AtomicU64,
    pub(crate) refreshes: AtomicU64,
    pub(crate) stale_served: AtomicU64,
    pub(crate) preloads: AtomicU64,
    pub(crate) ahead: AtomicU64,
}

/// What all tasks of a namespace share.
pub(crate) struct Inner {
    pub(crate) mounts: Mounts,
    pub(crate) table: Arc<Table>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) handle: Handle,
    pub(crate) ttl_ms: u64,
    pub(crate) listing: Listing,
    pub(crate) lists_max: usize,
    pub(crate) counters: Counters,
    pub(crate) examples: Examples,
    lists: Semaphore,
    flights: Mutex<HashMap<Arc<str>, Flight>>,
    flight_number: AtomicU64,
    refreshing: AtomicUsize,
    pub(crate) persist: Option<Persist>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("mounts", &self.mounts).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(persist) = &self.persist {
            persist.close_soon();
        }
    }
}

/// How old a listing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// Younger than half the TTL.
    Fresh,
    /// Good, but time to ask again.
    Aging,
    /// Only good when the store does not answer.
    Outdated,
}

/// How much the listing of a path may be believed now.
pub(crate) enum Known {
    /// Younger than half the TTL.
    Fresh(Arc<Directory>),
    /// Good, but time to ask again.
    Aging(Arc<Directory>),
    /// Only good when the store does not answer.
    Outdated(Arc<Directory>),
    /// Not in memory but in the state file, and how old it is there.
    Kept(Age),
    Unknown,
}

/// Removes a flight however its task ends.
struct Landing {
    inner: Arc<Inner>,
    path: Arc<str>,
    number: u64,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self.inner.flights.lock();
        if flights.get(&self.path).is_some_and(|flight| flight.number == self.number) {
            flights.remove(&self.path);
        }
    }
}

/// What a namespace begins with.
pub(crate) struct Parts {
    pub(crate) mounts: Mounts,
    pub(crate) table: Arc<Table>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) handle: Handle,
    pub(crate) ttl_ms: u64,
    pub(crate) listing: Listing,
    pub(crate) lists_max: usize,
    pub(crate) persist: Option<Persist>,
}

impl Inner {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { mounts, table, clock, handle, ttl_ms, listing, lists_max, persist } = parts;
        Self {
            mounts,
            table,
            clock,
            handle,
            ttl_ms,
            listing,
            lists_max,
            counters: Counters::default(),
            examples: Examples::default(),
            lists: Semaphore::new(lists_max),
            flights: Mutex::default(),
            flight_number: AtomicU64::new(0),
            refreshing: AtomicUsize::new(0),
            persist,
        }
    }

    /// Asks for one page, in turn with all other LISTs.
    pub(crate) async fn page(
        &self,
        mount: &Mount,
        request: &ListRequest,
    ) -> Result<ListPage, ReadError> {
        let _permit = self.lists.acquire().await.expect("the semaphore is never closed");
        self.counters.lists.fetch_add(1, Ordering::Relaxed);
        mount.lister.list(request).await
    }

    /// LISTs that could be sent without waiting for others.
    pub(crate) fn lists_free(&self) -> usize {
        self.lists.available_permits()
    }

    pub(crate) fn known(&self, path: &str) -> Known {
        let Some((content, expired)) = self.table.find(path) else { return Known::Unknown };
        let age = self.age(&content, expired);
        match (content, age) {
            (Content::Kept(_), age) => Known::Kept(age),
            (Content::Known(directory), Age::Fresh) => Known::Fresh(directory),
            (Content::Known(directory), Age::Aging) => Known::Aging(directory),
            (Content::Known(directory), Age::Outdated) => Known::Outdated(directory),
        }
    }

    fn age(&self, content: &Content, expired: bool) -> Age {
        let (now_ms, listed_ms) = (self.clock.unix_ms(), content.listed_ms());
        let age_ms = now_ms.saturating_sub(listed_ms);
        if expired || self.ttl_ms <= age_ms || now_ms + CLOCK_SLACK_MS < listed_ms {
            Age::Outdated
        } else if self.ttl_ms / 2 <= age_ms {
            Age::Aging
        } else {
            Age::Fresh
        }
    }

    /// Joins the listing of `path` that is under way, or begins one.
    pub(crate) fn fly(self: &Arc<Self>, path: &str) -> watch::Receiver<Option<Outcome>> {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(path) {
            return flight.outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        let number = self.flight_number.fetch_add(1, Ordering::Relaxed);
        let path: Arc<str> = path.into();
        flights.insert(Arc::clone(&path), Flight { number, outcome: outcome.clone() });
        drop(flights);
        let landing = Landing { inner: Arc::clone(self), path, number };
        self.handle.spawn(async move {
            let result = landing.inner.land(&landing).await;
            drop(landing);
            // Nobody may be waiting any more: the table has the listing all the same.
            let _ = sender.send(Some(result));
        });
        outcome
    }

    /// True unless the directory was expired after the flight began.
    fn is_current(&self, flight: &Landing) -> bool {
        let flights = self.flights.lock();
        flights.get(&flight.path).is_some_and(|current| current.number == flight.number)
    }

    /// Lists a directory and puts what was learned in the table.
    async fn land(&self, flight: &Landing) -> Outcome {
        let Some(place) = self.mounts.place(&flight.path) else { return Ok(None) };
        let mount = self.mounts.get(place.mount);
        let outcome = fetch::directory(self, &flight.path, place).await;
        self.note_health(mount, &outcome);
        let listing = outcome?;
        if !self.is_current(flight) {
            return Ok(listing.map(|listing| Arc::new(listing.directory)));
        }
        self.wake(&flight.path).await;
        let Some(listing) = listing else {
            self.vanish(&flight.path);
            return Ok(None);
        };
        let directory = self.store(listing);
        if !self.is_current(flight) {
            self.table.expire(&flight.path);
        }
        Ok(Some(directory))
    }

    /// Notes whether a source answers.
    pub(crate) fn note_health<T>(&self, mount: &Mount, outcome: &Result<T, ReadError>) {
        match outcome {
            Err(error) if error.is_retryable() => mount.failed(self.clock.unix_ms(), error),
            _ => mount.answered(),
        }
    }

    /// Puts a listing in the table and in the state file. A listing that its parent's newer one
    /// denies is returned but not kept.
    pub(crate) fn store(&self, listing: DirectoryListing) -> Arc<Directory> {
        for (reason, key) in &listing.examples {
            self.examples.note(*reason, key);
        }
        let path = Arc::clone(&listing.directory.path);
        if self.denied_by_parent(&path) {
            return Arc::new(listing.directory);
        }
        let hidden = listing.hidden;
        let inserted = self.table.insert(listing);
        if let Some(persist) = &self.persist {
            persist.remove(&inserted.removed);
            if inserted.stored {
                persist.put(&inserted.directory, hidden);
            }
        }
        inserted.directory
    }

    fn denied_by_parent(&self, path: &str) -> bool {
        let is_root = self.mounts.of(path).is_some_and(|(_, mount)| mount.path == path);
        if is_root || path.is_empty() {
            return false;
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        self.table
            .get(parent(path))
            .is_some_and(|found| !found.expired && !has_directory(&found.directory, name))
    }

    /// The store knows no key below `path` any more. The parent's listing is wrong, then.
    pub(crate) fn vanish(&self, path: &str) {
        let removed = self.table.remove_subtree(path);
        if let Some(persist) = &self.persist {
            persist.remove(&removed);
        }
        if !path.is_empty() {
            self.expire(parent(path));
        }
    }

    pub(crate) fn expire(&self, path: &str) {
        // First the flight, then the mark: `land` looks for the flight after it stored.
        self.flights.lock().remove(path);
        self.table.expire(path);
    }

    /// Begins to list `path` again, while what is known is served.
    pub(crate) fn refresh_in_background(self: &Arc<Self>, path: &str) {
        let Some((_, mount)) = self.mounts.of(path) else { return };
        if mount.is_down(self.clock.unix_ms()) {
            return;
        }
        if self.listing == Listing::Eager {
            self.preload_if_eager(path);
            return;
        }
        if self.flights.lock().contains_key(path) {
            return;
        }
        if REFRESHES_MAX <= self.refreshing.fetch_add(1, Ordering::Relaxed) {
            self.refreshing.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.counters.refreshes.fetch_add(1, Ordering::Relaxed);
        let outcome = self.fly(path);
        let inner = Arc::clone(self);
        let path: Arc<str> = path.into();
        self.handle.spawn(async move {
            // A failure is noted with the mount's health, and the listing known still stands.
            let _ = wait(outcome, &path).await;
            inner.refreshing.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Where everything is listed together, one outdated listing means that all are.
    fn preload_if_eager(self: &Arc<Self>, path: &str) {
        if self.listing == Listing::Eager
            && let Some((index, _)) = self.mounts.of(path)
        {
            preload::in_background(self, index);
        }
    }

    /// The listing of a path of a mount whose parent is known to have it, or of a mount's root.
    async fn current(self: &Arc<Self>, path: &str) -> Outcome {
        self.wake(path).await;
        match self.known(path) {
            Known::Fresh(directory) => Ok(Some(directory)),
            Known::Aging(directory) => {
                self.refresh_in_background(path);
                Ok(Some(directory))
            }
            // Kept: it was put there just now, by nobody that this crate has.
            Known::Unknown | Known::Kept(_) => {
                let flight = self.fly(path);
                self.list_ahead(path);
                wait(flight, path).await
            }
            Known::Outdated(old) => {
                let down =
                    self.mounts.of(path).is_some_and(|(_, m)| m.is_down(self.clock.unix_ms()));
                if down {
                    self.counters.stale_served.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(old));
                }
                self.preload_if_eager(path);
                let flight = self.fly(path);
                self.list_ahead(path);
                match wait(flight, path).await {
                    Err(error) if error.is_retryable() => {
                        self.counters.stale_served.fetch_add(1, Ordering::Relaxed);
                        Ok(Some(old))
                    }
                    outcome => outcome,
                }
            }
        }
    }

    /// See `Tree::list`. Goes down from the deepest directory known, so that a listing that lacks
    /// a name answers for everything below it.
    pub(crate) async fn list(self: &Arc<Self>, path: &str) -> Outcome {
        if check_path(path).is_err() {
            return Ok(None);
        }
        if let Some(lead) = self.mounts.lead(path) {
            return Ok(Some(Arc::clone(lead)));
        }
        let Some((_, mount)) = self.mounts.of(path) else { return Ok(None) };
        let mut at = path;
        loop {
            while at.len() > mount.path.len() && !self.table.contains(at) {
                at = parent(at);
            }
            self.wake(at).await;
            if at.len() <= mount.path.len() || self.table.contains(at) {
                break;
            }
        }
        loop {
            let Some(directory) = self.current(at).await? else { return Ok(None) };
            let rest = below(path, at).unwrap_or_default();
            let Some(name) = rest.split('/').next().filter(|name| !name.is_empty()) else {
                return Ok(Some(directory));
            };
            if !has_directory(&directory, name) {
                return Ok(None);
            }
            let slash = usize::from(!at.is_empty());
            at = &path[..at.len() + slash + name.len()];
        }
    }
}

/// Waits for a flight to land.
pub(crate) async fn wait(mut outcome: watch::Receiver<Option<Outcome>>, path: &str) -> Outcome {
    let landed = outcome.wait_for(Option::is_some).await.map(|landed| landed.clone());
    landed.ok().flatten().unwrap_or_else(|| {
        let cause = "the listing was abandoned: the node is stopping".into();
        let after = Duration::from_millis(DOWN_PAUSE_MS);
        Err(ReadError::Unavailable { location: path.into(), cause, after })
    })
}
