//! The store against s3sim over a socket: conformance, faults, refusals, hostile keys, uploads.

use std::time::Duration;

use crate::common::{BUCKET, KEYS, Rig, config, listed, open, rig};
use bytes::Bytes;
use feedline_model::{BlockSource as _, ListRequest, Lister as _, Priority, ReadError};
use feedline_s3sim::{FaultKind, FaultRule, Faults, S3Sim, Verb as SimVerb};
use feedline_store::{OpenError, RetryCause, Store, StoreConfig, Verb};
use feedline_testkit::conformance::{self, ObjectFixture as _, list_all};
use feedline_testkit::object_bytes;

const FIRST: ListRequest =
    ListRequest { prefix: String::new(), delimiter: true, after: None, token: None };

#[tokio::test]
async fn s3_conforms() {
    let rig = rig();
    conformance::block_source(rig.store.clone(), &rig).await;
    conformance::lister(&*rig.store, &rig).await;
    assert_eq!((rig.store.limiter().in_flight(), rig.store.limiter().waiting()), (0, 0));
    assert_eq!(rig.sim.stats().head, 0, "reading costs no HEAD");
}

#[tokio::test]
async fn gcs_conforms_over_its_xml_interface() {
    let sim = S3Sim::builder().start().expect("starts");
    sim.create_bucket(BUCKET);
    let mut config = config("gs://bucket", &sim.endpoint(), &[]);
    config.anonymous = true;
    let rig = Rig { store: open(&config), sim };
    conformance::block_source(rig.store.clone(), &rig).await;
    conformance::lister(&*rig.store, &rig).await;
    rig.sim.set_faults(FaultRule::next(FaultKind::SlowDown, 2));
    let object = rig.seeded("k", 1, 5000).await;
    assert_eq!(rig.store.stats().retries(RetryCause::Status503), 2);
    rig.sim.set_faults(FaultRule::next(FaultKind::Forbidden, 1));
    let error = rig.store.read(&object, 0..9, Priority::Demand).await.expect_err("refused");
    assert!(matches!(error, ReadError::Forbidden { .. }), "{error}");
    rig.sim.set_faults(Faults::none());
    rig.sim.put_object(BUCKET, "a//b", b"x");
    let error =
        rig.store.list(&ListRequest { delimiter: false, ..FIRST }).await.expect_err("fails");
    assert!(matches!(error, ReadError::Rejected { .. }), "{error}");
}

async fn reads_in_spite_of(faults: impl Into<Faults>, causes: &[RetryCause]) {
    let rig = rig();
    let size = 300_000;
    let object = rig.seeded("k", 3, size).await;
    rig.sim.set_faults(faults);
    let whole = rig.store.read(&object, 0..size, Priority::Demand).await.expect("whole");
    assert!(whole == object_bytes(3, size));
    let part = rig.store.read(&object, 1000..200_001, Priority::Fill).await.expect("part");
    assert!(part == object_bytes(3, size).slice(1000..200_001));
    let stats = rig.store.stats();
    for cause in causes {
        assert!(stats.retries(*cause) > 0, "no retry counted as {}", cause.label());
    }
    let counted: u64 = causes.iter().map(|cause| stats.retries(*cause)).sum();
    assert_eq!(stats.retries_total(), counted, "retries under other causes");
    assert_eq!(stats.requests(Verb::Get), counted + 2);
    assert_eq!((stats.errors(), stats.bytes_read()), (0, size + 199_001));
}

#[tokio::test]
async fn internal_errors_are_repeated() {
    reads_in_spite_of(FaultRule::next(FaultKind::InternalError, 3), &[RetryCause::Status500]).await;
}

#[tokio::test]
async fn a_reset_within_the_body_is_repeated() {
    let fault = FaultRule::next(FaultKind::Reset, 2).at_byte(100_000);
    reads_in_spite_of(fault, &[RetryCause::Reset]).await;
}

#[tokio::test]
async fn a_reset_before_the_answer_is_repeated() {
    reads_in_spite_of(FaultRule::next(FaultKind::Reset, 2).at_byte(0), &[RetryCause::Reset]).await;
}

#[tokio::test]
async fn a_short_body_is_repeated() {
    let fault = FaultRule::next(FaultKind::ShortBody, 2).at_byte(70_000);
    reads_in_spite_of(fault, &[RetryCause::Short]).await;
}

#[tokio::test]
async fn a_stall_is_given_up_and_repeated() {
    let fault = FaultRule::next(FaultKind::Stall, 1).at_byte(70_000).stall_ms(60_000);
    reads_in_spite_of(fault, &[RetryCause::Timeout]).await;
}

#[tokio::test]
async fn another_tag_is_changed_and_not_repeated() {
    let rig = rig();
    let object = rig.seeded("k", 3, 5000).await;
    rig.sim.set_faults(FaultRule::every(FaultKind::WrongEtag).for_verb(SimVerb::Get));
    for range in [0..5000, 5..10] {
        let error = rig.store.read(&object, range, Priority::Demand).await.expect_err("changed");
        assert!(matches!(error, ReadError::Changed { .. }), "{error}");
    }
    assert_eq!(rig.store.stats().requests(Verb::Get), 2);
}

#[tokio::test]
async fn an_object_replaced_by_one_of_the_same_size_is_changed() {
    let rig = rig();
    let old = rig.seeded("k", 3, 5000).await;
    let new = rig.seeded("k", 4, 5000).await;
    let error = rig.store.read(&old, 0..5000, Priority::Demand).await.expect_err("changed");
    assert!(matches!(error, ReadError::Changed { .. }), "{error}");
    let read = rig.store.read(&new, 0..5000, Priority::Demand).await.expect("new");
    assert!(read == object_bytes(4, 5000));
}

#[tokio::test]
async fn a_storm_of_503_lowers_the_limit_and_every_read_is_served() {
    let sim = S3Sim::builder().latency_ms(5).rate_limit(400).start().expect("starts");
    sim.create_bucket(BUCKET);
    let mut config = config("s3://bucket", &sim.endpoint(), &KEYS);
    config.retry_budget = Duration::from_secs(30);
    let rig = Rig { store: open(&config), sim };
    let object = rig.seeded("k", 5, 20_000).await;
    let before = rig.store.limiter().limit();
    let reads = (0..1200).map(|_| rig.store.read(&object, 0..20_000, Priority::Fill));
    for read in futures::future::join_all(reads).await {
        assert!(read.expect("served within the budget") == object_bytes(5, 20_000));
    }
    assert!(rig.store.stats().retries(RetryCause::Status503) > 0, "there was no storm");
    assert!(rig.store.limiter().limit() < before / 2, "limit {}", rig.store.limiter().limit());
    assert_eq!(rig.store.limiter().in_flight(), 0);
}

#[tokio::test]
async fn a_bucket_that_stays_down_is_unavailable_within_the_budget() {
    let sim = S3Sim::builder().start().expect("starts");
    let mut config = config("s3://bucket", &sim.endpoint(), &KEYS);
    config.retry_budget = Duration::from_secs(1);
    let rig = Rig { store: open(&config), sim };
    let object = rig.seeded("k", 5, 100).await;
    rig.sim.set_faults(FaultRule::every(FaultKind::SlowDown));
    let read = rig.store.read(&object, 0..100, Priority::Demand).await;
    assert!(matches!(read, Err(ReadError::Unavailable { .. })), "{read:?}");
    drop(rig.sim);
    let read = rig.store.read(&object, 0..100, Priority::Demand).await;
    let Err(ReadError::Unavailable { cause, .. }) = read else { panic!("{read:?}") };
    assert!(cause.contains("no connection"), "{cause}");
    assert!(rig.store.stats().retries(RetryCause::Connect) > 0);
}

async fn first_error(store: &Store) -> ReadError {
    store.list(&FIRST).await.expect_err("refused")
}

#[tokio::test]
async fn refusals_say_what_to_do_and_hide_the_secret() {
    let rig = rig();
    let endpoint = rig.sim.endpoint();
    let wrong_secret = [KEYS[0], ("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let wrong_key = [("AWS_ACCESS_KEY_ID", "nobody"), KEYS[1]];
    for (variables, expected) in
        [(wrong_secret, "does not belong to the access key"), (wrong_key, "is unknown")]
    {
        let store = open(&config("s3://bucket", &endpoint, &variables));
        let error = first_error(&store).await;
        assert!(matches!(error, ReadError::Forbidden { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!format!("{error:?} {store:?}").contains("hunter2"));
        assert_eq!(store.stats().requests(Verb::List), 1, "repeated in vain");
    }
    let absent = open(&config("s3://absent", &endpoint, &KEYS));
    let error = first_error(&absent).await;
    assert!(matches!(error, ReadError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("--endpoint"), "{error}");

    let object = rig.seeded("k", 1, 50).await;
    rig.sim.set_faults(FaultRule::every(FaultKind::Forbidden));
    let error = rig.store.read(&object, 0..50, Priority::Demand).await.expect_err("refused");
    assert!(error.to_string().contains("s3:ListBucket"), "{error}");
}

#[tokio::test]
async fn no_signature_when_anonymous() {
    let sim = S3Sim::builder().start().expect("starts");
    sim.put_object(BUCKET, "k", b"hello");
    let mut anonymous = config("s3://bucket", &sim.endpoint(), &[]);
    anonymous.anonymous = true;
    let store = open(&anonymous);
    let object = listed(&store, "k").await;
    let read = store.read(&object, 1..3, Priority::Demand).await.expect("read");
    assert_eq!(&read[..], b"el");

    let signed = rig();
    let mut anonymous = config("s3://bucket", &signed.sim.endpoint(), &KEYS);
    anonymous.anonymous = true;
    let error = first_error(&open(&anonymous)).await;
    assert!(matches!(error, ReadError::Forbidden { .. }), "{error}");
}

#[tokio::test]
async fn hostile_keys_are_listed_as_they_are_and_read_back() {
    let rig = rig();
    let keys = [
        "plain",
        "a b",
        "a+b",
        "a%41b",
        "a%2Fb",
        "a#b?c=d&e",
        "~tilde",
        "{}[]^`|<>\"\\",
        "ü/日本/🎉",
        "a//b",
        "/leading",
        "trailing/",
        "a*b(c)'!$,;:@=",
        "new\nline\ttab",
        " spaces at both ends ",
        "&amp;",
        "%",
        "%%%zz",
        ".hidden",
        "...",
        "a..b",
    ];
    for (seed, key) in keys.iter().enumerate() {
        rig.sim.put_object(BUCKET, key, object_bytes(seed as u64, 100));
    }
    let (found, _) = list_all(&*rig.store, "", false).await;
    let mut expected: Vec<_> = keys.iter().map(|key| ((*key).to_owned(), 100)).collect();
    expected.sort();
    assert_eq!(found, expected);
    for (seed, key) in keys.iter().enumerate() {
        let object = listed(&rig.store, key).await;
        let read = rig.store.read(&object, 3..90, Priority::Demand).await;
        let read = read.unwrap_or_else(|error| panic!("{key:?}: {error}"));
        assert!(read == object_bytes(seed as u64, 100).slice(3..90), "{key:?}");
    }
    // What no URL can carry is refused, without hurting the rest of the page.
    for key in ["a/../b", "./c", ".."] {
        rig.sim.put_object(BUCKET, key, b"12345");
        let object = listed(&rig.store, key).await;
        let error = rig.store.read(&object, 0..5, Priority::Demand).await.expect_err("refused");
        assert!(matches!(error, ReadError::Rejected { .. }), "{key}: {error}");
    }
    let page = rig.store.list(&ListRequest { prefix: "a//".into(), ..FIRST }).await.expect("lists");
    assert_eq!(page.objects.len(), 1);
}

#[tokio::test]
async fn a_dropped_read_gives_its_place_back() {
    let rig = rig();
    let object = rig.seeded("k", 1, 100_000).await;
    rig.sim.set_faults(FaultRule::next(FaultKind::Stall, 50).at_byte(10).stall_ms(60_000));
    for _ in 0..50 {
        let read = rig.store.read(&object, 0..100_000, Priority::Demand);
        let dropped = tokio::time::timeout(Duration::from_millis(5), read).await;
        assert!(dropped.is_err(), "the stall did not happen");
    }
    assert_eq!(rig.store.limiter().in_flight(), 0);
    rig.sim.set_faults(Faults::none());
    rig.store.read(&object, 0..100_000, Priority::Demand).await.expect("served");
}

#[tokio::test]
async fn uploads_arrive_whole_also_in_parts() {
    let rig = rig();
    let uploader = rig.store.uploader();
    assert_eq!(uploader.head("dir/a b+c").await.expect("asked"), None);
    uploader.put("dir/a b+c", object_bytes(1, 5000)).await.expect("stored");
    let object = listed(&rig.store, "dir/a b+c").await;
    let version = uploader.head("dir/a b+c").await.expect("asked").expect("there");
    // A HEAD gives the time in whole seconds, a listing in milliseconds.
    assert_eq!((version.size, version.etag), (object.version.size, object.version.etag.clone()));
    let read = rig.store.read(&object, 0..5000, Priority::Demand).await.expect("read");
    assert!(read == object_bytes(1, 5000));

    // Two parts and a bit, in chunks that do not divide them.
    let size = (140 << 20) + 17;
    let block = object_bytes(2, 1_000_003);
    let count = size / block.len();
    let chunks = futures::stream::iter((0..count).map(|_| Ok(block.clone())));
    let stored = uploader.put_stream("large", chunks).await.expect("stored");
    assert_eq!(stored, (count * block.len()) as u64);
    let object = listed(&rig.store, "large").await;
    assert_eq!(object.version.size, stored);
    let (start, length) = (67 * block.len() as u64, block.len() as u64);
    let read = rig.store.read(&object, start..start + length, Priority::Demand).await;
    assert!(read.expect("read across parts") == block);

    let broken =
        futures::stream::iter([Ok(Bytes::from_static(b"x")), Err(std::io::Error::other("no"))]);
    uploader.put_stream("broken", broken).await.expect_err("fails");
    assert_eq!(uploader.head("broken").await.expect("asked"), None);
}

#[tokio::test]
async fn keys_and_region_come_from_a_profile() {
    let rig = rig();
    let home = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(home.path().join(".aws")).expect("made");
    let text = "[train]\naws_access_key_id = test-key\naws_secret_access_key = test-secret\n";
    std::fs::write(home.path().join(".aws/credentials"), text).expect("written");
    let text =
        format!("[profile train]\nregion = eu-west-3\nendpoint_url = {}\n", rig.sim.endpoint());
    std::fs::write(home.path().join(".aws/config"), text).expect("written");
    let home = home.path().to_str().expect("text");
    let mut config = config("s3://bucket", "", &[("HOME", home), ("AWS_PROFILE", "train")]);
    config.endpoint = None;
    let store = open(&config);
    rig.put("k", object_bytes(1, 10)).await;
    assert_eq!(listed(&store, "k").await.version.size, 10);
    assert_eq!(store.source(), rig.store.source(), "the same bucket has the same id");
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_at_once() {
    let open = |config: &StoreConfig| {
        let clock = feedline_testkit::RealClock::shared();
        Store::open(config, clock, tokio::runtime::Handle::current(), 1).expect_err("refused")
    };
    let base = config("s3://bucket", "http://127.0.0.1:1", &KEYS);
    let endpoint = StoreConfig { endpoint: Some("127.0.0.1:9000".into()), ..base.clone() };
    assert!(matches!(open(&endpoint), OpenError::Endpoint { .. }));
    let secret = StoreConfig { endpoint: Some("http://me:hunter2@h".into()), ..base.clone() };
    assert!(!open(&secret).to_string().contains("hunter2"));
    let ca_file = StoreConfig { ca_file: Some("/nonexistent.pem".into()), ..base.clone() };
    assert!(matches!(open(&ca_file), OpenError::Certificate { .. }));
    assert!(matches!(open(&StoreConfig { url: "bucket".into(), ..base }), OpenError::Url { .. }));
}
