//! Getting orders: hints, learned ones, the next epoch's, and the search for the sampler.

use crate::config::{Config, Hint};
use crate::fit::{BITS_FOLLOWED, BITS_PROVEN};
use crate::learn::Recorder;
use crate::oracle::Oracle;
use crate::sampler::{After, Sampler};
use crate::search::Samples;
use crate::stream::{RECENT, Stream};
use crate::walk::Walk;
use crate::work::{Outcome, Standing, Task, Work};

/// Opens that a stream must have made to be searched for.
const SAMPLE_MIN: u64 = 2;
/// Streams that are searched for at once.
const SAMPLES_MAX: usize = 64;

impl Oracle {
    /// Work that would help, if there is any: ask after some opens (a few dozen), run it without
    /// the lock, give the outcome to [`Oracle::accept`]. There is one at a time: `None` also while
    /// an outcome is awaited. Cost: a few microseconds.
    pub fn next_work(&mut self) -> Option<Work> {
        if self.busy || self.n == 0 {
            return None;
        }
        let task = self.given.pop().or_else(|| self.next_order()).or_else(|| self.search_on())?;
        self.busy = true;
        Some(Work { n: self.n, task })
    }

    /// The order of the next epoch, for a walk that will need it.
    fn next_order(&self) -> Option<Task> {
        let walks = self.walks().chain(&self.ghosts).filter(|walk| walk.after == After::Next);
        let mut wanted = walks.filter_map(|walk| Some((walk.order.sampler.next()?, walk)));
        let (sampler, walk) =
            wanted.find(|&(next, _)| self.shelf.find(next).is_none() && self.can_make(next))?;
        Some(match sampler {
            Sampler::HintSeed(index) => {
                Task::Seed { sampler, seed: *self.hint_seeds.get(index as usize)? }
            }
            _ => Task::Next { sampler, before: walk.order.clone() },
        })
    }

    fn can_make(&self, sampler: Sampler) -> bool {
        match sampler {
            Sampler::HintSeed(index) => (index as usize) < self.hint_seeds.len(),
            _ => true,
        }
    }

    /// The next piece of the search, if a stream waits for it.
    fn search_on(&mut self) -> Option<Task> {
        let waiting = self.streams.values().filter(|stream| stream.is_open());
        let mut waiting: Vec<&Stream> =
            waiting.filter(|stream| SAMPLE_MIN <= stream.fresh).collect();
        let anyone = self.streams.values().any(Stream::is_open);
        let together = anyone && SAMPLE_MIN < self.merged.fresh;
        if waiting.is_empty() && !together {
            self.search.rest();
            return None;
        }
        if !self.dali_made {
            self.dali_made = true;
            return Some(Task::Dali);
        }
        if self.search.is_due(self.opens) {
            self.search.begin(self.opens);
        }
        let piece = self.search.piece(&self.hint_seeds, self.opens)?;
        waiting.sort_by_key(|stream| std::cmp::Reverse(stream.seen));
        waiting.truncate(SAMPLES_MAX);
        let samples: Samples = std::iter::once(&self.merged)
            .chain(waiting)
            .map(|stream| stream.recent.tail(stream.fresh).collect())
            .collect();
        Some(Task::Search { piece, samples })
    }

    /// Takes in what [`Work::run`] found. Cost: comparing the latest opens of each stream that waits
    /// for an order, about 10 microseconds a stream.
    pub fn accept(&mut self, outcome: Outcome) {
        self.busy = false;
        if let Some(carry) = outcome.found.carry {
            self.search.resume(carry);
        }
        if outcome.found.orders.is_empty() {
            return;
        }
        for order in outcome.found.orders {
            let sampler = order.sampler;
            let used = (!matches!(outcome.standing, Standing::Given | Standing::Likely))
                .then_some(self.opens);
            self.shelf.add(order, used);
            if outcome.standing == Standing::Proven {
                self.shelf.use_now(sampler, self.opens);
            }
        }
        let needed: Vec<Sampler> = self.needed().collect();
        self.shelf.shrink(|sampler| needed.contains(&sampler));
        self.attach_next();
        self.retry(if outcome.standing == Standing::Proven { BITS_PROVEN } else { BITS_FOLLOWED });
    }

    /// The samplers whose orders must be kept at hand.
    fn needed(&self) -> impl Iterator<Item = Sampler> + '_ {
        let walks = self.walks().chain(&self.ghosts);
        let own = walks.flat_map(|walk| {
            let sampler = walk.order.sampler;
            let next = sampler.next().filter(|_| walk.after == After::Next);
            [Some(sampler), next].into_iter().flatten()
        });
        own.chain(self.shared.iter().map(|shared| shared.order.sampler))
    }

    /// The walks of locked streams.
    pub(crate) fn walks(&self) -> impl Iterator<Item = &Walk> + '_ {
        self.locked.iter().filter_map(|id| self.streams.get(id)).filter_map(Stream::walk)
    }

    /// Gives walks that go on in another order that order, where it is at hand.
    fn attach_next(&mut self) {
        let shelf = &self.shelf;
        let walks = self.streams.values_mut().filter_map(Stream::walk_mut);
        for walk in walks.chain(&mut self.ghosts).filter(|walk| walk.next_order.is_none()) {
            walk.next_order = walk.order.sampler.next().and_then(|next| shelf.find(next)).cloned();
        }
    }

    /// Compares every open stream with the known orders again; `least` bits are enough for an order
    /// that streams were found on.
    pub(crate) fn retry(&mut self, least: f32) {
        let open = self.streams.iter().filter(|(_, stream)| stream.is_open());
        let open: Vec<u32> =
            open.filter(|(_, stream)| 1 < stream.fresh).map(|(&id, _)| id).collect();
        for id in open {
            if let Some(at) = self.best_fit(id, None, least) {
                self.lock(id, at);
            }
        }
    }

    /// An epoch has been read in an order that nothing foretold.
    pub(crate) fn learn(&mut self, order: Vec<u32>) {
        self.learned = Some(order.clone());
        self.replace(Sampler::Learned, Some(order));
        // What is remembered of the streams is mostly of that very epoch, which its order fits however the
        // next one is read: only what comes now is evidence.
        let open = self.streams.values_mut().filter(|stream| stream.is_open());
        open.chain([&mut self.merged]).for_each(|stream| stream.unlock(0));
    }

    /// Forgets the order of a sampler that is given anew, and its streams.
    fn replace(&mut self, sampler: Sampler, positions: Option<Vec<u32>>) {
        let on = |stream: &Stream| match &stream.state {
            crate::stream::State::Locked(walk) => walk.order.sampler == sampler,
            crate::stream::State::Shared(shared) => *shared == sampler,
            crate::stream::State::Open(_) => false,
        };
        let leaving: Vec<u32> =
            self.streams.iter().filter(|(_, s)| on(s)).map(|(&id, _)| id).collect();
        for id in leaving {
            self.unlock(id, 0);
        }
        self.ghosts.retain(|ghost| ghost.order.sampler != sampler);
        self.shelf.remove(sampler);
        self.given.retain(|task| {
            !matches!(task, Task::Given { sampler: other, .. } | Task::Seed { sampler: other, .. }
                if *other == sampler)
        });
        if let Some(positions) = positions {
            self.given.push(Task::Given { sampler, positions });
        }
    }

    /// An order from outside. It is believed after few opens, and dropped like any other when it
    /// fails. A hint replaces the one of the same kind before it.
    pub fn hint(&mut self, hint: Hint) {
        match hint {
            Hint::Order { from, mut positions } => {
                positions.retain(|&position| position < self.n);
                let given = !positions.is_empty();
                self.replace(Sampler::Hint(from), given.then_some(positions));
            }
            Hint::TorchSeeds(seeds) => {
                let before = u32::try_from(self.hint_seeds.len()).unwrap_or(u32::MAX);
                for index in 0..before {
                    if self.shelf.find(Sampler::HintSeed(index)).is_some() {
                        self.replace(Sampler::HintSeed(index), None);
                    }
                }
                self.given.retain(|task| !matches!(task, Task::Seed { .. }));
                if let Some(&seed) = seeds.first() {
                    self.given.push(Task::Seed { sampler: Sampler::HintSeed(0), seed });
                }
                self.hint_seeds = seeds;
                self.search.hurry(self.opens);
            }
        }
    }

    /// The order of an epoch that nothing foretold, to be kept over a restart: once for each, when it has been read
    /// to its end. `ended`: nobody reads on for now, so that an epoch which lacks a last part counts too, and
    /// again when it has grown. Cost: such a one is copied.
    pub fn take_learned(&mut self, ended: bool) -> Option<Vec<u32>> {
        let whole = self.learned.take();
        let recorder = self.recorder.as_mut().filter(|_| ended);
        recorder.and_then(Recorder::unfinished).or(whole)
    }

    /// What [`Oracle::take_learned`] gave in an earlier life. Ignored if an order has been learned since, or
    /// unless every position is of this data set and stands once.
    pub fn import_learned(&mut self, order: Vec<u32>) {
        if self.has_learned() {
            return;
        }
        let mut seen = vec![false; self.n as usize];
        let fits = order.iter().all(|&position| {
            seen.get_mut(position as usize).is_some_and(|seen| !std::mem::replace(seen, true))
        });
        if fits && !order.is_empty() {
            self.replace(Sampler::Learned, Some(order));
        }
    }

    fn has_learned(&self) -> bool {
        let is_it = |task: &Task| matches!(task, Task::Given { sampler: Sampler::Learned, .. });
        self.learned.is_some()
            || self.shelf.find(Sampler::Learned).is_some()
            || self.given.iter().any(is_it)
    }

    /// The files opened so far in the present epoch, in order, as far as they are recorded.
    #[must_use]
    pub fn recorded(&self) -> &[u32] {
        self.recorder.as_ref().map_or(&[], Recorder::recorded)
    }

    /// Before the first open: these files were opened in the present epoch already, in this order. They
    /// are no evidence for an order; they belong to the one that the epoch may be learned in.
    pub fn resume_epoch(&mut self, opened: impl Iterator<Item = u32>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.resume(opened);
        }
    }

    /// The number of files.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.n
    }

    /// Whether the data set has no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// What it may cost.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}

const _: () = assert!(SAMPLE_MIN <= RECENT as u64);
