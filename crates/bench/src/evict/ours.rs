//! Our policy, by the very code that the cache runs (`feedline_cache::worth` and `hunt`), over objects
//! without bytes; and the foresights that it may have.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use feedline_cache::hunt::{Candidate, Hunt, Outcome, Shelf};
use feedline_cache::worth::{Claim, Worth};
use feedline_model::{NextUse, ObjectId, Priority};

use super::classic::Policy;
use super::traces::{NO_SET, Random, Trace};

/// Objects fetched ahead for each use, at most: a bucket that is twice as fast as the job.
const FILLS_PER_USE: usize = 2;

/// How far fill looks ahead in a known order, in uses.
const FILL_AHEAD: usize = 128;

/// What is known of the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// Nothing.
    Nothing,
    /// Which data sets are being read, and what of them was read in this epoch.
    Sets,
    /// The order.
    Order,
}

/// The id that stands for an object.
fn id_of(object: u32) -> ObjectId {
    let mut random = Random(u64::from(object));
    let (a, b) = (random.next_u64(), random.next_u64());
    let mut id = [0; 16];
    id[..8].copy_from_slice(&a.to_le_bytes());
    id[8..].copy_from_slice(&b.to_le_bytes());
    ObjectId(id)
}

/// One data set, as whoever watches the reads sees it.
#[derive(Debug, Clone, Default)]
struct Set {
    objects: Vec<u32>,
    epoch: u32,
    read: usize,
    last_use: Option<usize>,
    /// Where fill goes on.
    fill: usize,
}

impl Set {
    /// A set that nobody has used for this long is not being read any more.
    fn is_live(&self, at: usize) -> bool {
        self.last_use.is_some_and(|last| at - last <= (self.objects.len() / 8).max(64))
    }
}

/// The future, as far as it is known at this moment.
#[derive(Debug)]
struct Future<'a> {
    trace: &'a Trace,
    knowledge: Knowledge,
    at: usize,
    sets: Vec<Set>,
    /// The epoch of its set in which each object was last read; 0: never.
    read_in: Vec<u32>,
    /// Known versions only: what is not used any more in the set is not listed any more.
    distances: Vec<u64>,
    /// When each object is used next, counted from the start.
    next: Vec<u64>,
}

impl<'a> Future<'a> {
    fn new(trace: &'a Trace, knowledge: Knowledge) -> Self {
        let mut sets = Vec::new();
        for (object, set) in (0..).zip(&trace.sets) {
            if *set != NO_SET {
                let number = usize::from(*set);
                if sets.len() <= number {
                    sets.resize(number + 1, Set { epoch: 1, ..Set::default() });
                }
                sets[number].objects.push(object);
            }
        }
        let mut next = vec![u64::MAX; trace.sizes.len()];
        for (at, object) in trace.uses.iter().enumerate().rev() {
            next[*object as usize] = at as u64;
        }
        let read_in = vec![0; trace.sizes.len()];
        Self { trace, knowledge, at: 0, sets, read_in, distances: trace.distances(), next }
    }

    fn set(&self, object: u32) -> Option<&Set> {
        self.sets.get(usize::from(self.trace.sets[object as usize]))
    }

    /// The use at `at` begins.
    fn observe(&mut self, at: usize, object: u32) {
        self.at = at;
        self.next[object as usize] = self.distances[at].saturating_add(at as u64);
        let Some(set) = self.sets.get_mut(usize::from(self.trace.sets[object as usize])) else {
            return;
        };
        set.last_use = Some(at);
        // Every object once an epoch: one that comes again, or after the last, begins a new one.
        if self.read_in[object as usize] == set.epoch || set.read == set.objects.len() {
            set.epoch += 1;
            set.read = 0;
        }
        self.read_in[object as usize] = set.epoch;
        set.read += 1;
    }

    fn next_use(&self, object: u32) -> NextUse {
        let Some(set) = self.set(object).filter(|set| set.is_live(self.at)) else {
            return NextUse::Unknown;
        };
        let next = self.next[object as usize];
        match self.knowledge {
            Knowledge::Nothing => NextUse::Unknown,
            // Replaced: the listing does not name this version any more.
            _ if next == u64::MAX && self.read_in[object as usize] + 1 < set.epoch => {
                NextUse::Unknown
            }
            Knowledge::Order => NextUse::After(next.saturating_sub(self.at as u64)),
            Knowledge::Sets if self.read_in[object as usize] == set.epoch => NextUse::NextEpoch,
            Knowledge::Sets => NextUse::ThisEpoch,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    id: ObjectId,
    used: u64,
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    place: HashMap<ObjectId, usize>,
}

struct View<'a>(&'a RefCell<Slots>, u64);

impl Shelf for View<'_> {
    fn slots(&self) -> usize {
        self.0.borrow().slots.len()
    }

    fn look(&self, range: Range<usize>, found: &mut Vec<Candidate>) {
        let here = self.0.borrow();
        let slots = here.slots[range].iter().flatten();
        found.extend(
            slots.map(|slot| Candidate { id: slot.id, idle: self.1.saturating_sub(slot.used) }),
        );
    }
}

/// Our cache.
#[derive(Debug)]
pub struct Ours<'a> {
    trace: &'a Trace,
    future: Future<'a>,
    worth: Worth,
    hunt: Hunt,
    slots: Rc<RefCell<Slots>>,
    objects: HashMap<ObjectId, u32>,
    free: u64,
    fills: bool,
    filled: u64,
    written: u64,
    /// The first use in the known order that fill has not looked at.
    ahead: usize,
}

impl<'a> Ours<'a> {
    /// An empty one of this size.
    #[must_use]
    pub fn new(trace: &'a Trace, bytes: u64, knowledge: Knowledge, fills: bool) -> Self {
        let objects = u32::try_from(trace.sizes.len()).unwrap_or(u32::MAX);
        Self {
            trace,
            future: Future::new(trace, knowledge),
            worth: Worth::default(),
            hunt: Hunt::default(),
            slots: Rc::default(),
            objects: (0..objects).map(|object| (id_of(object), object)).collect(),
            free: bytes,
            fills,
            filled: 0,
            written: 0,
            ahead: 0,
        }
    }

    /// Keeps the object if there is room or something yields to it. Returns whether it does.
    fn admit(&mut self, object: u32, priority: Priority) -> bool {
        let size = self.trace.sizes[object as usize];
        let id = id_of(object);
        if self.free < size {
            let claim = self.worth.claim(&id, self.future.next_use(object), priority);
            if !self.hunt.is_paused(&claim, &self.worth) {
                self.make_room(&claim, size);
            }
        }
        if self.free < size {
            return false;
        }
        self.free -= size;
        self.written += 1;
        let mut here = self.slots.borrow_mut();
        let slot = Slot { id, used: self.worth.time() };
        let place = here.free.pop().unwrap_or_else(|| {
            here.slots.push(None);
            here.slots.len() - 1
        });
        here.slots[place] = Some(slot);
        here.place.insert(id, place);
        true
    }

    fn make_room(&mut self, claim: &Claim, size: u64) {
        let slots = Rc::clone(&self.slots);
        let (future, objects, trace, free) =
            (&self.future, &self.objects, self.trace, &mut self.free);
        let mut evict = |id: &ObjectId| {
            let mut here = slots.borrow_mut();
            let Some(place) = here.place.remove(id) else { return Outcome::Refused };
            here.slots[place] = None;
            here.free.push(place);
            *free += trace.sizes[objects[id] as usize];
            if *free >= size { Outcome::Enough } else { Outcome::Gone }
        };
        let view = View(&self.slots, self.worth.time());
        let victim = |id: &ObjectId| future.next_use(objects[id]).into();
        self.hunt.run(&self.worth, &view, &victim, claim, &mut evict);
    }

    fn has(&self, object: u32) -> bool {
        self.slots.borrow().place.contains_key(&id_of(object))
    }

    /// Fetches what will be needed, as far as the bucket allows in the time of one use.
    fn fill(&mut self) {
        for _ in 0..FILLS_PER_USE {
            let wanted = match self.future.knowledge {
                Knowledge::Nothing => None,
                Knowledge::Sets => self.next_unread(),
                Knowledge::Order => self.next_ordered(),
            };
            let Some(object) = wanted else { return };
            if !self.admit(object, Priority::Fill) {
                return;
            }
            self.filled += 1;
        }
    }

    /// The next object in the known order that is not here.
    fn next_ordered(&mut self) -> Option<u32> {
        let now = self.future.at + 1;
        let end = (now + FILL_AHEAD).min(self.trace.uses.len());
        self.ahead = self.ahead.max(now);
        while self.ahead < end {
            let object = self.trace.uses[self.ahead];
            let known = !matches!(self.future.next_use(object), NextUse::Unknown);
            if known && !self.has(object) {
                return Some(object);
            }
            self.ahead += 1;
        }
        None
    }

    /// An object of a set being read that is neither here nor read in this epoch.
    fn next_unread(&mut self) -> Option<u32> {
        let at = self.future.at;
        for number in 0..self.future.sets.len() {
            let count = self.future.sets[number].objects.len();
            if !self.future.sets[number].is_live(at) {
                continue;
            }
            // A few steps each time: it comes round in the course of the epoch.
            for _ in 0..8 {
                let set = &mut self.future.sets[number];
                set.fill = (set.fill + 1) % count;
                let object = set.objects[set.fill];
                let is_unread = self.future.next_use(object) == NextUse::ThisEpoch;
                // A version that is not yet, or no more, in the bucket cannot be fetched.
                let exists = self.future.next[object as usize] <= (at + 2 * count) as u64;
                if is_unread && exists && !self.has(object) {
                    return Some(object);
                }
            }
        }
        None
    }
}

impl Policy for Ours<'_> {
    fn use_object(&mut self, at: usize, object: u32) -> bool {
        if self.fills && at > 0 {
            self.fill();
        }
        self.future.observe(at, object);
        let time = self.worth.used(&id_of(object), 0);
        let place = self.slots.borrow().place.get(&id_of(object)).copied();
        if let Some(place) = place {
            if let Some(slot) = &mut self.slots.borrow_mut().slots[place] {
                slot.used = time;
            }
            return true;
        }
        self.admit(object, Priority::Demand);
        false
    }

    fn filled(&self) -> u64 {
        self.filled
    }

    fn written(&self) -> u64 {
        self.written
    }
}
