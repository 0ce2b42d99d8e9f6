//! Nodes that speak TLS, and S3 clients of theirs: certificates in the directory of secrets, renewed in place.

use std::fs;
use std::path::Path;

use feedline_testkit::Authority;
use feedline_testkit::authority::{NOW, PAST};

use crate::cluster::{Cluster, FILES, NODES, address};
use crate::s3::python;
use crate::sandbox::{KEYS, PATIENCE, Ran, Sandbox, content, wait_until, wait_within};

/// Other tests of clusters have the numbers before these, and `cluster_load` those from 60.
const TESTS_BEFORE: usize = 50;

/// A directory that holds what cert-manager writes for a node, and no more.
fn secrets(sandbox: &Sandbox, name: &str) -> std::path::PathBuf {
    let dir = sandbox.path(name);
    fs::create_dir(&dir).unwrap();
    dir
}

#[test]
fn three_nodes_with_certificates_share_and_one_of_another_authority_does_not() {
    let sandbox = Sandbox::new();
    let (ours, other) = (Authority::new(), Authority::new());
    let dir = secrets(&sandbox, "secrets");
    ours.node(NOW).write(&dir).unwrap();
    let flags = ["--cluster-secrets", dir.to_str().unwrap(), "--fill", "off"];
    let cluster = Cluster::start(&sandbox, TESTS_BEFORE, &flags);
    cluster.read_on(0..NODES, 0, 0..FILES);
    let fell_back = cluster.fell_back(0..NODES);
    let gets = sandbox.sim.stats().get;
    assert!(gets <= FILES as u64 + fell_back, "{gets} GETs, {fell_back} fell back");
    assert_eq!(cluster.status(0)["cluster"]["tls"]["expires_unix_s"], 4_733_510_400_u64);
    let shown = sandbox.run(&["status", cluster.mnt(0).to_str().unwrap()]).ok();
    assert!(shown.contains("certificate until 2120-01-01 00:00 UTC"), "{shown}");
    assert!(shown.contains("https://127."), "{shown}");
    // The third comes back with a certificate of somebody else.
    cluster.umount(2);
    let strange = secrets(&sandbox, "strange");
    other.node(NOW).write(&strange).unwrap();
    let flags = ["--cluster-secrets", strange.to_str().unwrap(), "--fill", "off"];
    let at = [0, 1, 2].map(|node| address(TESTS_BEFORE, node));
    let cache = format!("{}:512MiB", sandbox.path("cache-2").display());
    Ran::of(&mut cluster.command(2, &cache, &at, &flags)).ok();
    let trouble = |node: usize, of: usize| {
        let peers = cluster.status(node)["cluster"]["peers"].as_array().unwrap().clone();
        let peer = peers.into_iter().find(|peer| peer["address"] == *at[of]).unwrap();
        peer["trouble"].as_str().unwrap_or_default().to_owned()
    };
    wait_until("both to say why not", || {
        trouble(0, 2).contains("its certificate is not signed by our ca.crt")
            && trouble(2, 0).contains("its certificate is not signed by our ca.crt")
    });
    cluster.read_on(0..NODES, 1, 0..FILES);
    // It is given one of ours, and is let in as it stands.
    ours.node(NOW).write(&strange).unwrap();
    // Who was refused is asked again after half a minute.
    wait_within(4 * PATIENCE, "it to be let in", || {
        trouble(0, 2).is_empty() && trouble(2, 0).is_empty()
    });
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn aws_reads_over_https_and_check_the_nodes_name() {
    let sandbox = Sandbox::new();
    let at = address(TESTS_BEFORE + 1, 0);
    let host = at.split(':').next().unwrap();
    let dir = secrets(&sandbox, "secrets");
    Authority::new().for_names(&[host]).write(&dir).unwrap();
    fs::write(dir.join("s3-keys"), "reader secret-of-the-reader\n").unwrap();
    sandbox.mount(&["--listen", &at, "--cluster-secrets", dir.to_str().unwrap()]);
    let (key, size) = KEYS[0];
    let aws = |scheme: &str, ca: &Path| {
        let mut command = sandbox.command(python());
        let endpoint = format!("{scheme}://{at}");
        command.args(["-m", "awscli", "--endpoint-url", &endpoint, "s3", "cp"]);
        command.arg(format!("s3://b/{key}")).arg(sandbox.path("copy"));
        command.env("AWS_DEFAULT_REGION", "us-east-1").env("AWS_MAX_ATTEMPTS", "1");
        command.env("AWS_ACCESS_KEY_ID", "reader");
        command.env("AWS_SECRET_ACCESS_KEY", "secret-of-the-reader").env("AWS_CA_BUNDLE", ca);
        Ran::of(&mut command)
    };
    aws("https", &dir.join("ca.crt")).ok();
    assert!(fs::read(sandbox.path("copy")).unwrap() == content(key, size));
    // Somebody else's authority is not trusted, and nothing is given to who does not speak TLS.
    let strange = secrets(&sandbox, "strange");
    Authority::new().node(NOW).write(&strange).unwrap();
    let refused = aws("https", &strange.join("ca.crt"));
    assert!(refused.code != Some(0) && refused.stderr.contains("SSL"), "{refused:#?}");
    let plain = aws("http", &dir.join("ca.crt"));
    assert!(plain.code != Some(0) && plain.stderr.contains("403"), "{plain:#?}");
    sandbox.umount();
    sandbox.assert_gone();
}

#[test]
fn files_of_tls_that_make_no_node_stop_the_mount_and_are_named() {
    let sandbox = Sandbox::new();
    let dir = secrets(&sandbox, "secrets");
    let at = address(TESTS_BEFORE + 2, 0);
    let mount = || {
        let flags = ["--listen", &at, "--cluster-secrets", dir.to_str().unwrap()];
        sandbox.run(&[&["mount", "s3://b", sandbox.mnt_str()][..], &flags].concat())
    };
    let ours = Authority::new();
    let files = ours.node(NOW);
    files.write(&dir).unwrap();
    fs::remove_file(dir.join("tls.key")).unwrap();
    mount().fails(2, &["secrets", "holds no tls.key", "ca.crt, tls.crt, tls.key"]);
    fs::write(dir.join("tls.key"), ours.node(NOW).key).unwrap();
    mount().fails(2, &["secrets", "tls.key does not belong to tls.crt"]);
    assert!(!sandbox.is_mounted());
    // One that has expired keeps nobody from reading the bucket; it is told.
    ours.node(PAST).write(&dir).unwrap();
    mount().ok();
    sandbox.read_right(KEYS[0].0);
    let shown = sandbox.run(&["status", sandbox.mnt_str()]).ok();
    assert!(shown.contains("expired on 2021-01-01 00:00 UTC: renew tls.crt"), "{shown}");
    sandbox.umount();
    sandbox.assert_gone();
}
