//! The public face: opens go in, predictions come out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;
use crate::fit::{self, Fit, Joint, Steps};
use crate::known::{Habits, Known, Shelf};
use crate::learn::Recorder;
use crate::order::Order;
use crate::sampler::{After, Sampler};
use crate::search::Search;
use crate::shape::{Gait, Shape, gait};
use crate::shared::Shared;
use crate::stream::{RECENT, State, Stream};
use crate::walk::{Step, Walk};
use crate::work::Task;

/// How often silent streams are looked for, in opens.
const PRUNE: u64 = 256;
/// How often the evidence of open streams is added up, in opens, ...
const JOINT: u64 = 8;
/// ... and over how many streams.
const JOINT_STREAMS_MAX: usize = 64;
/// Opens of a shared order in a row that are not where they are expected before a stream is let go.
const MISSES_MAX: u32 = 3;
/// The weight of one open in the confidence: the last 64 or so count.
const CONFIDENCE_WEIGHT: f64 = 1.0 / 64.0;

/// Predicts the opens of one data set. See the crate's documentation.
#[derive(Debug)]
pub struct Oracle {
    pub(crate) n: u32,
    pub(crate) config: Config,
    /// Opens seen; the oracle's clock.
    pub(crate) opens: u64,
    pub(crate) streams: BTreeMap<u32, Stream>,
    /// Streams with a walk of their own, sorted.
    pub(crate) locked: Vec<u32>,
    pub(crate) shared: Vec<Shared>,
    /// Walks of streams that ended with their epoch, at the start of the next.
    pub(crate) ghosts: Vec<Walk>,
    pub(crate) shelf: Shelf,
    pub(crate) habits: Habits,
    /// All opens of open streams as if they were one stream's: a queue shows here.
    pub(crate) merged: Stream,
    /// The place of the latest open in each known order; kept to save the allocation.
    places: Vec<Option<u32>>,
    pub(crate) search: Search,
    /// `None`: the data set is too large for what the oracle may take.
    pub(crate) recorder: Option<Recorder>,
    /// The order learned last, until the owner takes it.
    pub(crate) learned: Option<Vec<u32>>,
    pub(crate) hint_seeds: Vec<u64>,
    /// Orders given or learned, to be made searchable.
    pub(crate) given: Vec<Task>,
    /// DALI's order was made once.
    pub(crate) dali_made: bool,
    pub(crate) busy: bool,
    pub(crate) confidence: f64,
    pub(crate) opens_to_lock: Option<u64>,
}

impl Oracle {
    /// An oracle for a data set of `n` files. Cheap; memory is taken when orders are tried.
    #[must_use]
    pub fn new(n: u32, config: Config) -> Self {
        Self {
            n,
            opens: 0,
            streams: BTreeMap::new(),
            locked: Vec::new(),
            shared: Vec::new(),
            ghosts: Vec::new(),
            shelf: Shelf::new(n, config.memory_bytes_max),
            habits: Habits::default(),
            merged: Stream::new(0),
            places: Vec::new(),
            search: Search::new(n, config.torch_key_max, config.dali_epoch_max),
            recorder: (12 * u64::from(n) <= config.memory_bytes_max).then(|| Recorder::new(n)),
            learned: None,
            hint_seeds: Vec::new(),
            given: Vec::new(),
            dali_made: false,
            busy: false,
            confidence: 0.0,
            opens_to_lock: None,
            config,
        }
    }

    /// A stream opened a position. A position repeated at once counts once. Positions from `n` on
    /// are ignored. Cost: about a microsecond.
    pub fn observe(&mut self, stream: u32, position: u32) {
        if self.n <= position {
            return;
        }
        let id = stream;
        if !self.streams.contains_key(&id) {
            self.make_room();
            self.search.hurry(self.opens);
        }
        let opens = self.opens;
        let stream = self.streams.entry(id).or_insert_with(|| Stream::new(opens));
        if !stream.note(position, opens) {
            return;
        }
        self.opens += 1;
        self.search.opened();
        let expected = match &stream.state {
            State::Locked(_) => self.observe_locked(id, position),
            State::Shared(sampler) => {
                let sampler = *sampler;
                self.observe_shared(id, sampler, position)
            }
            State::Open(_) => {
                self.observe_open(id, position);
                false
            }
        };
        self.confidence += (f64::from(u8::from(expected)) - self.confidence) * CONFIDENCE_WEIGHT;
        let recorder = self.recorder.as_mut();
        if let Some(order) = recorder.and_then(|it| it.observe(position, expected)) {
            self.learn(order);
        }
        if self.opens.is_multiple_of(PRUNE) {
            self.prune();
        }
    }

    fn observe_locked(&mut self, id: u32, position: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let Some(walk) = stream.walk_mut() else { return false };
        let step = walk.observe(position);
        if walk.after == After::Next && walk.next_order.is_none() {
            walk.next_order =
                walk.order.sampler.next().and_then(|next| self.shelf.find(next)).cloned();
        }
        let sampler = walk.order.sampler;
        match step {
            Step::Hit => true,
            Step::Epoch(after) => {
                self.habits.see_after(sampler.family(), after);
                self.shelf.use_now(sampler, self.opens);
                true
            }
            Step::Moved | Step::Miss => false,
            Step::Dropped => {
                self.unlock(id, 3);
                self.observe_open(id, position);
                false
            }
            Step::Uneven => {
                let order = Arc::clone(&walk.order);
                self.unlock(id, 0);
                self.share(id, &order, position);
                false
            }
        }
    }

    fn observe_shared(&mut self, id: u32, sampler: Sampler, position: u32) -> bool {
        let shared = self.shared.iter_mut().find(|shared| shared.order.sampler == sampler);
        let expected = shared.is_some_and(|shared| shared.observe(position));
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        stream.misses = if expected { 0 } else { stream.misses + 1 };
        if MISSES_MAX <= stream.misses {
            self.unlock(id, u64::from(MISSES_MAX));
            self.observe_open(id, position);
        }
        expected
    }

    /// Compares the latest open of an open stream, already noted, with every known order.
    fn observe_open(&mut self, id: u32, position: u32) {
        self.places.clear();
        self.places.extend(self.shelf.orders.iter().map(|known| known.order.place(position)));
        self.observe_merged(position);
        if self.opens.is_multiple_of(JOINT) {
            self.observe_jointly();
        }
        let Some(at) = self.best_fit(id, Some(position), fit::BITS_FOLLOWED) else { return };
        self.lock(id, at);
    }

    /// The known order that an open stream fits well enough, after its latest open. `least`: the
    /// evidence that is enough for an order that others follow.
    pub(crate) fn best_fit(&mut self, id: u32, latest: Option<u32>, least: f32) -> Option<usize> {
        let stream = self.streams.get_mut(&id)?;
        let current = stream.known == self.shelf.version;
        match (&mut stream.state, latest) {
            (State::Open(fits), Some(_)) if current => {
                for (fit, &place) in fits.iter_mut().zip(&self.places) {
                    fit.feed_place(place);
                }
            }
            (State::Open(_), _) => {
                let fits = self.shelf.orders.iter().map(|known| {
                    let habit = self.habits.get(known.order.sampler.family());
                    let steps = habit.map(|habit| habit.steps).unwrap_or_default();
                    stream.fit(&known.order, steps, start_credit(stream, known, &self.ghosts))
                });
                let fits = fits.collect();
                stream.state = State::Open(fits);
                stream.known = self.shelf.version;
            }
            (State::Locked(_) | State::Shared(_), _) => return None,
        }
        let State::Open(fits) = &stream.state else { return None };
        let good = fits.iter().zip(&self.shelf.orders).enumerate().filter(|(_, (fit, known))| {
            let (bits, run) = known.threshold(self.opens, self.n, least);
            bits <= fit.bits() && run <= fit.run()
        });
        good.max_by(|(_, (a, _)), (_, (b, _))| a.bits().total_cmp(&b.bits())).map(|(at, _)| at)
    }

    /// All open streams together: if they fit an order, streams lock on it with little evidence of
    /// their own.
    fn observe_merged(&mut self, position: u32) {
        if !self.merged.note(position, self.opens) {
            return;
        }
        let version = self.shelf.version;
        let current = self.merged.known == version;
        match &mut self.merged.state {
            State::Open(fits) if current => {
                for (fit, &place) in fits.iter_mut().zip(&self.places) {
                    fit.feed_place(place);
                }
            }
            _ => {
                let orders = self.shelf.orders.iter();
                let fits = orders.map(|known| self.merged.fit_of_many(&known.order));
                self.merged.state = State::Open(fits.collect());
                self.merged.known = version;
            }
        }
        let State::Open(fits) = &self.merged.state else { return };
        for (fit, known) in fits.iter().zip(&mut self.shelf.orders) {
            let (bits, run) = known.threshold(self.opens, self.n, fit::BITS_FOLLOWED);
            if bits.max(fit::BITS_PRIOR) <= fit.bits() && run <= fit.run() {
                known.found(self.opens);
            }
        }
    }

    /// Each open stream has little evidence yet: together they may have enough.
    fn observe_jointly(&mut self) {
        let mut proven = false;
        for (at, known) in self.shelf.orders.iter_mut().enumerate() {
            let mut joint = Joint::default();
            let mut steps = 0;
            let open = self.streams.values().filter(|stream| stream.is_open());
            for stream in open.take(JOINT_STREAMS_MAX) {
                let State::Open(fits) = &stream.state else { continue };
                let Some(fit) = fits.get(at).filter(|_| stream.known == self.shelf.version) else {
                    continue;
                };
                joint.add(fit.bits(), usize::try_from(stream.fresh).unwrap_or(usize::MAX));
                steps += fit.run().saturating_sub(1);
            }
            if joint.is_enough() && fit::RUN_LISTING <= steps {
                known.found(self.opens);
                proven = true;
            }
        }
        if proven {
            self.retry(fit::BITS_PROVEN);
        }
    }

    /// Locks a stream on the known order at `at`.
    pub(crate) fn lock(&mut self, id: u32, at: usize) {
        let order = Arc::clone(&self.shelf.orders[at].order);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let State::Open(fits) = &stream.state else { return };
        let run = u64::from(fits.get(at).map_or(0, Fit::run));
        let begins = run == stream.opens && stream.opens <= RECENT as u64;
        let places: Vec<u32> =
            stream.recent.tail(run).filter_map(|position| order.place(position)).collect();
        let Some(&front) = places.last() else { return };
        self.shelf.use_now(order.sampler, self.opens);
        self.opens_to_lock.get_or_insert(self.opens);
        let Gait::Even { shape, next, whole } = gait(&places, begins) else {
            self.share(id, &order, order.at(front));
            return;
        };
        let (shape, whole, next) = match from_the_first(stream, &order, front) {
            Some(from) if shape == Shape::plain(shape.start, 1) => (from, true, stream.opens),
            _ => (shape, whole && begins, next),
        };
        let family = order.sampler.family();
        let mut walk = Walk::new(Arc::clone(&order), shape, whole, next);
        if let Some(after) = self.habits.get(family).and_then(|habit| habit.after) {
            walk.after = after;
        }
        let step = if shape.block == 0 { 0 } else { shape.jump - (shape.block - 1) * shape.stride };
        self.habits.see_steps(family, Steps { latest: shape.stride, other: step });
        walk.next_order = order.sampler.next().and_then(|next| self.shelf.find(next)).cloned();
        let born = stream.born;
        stream.state = State::Locked(Box::new(walk));
        self.locked.push(id);
        self.locked.sort_unstable();
        self.succeed(id, born);
        self.infer(order.sampler);
    }

    /// Follows a stream together with the others of the same order.
    fn share(&mut self, id: u32, order: &Arc<Order>, position: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(place) = order.place(position) else { return };
        stream.state = State::Shared(order.sampler);
        stream.misses = 0;
        match self.shared.iter_mut().find(|shared| shared.order.sampler == order.sampler) {
            Some(shared) => {
                shared.streams += 1;
                shared.reach(place);
            }
            None => self.shared.push(Shared::new(Arc::clone(order), place)),
        }
    }

    /// A stream leaves its order; its latest `keep` opens are compared anew.
    pub(crate) fn unlock(&mut self, id: u32, keep: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let State::Shared(sampler) = stream.state {
            for shared in &mut self.shared {
                if shared.order.sampler == sampler {
                    shared.streams = shared.streams.saturating_sub(1);
                }
            }
            self.shared.retain(|shared| 0 < shared.streams);
        }
        stream.unlock(keep);
        self.locked.retain(|&other| other != id);
        self.search.hurry(self.opens);
        if self.locked.is_empty() && self.shared.is_empty() && self.ghosts.is_empty() {
            self.opens_to_lock = None;
        }
    }
}

/// The way of a stream that has gone from place to place ever since its first open, which may be longer ago
/// than what is remembered of it.
fn from_the_first(stream: &Stream, order: &Order, front: u32) -> Option<Shape> {
    let start = order.place(stream.first?)?;
    let gone = u64::from(front.checked_sub(start)?) + 1;
    (gone == stream.opens).then(|| Shape::plain(start, 1))
}

/// The evidence that a stream begins where one that has ended is to be followed: one of few places.
fn start_credit(stream: &Stream, known: &Known, ghosts: &[Walk]) -> f32 {
    let Some(first) = stream.recent.tail(stream.fresh).next() else { return 0.0 };
    let starts = ghosts.iter().filter(|ghost| ghost.order.sampler == known.order.sampler);
    let starts: Vec<u32> = starts.map(|ghost| ghost.shape.start).collect();
    let here = known.order.place(first).is_some_and(|place| starts.contains(&place));
    if here {
        let count = u32::try_from(starts.len()).unwrap_or(u32::MAX);
        fit::bits(known.order.len()) - fit::bits(count) - 1.0
    } else {
        0.0
    }
}
