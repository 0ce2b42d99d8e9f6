//! The rooms together: a simulated bucket behind a socket, a real cache, a real mount.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use crate::common::{BUCKET, Content, Site, below, bytes_of, tree};
use feedline_node::api::{CheckEvent, PathQuery};
use feedline_s3sim::{FaultKind, FaultRule, Verb};

#[test]
fn an_epoch_costs_one_get_a_file_and_the_next_ones_nothing_also_after_a_restart() {
    let (folders, files) = (12, 40);
    let mut site = Site::new(tree(folders, files));
    let large = "large.bin".to_owned();
    site.content.insert(large.clone(), bytes_of(&large, 1, 9 << 20));
    site.sim.put_object(BUCKET, &large, &site.content[&large]);
    site.sim.reset_stats();

    let node = site.start();
    site.read_all();
    let cold = site.sim.stats();
    let empty = site.content.values().filter(|bytes| bytes.is_empty()).count() as u64;
    let pages = 9_u64.div_ceil(4);
    assert_eq!(cold.get, (folders * files) as u64 - empty + pages, "one GET a file or page");
    assert!(cold.list <= (folders * files) as u64 / 1000 + folders as u64 + 10, "{cold:?}");
    assert_eq!((cold.head, cold.put), (0, 0));

    let status = site.status(&node.client());
    assert_eq!(status.requests["GET"], cold.get, "the status counts what the bucket counts");
    assert_eq!(status.requests["LIST"], cold.list);
    let objects = (folders * files) as u64 - empty + 1;
    site.until("all on disk", || site.status(&node.client()).cache[0].objects == objects);
    assert_eq!(status.namespace.entries, (folders * files + folders + 2) as u64);
    assert_eq!(status.open_mode, "passthrough", "{:?}", status.open_mode_reason);
    assert_eq!(status.transport, "classic", "{:?}", status.transport_reason);

    site.sim.reset_stats();
    site.read_all();
    assert_eq!(site.sim.stats().requests(), 0, "warm");
    assert!(0 < site.status(&node.client()).reads.passthrough_opens);

    node.stop().unwrap();
    site.assert_nothing_left();
    // What the quota does not count stays small, as the help of the setting says.
    let listings = fs::metadata(site.path("cache/namespace/listings")).unwrap().len();
    assert!(listings < 60 * status.namespace.entries, "{listings} bytes of listings");
    let node = site.start();
    site.read_all();
    assert_eq!(site.sim.stats().requests(), 0, "after a restart");
    node.stop().unwrap();
    site.assert_nothing_left();
}

#[test]
fn without_opens_the_same_bytes_arrive() {
    let mut site = Site::new(tree(3, 30));
    site.set("open", "none");
    let node = site.start();
    site.read_all();
    site.sim.reset_stats();
    site.read_all();
    assert_eq!(site.sim.stats().requests(), 0);
    assert_eq!(site.status(&node.client()).open_mode, "none");
    node.stop().unwrap();
}

#[test]
fn a_changed_object_appears_within_the_ttl_as_a_new_inode() {
    let mut site = Site::new(tree(1, 3));
    site.set("metadata_ttl", "500ms");
    let node = site.start();
    let key = "train/n0000/img_00001.jpg";
    let path = site.mnt().join(key);
    assert_eq!(fs::read(&path).unwrap(), site.content[key]);
    let before = fs::metadata(&path).unwrap().ino();
    let new = bytes_of(key, 2, 12_345);
    site.sim.put_object(BUCKET, key, &new);
    site.sim.put_object(BUCKET, "train/n0000/new.jpg", b"new");
    site.sim.delete_object(BUCKET, "train/n0000/img_00002.jpg");
    // Old or new, never a mixture, and never an error.
    site.until("the new version", || {
        let read = fs::read(&path).unwrap();
        assert!(read == new || read == site.content[key], "bytes of two versions");
        read == new
    });
    assert_ne!(fs::metadata(&path).unwrap().ino(), before);
    site.until("the new name", || site.mnt().join("train/n0000/new.jpg").exists());
    site.until("the name gone", || !site.mnt().join("train/n0000/img_00002.jpg").exists());
    node.stop().unwrap();
}

#[test]
fn what_is_wrong_with_a_bucket_is_said_before_anything_is_mounted() {
    let mut site = Site::new(tree(1, 1));
    let good = site.environment.clone();
    let refused = |site: &mut Site, said: &[&str]| {
        let error = site.try_start().unwrap_err().to_string();
        for words in said {
            assert!(error.contains(words), "{words:?} in {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
        site.assert_nothing_left();
        site.settings.clear();
        site.environment.clone_from(&good);
    };
    site.environment[1].1 = "wrong";
    refused(&mut site, &["cannot list s3://data", "credentials"]);
    site.set("source", "s3://absent");
    refused(&mut site, &["cannot list s3://absent", "check the bucket's name"]);
    site.set("endpoint", "http://127.0.0.1:1");
    site.set("retry_budget", "1s").set("request_timeout", "1s");
    refused(&mut site, &["cannot list s3://data", "check the endpoint and the network"]);
    let foreign = site.path("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "mine").unwrap();
    site.set("cache", &format!("{}:1GiB", foreign.display()));
    refused(&mut site, &["foreign", "thesis.tex"]);
    // Nothing of the failures stands in the way.
    site.start().stop().unwrap();
}

#[test]
fn a_bucket_that_is_down_after_the_first_epoch_does_not_stop_the_next_ones() {
    let site = Site::new(tree(3, 20));
    let node = site.start();
    site.read_all();
    site.sim.set_faults(FaultRule::every(FaultKind::InternalError));
    site.read_all();
    node.stop().unwrap();
    let node = site.start();
    site.read_all();
    node.stop().unwrap();
    site.assert_nothing_left();
}

#[test]
fn a_mount_begins_while_the_bucket_is_down_if_its_listings_are_known() {
    let mut site = Site::new(tree(2, 5));
    site.set("metadata_ttl", "100ms");
    let node = site.start();
    site.read_all();
    node.stop().unwrap();
    site.sim.set_faults(FaultRule::every(FaultKind::InternalError));
    let node = site.start();
    site.read_all();
    node.stop().unwrap();
}

#[test]
fn an_unmount_from_outside_ends_the_node_and_a_shutdown_over_the_api_too() {
    let site = Site::new(tree(1, 5));
    let node = site.start();
    site.read_all();
    rustix::mount::unmount(site.mnt(), rustix::mount::UnmountFlags::empty()).unwrap();
    node.wait();
    node.stop().unwrap();
    site.assert_nothing_left();

    let node = site.start();
    let found = feedline_node::locate(&site.path("run"), &site.mnt().join("train/x")).unwrap();
    let (daemon, rest) = found.unwrap();
    assert_eq!((daemon.socket(), rest), (node.socket(), PathBuf::from("train/x")));
    assert!(daemon.is_alive());
    site.call(node.client().shutdown()).unwrap();
    node.serve_until_signal().unwrap();
    site.assert_nothing_left();
}

#[test]
fn open_files_are_served_to_their_end_when_a_node_is_stopped() {
    let site = Site::new(tree(1, 5));
    let key = "train/n0000/img_00003.jpg";
    let node = site.start();
    let file = fs::File::open(site.mnt().join(key)).unwrap();
    let expected = &site.content[key];
    let mut begin = vec![0; 100];
    file.read_exact_at(&mut begin, 0).unwrap();
    let stopping = std::thread::scope(|scope| {
        let stopping = scope.spawn(|| node.stop());
        site.until("detached", || !site.is_mounted());
        let mut whole = vec![0; expected.len()];
        file.read_exact_at(&mut whole, 0).unwrap();
        assert!(whole == *expected);
        drop(file);
        stopping.join().unwrap()
    });
    stopping.unwrap();
    site.assert_nothing_left();
}

/// The files of complete objects in the cache.
fn cached_files(site: &Site) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for fan_out in fs::read_dir(site.path("cache/objects")).unwrap() {
        let fan_out = fan_out.unwrap().path();
        files.extend(fs::read_dir(fan_out).unwrap().map(|entry| entry.unwrap().path()));
    }
    files
}

#[test]
fn a_flipped_bit_is_found_by_check_and_fetched_again() {
    let site = Site::new(tree(2, 10));
    let node = site.start();
    site.read_all();
    site.until("all on disk", || site.du(&node.client(), "").cached_files == 20);
    let victim = cached_files(&site).into_iter().next().unwrap();
    let mut bytes = fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&victim, &bytes).unwrap();
    let (mut corrupt, mut done) = (Vec::new(), None);
    site.call(async {
        let mut events = node.client().check(&below("")).await.unwrap();
        while let Some(event) = events.next().await.unwrap() {
            match event {
                CheckEvent::Corrupt { path, .. } => corrupt.push(path),
                CheckEvent::Done { corrupt, .. } => done = Some(corrupt),
                CheckEvent::Progress { .. } => {}
                event @ (CheckEvent::Node { .. } | CheckEvent::Unheard(_)) => {
                    panic!("there is no cluster: {event:?}")
                }
            }
        }
    });
    assert_eq!((corrupt.len(), done), (1, Some(1)), "{corrupt:?}");
    assert!(site.content.contains_key(&corrupt[0]));
    site.sim.reset_stats();
    fs::read(site.mnt().join(&corrupt[0])).unwrap();
    node.stop().unwrap();
    let node = site.start();
    site.read_all();
    assert_eq!(site.sim.stats().get, 1, "only what was dropped is fetched again");
    node.stop().unwrap();
}

#[test]
fn a_data_set_larger_than_the_cache_is_read_whole_and_the_quota_holds() {
    let mut content = Content::new();
    for index in 0..100 {
        let key = format!("set/{index:03}.bin");
        content.insert(key.clone(), bytes_of(&key, 1, 1 << 20));
    }
    let mut site = Site::new(content);
    let cache = format!("{}:64MiB", site.path("cache").display());
    site.set("cache", &cache);
    let node = site.start();
    for _ in 0..2 {
        site.read_all();
        let dir = site.status(&node.client()).cache.remove(0);
        assert!(dir.used_bytes <= dir.quota_bytes, "{dir:?}");
        assert!(20 < dir.objects, "{dir:?}");
    }
    node.stop().unwrap();
}

#[test]
fn the_admin_api_joins_tree_and_cache() {
    let site = Site::new(tree(2, 10));
    let node = site.start();
    let client = node.client();
    let all = site.content.values().map(|bytes| bytes.len() as u64).sum::<u64>();
    let usage = site.du(&client, "");
    assert_eq!((usage.files, usage.bytes, usage.cached_bytes), (20, all, 0));

    // A pin holds what is not cached yet, and what comes later.
    let pinned = site.call(client.pin(&below("train/n0000"))).unwrap();
    assert_eq!(pinned.pinned_files, 10);
    site.read_all();
    site.until("all on disk", || site.du(&client, "").cached_files == 20);
    let freed = site.call(client.free(&below("/train/"))).unwrap();
    assert_eq!((freed.files, freed.pinned_files), (10 - empty_in(&site, "n0001"), 10));
    let key = "train/n0000/img_00001.jpg";
    let entry = site.call(client.stat(&below(key))).unwrap();
    assert_eq!(
        (entry.size, entry.cached, entry.pinned),
        (site.content[key].len() as u64, true, true)
    );
    assert_eq!(entry.location.as_deref(), Some("s3://data/train/n0000/img_00001.jpg"));
    let error = site.call(client.unpin(&below(key))).unwrap_err().to_string();
    assert!(error.contains("is pinned by /train/n0000"), "{error}");

    let names = |query: PathQuery| {
        site.call(async {
            let mut items = client.ls(&query).await.unwrap();
            let mut names = Vec::new();
            while let Some(item) = items.next().await.unwrap() {
                names.push(item.path);
            }
            names
        })
    };
    let query = |path: &str, recursive, cached| PathQuery {
        path: path.into(),
        recursive,
        cached,
        node_only: false,
    };
    assert_eq!(names(query("train", false, false)), ["train/n0000", "train/n0001"]);
    assert_eq!(names(query("", true, false)).len(), 1 + 2 + 20);
    assert!(names(query("", true, true)).iter().all(|name| name.starts_with("train/n0000/")));
    assert_eq!(names(query(key, false, false)), [key]);
    let absent = site.call(client.stat(&below("train/x"))).unwrap_err().to_string();
    assert_eq!(absent, "/train/x: no such file or directory");

    // Pins outlive the node.
    node.stop().unwrap();
    let node = site.start();
    assert_eq!(site.du(&node.client(), "").pinned_files, 10);
    let unpinned = site.call(node.client().unpin(&below("train/n0000"))).unwrap();
    assert_eq!(unpinned.pinned_files, 10);
    assert_eq!(site.du(&node.client(), "").pinned_files, 0);
    site.call(node.client().free(&below(""))).unwrap();
    assert_eq!(site.status(&node.client()).cache[0].objects, 0);
    let settings = site.call(node.client().config()).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
    node.stop().unwrap();
}

#[test]
fn a_pin_goes_when_it_is_taken_back_though_its_path_is_gone_from_the_bucket() {
    let mut site = Site::new(tree(2, 3));
    site.set("metadata_ttl", "100ms");
    let node = site.start();
    let client = node.client();
    site.call(client.pin(&below("train/n0000"))).unwrap();
    let gone: Vec<_> = site.content.keys().filter(|key| key.contains("n0000")).cloned().collect();
    for key in &gone {
        site.sim.delete_object(BUCKET, key);
    }
    site.until("the folder is gone", || site.call(client.stat(&below("train/n0000"))).is_err());
    let unpinned = site.call(client.unpin(&below("train/n0000"))).unwrap();
    assert_eq!((unpinned.files, unpinned.pinned_files), (0, 0));
    assert_eq!(site.status(&client).cache[0].pinned, 0, "versions that are gone stay pinned");
    // What comes back under the path is not pinned, also not after a restart.
    for key in &gone {
        site.sim.put_object(BUCKET, key, &site.content[key]);
    }
    node.stop().unwrap();
    let node = site.start();
    site.until("the folder is back", || {
        site.call(node.client().du(&below(""))).unwrap().files == site.content.len() as u64
    });
    assert_eq!(site.du(&node.client(), "").pinned_files, 0);
    // A path that is not there and was never pinned is still an error.
    let absent = site.call(node.client().unpin(&below("train/x"))).unwrap_err().to_string();
    assert_eq!(absent, "/train/x: no such file or directory");
    node.stop().unwrap();
}

#[test]
fn what_is_unpinned_while_pins_are_applied_stays_unpinned() {
    let mut site = Site::new(tree(100, 2));
    // Pins are applied nearly all the time: a walk takes longer than the pause between two.
    site.set("metadata_ttl", "100ms");
    let slow = FaultRule::every(FaultKind::Stall).for_verb(Verb::List);
    site.sim.set_faults(FaultRule { stall_ms: 50, ..slow });
    let node = site.start();
    let client = node.client();
    let pinned = || site.status(&client).cache[0].pinned;
    for _ in 0..5 {
        site.call(client.pin(&below("train"))).unwrap();
        assert!(0 < pinned());
        site.call(client.unpin(&below("train"))).unwrap();
        let mut looks = 0;
        site.until("twenty looks", || {
            assert_eq!(pinned(), 0, "pinned again, and no list names it");
            looks += 1;
            looks == 20
        });
    }
    node.stop().unwrap();
}

fn empty_in(site: &Site, folder: &str) -> u64 {
    let in_folder = site.content.iter().filter(|(key, _)| key.contains(folder));
    in_folder.filter(|(_, bytes)| bytes.is_empty()).count() as u64
}

#[test]
fn several_buckets_stand_in_one_tree() {
    let mut site = Site::new(tree(1, 4));
    site.sim.create_bucket("other");
    site.sim.put_object("other", "v/deep/a.txt", b"from the other bucket");
    let file = site.path("feedline.toml");
    let endpoint = site.sim.endpoint();
    let text = format!(
        "mountpoint = \"{}\"\nendpoint = \"{endpoint}\"\nrun_dir = \"{}\"\ncache = \"{}:1GiB\"\n\
         [[mounts]]\npath = \"a/train\"\nurl = \"s3://data/train\"\n\
         [[mounts]]\npath = \"b\"\nurl = \"s3://other/v\"\n",
        site.mnt().display(),
        site.path("run").display(),
        site.path("cache").display()
    );
    fs::write(&file, text).unwrap();
    let inputs = feedline_node::config::Inputs { file: Some(file), ..Default::default() };
    let merged = feedline_node::config::Merged::load(&inputs).unwrap();
    let config = feedline_node::config::ResolvedConfig::resolve(&merged).unwrap();
    let environment =
        feedline_node::store::Environment::from_pairs(site.environment.iter().copied());
    let node = feedline_node::Node::start_with(config, &environment).unwrap();
    assert_eq!(fs::read(site.mnt().join("b/deep/a.txt")).unwrap(), b"from the other bucket");
    let key = "train/n0000/img_00002.jpg";
    assert_eq!(fs::read(site.mnt().join("a").join(key)).unwrap(), site.content[key]);
    let entry = site.call(node.client().stat(&below("b/deep/a.txt"))).unwrap();
    assert_eq!(entry.location.as_deref(), Some("s3://other/v/deep/a.txt"));
    node.stop().unwrap();
    site.content.clear();
    site.assert_nothing_left();
}
