//! What is here: one record of 32 bytes an object, when it was last used, and a table of record
//! numbers.
//!
//! Invariants: at most 48 bytes an object in all, whatever the number; a record's slot does not
//! change while it lives, so a walk over slots in steps sees everything that stays. Memory only;
//! what must survive is logged by the caller (`journal`).
//!
//! When an object was last used is a 16-bit number beside its record: a time in uses of all objects
//! (`worth`), in steps of at most a 256th of the number of objects. What was not used for more than
//! about 128 times as many uses as there are objects counts as never used.
//!
//! Deliberately absent: order of use; times of use in what is stored. After a restart everything
//! counts as used a moment ago.

use feedline_model::ObjectId;
use hashbrown::HashTable;

use crate::slots::Slots;

/// What there is of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// The slot is free.
    Free = 0,
    /// Nothing but the wish to pin it when it comes.
    Wished = 1,
    /// Some pages of a large object.
    Partial = 2,
    /// The whole object under its final name.
    Complete = 3,
}

const STATE_MASK: u8 = 0b11;
const PINNED: u8 = 1 << 2;
// Bit 3 was in use in earlier versions.
const UNVERIFIED: u8 = 1 << 4;

/// Bytes in one unit of [`Record::units`]: the block of every file system in use here.
pub(crate) const UNIT_BYTES: u64 = 4096;

/// One object. 32 bytes, so that an object costs 48 with its share of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(crate) struct Record {
    pub(crate) id: ObjectId,
    /// CRC-32C of the whole object; 0 until complete.
    pub(crate) crc: u32,
    /// Space on disk in units of 4 KiB, rounded up.
    pub(crate) units: u32,
    size_low: u32,
    size_high: u16,
    /// Number of the directory.
    pub(crate) dir: u8,
    flags: u8,
}

const _: () = assert!(size_of::<Record>() == 32);

impl Record {
    pub(crate) fn new(id: ObjectId, size: u64, dir: u8, state: State) -> Self {
        let mut record =
            Self { id, crc: 0, units: 0, size_low: 0, size_high: 0, dir, flags: state as u8 };
        record.set_size(size);
        record
    }

    /// Rebuilds a record from its parts as they are stored.
    pub(crate) fn from_bytes(bytes: &[u8; 32], dir: u8) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        Self {
            id: ObjectId(id),
            crc: word(16),
            units: word(20),
            size_low: word(24),
            size_high: u16::from_le_bytes([bytes[28], bytes[29]]),
            dir,
            flags: bytes[31],
        }
    }

    /// The record as it is stored; the directory is not part of it.
    pub(crate) fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.id.0);
        bytes[16..20].copy_from_slice(&self.crc.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.units.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.size_low.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.size_high.to_le_bytes());
        bytes[31] = self.flags;
        bytes
    }

    pub(crate) fn size(&self) -> u64 {
        u64::from(self.size_high) << 32 | u64::from(self.size_low)
    }

    /// Sizes above 2^48 do not occur: S3 ends at 5 TiB.
    #[expect(clippy::cast_possible_truncation, reason = "the two parts of 48 bits")]
    pub(crate) fn set_size(&mut self, size: u64) {
        self.size_low = size as u32;
        self.size_high = (size >> 32) as u16;
    }

    pub(crate) fn state(&self) -> State {
        match self.flags & STATE_MASK {
            0 => State::Free,
            1 => State::Wished,
            2 => State::Partial,
            _ => State::Complete,
        }
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.flags = self.flags & !STATE_MASK | state as u8;
    }

    fn set(&mut self, bit: u8, on: bool) {
        self.flags = if on { self.flags | bit } else { self.flags & !bit };
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.flags & PINNED != 0
    }

    pub(crate) fn set_pinned(&mut self, on: bool) {
        self.set(PINNED, on);
    }

    /// True: its bytes must be compared with the checksum before they are served.
    pub(crate) fn is_unverified(&self) -> bool {
        self.flags & UNVERIFIED != 0
    }

    pub(crate) fn set_unverified(&mut self, on: bool) {
        self.set(UNVERIFIED, on);
    }

    /// Bytes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }

    pub(crate) fn set_disk_bytes(&mut self, bytes: u64) {
        self.units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
    }
}

/// When the object in each slot was last used.
#[derive(Debug, Default)]
struct Times {
    /// In units of 2^shift uses since `base`, which is in these units too.
    used: Slots<u16>,
    base: u64,
    shift: u32,
    /// The latest stamp given.
    latest: u16,
}

impl Times {
    /// The number that stands for `time` now; makes room in the range for it when needed. Cost: one
    /// pass over all slots in every 32,768 steps of the time.
    fn stamp(&mut self, time: u64) -> u16 {
        const HALF: u16 = 1 << 15;
        loop {
            let stamp = (time >> self.shift).saturating_sub(self.base);
            if let Ok(stamp) = u16::try_from(stamp) {
                self.latest = self.latest.max(stamp);
                return stamp;
            }
            if self.used.len() >> (self.shift + 8) > 0 {
                // So many objects that the unit may be coarser: twice the range.
                self.shift += 1;
                self.base /= 2;
                self.used.iter_mut().for_each(|used| *used /= 2);
                self.latest /= 2;
            } else {
                self.used.iter_mut().for_each(|used| *used = used.saturating_sub(HALF));
                self.latest = self.latest.saturating_sub(HALF);
                self.base += u64::from(HALF);
            }
        }
    }

    fn idle(&self, slot: usize, time: u64) -> u64 {
        let used = self.used[slot];
        if used == 0 && self.base > 0 {
            return u64::MAX;
        }
        let now = (time >> self.shift).saturating_sub(self.base);
        now.saturating_sub(u64::from(used)) << self.shift
    }
}

/// All records of a cache.
#[derive(Debug, Default)]
pub(crate) struct Index {
    records: Slots<Record>,
    times: Times,
    table: HashTable<u32>,
    free: Vec<u32>,
}

impl Index {
    /// Makes room in the table for `additional` more records at once.
    pub(crate) fn reserve(&mut self, additional: usize) {
        let records = &self.records;
        self.table.reserve(additional, |slot| records[*slot as usize].id.hash64());
    }

    fn slot(&self, id: &ObjectId) -> Option<usize> {
        let found = self.table.find(id.hash64(), |slot| self.records[*slot as usize].id == *id)?;
        Some(*found as usize)
    }

    pub(crate) fn get(&self, id: &ObjectId) -> Option<&Record> {
        self.slot(id).map(|slot| &self.records[slot])
    }

    pub(crate) fn get_mut(&mut self, id: &ObjectId) -> Option<&mut Record> {
        self.slot(id).map(|slot| &mut self.records[slot])
    }

    /// Notes that an object was used at `time`; returns its record.
    pub(crate) fn touch(&mut self, id: &ObjectId, time: u64) -> Option<&Record> {
        let stamp = self.times.stamp(time);
        let slot = self.slot(id)?;
        self.times.used[slot] = stamp;
        Some(&self.records[slot])
    }

    /// Uses of all objects since the one in this slot was used, at `time`.
    pub(crate) fn idle(&self, slot: usize, time: u64) -> u64 {
        self.times.idle(slot, time)
    }

    /// Adds the record or replaces the one with its id, which is returned; it counts as used now.
    pub(crate) fn put(&mut self, record: Record) -> Option<Record> {
        if let Some(slot) = self.slot(&record.id) {
            self.times.used[slot] = self.times.latest;
            return Some(std::mem::replace(&mut self.records[slot], record));
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                self.records[slot as usize] = record;
                self.times.used[slot as usize] = self.times.latest;
                slot
            }
            None => {
                self.records.push(record);
                self.times.used.push(self.times.latest);
                u32::try_from(self.records.len() - 1).expect("fewer than 4 billion objects")
            }
        };
        let records = &self.records;
        self.table
            .insert_unique(record.id.hash64(), slot, |slot| records[*slot as usize].id.hash64());
        None
    }

    pub(crate) fn remove(&mut self, id: &ObjectId) -> Option<Record> {
        let records = &self.records;
        let entry =
            self.table.find_entry(id.hash64(), |slot| records[*slot as usize].id == *id).ok()?;
        let (slot, _) = entry.remove();
        let record = self.records[slot as usize];
        self.records[slot as usize].set_state(State::Free);
        self.free.push(slot);
        Some(record)
    }

    /// Records, wishes included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// One past the last slot in use.
    pub(crate) fn slots(&self) -> usize {
        self.records.len()
    }

    /// The record in a slot; `None` if it is free or past the end.
    pub(crate) fn at(&self, slot: usize) -> Option<&Record> {
        self.records.get(slot).filter(|record| record.state() != State::Free)
    }

    pub(crate) fn at_mut(&mut self, slot: usize) -> Option<&mut Record> {
        self.records.get_mut(slot).filter(|record| record.state() != State::Free)
    }

    /// Bytes of memory it takes.
    #[cfg(test)]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.records.memory_bytes()
            + self.times.used.memory_bytes()
            + self.table.allocation_size()
            + self.free.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ObjectId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        bytes[8..].copy_from_slice(&number.to_le_bytes());
        ObjectId(bytes)
    }

    #[test]
    fn an_object_costs_at_most_48_bytes_at_any_number() {
        let mut index = Index::default();
        for number in 0..1_000_000_u64 {
            index.put(Record::new(id(number), 1, 0, State::Complete));
            if number == 480_000 || number == 920_000 {
                assert!(index.memory_bytes() <= 48 * (number as usize + 1), "at {number}");
            }
        }
        assert!(index.memory_bytes() <= 48 * 1_000_000, "{}", index.memory_bytes());
        assert_eq!(index.len(), 1_000_000);
        assert!(index.get(&id(999_999)).is_some());
    }

    #[test]
    fn times_of_use_stay_right_over_any_time() {
        for objects in [10, 5_000] {
            let mut index = Index::default();
            for number in 0..objects {
                index.put(Record::new(id(number), 1, 0, State::Complete));
            }
            // Object 0 is never used again, 1 every time, the others in turn.
            for time in 1..2_000_000 {
                index.touch(&id(1), time);
                let turn = time % (objects - 2) + 2;
                index.touch(&id(turn), time);
                if time.is_multiple_of(99_991) {
                    let unit = (objects / 128).max(1);
                    assert!(index.idle(1, time) <= unit, "{}", index.idle(1, time));
                    let before = (turn - 2 + objects - 2 - 1) % (objects - 2) + 2;
                    let slot = usize::try_from(before).expect("small");
                    assert!(index.idle(slot, time) <= 1 + unit, "object {before} at {time}");
                    let next = (turn - 2 + 1) % (objects - 2) + 2;
                    let idle = index.idle(usize::try_from(next).expect("small"), time);
                    assert!(idle.abs_diff(objects - 3) <= unit, "{idle} of {objects} at {time}");
                    assert!(time - unit <= index.idle(0, time), "at {time}");
                }
            }
        }
    }

    #[test]
    fn a_record_survives_its_bytes() {
        let mut record = Record::new(id(7), (1 << 40) + 5, 3, State::Complete);
        record.crc = 0xdead_beef;
        record.set_disk_bytes(12_289);
        record.set_pinned(true);
        record.set_unverified(true);
        assert_eq!(Record::from_bytes(&record.to_bytes(), 3), record);
        assert_eq!(record.size(), (1 << 40) + 5);
        assert_eq!(record.disk_bytes(), 16_384);
    }

    #[test]
    fn a_removed_record_is_gone_and_its_slot_used_again() {
        let mut index = Index::default();
        for number in 0..10 {
            index.put(Record::new(id(number), number, 0, State::Complete));
        }
        assert_eq!(index.remove(&id(4)).map(|record| record.size()), Some(4));
        assert!(index.get(&id(4)).is_none());
        assert!(index.at(4).is_none());
        index.put(Record::new(id(11), 11, 0, State::Complete));
        assert_eq!(index.slots(), 10);
        assert_eq!(index.get(&id(11)).map(Record::size), Some(11));
    }
}
