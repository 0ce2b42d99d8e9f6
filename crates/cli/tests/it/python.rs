//! The Python package `feedline`: its own tests, and what it tells a real mount.
//!
//! `FEEDLINE_PYTHON` names a Python 3.9 or newer; without it, `.venv` of the repository is used.
//! `FEEDLINE_TORCH_PYTHON` names one with torch and torchvision; `scripts/setup loaders` installs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::hints::{data_set, put_set, wait_for_the_first_of};
use crate::sandbox::{Ran, Sandbox};

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python")
}

fn python() -> PathBuf {
    std::env::var_os("FEEDLINE_PYTHON")
        .map_or_else(|| package().join("../.venv/bin/python"), PathBuf::from)
}

/// Runs a script of the package's tests on the mount.
#[track_caller]
fn on_mount(sandbox: &Sandbox, args: &[&str]) -> Value {
    on_mount_with(&python(), sandbox, args)
}

#[track_caller]
fn on_mount_with(python: &Path, sandbox: &Sandbox, args: &[&str]) -> Value {
    let mut command = sandbox.command(python);
    command.arg(package().join("tests/on_mount.py")).args(args).arg(sandbox.mnt.join("set"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONPATH", package());
    let ran = Ran::of(&mut command);
    assert_eq!(ran.code, Some(0), "{args:?}:\n{}\n{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn the_package_passes_its_own_tests() {
    let mut command = Command::new(python());
    command.args(["-m", "unittest", "discover", "-s"]).arg(package().join("tests"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().unwrap_or_else(|error| {
        panic!("{}: {error}: run scripts/setup test, or set FEEDLINE_PYTHON", python().display())
    });
    let ran = Ran::from(output);
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    assert!(!ran.stderr.contains("Ran 0 tests"), "{}", ran.stderr);
}

#[test]
fn a_wrapped_sampler_makes_the_mount_fetch_in_its_order() {
    let sandbox = Sandbox::new();
    put_set(&sandbox, 40, 1_500_000);
    let cache = format!("{}:64MiB", sandbox.path("cache").display());
    sandbox.mount(&["--cache", &cache]);
    let told = on_mount(&sandbox, &["sampler"]);
    assert_eq!(told["sent"], true, "{told}");
    assert_eq!((&told["files"], &told["matched"]), (&40.into(), &40.into()), "{told}");
    assert_eq!(told["read"], 0, "told before anything was read");
    let order: Vec<String> = serde_json::from_value(told["order"].clone()).unwrap();
    let set = sandbox.mnt.join("set").display().to_string();
    wait_for_the_first_of(&sandbox, &set, &order);
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn an_epoch_with_a_wrapped_sampler_reads_every_file_and_each_is_fetched_once() {
    let sandbox = Sandbox::new();
    put_set(&sandbox, 30, 20_000);
    sandbox.mount(&[]);
    let read = on_mount(&sandbox, &["epochs"]);
    assert_eq!((&read["epochs"], &read["images"]), (&3.into(), &90.into()), "{read}");
    assert_eq!(read["bytes"], 90 * 20_000, "{read}");
    assert_eq!(sandbox.sim.stats().get, 30, "GETs");
    sandbox.umount();
}

#[test]
fn samplers_of_real_torch_yield_the_same_with_workers_and_ranks() {
    let torch = std::env::var_os("FEEDLINE_TORCH_PYTHON")
        .map_or_else(|| PathBuf::from("/usr/bin/python3"), PathBuf::from);
    let sandbox = Sandbox::new();
    put_set(&sandbox, 24, 5_000);
    sandbox.mount(&[]);
    let read = on_mount_with(&torch, &sandbox, &["real_torch"]);
    assert_eq!((&read["images"], &read["bytes"]), (&60.into(), &300_000.into()), "{read}");
    assert_eq!(sandbox.sim.stats().get, 24, "GETs");
    sandbox.umount();
}

#[test]
fn what_a_real_mount_cannot_take_is_said_and_harms_nobody() {
    let sandbox = Sandbox::new();
    put_set(&sandbox, 6, 2_000);
    sandbox.mount(&["--fill", "off"]);
    // The script asserts what is said; nothing of it may reach the daemon's list of data sets.
    let answers = on_mount(&sandbox, &["hostile"]);
    assert!(answers["refused"].as_u64().unwrap() >= 6, "{answers}");
    assert!(data_set(&sandbox).is_none(), "nothing was taken");
    sandbox.read_right("train/a.jpg");
    let answers = on_mount(&sandbox, &["mixed"]);
    assert_eq!((&answers["files"], &answers["matched"]), (&6.into(), &2.into()), "{answers}");
    assert_eq!(data_set(&sandbox).unwrap()["path"], "set");
    sandbox.umount();
    let answers = on_mount(&sandbox, &["unmounted"]);
    assert_eq!((&answers["sent"], &answers["logged"]), (&false.into(), &0.into()), "{answers}");
    sandbox.assert_gone();
}
