//! Members by a real etcd, which stops, dies, loses its data, wants passwords and certificates.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, DeleteOptions, Permission, PermissionType, Txn, TxnOp};
use feedline_cluster::{Change, Etcd, EtcdSecrets, EtcdUrls, Facts, Sources};
use feedline_testkit::process::has_stopped;
use feedline_testkit::{MemorySource, RealClock};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::{Node, Plan, SOURCE, addresses, eventually, objects};

/// Longer than the lease of a node's key.
const PAST_THE_LEASE: Duration = Duration::from_secs(12);

/// An etcd of one, on an address of its own; killed when dropped.
struct Server {
    dir: TempDir,
    address: SocketAddr,
    flags: Vec<String>,
    child: Option<Child>,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [address] = addresses::<1>();
        Self { dir, address, flags: Vec::new(), child: None }
    }

    fn started() -> Self {
        let mut server = Self::new();
        server.start();
        server
    }

    fn scheme(&self) -> &'static str {
        if self.flags.is_empty() { "http" } else { "https" }
    }

    fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.address)
    }

    fn start(&mut self) {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let peers = format!("http://{}:1", self.address.ip());
        let url = self.url();
        let child = Command::new("etcd")
            .args(["--name", "one", "--data-dir", self.data().to_str().unwrap()])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("one={peers}"), "--logger", "zap"])
            .args(&self.flags)
            .env("ETCD_UNSUPPORTED_ARCH", "arm64")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("these tests run etcd: install Debian's etcd-server"));
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
        // A thread that runs just now stops a moment later.
        while signal == Signal::STOP && !has_stopped(child.id()) {
            std::thread::yield_now();
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Node `number` of the cluster `name`, which finds the others here.
    fn node(&self, number: u64, name: &str, bucket: &Arc<MemorySource>) -> Node {
        self.node_with(number, &format!("{}/{name}", self.url()), EtcdSecrets::default(), bucket)
    }

    fn node_with(
        &self,
        number: u64,
        urls: &str,
        secrets: EtcdSecrets,
        bucket: &Arc<MemorySource>,
    ) -> Node {
        Self::member(number, urls, secrets, bucket).0
    }

    /// The same, and its etcd.
    fn member(
        number: u64,
        urls: &str,
        secrets: EtcdSecrets,
        bucket: &Arc<MemorySource>,
    ) -> (Node, Arc<Etcd>) {
        let urls = EtcdUrls::read(urls).unwrap();
        let etcd = Etcd::new(urls, secrets, "default", RealClock::shared()).unwrap();
        let etcd = Arc::new(etcd);
        let directory = Some(Arc::clone(&etcd) as _);
        let plan = Plan { sources: Sources { directory, ..Sources::default() }, ..Plan::default() };
        let [address] = addresses::<1>();
        (plan.start(number, address, &[], Arc::clone(bucket) as _), etcd)
    }

    async fn three(&self) -> ([Node; 3], Arc<MemorySource>) {
        let bucket = MemorySource::new(SOURCE);
        let nodes = [1, 2, 3].map(|number| self.node(number, "lab", &bucket));
        for node in &nodes {
            node.knows(3).await;
        }
        (nodes, bucket)
    }

    /// Nodes of one cluster by their numbers, each with its etcd.
    fn lab(&self) -> impl Fn(u64) -> (Node, Arc<Etcd>) + use<> {
        let (bucket, url) = (MemorySource::new(SOURCE), format!("{}/lab", self.url()));
        move |number| Self::member(number, &url, EtcdSecrets::default(), &bucket)
    }

    async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn trouble(node: &Node) -> Option<String> {
    node.cluster.status().sources[0].trouble.clone()
}

async fn all_hear(nodes: &[Node]) {
    eventually("all to hear etcd", || nodes.iter().all(|node| trouble(node).is_none())).await;
}

async fn nobody_hears(nodes: &[Node]) {
    let nobody = || nodes.iter().all(|node| trouble(node).is_some());
    eventually("the silence to be noticed", nobody).await;
}

fn epochs(nodes: &[Node]) -> Vec<(u64, usize)> {
    let epoch = |node: &Node| (node.cluster.epoch().number(), node.cluster.epoch().members().len());
    nodes.iter().map(epoch).collect()
}

async fn tells(node: &Node, expected: &str) {
    let told = || {
        let told = trouble(node).unwrap_or_default();
        // Shown when the test fails.
        println!("{told}");
        told.contains(expected)
    };
    eventually(&format!("{expected:?} to be told"), told).await;
}

/// Reads through each node in turn, with others' help.
async fn read_all(nodes: &[Node], bucket: &MemorySource) {
    let before: u64 = nodes.iter().map(|node| node.cluster.status().from_peers).sum();
    for (seed, object) in objects(bucket, 30, 1_000).iter().enumerate() {
        for node in nodes {
            node.cache.forget(object);
            node.reads(object, seed as u64).await;
        }
    }
    let after: u64 = nodes.iter().map(|node| node.cluster.status().from_peers).sum();
    assert!(before < after, "nobody asked a peer");
}

#[expect(clippy::disallowed_methods, reason = "real time, for a real etcd")]
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_find_each_other_and_notice_who_leaves_and_who_dies() {
    let etcd = Server::started();
    let (nodes, bucket) = etcd.three().await;
    read_all(&nodes, &bucket).await;
    let status = nodes.each_ref().map(|node| node.cluster.status());
    assert!(status.iter().all(|it| it.fingerprint == status[0].fingerprint));
    assert!(status[0].sources[0].place.contains("(cluster lab)"), "{:?}", status[0].sources);
    let keys = etcd.client().await.get("/feedline/lab/members/0000000000000001", None).await;
    let value: serde_json::Value = serde_json::from_slice(keys.unwrap().kvs()[0].value()).unwrap();
    assert_eq!(value["address"], nodes[0].cluster.address().to_string());
    assert_eq!((&value["quota"], &value["version"]), (&(1u64 << 30).into(), &"test".into()));
    let epoch = nodes[0].cluster.epoch().number();
    let [first, second, third] = nodes;
    third.cluster.leave().await;
    first.knows(2).await;
    second.knows(2).await;
    assert!(epoch < first.cluster.epoch().number());
    let left = etcd.client().await.get("/feedline/lab/members/0000000000000003", None).await;
    assert!(left.unwrap().kvs().is_empty(), "its lease is revoked");
    // As a crash: nobody is told, the lease ends by itself.
    drop(second);
    first.knows(1).await;
    // And comes back.
    let second = etcd.node(2, "lab", &bucket);
    first.knows(2).await;
    second.knows(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_stands_still_past_the_leases_changes_no_epoch() {
    let etcd = Server::started();
    let (nodes, bucket) = etcd.three().await;
    let before = epochs(&nodes);
    etcd.signal(Signal::STOP);
    nobody_hears(&nodes).await;
    read_all(&nodes, &bucket).await;
    pause(PAST_THE_LEASE).await;
    // Now all leases end at once.
    etcd.signal(Signal::CONT);
    all_hear(&nodes).await;
    pause(PAST_THE_LEASE).await;
    assert_eq!(epochs(&nodes), before);
    all_hear(&nodes).await;
    read_all(&nodes, &bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_is_killed_and_comes_back_with_or_without_its_data_changes_no_epoch() {
    let mut etcd = Server::started();
    let (nodes, bucket) = etcd.three().await;
    let before = epochs(&nodes);
    for keeps_data in [true, false] {
        etcd.kill();
        nobody_hears(&nodes).await;
        let told = trouble(&nodes[0]).unwrap();
        assert!(told.contains("nobody listens") || told.contains("connection"), "{told}");
        read_all(&nodes, &bucket).await;
        if !keeps_data {
            pause(PAST_THE_LEASE).await;
            fs::remove_dir_all(etcd.data()).unwrap();
        }
        etcd.start();
        all_hear(&nodes).await;
        let all_listed = || nodes.iter().all(|node| node.cluster.status().sources[0].found == 2);
        eventually("all to be listed", all_listed).await;
        assert_eq!(epochs(&nodes), before, "with data: {keeps_data}");
    }
    // Somebody new finds all of them there.
    let fourth = etcd.node(4, "lab", &bucket);
    fourth.knows(4).await;
    nodes[0].knows(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_before_etcd_is_alone_and_says_so_until_it_is_there() {
    let mut etcd = Server::new();
    let bucket = MemorySource::new(SOURCE);
    let first = etcd.node(1, "lab", &bucket);
    // The second one is also told of an endpoint where nobody ever listens.
    let [nobody] = addresses::<1>();
    let urls = format!("http://{nobody}/lab,{}/lab", etcd.url());
    let second = etcd.node_with(2, &urls, EtcdSecrets::default(), &bucket);
    first.cluster.settle().await;
    let told = trouble(&first).unwrap();
    assert!(told.contains("nobody listens") && told.contains("check the URL"), "{told}");
    assert_eq!(epochs(std::slice::from_ref(&first)), [(1, 1)]);
    let object = objects(&bucket, 1, 1_000).remove(0);
    first.reads(&object, 0).await;
    etcd.start();
    first.knows(2).await;
    second.knows(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_in_one_etcd_do_not_mix() {
    let etcd = Server::started();
    let bucket = MemorySource::new(SOURCE);
    let [a, b] = [1, 2].map(|number| etcd.node(number, "lab", &bucket));
    // A name that begins alike is another one.
    let [c, d] = [3, 4].map(|number| etcd.node(number, "lab2", &bucket));
    let plain = etcd.node_with(5, &etcd.url(), EtcdSecrets::default(), &bucket);
    let nodes = [a, b, c, d, plain];
    for node in &nodes[..4] {
        node.knows(2).await;
    }
    all_hear(&nodes).await;
    pause(Duration::from_secs(1)).await;
    let members: Vec<_> = epochs(&nodes).into_iter().map(|(_, members)| members).collect();
    assert_eq!(members, [2, 2, 2, 2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_lets_in_and_what_is_wrong_with_one_is_told() {
    let etcd = Server::started();
    let bucket = MemorySource::new(SOURCE);
    let with = |user: &str, password: &str| {
        let url = format!("http://{user}{}/lab", etcd.address);
        let secrets = EtcdSecrets {
            password: (!password.is_empty()).then(|| password.to_owned()),
            ..EtcdSecrets::default()
        };
        etcd.node_with(1, &url, secrets, &bucket)
    };
    let is_told = async |node: Node, expected: &str| {
        tells(&node, expected).await;
        let told = trouble(&node).unwrap();
        assert!(!told.contains("hunter"), "{told}");
        node.cluster.leave().await;
    };
    let mut client = etcd.client().await;
    is_told(with("feed@", "hunter2"), "it has no users: take feed@ out of the URL").await;
    for user in ["root", "feed", "poor"] {
        client.user_add(user, "hunter2", None).await.unwrap();
    }
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("feeds").await.unwrap();
    let all = Permission::new(PermissionType::Readwrite, "/feedline/").with_prefix();
    client.role_grant_permission("feeds", all).await.unwrap();
    client.user_grant_role("feed", "feeds").await.unwrap();
    client.auth_enable().await.unwrap();
    is_told(with("", ""), "it wants a user: write http://USER@HOST").await;
    is_told(with("feed@", "hunter3"), "it does not know the user \"feed\" with the password").await;
    is_told(with("poor@", "hunter2"), "\"poor\" needs a role that reads and writes").await;
    let first = with("feed@", "hunter2");
    let url = format!("http://feed@{}/lab", etcd.address);
    let password = Some("hunter2".into());
    let secrets = EtcdSecrets { password, ..EtcdSecrets::default() };
    let second = etcd.node_with(2, &url, secrets, &bucket);
    first.knows(2).await;
    second.knows(2).await;
    let no_password = EtcdUrls::read("http://feed@etcd").unwrap();
    let refused =
        Etcd::new(no_password, EtcdSecrets::default(), "x", RealClock::shared()).unwrap_err();
    assert!(refused.contains("etcd-password"), "{refused}");
}

/// What this etcd holds, once it is so.
async fn facts_are(etcd: &Etcd, what: &str, holds: impl Fn(&Facts) -> bool) -> Arc<Facts> {
    let facts = etcd.facts();
    eventually(what, || holds(&facts.borrow())).await;
    facts.borrow().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_heard_by_all_outlive_who_wrote_them_and_a_loss_of_data_shows() {
    let mut server = Server::started();
    let member = server.lab();
    let ((first, one), (second, two)) = (member(1), member(2));
    first.knows(2).await;
    let put = |name: &str| Change::Put(name.into(), b"x".to_vec());
    one.change_facts(&[put("pins/a"), put("pins/a/b"), put("pins/ab"), put("x")]).await.unwrap();
    let names = |facts: &Facts| facts.entries.keys().cloned().collect::<Vec<_>>();
    let heard = facts_are(&two, "all to be heard", |facts| facts.entries.len() == 4).await;
    let all = [Change::Remove("pins/a".into()), Change::RemoveBelow("pins/a/".into())];
    two.change_facts(&all).await.unwrap();
    first.cluster.leave().await;
    let said = one.change_facts(&[put("y")]).await.unwrap_err();
    assert!(said.contains("leaves"), "{said}");
    // Who joins later, and after who wrote them has left.
    let (third, three) = member(3);
    let later = facts_are(&three, "those that are left", |facts| facts.trouble.is_none()).await;
    assert_eq!(names(&later), ["pins/ab", "x"]);
    assert_eq!(later.generation, heard.generation);
    assert!(heard.revision < later.revision, "{later:?}");
    // Members are none of the facts' business, nor are facts members.
    third.knows(2).await;
    assert_eq!(third.cluster.status().sources[0].found, 1);
    for keeps_data in [true, false] {
        server.kill();
        let lost = facts_are(&two, "the silence", |facts| facts.trouble.is_some()).await;
        assert_eq!(names(&lost), ["pins/ab", "x"], "they stay as they were");
        assert!(two.change_facts(&[put("z")]).await.is_err());
        if !keeps_data {
            fs::remove_dir_all(server.data()).unwrap();
        }
        server.start();
        let back = facts_are(&two, "it to be heard", |facts| facts.trouble.is_none()).await;
        assert_eq!(back.generation == heard.generation, keeps_data);
        assert_eq!(back.entries.len(), if keeps_data { 2 } else { 0 });
    }
    let new = facts_are(&three, "it to be heard", |facts| facts.trouble.is_none()).await;
    assert_eq!(new.generation, two.facts().borrow().generation, "all agree on the new one");
    // As by an operator's hand, while it runs.
    server
        .client()
        .await
        .delete("/feedline/", Some(DeleteOptions::new().with_prefix()))
        .await
        .unwrap();
    let again = |facts: &Facts| facts.trouble.is_none() && facts.generation != new.generation;
    facts_are(&two, "a third generation", again).await;
    second.knows(2).await;
    third.knows(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_facts_than_one_usual_answer_holds_are_heard_and_an_etcd_that_stands_still_confirms_none()
 {
    let server = Server::started();
    let member = server.lab();
    let (first, one) = member(1);
    facts_are(&one, "etcd to be heard", |facts| facts.trouble.is_none()).await;
    // 6 MiB, of which gRPC takes 4 unless told otherwise.
    let put = |at: usize| Change::Put(format!("x/{at:04}"), vec![b'x'; 6 << 10]);
    for some in 0..10 {
        let some: Vec<_> = (some * 100..(some + 1) * 100).map(put).collect();
        one.change_facts(&some).await.unwrap();
    }
    let (second, two) = member(2);
    facts_are(&two, "all to be heard", |facts| facts.entries.len() == 1_000).await;
    assert_eq!(two.facts().borrow().trouble, None);
    first.knows(2).await;
    second.knows(2).await;
    let large = Change::Put("y".into(), vec![0; 9 << 10]);
    assert!(one.change_facts(&[large]).await.unwrap_err().contains("bytes"));
    server.signal(Signal::STOP);
    assert!(one.change_facts(&[put(0)]).await.is_err());
    let nodes = [first, second];
    nobody_hears(&nodes).await;
    assert_eq!(two.facts().borrow().entries.len(), 1_000, "they stay as they were");
    server.signal(Signal::CONT);
    facts_are(&two, "etcd to be heard again", |facts| facts.trouble.is_none()).await;
    all_hear(&nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_facts_as_are_taken_are_heard_and_too_many_only_until_some_are_removed() {
    let server = Server::started();
    let member = server.lab();
    let (first, one) = member(1);
    facts_are(&one, "etcd to be heard", |facts| facts.trouble.is_none()).await;
    let put = |at: usize| Change::Put(format!("x/{at:05}"), Vec::new());
    for some in 0..100 {
        let some: Vec<_> = (some * 100..(some + 1) * 100).map(put).collect();
        one.change_facts(&some).await.unwrap();
    }
    // The last one that is taken locks nobody out,
    facts_are(&one, "all to be heard", |facts| facts.entries.len() == 10_000).await;
    let (second, two) = member(2);
    facts_are(&two, "all to be heard", |facts| facts.entries.len() == 10_000).await;
    assert_eq!(two.facts().borrow().trouble, None);
    assert!(two.change_facts(&[put(10_000)]).await.unwrap_err().contains("no more than"));
    // and what is too much, by another's hand, is told and can be removed by who joins meanwhile.
    let mut client = server.client().await;
    for some in 0..12 {
        let put = |at| TxnOp::put(format!("/feedline/lab/facts/y/{at:05}"), "", None);
        let some: Vec<_> = (some * 100..(some + 1) * 100).map(put).collect();
        client.txn(Txn::new().and_then(some)).await.unwrap();
    }
    facts_are(&one, "the trouble", |facts| facts.is_overfull).await;
    let (third, three) = member(3);
    let said = facts_are(&three, "the trouble", |facts| facts.is_overfull).await.trouble.clone();
    assert!(said.as_ref().unwrap().contains("remove some"), "{said:?}");
    let nodes = [first, second, third];
    for node in &nodes {
        node.knows(3).await;
    }
    assert!(three.change_facts(&[put(0)]).await.is_err());
    three.change_facts(&[Change::RemoveBelow("y/".into())]).await.unwrap();
    for etcd in [&one, &two, &three] {
        let all = |facts: &Facts| facts.trouble.is_none() && facts.entries.len() == 10_000;
        facts_are(etcd, "all to be heard again", all).await;
    }
    // What nobody of us writes is not held, whatever its size, and ends no session.
    client.put("/feedline/lab/facts/y/large", vec![b'x'; 1 << 20], None).await.unwrap();
    let large = facts_are(&two, "it", |facts| facts.entries.contains_key("y/large")).await;
    assert!(large.entries["y/large"].is_empty());
    all_hear(&nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_that_cannot_be_listed_are_told_and_members_are_heard_all_the_same() {
    let server = Server::started();
    let member = server.lab();
    let (first, one) = member(1);
    facts_are(&one, "etcd to be heard", |facts| facts.trouble.is_none()).await;
    one.change_facts(&[Change::Put("x".into(), Vec::new())]).await.unwrap();
    // More in one answer than is taken, by another's hand.
    let mut client = server.client().await;
    for at in 0..64 {
        let key = format!("/feedline/lab/facts/y/{at}");
        client.put(key, vec![b'y'; 1_450_000], None).await.unwrap();
    }
    let (second, two) = member(2);
    let told = facts_are(&two, "the trouble", |facts| {
        facts.trouble.as_ref().is_some_and(|why| why.contains("cannot be listed"))
    });
    let told = told.await.trouble.clone().unwrap();
    assert!(told.contains("/feedline/lab/facts/"), "{told}");
    let said = two.change_facts(&[Change::Remove("x".into())]).await.unwrap_err();
    assert_eq!(said, told);
    first.knows(2).await;
    second.knows(2).await;
    assert_eq!(trouble(&second), None);
    let all = Some(DeleteOptions::new().with_prefix());
    client.delete("/feedline/lab/facts/y/", all).await.unwrap();
    let names = |facts: &Facts| facts.trouble.is_none() && facts.entries.keys().eq(["x"]);
    facts_are(&two, "it to be heard again", names).await;
    facts_are(&one, "nothing else", names).await;
    all_hear(&[first, second]).await;
}

/// An authority, and files of a key pair that it signed.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// Certificate and key.
    fn sign(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

fn write(dir: &Path, name: &str, pem: &[u8]) -> String {
    let file = dir.join(name);
    fs::write(&file, pem).unwrap();
    file.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_both_ends_are_checked_and_what_is_wrong_is_told() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut etcd = Server::new();
    let (certificate, key) = ours.sign(&etcd.address.ip().to_string());
    let dir = etcd.dir.path();
    let flags = [
        ("--cert-file", write(dir, "crt", &certificate)),
        ("--key-file", write(dir, "key", &key)),
        ("--trusted-ca-file", write(dir, "ca", &ours.pem())),
    ];
    etcd.flags = flags.into_iter().flat_map(|(flag, file)| [flag.to_owned(), file]).collect();
    etcd.flags.push("--client-cert-auth".into());
    etcd.start();
    let bucket = MemorySource::new(SOURCE);
    let url = format!("{}/lab", etcd.url());
    let with = |number, ca: &Authority, identity: Option<&Authority>| {
        let secrets = EtcdSecrets {
            ca_pem: Some(ca.pem()),
            identity_pem: identity.map(|authority| authority.sign("node")),
            ..EtcdSecrets::default()
        };
        etcd.node_with(number, &url, secrets, &bucket)
    };
    let nodes = [1, 2].map(|number| with(number, &ours, Some(&ours)));
    for node in &nodes {
        node.knows(2).await;
    }
    let is_told = async |node: Node, expected: &str| {
        tells(&node, expected).await;
    };
    is_told(with(3, &theirs, Some(&ours)), "its certificate is not trusted here").await;
    is_told(with(4, &ours, None), "the files etcd-tls.crt and etcd-tls.key").await;
    is_told(with(5, &ours, Some(&theirs)), "the files etcd-tls.crt and etcd-tls.key").await;
    assert_eq!(nodes[0].cluster.epoch().members().len(), 2);
    let plain = EtcdUrls::read("http://etcd").unwrap();
    let secrets = EtcdSecrets { ca_pem: Some(ours.pem()), ..EtcdSecrets::default() };
    let refused = Etcd::new(plain, secrets, "x", RealClock::shared()).unwrap_err();
    assert!(refused.contains("write https://"), "{refused}");
}
