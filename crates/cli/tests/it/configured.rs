//! Configuration files, variables and flags as they work together from the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::sandbox::{Ran, Sandbox, content};

/// A sandbox with a second bucket, and a file that mounts both.
fn two_buckets() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    sandbox.sim.put_object("other", "deep/v/x.txt", content("x", 4_000));
    let file = sandbox.path("two.toml");
    let text = "metadata_ttl = \"1h\"\n\n[[mounts]]\npath = \"sets/train\"\nurl = \"s3://b/train\"\n\n\
                [[mounts]]\npath = \"other\"\nurl = \"s3://other/deep/\"\n";
    fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    (sandbox, file)
}

#[test]
fn several_buckets_of_a_file_stand_in_one_tree() {
    let (sandbox, file) = two_buckets();
    let mnt = sandbox.mnt_str();
    let look = || {
        let expected = content("train/a.jpg", 110_000);
        assert!(sandbox.read("sets/train/a.jpg").unwrap() == expected);
        assert!(sandbox.read("other/v/x.txt").unwrap() == content("x", 4_000));
        let status = sandbox.run(&["status"]).ok();
        assert!(status.contains("s3://b/train at sets/train/"), "{status}");
        assert_eq!(sandbox.run(&["ls", "s3://other/deep/v"]).ok(), "x.txt\n");
        let stat = format!("{mnt}/other/v/x.txt");
        let stat = sandbox.run(&["stat", "--json", &stat]).json();
        assert_eq!(stat["location"], "s3://other/deep/v/x.txt");
    };
    // Flags before the arguments, after them, and the file by variable.
    for args in [
        vec!["mount", "--config", &file, "--metadata-ttl", "2h", mnt],
        vec!["mount", mnt, "--metadata-ttl=2h", "--config", &file],
    ] {
        sandbox.run(&args).ok();
        look();
        let told = sandbox.run(&["config", "--json", mnt]).json();
        let find = |name: &str| {
            let found = told.as_array().unwrap().iter().find(|setting| setting["name"] == name);
            let text = |field: &str| found.unwrap()[field].as_str().unwrap().to_owned();
            (text("value"), text("source"))
        };
        assert_eq!(find("metadata_ttl"), ("2h".into(), "flag".into()));
        assert_eq!(find("endpoint").1, "env FEEDLINE_ENDPOINT");
        assert_eq!(
            find("mounts[1]"),
            ("s3://other/deep/ on /other".into(), format!("file {file}:7"))
        );
        sandbox.umount();
    }
    let mut by_variable = sandbox.feedline(&["mount", mnt]);
    Ran::of(by_variable.env("FEEDLINE_CONFIG", &file)).ok();
    look();
    sandbox.umount();
    // A source beside [[mounts]] is a contradiction, not a choice.
    let both = sandbox.run(&["mount", "s3://b", mnt, "--config", &file]);
    both.fails(2, &["[[mounts]]", "keep one"]);
    sandbox.assert_gone();
}

#[test]
fn the_variable_names_the_file_and_must_be_right() {
    let (sandbox, file) = two_buckets();
    let mut command = sandbox.feedline(&["config", "--json"]);
    let told = Ran::of(command.env("FEEDLINE_CONFIG", &file)).json();
    let ttl = told.as_array().unwrap().iter().find(|setting| setting["name"] == "metadata_ttl");
    assert_eq!(ttl.unwrap()["source"], format!("file {file}:1"));
    let absent = sandbox.path("absent.toml");
    let mut command = sandbox.feedline(&["config"]);
    Ran::of(command.env("FEEDLINE_CONFIG", &absent)).fails(2, &["absent.toml"]);
}

#[test]
fn a_daemon_with_a_run_directory_of_its_own_is_found_by_flag_and_by_variable() {
    let sandbox = Sandbox::new();
    let (mnt, own) = (sandbox.mnt_str(), sandbox.path("own-run").display().to_string());
    sandbox.run(&["mount", "s3://b", mnt, "--run-dir", &own]).ok();
    sandbox.read_right("train/a.jpg");
    sandbox.run(&["ls", mnt]).fails(3, &["--run-dir"]);
    assert_eq!(sandbox.run(&["status"]).ok(), "nothing is mounted\n");
    let at = format!("{mnt}/train");
    for command in ["ls", "stat", "du", "pin", "unpin", "check", "free", "status", "config"] {
        sandbox.run(&[command, "--run-dir", &own, &at]).ok();
        let mut by_variable = sandbox.feedline(&[command, &at]);
        Ran::of(by_variable.env("FEEDLINE_RUN_DIR", &own)).ok();
    }
    assert!(sandbox.run(&["status", "--run-dir", &own]).ok().contains("s3://b"));
    // A mount that is served from another run directory is alive: it is not cleared.
    let again = sandbox.run(&["mount", "s3://b", mnt]);
    again.fails(1, &["is mounted already"]);
    sandbox.read_right("val/c.jpg");
    sandbox.run(&["umount", "--run-dir", &own, mnt]).ok();
    sandbox.assert_gone();
    assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
}

#[test]
fn a_run_directory_that_others_could_have_planted_is_refused() {
    let sandbox = Sandbox::new();
    let everybodys = sandbox.path("tmp");
    fs::create_dir(&everybodys).unwrap();
    fs::set_permissions(&everybodys, fs::Permissions::from_mode(0o1777)).unwrap();
    let run = everybodys.join("feedline-0").display().to_string();
    fs::create_dir(sandbox.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(sandbox.path("elsewhere"), &run).unwrap();
    let refused = sandbox.run(&["mount", "s3://b", sandbox.mnt_str(), "--run-dir", &run]);
    refused.fails(1, &["feedline-0", "symbolic link", "--run-dir"]);
    sandbox.run(&["status", "--run-dir", &run]).fails(1, &["feedline-0", "symbolic link"]);
    fs::remove_file(&run).unwrap();
    sandbox.run(&["mount", "s3://b", sandbox.mnt_str(), "--run-dir", &run]).ok();
    let mode = fs::metadata(&run).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    sandbox.run(&["umount", "--run-dir", &run, sandbox.mnt_str()]).ok();
    sandbox.assert_gone();
}
