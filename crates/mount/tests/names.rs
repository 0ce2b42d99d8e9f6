//! Names, listings and versions through the kernel: what is asked how often, what appears when, and
//! that bytes of two versions never meet.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Bed, Map, pause};
use feedline_model::ReadError;
use feedline_testkit::object_bytes;

const TTL: Duration = Duration::from_secs(600);

fn walk(dir: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        count += 1;
        if entry.file_type().unwrap().is_dir() {
            count += walk(&entry.path());
        } else {
            assert!(entry.metadata().unwrap().len() > 0);
        }
    }
    count
}

#[test]
fn a_walk_takes_a_request_per_batch_and_a_repeated_walk_none() {
    let bed = Bed::new(TTL, |_| {});
    for index in 0..2_000 {
        bed.put(&format!("d{:02}/f{index:04}", index % 20), index, 100);
    }
    assert_eq!(walk(&bed.root), 2_020);
    let first = bed.stats();
    // 100 entries of a folder are two batches of 32 KiB with the empty last one.
    assert!(first.requests_total() <= 20 * 6 + 20, "{:?}", first.requests);
    assert_eq!(bed.tree.lists.load(Ordering::Relaxed), 21, "one listing per directory");
    assert_eq!(walk(&bed.root), 2_020);
    let second = bed.stats();
    assert_eq!(second.requests_total(), first.requests_total(), "{:?}", second.requests);
}

#[test]
fn a_directory_of_many_entries_shows_each_once_with_its_kind_and_inode() {
    let bed = Bed::new(TTL, |_| {});
    let names: BTreeSet<_> = (0..20_000).map(|index| format!("file-{index:06}")).collect();
    for name in &names {
        let version = bed.source.insert_seeded("x", 1, 10).version;
        bed.tree.insert(&feedline_model::Object {
            source: common::SOURCE,
            key: format!("big/{name}").into(),
            version,
        });
    }
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(bed.path("big")).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.file_type().unwrap().is_file());
        assert!(seen.insert(entry.file_name().into_string().unwrap()));
    }
    assert!(seen == names);
    let entry = fs::read_dir(bed.path("big")).unwrap().next().unwrap().unwrap();
    use std::os::unix::fs::DirEntryExt;
    assert_eq!(entry.ino(), entry.metadata().unwrap().ino());
}

#[test]
fn attributes_are_the_listings_and_the_options() {
    let bed = Bed::new(TTL, |config| {
        (config.uid, config.gid, config.umask) = (1234, 2345, 0o027);
    });
    let object = bed.put("d/a", 1, 5_000);
    let file = fs::metadata(bed.path("d/a")).unwrap();
    assert_eq!((file.len(), file.mode(), file.nlink()), (5_000, 0o100_440, 1));
    assert_eq!((file.uid(), file.gid(), file.blocks()), (1234, 2345, 16));
    assert_eq!(file.mtime(), object.version.modified_ms / 1000);
    let directory = fs::metadata(bed.path("d")).unwrap();
    assert_eq!((directory.mode(), directory.nlink()), (0o040_550, 2));
}

#[test]
fn absent_names_are_answered_from_the_listing_and_then_by_the_kernel() {
    let bed = Bed::new(TTL, |_| {});
    bed.put("d/a", 1, 10);
    for _ in 0..10 {
        let error = fs::metadata(bed.path("d/absent")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
    assert_eq!(bed.requests("lookup"), 2, "d and d/absent, once each");
    assert_eq!(bed.tree.lists.load(Ordering::Relaxed), 2);
    assert!(fs::metadata(bed.path(&format!("d/{}", "n".repeat(256)))).is_err());
    assert!(fs::metadata(bed.path("d/a/b")).is_err(), "below a file");
}

#[test]
fn every_change_is_refused_as_read_only() {
    let bed = Bed::new(TTL, |_| {});
    bed.put("d/a", 1, 10);
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    };
    refused(File::create(bed.path("new")).map(drop));
    refused(File::options().write(true).open(bed.path("d/a")).map(drop));
    refused(fs::remove_file(bed.path("d/a")));
    refused(fs::create_dir(bed.path("x")));
    refused(fs::rename(bed.path("d/a"), bed.path("b")));
}

#[test]
fn a_changed_object_is_a_new_inode_within_the_ttl_and_the_old_one_keeps_its_bytes() {
    let bed = Bed::new(Duration::from_millis(300), |_| {});
    let (old_size, new_size) = (300_000, 250_000);
    let old = bed.put_cached("a", 1, old_size);
    bed.put("b", 3, 10);
    let mut file = File::open(bed.path("a")).unwrap();
    let map = Map::new(&file, true);
    let old_inode = file.metadata().unwrap().ino();
    let new = bed.source.insert_seeded("a", 2, new_size);
    bed.tree.insert(&new);
    bed.until("the new version", || {
        fs::metadata(bed.path("a")).is_ok_and(|metadata| metadata.len() == new_size)
    });
    assert_ne!(fs::metadata(bed.path("a")).unwrap().ino(), old_inode);
    assert!(fs::read(bed.path("a")).unwrap() == object_bytes(2, new_size));
    assert!(map.bytes() == object_bytes(1, old_size), "the old mapping");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == object_bytes(1, old_size), "the old descriptor");
    assert!(!bed.index.evict(&old.id()), "still open");
}

#[test]
fn added_and_removed_names_appear_within_the_ttl() {
    let bed = Bed::new(Duration::from_millis(300), |_| {});
    bed.put("d/a", 1, 10);
    let names = || -> Vec<_> {
        fs::read_dir(bed.path("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(names(), ["a"]);
    let added = bed.source.insert_seeded("d/b", 2, 10);
    bed.tree.insert(&added);
    assert!(fs::metadata(bed.path("d/c")).is_err(), "absent is remembered too");
    bed.tree.remove("d/a");
    bed.until("the new listing", || names() == ["b"]);
    bed.until("the old name to go", || fs::metadata(bed.path("d/a")).is_err());
}

#[test]
fn a_version_gone_from_the_bucket_is_estale_never_other_bytes_and_the_new_one_follows() {
    let bed = Bed::new(TTL, |_| {});
    bed.put("a", 1, 500_000);
    let file = File::open(bed.path("a")).unwrap();
    let new = bed.source.insert_seeded("a", 2, 400_000);
    bed.tree.insert(&new);
    let error = file.read_at(&mut [0; 100], 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    // The listing was expired and the kernel told to drop the name, long before the TTL.
    bed.until("the new version", || {
        fs::read(bed.path("a")).is_ok_and(|bytes| bytes == object_bytes(2, 400_000))
    });
    assert_eq!(file.read_at(&mut [0; 100], 0).unwrap_err().raw_os_error(), Some(libc::ESTALE));
}

#[test]
fn each_error_reaches_the_process_as_its_errno() {
    let bed = Bed::new(TTL, |_| {});
    let location: std::sync::Arc<str> = "s3://bucket/a".into();
    let cause: std::sync::Arc<str> = "test".into();
    let forbidden = ReadError::Forbidden { location: location.clone(), cause: cause.clone() };
    let rejected = ReadError::Rejected { location, cause };
    let cases = [
        (forbidden, libc::EACCES),
        (rejected, libc::EIO),
        (feedline_testkit::MemorySource::unavailable(), libc::EIO),
    ];
    for (index, (error, errno)) in cases.into_iter().enumerate() {
        let key = format!("f{index}");
        bed.put(&key, 1, 10_000);
        let file = File::open(bed.path(&key)).unwrap();
        bed.source.fail_key(&key, 100, &error);
        let read = file.read_at(&mut [0; 100], 0).unwrap_err();
        assert_eq!(read.raw_os_error(), Some(errno), "{error}");
    }
}

#[test]
fn the_kernel_forgets_and_so_do_we() {
    let bed = Bed::new(TTL, |_| {});
    for index in 0..1_000 {
        bed.put_cached(&format!("d/f{index:04}"), index, 100);
    }
    assert_eq!(walk(&bed.root), 1_001);
    for index in 0..50 {
        assert_eq!(fs::read(bed.path(&format!("d/f{index:04}"))).unwrap().len(), 100);
    }
    assert!(bed.stats().inodes > 900);
    bed.settle();
    bed.until("forgets", || {
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        pause(Duration::from_millis(50));
        bed.stats().inodes < 10
    });
    assert_eq!(walk(&bed.root), 1_001);
}

#[test]
fn a_reader_in_the_middle_of_a_listing_that_is_replaced_sees_each_name_once() {
    let bed = Bed::new(Duration::from_millis(200), |_| {});
    for index in 0..3_000 {
        bed.put(&format!("d/f{index:05}"), 1, 10);
    }
    let mut entries = fs::read_dir(bed.path("d")).unwrap();
    let mut seen: Vec<_> = entries.by_ref().take(500).map(|e| e.unwrap().file_name()).collect();
    // Names before and after the reader's place come and go.
    for index in 0..400 {
        bed.tree.remove(&format!("d/f{index:05}"));
    }
    bed.put("d/f00000a", 1, 10);
    pause(Duration::from_millis(300));
    assert_eq!(fs::read_dir(bed.path("d")).unwrap().count(), 2_601, "the new listing");
    seen.extend(entries.map(|entry| entry.unwrap().file_name()));
    assert_eq!(seen.len(), 3_000);
    assert!(seen.is_sorted(), "none lost, none doubled");
}

#[test]
fn a_listing_read_to_its_end_before_the_first_stat_costs_no_lookup_per_name() {
    let bed = Bed::new(TTL, |_| {});
    for index in 0..1_000 {
        bed.put(&format!("d/f{index:04}"), index, 100);
    }
    let names: Vec<_> =
        fs::read_dir(bed.path("d")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for name in names {
        assert_eq!(fs::metadata(name).unwrap().len(), 100);
    }
    let requests = bed.stats().requests;
    assert_eq!(requests["lookup"], 1, "the directory: {requests:?}");
}

#[test]
fn the_kernel_is_made_to_forget_when_it_remembers_too_much_and_every_file_stays_readable() {
    let bed = Bed::new(TTL, |config| config.inodes_max = 1_000);
    for index in 0..10_000 {
        bed.put(&format!("d{}/f{index:05}", index % 10), index, 100);
    }
    let held = File::open(bed.root.join("d3/f00003")).unwrap();
    assert_eq!(walk(&bed.root), 10_010);
    // Names are dropped one by one, and who looks at files meanwhile makes the kernel remember more.
    let mut looks = (0..10_000).step_by(10).cycle();
    let settled = (0..3_000).any(|_| {
        pause(Duration::from_millis(10));
        let index = looks.next().unwrap();
        fs::metadata(bed.root.join(format!("d0/f{index:05}"))).unwrap();
        bed.stats().inodes <= 1_000 + 11
    });
    assert!(settled, "{:?}", bed.stats());
    let mut bytes = [0; 100];
    held.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[..], object_bytes(3, 100)[..]);
    for index in (0..10_000).step_by(97) {
        let path = bed.root.join(format!("d{}/f{index:05}", index % 10));
        assert_eq!(fs::read(&path).unwrap(), object_bytes(index, 100), "{}", path.display());
    }
    assert!(bed.stats().invalidations > 8_000, "{:?}", bed.stats());
}
