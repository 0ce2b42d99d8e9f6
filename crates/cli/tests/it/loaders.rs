//! Real DALI and real torch read a data set through a mount with the scripts in `bench/`: every image
//! once an epoch, decoded and not, with as many bytes as were put into the bucket.
//!
//! They need `scripts/setup loaders`. `FEEDLINE_DALI_PYTHON` and `FEEDLINE_TORCH_PYTHON` name other Pythons.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox};

const IMAGES: usize = 90;
const SIZES: [&str; 3] = ["20KB", "10KB", "40KB"];
/// Enough of them that their order can be told from chance, and small.
const SCANNED: usize = 1_200;
const SCANNED_SIZES: [&str; 3] = ["10KB", "8KB", "12KB"];
/// Of a bucket that does not have all of them here before the order is looked for.
const LATENCY_MS: u64 = 25;
const PROCESSES: usize = 2;
const BATCH: usize = 16;
/// Opens, those of one epoch, after which a known sampler must have been recognised. Of those that are looked at 64 suffice
/// (`crates/oracle/tests/it/identify.rs`), but DALI opens its files at once, and on a busy machine some hundred
/// are in before they are looked at.
const RECOGNISED_AFTER_MAX: u64 = SCANNED as u64;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Images of these sizes (mean, least, most) in three class folders in the bucket; their number of bytes.
fn put_images(sandbox: &Sandbox, images: usize, [mean, min, max]: [&str; 3]) -> u64 {
    let dir = sandbox.path("images");
    let dir_str = dir.to_str().unwrap();
    let (images, sizes) = (images.to_string(), ["--mean", mean, "--min", min, "--max", max]);
    let mut args = vec!["dataset", "make", dir_str, "--images", &images, "--classes", "3"];
    args.extend(sizes);
    sandbox.run(&args).ok();
    let mut bytes = 0;
    for class in std::fs::read_dir(dir.join("train")).unwrap() {
        for file in std::fs::read_dir(class.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let key = path.strip_prefix(&dir).unwrap().to_str().unwrap().to_owned();
            let content = std::fs::read(&path).unwrap();
            bytes += content.len() as u64;
            sandbox.sim.put_object("b", &format!("data/{key}"), content);
        }
    }
    bytes
}

/// Runs a script with `flags` on the mount and returns its result.
#[track_caller]
fn train(
    sandbox: &Sandbox,
    (python, script): (&Path, &str),
    images: usize,
    flags: &[&str],
) -> Value {
    assert!(python.exists(), "{} is missing: run scripts/setup loaders", python.display());
    let json = sandbox.path("result.json");
    let mut command = sandbox.command(python);
    command.arg(repository().join("bench").join(script)).arg(sandbox.mnt.join("data"));
    command.args(["--epochs", "2", "--step-ms", "1", "--print-freq", "2"]);
    command.args(["--batch-size", &BATCH.to_string()]);
    command.args(["--process", &PROCESSES.to_string(), "--json"]).arg(&json).args(flags);
    // Not beside the scripts.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let ran = Ran::of(&mut command);
    let hint = "run scripts/setup loaders if it is an import that failed";
    assert_eq!(ran.code, Some(0), "{script} {flags:?}: {hint}:\n{}\n{}", ran.stdout, ran.stderr);
    let batches = (images / PROCESSES).div_ceil(BATCH);
    let lines = [
        format!("Epoch: [1][2/{batches}]"),
        "Epoch 1 process 1: ".to_owned(),
        format!("Epoch 1 sum of 2 processes: {images} images"),
    ];
    for line in lines {
        assert!(ran.stdout.contains(&line), "{line:?} is missing:\n{}", ran.stdout);
    }
    serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap()
}

/// Both epochs read everything, and nothing was asked of the bucket but the files, once.
#[track_caller]
fn assert_whole(sandbox: &Sandbox, result: &Value, bytes: u64) {
    let epochs = result["epochs"].as_array().unwrap();
    assert_eq!(epochs.len(), 2);
    for epoch in epochs {
        let count = |name: &str| epoch[name].as_u64().unwrap();
        assert_eq!((count("images"), count("bytes")), (IMAGES as u64, bytes), "{epoch}");
        assert!(epoch["images_per_s"].as_f64().unwrap() > 0.0, "{epoch}");
        let wait = &epoch["batch_wait"];
        assert!(wait["p50_us"].as_f64().unwrap() <= wait["p99_us"].as_f64().unwrap(), "{epoch}");
    }
    assert_eq!(sandbox.sim.stats().get, IMAGES as u64, "GETs");
}

fn both_ways(python: &Path, script: &str, ways: &[&[&str]]) {
    let sandbox = Sandbox::new();
    let bytes = put_images(&sandbox, IMAGES, SIZES);
    sandbox.mount(&[]);
    for flags in ways {
        let result = train(&sandbox, (python, script), IMAGES, flags);
        assert_whole(&sandbox, &result, bytes);
    }
    sandbox.umount();
}

/// The orders that `status` names while `work` is done, and after how many reads each was recognised.
fn orders_during(sandbox: &Sandbox, work: impl FnOnce()) -> Vec<(String, u64)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let status = sandbox.run(&["status", "--json", sandbox.mnt_str()]).json();
                for set in status["fill"]["data_sets"].as_array().unwrap() {
                    let order = set["order"].as_str().unwrap().to_owned();
                    let now = (order, set["recognised_after"].as_u64().unwrap());
                    if !seen.contains(&now) {
                        seen.push(now);
                    }
                }
            }
            seen
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        is_over.store(true, Ordering::Relaxed);
        let seen = watch.join().unwrap();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        seen
    })
}

/// Runs a script on small files through a new mount of a bucket with latency and asserts that the order of
/// its reads was recognised soon, by a name that begins so.
#[track_caller]
fn assert_recognised(who: (&Path, &str), flags: &[&str], mount: &[&str], name: &str) {
    let sandbox = Sandbox::with(|builder| builder.latency_ms(LATENCY_MS));
    put_images(&sandbox, SCANNED, SCANNED_SIZES);
    sandbox.mount(mount);
    let flags = [&["--decode", "none"], flags].concat();
    let seen = orders_during(&sandbox, || drop(train(&sandbox, who, SCANNED, &flags)));
    let is_it = |(order, after): &(String, u64)| {
        order.starts_with(name) && (1..=RECOGNISED_AFTER_MAX).contains(after)
    };
    assert!(seen.iter().any(is_it), "{name}, {flags:?} {mount:?}: {seen:#?}");
    sandbox.umount();
}

fn dali() -> PathBuf {
    std::env::var_os("FEEDLINE_DALI_PYTHON")
        .map_or_else(|| repository().join(".venv-dali/bin/python"), PathBuf::from)
}

fn torch() -> PathBuf {
    std::env::var_os("FEEDLINE_TORCH_PYTHON")
        .map_or_else(|| PathBuf::from("/usr/bin/python3"), PathBuf::from)
}

#[test]
fn the_order_of_real_dali_is_recognised() {
    let (python, script) = (dali(), "dali_train.py");
    for (flags, mount, name) in [
        (&[][..], &[][..], "dali shuffled"),
        // Opens do not reach the daemon then, and a mapped file is read when its image is decoded, which
        // DALI draws at random from those that are open.
        (&["--no-mmap"], &["--open", "none"], "dali shuffled"),
        (&["--keep-pipeline"], &[], "dali shuffled"),
        (&["--keep-pipeline", "--stick-to-shard"], &[], "dali shuffled"),
        (&["--keep-pipeline", "--shuffle-after-epoch"], &[], "dali shuffle_after_epoch"),
    ] {
        assert_recognised((&python, script), flags, mount, name);
    }
}

#[test]
fn the_order_of_real_torch_is_recognised() {
    let (python, script) = (torch(), "torch_train.py");
    for mount in [&[][..], &["--open", "none"]] {
        let flags = ["--workers", "1"];
        assert_recognised((&python, script), &flags, mount, "torch DistributedSampler");
    }
}

#[test]
fn real_dali_reads_every_image_once_an_epoch() {
    let ways: [&[&str]; 3] = [&[], &["--decode", "none"], &["--decode", "none", "--no-mmap"]];
    both_ways(&dali(), "dali_train.py", &ways);
}

#[test]
fn real_torch_reads_every_image_once_an_epoch() {
    let ways: [&[&str]; 2] = [&["--workers", "1"], &["--decode", "none", "--workers", "2"]];
    both_ways(&torch(), "torch_train.py", &ways);
}
