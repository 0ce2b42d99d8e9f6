//! Streams that end and streams that follow them: what the workers of the next epoch will do.

use std::sync::Arc;

use crate::learn::Recorder;
use crate::oracle::Oracle;
use crate::sampler::After;
use crate::stream::Stream;
use crate::walk::Walk;

/// Streams that ended with their epoch and whose successors are expected.
const GHOSTS_MAX: usize = 1_024;
/// Opens that a loader makes beyond its epoch before it ends: DALI keeps its sample buffer full.
const READ_AHEAD_MAX: u64 = 4_096;
/// Opens of the data set after which a silent stream counts as gone: more than the workers of a
/// loader run ahead of each other.
const SILENT_MAX: u64 = 16_384;

impl Oracle {
    /// The stream's thread is gone. A stream that ended with its epoch is expected to be followed
    /// by another.
    pub fn end_stream(&mut self, stream: u32) {
        self.retire(stream);
        self.unlock(stream, 0);
        self.streams.remove(&stream);
    }

    /// Nobody will watch for a while: where the streams are is not known from now on. The orders are
    /// kept, so that streams which go on are soon found in them.
    pub fn lose_sight(&mut self) {
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        self.ghosts.clear();
        for id in ids {
            self.unlock(id, 0);
        }
        self.streams.clear();
        self.merged = Stream::new(self.opens);
        // What would be recorded now is no epoch's order.
        self.recorder = self.recorder.is_some().then(|| Recorder::new(self.n));
    }

    /// If the stream ended with its epoch, expects its successor.
    fn retire(&mut self, id: u32) {
        let Some(walk) = self.streams.get(&id).and_then(Stream::walk) else { return };
        if !walk.whole || !walk.near_end() || GHOSTS_MAX <= self.ghosts.len() {
            return;
        }
        // A stream that went through several shards is not one that ends with its epoch.
        let rotated = 2 * walk.epoch_len() + READ_AHEAD_MAX < walk.next;
        if walk.after == After::Wrap && rotated {
            return;
        }
        let mut ghost = walk.clone();
        ghost.epoch_opens = Some(ghost.next);
        if ghost.after == After::Wrap {
            ghost.after = After::Restart;
        }
        if ghost.after == After::Next && ghost.next_order.is_none() {
            return;
        }
        ghost.roll();
        ghost.next_order = None;
        ghost.opens = 0;
        ghost.told = 0;
        self.ghosts.push(ghost);
    }

    /// A stream has locked: if it began where one began that is gone, it is its successor, and shows
    /// what such streams do at the end of an epoch.
    pub(crate) fn succeed(&mut self, id: u32, born: u64) {
        let Some(walk) = self.streams.get(&id).and_then(Stream::walk) else { return };
        let (sampler, start, whole) = (walk.order.sampler, walk.shape.start, walk.whole);
        let family = sampler.family();
        let alike = |other: &Walk| {
            other.order.sampler.family() == family && other.shape.start == start && other.whole
        };
        if !whole {
            return;
        }
        let gone = self.locked.iter().copied().filter(|&other| {
            let stream = self.streams.get(&other);
            other != id && stream.is_some_and(|s| s.seen < born && s.walk().is_some_and(alike))
        });
        for other in gone.collect::<Vec<_>>() {
            self.end_stream(other);
        }
        let Some(at) = self.ghosts.iter().position(alike) else { return };
        let ghost = self.ghosts.swap_remove(at);
        let order =
            self.streams.get(&id).and_then(Stream::walk).map(|walk| Arc::clone(&walk.order));
        // Expected in the next order, but found in the same again: `set_epoch` is not called.
        let same_again = sampler.next() == Some(ghost.order.sampler);
        let after = if same_again { After::Restart } else { ghost.after };
        self.habits.see_after(family, after);
        if let (Some(order), true) = (order, same_again) {
            for ghost in &mut self.ghosts {
                if ghost.order.sampler.family() == family {
                    ghost.order = Arc::clone(&order);
                }
            }
        }
        if let Some(walk) = self.streams.get_mut(&id).and_then(Stream::walk_mut) {
            walk.after = after;
            walk.epoch_opens = ghost.epoch_opens;
        }
    }

    /// Forgets streams that have been silent for long.
    pub(crate) fn prune(&mut self) {
        let opens = self.opens;
        let silent = self.streams.iter().filter(|(_, s)| s.seen + SILENT_MAX < opens);
        for id in silent.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.end_stream(id);
        }
    }

    /// Forgets the stream that was silent for longest if there are as many as may be remembered.
    pub(crate) fn make_room(&mut self) {
        if self.streams.len() < self.config().streams_max.max(1) {
            return;
        }
        let oldest = self.streams.iter().min_by_key(|(_, stream)| stream.seen);
        if let Some((&id, _)) = oldest {
            self.end_stream(id);
        }
    }
}
