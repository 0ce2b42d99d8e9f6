//! Learned orders in files of the node's own directory, one for each data set.
//!
//! ```text
//! magic and format version (8) | identity of the list of files (16) | positions (4 each) | CRC32C of it all (4)
//! ```
//!
//! # Invariants
//!
//! - A file that is not exactly that is as good as none, and is said once for each start of its data set.
//! - All together take at most [`ALL_BYTES_MAX`], and are at most [`ORDERS_MAX`]: those learned longest ago go.
//!
//! # Deliberately absent
//!
//! - No sync: what a power cut tears fails its checksum, and is learned again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use feedline_fill::{KeptOrder, OrderMemory};
use parking_lot::Mutex;

use crate::files;

/// Names the format; the last byte is its version.
const MAGIC: &[u8; 8] = b"FDLNORD\x01";

/// What stands before the positions.
const HEAD_BYTES: usize = 8 + 16;

/// What stands before and after them.
const FRAME_BYTES: usize = HEAD_BYTES + 4;

/// Bytes of a position.
const POSITION_BYTES: usize = 4;

/// Data sets of which an order is kept: as many as fill watches at once.
const ORDERS_MAX: usize = 16;

/// What all of them may take: 4 bytes for each access of an epoch, so 33 million of them, which is 26 epochs of
/// ImageNet or one of the largest set that an order is learned of, and then of others.
const ALL_BYTES_MAX: u64 = 128 << 20;

/// The ending of their names. What ends otherwise was being written when a node died.
const ENDING: &str = "order";

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Orders {
    /// Held while the directory changes.
    dir: Mutex<PathBuf>,
}

impl Orders {
    /// Those in the directory `orders` of `state_dir`, which is made when one is kept.
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self { dir: Mutex::new(state_dir.join("orders")) }
    }
}

fn file_of(dir: &Path, set: u64) -> PathBuf {
    dir.join(format!("{set:016x}.{ENDING}"))
}

impl OrderMemory for Orders {
    fn recall(&self, set: u64) -> Option<KeptOrder> {
        let file = file_of(&self.dir.lock(), set);
        let why = match read(&file) {
            Ok(Some(order)) => return Some(order),
            Ok(None) => "it is damaged, or of another version".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
        };
        tracing::warn!(file = %file.display(), why, "no learned order can be read from it: it is learned again");
        None
    }

    fn keep(&self, set: u64, order: &KeptOrder) {
        let dir = self.dir.lock();
        let written = fs::create_dir_all(&*dir)
            .and_then(|()| files::replace(&file_of(&dir, set), &encode(order), false))
            .and_then(|()| make_room(&dir));
        if let Err(error) = written {
            tracing::warn!(
                dir = %dir.display(), %error,
                "a learned order cannot be kept: after a restart it is learned again"
            );
        }
    }
}

fn encode(order: &KeptOrder) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME_BYTES + order.positions.len() * POSITION_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&order.identity.to_le_bytes());
    for position in &order.positions {
        bytes.extend_from_slice(&position.to_le_bytes());
    }
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// `None` if the bytes are nothing of the kind.
fn decode(bytes: &[u8]) -> Option<KeptOrder> {
    let (content, checksum) = bytes.split_last_chunk()?;
    if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (identity, positions) = content.strip_prefix(MAGIC)?.split_first_chunk()?;
    let (positions, []) = positions.as_chunks::<POSITION_BYTES>() else { return None };
    let positions = positions.iter().map(|it| u32::from_le_bytes(*it)).collect();
    Some(KeptOrder { identity: u128::from_le_bytes(*identity), positions })
}

fn read(file: &Path) -> io::Result<Option<KeptOrder>> {
    // Whatever lies there: no more memory than an order may take.
    if ALL_BYTES_MAX < fs::metadata(file)?.len() {
        return Ok(None);
    }
    Ok(decode(&fs::read(file)?))
}

/// Removes what is too much, the oldest first, and what is left of writes that were cut short.
fn make_room(dir: &Path) -> io::Result<()> {
    let mut orders: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let (path, meta) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        if path.extension().is_some_and(|ending| ending == ENDING) {
            orders.push((meta.modified()?, meta.len(), path));
        } else {
            fs::remove_file(path)?;
        }
    }
    orders.sort_by(|a, b| b.cmp(a));
    let (mut count, mut bytes) = (0, 0);
    for (_, length, path) in orders {
        (count, bytes) = (count + 1, bytes + length);
        if ORDERS_MAX < count || ALL_BYTES_MAX < bytes {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(identity: u128, len: u32) -> KeptOrder {
        KeptOrder { identity, positions: (0..len).rev().collect() }
    }

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir.join("orders")).unwrap().count()
    }

    #[test]
    fn of_each_set_the_order_that_was_kept_last_is_recalled() {
        let dir = tempfile::tempdir().unwrap();
        let orders = || Orders::of(dir.path());
        assert_eq!(orders().recall(7), None);
        orders().keep(7, &order(1, 100));
        orders().keep(8, &order(u128::MAX, 0));
        orders().keep(7, &order(2, 90));
        assert_eq!(orders().recall(7), Some(order(2, 90)));
        assert_eq!(orders().recall(8), Some(order(u128::MAX, 0)));
        assert_eq!(orders().recall(9), None);
    }

    #[test]
    fn a_file_that_is_changed_anywhere_cut_short_or_of_another_version_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let orders = Orders::of(dir.path());
        orders.keep(7, &order(3, 20));
        let file = file_of(&dir.path().join("orders"), 7);
        let good = fs::read(&file).unwrap();
        assert_eq!(good.len(), FRAME_BYTES + 20 * POSITION_BYTES);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&file, &bad).unwrap();
            assert_eq!(orders.recall(7), None, "byte {at} changed");
            fs::write(&file, &good[..at]).unwrap();
            assert_eq!(orders.recall(7), None, "{at} bytes left");
        }
        // Whole in itself, and of a version that is to come.
        let mut newer = good[..good.len() - 4].to_vec();
        newer[7] += 1;
        newer.extend_from_slice(&crc32c::crc32c(&newer).to_le_bytes());
        fs::write(&file, newer).unwrap();
        assert_eq!(orders.recall(7), None);
        fs::write(&file, good).unwrap();
        assert_eq!(orders.recall(7), Some(order(3, 20)));
    }

    #[test]
    fn they_are_few_and_what_a_dead_node_left_half_written_goes() {
        let dir = tempfile::tempdir().unwrap();
        let orders = Orders::of(dir.path());
        orders.keep(0, &order(0, 10));
        let left = dir.path().join("orders/0000000000000063.new");
        fs::write(&left, "half").unwrap();
        for set in 1..=ORDERS_MAX as u64 {
            let file = file_of(&dir.path().join("orders"), set - 1);
            // Older than the next, whatever the file system's clock can tell apart.
            let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(set);
            fs::File::options().write(true).open(file).unwrap().set_modified(then).unwrap();
            orders.keep(set, &order(0, 10));
        }
        assert!(!left.exists());
        assert_eq!(names(dir.path()), ORDERS_MAX);
        assert_eq!(orders.recall(0), None, "learned longest ago");
        assert!(orders.recall(1).is_some());
    }

    #[test]
    fn all_of_them_together_are_bounded_in_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let orders = Orders::of(dir.path());
        orders.keep(1, &order(0, 10));
        // Takes no space on the disk.
        let large = file_of(&dir.path().join("orders"), 2);
        fs::File::create(&large).unwrap().set_len(ALL_BYTES_MAX + 1).unwrap();
        assert_eq!(orders.recall(2), None);
        fs::File::options().write(true).open(&large).unwrap().set_len(ALL_BYTES_MAX).unwrap();
        let then = SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&large).unwrap().set_modified(then).unwrap();
        orders.keep(3, &order(0, 10));
        assert_eq!(names(dir.path()), 2);
        assert!(!large.exists());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("orders"), "a file").unwrap();
        let orders = Orders::of(dir.path());
        orders.keep(1, &order(0, 10));
        assert_eq!(orders.recall(1), None);
    }
}
