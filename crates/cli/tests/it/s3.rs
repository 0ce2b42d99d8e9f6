//! S3 clients against real nodes: boto3, the `aws` command, pyarrow and s3fs (a mount of the node's port), with
//! keys and without.
//!
//! `FEEDLINE_PYTHON` names a Python with boto3, awscli and pyarrow; without it, `.venv` of the repository is used.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::cluster::{Cluster, NODES, address};
use crate::sandbox::{ACCESS_KEY, KEYS, Ran, SECRET_KEY, Sandbox, content, wait_until};

/// Tests of `cluster` have the numbers before these.
const TESTS_BEFORE: usize = 10;

const READER_SECRET: &str = "secret-of-the-reader";

pub(crate) fn python() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("FEEDLINE_PYTHON")
        .map_or_else(|| manifest.join("../../.venv/bin/python"), PathBuf::from)
}

/// The address of the only node of a test here.
fn own(test: usize) -> String {
    address(TESTS_BEFORE + test, 0)
}

/// A directory of secrets with these files.
fn secrets(sandbox: &Sandbox, files: &[(&str, &str)]) -> String {
    let dir = sandbox.path("secrets");
    fs::create_dir(&dir).unwrap();
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

/// The `aws` command with the keys of the bucket, which mean nothing to a node without keys.
fn aws(sandbox: &Sandbox, address: &str, args: &[&str]) -> Ran {
    // By its module: the script beside it names a Python that may have moved.
    let mut command = sandbox.command(python());
    command.args(["-m", "awscli", "--endpoint-url", &format!("http://{address}")]).args(args);
    command.env("AWS_DEFAULT_REGION", "us-east-1").env("AWS_MAX_ATTEMPTS", "1");
    Ran::of(&mut command)
}

/// One request without a signature, and everything that is answered.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Everything that lies in the run directory and is text.
pub(crate) fn log_of(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text.push_str(&log_of(&path));
        } else {
            text.push_str(&fs::read_to_string(path).unwrap_or_default());
        }
    }
    text
}

/// What `s3_reads.py` expects beside the keys of every sandbox.
fn put_keys(sandbox: &Sandbox) {
    for number in 0..1_500 {
        sandbox.sim.put_object("b", &format!("many/{number:05}"), "x");
    }
    for name in [
        "a b",
        "a+b",
        "a%2Fb",
        "a%20b",
        "ä/ß 漢字.jpg",
        "q?x=1&y#z",
        "folder/",
        "x//y",
        "./dot",
        "t'\"<&>",
    ] {
        let key = format!("odd/{name}");
        sandbox.sim.put_object("b", &key, content(&key, 100));
    }
    for name in ["a/b", "a/c", "a-b/c", "a.x", "a0", "b"] {
        sandbox.sim.put_object("b", &format!("sort/{name}"), "x");
    }
    sandbox.sim.put_object("b", "nothing", "");
}

#[test]
fn boto3_reads_what_the_bucket_has_and_is_refused_what_it_may_not() {
    let sandbox = Sandbox::new();
    put_keys(&sandbox);
    let keys = format!("# readers\nreader {READER_SECRET}\n");
    let secrets = secrets(&sandbox, &[("s3-keys", &keys)]);
    let address = own(0);
    let log_level = ["--log-level", "trace"];
    sandbox
        .mount(&[&["--listen", &address, "--cluster-secrets", &secrets][..], &log_level].concat());
    let check = || {
        let mut command = sandbox.command(python());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3_reads.py"));
        command.arg(format!("http://{address}"));
        command.env("AWS_ACCESS_KEY_ID", "reader").env("AWS_SECRET_ACCESS_KEY", READER_SECRET);
        let ran = Ran::of(&mut command);
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "done"), "{}", ran.stderr);
    };
    check();
    let gets = sandbox.sim.stats().get;
    check();
    assert_eq!(sandbox.sim.stats().get, gets, "the cache is read the second time");
    // What the mount has listed is not listed again for S3.
    fs::read_dir(sandbox.mnt.join("train")).unwrap().for_each(drop);
    let lists = sandbox.sim.stats().list;
    let mut command = sandbox.command(python());
    command.args(["-m", "awscli", "--endpoint-url", &format!("http://{address}")]);
    command.args(["s3", "ls", "s3://b/train/"]).env("AWS_DEFAULT_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "reader").env("AWS_SECRET_ACCESS_KEY", READER_SECRET);
    let listed = Ran::of(&mut command).ok();
    assert!(listed.contains("110000 a.jpg") && listed.contains("70000 b.jpg"), "{listed}");
    assert_eq!(sandbox.sim.stats().list, lists, "listed from memory");
    let status = sandbox.run(&["status", "--json", sandbox.mnt_str()]).json();
    let s3 = &status["cluster"]["s3"];
    assert_eq!(s3["access"], "keys");
    assert!(s3["bytes"].as_u64().unwrap() > 9 << 20 && s3["errors"].as_u64().unwrap() > 10, "{s3}");
    let shown = sandbox.run(&["status", sandbox.mnt_str()]).ok();
    assert!(shown.contains(&format!("http://{address}")), "{shown}");
    // The log at its most talkative.
    let log = log_of(&sandbox.path("run"));
    assert!(log.contains("TRACE"), "no log was found");
    for secret in [READER_SECRET, "Signature=", "Credential="] {
        assert!(!log.contains(secret), "the log holds {secret}");
    }
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn the_aws_command_copies_and_lists_without_keys_on_this_machine() {
    let sandbox = Sandbox::new();
    let address = own(1);
    sandbox.mount(&["--listen", &address]);
    let aws = |args: &[&str]| aws(&sandbox, &address, args);
    assert!(aws(&["s3", "ls"]).ok().contains(" b\n"));
    let listed = aws(&["s3", "ls", "s3://b/"]).ok();
    assert!(listed.contains("PRE train/") && listed.contains(" big\n"), "{listed}");
    // A folder that was listed is known: its objects are found without a request.
    assert!(aws(&["s3", "ls", "s3://b/train/"]).ok().contains("a.jpg"));
    let lists = sandbox.sim.stats().list;
    assert!(get(&address, "/b/train/a.jpg").starts_with("HTTP/1.1 200"));
    assert_eq!(sandbox.sim.stats().list, lists);
    let copy = sandbox.path("copy");
    let copied = copy.to_str().unwrap();
    aws(&["s3", "cp", "--only-show-errors", "--recursive", "s3://b/", copied]).ok();
    for (key, size) in KEYS {
        assert!(fs::read(copy.join(key)).unwrap() == content(key, size), "{key}");
    }
    let refused = aws(&["s3", "cp", copied, "s3://b/new", "--recursive"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("NotImplemented"), "{refused:?}");
    assert_eq!(sandbox.sim.stats().put, 0);
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn a_mounted_prefix_is_all_that_is_served() {
    let sandbox = Sandbox::new();
    let address = own(2);
    let source = ["mount", "s3://b/train", sandbox.mnt_str(), "--listen", &address];
    sandbox.run(&source).ok();
    let listed = get(&address, "/b?list-type=2&delimiter=/");
    assert!(listed.contains("<Prefix>train/</Prefix>") && !listed.contains("val/"), "{listed}");
    let listed = get(&address, "/b?list-type=2");
    assert!(listed.contains("train/a.jpg") && !listed.contains("big"), "{listed}");
    assert!(get(&address, "/b/train/a.jpg").starts_with("HTTP/1.1 200"));
    for key in ["big", "val/c.jpg", "train/../big"] {
        let answer = get(&address, &format!("/b/{key}"));
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("NoSuchKey"), "{answer}");
    }
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn a_port_with_a_token_and_without_keys_serves_nobody_s3() {
    let sandbox = Sandbox::new();
    let secrets = secrets(&sandbox, &[("token", &"0123456789abcdef".repeat(2))]);
    let address = own(3);
    sandbox.mount(&["--listen", &address, "--cluster-secrets", &secrets]);
    let answer = get(&address, "/b/big");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("s3-keys"), "{answer}");
    let ran = aws(&sandbox, &address, &["s3", "ls", "s3://b/"]);
    assert!(ran.stderr.contains("AccessDenied") && ran.stderr.contains("s3-keys"), "{ran:?}");
    assert!(!ran.stderr.contains(SECRET_KEY) && !answer.contains(ACCESS_KEY));
    let shown = sandbox.run(&["status", sandbox.mnt_str()]).ok();
    assert!(shown.contains("closed: there is no file s3-keys"), "{shown}");
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn a_new_object_is_read_at_once_and_a_new_version_with_the_listing() {
    let sandbox = Sandbox::new();
    let address = own(4);
    sandbox.mount(&["--listen", &address]);
    assert!(get(&address, "/b/train/a.jpg").starts_with("HTTP/1.1 200"));
    sandbox.sim.put_object("b", "train/new", "came later");
    assert!(get(&address, "/b/train/new").ends_with("came later"));
    sandbox.sim.put_object("b", "train/new", "and changed");
    // An S3 listing that goes to the bucket sees it, and what is read then is what was listed.
    let listed = get(&address, "/b?list-type=2");
    assert!(listed.contains("<Size>11</Size>"), "{listed}");
    assert!(get(&address, "/b/train/new").ends_with("and changed"));
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn pyarrow_lists_and_reads_whole_files_and_parts() {
    let sandbox = Sandbox::new();
    let secrets = secrets(&sandbox, &[("s3-keys", &format!("reader {READER_SECRET}\n"))]);
    let address = own(61);
    sandbox.mount(&["--listen", &address, "--cluster-secrets", &secrets]);
    let check = || {
        let mut command = sandbox.command(python());
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3_arrow.py")).arg(&address);
        command.env("AWS_ACCESS_KEY_ID", "reader").env("AWS_SECRET_ACCESS_KEY", READER_SECRET);
        let ran = Ran::of(&mut command);
        assert_eq!((ran.code, ran.stdout.trim()), (Some(0), "done"), "{}", ran.stderr);
    };
    check();
    let gets = sandbox.sim.stats().get;
    check();
    assert_eq!(sandbox.sim.stats().get, gets, "the cache is read the second time");
    assert_eq!(sandbox.sim.stats().put, 0);
    sandbox.umount();
    sandbox.assert_gone();
}

/// A node's port mounted by s3fs. Taken away at the end, whatever happened.
struct S3fs(PathBuf);

impl S3fs {
    fn mount(sandbox: &Sandbox, address: &str) -> Self {
        let mountpoint = sandbox.path("s3fs");
        fs::create_dir(&mountpoint).unwrap();
        let mut command = sandbox.command("s3fs");
        command.arg("b").arg(&mountpoint).args(["-o", &format!("url=http://{address}")]);
        command.args(["-o", "use_path_request_style,ro,endpoint=us-east-1"]);
        command.env("AWSACCESSKEYID", "reader").env("AWSSECRETACCESSKEY", READER_SECRET);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env_remove(name);
        }
        Ran::of(&mut command).ok();
        Self(mountpoint)
    }
}

impl Drop for S3fs {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn s3fs_mounts_a_nodes_port_and_reads_the_same_bytes() {
    let sandbox = Sandbox::new();
    let secrets = secrets(&sandbox, &[("s3-keys", &format!("reader {READER_SECRET}\n"))]);
    let address = own(62);
    sandbox.mount(&["--listen", &address, "--cluster-secrets", &secrets]);
    let mounted = S3fs::mount(&sandbox, &address);
    let names = |dir: PathBuf| {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    wait_until("s3fs to show the bucket", || mounted.0.join("big").exists());
    for dir in ["", "train", "val"] {
        assert_eq!(names(mounted.0.join(dir)), names(sandbox.mnt.join(dir)), "{dir:?}");
    }
    for (key, size) in KEYS {
        let read = fs::read(mounted.0.join(key)).unwrap();
        assert!(read == content(key, size), "{key}");
    }
    fs::write(mounted.0.join("train/new"), "x").unwrap_err();
    assert_eq!(sandbox.sim.stats().put, 0);
    // What s3fs has read is in the cache: the mount asks the bucket for nothing more.
    let gets = sandbox.sim.stats().get;
    KEYS.iter().for_each(|(key, _)| sandbox.read_right(key));
    assert_eq!(sandbox.sim.stats().get, gets);
    drop(mounted);
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn an_object_is_fetched_once_whichever_nodes_are_asked_for_it_over_s3() {
    let sandbox = Sandbox::new();
    let test = TESTS_BEFORE + 63;
    let cluster = Cluster::start(&sandbox, test, &["--fill", "off"]);
    let of_cluster =
        |node: usize, field: &str| cluster.status(node)["cluster"][field].as_u64().unwrap();
    for (key, size) in KEYS.into_iter().filter(|(key, _)| *key != "big") {
        for node in [0, 1, 0] {
            let url = format!("s3://b/{key}");
            let copy = sandbox.path("copy");
            let args = ["s3", "cp", "--only-show-errors", &url, copy.to_str().unwrap()];
            aws(&sandbox, &address(test, node), &args).ok();
            assert!(fs::read(&copy).unwrap() == content(key, size), "{key} of node {node}");
        }
    }
    let fell_back = cluster.fell_back(0..NODES);
    let gets: u64 = sandbox.sim.gets_by_key().values().sum();
    assert!((3..=3 + fell_back).contains(&gets), "{gets} GETs of 3 objects, {fell_back}");
    // Each of three objects was asked of two nodes, of which one at most owns it.
    let from_peers: u64 = (0..2).map(|node| of_cluster(node, "requests_saved")).sum();
    assert!(3 <= from_peers + fell_back, "{from_peers} came from other nodes");
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}
