//! What rots on one node's disk does not get to another.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, FILES, NODES, address};
use crate::sandbox::{Sandbox, content, wait_until};

/// Of a page, in bytes.
const PAGE: usize = 4 << 20;
/// Three pages.
const LARGE: usize = 2 * PAGE + 500_000;

/// The complete objects of this size in the cache of a node, by the names of their files in it.
fn objects(sandbox: &Sandbox, node: usize, size: usize) -> BTreeSet<PathBuf> {
    let root = sandbox.path(&format!("cache-{node}"));
    let folders = fs::read_dir(root.join("objects")).unwrap().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
    let of_size = files.filter(|file| file.metadata().is_ok_and(|it| it.len() == size as u64));
    of_size.map(|file| file.path().strip_prefix(&root).unwrap().to_owned()).collect()
}

/// Turns a bit of a file.
fn rot(path: &Path, at: usize) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
}

fn corrupt(cluster: &Cluster<'_>, node: usize) -> u64 {
    cluster.status(node)["cache"][0]["corrupt"].as_u64().unwrap()
}

/// Nothing of what the nodes have is damaged.
fn all_is_sound(sandbox: &Sandbox, cluster: &Cluster<'_>) {
    for node in 0..NODES {
        let mnt = cluster.mnt(node);
        let checked = sandbox.run(&["check", "--node-only", mnt.to_str().unwrap()]).ok();
        assert!(checked.contains("0 corrupt"), "{checked}");
    }
}

#[test]
fn a_file_that_rots_at_its_owner_is_fetched_again_and_the_owner_stays_trusted() {
    let sandbox = Sandbox::new();
    // Given a node that owns some files, and a reader that does not have them,
    let cluster = Cluster::start(&sandbox, 31, &["--fill", "off"]);
    cluster.read(1, 0, 0..FILES);
    let of = |node| objects(&sandbox, node, 20_000);
    wait_until("all files to be on the disk of their reader", || of(1).len() == FILES);
    let others = || -> BTreeSet<_> { of(0).union(&of(2)).cloned().collect() };
    // What it got from an owner is on that one's disk a moment later.
    let from_peers = cluster.status(1)["cluster"]["bytes_from_peers"].as_u64().unwrap() / 20_000;
    wait_until("the others' to be on theirs", || from_peers <= others().len() as u64);
    let others = others();
    let owned: Vec<_> = of(1).difference(&others).cloned().collect();
    assert!(10 < owned.len(), "{owned:?}");
    // when a bit of one turns,
    let rotten = sandbox.path("cache-1").join(&owned[3]);
    let right = fs::read(&rotten).unwrap();
    rot(&rotten, 12_345);
    assert_ne!(fs::read(&rotten).unwrap(), right);
    let (gets, fell_back) = (sandbox.sim.stats().get, cluster.fell_back(0..NODES));
    cluster.read(0, 0, 0..FILES);
    // then it costs one request, and nobody notices anything else.
    let again = sandbox.sim.stats().get - gets;
    let fell_back = cluster.fell_back(0..NODES) - fell_back;
    assert!((1..=1 + fell_back).contains(&again) && fell_back < 15, "{again} GETs, {fell_back}");
    assert_eq!(corrupt(&cluster, 1), 1);
    wait_until("it to be fetched again", || fs::read(&rotten).is_ok_and(|now| now == right));
    assert_eq!(cluster.state(0, &address(31, 1)), "up");
    let peers = cluster.status(0)["cluster"]["peers"].clone();
    assert!(!peers.to_string().contains("wrong"), "{peers:#}");
    wait_until("the copies to be on disk", || of(0).len() == FILES);
    all_is_sound(&sandbox, &cluster);
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}

#[test]
fn a_page_that_rots_in_a_large_file_of_its_owner_is_fetched_again() {
    let sandbox = Sandbox::new();
    let right = content("large", LARGE);
    sandbox.sim.put_object("b", "large", &right);
    let cluster = Cluster::start(&sandbox, 32, &["--fill", "off"]);
    assert!(fs::read(cluster.mnt(0).join("large")).unwrap() == right);
    // Given its owner, which is the reader or gave it to the reader, whose copy could replace it and is freed,
    let from_peers = cluster.status(0)["cluster"]["bytes_from_peers"].as_u64().unwrap();
    let holders = || (0..NODES).filter(|node| !objects(&sandbox, *node, LARGE).is_empty());
    let expected = if from_peers == 0 { 1 } else { 2 };
    wait_until("it to be complete on the disks", || holders().count() == expected);
    let owner = holders().find(|node| *node != 0).unwrap_or(0);
    let reader = (1..NODES).find(|node| *node != owner).unwrap();
    if owner != 0 {
        let mnt = cluster.mnt(0);
        wait_until("the copy to be freed", || {
            sandbox.run(&["free", "--node-only", mnt.to_str().unwrap()]).ok();
            objects(&sandbox, 0, LARGE).is_empty()
        });
    }
    let path = objects(&sandbox, owner, LARGE).pop_first().unwrap();
    let path = sandbox.path(&format!("cache-{owner}")).join(path);
    // when a bit of its last page turns, beyond which nothing is read ahead, and another part of that page is
    // read elsewhere,
    rot(&path, 2 * PAGE + 7_000);
    let gets = sandbox.sim.stats().get;
    let file = fs::File::open(cluster.mnt(reader).join("large")).unwrap();
    let mut part = [0; 100];
    let at = 2 * PAGE + 300_000;
    file.read_exact_at(&mut part, at as u64).unwrap();
    drop(file);
    // then the page is fetched once, and the rest of the file, which went with it, when it is needed.
    assert!(part[..] == right[at..][..100]);
    assert_eq!(sandbox.sim.stats().get, gets + 1);
    assert_eq!((corrupt(&cluster, owner), cluster.fell_back(reader..reader + 1)), (1, 0));
    assert!(!path.exists(), "the rotten file is gone");
    assert_eq!(cluster.state(reader, &address(32, owner)), "up");
    assert!(fs::read(cluster.mnt(reader).join("large")).unwrap() == right);
    wait_until("the copy to be on disk", || !objects(&sandbox, reader, LARGE).is_empty());
    all_is_sound(&sandbox, &cluster);
    (0..NODES).for_each(|node| cluster.umount(node));
    sandbox.assert_gone();
}
