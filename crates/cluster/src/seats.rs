//! How many connections the node's port holds at once, counted by what they turn out to be.
//!
//! # Invariants
//!
//! - A connection is a stranger's until it has shown what it is; then it has a seat among the guests or among the
//!   nodes, and a stranger's is free again.
//! - Each kind has its own number of seats: guests, however many, never keep a node out, nor do nodes that open lanes
//!   keep out one that has no connection yet.
//! - A node stays one, whatever else it asks for.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that have not shown yet what they are: all loaders of a machine, and all nodes, at the same
/// moment. Each is gone or has another seat within seconds.
const STRANGERS_MAX: usize = 512;

/// Connections of guests: a hundred processes with the ten that boto3 opens. An idle one costs about 20 KiB.
const GUESTS_MAX: usize = 1_024;

/// Connections of nodes that speak HTTP/2: two from each of 500.
const NODES_MAX: usize = 1_024;

/// Connections of nodes that speak HTTP/1.1 (`lanes`): all that 64 of them open. Who finds none free does without.
const LANES_MAX: usize = 1_024;

/// What a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nobody knows yet.
    Stranger,
    /// Somebody who asks what is not for nodes.
    Guest,
    /// A node that was let in.
    Node,
    /// The same, for one read at a time.
    Lane,
}

impl Kind {
    /// Seats for it.
    pub(crate) fn seats_max(self) -> usize {
        match self {
            Self::Stranger => STRANGERS_MAX,
            Self::Guest => GUESTS_MAX,
            Self::Node => NODES_MAX,
            Self::Lane => LANES_MAX,
        }
    }
}

/// All seats of a port.
#[derive(Debug)]
pub(crate) struct Seats {
    free: [Arc<Semaphore>; 4],
}

/// One connection's seat, until dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    held: Mutex<(Kind, OwnedSemaphorePermit)>,
}

impl Seats {
    pub(crate) fn new() -> Arc<Self> {
        let kinds = [Kind::Stranger, Kind::Guest, Kind::Node, Kind::Lane];
        let free = kinds.map(|kind| Arc::new(Semaphore::new(kind.seats_max())));
        Arc::new(Self { free })
    }

    /// A seat for a connection that has just come in; `None`: there is none.
    pub(crate) fn stranger(self: &Arc<Self>) -> Option<Seat> {
        let held = (Kind::Stranger, self.free(Kind::Stranger)?);
        Some(Seat { seats: Arc::clone(self), held: Mutex::new(held) })
    }

    fn free(&self, kind: Kind) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free[kind as usize]).try_acquire_owned().ok()
    }
}

impl Seat {
    pub(crate) fn kind(&self) -> Kind {
        self.held.lock().0
    }

    /// From now on it is the seat of such a one; false: there is none free.
    pub(crate) fn change(&self, kind: Kind) -> bool {
        let mut held = self.held.lock();
        if held.0 == kind || matches!(held.0, Kind::Node | Kind::Lane) {
            return true;
        }
        match self.seats.free(kind) {
            Some(seat) => {
                *held = (kind, seat);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_seats_and_who_shows_what_it_is_frees_a_strangers() {
        let seats = Seats::new();
        let as_many = |kind: Kind| {
            let seat = || seats.stranger().filter(|seat| seat.change(kind));
            (0..5_000).map_while(|_| seat()).collect::<Vec<_>>()
        };
        let guests = as_many(Kind::Guest);
        assert_eq!(guests.len(), GUESTS_MAX);
        let nodes = as_many(Kind::Node);
        let lanes = as_many(Kind::Lane);
        assert_eq!(lanes.len(), LANES_MAX);
        let strangers = as_many(Kind::Stranger);
        assert_eq!((nodes.len(), strangers.len()), (NODES_MAX, STRANGERS_MAX));
        assert!(seats.stranger().is_none());
        assert!(!strangers[0].change(Kind::Guest), "it stays what it is");
        assert_eq!(strangers[0].kind(), Kind::Stranger);
        drop(guests);
        assert!(strangers[0].change(Kind::Guest) && strangers[0].change(Kind::Guest));
        assert!(seats.stranger().is_some());
        assert!(nodes[0].change(Kind::Guest));
        assert_eq!(nodes[0].kind(), Kind::Node);
    }
}
