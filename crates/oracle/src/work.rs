//! The heavy part of the oracle, cut out so that it runs without the lock around it.

use std::sync::Arc;

use crate::order::Order;
use crate::sampler::Sampler;
use crate::search::{Found, Piece, Samples};
use crate::shuffle::{dali_order, torch_randperm};

/// Heavy work to be done without holding the lock around the oracle.
#[derive(Debug)]
pub struct Work {
    pub(crate) n: u32,
    pub(crate) task: Task,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    /// Make the likeliest order, to be kept at hand.
    Dali,
    /// Try candidates.
    Search { piece: Piece, samples: Samples },
    /// Make the order that follows another.
    Next { sampler: Sampler, before: Arc<Order> },
    /// Make the order of a seed given from outside.
    Seed { sampler: Sampler, seed: u64 },
    /// Make a given order searchable.
    Given { sampler: Sampler, positions: Vec<u32> },
}

/// What [`Work`] found, for [`Oracle::accept`](crate::Oracle::accept).
#[derive(Debug)]
pub struct Outcome {
    pub(crate) found: Found,
    pub(crate) standing: Standing,
}

/// What speaks for the orders of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// They were tried against opens and fit.
    Proven,
    /// They follow an order that streams are on.
    Followed,
    /// They were given or learned.
    Given,
    /// Nothing yet.
    Likely,
}

impl Work {
    /// Does the work. Cost: at most some two million draws or, for a larger data set, one order's
    /// n draws; 3 to 10 ns each. Takes 4 to 12 bytes a file while it runs.
    #[must_use]
    pub fn run(self) -> Outcome {
        let n = self.n;
        let single = |order: Order| Found { orders: vec![Arc::new(order)], carry: None };
        match self.task {
            Task::Dali => {
                let order = Order::table(Sampler::Dali, n, dali_order(n as usize));
                Outcome { found: single(order), standing: Standing::Likely }
            }
            Task::Search { piece, samples } => {
                Outcome { found: piece.run(n, &samples), standing: Standing::Proven }
            }
            Task::Next { sampler, before } => {
                let positions = sampler.positions(n, before.positions());
                let order = positions.map(|positions| Order::table(sampler, n, positions));
                Outcome {
                    found: order.map(single).unwrap_or_default(),
                    standing: Standing::Followed,
                }
            }
            Task::Seed { sampler, seed } => {
                let order = Order::table(sampler, n, torch_randperm(n, seed));
                Outcome { found: single(order), standing: Standing::Given }
            }
            Task::Given { sampler, positions } => {
                let order = Order::table(sampler, n, positions);
                Outcome { found: single(order), standing: Standing::Given }
            }
        }
    }
}

// The owner runs work in another thread than the one that asked for it.
const _: () = {
    const fn send<T: Send + 'static>() {}
    send::<Work>();
    send::<Outcome>();
    send::<crate::Oracle>();
};
