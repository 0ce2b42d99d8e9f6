//! What is said when it does not work: the thing, the way out, the exit code; and nothing is left.

use std::fs;

use crate::sandbox::{Ran, Sandbox};

/// Mounts with more arguments and expects that error and nothing left behind.
#[track_caller]
fn refused(sandbox: &Sandbox, args: &[&str], env: &[(&str, &str)], code: i32, words: &[&str]) {
    let mut command = sandbox.feedline(&["mount"]);
    command.args(args).envs(env.iter().copied());
    Ran::of(&mut command).fails(code, words);
    sandbox.assert_gone();
}

#[test]
fn a_bucket_that_refuses_is_missing_or_does_not_answer_is_named() {
    let sandbox = Sandbox::new();
    let mnt = sandbox.mnt_str();
    let wrong = [("AWS_SECRET_ACCESS_KEY", "wrong")];
    refused(&sandbox, &["s3://b", mnt], &wrong, 1, &["s3://b", "denied", "way out"]);
    refused(&sandbox, &["s3://nowhere", mnt], &[], 1, &["s3://nowhere", "does not exist"]);
    // A port that nobody listens on: bound once, and free again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dead = format!("http://127.0.0.1:{port}");
    let env = [
        ("FEEDLINE_ENDPOINT", dead.as_str()),
        ("FEEDLINE_RETRY_BUDGET", "1s"),
        ("FEEDLINE_REQUEST_TIMEOUT", "500ms"),
    ];
    refused(&sandbox, &["s3://b", mnt], &env, 1, &["s3://b", "unavailable"]);
}

#[test]
fn mistakes_on_the_command_line_are_usage_errors() {
    let sandbox = Sandbox::new();
    let mnt = sandbox.mnt_str();
    refused(&sandbox, &["s3://b", mnt, "--cahce", "x"], &[], 2, &["--cahce", "--cache"]);
    refused(&sandbox, &["s3://b", mnt, "--buffer", "10"], &[], 2, &["--buffer", "64MiB"]);
    refused(&sandbox, &["s3://b", mnt, "--open", "maybe"], &[], 2, &["maybe", "passthrough"]);
    refused(&sandbox, &["s3://b", mnt, "-o", "cahce=/x"], &[], 2, &["cahce"]);
    refused(&sandbox, &["b", mnt], &[], 2, &["s3://"]);
    refused(&sandbox, &["s3://key:secret@b", mnt], &[], 2, &["credential"]);
    let env = [("FEEDLINE_METADATA_TTL", "soon")];
    refused(&sandbox, &["s3://b", mnt], &env, 2, &["FEEDLINE_METADATA_TTL", "soon"]);
    let file = sandbox.path("bad.toml");
    fs::write(&file, "\nbufer = \"64MiB\"\n").unwrap();
    let file = file.to_str().unwrap();
    refused(&sandbox, &["s3://b", mnt, "--config", file], &[], 2, &["bad.toml:2", "buffer"]);
    sandbox.run(&["nonsense"]).fails(2, &["nonsense"]);
}

#[test]
fn a_mountpoint_must_be_a_directory_that_is_free() {
    let sandbox = Sandbox::new();
    let absent = sandbox.path("absent");
    refused(&sandbox, &["s3://b", absent.to_str().unwrap()], &[], 3, &["absent", "mkdir"]);
    let file = sandbox.path("file");
    fs::write(&file, "").unwrap();
    refused(&sandbox, &["s3://b", file.to_str().unwrap()], &[], 2, &["not a directory"]);

    sandbox.mount(&[]);
    let again = sandbox.run(&["mount", "s3://b", sandbox.mnt_str()]);
    again.fails(1, &["is mounted already", "umount"]);
    sandbox.read_right("train/a.jpg");
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn paths_that_are_not_there_are_not_found() {
    let sandbox = Sandbox::new();
    for command in ["ls", "stat", "du", "free", "pin", "unpin", "check"] {
        sandbox.run(&[command, "/etc"]).fails(3, &["/etc", "feedline status"]);
        sandbox.run(&[command, "s3://other/x"]).fails(3, &["s3://other/x", "mount"]);
    }
    sandbox.run(&["umount", "/etc"]).fails(3, &["/etc", "not a Feedline mount"]);
    assert_eq!(sandbox.run(&["status"]).ok(), "nothing is mounted\n");
    sandbox.mount(&[]);
    let absent = format!("{}/train/absent", sandbox.mnt_str());
    for command in ["ls", "stat", "du", "free", "pin", "unpin", "check"] {
        sandbox.run(&[command, &absent]).fails(3, &["train/absent"]);
    }
    sandbox.umount();
}
