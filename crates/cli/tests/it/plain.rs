//! What needs no mount: help, manual, completions, settings and where they come from.

use std::fs;

use crate::sandbox::{Ran, Sandbox};

const COMMANDS: [&str; 18] = [
    "mount",
    "umount",
    "status",
    "ls",
    "stat",
    "du",
    "free",
    "pin",
    "unpin",
    "hint",
    "check",
    "config",
    "doctor",
    "bench",
    "dataset",
    "s3sim",
    "completions",
    "man",
];

#[test]
fn every_command_has_a_help_that_is_listed() {
    let sandbox = Sandbox::new();
    let all = sandbox.run(&["--help"]).ok();
    assert!(all.contains("Exit codes:") && all.contains("Examples:"), "{all}");
    assert!(!all.contains("watchdog"), "hidden: {all}");
    for command in COMMANDS {
        assert!(all.contains(&format!("\n  {command} ")), "{command} is not listed: {all}");
        let help = sandbox.run(&[command, "--help"]).ok();
        assert!(help.contains("Usage: feedline"), "{command}: {help}");
    }
}

#[test]
fn the_help_of_mount_teaches_every_setting_with_its_default_and_its_variable() {
    let sandbox = Sandbox::new();
    let help = sandbox.run(&["help", "mount"]).ok();
    // Without the line breaks, which depend on the width.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let list = sandbox.run(&["config", "--json"]).json();
    // The sandbox sets none of these by variable, so the table is what the help was made from.
    for setting in list.as_array().unwrap() {
        let name = setting["name"].as_str().unwrap();
        assert!(help.contains(&format!("--{}", name.replace('_', "-"))), "{name}");
        assert!(help.contains(&format!("[env: FEEDLINE_{}]", name.to_uppercase())), "{name}");
        let (value, meaning) = (&setting["value"], setting["help"].as_str().unwrap());
        assert!(help.contains(meaning), "{name}: {meaning} is not in {help}");
        if setting["source"] == "default" && !meaning.contains("empty:") && value != "" {
            let default = format!("[default: {}]", value.as_str().unwrap());
            assert!(help.contains(&default), "{name}: {default}");
        }
    }
    for example in ["feedline mount s3://", "/etc/fstab", "--config", "[env: FEEDLINE_CONFIG]"] {
        assert!(help.contains(example), "{example}: {help}");
    }
    let short = sandbox.run(&["mount", "-h"]).ok();
    assert!(!short.contains("[env: FEEDLINE_BUFFER]"), "the short help stays short: {short}");
}

#[test]
fn completions_and_manual_are_generated() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = sandbox.run(&["completions", shell]).ok();
        assert!(script.contains("metadata-ttl"), "{shell}");
    }
    assert!(sandbox.run(&["man"]).ok().contains(".TH"));
    let dir = sandbox.path("man1");
    sandbox.run(&["man", dir.to_str().unwrap()]).ok();
    for command in COMMANDS {
        let page = fs::read_to_string(dir.join(format!("feedline-{command}.1"))).unwrap();
        assert!(page.starts_with(".ie") && page.contains(".TH feedline-"), "{command}: {page}");
    }
    let page = fs::read_to_string(dir.join("feedline-mount.1")).unwrap();
    assert!(page.contains("metadata\\-ttl") && page.contains("FEEDLINE_METADATA_TTL"), "{page}");
    assert!(fs::read_to_string(dir.join("feedline.1")).unwrap().contains("Exit codes"));
    assert!(!dir.join("feedline-watchdog.1").exists(), "it is no command for people");
}

#[test]
fn a_setting_comes_from_flag_then_variable_then_file() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("feedline.toml");
    fs::write(&file, "metadata_ttl = \"1h\"\nretry_budget = \"20s\"\nbuffer = \"64MiB\"\n")
        .unwrap();
    let mut command = sandbox.feedline(&["config", "--json", "--metadata-ttl", "3h", "--config"]);
    command.arg(&file).env("FEEDLINE_METADATA_TTL", "2h").env("FEEDLINE_RETRY_BUDGET", "40s");
    let list = Ran::of(&mut command).json();
    let find = |name: &str| {
        let found = list.as_array().unwrap().iter().find(|setting| setting["name"] == name);
        let text = |field: &str| found.unwrap()[field].as_str().unwrap().to_owned();
        (text("value"), text("source"))
    };
    assert_eq!(find("metadata_ttl"), ("3h".into(), "flag".into()));
    assert_eq!(find("retry_budget"), ("40s".into(), "env FEEDLINE_RETRY_BUDGET".into()));
    assert_eq!(find("buffer").0, "64MiB");
    assert!(find("buffer").1.starts_with("file "), "{:?}", find("buffer"));
    assert_eq!(find("scrub_rate").1, "default");
    let table = sandbox.run(&["config"]).ok();
    assert!(table.lines().next().unwrap().starts_with("setting"), "{table}");
    assert!(!table.contains("nonexistent"), "a stand-in shows: {table}");
}

#[test]
fn doctor_finds_this_machine_and_this_bucket_in_order() {
    let sandbox = Sandbox::new();
    let checks = sandbox.run(&["doctor", "--json", "s3://b"]).json();
    for check in checks.as_array().unwrap() {
        assert_ne!(check["state"], "fail", "{check}");
    }
    let names: Vec<&str> =
        checks.as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    for name in ["FUSE device", "passthrough", "clock", "bucket s3://b", "configuration"] {
        assert!(names.contains(&name), "{name} is missing: {names:?}");
    }
}

#[test]
fn doctor_fails_for_a_bucket_that_refuses_and_says_what_to_do() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.feedline(&["doctor", "s3://b"]);
    command.env("AWS_SECRET_ACCESS_KEY", "wrong");
    let ran = Ran::of(&mut command);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stdout.contains("FAIL"), "{ran:#?}");
    assert!(ran.stdout.contains("way out"), "{ran:#?}");
}
