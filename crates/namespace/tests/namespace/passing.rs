//! A walk that passes through: what it leaves in memory, on disk, and to others.

use std::sync::Arc;

use feedline_model::{Directory, SourceId, Tree};
use feedline_namespace::Namespace;
use feedline_testkit::{FakeClock, MemoryLister};
use futures::StreamExt;

use crate::common::{TTL, config, eventually, names, open, with_state};

const FOLDERS: usize = 5;

fn bucket() -> Arc<MemoryLister> {
    let lister = MemoryLister::new(SourceId(1));
    for folder in 0..FOLDERS {
        for file in 0..20 {
            lister.insert(&format!("n{folder}/{file:03}.jpg"), file);
        }
    }
    // Not shown, but counted.
    lister.insert("n1//x", 1);
    lister
}

async fn pass(namespace: &Namespace) -> Vec<Arc<Directory>> {
    namespace.pass_through("").map(|it| it.expect("answers")).collect().await
}

fn is_in_memory(namespace: &Namespace, folder: usize) -> bool {
    namespace.peek(&format!("n{folder}")).is_some()
}

#[tokio::test]
async fn what_passes_lies_on_disk_and_is_there_again_without_a_list() {
    let (lister, clock) = (bucket(), FakeClock::new());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = with_state(&lister, dir.path().join("state"));
    let namespace = open(config.clone(), &clock);
    let all = pass(&namespace).await;
    assert_eq!(all.len(), 1 + FOLDERS);
    eventually("all lie on disk", || (0..FOLDERS).all(|it| !is_in_memory(&namespace, it))).await;
    let (stats, requests) = (namespace.stats(), lister.requests());
    assert_eq!(stats.entries, (20 * FOLDERS + FOLDERS) as u64);
    for before in &all[1..] {
        let now = namespace.list(&before.path).await.expect("known").expect("a folder");
        assert_eq!(now, *before);
    }
    assert_eq!(lister.requests(), requests);
    assert_eq!(namespace.stats().hidden, stats.hidden);
    namespace.close().await;
    drop(namespace);
    let again = open(config, &clock);
    assert_eq!(pass(&again).await, all);
    assert_eq!(lister.requests(), requests);
}

#[tokio::test]
async fn what_somebody_asked_for_stays() {
    let (lister, clock) = (bucket(), FakeClock::new());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let namespace = open(with_state(&lister, dir.path().join("state")), &clock);
    namespace.list("n1").await.expect("answers");
    pass(&namespace).await;
    eventually("others lie on disk", || !is_in_memory(&namespace, 4)).await;
    assert!(is_in_memory(&namespace, 1));
    namespace.list("n3").await.expect("known");
    // Listed anew, it is still the one that somebody asked for.
    clock.advance(TTL);
    pass(&namespace).await;
    pass(&namespace).await;
    namespace.close().await;
    let there: Vec<bool> = (0..FOLDERS).map(|it| is_in_memory(&namespace, it)).collect();
    assert_eq!(there, [false, true, false, true, false]);
}

#[tokio::test]
async fn a_newer_listing_is_not_replaced_by_the_one_that_passed() {
    let (lister, clock) = (bucket(), FakeClock::new());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let namespace = open(with_state(&lister, dir.path().join("state")), &clock);
    let mut passing = std::pin::pin!(namespace.pass_through("n2"));
    let passed = passing.next().await.expect("the folder").expect("answers");
    lister.insert("n2/new.jpg", 1);
    namespace.expire("n2");
    let newer: Vec<_> = namespace.walk("n2").map(|it| it.expect("answers")).collect().await;
    assert_eq!(newer[0].len(), passed.len() + 1);
    assert!(passing.next().await.is_none());
    namespace.close().await;
    let now = namespace.list("n2").await.expect("known").expect("the folder");
    assert_eq!(names(&now), names(&newer[0]));
    assert!(Arc::ptr_eq(&now, &newer[0]), "the newer one was not wanted on disk");
}

#[tokio::test]
async fn without_a_state_file_everything_stays_in_memory() {
    let (lister, clock) = (bucket(), FakeClock::new());
    let namespace = open(config(&lister), &clock);
    pass(&namespace).await;
    assert!((0..FOLDERS).all(|it| is_in_memory(&namespace, it)));
}
