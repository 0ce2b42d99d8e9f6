//! The guards that a run through the public face seldom meets: lost records and late listings.

use std::collections::HashMap;
use std::sync::Arc;

use feedline_model::{Directory, DirectoryBuilder, SourceId, Version};
use feedline_testkit::MemoryLister;

use crate::config::Mounted;
use crate::gather::DirectoryListing;
use crate::mounts::Mounts;
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
    state.append(HashMap::from([(Arc::clone(&directory.path), job)])).expect("the disk works");
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
    assert_eq!(loaded[""].listed_ms, 3);
    // when the second listing is damaged,
    let mut bytes = std::fs::read(&path).expect("there");
    bytes[usize::try_from(second_at).expect("small") + 12] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    // then the first is known, with its own date.
    let (_, loaded) = StateFile::open(&path, "x".to_owned()).expect("opens");
    assert_eq!(loaded[""].listed_ms, 1);
}

#[test]
fn a_directory_that_its_parent_denies_is_not_restored_and_a_removed_one_is_gone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("state");
    let (mut state, _) = StateFile::open(&path, "x".to_owned()).expect("opens");
    for it in [
        directory("", &["a", "r"], &[], 1),
        directory("a", &[], &["f"], 1),
        directory("b", &[], &["f"], 1),
        directory("r", &[], &["f"], 1),
    ] {
        put(&mut state, &it);
    }
    state.append(HashMap::from([("r".into(), Job::Remove)])).expect("the disk works");
    let (_, loaded) = StateFile::open(&path, "x".to_owned()).expect("opens");
    assert!(loaded.contains_key("b") && !loaded.contains_key("r"));
    let lister = MemoryLister::new(SourceId(1));
    let mounted = Mounted { tree_path: String::new(), lister, prefix: String::new() };
    let mounts = Mounts::new(vec![mounted], 0).expect("valid");
    let table = Table::new(10);
    crate::restore::fill(&table, &mounts, loaded, 5, 1000);
    assert!(table.contains("") && table.contains("a") && !table.contains("b"));
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
