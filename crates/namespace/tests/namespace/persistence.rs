//! What survives a restart, and what damage to the state file costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use feedline_model::{ETag, SourceId, Tree, Version};
use feedline_namespace::{HiddenReason, NamespaceConfig};
use feedline_testkit::{FakeClock, MemoryLister};
use futures::StreamExt;

use crate::common::{TTL, eventually, mounted, names, open, with_state};

fn bucket() -> Arc<MemoryLister> {
    let lister = MemoryLister::new(SourceId(1));
    for directory in 0..5 {
        for file in 0..20 {
            lister.insert(&format!("train/n{directory}/{file:03}.jpg"), file);
        }
    }
    let odd = [ETag::Absent, ETag::Other("0123-4".into())];
    for (i, etag) in odd.into_iter().enumerate() {
        let version = Version { size: u64::MAX, modified_ms: -5, etag };
        lister.insert_version(&format!("é{i}"), version);
    }
    lister.insert("a//b", 1);
    lister
}

#[tokio::test]
async fn a_remount_within_the_ttl_needs_no_list_and_gives_the_same_tree() {
    let lister = bucket();
    let clock = FakeClock::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = with_state(&lister, dir.path().join("state"));
    let first = open(config.clone(), &clock);
    let before: Vec<_> = first.walk("").map(|it| it.expect("answers")).collect().await;
    let stats = first.stats();
    first.close().await;
    clock.advance(TTL / 2 - Duration::from_millis(1));
    lister.clear_log();
    let second = open(config.clone(), &clock);
    let after: Vec<_> = second.walk("").map(|it| it.expect("known")).collect().await;
    assert_eq!(before, after);
    assert_eq!(second.stats().hidden, stats.hidden);
    assert_eq!(second.stats().entries, stats.entries);
    assert_eq!(lister.requests(), 0);
    second.close().await;
    // After the TTL the listings are asked for again; identical ones keep the time of change.
    clock.advance(TTL);
    let third = open(config, &clock);
    assert!(third.peek("").is_none());
    let root = third.list("").await.expect("answers").expect("root");
    assert_eq!(root.changed_ms, before[0].changed_ms);
    assert!(before[0].listed_ms < root.listed_ms);
    assert_eq!(lister.requests(), 1);
}

#[tokio::test]
async fn other_mounts_start_empty() {
    let lister = bucket();
    let clock = FakeClock::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = with_state(&lister, dir.path().join("state"));
    let first = open(config.clone(), &clock);
    first.list("train").await.expect("answers");
    first.close().await;
    let mounts = vec![mounted("", &lister, "train")];
    let other = open(NamespaceConfig { mounts, ..config.clone() }, &clock);
    assert_eq!(other.stats().directories, 0);
    assert_eq!(names(&other.list("").await.expect("answers").expect("root")).len(), 5);
    other.close().await;
    assert_eq!(open(config, &clock).stats().directories, 0);
}

#[tokio::test]
async fn a_state_file_cut_or_flipped_anywhere_costs_lists_and_nothing_else() {
    let lister = bucket();
    let clock = FakeClock::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state");
    let config = with_state(&lister, path.clone());
    let first = open(config.clone(), &clock);
    let right: Vec<_> = first.walk("").map(|it| it.expect("answers")).collect().await;
    first.close().await;
    // Changed and listed again, so that the log has older and newer records of one directory.
    clock.advance(TTL);
    lister.insert("train/n0/new", 1);
    lister.remove("train/n1/000.jpg");
    let again = open(config.clone(), &clock);
    let right_now: Vec<_> = again.walk("").map(|it| it.expect("answers")).collect().await;
    assert_ne!(right, right_now);
    again.close().await;
    let whole = std::fs::read(&path).expect("the state file");
    let (mut lost, mut kept) = (0, 0);
    for at in (0..whole.len()).step_by(whole.len() / 150) {
        for flip in [false, true] {
            let mut bytes = whole.clone();
            if flip {
                bytes[at] ^= 0x10;
            } else {
                bytes.truncate(at);
            }
            std::fs::write(&path, &bytes).expect("written");
            let namespace = open(config.clone(), &clock);
            lister.clear_log();
            let now: Vec<_> = namespace.walk("").map(|it| it.expect("answers")).collect().await;
            let listed = lister.requests();
            (lost, kept) = (lost + usize::from(0 < listed), kept + usize::from(listed == 0));
            for (directory, right) in now.iter().zip(&right_now) {
                assert!(directory.same_entries(right), "at {at}, flip {flip}: {}", right.path);
            }
            assert_eq!(now.len(), right_now.len());
            // What was mended by listing is there after the next start.
            namespace.close().await;
            lister.clear_log();
            let mended = open(config.clone(), &clock);
            assert_eq!(mended.walk("").count().await, right_now.len());
            assert_eq!(lister.requests(), 0, "at {at}, flip {flip}");
            mended.close().await;
        }
    }
    assert!(0 < lost && 0 < kept, "{lost} lost, {kept} kept: both kinds must be met");
}

#[tokio::test]
async fn the_log_is_rewritten_before_it_grows_without_end() {
    let lister = MemoryLister::new(SourceId(1));
    (0..2000).for_each(|i| drop(lister.insert(&format!("some-long-file-name-{i:06}"), 1)));
    let clock = FakeClock::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state");
    let namespace = open(with_state(&lister, path.clone()), &clock);
    let len = || std::fs::metadata(&path).expect("the state file").len();
    let mut longest = 0;
    for round in 0..60 {
        lister.insert("some-long-file-name-000000", round);
        namespace.expire("");
        let before = len();
        namespace.list("").await.expect("answers");
        eventually("the write", || len() != before).await;
        longest = longest.max(len());
    }
    assert!(longest < 500_000, "{longest} bytes, of which one listing is about 50,000");
    let root = namespace.list("").await.expect("known").expect("root");
    namespace.close().await;
    let again = open(with_state(&lister, path.clone()), &clock);
    assert!(again.peek("").is_none(), "it lies on disk until it is listed");
    lister.clear_log();
    assert_eq!(again.list("").await.expect("known").expect("root"), root);
    assert_eq!(again.peek("").expect("known"), root);
    assert_eq!(lister.requests(), 0);
    assert!(!path.with_extension("tmp").exists());
}

#[tokio::test]
async fn a_state_file_that_cannot_be_used_is_done_without() {
    let lister = bucket();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let namespace = open(with_state(&lister, dir.path().to_owned()), &FakeClock::new());
    assert!(namespace.list("a").await.expect("answers").is_some());
    assert_eq!(namespace.stats().hidden, [(HiddenReason::EmptyPart, 1)]);
    namespace.close().await;
}

#[tokio::test]
async fn listings_from_the_future_are_not_believed() {
    let lister = bucket();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = with_state(&lister, dir.path().join("state"));
    let later = FakeClock::new();
    later.advance(Duration::from_secs(3600));
    let first = open(config.clone(), &later);
    first.list("").await.expect("answers");
    first.close().await;
    assert_eq!(open(config, &FakeClock::new()).stats().directories, 0);
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "this measures real time")]
async fn a_hundred_thousand_entries_are_read_back_in_a_moment() {
    // Half a second is what it may take; unoptimised and beside other tests it has room.
    let most = Duration::from_millis(if cfg!(debug_assertions) { 20_000 } else { 500 });
    let lister = MemoryLister::with_page(SourceId(1), 100_000);
    for i in 0..100_000 {
        lister.insert(&format!("n{:03}/ILSVRC2012_{i:08}.JPEG", i % 1000), 110_000);
    }
    let clock = FakeClock::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state");
    let config = with_state(&lister, path.clone());
    let first = open(config.clone(), &clock);
    first.preload("").await.expect("answers");
    first.close().await;
    let start = Instant::now();
    let second = open(config, &clock);
    let took = start.elapsed();
    assert_eq!(second.stats().entries, 101_000);
    let bytes = std::fs::metadata(&path).expect("the state file").len();
    println!("{took:?} for 100,000 entries in {bytes} bytes");
    assert!(took < most, "{took:?}");
    assert!(bytes < 4_000_000, "{bytes} bytes");
}

#[tokio::test]
async fn a_state_file_of_another_format_is_dropped_and_written_anew() {
    let lister = bucket();
    let clock = FakeClock::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state");
    let config = with_state(&lister, path.clone());
    let first = open(config.clone(), &clock);
    first.list("train").await.expect("answers");
    first.close().await;
    let mut bytes = std::fs::read(&path).expect("the state file");
    assert_eq!(&bytes[..8], b"FDLNTRE\x02");
    bytes[7] = 1;
    std::fs::write(&path, bytes).expect("written");
    let second = open(config.clone(), &clock);
    assert_eq!(second.stats().directories, 0);
    second.list("train").await.expect("answers");
    second.close().await;
    assert_eq!(open(config, &clock).stats().directories, 2);
}

#[tokio::test]
async fn what_lies_on_disk_is_moved_by_a_rewrite_and_found_there() {
    let lister = bucket();
    (0..2000).for_each(|i| drop(lister.insert(&format!("big/some-long-file-name-{i:06}"), 1)));
    let clock = FakeClock::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state");
    let config = with_state(&lister, path.clone());
    let first = open(config.clone(), &clock);
    let right: Vec<_> = first.walk("train").map(|it| it.expect("answers")).collect().await;
    first.list("big").await.expect("answers");
    first.close().await;
    // One directory changes until the log is rewritten; those of train are not used meanwhile.
    let second = open(config.clone(), &clock);
    let inode = || std::os::unix::fs::MetadataExt::ino(&path.metadata().expect("the state file"));
    let len = || path.metadata().expect("the state file").len();
    let (before, mut size) = (inode(), 1);
    while inode() == before {
        (size, _) = (size + 1, lister.insert("big/some-long-file-name-000000", size));
        second.expire("big");
        let written = (inode(), len());
        second.list("big").await.expect("answers");
        eventually("the write", || (inode(), len()) != written).await;
        assert!(size < 1000, "never rewritten");
    }
    lister.clear_log();
    let now: Vec<_> = second.walk("train").map(|it| it.expect("known")).collect().await;
    assert_eq!(now, right);
    second.close().await;
    let third = open(config, &clock);
    let now: Vec<_> = third.walk("train").map(|it| it.expect("known")).collect().await;
    assert_eq!(now, right);
    assert_eq!(lister.requests(), 0);
}
