//! Fill through a real mount: every byte right, every object fetched once, whatever the loader and
//! the bucket do.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use feedline_s3sim::{FaultKind, FaultRule, Verb};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::common::{Content, Site, tree};

fn not_empty(content: &Content) -> u64 {
    content.values().filter(|bytes| !bytes.is_empty()).count() as u64
}

/// Keys in a random order.
fn shuffled(content: &Content, seed: u64) -> Vec<&String> {
    let mut keys: Vec<_> = content.keys().collect();
    keys.shuffle(&mut StdRng::seed_from_u64(seed));
    keys
}

/// Reads these files whole from several threads, each the next one, and compares every byte.
fn read_from(site: &Site, keys: &[&String], threads: usize) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let bytes = fs::read(site.mnt().join(key)).unwrap();
                    assert!(bytes == site.content[*key], "{key} has other bytes");
                }
            });
        }
    });
}

/// Lists every folder, as loaders do before they read.
fn list_all(site: &Site) {
    for class in site.mnt().join("train").read_dir().unwrap() {
        assert!(class.unwrap().path().read_dir().unwrap().next().is_some());
    }
}

#[test]
fn a_part_of_a_scan_brings_the_rest_and_each_object_is_fetched_once() {
    for open in ["passthrough", "none"] {
        let mut site = Site::new(tree(10, 40));
        site.set("open", open);
        let node = site.start();
        list_all(&site);
        let order = shuffled(&site.content, 1);
        read_from(&site, &order[..100], 4);
        let all = site.content.len() as u64;
        site.until("the rest is here", || site.du(&node.client(), "").cached_files == all);
        read_from(&site, &order, 4);
        assert_eq!(site.sim.stats().get, not_empty(&site.content), "{open}");
        let status = site.status(&node.client());
        let set = &status.fill.data_sets[0];
        assert_eq!((&*set.path, set.files, &*set.state), ("train", all, "complete"), "{open}");
        assert!(100 < status.fill.files, "{open}: {}", status.fill.files);
        node.stop().unwrap();
        site.assert_nothing_left();
    }
}

#[test]
fn switched_off_nothing_is_fetched_that_nobody_asked_for() {
    let mut site = Site::new(tree(10, 40));
    site.set("fill", "off");
    let node = site.start();
    list_all(&site);
    let order = shuffled(&site.content, 2);
    read_from(&site, &order[..100], 4);
    let asked = order[..100].iter().filter(|key| !site.content[**key].is_empty()).count();
    assert_eq!(site.sim.stats().get, asked as u64);
    node.stop().unwrap();
}

#[test]
fn fill_and_a_storm_of_503s_cost_time_and_no_read() {
    let mut site = Site::new(tree(10, 40));
    site.set("retry_budget", "20s");
    let node = site.start();
    list_all(&site);
    site.sim.set_faults(FaultRule::probability(FaultKind::SlowDown, 0.4).for_verb(Verb::Get));
    read_from(&site, &shuffled(&site.content, 3), 4);
    let status = site.status(&node.client());
    assert!(0 < status.retries["503"] && 0 < status.fill.files, "{:?}", status.retries);
    site.until("no fetch is under way", || site.status(&node.client()).requests_in_flight == 0);
    // One success for each object, and each refusal was one request.
    let refused = site.status(&node.client()).retries["503"];
    let stats = site.sim.stats();
    assert_eq!(
        stats.by_status.get(&200).copied().unwrap_or(0) - stats.list,
        not_empty(&site.content)
    );
    assert!(refused <= stats.get, "{refused} of {}", stats.get);
    node.stop().unwrap();
}

#[test]
fn a_hostile_loader_sees_right_bytes_and_fetches_nothing_twice() {
    let site = Site::new(tree(6, 40));
    let node = site.start();
    list_all(&site);
    let keys: Vec<_> = site.content.keys().collect();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (site, keys) = (&site, &keys);
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed);
                let mut held = Vec::new();
                for _ in 0..400 {
                    let key = keys[rng.random_range(0..keys.len())];
                    let expected = &site.content[key];
                    let file = File::open(site.mnt().join(key)).unwrap();
                    match rng.random_range(0..4) {
                        // Opened and never read, some for long.
                        0 => held.push(file),
                        // A part from the middle.
                        1 if expected.len() > 10 => {
                            let from = rng.random_range(0..expected.len() - 1);
                            let to = rng.random_range(from + 1..=expected.len());
                            let mut part = vec![0; to - from];
                            file.read_exact_at(&mut part, from as u64).unwrap();
                            assert!(part == expected[from..to], "{key} {from}..{to}");
                        }
                        // Backwards.
                        2 => {
                            for at in
                                (0..expected.len()).step_by(4_096).collect::<Vec<_>>().iter().rev()
                            {
                                let mut part = vec![0; (expected.len() - at).min(4_096)];
                                file.read_exact_at(&mut part, *at as u64).unwrap();
                                assert!(part == expected[*at..*at + part.len()], "{key} at {at}");
                            }
                        }
                        _ => assert!(fs::read(site.mnt().join(key)).unwrap() == *expected, "{key}"),
                    }
                    if held.len() > 20 {
                        held.clear();
                    }
                }
            });
        }
    });
    assert!(site.sim.stats().get <= not_empty(&site.content), "{}", site.sim.stats().get);
    node.stop().unwrap();
    site.assert_nothing_left();
}

#[test]
fn a_look_at_a_few_files_of_a_large_folder_costs_a_few_requests() {
    let site = Site::new(tree(1, 3_000));
    let node = site.start();
    list_all(&site);
    let keys: Vec<_> = site.content.keys().collect();
    for key in &keys[..7] {
        assert!(fs::read(site.mnt().join(key)).unwrap() == site.content[*key]);
    }
    assert!(site.status(&node.client()).fill.data_sets.is_empty());
    assert!(site.sim.stats().get <= 7);
    node.stop().unwrap();
}
