//! Real clients: boto3, s3fs and rclone against a served folder, with signatures checked.
//!
//! `FEEDLINE_PYTHON` names a Python that has boto3; without it, `.venv` of the repository is used.
//! A client that is missing fails its test with what to install.
#![expect(clippy::disallowed_methods, reason = "it measures a server on the real clock")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use feedline_s3sim::S3Sim;

const ACCESS: &str = "access";
const SECRET: &str = "secret";

fn signed(root: &Path) -> S3Sim {
    let builder = S3Sim::builder().root(root).credentials(ACCESS, SECRET);
    builder.start().expect("a free port")
}

/// Runs a client to its end; its own words are the reason if it fails.
fn run(command: &mut Command, install: &str) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| panic!("{name}: {error}; {install}"));
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?}: {}; {said}", output.status);
    output
}

/// A small tree, seeded: the same bytes on every run.
fn make_tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut state: u64 = 42;
    let mut files = Vec::new();
    for index in 0..12 {
        let size = 1 + index * 9_001;
        let bytes: Vec<u8> = (0..size)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let name = format!("class{}/image {index}.jpg", index % 3);
        let path = dir.join(&name);
        fs::create_dir_all(path.parent().expect("a class")).expect("a directory");
        fs::write(path, &bytes).expect("a file");
        files.push((name, bytes));
    }
    files
}

fn assert_tree(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let found = fs::read(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == *bytes, "{name} differs");
    }
}

#[test]
fn boto3_makes_every_call() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("root");
    let sim = signed(&root);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("FEEDLINE_PYTHON")
        .map_or_else(|| manifest.join("../../.venv/bin/python"), PathBuf::from);
    let output = run(
        Command::new(python)
            .arg(manifest.join("tests/boto.py"))
            .args([&sim.endpoint(), ACCESS, SECRET])
            .env("WORK", dir.path()),
        "set FEEDLINE_PYTHON to a Python with boto3 (pip install boto3)",
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("done"));
    assert!(
        !root.join(".s3sim").exists()
            || fs::read_dir(root.join(".s3sim")).expect("a directory").count() == 0
    );
}

#[test]
fn rclone_copies_lists_checks_and_deletes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let sim = signed(&dir.path().join("root"));
    let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
    let files = make_tree(&source);
    // Over the cut-off: rclone sends it in parts.
    fs::write(source.join("large"), vec![7; 6 * 1024 * 1024 + 1]).expect("a file");
    let rclone = |args: &[&str]| {
        let mut command = Command::new("rclone");
        command
            .env_clear()
            .env("HOME", dir.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for (name, value) in [
            ("TYPE", "s3"),
            ("PROVIDER", "Other"),
            ("ACCESS_KEY_ID", ACCESS),
            ("SECRET_ACCESS_KEY", SECRET),
            ("ENDPOINT", &sim.endpoint()),
            ("UPLOAD_CUTOFF", "5Mi"),
            ("CHUNK_SIZE", "5Mi"),
        ] {
            command.env(format!("RCLONE_CONFIG_SIM_{name}"), value);
        }
        let output = run(command.args(args), "install rclone");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    rclone(&["copy", &path(&source), "sim:bucket/data"]);
    let listed = rclone(&["lsf", "-R", "--files-only", "sim:bucket/data"]);
    assert_eq!(listed.lines().count(), files.len() + 1);
    rclone(&["check", "--download", &path(&source), "sim:bucket/data"]);
    rclone(&["check", &path(&source), "sim:bucket/data"]);
    rclone(&["copy", "sim:bucket/data", &path(&copy)]);
    assert_tree(&copy, &files);
    rclone(&["copyto", "sim:bucket/data/large", "sim:bucket/moved"]);
    rclone(&["purge", "sim:bucket/data"]);
    assert_eq!(rclone(&["lsf", "-R", "sim:bucket"]).trim(), "moved");
    // A file that was put into the folder has a tag that is no MD5, for which rclone takes it.
    fs::write(dir.path().join("root/bucket/own"), b"put past the server").expect("a file");
    rclone(&["copy", "--ignore-checksum", "sim:bucket/own", &path(&copy)]);
    assert_eq!(fs::read(copy.join("own")).expect("copied"), b"put past the server");
}

/// A mount that is taken down whatever happens.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn s3fs_mounts_reads_and_writes_a_tree() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().join("root");
    let files = make_tree(&root.join("bucket"));
    let sim = signed(&root);
    let (mount, passwd) = (dir.path().join("mount"), dir.path().join("passwd"));
    fs::create_dir(&mount).expect("a directory");
    fs::write(&passwd, format!("{ACCESS}:{SECRET}")).expect("a file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&passwd, mode).expect("our own file");
    let options = format!(
        "url={},use_path_request_style,sigv4,passwd_file={},umask=0022,complement_stat,\
         listobjectsv2,tmpdir={}",
        sim.endpoint(),
        passwd.display(),
        dir.path().display()
    );
    run(
        Command::new("s3fs").arg("bucket").arg(&mount).args(["-o", &options]),
        "install s3fs; it needs root and /dev/fuse",
    );
    let mounted = Mounted(mount.clone());
    // s3fs returns before it serves; the kernel makes the first request wait, and a failed mount
    // shows as an empty directory until the deadline.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !mount.join("class0").is_dir() {
        assert!(Instant::now() < deadline, "s3fs never served; see the system log");
        std::thread::yield_now();
    }
    assert_eq!(fs::read_dir(&mount).expect("a mount").count(), 3);
    assert_tree(&mount, &files);
    fs::write(mount.join("class0/new"), "written through s3fs").expect("a write");
    assert_eq!(
        fs::read_to_string(root.join("bucket/class0/new")).expect("stored"),
        "written through s3fs"
    );
    fs::remove_file(mount.join("class0/new")).expect("a delete");
    assert!(!root.join("bucket/class0/new").exists());
    drop(mounted);
}
