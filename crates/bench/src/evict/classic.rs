//! The policies that others use: LRU, SIEVE, S3-FIFO and, as the bound, Belady.
//!
//! Sources: SIEVE (Zhang et al., NSDI 2024), S3-FIFO (Yang et al., SOSP 2023), MIN with bypass (Belady,
//! "A study of replacement algorithms for a virtual-storage computer", 1966; with sizes that
//! differ it is close to the best, not the best).

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::traces::Trace;

/// A cache that somebody uses one object of at a time.
pub trait Policy {
    /// The object is used for the `at`th time in the trace; true if it is here.
    fn use_object(&mut self, at: usize, object: u32) -> bool;

    /// Objects fetched ahead of their use, so far.
    fn filled(&self) -> u64 {
        0
    }

    /// Objects written to the cache, so far.
    fn written(&self) -> u64;
}

/// What all share: what is here, and how much of it.
#[derive(Debug)]
struct Room<'a> {
    sizes: &'a [u64],
    free: u64,
    here: Vec<bool>,
    written: u64,
}

impl<'a> Room<'a> {
    fn new(trace: &'a Trace, bytes: u64) -> Self {
        Self { sizes: &trace.sizes, free: bytes, here: vec![false; trace.sizes.len()], written: 0 }
    }

    fn has(&self, object: u32) -> bool {
        self.here[object as usize]
    }

    fn fits(&self, object: u32) -> bool {
        self.sizes[object as usize] <= self.free
    }

    fn add(&mut self, object: u32) {
        self.here[object as usize] = true;
        self.free -= self.sizes[object as usize];
        self.written += 1;
    }

    fn remove(&mut self, object: u32) {
        self.here[object as usize] = false;
        self.free += self.sizes[object as usize];
    }
}

/// Least recently used goes first.
#[derive(Debug)]
pub struct Lru<'a> {
    room: Room<'a>,
    used: Vec<usize>,
    order: BTreeSet<(usize, u32)>,
}

impl<'a> Lru<'a> {
    /// An empty one of this size.
    #[must_use]
    pub fn new(trace: &'a Trace, bytes: u64) -> Self {
        let used = vec![0; trace.sizes.len()];
        Self { room: Room::new(trace, bytes), used, order: BTreeSet::new() }
    }
}

impl Policy for Lru<'_> {
    fn use_object(&mut self, at: usize, object: u32) -> bool {
        let hit = self.room.has(object);
        if hit {
            self.order.remove(&(self.used[object as usize], object));
        } else {
            while !self.room.fits(object) {
                let Some((_, victim)) = self.order.pop_first() else { return false };
                self.room.remove(victim);
            }
            self.room.add(object);
        }
        self.used[object as usize] = at;
        self.order.insert((at, object));
        hit
    }

    fn written(&self) -> u64 {
        self.room.written
    }
}

/// A first-in-first-out queue whose hand passes over what was used since it last came by.
#[derive(Debug)]
pub struct Sieve<'a> {
    room: Room<'a>,
    visited: Vec<bool>,
    /// Oldest first; the hand is at the front, what it has passed is behind `passed`.
    ahead: VecDeque<u32>,
    passed: VecDeque<u32>,
    new: VecDeque<u32>,
}

impl<'a> Sieve<'a> {
    /// An empty one of this size.
    #[must_use]
    pub fn new(trace: &'a Trace, bytes: u64) -> Self {
        Self {
            room: Room::new(trace, bytes),
            visited: vec![false; trace.sizes.len()],
            ahead: VecDeque::new(),
            passed: VecDeque::new(),
            new: VecDeque::new(),
        }
    }

    /// The hand goes from the oldest to the newest and begins again; survivors keep their place.
    fn victim(&mut self) -> Option<u32> {
        loop {
            if self.ahead.is_empty() {
                self.ahead.append(&mut self.new);
            }
            if self.ahead.is_empty() {
                self.ahead.append(&mut self.passed);
            }
            let object = self.ahead.pop_front()?;
            if !std::mem::take(&mut self.visited[object as usize]) {
                return Some(object);
            }
            self.passed.push_back(object);
        }
    }
}

impl Policy for Sieve<'_> {
    fn use_object(&mut self, _at: usize, object: u32) -> bool {
        if self.room.has(object) {
            self.visited[object as usize] = true;
            return true;
        }
        while !self.room.fits(object) {
            let Some(victim) = self.victim() else { return false };
            self.room.remove(victim);
        }
        self.room.add(object);
        self.new.push_back(object);
        false
    }

    fn written(&self) -> u64 {
        self.room.written
    }
}

/// A small queue for what is new, a main one for what was used again, and the names of what left.
#[derive(Debug)]
pub struct S3Fifo<'a> {
    room: Room<'a>,
    small_max: u64,
    small_bytes: u64,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    used: Vec<u8>,
    ghosts: VecDeque<u32>,
    is_ghost: HashSet<u32>,
}

impl<'a> S3Fifo<'a> {
    /// An empty one of this size; a tenth is for what is new.
    #[must_use]
    pub fn new(trace: &'a Trace, bytes: u64) -> Self {
        Self {
            room: Room::new(trace, bytes),
            small_max: bytes / 10,
            small_bytes: 0,
            small: VecDeque::new(),
            main: VecDeque::new(),
            used: vec![0; trace.sizes.len()],
            ghosts: VecDeque::new(),
            is_ghost: HashSet::new(),
        }
    }

    fn size(&self, object: u32) -> u64 {
        self.room.sizes[object as usize]
    }

    fn evict(&mut self) -> Option<()> {
        if self.small_bytes >= self.small_max || self.main.is_empty() {
            self.evict_small()
        } else {
            self.evict_main()
        }
    }

    fn evict_small(&mut self) -> Option<()> {
        let object = self.small.pop_front()?;
        self.small_bytes -= self.size(object);
        if self.used[object as usize] > 1 {
            self.main.push_back(object);
            self.used[object as usize] = 0;
            return Some(());
        }
        self.room.remove(object);
        self.ghosts.push_back(object);
        self.is_ghost.insert(object);
        while self.ghosts.len() > self.main.len().max(1) {
            let gone = self.ghosts.pop_front()?;
            self.is_ghost.remove(&gone);
        }
        Some(())
    }

    fn evict_main(&mut self) -> Option<()> {
        loop {
            let object = self.main.pop_front()?;
            let used = &mut self.used[object as usize];
            if *used == 0 {
                self.room.remove(object);
                return Some(());
            }
            *used -= 1;
            self.main.push_back(object);
        }
    }
}

impl Policy for S3Fifo<'_> {
    fn use_object(&mut self, _at: usize, object: u32) -> bool {
        if self.room.has(object) {
            let used = &mut self.used[object as usize];
            *used = (*used + 1).min(3);
            return true;
        }
        while !self.room.fits(object) {
            if self.evict().is_none() {
                return false;
            }
        }
        self.room.add(object);
        self.used[object as usize] = 0;
        if self.is_ghost.contains(&object) {
            self.main.push_back(object);
        } else {
            self.small_bytes += self.size(object);
            self.small.push_back(object);
        }
        false
    }

    fn written(&self) -> u64 {
        self.room.written
    }
}

/// What is needed last goes first, or is not kept: the bound, which knows the future.
#[derive(Debug)]
pub struct Belady<'a> {
    room: Room<'a>,
    distances: Vec<u64>,
    next: Vec<u64>,
    order: BTreeSet<(u64, u32)>,
}

impl<'a> Belady<'a> {
    /// An empty one of this size.
    #[must_use]
    pub fn new(trace: &'a Trace, bytes: u64) -> Self {
        Self {
            room: Room::new(trace, bytes),
            distances: trace.distances(),
            next: vec![u64::MAX; trace.sizes.len()],
            order: BTreeSet::new(),
        }
    }
}

impl Policy for Belady<'_> {
    fn use_object(&mut self, at: usize, object: u32) -> bool {
        let hit = self.room.has(object);
        let next = self.distances[at].saturating_add(at as u64);
        if hit {
            self.order.remove(&(self.next[object as usize], object));
        } else {
            if next == u64::MAX {
                return false;
            }
            while !self.room.fits(object) {
                match self.order.last().copied() {
                    Some((later, victim)) if later > next => {
                        self.order.remove(&(later, victim));
                        self.room.remove(victim);
                    }
                    _ => return false,
                }
            }
            self.room.add(object);
        }
        self.next[object as usize] = next;
        self.order.insert((next, object));
        hit
    }

    fn written(&self) -> u64 {
        self.room.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(uses: &[u32]) -> Trace {
        let objects = uses.iter().max().map_or(0, |most| *most as usize + 1);
        Trace {
            uses: uses.to_vec(),
            sizes: vec![1; objects],
            sets: vec![0; objects],
            ..Trace::default()
        }
    }

    fn hits(policy: &mut dyn Policy, trace: &Trace) -> Vec<usize> {
        let uses = trace.uses.iter().enumerate();
        uses.filter(|(at, object)| policy.use_object(*at, **object)).map(|(at, _)| at).collect()
    }

    #[test]
    fn each_policy_does_what_its_paper_says() {
        let loops = trace(&[0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert!(hits(&mut Lru::new(&loops, 2), &loops).is_empty());
        assert_eq!(hits(&mut Belady::new(&loops, 2), &loops).len(), 4);
        // 0 is used again; SIEVE passes over it once, and takes 1.
        let again = trace(&[0, 1, 0, 2, 0, 1]);
        assert_eq!(hits(&mut Sieve::new(&again, 2), &again), [2, 4]);
        assert_eq!(hits(&mut Lru::new(&again, 2), &again), [2, 4]);
        // What is used once leaves the small queue; what was used twice there stays.
        let mut uses = vec![0, 0, 0];
        uses.extend(1..40);
        uses.push(0);
        let scan = trace(&uses);
        assert_eq!(hits(&mut S3Fifo::new(&scan, 10), &scan), [1, 2, 42]);
        assert_eq!(hits(&mut Lru::new(&scan, 10), &scan), [1, 2]);
    }
}
