//! Two daemons that find each other by an etcd, and what they say of it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::cluster::{FILES, address};
use crate::hints::put_set;
use crate::sandbox::{Ran, Sandbox, wait_until};

/// The number that no other test's addresses have.
const TEST: usize = 30;

/// Killed when dropped.
pub(crate) struct Etcd(Child);

impl Etcd {
    pub(crate) fn start(dir: &Path, url: &str) -> Self {
        let peers = format!("{}1", url.strip_suffix("7001").unwrap());
        let log = fs::File::create(dir.join("etcd.log")).unwrap();
        let child = Command::new("etcd")
            .args(["--name", "one", "--data-dir", dir.join("etcd").to_str().unwrap()])
            .args(["--listen-client-urls", url, "--advertise-client-urls", url])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("one={peers}"), "--logger", "zap"])
            .env("ETCD_UNSUPPORTED_ARCH", "arm64")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.expect("this test runs etcd: install Debian's etcd-server"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn two_mounts_find_each_other_by_etcd_and_go_on_without_it() {
    let sandbox = Sandbox::new();
    let names = put_set(&sandbox, FILES, 1_000);
    let url = format!("http://{}", address(TEST, 2));
    let mount = |node: usize| {
        let mnt = sandbox.path(&format!("mnt-{node}"));
        fs::create_dir_all(&mnt).unwrap();
        let cache = format!("{}:512MiB", sandbox.path(&format!("cache-{node}")).display());
        let listen = address(TEST, node);
        let args = ["mount", "s3://b", mnt.to_str().unwrap(), "--cache", &cache];
        let cluster = ["--listen", &listen, "--etcd", &url];
        Ran::of(&mut sandbox.feedline(&[&args[..], &cluster].concat())).ok();
        mnt
    };
    // Without etcd a node is alone, works, and says what is missing.
    let first = mount(0);
    let shown = || sandbox.run(&["status", first.to_str().unwrap()]).ok();
    assert!(shown().contains("CANNOT BE HEARD"), "{}", shown());
    assert!(shown().contains("nobody listens"), "{}", shown());
    assert_eq!(fs::read(first.join("set").join(&names[0])).unwrap().len(), 1_000);
    let doctor =
        || sandbox.feedline(&["doctor", "s3://b", "--listen", "127.0.0.1:1", "--etcd", &url]);
    let said = Ran::of(&mut doctor());
    assert!(said.code == Some(1) && said.stdout.contains("nobody listens"), "{said:#?}");
    let etcd = Etcd::start(&sandbox.path(""), &url);
    let second = mount(1);
    let members = |mnt: &Path| {
        let status = sandbox.run(&["status", "--json", mnt.to_str().unwrap()]).json();
        status["cluster"]["members"].as_u64().unwrap()
    };
    wait_until("both to know each other", || members(&first) == 2 && members(&second) == 2);
    assert!(shown().contains("2 nodes"), "{}", shown());
    assert!(shown().contains(&format!("etcd {url} (cluster b-")), "{}", shown());
    assert!(Ran::of(&mut doctor()).stdout.contains("lists 2 nodes"));
    drop(etcd);
    wait_until("the loss to be told", || shown().contains("CANNOT BE HEARD"));
    for name in &names {
        assert_eq!(fs::read(second.join("set").join(name)).unwrap().len(), 1_000);
    }
    assert_eq!((members(&first), members(&second)), (2, 2));
    let etcd = Etcd::start(&sandbox.path(""), &url);
    wait_until("etcd to be heard again", || !shown().contains("CANNOT BE HEARD"));
    sandbox.run(&["umount", second.to_str().unwrap()]).ok();
    wait_until("the one that left to be given up", || members(&first) == 1);
    drop(etcd);
    sandbox.run(&["umount", first.to_str().unwrap()]).ok();
    sandbox.assert_gone();
}

#[test]
fn what_is_wrong_with_an_etcd_setting_is_told_before_anything_is_mounted() {
    let sandbox = Sandbox::new();
    let secrets = sandbox.path("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("etcd-ca.crt"), "a certificate").unwrap();
    let secrets = secrets.to_str().unwrap();
    for (flags, expected) in [
        (vec!["--etcd", "etcd:2379"], "needs URLs such as http://etcd:2379"),
        (vec!["--etcd", "http://me:hunter2@etcd"], "etcd-password"),
        (vec!["--etcd", "http://me@etcd"], "etcd-password"),
        (vec!["--etcd", "http://etcd", "--peers", "a:1"], "exclude each other"),
        (vec!["--etcd", "http://etcd", "--cluster-secrets", secrets], "write https://"),
    ] {
        let listen = address(TEST + 1, 0);
        let args = [&["mount", "s3://b", sandbox.mnt_str(), "--listen", &listen], &flags[..]];
        let said = Ran::of(&mut sandbox.feedline(&args.concat()));
        assert_ne!(said.code, Some(0), "{said:#?}");
        assert!(said.stderr.contains(expected), "{flags:?}: {}", said.stderr);
        assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
        assert!(!sandbox.is_mounted());
    }
}
