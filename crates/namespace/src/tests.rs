//! The guards that a run through the public face seldom meets: lost records and late listings.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use feedline_model::{Directory, DirectoryBuilder, SourceId, Tree, Version};
use feedline_testkit::{FakeClock, MemoryLister};
use tokio::runtime::Handle;

use crate::config::{Listing, Mounted, NamespaceConfig};
use crate::gather::DirectoryListing;
use crate::mounts::Mounts;
use crate::namespace::Namespace;
use crate::rules::HiddenCounts;
use crate::state::{Job, StateFile};
use crate::table::Table;

fn directory(path: &str, directories: &[&str], files: &[&str], listed_ms: u64) -> Directory {
    let mut builder = DirectoryBuilder::new();
    directories.iter().for_each(|name| builder.directory(name));
    for name in files {
        let etag = feedline_model::ETag::Absent;
        builder.file(name, Version { size: 1, modified_ms: 1, etag });
    }
    builder.build(path, Some((SourceId(1), "".into())), listed_ms, 1000).0
}

fn listing(directory: Directory) -> DirectoryListing {
    DirectoryListing { directory, hidden: HiddenCounts::default(), examples: Vec::new() }
}

fn put(state: &mut StateFile, directory: &Directory) {
    let job = Job::Put(Arc::new(directory.clone()), HiddenCounts::default());
    let jobs = HashMap::from([(Arc::clone(&directory.path), job)]);
    state.append(jobs, &HashSet::new()).expect("the disk works");
}

#[test]
fn a_lost_record_never_makes_older_content_look_newer() {
    // Given a listing, another one, and a record that the second still held later,
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state");
    let (mut state, _) = StateFile::open(&path, "x".to_owned()).expect("opens");
    put(&mut state, &directory("", &[], &["old"], 1));
    let second_at = std::fs::metadata(&path).expect("there").len();
    let mut second = directory("", &[], &["new"], 2);
    put(&mut state, &second);
    second.listed_ms = 3;
    put(&mut state, &second);
    let (_, loaded) = StateFile::open(&path, "x".to_owned()).expect("opens");
    assert_eq!(loaded[""].kept.listed_ms, 3);
    // when the second listing is damaged,
    let mut bytes = std::fs::read(&path).expect("there");
    bytes[usize::try_from(second_at).expect("small") + 12] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    // then the first is known, with its own date.
    let (_, loaded) = StateFile::open(&path, "x".to_owned()).expect("opens");
    assert_eq!(loaded[""].kept.listed_ms, 1);
}

#[tokio::test]
async fn a_directory_that_its_parent_denies_is_not_restored_and_a_removed_one_is_gone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state");
    let lister = MemoryLister::new(SourceId(1));
    lister.insert("a/f", 1);
    let mounted = || Mounted {
        tree_path: String::new(),
        lister: Arc::clone(&lister) as _,
        prefix: String::new(),
    };
    let identity = Mounts::new(vec![mounted()], 0).expect("valid").identity();
    let clock = FakeClock::new();
    let now_ms = clock.shared().unix_ms();
    let (mut state, _) = StateFile::open(&path, identity.clone()).expect("opens");
    for it in [
        directory("", &["a", "r"], &[], now_ms),
        directory("a", &[], &["f"], now_ms),
        directory("b", &["c"], &["f"], now_ms),
        directory("b/c", &[], &["f"], now_ms),
        directory("r", &[], &["f"], now_ms),
    ] {
        put(&mut state, &it);
    }
    let jobs = HashMap::from([("r".into(), Job::Remove)]);
    state.append(jobs, &HashSet::new()).expect("the disk works");
    let (_, loaded) = StateFile::open(&path, identity).expect("opens");
    assert!(loaded.contains_key("b") && !loaded.contains_key("r"));
    let config = NamespaceConfig {
        mounts: vec![mounted()],
        metadata_ttl: Duration::from_secs(60),
        listing: Listing::Lazy,
        state_file: Some(path),
        lists_max: 1,
        directories_max: 10,
    };
    let namespace = Namespace::open(config, clock.shared(), Handle::current()).expect("valid");
    let list = async |path: &str| namespace.list(path).await.expect("answers");
    assert!(list("b/c").await.is_none() && list("b").await.is_none());
    assert_eq!(list("a").await.expect("known").len(), 1);
    assert_eq!(namespace.stats().directories, 2, "the root and a");
    assert_eq!(lister.requests(), 0);
}

#[test]
fn a_listing_that_lands_late_does_not_replace_a_newer_one() {
    let table = Table::new(10);
    table.insert(listing(directory("", &["a"], &[], 5)));
    table.insert(listing(directory("a", &[], &["f"], 5)));
    let late = table.insert(listing(directory("", &[], &[], 4)));
    assert!(!late.stored && late.directory.len() == 1 && table.contains("a"));
    let next = table.insert(listing(directory("", &[], &["f"], 6)));
    assert!(next.stored && !table.contains("a"));
    assert_eq!(next.removed, [Arc::from("a")]);
    assert_eq!(next.directory.changed_ms, 6);
}
