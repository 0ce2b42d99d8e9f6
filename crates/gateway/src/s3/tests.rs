//! Pages from memory against pages of the bucket, over keys made to be confused.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use feedline_model::{
    Directory, DirectoryBuilder, ListRequest, Lister as _, ReadError, SourceId, Tree, Version,
};
use feedline_testkit::{FakeClock, MemoryLister};
use parking_lot::Mutex;

use super::S3Mount;
use super::find::Bucket;
use super::listing::{self, Ask, Page};
use super::memory;

const SOURCE: SourceId = SourceId(1);

/// Directories that are known, and those that were said to be outdated.
#[derive(Debug, Default)]
struct Known {
    directories: HashMap<String, Arc<Directory>>,
    expired: Mutex<Vec<String>>,
}

#[async_trait]
impl Tree for Known {
    fn peek(&self, path: &str) -> Option<Arc<Directory>> {
        self.directories.get(path).cloned()
    }

    async fn list(&self, path: &str) -> Result<Option<Arc<Directory>>, ReadError> {
        Ok(self.peek(path))
    }

    fn expire(&self, path: &str) {
        self.expired.lock().push(path.to_owned());
    }
}

/// All directories of these keys below `prefix`, as a tree under `top` shows them.
fn tree_of(keys: &[(String, Version)], prefix: &str, top: &str) -> Known {
    let mut builders: HashMap<String, (String, DirectoryBuilder)> = HashMap::new();
    for (key, version) in keys {
        let Some(rest) = key.strip_prefix(prefix) else { continue };
        let (mut path, mut key_prefix) = (top.to_owned(), prefix.to_owned());
        let mut parts = rest.split('/').peekable();
        while let Some(part) = parts.next() {
            let (_, builder) = builders
                .entry(path.clone())
                .or_insert_with(|| (key_prefix.clone(), DirectoryBuilder::new()));
            if parts.peek().is_some() {
                builder.directory(part);
            } else {
                builder.file(part, version.clone());
            }
            key_prefix = format!("{key_prefix}{part}/");
            path = super::find::join(&path, part);
        }
    }
    let directories = builders.into_iter().map(|(path, (key_prefix, builder))| {
        let origin = Some((SOURCE, key_prefix.as_str().into()));
        let (mut directory, shadowed) = builder.build(&path, origin, 0, 1);
        assert!(shadowed.is_empty(), "{shadowed:?}");
        directory.is_whole = true;
        (path, Arc::new(directory))
    });
    Known { directories: directories.collect(), ..Known::default() }
}

/// Numbers that look random, the same on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % end
    }

    fn text(&mut self, len_max: usize) -> String {
        // Before and after the slash in the order of bytes.
        let letters = ['a', 'b', '-', '.', '0', ' ', 'ä'];
        let len = 1 + self.below(len_max);
        let text: String = (0..len).map(|_| letters[self.below(letters.len())]).collect();
        if [".", ".."].contains(&text.as_str()) { "a".into() } else { text }
    }
}

/// Keys of which none is a folder of another.
fn keys(dice: &mut Dice) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for _ in 0..40 {
        let parts = 1 + dice.below(4);
        let key = (0..parts).map(|_| dice.text(2)).collect::<Vec<_>>().join("/");
        let is_above = |other: &String| {
            other.starts_with(&format!("{key}/")) || key.starts_with(&format!("{other}/"))
        };
        if !keys.iter().any(is_above) {
            keys.insert(key);
        }
    }
    keys
}

fn bucket(lister: &Arc<MemoryLister>, mounts: &[(&str, &str)]) -> Bucket {
    let mount = |(prefix, path): &(&str, &str)| S3Mount {
        bucket: "b".into(),
        lister: Arc::clone(lister) as _,
        prefix: (*prefix).into(),
        path: (*path).into(),
    };
    Bucket::of_mounts(mounts.iter().map(mount).collect()).remove(0)
}

/// Follows a listing to its end, each page from memory and from the bucket.
async fn follow(bucket: &Bucket, tree: &Known, mut ask: Ask) -> Vec<String> {
    let nothing = Known::default();
    let mut names = Vec::new();
    loop {
        let known = memory::page(bucket, tree, &ask);
        let listed = listing::page(bucket, &nothing, &FakeClock::new(), &ask).await.unwrap();
        if let Some(known) = known {
            assert_eq!(known, listed, "{ask:?}");
        } else {
            // Only what does not exist is unknown here.
            assert_eq!(listed, Page::default(), "{ask:?}");
        }
        names.extend(listed.items.iter().map(|item| item.name().to_owned()));
        assert!(names.is_sorted(), "{names:?}");
        if !listed.is_truncated {
            return names;
        }
        ask.after = names.last().unwrap().clone();
    }
}

#[tokio::test]
async fn a_page_from_memory_is_the_page_of_the_bucket() {
    for seed in 0..150 {
        let mut dice = Dice(seed);
        let lister = MemoryLister::with_page(SOURCE, 1 + dice.below(9));
        let keys = keys(&mut dice);
        let versions: Vec<_> =
            keys.iter().map(|key| (key.clone(), lister.insert(key, 1))).collect();
        let (bucket, tree) = (bucket(&lister, &[("", "")]), tree_of(&versions, "", ""));
        for _ in 0..6 {
            let some = keys.iter().nth(dice.below(keys.len())).unwrap();
            let cut = |text: &str, dice: &mut Dice| {
                let ends: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
                text[..ends[dice.below(ends.len())]].to_owned()
            };
            let prefix = cut(some, &mut dice);
            let after = if dice.below(2) == 0 { cut(some, &mut dice) } else { String::new() };
            let (is_folded, max) = (dice.below(2) == 0, 1 + dice.below(5));
            let found = follow(
                &bucket,
                &tree,
                Ask { prefix: prefix.clone(), is_folded, after: after.clone(), max },
            )
            .await;
            let fold = |key: &String| match key[prefix.len()..].find('/').filter(|_| is_folded) {
                Some(slash) => key[..=prefix.len() + slash].to_owned(),
                None => key.clone(),
            };
            let wanted = keys.iter().filter(|key| key.starts_with(&prefix) && **key > after);
            // A folder that was the last name is done; `after` is never one here that ends in a slash
            // unless it was cut so.
            let wanted: BTreeSet<_> = wanted.map(fold).filter(|name| *name != after).collect();
            assert_eq!(
                found,
                wanted.into_iter().collect::<Vec<_>>(),
                "{seed} {prefix:?} {after:?}"
            );
        }
    }
}

#[tokio::test]
async fn only_what_is_below_a_mounted_prefix_is_listed() {
    let lister = MemoryLister::new(SOURCE);
    for key in ["a/1", "a/b/2", "a/b/c/3", "a/d/4", "e/5", "f"] {
        lister.insert(key, 1);
    }
    let bucket = bucket(&lister, &[("e/", "five"), ("a/b/c/", "three"), ("a/b/", "two")]);
    let tree = Known::default();
    let list = async |prefix: &str, is_folded| {
        let ask = Ask { prefix: prefix.into(), is_folded, after: String::new(), max: 1000 };
        let page = listing::page(&bucket, &tree, &FakeClock::new(), &ask).await.unwrap();
        page.items.iter().map(|item| item.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("", false).await, ["a/b/2", "a/b/c/3", "e/5"]);
    assert_eq!(list("", true).await, ["a/", "e/"]);
    assert_eq!(list("a/", true).await, ["a/b/"]);
    assert_eq!(list("a/b/", true).await, ["a/b/2", "a/b/c/"]);
    assert_eq!(list("a/d/", true).await, Vec::<String>::new());
    assert_eq!(list("f", false).await, Vec::<String>::new());
    assert!(bucket.scope_of("a/d/4").is_none() && bucket.scope_of("a/b/c/3").is_some());
}

#[tokio::test]
async fn a_listing_of_the_bucket_marks_folders_that_the_tree_knows_otherwise() {
    let lister = MemoryLister::new(SOURCE);
    let versions: Vec<_> = ["same/1", "changed/1", "more/1", "other"]
        .map(|key| (key.to_owned(), lister.insert(key, 1)))
        .into();
    let mut tree = tree_of(&versions, "", "");
    // So that the bucket is asked.
    tree.directories.remove("");
    lister.insert("changed/1", 2);
    lister.insert("more/2", 1);
    let ask = Ask { prefix: String::new(), is_folded: false, after: String::new(), max: 1000 };
    listing::page(&bucket(&lister, &[("", "")]), &tree, &FakeClock::new(), &ask).await.unwrap();
    assert_eq!(*tree.expired.lock(), ["changed", "more"]);
}

#[tokio::test]
async fn a_folder_that_hides_keys_is_listed_by_the_bucket() {
    let lister = MemoryLister::new(SOURCE);
    let versions: Vec<_> = ["d/1", "d/2"].map(|key| (key.to_owned(), lister.insert(key, 1))).into();
    lister.insert("d//hidden", 1);
    let mut tree = tree_of(&versions, "", "");
    let mut hiding = (*tree.directories["d"]).clone();
    hiding.is_whole = false;
    tree.directories.insert("d".into(), Arc::new(hiding));
    let ask = Ask { prefix: "d/".into(), is_folded: false, after: String::new(), max: 1000 };
    let page =
        listing::page(&bucket(&lister, &[("", "")]), &tree, &FakeClock::new(), &ask).await.unwrap();
    assert_eq!(page.items.len(), 3);
    // The lister itself begins after a name.
    let request = ListRequest { after: Some("d/1".into()), ..ListRequest::default() };
    assert_eq!(lister.list(&request).await.unwrap().objects.len(), 1);
}
