//! A list that grows without moving: in pieces of one size, so that growing never holds its items twice.
//!
//! A `Vec` of an index copies itself to grow, and for a moment, or as long as the allocator keeps what it
//! freed, takes twice its memory. Here an item costs its size, and one division by a constant when it is read.
//!
//! Deliberately absent: shrinking.

use std::ops::{Index, IndexMut};

/// Items of a piece.
const PIECE: usize = 4096;

/// Items in the order in which they were pushed.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    /// All but the last are full.
    pieces: Vec<Vec<T>>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(crate) fn len(&self) -> usize {
        let last = self.pieces.last().map_or(0, Vec::len);
        self.pieces.len().saturating_sub(1) * PIECE + last
    }

    pub(crate) fn push(&mut self, item: T) {
        if let Some(last) = self.pieces.last_mut().filter(|piece| piece.len() < PIECE) {
            last.push(item);
            return;
        }
        let mut piece = Vec::with_capacity(PIECE);
        piece.push(item);
        self.pieces.push(piece);
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        self.pieces.get(at / PIECE)?.get(at % PIECE)
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.pieces.get_mut(at / PIECE)?.get_mut(at % PIECE)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pieces.iter_mut().flatten()
    }

    /// Bytes of memory it takes.
    #[cfg(test)]
    pub(crate) fn memory_bytes(&self) -> usize {
        let pieces = self.pieces.capacity() * size_of::<Vec<T>>();
        pieces + self.pieces.iter().map(|piece| piece.capacity() * size_of::<T>()).sum::<usize>()
    }
}

impl<T> Index<usize> for Slots<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.pieces[at / PIECE][at % PIECE]
    }
}

impl<T> IndexMut<usize> for Slots<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.pieces[at / PIECE][at % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_stay_where_they_were_pushed() {
        let mut slots = Slots::default();
        assert_eq!((slots.len(), slots.get(0)), (0, None));
        slots.push(0);
        let first = std::ptr::from_ref(&slots[0]);
        for item in 1..=2 * PIECE {
            slots.push(item);
            assert_eq!((slots.len(), slots[item]), (item + 1, item));
        }
        assert_eq!(first, std::ptr::from_ref(&slots[0]));
        assert_eq!(slots.get(2 * PIECE), Some(&(2 * PIECE)));
        assert_eq!(slots.get(2 * PIECE + 1), None);
        slots.iter_mut().for_each(|item| *item += 1);
        slots[PIECE] = 7;
        assert_eq!((slots[PIECE - 1], slots[PIECE], slots[PIECE + 1]), (PIECE, 7, PIECE + 2));
        assert_eq!(slots.get_mut(2 * PIECE).copied(), Some(2 * PIECE + 1));
        assert!(slots.memory_bytes() <= 3 * PIECE * size_of::<usize>() + 1024);
    }
}
