//! `feedline bench compare` runs the quick config of the repository from start to end, writes a result and
//! a page, and leaves nothing; an interrupted one leaves nothing either.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::sandbox::{Ran, Sandbox, wait_until};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The command in the sandbox, with everything that it writes below it.
fn compare(sandbox: &Sandbox, config: &Path, flags: &[&str]) -> Command {
    let mut command = sandbox.feedline(&["bench", "compare"]);
    command.arg(config).args(flags);
    command.arg("--dir").arg(sandbox.path("bench")).arg("--results").arg(sandbox.path("results"));
    let dali = std::env::var_os("FEEDLINE_DALI_PYTHON")
        .map_or_else(|| repository().join(".venv-dali/bin/python"), PathBuf::from);
    command.env("FEEDLINE_DALI_PYTHON", dali);
    let juicefs = std::env::var_os("FEEDLINE_JUICEFS")
        .map_or_else(|| repository().join(".venv/bin/juicefs"), PathBuf::from);
    command.env("FEEDLINE_JUICEFS", juicefs);
    command
}

#[track_caller]
fn assert_nothing_left(sandbox: &Sandbox) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(sandbox.path("bench").to_str().unwrap()),
        "a mount is left:\n{mounts}"
    );
    wait_until("all processes are gone", || sandbox.processes().is_empty());
    for entry in std::fs::read_dir(sandbox.path("bench")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(name.to_str().unwrap().starts_with("compare-"), "{name:?} is left");
    }
}

/// The only result with this ending.
#[track_caller]
fn result(sandbox: &Sandbox, ending: &str) -> String {
    let all = std::fs::read_dir(sandbox.path("results")).unwrap();
    let mut fitting = all.map(|entry| entry.unwrap().path());
    let path = fitting.find(|path| path.extension().is_some_and(|it| it == ending)).unwrap();
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_quick_config_runs_to_its_end_and_the_page_shows_its_result() {
    let sandbox = Sandbox::new();
    let config = repository().join("bench/configs/quick.toml");
    // Strict: this machine has all of it, or scripts/setup test was not run.
    let ran = Ran::of(&mut compare(&sandbox, &config, &["--strict"]));
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    let json: Value = serde_json::from_str(&result(&sandbox, "json")).unwrap();
    let files = json["files"].as_u64().unwrap();
    let cases = json["cases"].as_array().unwrap();
    // Two numbers of readers with five systems, fio and DALI with the four that are file systems.
    assert_eq!(cases.len(), 2 * 5 + 2 * 4);
    for case in cases {
        let epochs = case["epochs"].as_array().unwrap();
        assert_eq!(epochs.len(), 3);
        for epoch in epochs {
            let round = &epoch["rounds"][0];
            assert_eq!(round["pass"]["files"].as_u64(), Some(files), "{case}");
            assert!(epoch["files_per_s"].as_f64().unwrap() > 0.0, "{case}");
        }
        let gets = |epoch: usize| epochs[epoch]["rounds"][0]["requests"]["get"].as_u64().unwrap();
        match case["system"].as_str().unwrap() {
            "feedline" => assert_eq!([gets(0), gets(1), gets(2)], [files, 0, 0], "{case}"),
            "http" => assert_eq!([gets(0), gets(1), gets(2)], [files; 3], "{case}"),
            "ext4" => assert_eq!([gets(0), gets(1), gets(2)], [0; 3], "{case}"),
            // What it says of its cache decides how often it asks again; the data set was imported once.
            "JuiceFS" => assert!(gets(0) >= files, "{case}"),
            _ => assert!(epochs[0]["to_baseline"].as_f64() == Some(1.0), "{case}"),
        }
    }
    let import = &json["import"]["requests"];
    assert!(import["get"].as_u64().unwrap() >= files, "{import}");
    assert!(import["other"].as_u64().unwrap() >= files, "{import}");
    let page = result(&sandbox, "html");
    for part in [
        "Quick comparison",
        "<rect",
        "<polyline",
        "native, 8 readers",
        "fio, 4 readers",
        "one read(2) of a whole file",
        "the import into JuiceFS took",
        "DALI",
        "p99 ms",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    assert!(!page.contains("<script") && !page.contains("src="), "the page loads something");
    assert_nothing_left(&sandbox);
}

#[test]
fn the_flags_in_every_config_are_ones_of_mount() {
    let sandbox = Sandbox::new();
    let mut tried = 0;
    for entry in std::fs::read_dir(repository().join("bench/configs")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        // Only systems of our own have flags there, and TOML writes a list of strings as JSON does.
        for flags in text.lines().filter_map(|line| line.strip_prefix("flags = ")) {
            let flags: Vec<String> = serde_json::from_str(flags).unwrap();
            // -f checks everything and mounts nothing.
            let mut command = sandbox.feedline(&["mount", "s3://b", sandbox.mnt_str(), "-f"]);
            Ran::of(command.args(&flags)).ok();
            tried += 1;
        }
    }
    assert!(tried > 0, "no config has flags");
}

#[test]
fn what_is_not_installed_is_named_and_left_out_unless_strict() {
    let sandbox = Sandbox::new();
    let config = sandbox.path("config.toml");
    let text = "title = 't'\nrounds = 1\nepochs = ['cold']\n[data]\nfiles = 4\nclasses = 2\n\
        mean_bytes = 20000\n[bucket]\nlatency = '1ms'\n[[client]]\nkind = 'native'\nreaders = [2]\n\
        [[client]]\nkind = 'torch'\n[[system]]\nname = 'feedline'\nkind = 'feedline'\n";
    std::fs::write(&config, text).unwrap();
    let absent = |flags: &[&str]| {
        let mut command = compare(&sandbox, &config, flags);
        Ran::of(command.env("FEEDLINE_TORCH_PYTHON", "/absent/python"))
    };
    let strict = absent(&["--strict"]);
    strict.fails(1, &["torch", "/absent/python", "scripts/setup loaders"]);
    let ran = absent(&[]);
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    let json: Value = serde_json::from_str(&result(&sandbox, "json")).unwrap();
    assert_eq!(json["left_out"][0]["name"], "torch");
    assert_eq!(json["cases"].as_array().unwrap().len(), 1);
    assert!(result(&sandbox, "html").contains("Left out: torch"));
    assert_nothing_left(&sandbox);
}

#[test]
fn an_interrupted_comparison_leaves_nothing() {
    let sandbox = Sandbox::new();
    // So slow that it is certainly still reading.
    let config = sandbox.path("config.toml");
    let text = "title = 't'\n[data]\nfiles = 60\nclasses = 2\nmean_bytes = 20000\n[bucket]\n\
        latency = '500ms'\n[[client]]\nkind = 'native'\nreaders = [1]\n[[system]]\nname = 'feedline'\n\
        kind = 'feedline'\n";
    std::fs::write(&config, text).unwrap();
    let mut command = compare(&sandbox, &config, &[]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it has mounted", || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(sandbox.path("bench").to_str().unwrap())
    });
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_nothing_left(&sandbox);
}
