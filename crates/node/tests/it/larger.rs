//! A data set of twice the cache, through a real mount.

use std::fs;

use crate::common::{Content, Site, bytes_of};

const FILES: usize = 1024;
const SIZE: usize = 128 << 10;
const QUOTA: &str = "64MiB";

/// The keys in another order every time (a linear congruential generator and Fisher-Yates).
fn shuffled(content: &Content, state: &mut u64) -> Vec<String> {
    let mut keys: Vec<_> = content.keys().cloned().collect();
    for at in (1..keys.len()).rev() {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
        keys.swap(at, (*state >> 33) as usize % (at + 1));
    }
    keys
}

#[test]
fn an_epoch_of_twice_the_cache_gets_the_cache_s_share_from_it() {
    let key = |file: usize| format!("train/n{:02}/{file:05}.jpg", file % 16);
    let contents = (0..FILES).map(|file| (key(file), bytes_of(&key(file), 1, SIZE)));
    let mut site = Site::new(contents.collect());
    let cache = format!("{}:{QUOTA}", site.path("cache").display());
    site.set("cache", &cache);
    let node = site.start();
    let mut state = 11;
    let mut gets = Vec::new();
    for epoch in 0..4 {
        site.sim.reset_stats();
        for key in shuffled(&site.content, &mut state) {
            let read = fs::read(site.mnt().join(&key)).unwrap();
            assert!(read == site.content[&key], "epoch {epoch}: {key} has other bytes");
        }
        gets.push(site.sim.stats().get);
    }
    // No more than without a cache, but for a few: what was read before its folder was known as part
    // of a data set may be fetched ahead once more, if its room went to others meanwhile. How many
    // depends on who was first. And half of the data is half of the reads, less what the directories
    // and the index take of so small a quota.
    assert!(gets.iter().all(|gets| *gets <= (FILES + FILES / 8) as u64), "{gets:?}");
    let warm: u64 = gets[1..].iter().sum();
    let hit_rate = 1.0 - warm as f64 / (3 * FILES) as f64;
    assert!(hit_rate >= 0.95 * 0.5, "{hit_rate}: {gets:?}");
    node.stop().unwrap();
    site.assert_nothing_left();
}
