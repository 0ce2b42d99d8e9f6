//! Two daemons that find each other by an etcd, and what they say of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::cluster::{FILES, address};
use rustix::process::Signal;
use serde_json::Value;

use crate::hints::put_set;
use crate::sandbox::{Ran, Sandbox, content, signal, wait_until};

/// The number that no other test's addresses have.
const TEST: usize = 30;

/// The same for a restart without etcd, and the one after it.
const RESTARTS: usize = 73;

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

/// Daemons that find each other by an etcd and keep no copies, so that each file is on its owner alone.
struct Owners<'a> {
    sandbox: &'a Sandbox,
    url: String,
    names: Vec<String>,
}

impl Owners<'_> {
    fn mnt(&self, node: usize) -> PathBuf {
        self.sandbox.path(&format!("mnt-{node}"))
    }

    fn mount(&self, node: usize) {
        let mnt = self.mnt(node);
        fs::create_dir_all(&mnt).unwrap();
        let cache = format!("{}:512MiB", self.sandbox.path(&format!("cache-{node}")).display());
        let listen = address(RESTARTS, node);
        let args = ["mount", "s3://b", mnt.to_str().unwrap(), "--cache", &cache, "--fill", "off"];
        let cluster = ["--listen", &listen, "--etcd", &self.url, "--local-copies", "never"];
        Ran::of(&mut self.sandbox.feedline(&[&args[..], &cluster].concat())).ok();
    }

    fn shown(&self, node: usize) -> String {
        self.sandbox.run(&["status", self.mnt(node).to_str().unwrap()]).ok()
    }

    fn status(&self, node: usize) -> Value {
        self.sandbox.run(&["status", "--json", self.mnt(node).to_str().unwrap()]).json()
    }

    fn wait_for_members(&self, nodes: &[usize], members: usize) {
        for node in nodes {
            wait_until(&format!("node {node} to know {members}"), || {
                self.status(*node)["cluster"]["members"] == members
            });
        }
    }

    fn kill(&self, node: usize) {
        let pid = self.status(node)["pid"].as_i64().unwrap();
        let mounts = self.sandbox.mounts();
        signal(i32::try_from(pid).unwrap(), Signal::KILL);
        // The watchdog clears it.
        wait_until("the dead one's mount to be gone", || self.sandbox.mounts() < mounts);
    }

    /// Reads all through a node; gives the requests that this cost the bucket.
    fn read(&self, node: usize) -> u64 {
        let before = self.sandbox.sim.stats().get;
        for name in &self.names {
            let read = fs::read(self.mnt(node).join("set").join(name)).unwrap();
            assert!(read == content(&format!("set/{name}"), 1_000), "{name}: wrong bytes");
        }
        self.sandbox.sim.stats().get - before
    }

    /// Files on a node's disk, in its own words.
    fn objects(&self, node: usize) -> u64 {
        self.status(node)["cache"][0]["objects"].as_u64().unwrap()
    }
}

#[test]
fn a_node_that_is_killed_and_started_while_etcd_is_away_reads_from_those_it_knew() {
    let sandbox = Sandbox::new();
    let url = format!("http://{}", address(RESTARTS + 1, 0));
    let names = put_set(&sandbox, FILES, 1_000);
    let owners = Owners { sandbox: &sandbox, url: url.clone(), names };
    let etcd = Etcd::start(&sandbox.path(""), &url);
    (0..3).for_each(|node| owners.mount(node));
    owners.wait_for_members(&[0, 1, 2], 3);
    owners.read(0);
    wait_until("each file to be on its owner", || {
        (0..3).map(|node| owners.objects(node)).sum::<u64>() == FILES as u64
    });
    let of_third = owners.objects(2);
    let file = sandbox.path("cache-1/namespace/members");
    let is_noted = |node: usize| {
        fs::read_to_string(&file).is_ok_and(|text| text.contains(&address(RESTARTS, node)))
    };
    wait_until("the others to be noted", || is_noted(0) && is_noted(2));
    drop(etcd);
    owners.kill(1);
    owners.mount(1);
    owners.wait_for_members(&[1], 3);
    let shown = owners.shown(1);
    assert!(shown.contains("CANNOT BE HEARD since 20"), "{shown}");
    assert!(shown.contains("members are those of 20"), "{shown}");
    assert!(shown.contains("remembered from before this start"), "{shown}");
    let source = owners.status(1)["cluster"]["members_from"][0].clone();
    assert!(source["remembered"] == true && source["found"] == 2, "{source:#}");
    assert!(source["heard_unix_s"].as_u64() <= source["lost_unix_s"].as_u64(), "{source:#}");
    let fell_back = || owners.status(1)["cluster"]["fell_back"].as_u64().unwrap();
    let gets = owners.read(1);
    assert!(gets <= fell_back() && fell_back() < 10, "{gets} GETs of what the others hold");
    // One of those that are remembered is dead: it is passed by.
    owners.kill(2);
    owners.kill(1);
    owners.mount(1);
    owners.wait_for_members(&[1], 2);
    let gets = owners.read(1);
    let late = fell_back();
    assert!(gets <= of_third + late && late < 10, "{gets} GETs, {of_third} were on the dead one");
    // etcd is back, and so is the third: everything as before.
    let etcd = Etcd::start(&sandbox.path(""), &url);
    owners.mount(2);
    owners.wait_for_members(&[0, 1, 2], 3);
    for node in 0..3 {
        wait_until("etcd to be heard", || !owners.shown(node).contains("CANNOT BE HEARD"));
    }
    let source = owners.status(1)["cluster"]["members_from"][0].clone();
    assert!(source["remembered"] == false && source["trouble"].is_null(), "{source:#}");
    let before = fell_back();
    let gets = owners.read(1);
    assert!(gets <= fell_back() - before, "{gets} GETs though all is well");
    (0..3).for_each(|node| {
        sandbox.run(&["umount", owners.mnt(node).to_str().unwrap()]).ok();
    });
    drop(etcd);
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
