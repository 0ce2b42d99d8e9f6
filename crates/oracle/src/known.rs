//! The orders that are kept at hand, and what the job has shown of each kind of sampler.

use std::sync::Arc;

use crate::fit::{
    BITS_COLD, BITS_FOLLOWED, BITS_PRIOR, BITS_PROVEN, PROVEN_OPENS, RUN_LISTING, Steps,
};
use crate::order::Order;
use crate::sampler::{After, Family, Sampler};

/// An order that every open stream is compared with.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) order: Arc<Order>,
    /// The opens of the data set when a stream was last found on it; `None`: none ever was.
    pub(crate) used: Option<u64>,
    /// When streams together were first found on it.
    found: Option<u64>,
}

impl Known {
    /// Streams were found on it, together or one of them.
    pub(crate) fn found(&mut self, opens: u64) {
        self.used = Some(opens);
        self.found.get_or_insert(opens);
    }

    /// The evidence and the length of run that a stream must show to lock on it, at this number of
    /// opens of the data set. `least`: what is enough for an order that others follow.
    pub(crate) fn threshold(&self, opens: u64, n: u32, least: f32) -> (f32, u32) {
        let epoch = u64::from(n).max(1_024);
        let followed = self.used.is_some_and(|used| opens <= used.saturating_add(epoch));
        if followed {
            let new = self.found.is_some_and(|found| opens <= found + PROVEN_OPENS);
            return (if new { BITS_PROVEN } else { least }, 2);
        }
        match self.order.sampler {
            Sampler::Sequential | Sampler::Reversed => (BITS_COLD, RUN_LISTING),
            Sampler::Hint(_) | Sampler::HintSeed(_) => (BITS_FOLLOWED, 2),
            Sampler::Learned => (BITS_PRIOR, 2),
            Sampler::Dali | Sampler::DaliEpoch(..) | Sampler::Torch(_) => (BITS_COLD, 2),
        }
    }
}

/// The orders at hand. Few: a linear search is quicker than anything else.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) orders: Vec<Known>,
    /// Counts changes of the list, so that fits know when they are out of date.
    pub(crate) version: u64,
    tables_max: usize,
}

impl Shelf {
    pub(crate) fn new(n: u32, memory_bytes_max: u64) -> Self {
        let each = 8 * u64::from(n).max(1);
        // The order in use and the next one are kept whatever they take.
        let tables_max = usize::try_from(memory_bytes_max / each).unwrap_or(2).clamp(2, 16);
        let listing = [Order::sequential(n), Order::reversed(n)];
        let orders = listing.map(|order| Known { order: Arc::new(order), used: None, found: None });
        Self { orders: orders.into(), version: 1, tables_max }
    }

    pub(crate) fn find(&self, sampler: Sampler) -> Option<&Arc<Order>> {
        self.orders.iter().map(|known| &known.order).find(|order| order.sampler == sampler)
    }

    /// A stream was found on the order.
    pub(crate) fn use_now(&mut self, sampler: Sampler, opens: u64) {
        if let Some(known) = self.orders.iter_mut().find(|known| known.order.sampler == sampler) {
            known.found(opens);
        }
    }

    /// Adds an order or replaces the one of the same sampler. `used`: see [`Known`].
    pub(crate) fn add(&mut self, order: Arc<Order>, used: Option<u64>) {
        self.orders.retain(|known| known.order.sampler != order.sampler);
        self.orders.push(Known { order, used, found: None });
        self.version += 1;
    }

    /// Takes an order away.
    pub(crate) fn remove(&mut self, sampler: Sampler) {
        self.orders.retain(|known| known.order.sampler != sampler);
        self.version += 1;
    }

    /// Throws away the tables that nobody needs beyond those that may be kept: first the one that was
    /// of use the longest ago.
    pub(crate) fn shrink(&mut self, needed: impl Fn(Sampler) -> bool) {
        while self.tables_max < self.orders.iter().filter(|known| known.order.is_table()).count() {
            let unneeded = self
                .orders
                .iter()
                .enumerate()
                .filter(|(_, known)| known.order.is_table() && !needed(known.order.sampler));
            let Some((at, _)) = unneeded.min_by_key(|(_, known)| known.used) else { return };
            self.orders.remove(at);
            self.version += 1;
        }
    }
}

/// What the job has shown of samplers of one family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habit {
    pub(crate) family: Family,
    /// What its streams do at the end of an epoch, once seen.
    pub(crate) after: Option<After>,
    /// The steps of its latest stream.
    pub(crate) steps: Steps,
}

/// The habits seen so far; at most one for each family.
#[derive(Debug, Default)]
pub(crate) struct Habits(Vec<Habit>);

impl Habits {
    pub(crate) fn get(&self, family: Family) -> Option<&Habit> {
        self.0.iter().find(|habit| habit.family == family)
    }

    fn entry(&mut self, family: Family) -> &mut Habit {
        let at = self.0.iter().position(|habit| habit.family == family).unwrap_or_else(|| {
            self.0.push(Habit { family, after: None, steps: Steps::default() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    pub(crate) fn see_after(&mut self, family: Family, after: After) {
        self.entry(family).after = Some(after);
    }

    pub(crate) fn see_steps(&mut self, family: Family, steps: Steps) {
        self.entry(family).steps = steps;
    }
}
