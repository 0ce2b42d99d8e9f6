//! `dataset put` against the simulated bucket, over a socket.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Once;

use feedline_bench::dataset::{Put, PutArgs, put};
use feedline_s3sim::{FaultKind, FaultRule, S3Sim};
use indicatif::ProgressBar;

fn bucket() -> S3Sim {
    // The variables of the standard chain are the only way in; they are set before any test reads them.
    static CREDENTIALS: Once = Once::new();
    CREDENTIALS.call_once(|| {
        for (name, value) in [
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test-secret"),
            ("AWS_REGION", "us-east-1"),
        ] {
            #[expect(unsafe_code, reason = "there is no other way to set a variable")]
            // SAFETY: every test begins here and waits for it, and nothing else changes variables.
            unsafe {
                std::env::set_var(name, value);
            }
        }
    });
    let sim = S3Sim::builder().empty().start().expect("the bucket starts");
    sim.create_bucket("data");
    sim
}

fn args(sim: &S3Sim, source: &Path) -> PutArgs {
    PutArgs {
        source: source.to_owned(),
        url: "s3://data/set".to_owned(),
        endpoint: Some(sim.endpoint()),
        parallel: 8,
        val_map: None,
        json: false,
    }
}

fn run(args: &PutArgs) -> Put {
    put(args, &ProgressBar::hidden()).expect("put")
}

fn counts(put: &Put) -> (u64, u64, u64, u64) {
    (put.files, put.uploaded, put.skipped, put.failed)
}

/// Names that a key may have and that an URL must escape.
const ODD: [&str; 7] =
    ["a b", "100%", "plus+and&", "question?x=1", "hash#1", "äöü 漢字", "quote'\"<>"];

fn folder(root: &Path) -> BTreeMap<String, usize> {
    let mut sizes = BTreeMap::new();
    for (number, name) in ODD.iter().enumerate() {
        for class in ["n1", "n 2%"] {
            let key = format!("train/{class}/{name}");
            let path = root.join(&key);
            fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            fs::write(&path, vec![b'x'; 100 + number]).expect("written");
            sizes.insert(key, 100 + number);
        }
    }
    sizes
}

#[test]
fn a_folder_with_odd_names_arrives_and_a_second_run_sends_nothing() {
    let (sim, root) = (bucket(), tempfile::tempdir().expect("temporary folder"));
    let sizes = folder(root.path());
    let files = sizes.len() as u64;
    let first = run(&args(&sim, root.path()));
    assert_eq!(counts(&first), (files, files, 0, 0), "{:?}", first.failures);
    assert_eq!(first.uploaded_bytes, sizes.values().sum::<usize>() as u64);
    let sent = sim.stats().put;
    let second = run(&args(&sim, root.path()));
    assert_eq!(counts(&second), (files, 0, files, 0), "sizes are found under the very same names");
    assert_eq!(sim.stats().put, sent);
}

#[test]
fn an_interrupted_upload_goes_on_with_what_is_missing() {
    let (sim, root) = (bucket(), tempfile::tempdir().expect("temporary folder"));
    let files = folder(root.path()).len() as u64;
    run(&args(&sim, root.path()));
    // As if it had stopped: one object is not there, one was sent from a shorter file.
    sim.delete_object("data", "set/train/n1/a b");
    sim.put_object("data", "set/train/n1/100%", b"short");
    let again = run(&args(&sim, root.path()));
    assert_eq!(counts(&again), (files, 2, files - 2, 0), "{:?}", again.failures);
}

#[test]
fn refused_objects_are_counted_named_and_sent_by_the_next_run() {
    let (sim, root) = (bucket(), tempfile::tempdir().expect("temporary folder"));
    let files = folder(root.path()).len() as u64;
    sim.set_faults(FaultRule::every(FaultKind::Forbidden).for_keys("hash"));
    let first = run(&args(&sim, root.path()));
    assert_eq!(counts(&first), (files, files - 2, 0, 2), "{:?}", first.failures);
    assert!(first.failures.iter().all(|failure| failure.contains("hash#1")), "{first:?}");
    sim.set_faults(feedline_s3sim::Faults::none());
    let second = run(&args(&sim, root.path()));
    assert_eq!(counts(&second), (files, 2, files - 2, 0), "{:?}", second.failures);
}

fn tar_of(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).expect("appended");
    }
    builder.into_inner().expect("finished")
}

#[test]
fn imagenets_tars_arrive_as_class_folders_and_resume() {
    let (sim, root) = (bucket(), tempfile::tempdir().expect("temporary folder"));
    let class = |name: &str| tar_of(&[(name, vec![1; 300]), ("other.JPEG", vec![2; 200])]);
    let train = root.path().join("train.tar");
    let tars = [("n01.tar", class("n01_1.JPEG")), ("n02.tar", class("n02_1.JPEG"))];
    fs::write(&train, tar_of(&tars)).expect("written");
    assert_eq!(counts(&run(&args(&sim, &train))), (4, 4, 0, 0));

    let val = root.path().join("val.tar");
    let images = ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"];
    fs::write(&val, tar_of(&images.map(|image| (image, vec![3; 64])))).expect("written");
    let map = root.path().join("map");
    fs::write(&map, format!("{} n02\n{} n01\n", images[0], images[1])).expect("written");
    let mut with_map = args(&sim, &val);
    with_map.val_map = Some(map);
    assert_eq!(counts(&run(&with_map)), (2, 2, 0, 0));
    // Only the very keys, found by a listing with their sizes, count as there.
    sim.delete_object("data", &format!("set/val/n02/{}", images[0]));
    sim.delete_object("data", "set/train/n02/n02_1.JPEG");
    assert_eq!(counts(&run(&with_map)), (2, 1, 1, 0));
    assert_eq!(counts(&run(&args(&sim, &train))), (4, 1, 3, 0));
}
