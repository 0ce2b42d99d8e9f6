//! `bench read` and `bench meta` on small folders: what they count, and that they refuse what they cannot measure.

use std::fs;
use std::path::Path;

use feedline_bench::meta::walk;
use feedline_bench::read::{Access, Order, Plan, ReadArgs, measure};

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
