//! The retry loop against a scripted backend, on a clock moved by hand.

use std::collections::VecDeque;

use feedline_model::{ETag, Version};
use feedline_testkit::conformance::{self, ObjectFixture};
use feedline_testkit::{FakeClock, MemorySource, object_bytes};

use super::*;
use crate::failure::{RetryCause, StatusAnswer};

/// Fails as the script says, then answers from memory.
#[derive(Debug)]
struct Scripted {
    script: Mutex<VecDeque<Failure>>,
    memory: Arc<MemorySource>,
    limiter: Arc<Limiter>,
    clock: FakeClock,
    starts: Mutex<Vec<Duration>>,
    /// Cuts this many bytes off every answer.
    cut: usize,
    /// What every page of a listing names as the next.
    token: Mutex<Option<String>>,
}

#[async_trait]
impl Backend for Scripted {
    async fn get(&self, object: &Object, range: Range<u64>) -> Result<Bytes, Failure> {
        assert!(self.limiter.in_flight() > 0, "a try without a permit");
        self.starts.lock().push(self.clock.monotonic());
        if let Some(failure) = self.script.lock().pop_front() {
            return Err(failure);
        }
        let read = self.memory.read(object, range, Priority::Demand).await;
        read.map(|bytes| bytes.slice(..bytes.len() - self.cut)).map_err(|error| match error {
            ReadError::NotFound { cause, .. } => Failure::Absent(cause.to_string()),
            ReadError::Changed { cause, .. } => Failure::Changed(cause.to_string()),
            other => Failure::Malformed(other.to_string()),
        })
    }

    async fn list(&self, _: &ListRequest) -> Result<ListPage, Failure> {
        let page = ListPage { next: self.token.lock().clone(), ..ListPage::default() };
        self.script.lock().pop_front().map_or(Ok(page), Err)
    }
}

struct Rig {
    clock: FakeClock,
    memory: Arc<MemorySource>,
    backend: Arc<Scripted>,
    limiter: Arc<Limiter>,
    stats: Arc<StoreStats>,
    retry: Arc<RetrySource>,
}

fn rig(script: impl IntoIterator<Item = Failure>, cut: usize) -> Rig {
    let clock = FakeClock::new();
    let memory = MemorySource::new(SourceId(1));
    let limiter = Limiter::new(clock.shared(), 16);
    let backend = Arc::new(Scripted {
        script: Mutex::new(script.into_iter().collect()),
        memory: memory.clone(),
        limiter: limiter.clone(),
        clock: clock.clone(),
        starts: Mutex::default(),
        cut,
        token: Mutex::default(),
    });
    let stats = Arc::new(StoreStats::default());
    let retry = Arc::new(RetrySource::new(RetryParts {
        backend: backend.clone(),
        limiter: limiter.clone(),
        stats: stats.clone(),
        clock: clock.shared(),
        policy: RetryPolicy { budget: Duration::from_secs(30) },
        source: SourceId(1),
        base: "mem://b".into(),
        seed: 7,
    }));
    Rig { clock, memory, backend, limiter, stats, retry }
}

fn status(status: u16) -> Failure {
    Failure::Status(StatusAnswer { status, ..StatusAnswer::default() })
}

#[tokio::test]
async fn passing_failures_are_repeated_and_counted() {
    let script = [
        status(500),
        status(502),
        status(503),
        status(504),
        status(429),
        status(408),
        Failure::Reset("x".into()),
        Failure::Connect("x".into()),
        Failure::Timeout("x".into()),
        Failure::Short { got: 1, expected: 2 },
    ];
    let count = script.len() as u64;
    let rig = rig(script, 0);
    let object = rig.memory.insert_seeded("k", 1, 5000);
    let read = rig.clock.run(rig.retry.read(&object, 10..4000, Priority::Demand)).await;
    assert_eq!(read.expect("served in the end"), object_bytes(1, 5000).slice(10..4000));
    for cause in RetryCause::ALL {
        let expected = u64::from(cause != RetryCause::Credentials);
        assert_eq!(rig.stats.retries(cause), expected, "{}", cause.label());
    }
    assert_eq!(rig.stats.requests(Verb::Get), count + 1);
    assert_eq!(rig.stats.errors(), 0);
    assert_eq!(rig.limiter.in_flight(), 0);
}

#[tokio::test]
async fn final_failures_are_not_repeated() {
    for code in [400, 401, 403, 404, 412, 301, 501] {
        let rig = rig([status(code)], 0);
        let object = rig.memory.insert_seeded("k", 1, 50);
        let error = rig.retry.read(&object, 0..50, Priority::Demand).await.expect_err("fails");
        assert!(!error.is_retryable(), "{code}: {error}");
        assert_eq!(error.location(), "mem://b/k");
        assert_eq!(rig.stats.requests(Verb::Get), 1, "{code}");
        assert_eq!(rig.clock.monotonic(), Duration::ZERO, "{code} waited");
    }
}

#[tokio::test]
async fn the_budget_ends_it_and_waits_grow_with_jitter() {
    let rig = rig(std::iter::repeat_n(status(500), 1000), 0);
    let object = rig.memory.insert_seeded("k", 1, 50);
    let read = rig.clock.run(rig.retry.read(&object, 0..50, Priority::Fill)).await;
    let Err(ReadError::Unavailable { after, .. }) = read else { panic!("{read:?}") };
    assert!(after > Duration::ZERO);
    let starts = rig.backend.starts.lock().clone();
    assert!(*starts.last().expect("tried") <= Duration::from_secs(30));
    assert!(*starts.last().expect("tried") >= Duration::from_secs(20), "gave up early");
    assert_eq!(starts.last(), Some(&Duration::from_secs(30)), "the budget was not used up");
    // The last wait is what was left.
    let waits: Vec<_> = starts[..starts.len() - 1].windows(2).map(|w| w[1] - w[0]).collect();
    for (tries, wait) in waits.iter().enumerate() {
        let ceiling = BACKOFF_MAX.min(BACKOFF_FIRST * 2_u32.pow(tries.min(10) as u32));
        assert!(*wait >= ceiling / 2 && *wait <= ceiling, "wait {tries}: {wait:?}");
    }
    assert!((8..20).contains(&starts.len()), "{} tries", starts.len());
    assert_eq!(rig.stats.errors(), 1);
}

#[tokio::test]
async fn the_store_s_own_wish_to_wait_is_honoured() {
    let answer = StatusAnswer {
        status: 503,
        retry_after: Some(Duration::from_secs(9)),
        ..StatusAnswer::default()
    };
    let rig = rig([Failure::Status(answer)], 0);
    let object = rig.memory.insert_seeded("k", 1, 50);
    rig.clock.run(rig.retry.read(&object, 0..50, Priority::Demand)).await.expect("served");
    assert_eq!(rig.clock.monotonic(), Duration::from_secs(9));
}

#[tokio::test]
async fn an_absurd_wish_to_wait_neither_fails_the_read_nor_overflows() {
    for asked in [Duration::from_secs(3600), Duration::MAX] {
        let answer =
            StatusAnswer { status: 503, retry_after: Some(asked), ..StatusAnswer::default() };
        let rig = rig([status(500), status(500), Failure::Status(answer)], 0);
        let object = rig.memory.insert_seeded("k", 1, 50);
        rig.clock.run(rig.retry.read(&object, 0..50, Priority::Demand)).await.expect("served");
        assert!(rig.clock.monotonic() < Duration::from_secs(11), "{:?}", rig.clock.monotonic());
    }
}

#[tokio::test]
async fn a_listing_whose_next_page_is_itself_is_refused() {
    let rig = rig([], 0);
    *rig.backend.token.lock() = Some("again".into());
    let mut request =
        ListRequest { prefix: "p/".into(), delimiter: true, after: None, token: None };
    let page = rig.retry.list(&request).await.expect("the first page");
    request.token = page.next;
    let error = rig.retry.list(&request).await.expect_err("a ring");
    assert!(matches!(error, ReadError::Rejected { .. }), "{error}");
}

#[tokio::test]
async fn waiting_between_tries_holds_no_permit() {
    let rig = rig([status(503)], 0);
    let object = rig.memory.insert_seeded("k", 1, 50);
    let retry = rig.retry.clone();
    let handle = tokio::runtime::Handle::current();
    let read = handle.spawn(async move { retry.read(&object, 0..50, Priority::Demand).await });
    rig.clock.wait_for_sleepers(1).await;
    assert_eq!(rig.limiter.in_flight(), 0);
    rig.clock.advance_to_next().await;
    read.await.expect("joined").expect("served");
}

#[tokio::test]
async fn a_backend_that_answers_short_is_never_believed() {
    let rig = rig([], 1);
    let object = rig.memory.insert_seeded("k", 1, 50);
    let read = rig.clock.run(rig.retry.read(&object, 0..50, Priority::Demand)).await;
    assert!(matches!(read, Err(ReadError::Unavailable { .. })), "{read:?}");
    assert!(rig.stats.retries(RetryCause::Short) > 3);
}

#[tokio::test]
async fn a_range_outside_of_the_object_is_rejected_without_a_request() {
    let rig = rig([], 0);
    let version = Version { size: 5, modified_ms: 0, etag: ETag::Absent };
    let object = Object { source: SourceId(1), key: "k".into(), version };
    let read = rig.retry.read(&object, 0..6, Priority::Demand).await;
    assert!(matches!(read, Err(ReadError::Rejected { .. })), "{read:?}");
    assert_eq!(rig.stats.requests(Verb::Get), 0);
}

#[tokio::test]
async fn listings_are_repeated_too() {
    let rig = rig([status(503), Failure::Reset("x".into())], 0);
    let request = ListRequest { prefix: "p/".into(), delimiter: true, after: None, token: None };
    rig.clock.run(rig.retry.list(&request)).await.expect("listed");
    assert_eq!(rig.stats.requests(Verb::List), 3);
}

#[tokio::test]
async fn retries_and_limit_conform() {
    let rig = rig([], 0);
    let fixture: &dyn ObjectFixture = &rig.memory;
    conformance::block_source(rig.retry.clone(), fixture).await;
    assert_eq!((rig.limiter.in_flight(), rig.limiter.waiting()), (0, 0));
}
