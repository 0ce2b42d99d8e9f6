//! A namespace against a map of keys that is too simple to be wrong.
//!
//! Random puts, deletes, advances of time, restarts and preloads; after each, a random path is
//! listed, and the answer must be that of the map as it was at some moment within the last TTL.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use feedline_model::{Clock, Directory, EntryKind, SourceId, Tree, Version};
use feedline_namespace::{Listing, Namespace, NamespaceConfig};
use feedline_testkit::{FakeClock, MemoryLister};

use crate::common::{TTL, config, mounted, open};

type Keys = BTreeMap<String, Version>;
type Entries = BTreeMap<String, Option<Version>>;

/// Pseudo-random numbers (`SplitMix64`), the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).expect("below a usize")
    }

    fn path(&mut self, parts: &[&str]) -> String {
        let count = 1 + self.below(4);
        let parts: Vec<&str> = (0..count).map(|_| parts[self.below(parts.len())]).collect();
        parts.join("/")
    }
}

fn valid(part: &str) -> bool {
    !part.is_empty() && part != "." && part != ".." && !part.contains('\u{1}') && part.len() <= 255
}

/// What keys at `prefix` make.
fn entries(keys: &Keys, prefix: &str) -> Option<Entries> {
    let mut entries = Entries::new();
    let mut exists = false;
    for (key, version) in keys {
        let Some(rest) = key.strip_prefix(prefix) else { continue };
        exists = true;
        match rest.split_once('/') {
            Some((name, _)) if valid(name) => drop(entries.insert(name.to_owned(), None)),
            None if valid(rest) => {
                entries.entry(rest.to_owned()).or_insert_with(|| Some(version.clone()));
            }
            _ => {}
        }
    }
    exists.then_some(entries)
}

/// The tree of bucket `outer` at the root and the keys `p/` of `inner` at `a/m`.
fn expected([outer, inner]: &[Keys; 2], path: &str) -> Option<Entries> {
    if !path.is_empty() && !path.split('/').all(valid) {
        return None;
    }
    let prefix = |path: &str| if path.is_empty() { String::new() } else { format!("{path}/") };
    if let Some(rest) = format!("{path}/").strip_prefix("a/m/") {
        let found = entries(inner, &format!("p/{rest}"));
        return if rest.is_empty() { Some(found.unwrap_or_default()) } else { found };
    }
    let found = entries(outer, &prefix(path));
    match path {
        "" | "a" => {
            let mut found = found.unwrap_or_default();
            found.insert(if path.is_empty() { "a" } else { "m" }.to_owned(), None);
            Some(found)
        }
        _ => found,
    }
}

fn shown(directory: &Directory) -> Entries {
    let version = |kind: EntryKind<'_>| match kind {
        EntryKind::Directory => None,
        EntryKind::File(version) => Some(version.to_version()),
    };
    directory.iter().map(|entry| (entry.name.to_owned(), version(entry.kind))).collect()
}

const PARTS: [&str; 9] = ["a", "b", "a-b", "a0", "m", "c", "", ".", "x\u{1}"];
const PATHS: [&str; 6] = ["a", "b", "a-b", "a0", "m", "c"];

/// Both buckets as maps, and what they were at each moment that still counts.
struct World {
    listers: [Arc<MemoryLister>; 2],
    keys: [Keys; 2],
    history: Vec<(u64, [Keys; 2])>,
    clock: FakeClock,
}

impl World {
    fn change(&mut self, random: &mut Random) {
        let bucket = random.below(2);
        let mut key = random.path(&PARTS);
        if bucket == 1 {
            key = format!("p/{key}");
        }
        if random.below(8) == 0 {
            key.push('/');
        }
        let known: Vec<String> = self.keys[bucket].keys().cloned().collect();
        if random.below(2) == 0 && !known.is_empty() {
            let key = &known[random.below(known.len())];
            self.listers[bucket].remove(key);
            self.keys[bucket].remove(key);
        } else {
            let version = self.listers[bucket].insert(&key, 1);
            self.keys[bucket].insert(key, version);
        }
        // The state before this change was current until now, and this one from now on.
        self.history.push((self.clock.unix_ms(), self.keys.clone()));
    }

    /// True if the answer was right at some moment of the last TTL.
    fn allows(&self, path: &str, answer: Option<&Entries>) -> bool {
        let oldest = self.clock.unix_ms() - u64::try_from(TTL.as_millis()).expect("small");
        let last_before = self.history.iter().rposition(|(at, _)| *at < oldest).unwrap_or(0);
        let states = &self.history[last_before..];
        states.iter().any(|(_, keys)| expected(keys, path).as_ref() == answer)
    }
}

/// Lets background work come to rest, so that a listing never straddles a change.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

async fn run(seed: u64, listing: Listing, steps: usize) {
    let mut random = Random(seed);
    let listers = [MemoryLister::new(SourceId(1)), MemoryLister::new(SourceId(2))];
    let clock = FakeClock::new();
    let keys = [Keys::new(), Keys::new()];
    let history = vec![(clock.unix_ms(), keys.clone())];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let open = || -> Namespace {
        let mounts = vec![mounted("", &listers[0], ""), mounted("a/m", &listers[1], "p")];
        let state_file = Some(dir.path().join("state"));
        let config = NamespaceConfig { mounts, listing, state_file, ..config(&listers[0]) };
        open(config, &clock)
    };
    let mut namespace = open();
    let mut world = World { listers: listers.clone(), keys, history, clock: clock.clone() };
    let mut found = 0;
    for step in 0..steps {
        match random.below(20) {
            0..8 => world.change(&mut random),
            8..11 => clock.advance(Duration::from_millis(random.below(20_000) as u64)),
            11 => clock.advance(TTL),
            12 => {
                namespace.close().await;
                namespace = open();
            }
            13 => drop(namespace.preload(&random.path(&PATHS)).await.expect("answers")),
            14 => namespace.expire(&random.path(&PATHS)),
            _ => {}
        }
        let path = if random.below(5) == 0 { String::new() } else { random.path(&PATHS) };
        let answer = namespace.list(&path).await.expect("the store answers");
        let answer = answer.as_deref().map(shown);
        assert!(world.allows(&path, answer.as_ref()), "seed {seed} step {step} {path}: {answer:?}");
        found += usize::from(answer.is_some_and(|answer| 1 < answer.len()));
        if let Some(directory) = namespace.peek(&path) {
            assert!(0 < directory.fresh_ms(clock.unix_ms()), "peek is never outdated");
            assert!(world.allows(&path, Some(&shown(&directory))), "seed {seed} step {step}");
        }
        settle().await;
    }
    assert!(steps / 20 < found, "hardly a directory was there, so this showed little");
    // When all is outdated, every answer is of now.
    clock.advance(TTL);
    for _ in 0..200 {
        let path = random.path(&PATHS);
        let answer = namespace.list(&path).await.expect("the store answers");
        let right = expected(&world.keys, &path);
        assert_eq!(answer.as_deref().map(shown), right, "seed {seed} {path}");
    }
}

#[tokio::test]
async fn a_lazy_tree_never_answers_what_was_not_so_within_the_ttl() {
    for seed in 0..12 {
        run(seed, Listing::Lazy, 400).await;
    }
}

#[tokio::test]
async fn an_eager_tree_never_answers_what_was_not_so_within_the_ttl() {
    for seed in 100..108 {
        run(seed, Listing::Eager, 300).await;
    }
}
