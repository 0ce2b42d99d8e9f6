//! `bench read`, `bench http` and `bench meta` on small folders: what they count, and that they refuse what they cannot measure.

use std::fs;
use std::path::Path;

use feedline_bench::http::{Fetch, objects};
use feedline_bench::meta::walk;
use feedline_bench::read::{Access, Order, Plan, ReadArgs, measure};
use feedline_s3sim::S3Sim;

/// `folders` of `files` each, of 1,000 bytes and more; returns the bytes of all.
fn tree(root: &Path, folders: usize, files: usize) -> u64 {
    let mut bytes = 0;
    for folder in 0..folders {
        let folder = root.join(format!("c{folder}"));
        fs::create_dir_all(&folder).expect("created");
        for file in 0..files {
            let length = 1_000 + file;
            fs::write(folder.join(format!("f{file}")), vec![7; length]).expect("written");
            bytes += length as u64;
        }
    }
    bytes
}

#[test]
fn every_file_is_read_once_however_it_is_read() {
    let root = tempfile::tempdir().expect("temporary folder");
    let bytes = tree(root.path(), 3, 20);
    for access in [Access::Read, Access::Mmap] {
        for order in [Order::Random, Order::Sorted] {
            let args = ReadArgs { access, order, passes: 2, ..ReadArgs::new(root.path()) };
            for pass in measure(&args).expect("measured") {
                assert_eq!((pass.files, pass.bytes), (60, bytes));
                assert!(pass.seconds > 0.0 && pass.files_per_s > 0.0);
                assert!(pass.latency.p50_us > 0.0 && pass.latency.p50_us <= pass.latency.p99_us);
            }
        }
    }
}

#[test]
fn a_limit_reads_the_first_files_of_the_order() {
    let root = tempfile::tempdir().expect("temporary folder");
    tree(root.path(), 2, 50);
    let args = ReadArgs { files: 10, ..ReadArgs::new(root.path()) };
    let plan = Plan::new(&args).expect("listed");
    let bytes = |number| plan.pass(number).expect("read").bytes;
    assert_eq!(plan.pass(0).expect("read").files, 10);
    assert_eq!(bytes(0), bytes(0), "equal numbers, equal files");
    // File lengths tell the files apart: that ten others add up to the same is excluded by the seed.
    assert_ne!(bytes(0), bytes(1), "another number, another order");
}

#[test]
fn a_large_file_is_read_whole_by_each_way_and_reader() {
    let root = tempfile::tempdir().expect("temporary folder");
    let path = root.path().join("large");
    fs::write(&path, vec![1; 4 << 20]).expect("written");
    let pass = |access, readers| {
        let args = ReadArgs { access, readers, ..ReadArgs::new(&path) };
        measure(&args).expect("measured").remove(0)
    };
    assert_eq!((pass(Access::Read, 1).bytes, pass(Access::Mmap, 1).bytes), (4 << 20, 4 << 20));
    assert_eq!(pass(Access::Read, 2).bytes, 8 << 20);
    let random = pass(Access::Random128k, 8);
    assert_eq!((random.files, random.bytes), (32, 4 << 20));
}

#[test]
fn what_cannot_be_measured_is_refused_with_its_path() {
    let root = tempfile::tempdir().expect("temporary folder");
    let refused = |args: &ReadArgs| format!("{:#}", measure(args).expect_err("refused"));
    let absent = root.path().join("absent");
    assert!(refused(&ReadArgs::new(&absent)).contains(&absent.display().to_string()));
    assert!(refused(&ReadArgs::new(root.path())).contains("holds no file"));
    tree(root.path(), 1, 2);
    let random = ReadArgs { access: Access::Random128k, ..ReadArgs::new(root.path()) };
    assert!(refused(&random).contains("single file"));
    assert!(walk(&absent).expect_err("refused").to_string().contains("absent"));
}

#[test]
fn a_walk_counts_files_folders_and_bytes() {
    let root = tempfile::tempdir().expect("temporary folder");
    let bytes = tree(root.path(), 4, 25);
    let found = walk(root.path()).expect("walked");
    assert_eq!((found.entries, found.bytes), (4 + 100, bytes));
    assert!(found.entries_per_s > 0.0);
}

#[test]
fn a_bare_client_gets_every_object_once_and_keeps_it() {
    let root = tempfile::tempdir().expect("temporary folder");
    let (source, kept) = (root.path().join("root/b/in"), root.path().join("kept"));
    let bytes = tree(&source, 3, 40);
    let sim = S3Sim::builder().root(root.path().join("root")).start().expect("serves");
    let url = format!("{}/b/in", sim.endpoint());
    let fetch = Fetch::new(&url, objects(&source).expect("listed")).expect("an address");
    let order: Vec<usize> = (0..fetch.objects.len()).rev().collect();
    for (connections, write) in [(1, None), (7, Some(kept.as_path())), (500, None)] {
        sim.reset_stats();
        let pass = fetch.pass(connections, &order, write).expect("got");
        assert_eq!((pass.files, pass.bytes), (120, bytes));
        let stats = sim.stats();
        assert_eq!((stats.get, stats.requests()), (120, 120));
        assert!(stats.in_flight_max <= connections as u64);
    }
    for object in &fetch.objects {
        let both = [&source, &kept].map(|dir| fs::read(dir.join(&object.key)).expect("read"));
        assert!(both[0] == both[1], "{} differs", object.key);
    }
}

#[test]
fn a_bare_client_refuses_what_is_not_the_object() {
    let root = tempfile::tempdir().expect("temporary folder");
    tree(&root.path().join("b"), 1, 3);
    let sim = S3Sim::builder().root(root.path()).start().expect("serves");
    let list = root.path().join("list");
    let refused = |lines: &str| {
        fs::write(&list, lines).expect("written");
        let url = format!("{}/b", sim.endpoint());
        let fetch = Fetch::new(&url, objects(&list).expect("listed")).expect("an address");
        let order: Vec<usize> = (0..fetch.objects.len()).collect();
        format!("{:#}", fetch.pass(2, &order, None).expect_err("refused"))
    };
    assert!(refused("c0/f0\n999 c0/f1\n").contains("c0/f1: 1001 bytes of 999"));
    assert!(refused("c0/f0\nc0/absent\n").contains("c0/absent"));
}
