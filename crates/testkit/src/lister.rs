//! Listings over keys in memory, as S3 gives them: order of bytes, folding at `/`, pages.
//!
//! # Invariants
//!
//! - A continued listing never repeats or skips a name that existed all the while, even when other
//!   keys come and go between its pages: the token is the last name returned.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use feedline_model::{
    Clock, ETag, ListPage, ListRequest, ListedObject, Lister, ReadError, SourceId, Version,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::memory::Hold;

/// Names in a page of S3.
const PAGE_NAMES: usize = 1000;

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<String, Version>,
    requests: Vec<ListRequest>,
    failures: VecDeque<ReadError>,
    delay: Option<(Arc<dyn Clock>, Duration)>,
    hold: Option<watch::Receiver<bool>>,
    page_names: usize,
}

/// A map of keys as a `Lister`.
#[derive(Debug)]
pub struct MemoryLister {
    source: SourceId,
    versions: AtomicU64,
    state: Mutex<State>,
    arrived: watch::Sender<u64>,
}

impl MemoryLister {
    /// Empty, with pages of 1,000 names.
    #[must_use]
    pub fn new(source: SourceId) -> Arc<Self> {
        Self::with_page(source, PAGE_NAMES)
    }

    /// Empty, with pages of `page_names` names, at least 1.
    #[must_use]
    pub fn with_page(source: SourceId, page_names: usize) -> Arc<Self> {
        let state = State { page_names: page_names.max(1), ..State::default() };
        Arc::new(Self {
            source,
            versions: AtomicU64::new(0),
            state: Mutex::new(state),
            arrived: watch::Sender::new(0),
        })
    }

    /// Adds or replaces `key` with a new version of `size` bytes, which is returned.
    pub fn insert(&self, key: &str, size: u64) -> Version {
        let number = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        let version = Version {
            size,
            modified_ms: 1_700_000_000_000 + i64::try_from(number).expect("few versions") * 1000,
            etag: ETag::parse(&format!("{number:032x}")),
        };
        self.insert_version(key, version.clone());
        version
    }

    /// Adds or replaces `key` with exactly this version.
    pub fn insert_version(&self, key: &str, version: Version) {
        self.state.lock().keys.insert(key.to_owned(), version);
    }

    /// Removes `key`.
    pub fn remove(&self, key: &str) {
        self.state.lock().keys.remove(key);
    }

    /// How many requests arrived, failed ones included.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.state.lock().requests.len()
    }

    /// Every request so far, in the order of arrival.
    #[must_use]
    pub fn log(&self) -> Vec<ListRequest> {
        self.state.lock().requests.clone()
    }

    /// Forgets the requests, so that a test counts from here.
    pub fn clear_log(&self) {
        self.state.lock().requests.clear();
    }

    /// Waits until `count` requests have arrived in all (the log's clearing does not count).
    pub async fn wait_for_requests(&self, count: u64) {
        let mut arrived = self.arrived.subscribe();
        arrived.wait_for(|seen| *seen >= count).await.expect("the sender lives in self");
    }

    /// The next `times` requests fail with `error`.
    pub fn fail_next(&self, times: usize, error: &ReadError) {
        self.state.lock().failures.extend(std::iter::repeat_n(error.clone(), times));
    }

    /// Every request from now on takes `delay` on `clock`.
    pub fn delay(&self, clock: Arc<dyn Clock>, delay: Duration) {
        self.state.lock().delay = Some((clock, delay));
    }

    /// Holds every request that arrives from now on, until the answer is dropped. What it then
    /// lists is what is there when it goes on.
    #[must_use]
    pub fn hold(&self) -> Hold {
        let (hold, held) = Hold::new();
        self.state.lock().hold = Some(held);
        hold
    }

    fn page(&self, request: &ListRequest) -> ListPage {
        let state = self.state.lock();
        let mut page = ListPage::default();
        let mut last: Option<String> = None;
        let begin = request.token.as_ref().or(request.after.as_ref());
        let start = match begin {
            Some(token) if *token >= request.prefix => Bound::Excluded(token.as_str()),
            _ => Bound::Included(request.prefix.as_str()),
        };
        for (key, version) in state.keys.range::<str, _>((start, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(&request.prefix) else { break };
            let slash = rest.find('/').filter(|_| request.delimiter);
            let name = slash.map(|at| &key[..=request.prefix.len() + at]);
            if let Some(name) = name
                && (last.as_deref() == Some(name) || begin.is_some_and(|begin| begin == name))
            {
                continue;
            }
            if page.objects.len() + page.prefixes.len() == state.page_names {
                page.next = last;
                break;
            }
            last = Some(name.unwrap_or(key).to_owned());
            match name {
                Some(name) => page.prefixes.push(name.to_owned()),
                None => {
                    let (key, version) = (key.clone(), version.clone());
                    page.objects.push(ListedObject { key, version });
                }
            }
        }
        page
    }
}

#[async_trait]
impl Lister for MemoryLister {
    async fn list(&self, request: &ListRequest) -> Result<ListPage, ReadError> {
        let (hold, delay, failure) = {
            let mut state = self.state.lock();
            state.requests.push(request.clone());
            (state.hold.clone(), state.delay.clone(), state.failures.pop_front())
        };
        self.arrived.send_modify(|seen| *seen += 1);
        if let Some(mut hold) = hold {
            // An error means that the hold is gone, which lets the request go on just the same.
            let _ = hold.wait_for(|released| *released).await;
        }
        if let Some((clock, delay)) = delay {
            clock.sleep(delay).await;
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(self.page(request)),
        }
    }

    fn source(&self) -> SourceId {
        self.source
    }
}
