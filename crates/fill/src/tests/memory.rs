//! Learned orders over a restart of the node.

use std::ops::Range;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use super::*;
use crate::KeptOrder;

/// Keeps orders over the lives of several fills.
#[derive(Debug, Default)]
struct Kept {
    orders: Mutex<HashMap<u64, KeptOrder>>,
    calls: AtomicU64,
}

impl OrderMemory for Kept {
    fn recall(&self, set: u64) -> Option<KeptOrder> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.orders.lock().get(&set).cloned()
    }

    fn keep(&self, set: u64, order: &KeptOrder) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.orders.lock().insert(set, order.clone());
    }
}

const FOLDERS: usize = 4;
const FILES: usize = 100;

/// A node's life: with a cache that is always full, so that every access is looked at.
fn life(memory: &Arc<Kept>, files: usize, config: FillConfig) -> Bed {
    let bed = bed_with(FOLDERS, files, 100, config, None, Some(Arc::clone(memory) as _));
    bed.shelf.set_free_bytes(0);
    bed
}

impl Bed {
    /// Reads the files at these places of [`Bed::order`].
    fn epoch(&self, places: Range<usize>) {
        self.order()[places].iter().for_each(|index| self.access(1, *index));
    }

    async fn until_known(&self) {
        let learned = |status: &FillStatus| {
            let scan = status.scans.first();
            scan.is_some_and(|scan| scan.order.starts_with("learned from an earlier epoch"))
        };
        self.until("the order is known", learned).await;
    }

    async fn until_read(&self, files: u64) -> FillStatus {
        let is_so =
            |status: &FillStatus| status.scans.first().is_some_and(|scan| scan.read == files);
        self.until("so many were read", is_so).await
    }
}

#[tokio::test]
async fn an_order_learned_in_one_life_is_known_in_the_next_from_the_first_reads() {
    let memory = Arc::new(Kept::default());
    let first = life(&memory, FILES, FillConfig::default());
    // The first eight in one folder: the set that this makes is replaced by that of all folders, and
    // nothing of the order is lost.
    let mut order = first.order();
    let alone: Vec<usize> = order.iter().copied().filter(|index| *index < FILES).take(8).collect();
    order.retain(|index| !alone.contains(index));
    order.splice(0..0, alone);
    order.iter().for_each(|index| first.access(1, *index));
    // Not at the node's end: it may not come to one.
    let wait = |_: &FillStatus| !memory.orders.lock().is_empty();
    first.until("the order is kept", wait).await;
    let kept = memory.orders.lock().values().next().cloned().expect("one");
    let positions: Vec<usize> = kept.positions.iter().map(|it| *it as usize).collect();
    assert_eq!(positions, order);
    drop(first);

    let second = life(&memory, FILES, FillConfig::default());
    order[..24].iter().for_each(|index| second.access(9, *index));
    second.until_known().await;
    let scan = second.fill.status().scans.remove(0);
    assert!((1..=24).contains(&scan.known_after), "{scan:?}");
    order[24..200].iter().for_each(|index| second.access(9, *index));
    let sure = |status: &FillStatus| 0.9 < status.scans[0].confidence;
    second.until("what is read is what was foretold", sure).await;
    second.fill.stop().await;
    assert_eq!(memory.orders.lock().len(), 1, "an order that was known is not learned again");
}

#[tokio::test]
async fn an_orderly_end_keeps_an_epoch_that_lacks_its_last_files_and_no_half_of_one() {
    let memory = Arc::new(Kept::default());
    let first = life(&memory, FILES, FillConfig::default());
    first.epoch(0..200);
    first.fill.stop().await;
    assert!(memory.orders.lock().is_empty(), "half of an epoch");

    let second = life(&memory, FILES, FillConfig::default());
    second.epoch(0..390);
    second.fill.stop().await;
    assert_eq!(
        memory.orders.lock().values().map(|it| it.positions.len()).collect::<Vec<_>>(),
        [390]
    );

    let third = life(&memory, FILES, FillConfig::default());
    third.epoch(0..24);
    third.until_known().await;
}

#[tokio::test]
async fn an_epoch_whose_readers_are_gone_is_kept_without_its_last_files() {
    let memory = Arc::new(Kept::default());
    let bed = life(&memory, FILES, FillConfig::default());
    bed.epoch(0..390);
    bed.until_read(390).await;
    assert!(memory.orders.lock().is_empty(), "they may go on");
    bed.alive.store(false, Ordering::SeqCst);
    bed.until("the order is kept", |_| !memory.orders.lock().is_empty()).await;
}

#[tokio::test]
async fn an_order_of_other_files_is_not_used() {
    let memory = Arc::new(Kept::default());
    let first = life(&memory, FILES, FillConfig::default());
    first.epoch(0..400);
    first.fill.stop().await;
    let set = *memory.orders.lock().keys().next().expect("one is kept");

    // One file more in each folder, and the same name.
    let second = life(&memory, FILES + 1, FillConfig::default());
    let asked = memory.calls.load(Ordering::SeqCst);
    first.order()[..60].iter().for_each(|index| second.access(1, index + index / FILES));
    second.until_read(60).await;
    second.until("it was looked", |_| asked < memory.calls.load(Ordering::SeqCst)).await;
    second.fill.stop().await;
    assert_eq!(second.fill.status().scans[0].order, "unknown");
    assert_eq!(memory.orders.lock()[&set].positions.len(), 400, "there is none to take its place");
}

#[tokio::test]
async fn with_the_oracle_off_nothing_is_kept_or_looked_for() {
    let memory = Arc::new(Kept::default());
    let config = FillConfig { oracle: false, ..FillConfig::default() };
    let bed = life(&memory, FILES, config);
    bed.epoch(0..400);
    bed.until_read(400).await;
    bed.fill.stop().await;
    assert_eq!(memory.calls.load(Ordering::SeqCst), 0);
}
