//! One order of a data set: which position stands at a place, and at which place a position stands.

use crate::sampler::Sampler;

/// What stands for "nowhere" in a table.
const NOWHERE: u32 = u32::MAX;

/// An order that has fewer than one position in so many is kept as a sorted list.
const PART: usize = 4;

/// An order and its inverse.
///
/// Sequential and reversed ones are computed; every other takes 8 bytes a file, one of few of the
/// positions 12 bytes for each.
#[derive(Debug)]
pub(crate) struct Order {
    /// Whose order it is.
    pub(crate) sampler: Sampler,
    places: Places,
}

#[derive(Debug)]
enum Places {
    Forward(u32),
    Backward(u32),
    Table {
        positions: Vec<u32>,
        places: Vec<u32>,
    },
    /// Few of the positions: each with its place, sorted.
    Part {
        positions: Vec<u32>,
        places: Vec<(u32, u32)>,
    },
}

impl Order {
    /// The listing itself.
    pub(crate) fn sequential(n: u32) -> Self {
        Self { sampler: Sampler::Sequential, places: Places::Forward(n) }
    }

    /// The listing from its end.
    pub(crate) fn reversed(n: u32) -> Self {
        Self { sampler: Sampler::Reversed, places: Places::Backward(n) }
    }

    /// Any order of a data set of `n` files. Every position is below `n`; those that stand twice
    /// are found at their first place. Cost: n random writes, or a sort.
    pub(crate) fn table(sampler: Sampler, n: u32, positions: Vec<u32>) -> Self {
        if positions.len() < n as usize / PART {
            return Self::part(sampler, positions);
        }
        let mut places = vec![NOWHERE; n as usize];
        for (place, &position) in (0_u32..).zip(&positions) {
            let slot = &mut places[position as usize];
            if *slot == NOWHERE {
                *slot = place;
            }
        }
        Self { sampler, places: Places::Table { positions, places } }
    }

    fn part(sampler: Sampler, positions: Vec<u32>) -> Self {
        let mut places: Vec<(u32, u32)> = positions.iter().copied().zip(0..).collect();
        places.sort_unstable();
        places.dedup_by_key(|(position, _)| *position);
        Self { sampler, places: Places::Part { positions, places } }
    }

    /// The number of places.
    pub(crate) fn len(&self) -> u32 {
        match &self.places {
            Places::Forward(n) | Places::Backward(n) => *n,
            Places::Table { positions, .. } | Places::Part { positions, .. } => {
                u32::try_from(positions.len()).unwrap_or(NOWHERE)
            }
        }
    }

    /// The position at a place below `len`.
    pub(crate) fn at(&self, place: u32) -> u32 {
        match &self.places {
            Places::Forward(_) => place,
            Places::Backward(n) => n - 1 - place,
            Places::Table { positions, .. } | Places::Part { positions, .. } => {
                positions[place as usize]
            }
        }
    }

    /// Where a position stands; `None` if the order leaves it out.
    pub(crate) fn place(&self, position: u32) -> Option<u32> {
        match &self.places {
            Places::Forward(n) => (position < *n).then_some(position),
            Places::Backward(n) => (position < *n).then(|| n - 1 - position),
            Places::Table { places, .. } => {
                places.get(position as usize).copied().filter(|&place| place != NOWHERE)
            }
            Places::Part { places, .. } => {
                let at = places.binary_search_by_key(&position, |&(position, _)| position).ok()?;
                Some(places[at].1)
            }
        }
    }

    /// The positions in order, where they are kept as a table.
    pub(crate) fn positions(&self) -> Option<&[u32]> {
        match &self.places {
            Places::Table { positions, .. } | Places::Part { positions, .. } => Some(positions),
            Places::Forward(_) | Places::Backward(_) => None,
        }
    }

    /// Whether it takes memory by the file.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self.places, Places::Table { .. })
    }
}
