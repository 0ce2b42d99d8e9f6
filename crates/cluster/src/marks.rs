//! Who is waiting for whom, by object: what keeps requests from going round in circles.
//!
//! While a node answers a peer's request for an object it acts as the object's owner: its own miss goes
//! to the bucket. While it waits for an object from a peer it tells other peers that ask for that
//! object to look elsewhere. One lock decides between the two, so that two nodes that hold each other
//! for the owner never wait for each other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use feedline_model::ObjectId;
use parking_lot::Mutex;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Serving,
    Asking,
}

/// All objects for which somebody waits. Never both sides for one object.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    marks: Mutex<HashMap<ObjectId, (Side, u32)>>,
}

/// A mark, until dropped.
#[derive(Debug)]
pub(crate) struct Mark {
    marks: Arc<Marks>,
    id: ObjectId,
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut marks = self.marks.marks.lock();
        if let Entry::Occupied(mut entry) = marks.entry(self.id) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
    }
}

impl Marks {
    /// A peer is being answered. `None`: this node itself waits for a peer.
    pub(crate) fn serve(self: &Arc<Self>, id: ObjectId) -> Option<Mark> {
        self.enter(id, Side::Serving)
    }

    /// A peer is about to be asked. `None`: a peer is being answered, so the bucket is next.
    pub(crate) fn ask(self: &Arc<Self>, id: ObjectId) -> Option<Mark> {
        self.enter(id, Side::Asking)
    }

    fn enter(self: &Arc<Self>, id: ObjectId, side: Side) -> Option<Mark> {
        let mut marks = self.marks.lock();
        let (there, count) = marks.entry(id).or_insert((side, 0));
        if *there != side {
            return None;
        }
        *count += 1;
        Some(Mark { marks: Arc::clone(self), id })
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.marks.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_waited_for_on_one_side_only_and_forgotten_afterwards() {
        let marks = Arc::new(Marks::default());
        let (a, b) = (ObjectId([1; 16]), ObjectId([2; 16]));
        let serving = [marks.serve(a), marks.serve(a)];
        assert!(serving.iter().all(Option::is_some), "many peers may be answered");
        assert!(marks.ask(a).is_none());
        let asking = marks.ask(b);
        assert!(asking.is_some() && marks.serve(b).is_none());
        let [first, second] = serving;
        drop(first);
        assert!(marks.ask(a).is_none(), "one is still being answered");
        drop(second);
        assert!(marks.ask(a).is_some());
        drop(asking);
        assert_eq!(marks.len(), 0);
    }
}
