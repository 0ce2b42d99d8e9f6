//! The contract of the read chain as tests that any implementation runs.
//!
//! A suite panics at the first broken promise and names it. Every store, every wrapper and the
//! cache run [`block_source`]; every lister runs [`lister`].

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::page::PAGE_BYTES;
use feedline_model::{BlockSource, ListRequest, Lister, Object, Priority, ReadError};
use futures::FutureExt as _;

use crate::bytes_of::object_bytes;
use crate::lister::MemoryLister;
use crate::memory::MemorySource;

/// Puts objects where the source under test reads them.
#[async_trait]
pub trait ObjectFixture: Send + Sync {
    /// Stores `bytes` under `key`, replacing what was there; returns the version as listed.
    async fn put(&self, key: &str, bytes: Bytes) -> Object;

    /// Removes `key`.
    async fn remove(&self, key: &str);
}

#[async_trait]
impl ObjectFixture for Arc<MemorySource> {
    async fn put(&self, key: &str, bytes: Bytes) -> Object {
        self.insert(key, bytes)
    }

    async fn remove(&self, key: &str) {
        MemorySource::remove(self, key);
    }
}

/// Puts keys where the lister under test finds them.
#[async_trait]
pub trait KeyFixture: Send + Sync {
    /// Stores an object of `size` bytes under `key`.
    async fn put_key(&self, key: &str, size: u64);

    /// Removes `key`.
    async fn remove_key(&self, key: &str);
}

#[async_trait]
impl KeyFixture for Arc<MemoryLister> {
    async fn put_key(&self, key: &str, size: u64) {
        self.insert(key, size);
    }

    async fn remove_key(&self, key: &str) {
        MemoryLister::remove(self, key);
    }
}

async fn expect_bytes(source: &dyn BlockSource, object: &Object, range: Range<u64>, all: &Bytes) {
    let expected = all.slice(range.start as usize..range.end as usize);
    for priority in [Priority::Demand, Priority::Fill] {
        let read = source.read(object, range.clone(), priority).await;
        let read = read.unwrap_or_else(|e| panic!("{} {range:?} {priority:?}: {e}", object.key));
        assert_eq!(read.len(), expected.len(), "{} {range:?}: wrong length", object.key);
        assert!(read == expected, "{} {range:?}: wrong bytes", object.key);
    }
}

/// Checks everything that `BlockSource` promises, through a few objects under `conformance/`.
///
/// # Panics
///
/// If `source` breaks the contract; the message names object and range.
pub async fn block_source(source: Arc<dyn BlockSource>, fixture: &dyn ObjectFixture) {
    exact_ranges(&*source, fixture).await;
    many_readers(&source, fixture).await;
    a_dropped_read_cancels_nobody(&source, fixture).await;
    versions_are_kept_apart(&*source, fixture).await;
}

async fn exact_ranges(source: &dyn BlockSource, fixture: &dyn ObjectFixture) {
    let sizes = [1, 100, 4096, 110_000, PAGE_BYTES, PAGE_BYTES + 1, 2 * PAGE_BYTES + 12_345];
    for (seed, size) in sizes.into_iter().enumerate() {
        let all = object_bytes(seed as u64, size);
        let object = fixture.put(&format!("conformance/size-{size}"), all.clone()).await;
        assert_eq!(object.version.size, size, "the fixture reports another size");
        let middle = size / 2;
        let mut ranges = vec![0..1, size - 1..size, 0..size, middle..middle, middle..size];
        ranges.extend([size / 3..(size / 3 + 5000).min(size), 0..0, size..size]);
        if size > PAGE_BYTES {
            ranges.extend([PAGE_BYTES - 1..PAGE_BYTES + 1, PAGE_BYTES..size, 1..size - 1]);
        }
        for range in ranges {
            expect_bytes(source, &object, range, &all).await;
        }
    }
    let empty = fixture.put("conformance/empty", Bytes::new()).await;
    expect_bytes(source, &empty, 0..0, &Bytes::new()).await;
    for key in ["conformance/with space", "conformance/plus+percent%41", "conformance/ümläut/日本"]
    {
        let all = object_bytes(99, 777);
        let object = fixture.put(key, all.clone()).await;
        expect_bytes(source, &object, 0..777, &all).await;
        expect_bytes(source, &object, 5..6, &all).await;
    }
}

async fn many_readers(source: &Arc<dyn BlockSource>, fixture: &dyn ObjectFixture) {
    let size = PAGE_BYTES + 200_000;
    let all = object_bytes(21, size);
    let object = fixture.put("conformance/shared", all.clone()).await;
    let reads = (0..64_u64).map(|reader| {
        let (object, all) = (object.clone(), all.clone());
        async move {
            let start = reader * (size / 64);
            let range = start..(start + 70_000).min(size);
            expect_bytes(&**source, &object, range, &all).await;
        }
    });
    futures::future::join_all(reads).await;
}

async fn a_dropped_read_cancels_nobody(source: &Arc<dyn BlockSource>, fixture: &dyn ObjectFixture) {
    for round in 0..8_u64 {
        let all = object_bytes(round, 300_000);
        let object = fixture.put(&format!("conformance/dropped-{round}"), all.clone()).await;
        let mut dropped = source.read(&object, 0..300_000, Priority::Demand);
        let mut kept = source.read(&object, 0..300_000, Priority::Demand);
        // Started and left at different depths, before and after somebody else joined.
        for _ in 0..round {
            if dropped.as_mut().now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let first = kept.as_mut().now_or_never();
        drop(dropped);
        let read = match first {
            Some(read) => read,
            None => kept.await,
        };
        let read = read.unwrap_or_else(|e| panic!("a dropped read failed another: {e}"));
        assert!(read == all, "a dropped read spoiled another");
    }
}

async fn versions_are_kept_apart(source: &dyn BlockSource, fixture: &dyn ObjectFixture) {
    let key = "conformance/versions";
    let old = fixture.put(key, object_bytes(1, 5000)).await;
    let new_bytes = object_bytes(2, 6000);
    let new = fixture.put(key, new_bytes.clone()).await;
    assert_ne!(old.id(), new.id(), "the fixture gives both versions one id");
    for range in [0..5000, 10..20] {
        match source.read(&old, range, Priority::Demand).await {
            Err(ReadError::Changed { .. }) => {}
            other => panic!("a read of a replaced version gave {other:?}, not Changed"),
        }
    }
    expect_bytes(source, &new, 0..6000, &new_bytes).await;

    let gone = fixture.put("conformance/gone", object_bytes(3, 5000)).await;
    fixture.remove("conformance/gone").await;
    match source.read(&gone, 0..5000, Priority::Demand).await {
        Err(ReadError::NotFound { .. }) => {}
        other => panic!("a read of an absent object gave {other:?}, not NotFound"),
    }
}

/// Lists everything that `request` (without a token) gives, page after page: keys and prefixes.
///
/// # Panics
///
/// If a page cannot be had, or the pages do not end.
pub async fn list_all(
    lister: &dyn Lister,
    prefix: &str,
    delimiter: bool,
) -> (Vec<(String, u64)>, Vec<String>) {
    list_after(lister, prefix, delimiter, None).await
}

/// The same, begun after a name: what the store lists nevertheless is left out.
async fn list_after(
    lister: &dyn Lister,
    prefix: &str,
    delimiter: bool,
    after: Option<&str>,
) -> (Vec<(String, u64)>, Vec<String>) {
    let begin = after.map(str::to_owned);
    let mut request =
        ListRequest { prefix: prefix.to_owned(), delimiter, after: begin, token: None };
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    for number in 0.. {
        assert!(number < 10_000, "list {prefix:?}: the pages do not end");
        let page = lister.list(&request).await.unwrap_or_else(|e| panic!("list {prefix:?}: {e}"));
        keys.extend(page.objects.into_iter().map(|object| (object.key, object.version.size)));
        prefixes.extend(page.prefixes);
        match page.next {
            Some(token) => request.token = Some(token),
            None => break,
        }
    }
    if let Some(after) = after {
        keys.retain(|(key, _)| after < key.as_str());
        prefixes.retain(|folded| after < folded.as_str() || after.starts_with(folded.as_str()));
        prefixes.retain(|folded| folded != after);
    }
    (keys, prefixes)
}

/// Checks everything that `Lister` promises, through about 1,300 keys under `conformance-list/`.
///
/// # Panics
///
/// If `lister` breaks the contract; the message names the prefix.
pub async fn lister(lister: &dyn Lister, fixture: &dyn KeyFixture) {
    let root = "conformance-list/";
    let mut keys: BTreeSet<(String, u64)> = BTreeSet::new();
    for (index, name) in
        ["a.txt", "a/x", "a/y/z", "a0", "b b/c+d", "ö/%41", "~t", "Z"].into_iter().enumerate()
    {
        keys.insert((format!("{root}{name}"), index as u64));
    }
    // More than one page of the largest size any store gives, with and without folding.
    keys.extend((0..1100).map(|i| (format!("{root}many/{i:05}"), i % 7)));
    keys.extend((0..120).map(|i| (format!("{root}deep/{i:03}/leaf"), 1)));
    for (key, size) in &keys {
        fixture.put_key(key, *size).await;
    }

    for delimiter in [false, true] {
        for name in ["", "many/", "deep/", "a", "a/", "b b/", "ö/", "absent/", "many/0000"] {
            let prefix = format!("{root}{name}");
            let (expected, folded) = model(&keys, &prefix, delimiter);
            let (mut found, mut prefixes) = list_all(lister, &prefix, delimiter).await;
            found.sort();
            prefixes.sort();
            assert_eq!(found, expected, "objects of {prefix:?}, delimiter {delimiter}");
            assert_eq!(prefixes, folded, "prefixes of {prefix:?}, delimiter {delimiter}");
        }
    }
    let names = ["", "Z", "a", "a/", "a/x", "a/y", "deep/060/", "many/00999", "~t", "~u"];
    for (name, delimiter) in names.into_iter().flat_map(|name| [(name, false), (name, true)]) {
        let after = format!("{root}{name}");
        let later = keys.iter().filter(|(key, _)| after < *key).cloned().collect();
        let (expected, mut folded) = model(&later, root, delimiter);
        folded.retain(|folded| *folded != after);
        let (mut found, mut prefixes) = list_after(lister, root, delimiter, Some(&after)).await;
        found.sort();
        prefixes.sort();
        assert_eq!(found, expected, "objects after {after:?}, delimiter {delimiter}");
        assert_eq!(prefixes, folded, "prefixes after {after:?}, delimiter {delimiter}");
    }
    changes_are_seen(lister, fixture, root).await;
}

/// What a listing must give, in the plainest way.
fn model(
    keys: &BTreeSet<(String, u64)>,
    prefix: &str,
    delimiter: bool,
) -> (Vec<(String, u64)>, Vec<String>) {
    let (mut objects, mut folded) = (Vec::new(), BTreeSet::new());
    for (key, size) in keys {
        let Some(rest) = key.strip_prefix(prefix) else { continue };
        match rest.find('/').filter(|_| delimiter) {
            Some(at) => drop(folded.insert(format!("{prefix}{}", &rest[..=at]))),
            None => objects.push((key.clone(), *size)),
        }
    }
    (objects, folded.into_iter().collect())
}

async fn changes_are_seen(lister: &dyn Lister, fixture: &dyn KeyFixture, root: &str) {
    let request = |token| ListRequest {
        prefix: format!("{root}change"),
        delimiter: false,
        after: None,
        token,
    };
    fixture.put_key(&format!("{root}change"), 10).await;
    let first = lister.list(&request(None)).await.expect("lists");
    fixture.put_key(&format!("{root}change"), 11).await;
    let second = lister.list(&request(None)).await.expect("lists");
    assert_eq!(first.objects.len(), 1);
    assert_eq!(second.objects.len(), 1);
    assert_ne!(first.objects[0].version, second.objects[0].version, "a change shows no version");
    fixture.remove_key(&format!("{root}change")).await;
    let third = lister.list(&request(None)).await.expect("an absent prefix is no error");
    assert!(third.objects.is_empty(), "a removed key is still listed");
}

#[cfg(test)]
mod tests {
    use super::*;
    use feedline_model::SourceId;

    #[tokio::test]
    async fn memory_source_conforms() {
        let source = MemorySource::new(SourceId(1));
        block_source(source.clone(), &source).await;
    }

    #[tokio::test]
    async fn memory_lister_conforms_with_pages_of_any_size() {
        for page in [1, 2, 7, 1000] {
            let keys = MemoryLister::with_page(SourceId(1), page);
            lister(&*keys, &keys).await;
        }
    }

    #[tokio::test]
    #[should_panic(expected = "not Changed")]
    async fn the_suite_catches_a_source_that_ignores_versions() {
        #[derive(Debug)]
        struct Latest(Arc<MemorySource>);
        #[async_trait]
        impl BlockSource for Latest {
            async fn read(
                &self,
                object: &Object,
                range: Range<u64>,
                priority: Priority,
            ) -> Result<Bytes, ReadError> {
                let current = self.0.object(&object.key).expect("the object is there");
                self.0.read(&current, range, priority).await
            }
        }
        let memory = MemorySource::new(SourceId(1));
        block_source(Arc::new(Latest(memory.clone())), &memory).await;
    }
}
