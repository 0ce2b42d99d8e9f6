//! A million objects: reopened from snapshot and journal, without a walk over the directory.

use std::io::Write as _;

use feedline_model::{ObjectId, ObjectIndex as _};
use feedline_testkit::{MemorySource, RealClock};

use super::support::config_at;
use crate::index::{Record, State};
use crate::journal::{Entry, SnapshotWriter, encode, journal_header};
use crate::{Cache, CacheConfig};

const OBJECTS: u64 = 1_000_000;

/// A debug build on a busy machine; an optimised one takes under a second.
const REOPEN_MS_MAX: u128 = if cfg!(debug_assertions) { 10_000 } else { 2000 };

fn id(number: u64) -> ObjectId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    ObjectId(bytes)
}

fn open(config: CacheConfig) -> std::sync::Arc<Cache> {
    let source = MemorySource::new(feedline_model::SourceId(1));
    Cache::open(config, source, RealClock::shared(), tokio::runtime::Handle::current()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_objects_reopen_at_once() {
    let root = tempfile::tempdir_in("/var/tmp").unwrap();
    let dir = root.path().join("cache");
    let config = config_at(&dir, 1 << 40);
    let cache = open(config.clone());
    cache.close().await;
    drop(cache);
    let mut writer = SnapshotWriter::default();
    let mut bytes = writer.header(100);
    for number in 0..OBJECTS {
        let mut piece = Vec::with_capacity(33);
        let mut record = Record::new(id(number), 110_000, 0, State::Complete);
        record.set_disk_bytes(110_592);
        encode(&Entry::Put(record), &mut piece);
        writer.add(&piece);
        bytes.extend_from_slice(&piece);
    }
    bytes.extend_from_slice(&writer.trailer());
    std::fs::File::create(dir.join("index.snapshot")).unwrap().write_all(&bytes).unwrap();
    std::fs::write(dir.join("index.journal"), journal_header(100)).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the test measures real time")]
    let start = std::time::Instant::now();
    let cache = open(config);
    let took_ms = start.elapsed().as_millis();
    assert!(took_ms <= REOPEN_MS_MAX, "{took_ms} ms");
    assert!(cache.contains(&id(OBJECTS - 1)));
    let stats = cache.stats();
    assert_eq!(stats.objects(), OBJECTS);
    assert!(stats.used_bytes() >= OBJECTS * 110_592);
    println!("reopened {OBJECTS} objects in {took_ms} ms");
}
