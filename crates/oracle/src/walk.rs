//! A stream that is locked on an order: where it is, where it goes, and whether it still goes there.

use std::sync::Arc;

use crate::order::Order;
use crate::sampler::After;
use crate::shape::Shape;

/// Opens in a row that are not where they were expected before the lock is dropped.
const MISSES_MAX: u32 = 3;
/// Places that may be passed over without an open: files whose pages the kernel holds are read
/// without asking where opens do not reach the daemon.
const SKIP_MAX: u64 = 256;
/// Short seeks within so many opens show that several streams share the order.
const SEEKS_MAX: u32 = 3;
/// See [`SEEKS_MAX`].
const SEEKS_OPENS: u64 = 128;
/// The largest batch of a loader's worker.
const BLOCK_MAX: u32 = 65_536;
/// The most workers of one loader.
pub(crate) const WORKERS_MAX: u32 = 1_024;

/// What an open of a locked stream was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Where it was expected.
    Hit,
    /// Where it was expected, and the stream showed what it does at the end of an epoch.
    Epoch(After),
    /// On the order, but not where it was expected: the stream is followed to its new place.
    Moved,
    /// Elsewhere; the lock holds.
    Miss,
    /// The lock is dropped.
    Dropped,
    /// The stream shares its order with others: to be followed together with them.
    Uneven,
}

/// A stream on an order.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pub(crate) order: Arc<Order>,
    /// The order of the next epoch, where it is another one and known.
    pub(crate) next_order: Option<Arc<Order>>,
    pub(crate) shape: Shape,
    /// Whether the shape's blocks are a guess from where other workers began.
    pub(crate) guessed: bool,
    /// Whether the shape's start is where the stream began its epoch.
    pub(crate) whole: bool,
    /// The index of the next open.
    pub(crate) next: u64,
    pub(crate) after: After,
    /// Opens in an epoch, once the stream has shown it.
    pub(crate) epoch_opens: Option<u64>,
    /// The first place that is not the stream's: the end of its shard or of the order.
    pub(crate) end: u32,
    misses: u32,
    seeks: u32,
    sought: u64,
    /// The place of the latest miss in `order`, or in `next_order` (`true`).
    pending: Option<(u32, bool)>,
    /// Opens since the lock, and how many of them were told ahead of time.
    pub(crate) opens: u64,
    pub(crate) told: u64,
}

/// A place to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ahead {
    place: u32,
    next_epoch: bool,
}

impl Walk {
    /// A stream that has made `next` opens of the shape.
    pub(crate) fn new(order: Arc<Order>, shape: Shape, whole: bool, next: u64) -> Self {
        let after = order.sampler.after(shape.stride);
        let end = order.len();
        Self {
            order,
            next_order: None,
            shape,
            guessed: false,
            whole,
            next,
            after,
            epoch_opens: None,
            end,
            misses: 0,
            seeks: 0,
            sought: 0,
            pending: None,
            opens: 0,
            told: 0,
        }
    }

    /// Opens in an epoch.
    pub(crate) fn epoch_len(&self) -> u64 {
        self.epoch_opens.unwrap_or_else(|| self.shape.len(self.end))
    }

    /// Whether what is left of the epoch is less than a batch or two, or 2 % of it.
    pub(crate) fn near_end(&self) -> bool {
        let len = self.epoch_len();
        let slack = (2 * u64::from(self.shape.block)).max(16).max(len / 50);
        len <= self.next.saturating_add(slack)
    }

    /// The position that will be opened `k` opens from now; 1 is the next.
    pub(crate) fn position(&self, k: u64) -> Option<u32> {
        let ahead = self.ahead(k)?;
        let order = if ahead.next_epoch { self.next_order.as_ref()? } else { &self.order };
        (ahead.place < order.len()).then(|| order.at(ahead.place))
    }

    /// How many opens from now may be told to who fetches. A stream that has not gone on at the end of a
    /// shard yet is not taken to: if its epoch ends there, what lies beyond is never read here.
    pub(crate) fn tellable(&self) -> u64 {
        let len = self.shape.len(self.end);
        let is_part = 0 < self.shape.start || self.end < self.order.len();
        let is_bounded = is_part && self.after == After::Wrap && self.next <= len;
        if is_bounded { len - self.next } else { u64::MAX }
    }

    fn ahead(&self, k: u64) -> Option<Ahead> {
        let index = self.next + k - 1;
        let place = |index, next_epoch| {
            Some(Ahead { place: u32::try_from(self.shape.place(index)).ok()?, next_epoch })
        };
        if self.after == After::Wrap {
            let place = self.shape.place(index) % u64::from(self.order.len());
            return Some(Ahead { place: u32::try_from(place).ok()?, next_epoch: false });
        }
        let len = self.epoch_len();
        if index < len {
            return place(index, false);
        }
        if len == 0 {
            return None;
        }
        match self.after {
            After::Next => (index - len < len).then(|| place(index - len, true))?,
            After::Restart | After::Wrap => place(index % len, false),
        }
    }

    /// In how many opens of this stream it opens a position.
    pub(crate) fn opens_until(&self, position: u32) -> Option<u64> {
        let len = self.epoch_len();
        if let Some(place) = self.order.place(position) {
            if self.after == After::Wrap {
                let order = u64::from(self.order.len());
                let now = self.shape.place(self.next) % order;
                let way = (u64::from(place) + order - now) % order;
                let stride = u64::from(self.shape.stride);
                return way.is_multiple_of(stride).then(|| way / stride + 1);
            }
            let index = self.shape.index(place).filter(|&index| index < len);
            match index {
                Some(index) if self.next <= index => return Some(index - self.next + 1),
                Some(index) if self.after == After::Restart => {
                    return Some(len.saturating_sub(self.next) + index + 1);
                }
                _ => {}
            }
        }
        if self.after != After::Next {
            return None;
        }
        let place = self.next_order.as_ref()?.place(position)?;
        let index = self.shape.index(place).filter(|&index| index < len)?;
        Some(len.saturating_sub(self.next) + index + 1)
    }

    /// Takes in an open of the stream.
    pub(crate) fn observe(&mut self, position: u32) -> Step {
        if self.position(1) == Some(position) {
            let crossed = self.ahead(1).is_some_and(|ahead| ahead.next_epoch);
            let rolls = self.after == After::Restart && self.epoch_len() <= self.next;
            if crossed || rolls {
                self.roll();
            }
            self.advance(1);
            return Step::Hit;
        }
        if self.is_padding(position) {
            return Step::Hit;
        }
        if let Some(after) = self.epoch_ends_otherwise(position) {
            return Step::Epoch(after);
        }
        if let Some(skipped) = self.skipped(position) {
            self.advance(skipped);
            return Step::Hit;
        }
        self.follow(position)
    }

    fn advance(&mut self, opens: u64) {
        self.next += opens;
        self.opens += opens;
        self.misses = 0;
        self.pending = None;
    }

    /// The stream begins its next epoch.
    pub(crate) fn roll(&mut self) {
        self.next = 0;
        if self.after == After::Next
            && let Some(order) = self.next_order.take()
        {
            self.order = order;
        }
    }

    /// torch pads the last round of the ranks with the first places of the order.
    fn is_padding(&self, position: u32) -> bool {
        let len = self.order.len();
        let beyond = self.shape.place(self.next).checked_sub(u64::from(len));
        self.after != After::Wrap
            && beyond.is_some_and(|beyond| {
                beyond < u64::from(self.shape.stride.min(len))
                    && u32::try_from(beyond).is_ok_and(|place| self.order.at(place) == position)
            })
    }

    /// The epoch ended in another way than expected: learn it.
    fn epoch_ends_otherwise(&mut self, position: u32) -> Option<After> {
        let first = |order: &Order, start: u32| start < order.len() && order.at(start) == position;
        let opens = self.whole.then_some(self.next);
        let after = if self.whole && 1 < self.next && first(&self.order, self.shape.start) {
            After::Restart
        } else if self.next_order.as_ref().is_some_and(|next| first(next, self.shape.start)) {
            After::Next
        } else if self.after == After::Restart && self.goes_on(position) {
            After::Wrap
        } else {
            return None;
        };
        if after == After::Wrap {
            self.epoch_opens = None;
        } else {
            self.epoch_opens = opens.or(self.epoch_opens);
            self.after = after;
            self.roll();
        }
        self.after = after;
        self.told = self.opens;
        self.advance(1);
        Some(after)
    }

    /// Whether a position is the next place of the order where the shard was thought to end.
    fn goes_on(&self, position: u32) -> bool {
        let place = self.shape.place(self.next) % u64::from(self.order.len());
        self.shape.stride == 1
            && self.shape.block == 0
            && u32::try_from(place).is_ok_and(|place| self.order.at(place) == position)
    }

    /// How many opens further on its way a position is, if the stream may have passed over some.
    fn skipped(&self, position: u32) -> Option<u64> {
        if self.after == After::Wrap {
            let opens = self.opens_until(position)?;
            return (opens <= SKIP_MAX).then_some(opens);
        }
        let index = self.shape.index(self.order.place(position)?)?;
        let opens = (index + 1).checked_sub(self.next)?;
        (opens <= SKIP_MAX && index < self.epoch_len()).then_some(opens)
    }

    /// An open elsewhere: a stray one, or the first at a new place, which the next open tells.
    fn follow(&mut self, position: u32) -> Step {
        let place = self.order.place(position);
        let in_next = self.next_order.as_ref().and_then(|order| order.place(position));
        if let Some((from, other)) = self.pending {
            let now = if other { in_next } else { place };
            if now == from.checked_add(self.shape.stride) {
                return self.seek(from, other);
            }
        }
        self.misses += 1;
        if MISSES_MAX <= self.misses {
            return Step::Dropped;
        }
        self.pending = match (place, in_next, self.next_order.is_some() && self.near_end()) {
            (_, Some(place), true) => Some((place, true)),
            (Some(place), ..) => Some((place, false)),
            (None, ..) => None,
        };
        Step::Miss
    }

    /// The stream went on at `to`, and then one stride further.
    fn seek(&mut self, to: u32, other: bool) -> Step {
        if other {
            self.after = After::Next;
            self.roll();
            self.rebase(to);
            return Step::Moved;
        }
        if let Some((block, jump)) = self.block_before(to) {
            self.learn_block(block, jump);
            return Step::Moved;
        }
        if self.opens.saturating_sub(self.sought) > SEEKS_OPENS {
            self.seeks = 0;
        }
        self.sought = self.opens;
        self.seeks += 1;
        self.rebase(to);
        if SEEKS_MAX <= self.seeks { Step::Uneven } else { Step::Moved }
    }

    /// The block that the latest open was in.
    fn block_index(&self) -> u64 {
        match self.shape.block {
            0 => 0,
            block => self.next.saturating_sub(1) / u64::from(block),
        }
    }

    /// Block and jump, if `to` can be where a worker's next batch begins: the workers of a rank take
    /// turns, so the jump is a whole number of batches.
    fn block_before(&self, to: u32) -> Option<(u32, u32)> {
        let index = self.block_index() * u64::from(self.shape.block);
        let block = u32::try_from(self.next - index).ok().filter(|&block| block <= BLOCK_MAX)?;
        let begin = u32::try_from(self.shape.place(index)).ok()?;
        let jump = to.checked_sub(begin)?;
        let batch = block.checked_mul(self.shape.stride).filter(|&batch| 0 < batch)?;
        let workers = jump / batch;
        let fits = jump.is_multiple_of(batch) && (2..=WORKERS_MAX).contains(&workers);
        (fits && !self.order.sampler.is_dali()).then_some((block, jump))
    }

    /// The latest batch had `block` opens, and the worker's next one begins `jump` places after it.
    fn learn_block(&mut self, block: u32, jump: u32) {
        let first = self.block_index();
        if 0 < first {
            // The batches before were others than thought: where the epoch began is not known now.
            let begin = self.shape.place(first * u64::from(self.shape.block));
            self.shape.start = u32::try_from(begin).unwrap_or(self.shape.start);
            self.whole = false;
        }
        self.shape = self.shape.with_blocks(block, jump);
        self.guessed = false;
        if self.after == After::Wrap {
            self.after = After::Restart;
        }
        self.next = u64::from(block);
        self.told = self.opens;
        self.advance(2);
    }

    /// The stream is at the second place of a new way that begins at `start`.
    fn rebase(&mut self, start: u32) {
        self.shape = Shape::plain(start, self.shape.stride);
        self.guessed = false;
        self.whole = false;
        self.next = 0;
        self.epoch_opens = None;
        self.told = self.opens;
        self.advance(2);
    }
}
