//! The places one stream visits in an order, as arithmetic: a start, a stride, and for a loader's
//! worker the jump from one batch to its next.
//!
//! | who reads | stride | block | jump |
//! | --- | --- | --- | --- |
//! | a shard of DALI, a plain scan | 1 | | |
//! | rank of W without workers | W | | |
//! | worker of V, rank of W, batches of B | W | B | W B V |

/// Where a stream goes. The places of one epoch, counted by an index from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The place of index 0.
    pub(crate) start: u32,
    /// From one place to the next within a block; at least 1.
    pub(crate) stride: u32,
    /// Places in a block; 0: there are no blocks.
    pub(crate) block: u32,
    /// From the start of a block to the start of the next; at least `block * stride`.
    pub(crate) jump: u32,
}

impl Shape {
    /// Places without blocks.
    pub(crate) fn plain(start: u32, stride: u32) -> Self {
        Self { start, stride, block: 0, jump: 0 }
    }

    /// The place of an index. May lie beyond the order.
    pub(crate) fn place(&self, index: u64) -> u64 {
        let (start, stride) = (u64::from(self.start), u64::from(self.stride));
        if self.block == 0 {
            return start + index * stride;
        }
        let block = u64::from(self.block);
        start + index / block * u64::from(self.jump) + index % block * stride
    }

    /// The index of a place; `None`: the stream does not visit it.
    pub(crate) fn index(&self, place: u32) -> Option<u64> {
        let offset = place.checked_sub(self.start)?;
        if self.block == 0 {
            return offset.is_multiple_of(self.stride).then(|| u64::from(offset / self.stride));
        }
        let (block, within) = (offset / self.jump, offset % self.jump);
        let step = within / self.stride;
        (within.is_multiple_of(self.stride) && step < self.block)
            .then(|| u64::from(block) * u64::from(self.block) + u64::from(step))
    }

    /// How many places lie below `end`.
    pub(crate) fn len(&self, end: u32) -> u64 {
        let Some(span) = end.checked_sub(self.start) else { return 0 };
        let steps = |span: u32| u64::from(span.div_ceil(self.stride));
        if self.block == 0 {
            return steps(span);
        }
        let whole = u64::from(span / self.jump) * u64::from(self.block);
        whole + steps(span % self.jump).min(u64::from(self.block))
    }

    /// The shape of a worker of a loader whose batches take `block` places.
    pub(crate) fn with_blocks(self, block: u32, jump: u32) -> Self {
        Self { block, jump, ..self }
    }
}

/// What the latest places of a stream say about where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gait {
    /// Even steps: the shape, the index that comes next, and whether the shape starts at the first
    /// of the places.
    Even { shape: Shape, next: u64, whole: bool },
    /// Forward in uneven steps: several streams take turns.
    Uneven,
}

/// Steps that must be alike, in percent, for a gait without blocks to be even.
const ALIKE_PERCENT: usize = 70;

/// Reads a gait from at least two places of an order, the oldest first. `begins`: the first place is
/// where the stream began, hence where a batch begins.
pub(crate) fn gait(places: &[u32], begins: bool) -> Gait {
    let fall = places.windows(2).rposition(|pair| pair[1] < pair[0]);
    let from = fall.map_or(0, |at| at + 1);
    let (places, begins) = (&places[from..], begins && from == 0);
    let Some(&last) = places.last() else { return Gait::Uneven };
    let steps: Vec<u32> = places.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let Some(stride) = stride(&steps) else {
        return Gait::Uneven;
    };
    let jumps: Vec<usize> = (0..steps.len()).filter(|&i| steps[i] != stride).collect();
    let even = |start: u32, block: Option<(u32, u32)>, at: usize| {
        let shape = Shape::plain(start, stride);
        let shape = block.map_or(shape, |(block, jump)| shape.with_blocks(block, jump));
        let next = u64::try_from(places.len() - at).unwrap_or(0);
        Gait::Even { shape, next, whole: at == 0 }
    };
    match jumps[..] {
        [] => even(places[0], None, 0),
        [at] if begins && places.len() - at - 1 <= at + 1 => {
            even(places[0], Some(block_of(at + 1, steps[at], stride)), 0)
        }
        [at] => even(places[at + 1], None, at + 1),
        [first, second, ..] => {
            let length = second - first;
            let regular = jumps.windows(2).all(|pair| pair[1] - pair[0] == length)
                && jumps.iter().all(|&at| steps[at] == steps[first])
                && first < length;
            if regular {
                let from_start = begins && first + 1 == length;
                let at = if from_start { 0 } else { first + 1 };
                return even(places[at], Some(block_of(length, steps[first], stride)), at);
            }
            let alike = steps.len() - jumps.len();
            if alike * 100 < steps.len() * ALIKE_PERCENT {
                return Gait::Uneven;
            }
            even(last, None, places.len() - 1)
        }
    }
}

/// Block length and jump from the step between two blocks.
fn block_of(length: usize, step: u32, stride: u32) -> (u32, u32) {
    let block = u32::try_from(length).unwrap_or(u32::MAX);
    (block, step + (block - 1) * stride)
}

/// The commonest step; of two that are as common to within one, the shorter.
fn stride(steps: &[u32]) -> Option<u32> {
    let count = |step: u32| steps.iter().filter(|&&other| other == step).count();
    let common = *steps.iter().max_by_key(|&&step| (count(step), u32::MAX - step))?;
    let shorter = steps.iter().copied().filter(|&step| step < common);
    let rival = shorter.filter(|&step| count(common) <= count(step) + 1).min_by_key(|&step| step);
    Some(rival.filter(|&step| 1 < count(step)).unwrap_or(common)).filter(|&step| 0 < step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_indices_are_inverse_and_counted() {
        for (start, stride, block, jump) in
            [(0, 1, 0, 0), (3, 4, 0, 0), (0, 1, 16, 64), (5, 2, 3, 24), (7, 8, 256, 8_192)]
        {
            let shape = Shape { start, stride, block, jump };
            for end in [0, 1, 7, 100, 9_999, 30_000] {
                let visited: Vec<u32> = (0..)
                    .map(|index| u32::try_from(shape.place(index)).expect("small"))
                    .take_while(|&place| place < end)
                    .collect();
                assert_eq!(shape.len(end), visited.len() as u64, "{shape:?} below {end}");
                for place in 0..end {
                    let index = visited.iter().position(|&it| it == place).map(|it| it as u64);
                    assert_eq!(shape.index(place), index, "{shape:?} at {place}");
                }
            }
        }
    }

    fn places(shape: Shape, indices: std::ops::Range<u64>) -> Vec<u32> {
        indices.map(|index| u32::try_from(shape.place(index)).expect("small")).collect()
    }

    #[test]
    fn a_gait_is_read_from_its_places() {
        let plain = Shape::plain(40, 8);
        let whole = Gait::Even { shape: plain, next: 6, whole: true };
        assert_eq!(gait(&places(plain, 0..6), true), whole);
        let worker = Shape::plain(3, 2).with_blocks(4, 32);
        let whole = Gait::Even { shape: worker, next: 11, whole: true };
        assert_eq!(gait(&places(worker, 0..11), true), whole);
        // Joined in the middle of a batch: the first batch that was seen from its start.
        let from_second = Shape { start: 3 + 32, ..worker };
        let midway = Gait::Even { shape: from_second, next: 9, whole: false };
        assert_eq!(gait(&places(worker, 2..13), false), midway);
        assert_eq!(gait(&[5, 6, 9, 10, 17, 18, 30, 33], true), Gait::Uneven);
    }
}
