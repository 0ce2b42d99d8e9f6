//! What a tree answers, when it asks the store, and how often.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{TTL, config, eventually, mounted, names, open, simple, unavailable};
use feedline_model::{ReadError, SourceId, Tree};
use feedline_namespace::{ConfigError, HiddenReason, Listing, Namespace, NamespaceConfig};
use feedline_testkit::{FakeClock, MemoryLister};
use futures::StreamExt;
use tokio::runtime::Handle;

#[tokio::test]
async fn a_cold_walk_takes_one_list_per_thousand_names_and_directory() {
    let lister = MemoryLister::new(SourceId(1));
    let (directories, files) = (20, 1500);
    for directory in 0..directories {
        for file in 0..files {
            lister.insert(&format!("train/n{directory:03}/{file:05}.jpg"), 1);
        }
    }
    let clock = FakeClock::new();
    let namespace = open(config(&lister), &clock);
    let walked: Vec<_> = namespace.walk("").collect().await;
    let walked: Vec<_> = walked.into_iter().map(|it| it.expect("the store answers")).collect();
    let total: usize = walked.iter().map(|it| it.len()).sum();
    assert_eq!(walked.len(), directories + 2);
    assert_eq!(total, directories * files + directories + 1);
    let paths: Vec<_> = walked.iter().map(|it| it.path.to_string()).collect();
    assert!(walked.iter().all(|it| it.is_whole), "nothing is hidden here");
    assert!(paths.is_sorted(), "parents first, siblings by name: {paths:?}");
    assert_eq!(lister.requests(), 2 + directories * 2);
    assert!(lister.requests() <= total / 1000 + directories + 2 + 10);
    // The same again, and whatever is absent, costs nothing.
    lister.clear_log();
    assert_eq!(namespace.walk("").count().await, directories + 2);
    for absent in ["x", "train/n999", "train/n000/00000.jpg", "x/y/z", "train/n000/a/b"] {
        assert!(namespace.list(absent).await.expect("known").is_none(), "{absent}");
    }
    assert_eq!(lister.requests(), 0);
    assert_eq!(namespace.stats().lists, 2 + directories as u64 * 2);
}

#[tokio::test]
async fn an_unknown_path_is_resolved_from_the_top() {
    let (lister, _, namespace) = simple(&["a/b/c/file", "z"]);
    assert!(namespace.peek("a/b/c").is_none());
    let directory = namespace.list("a/b/c").await.expect("answers").expect("there");
    assert_eq!(names(&directory), ["file"]);
    assert_eq!(&*directory.object(0).expect("a file").key, "a/b/c/file");
    assert_eq!(lister.requests(), 4);
    assert!(namespace.list("q/b/c").await.expect("answers").is_none());
    for invalid in ["a//b", "/a", "a/", "..", "a/./b", "a\0"] {
        assert!(namespace.list(invalid).await.expect("answers").is_none(), "{invalid:?}");
    }
    assert_eq!(lister.requests(), 4, "absent and invalid paths cost nothing");
}

#[tokio::test]
async fn many_callers_share_one_list_and_one_that_leaves_cancels_nobody() {
    let (lister, _, namespace) = simple(&["a", "b"]);
    let hold = lister.hold();
    let first = namespace.clone();
    let first = Handle::current().spawn(async move { first.list("").await });
    lister.wait_for_requests(1).await;
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let namespace = namespace.clone();
            Handle::current().spawn(async move { namespace.list("").await })
        })
        .collect();
    first.abort();
    assert!(first.await.expect_err("it was aborted").is_cancelled());
    hold.release();
    for waiter in waiting {
        let directory = waiter.await.expect("ends").expect("answers").expect("the root is there");
        assert_eq!(names(&directory), ["a", "b"]);
    }
    assert_eq!(lister.requests(), 1);
}

#[tokio::test]
async fn a_listing_is_refreshed_in_the_background_after_half_its_ttl() {
    let (lister, clock, namespace) = simple(&["a"]);
    let first = namespace.list("").await.expect("answers").expect("root");
    clock.advance(TTL / 2 - Duration::from_millis(1));
    assert!(Arc::ptr_eq(&first, &namespace.peek("").expect("fresh")));
    assert_eq!(lister.requests(), 1);
    clock.advance(Duration::from_millis(1));
    let known = namespace.list("").await.expect("answers").expect("root");
    assert!(Arc::ptr_eq(&first, &known), "what is known is served meanwhile");
    let is_new = || namespace.peek("").is_some_and(|it| it.listed_ms != first.listed_ms);
    eventually("the refresh", is_new).await;
    let second = namespace.peek("").expect("fresh");
    assert_eq!(second.changed_ms, first.changed_ms, "nothing changed in the bucket");
    assert_eq!((lister.requests(), namespace.stats().refreshes), (2, 1));
    lister.insert("b", 1);
    clock.advance(TTL);
    assert!(namespace.peek("").is_none(), "outdated listings are never shown by peek");
    let third = namespace.list("").await.expect("answers").expect("root");
    assert_eq!(names(&third), ["a", "b"]);
    assert!(second.changed_ms < third.changed_ms);
    assert_eq!(lister.requests(), 3);
}

#[tokio::test]
async fn an_outage_serves_what_is_known_and_ends_by_itself() {
    let (lister, clock, namespace) = simple(&["a/x", "b/x"]);
    for path in ["", "a"] {
        namespace.list(path).await.expect("answers").expect("there");
    }
    clock.advance(TTL);
    lister.insert("a/y", 1);
    lister.clear_log();
    lister.fail_next(2, &unavailable());
    let stale = namespace.list("a").await.expect("served").expect("known");
    assert_eq!(names(&stale), ["x"]);
    assert!(namespace.peek("a").is_none());
    // For a second nobody asks again, for whatever directory of that bucket.
    namespace.list("a").await.expect("served").expect("known");
    namespace.list("").await.expect("served").expect("known");
    assert_eq!(lister.requests(), 1);
    assert_eq!(namespace.stats().stale_served, 3);
    // What was never known is an error, which says why.
    let error = namespace.list("b").await.expect_err("not known, and the store is down");
    assert!(error.is_retryable() && error.to_string().contains("timed out"));
    clock.advance(Duration::from_secs(1));
    let fresh = namespace.list("a").await.expect("answers").expect("there");
    assert_eq!(names(&fresh), ["x", "y"]);
}

#[tokio::test]
async fn a_refusal_is_an_error_and_not_a_stale_answer() {
    let (lister, clock, namespace) = simple(&["a"]);
    namespace.list("").await.expect("answers");
    clock.advance(TTL);
    let (location, cause) = ("s3://b/".into(), "policy".into());
    lister.fail_next(1, &ReadError::Forbidden { location, cause });
    assert!(matches!(namespace.list("").await, Err(ReadError::Forbidden { .. })));
}

#[tokio::test]
async fn an_expired_listing_is_asked_for_even_if_an_older_one_is_under_way() {
    let (lister, clock, namespace) = simple(&["a"]);
    namespace.list("").await.expect("answers");
    namespace.expire("");
    assert!(namespace.peek("").is_none());
    let hold = lister.hold();
    let old = namespace.clone();
    let old = Handle::current().spawn(async move { old.list("").await });
    lister.wait_for_requests(2).await;
    // Expired while a listing is under way: that one may have missed the change.
    namespace.expire("");
    let new = namespace.clone();
    let new = Handle::current().spawn(async move { new.list("").await });
    lister.wait_for_requests(3).await;
    clock.advance(Duration::from_millis(5));
    hold.release();
    new.await.expect("ends").expect("answers").expect("root");
    old.await.expect("ends").expect("answers").expect("root");
    assert!(namespace.peek("").is_some());
    assert_eq!(lister.requests(), 3);
}

#[tokio::test]
async fn a_directory_that_vanished_takes_everything_below_with_it() {
    let (lister, clock, namespace) = simple(&["a/b/c/x", "a-b", "keep"]);
    namespace.list("a/b/c").await.expect("answers").expect("there");
    lister.remove("a/b/c/x");
    namespace.expire("a/b/c");
    assert!(namespace.list("a/b/c").await.expect("answers").is_none());
    assert!(namespace.peek("a/b").is_none(), "it showed c, so it is wrong");
    clock.advance(TTL);
    let root = namespace.list("").await.expect("answers").expect("root");
    assert_eq!(names(&root), ["a-b", "keep"]);
    lister.clear_log();
    for path in ["a", "a/b", "a/b/c"] {
        assert!(namespace.list(path).await.expect("answers").is_none(), "{path}");
    }
    assert_eq!(lister.requests(), 0);
    assert_eq!(namespace.stats().directories, 1);
}

#[tokio::test]
async fn hostile_keys_are_hidden_counted_and_shown_as_examples_in_both_modes() {
    let long = "l".repeat(256);
    let deep = format!("deep/{}", format!("{}/", "d".repeat(250)).repeat(17));
    let keys = [
        "ok",
        "a//b",
        "a//c",
        "/lead",
        "./x",
        "d/../x",
        "d/.",
        "nul\0",
        "d/\u{1}c/x",
        "s",
        "s/t",
        "m/",
        "only//x",
        "é\u{85}",
        &long,
        &deep,
    ];
    let (lister, clock, lazy) = simple(&keys);
    let walked: Vec<_> = lazy.walk("").map(|it| it.expect("answers")).collect().await;
    let eager = open(config(&lister), &clock);
    eager.preload("").await.expect("answers");
    let flat = open(NamespaceConfig { lists_max: 1, ..config(&lister) }, &clock);
    flat.preload("").await.expect("answers");
    for namespace in [&eager, &flat] {
        for directory in &walked {
            let other = namespace.peek(&directory.path).expect("preloaded");
            assert!(directory.same_entries(&other), "{}", directory.path);
            assert_eq!(directory.is_whole, other.is_whole, "{}", directory.path);
        }
        assert_eq!(namespace.stats().hidden, lazy.stats().hidden);
        assert_eq!(namespace.stats().directories, lazy.stats().directories);
    }
    let whole: Vec<_> = walked.iter().filter(|it| it.is_whole).map(|it| &*it.path).collect();
    assert!(whole.contains(&"s"), "{whole:?}");
    for hiding in ["", "a", "d", "m", "only"] {
        assert!(!whole.contains(&hiding), "{hiding} hides a key");
    }
    let shown = names(&walked[0]);
    assert_eq!(shown, ["a/", "d/", "deep/", "m/", "ok", "only/", "s/", "é\u{85}"]);
    let hidden = lazy.stats().hidden;
    let expected = [
        (HiddenReason::EmptyPart, 3),
        (HiddenReason::DotPart, 3),
        (HiddenReason::ControlCharacter, 2),
        (HiddenReason::PartTooLong, 1),
        (HiddenReason::PathTooLong, 1),
        (HiddenReason::ShadowedByDirectory, 1),
        (HiddenReason::DirectoryMarker, 1),
    ];
    assert_eq!(hidden, expected);
    let examples = lazy.stats().hidden_examples;
    for line in ["empty_part: a//", "shadowed_by_directory: s", "control_character: nul\\0"] {
        assert!(examples.iter().any(|it| it == line), "{line} in {examples:?}");
    }
    assert!(lazy.list("m").await.expect("answers").expect("the marker makes it").is_empty());
    assert!(lazy.list("only").await.expect("answers").expect("keys are below").is_empty());
}

#[tokio::test]
async fn several_buckets_make_one_tree_and_a_mount_hides_a_key_of_its_name() {
    let outer = MemoryLister::new(SourceId(1));
    let inner = MemoryLister::new(SourceId(2));
    for key in ["data/val/hidden", "data/train/x", "top", "lone"] {
        outer.insert(key, 1);
    }
    for key in ["v1/img", "v1/sub/img", "v2/other"] {
        inner.insert(key, 1);
    }
    let clock = FakeClock::new();
    let mounts = vec![
        mounted("/data/val/", &inner, "v1"),
        mounted("", &outer, ""),
        mounted("lone/far", &inner, "v2/"),
    ];
    let namespace = open(NamespaceConfig { mounts, ..config(&outer) }, &clock);
    let list = async |path: &str| {
        names(&namespace.list(path).await.expect("answers").unwrap_or_else(|| panic!("{path}")))
    };
    assert_eq!(list("").await, ["data/", "lone/", "top"]);
    assert_eq!(list("data").await, ["train/", "val/"]);
    assert_eq!(list("data/val").await, ["img", "sub/"]);
    assert_eq!(list("lone").await, ["far/"]);
    assert_eq!(list("lone/far").await, ["other"]);
    let sub = namespace.list("data/val/sub").await.expect("answers").expect("there");
    assert_eq!(sub.origin, Some((SourceId(2), "v1/sub/".into())));
    assert_eq!(namespace.stats().hidden, [(HiddenReason::ShadowedByMount, 2)]);
    let preloaded = namespace.preload("").await.expect("answers");
    assert_eq!(preloaded.directories, 7);
    assert_eq!(namespace.stats().hidden, [(HiddenReason::ShadowedByMount, 2)]);
    // Without a bucket at the root, leading directories exist by configuration alone.
    inner.clear_log();
    let mounts = vec![mounted("x/y", &inner, "v1/"), mounted("x/z", &inner, "absent/")];
    let namespace = open(NamespaceConfig { mounts, ..config(&inner) }, &clock);
    assert_eq!(names(&namespace.peek("").expect("known")), ["x/"]);
    assert_eq!(names(&namespace.peek("x").expect("known")), ["y/", "z/"]);
    assert!(namespace.list("q").await.expect("answers").is_none());
    assert_eq!(inner.requests(), 0);
    assert!(namespace.list("x/z").await.expect("answers").expect("mounted").is_empty());
}

#[tokio::test]
async fn eager_lists_small_directories_together() {
    let lister = MemoryLister::new(SourceId(1));
    for directory in 0..400 {
        for file in 0..10 {
            lister.insert(&format!("t/{:02}/{directory}/{file}", directory % 10), 1);
        }
    }
    let clock = FakeClock::new();
    let config = NamespaceConfig { listing: Listing::Eager, ..config(&lister) };
    let namespace = open(config, &clock);
    eventually("the preload", || namespace.peek("t/09/399").is_some()).await;
    let settled = || namespace.stats().directories == 412;
    eventually("all of it", settled).await;
    // The root, t, and one for each of ten prefixes, instead of 412.
    assert_eq!(lister.requests(), 12);
    // Half the TTL later one access refreshes all of it.
    clock.advance(TTL / 2);
    lister.insert("t/00/0/new", 1);
    namespace.peek("t/05/5").expect("known");
    let seen = || namespace.peek("t/00/0").is_some_and(|it| it.find("new").is_some());
    eventually("the refresh", seen).await;
    assert_eq!(lister.requests(), 24);
    assert_eq!(namespace.stats().preloads, 2);
}

#[tokio::test]
async fn no_more_listings_are_kept_than_allowed() {
    let lister = MemoryLister::new(SourceId(1));
    (0..100).for_each(|i| drop(lister.insert(&format!("d{i:02}/x"), 1)));
    let clock = FakeClock::new();
    let namespace = open(NamespaceConfig { directories_max: 10, ..config(&lister) }, &clock);
    for i in 0..100 {
        namespace.list(&format!("d{i:02}")).await.expect("answers").expect("there");
        assert!(namespace.stats().directories <= 10);
    }
    assert_eq!(lister.requests(), 101, "the root was used all along, so it stayed");
    assert!(namespace.peek("d99").is_some() && namespace.peek("d00").is_none());
    assert_eq!(namespace.stats().evicted, 91);
}

#[tokio::test]
async fn a_directory_of_100_000_entries_is_listed_in_100_pages() {
    let lister = MemoryLister::new(SourceId(1));
    (0..100_000).for_each(|i| drop(lister.insert(&format!("big/{i:06}"), i)));
    let clock = FakeClock::new();
    let namespace = open(config(&lister), &clock);
    let directory = namespace.list("big").await.expect("answers").expect("there");
    assert_eq!(directory.len(), 100_000);
    assert_eq!(directory.object(77_777).expect("a file").version.size, 77_777);
    assert_eq!(lister.requests(), 101);
}

#[tokio::test]
async fn every_impossible_config_is_refused_with_its_reason() {
    let lister = MemoryLister::new(SourceId(1));
    let clock = FakeClock::new();
    let refused = |config: NamespaceConfig| {
        Namespace::open(config, clock.shared(), Handle::current()).expect_err("refused")
    };
    let with = |mounts| NamespaceConfig { mounts, ..config(&lister) };
    assert_eq!(refused(with(vec![])), ConfigError::NoMount);
    let twice = vec![mounted("a", &lister, ""), mounted("/a/", &lister, "b")];
    assert_eq!(refused(with(twice)), ConfigError::Duplicate { path: "a".to_owned() });
    let invalid = refused(with(vec![mounted("a/../b", &lister, "")]));
    assert_eq!(invalid.to_string(), "mounts: \"a/../b\" is no valid path (dot_part)");
    let zero = refused(NamespaceConfig { lists_max: 0, ..config(&lister) });
    assert_eq!(zero.to_string(), "lists_max is 0, must be at least 1");
    let zero = refused(NamespaceConfig { directories_max: 0, ..config(&lister) });
    assert_eq!(zero, ConfigError::Zero { field: "directories_max" });
}

/// Folders `train/n000` to `train/n099` with a file each, and how many LISTs a client costs that lists
/// these, one after another.
async fn lists_of(folders: &[usize]) -> (Arc<MemoryLister>, Namespace) {
    let lister = MemoryLister::new(SourceId(1));
    (0..100).for_each(|folder| _ = lister.insert(&format!("train/n{folder:03}/a.jpg"), 1));
    let namespace = open(config(&lister), &FakeClock::new());
    namespace.list("train").await.expect("answers").expect("there");
    lister.clear_log();
    for folder in folders {
        let path = format!("train/n{folder:03}");
        namespace.list(&path).await.expect("answers").expect("there");
    }
    (lister, namespace)
}

#[tokio::test]
async fn a_walk_over_folders_in_order_lists_the_next_ones_ahead_and_none_twice() {
    let (lister, namespace) = lists_of(&[0, 1]).await;
    assert_eq!(lister.requests(), 2);
    let hold = lister.hold();
    let third = namespace.list("train/n002");
    let mut third = std::pin::pin!(third);
    assert!(futures::poll!(&mut third).is_pending());
    // As many at once as are allowed, although nobody has asked for them yet.
    eventually("LISTs ahead", || lister.requests() == 2 + 8).await;
    drop(hold);
    third.await.expect("answers").expect("there");
    for folder in 3..100 {
        let path = format!("train/n{folder:03}");
        let directory = namespace.list(&path).await.expect("answers").expect("there");
        assert_eq!(names(&directory), ["a.jpg"]);
    }
    assert_eq!(lister.requests(), 100, "each folder once");
}

#[tokio::test]
async fn folders_in_no_order_are_listed_one_by_one() {
    let (lister, _namespace) = lists_of(&[40, 7, 93, 21, 60, 2]).await;
    assert_eq!(lister.requests(), 6);
    // Nor do the first two.
    let (lister, _namespace) = lists_of(&[0, 1]).await;
    assert_eq!(lister.requests(), 2);
}
