//! The loader as real processes. It has its own `main`, because the workers are started by running the
//! same program with `bench worker`, which this program therefore understands.

use std::fs;
use std::path::Path;

use clap::Parser;
use feedline_bench::dataset::{MakeArgs, make};
use feedline_bench::train::{Decode, ReadOrder, Train, TrainArgs, train};
use indicatif::ProgressBar;

#[derive(Parser)]
enum Program {
    Bench(feedline_bench::BenchArgs),
}

fn main() {
    if std::env::args().nth(1).is_some_and(|word| word == "bench") {
        let Program::Bench(args) = Program::parse();
        if let Err(error) = feedline_bench::run(args) {
            eprintln!("{error:#}");
            std::process::exit(1);
        }
        return;
    }
    every_image_is_read_once_an_epoch();
    an_empty_file_ends_the_run_with_its_path();
    a_damaged_image_ends_the_run_with_its_path();
    a_folder_that_is_absent_is_named_with_its_errno();
    a_file_that_cannot_be_opened_or_read_is_named_with_its_errno();
    println!("train: 5 claims hold");
}

fn images(folder: &Path, count: usize) {
    let bar = ProgressBar::hidden();
    // Small images are quick to make in a debug build.
    let (min, mean, max) = (10_000, 15_000, 22_000);
    make(&MakeArgs { min, mean, max, ..MakeArgs::new(folder, count, 4, 7) }, &bar).expect("made");
}

fn job(folder: &Path, decode: Decode) -> TrainArgs {
    let mut args = TrainArgs::new(&folder.join("train"), 2, 3);
    args.settings.step_ms = 0;
    args.settings.batch_size = 8;
    args.settings.decode = decode;
    args
}

fn every_image_is_read_once_an_epoch() {
    let folder = tempfile::tempdir().expect("temporary folder");
    images(folder.path(), 50);
    let mut no_mmap = job(folder.path(), Decode::None);
    no_mmap.settings.no_mmap = true;
    no_mmap.settings.keep_pipeline = true;
    let mut distributed = job(folder.path(), Decode::None);
    distributed.settings.order = ReadOrder::Distributed;
    // 50 images are not a multiple of 3 ranks, but of 5.
    distributed.processes = 5;
    for args in [job(folder.path(), Decode::Jpeg), no_mmap, distributed] {
        let result = train(&args, &mut |_, _| {}).expect("trains");
        assert_eq!(result.epochs.len(), 2);
        for epoch in &result.epochs {
            assert_eq!(epoch.images, 50);
            assert_eq!(epoch.bytes, result.epochs[0].bytes);
            assert_eq!(epoch.processes.iter().map(|part| part.file.count()).sum::<u64>(), 50);
            let shards: Vec<_> = epoch.processes.iter().map(|part| part.shard).collect();
            let moved = if args.settings.keep_pipeline { epoch.epoch } else { 0 };
            let all = args.processes;
            let expected: Vec<_> = (0..all).map(|shard| (shard + moved) % all).collect();
            assert_eq!(shards, expected);
        }
    }
}

fn first_image(folder: &Path) -> std::path::PathBuf {
    feedline_bench::files::list_classes(&folder.join("train")).expect("listed")[0].clone()
}

fn an_empty_file_ends_the_run_with_its_path() {
    let folder = tempfile::tempdir().expect("temporary folder");
    images(folder.path(), 20);
    let path = first_image(folder.path());
    fs::write(&path, b"").expect("written");
    let error = train(&job(folder.path(), Decode::Jpeg), &mut |_, _| {}).expect_err("must fail");
    assert!(error.to_string().contains(&path.display().to_string()), "{error:#}");
}

fn a_folder_that_is_absent_is_named_with_its_errno() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let args = job(folder.path(), Decode::None);
    let error = train(&args, &mut |_, _| {}).expect_err("must fail").to_string();
    assert!(error.contains("train") && error.contains("(errno 2)"), "{error}");
}

fn a_file_that_cannot_be_opened_or_read_is_named_with_its_errno() {
    // A pipeline that is kept does not list again, so that a file can change under it. A folder can be
    // opened and neither mapped (ENODEV) nor read (EISDIR); a file that is gone cannot be opened.
    for (no_mmap, is_gone, errno) in [(false, true, 2), (false, false, 19), (true, false, 21)] {
        let folder = tempfile::tempdir().expect("temporary folder");
        images(folder.path(), 20);
        let mut args = job(folder.path(), Decode::None);
        args.settings.keep_pipeline = true;
        args.settings.no_mmap = no_mmap;
        let mut running = Train::start(&args).expect("started");
        running.epoch(0, &mut |_, _| {}).expect("a good epoch");
        let path = first_image(folder.path());
        fs::remove_file(&path).expect("removed");
        if !is_gone {
            fs::create_dir(&path).expect("created");
        }
        let error = running.epoch(1, &mut |_, _| {}).expect_err("must fail").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains(&format!("(errno {errno})")), "{error}");
    }
}

fn a_damaged_image_ends_the_run_with_its_path() {
    let folder = tempfile::tempdir().expect("temporary folder");
    images(folder.path(), 20);
    let path = first_image(folder.path());
    fs::write(&path, b"no picture").expect("written");
    let error = train(&job(folder.path(), Decode::Jpeg), &mut |_, _| {}).expect_err("must fail");
    assert!(error.to_string().contains(&path.display().to_string()), "{error:#}");
}
