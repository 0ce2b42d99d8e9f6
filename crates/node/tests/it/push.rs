//! Pushes into the page cache through a real mount: counted, bounded, and every byte right.

use std::fs::{self, File};
use std::path::Path;

use feedline_oracle::{dali_order, shard};

use crate::common::{Content, Site, tree};

const READERS: usize = 4;

/// One epoch in DALI's order, each reader its shard.
fn read_epoch(site: &Site, keys: &[&String]) {
    let order = dali_order(keys.len());
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let order = &order[shard(keys.len(), reader, READERS)];
            scope.spawn(move || {
                for &position in order {
                    let key = keys[position as usize];
                    let bytes = fs::read(site.mnt().join(key)).unwrap();
                    assert!(bytes == site.content[key], "{key} has other bytes");
                }
            });
        }
    });
}

/// Writes out and gives back the pages of every cached file.
fn drop_pages(site: &Site) {
    let objects = site.path("cache").join("objects");
    rustix::fs::syncfs(File::open(&objects).unwrap()).unwrap();
    give_back(&objects);
}

fn give_back(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            give_back(&entry.path());
            continue;
        }
        let file = File::open(entry.path()).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

/// A tree without empty files, which are nowhere on the disk.
fn content(folders: usize) -> Content {
    let mut content = tree(folders, 100);
    content.retain(|_, bytes| !bytes.is_empty());
    content
}

/// A node whose cache has all of the tree.
fn filled(folders: usize, settings: &[(&str, &str)]) -> (Site, feedline_node::Node) {
    let mut site = Site::new(content(folders));
    settings.iter().for_each(|(name, value)| {
        site.set(name, value);
    });
    let node = site.start();
    site.read_all();
    let all = site.content.len() as u64;
    site.until("all is here", || site.du(&node.client(), "").cached_files == all);
    (site, node)
}

#[test]
fn a_warm_epoch_from_the_disk_is_read_ahead_in_the_order_of_the_readers() {
    let (site, node) = filled(12, &[]);
    let keys: Vec<_> = site.content.keys().collect();
    let gets = site.sim.stats().get;
    let mut epochs = 0;
    // While all was in memory nobody watched: how soon it is noticed that pages are gone depends on
    // how fast the machine reads.
    site.until("pushes", || {
        drop_pages(&site);
        read_epoch(&site, &keys);
        epochs += 1;
        site.status(&node.client()).fill.pushed_files > 0
    });
    let status = site.status(&node.client());
    assert!(status.fill.pushed_bytes > 0);
    assert!(status.fill.pushed_files <= epochs * keys.len() as u64, "{:?}", status.fill);
    assert_eq!(site.sim.stats().get, gets, "the bucket is not asked");
    // And when all is in memory for good, nobody watches again.
    site.until("sleep", || {
        read_epoch(&site, &keys);
        let set = site.status(&node.client()).fill.data_sets.remove(0);
        set.push == "in memory" && !set.watched
    });
    node.stop().unwrap();
    site.assert_nothing_left();
}

#[test]
fn nothing_is_pushed_where_it_is_switched_off_or_would_be_in_memory_twice() {
    for settings in [("oracle", "off"), ("fill", "off"), ("open", "none")] {
        let (site, node) = filled(2, &[settings]);
        let keys: Vec<_> = site.content.keys().collect();
        for _ in 0..2 {
            drop_pages(&site);
            read_epoch(&site, &keys);
        }
        let fill = site.status(&node.client()).fill;
        assert_eq!((fill.pushed_files, &*fill.data_sets[0].push), (0, "off"), "{settings:?}");
        node.stop().unwrap();
    }
}
