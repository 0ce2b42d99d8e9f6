//! The folder store: conformance, order, and what a folder has that a bucket has not.

use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use feedline_model::{BlockSource as _, Lister, Priority, ReadError};
use feedline_testkit::conformance::{self, KeyFixture, ObjectFixture, list_all};
use feedline_testkit::{RealClock, object_bytes};

use super::*;
use crate::{Store, StoreConfig};

/// A folder and the store over it.
struct Rig {
    directory: tempfile::TempDir,
    store: Arc<Store>,
}

fn rig() -> Rig {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    Rig { directory, store }
}

fn open(path: &Path) -> Arc<Store> {
    let mut config = StoreConfig::new(format!("file://{}", path.display()));
    config.retry_budget = Duration::from_secs(1);
    Store::open(&config, RealClock::shared(), Handle::current(), 1).expect("opens")
}

#[async_trait]
impl ObjectFixture for Rig {
    async fn put(&self, key: &str, bytes: Bytes) -> Object {
        let uploader = self.store.uploader();
        uploader.put(key, bytes).await.expect("stored");
        let version = uploader.head(key).await.expect("asked").expect("there");
        Object { source: self.store.source(), key: key.into(), version }
    }

    async fn remove(&self, key: &str) {
        std::fs::remove_file(self.directory.path().join(key)).expect("removed");
    }
}

#[async_trait]
impl KeyFixture for Rig {
    async fn put_key(&self, key: &str, size: u64) {
        self.put(key, object_bytes(1, size)).await;
    }

    async fn remove_key(&self, key: &str) {
        self.remove(key).await;
    }
}

#[tokio::test]
async fn a_folder_conforms() {
    let rig = rig();
    conformance::block_source(rig.store.clone(), &rig).await;
    conformance::lister(&*rig.store, &rig).await;
}

#[tokio::test]
async fn pages_go_on_where_they_ended_in_the_order_of_bytes() {
    let rig = rig();
    let mut expected: Vec<String> = (0..PAGE_NAMES + 500).map(|i| format!("d/{i:05}")).collect();
    expected.extend([
        "a".into(),
        "a-b".into(),
        "a/b".into(),
        "a/c/d".into(),
        "a0".into(),
        "e/f".into(),
    ]);
    for key in &expected {
        let path = rig.directory.path().join(key.replace("a/", "A/"));
        std::fs::create_dir_all(path.parent().expect("below")).expect("made");
        std::fs::write(path, "").expect("written");
    }
    // A folder cannot have both `a` and `a/b`.
    expected = expected.into_iter().map(|key| key.replace("a/", "A/")).collect();
    expected.sort_unstable();
    let (found, _) = list_all(&*rig.store, "", false).await;
    let found: Vec<String> = found.into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, expected);
    let (found, prefixes) = list_all(&*rig.store, "", true).await;
    assert_eq!(found.len(), 3);
    assert_eq!(prefixes, ["A/", "d/", "e/"]);
}

#[tokio::test]
async fn names_that_are_no_text_are_skipped_and_counted_and_loops_end() {
    let rig = rig();
    let name = std::ffi::OsStr::from_bytes(b"bad\xff");
    std::fs::write(rig.directory.path().join(name), "x").expect("written");
    std::fs::write(rig.directory.path().join("good"), "x").expect("written");
    std::os::unix::fs::symlink(rig.directory.path(), rig.directory.path().join("loop"))
        .expect("linked");
    std::os::unix::fs::symlink("good", rig.directory.path().join("link")).expect("linked");
    let (found, _) = list_all(&*rig.store, "", false).await;
    assert_eq!(found, [("good".to_owned(), 1), ("link".to_owned(), 1)]);
    assert_eq!(rig.store.stats().names_skipped(), 1);
}

#[tokio::test]
async fn keys_never_leave_the_folder() {
    let rig = rig();
    let version = Version { size: 1, modified_ms: 0, etag: ETag::Absent };
    for key in ["../x", "a/../../x", "/etc/passwd", "a//b", "", "."] {
        let object =
            Object { source: rig.store.source(), key: key.into(), version: version.clone() };
        let error = rig.store.read(&object, 0..1, Priority::Demand).await.expect_err("refused");
        assert!(matches!(error, ReadError::Rejected { .. }), "{error}");
    }
    let (found, prefixes) = list_all(&*rig.store, "../", true).await;
    assert!(found.is_empty() && prefixes.is_empty());
}

#[tokio::test]
async fn an_absent_folder_is_not_found() {
    let rig = rig();
    let store = open(&rig.directory.path().join("absent"));
    let request = ListRequest { prefix: String::new(), delimiter: true, after: None, token: None };
    let error = store.list(&request).await.expect_err("absent");
    assert!(matches!(error, ReadError::NotFound { .. }), "{error}");
    assert!(store.uploader().put("k", Bytes::new()).await.is_err());
}
