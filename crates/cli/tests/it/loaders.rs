//! Real DALI and real torch read a data set through a mount with the scripts in `bench/`: every image
//! once an epoch, decoded and not, with as many bytes as were put into the bucket.
//!
//! They need `scripts/setup loaders`. `FEEDLINE_DALI_PYTHON` and `FEEDLINE_TORCH_PYTHON` name other Pythons.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::sandbox::{Ran, Sandbox};

const IMAGES: usize = 90;
const PROCESSES: usize = 2;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Small images of 20 KB or so in three class folders in the bucket; their number of bytes.
fn put_images(sandbox: &Sandbox) -> u64 {
    let dir = sandbox.path("images");
    let dir_str = dir.to_str().unwrap();
    let (images, sizes) =
        (IMAGES.to_string(), ["--mean", "20KB", "--min", "10KB", "--max", "40KB"]);
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
fn train(sandbox: &Sandbox, (python, script): (&Path, &str), flags: &[&str]) -> Value {
    assert!(python.exists(), "{} is missing: run scripts/setup loaders", python.display());
    let json = sandbox.path("result.json");
    let mut command = sandbox.command(python);
    command.arg(repository().join("bench").join(script)).arg(sandbox.mnt.join("data"));
    command.args(["--epochs", "2", "--batch-size", "16", "--step-ms", "1", "--print-freq", "2"]);
    command.args(["--process", &PROCESSES.to_string(), "--json"]).arg(&json).args(flags);
    // Not beside the scripts.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let ran = Ran::of(&mut command);
    let hint = "run scripts/setup loaders if it is an import that failed";
    assert_eq!(ran.code, Some(0), "{script} {flags:?}: {hint}:\n{}\n{}", ran.stdout, ran.stderr);
    for line in ["Epoch: [1][2/3]", "Epoch 1 process 1: ", "Epoch 1 sum of 2 processes: 90 images"]
    {
        assert!(ran.stdout.contains(line), "{line:?} is missing:\n{}", ran.stdout);
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
    let bytes = put_images(&sandbox);
    sandbox.mount(&[]);
    for flags in ways {
        let result = train(&sandbox, (python, script), flags);
        assert_whole(&sandbox, &result, bytes);
    }
    sandbox.umount();
}

#[test]
fn real_dali_reads_every_image_once_an_epoch() {
    let python = std::env::var_os("FEEDLINE_DALI_PYTHON")
        .map_or_else(|| repository().join(".venv-dali/bin/python"), PathBuf::from);
    let ways: [&[&str]; 3] = [&[], &["--decode", "none"], &["--decode", "none", "--no-mmap"]];
    both_ways(&python, "dali_train.py", &ways);
}

#[test]
fn real_torch_reads_every_image_once_an_epoch() {
    let python = std::env::var_os("FEEDLINE_TORCH_PYTHON")
        .map_or_else(|| PathBuf::from("/usr/bin/python3"), PathBuf::from);
    let ways: [&[&str]; 2] = [&["--workers", "1"], &["--decode", "none", "--workers", "2"]];
    both_ways(&python, "torch_train.py", &ways);
}
