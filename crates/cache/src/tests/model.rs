//! Random operations against what is too simple to be wrong: a list of objects and their bytes.

use bytes::Bytes;
use feedline_model::page::PAGE_BYTES;
use feedline_model::{BlockSource as _, Object, ObjectIndex as _, Priority};
use feedline_testkit::object_bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::support::{Bench, config_at, copy_as_killed, du, eventually, file_of};

struct World {
    objects: Vec<(Object, Bytes)>,
}

impl World {
    fn add(&mut self, bench: &Bench, random: &mut StdRng) {
        // Few keys, so that versions replace each other; a quarter of the objects are large.
        let key = format!("k/{}", random.random_range(0..40));
        let size = match random.random_range(0..16) {
            0 => PAGE_BYTES,
            1 => PAGE_BYTES + 1,
            2 | 3 => random.random_range(PAGE_BYTES..3 * PAGE_BYTES),
            _ => random.random_range(1..200_000),
        };
        let bytes = object_bytes(random.random(), size);
        self.objects.retain(|(object, _)| *object.key != *key);
        let object = bench.source.insert(&key, bytes.clone());
        self.objects.push((object, bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_equals_its_version_whatever_happens() {
    for seed in 0..4 {
        run(seed).await;
    }
}

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let bench = Bench::new();
    let quota = 24 << 20;
    let mut dir = bench.dir();
    let mut cache = bench.open(quota);
    let mut world = World { objects: Vec::new() };
    let mut is_copy = false;
    for step in 0..400 {
        if world.objects.len() < 5 {
            world.add(&bench, &mut random);
        }
        let chosen = random.random_range(0..world.objects.len());
        let (object, bytes) = world.objects[chosen].clone();
        let id = object.id();
        match random.random_range(0..100) {
            0..60 => {
                let size = object.version.size;
                let start = random.random_range(0..size);
                let end = random.random_range(start..=size);
                let read = cache.read(&object, start..end, Priority::Demand).await.unwrap();
                let expected = bytes.slice(start as usize..end as usize);
                assert!(read == expected, "seed {seed} step {step}: {object:?} {start}..{end}");
            }
            60..75 => {
                if let Some(cached) = cache.open(&object) {
                    let mut content = Vec::new();
                    std::io::Read::read_to_end(&mut &*cached.file, &mut content).unwrap();
                    assert!(content == bytes, "seed {seed} step {step}: opened {object:?}");
                }
            }
            75..85 => world.add(&bench, &mut random),
            85..88 => {
                cache.pin(vec![id]).await;
            }
            88..91 => {
                cache.unpin(vec![id]).await;
            }
            91..94 => {
                cache.free(vec![id], random.random()).await;
            }
            94..96 => {
                cache.check(vec![id], |_| ()).await;
            }
            96..98 => {
                cache.close().await;
                drop(cache);
                cache = bench.open_config(config_at(&dir, quota));
            }
            _ => {
                let copy = bench.root.path().join(format!("killed-{step}"));
                copy_as_killed(&dir, &copy);
                damage(&copy, &world, &mut random);
                is_copy = true;
                drop(cache);
                dir = copy;
                cache = bench.open_config(config_at(&dir, quota));
            }
        }
        if step % 50 == 0 {
            // A folder copied while files come and go has some twice, until they are swept.
            if std::mem::take(&mut is_copy) {
                eventually("what was copied twice to be swept", || du(&dir) <= quota).await;
            }
            assert!(du(&dir) <= quota, "seed {seed} step {step}: over the quota");
        }
    }
    cache.close().await;
}

/// What a crash may do to one file: cut it short, zero or flip a part, lose it.
fn damage(dir: &std::path::Path, world: &World, random: &mut StdRng) {
    let chosen = random.random_range(0..world.objects.len());
    let path = file_of(dir, &world.objects[chosen].0);
    let Ok(mut bytes) = std::fs::read(&path) else { return };
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..4) {
        0 => bytes.truncate(at),
        1 => bytes[at..].fill(0),
        2 => bytes[at] ^= 1 << random.random_range(0..8),
        _ => {
            std::fs::remove_file(path).unwrap();
            return;
        }
    }
    std::fs::write(path, bytes).unwrap();
}
