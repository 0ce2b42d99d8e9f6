//! What the walks say about the job: shards, ranks, workers; and the verdict in words.

use std::collections::BTreeMap;

use crate::config::Verdict;
use crate::oracle::Oracle;
use crate::sampler::{Chain, Sampler};
use crate::shape::Shape;
use crate::shuffle::{DALI_SEED, shard};
use crate::stream::{State, Stream};
use crate::walk::{WORKERS_MAX, Walk};

/// The most shards that are considered.
const SHARDS_MAX: u32 = 4_096;
/// The largest batch that is guessed from where workers start, before one of them shows it.
const BATCH_GUESS_MAX: u32 = 2_048;

impl Oracle {
    /// A stream has locked on a sampler's order: what do its streams together show?
    pub(crate) fn infer(&mut self, sampler: Sampler) {
        let walks = self.walks().chain(&self.ghosts);
        let shapes: Vec<Shape> = walks
            .filter(|walk| walk.order.sampler == sampler && walk.whole)
            .map(|walk| if walk.guessed { walk.shape.with_blocks(0, 0) } else { walk.shape })
            .collect();
        let batches = batches(&shapes, sampler, self.n);
        let shards = shards(&shapes, sampler, self.n);
        let walks = self.streams.values_mut().filter_map(Stream::walk_mut);
        for walk in walks.chain(&mut self.ghosts) {
            if walk.order.sampler != sampler || !walk.whole {
                continue;
            }
            let open = walk.guessed || walk.shape.block == 0;
            if walk.guessed && batches.is_none() {
                walk.shape = walk.shape.with_blocks(0, 0);
                walk.guessed = false;
            }
            if let Some((block, jump)) = batches
                && open
                && walk.next <= u64::from(block)
            {
                walk.shape = walk.shape.with_blocks(block, jump);
                walk.guessed = true;
            }
            if let Some(shards) = shards {
                walk.end = shard_end(walk.shape.start, shards, self.n);
            }
        }
    }

    /// How many streams go on in an order that is known, and how many there are. Cost: a look at each.
    #[must_use]
    pub fn followed(&self) -> (usize, usize) {
        let followed = self.streams.values().filter(|stream| !stream.is_open()).count();
        (followed, self.streams.len())
    }

    /// What is believed now. Cost: a few microseconds.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut votes: BTreeMap<String, (usize, Sampler)> = BTreeMap::new();
        let shared = self.shared.iter().map(|shared| shared.order.sampler);
        let all = self.walks().chain(&self.ghosts).map(|walk| walk.order.sampler).chain(shared);
        for sampler in all {
            votes.entry(format!("{sampler:?}")).or_insert((0, sampler)).0 += 1;
        }
        let best = votes.values().max_by_key(|(votes, _)| *votes).map(|&(_, sampler)| sampler);
        let (locked, streams) = self.followed();
        Verdict {
            sampler: best.map_or_else(|| "unknown".to_owned(), |sampler| self.words(sampler)),
            confidence: self.confidence.clamp(0.0, 1.0),
            locked,
            streams,
            reads_to_lock: self.opens_to_lock,
        }
    }

    fn words(&self, sampler: Sampler) -> String {
        let walks: Vec<&Walk> =
            self.walks().chain(&self.ghosts).filter(|w| w.order.sampler == sampler).collect();
        let shapes: Vec<Shape> = walks.iter().filter(|w| w.whole).map(|w| w.shape).collect();
        let mut words = name(sampler);
        if let Some(shards) = shards(&shapes, sampler, self.n)
            && 1 < shards
        {
            words += &format!(", {shards} shards");
        }
        if !sampler.is_dali()
            && let Some(shape) = walks.iter().map(|walk| walk.shape).max_by_key(|s| s.block)
        {
            if 1 < shape.stride {
                words += &format!(", {} ranks", shape.stride);
            }
            if shape.block != 0 {
                let workers = shape.jump / (shape.block * shape.stride);
                words += &format!(", {workers} workers, batch {}", shape.block);
            }
        }
        let on = |stream: &&Stream| matches!(stream.state, State::Shared(s) if s == sampler);
        let sharing = self.streams.values().filter(on).count();
        if 0 < sharing {
            words += &format!(", shared by {sharing} threads");
        }
        words
    }
}

/// The name of a sampler with its parameters.
fn name(sampler: Sampler) -> String {
    match sampler {
        Sampler::Sequential => "sequential".to_owned(),
        Sampler::Reversed => "reversed".to_owned(),
        Sampler::Dali => format!("dali shuffled, seed {DALI_SEED}"),
        Sampler::DaliEpoch(chain, epoch) => {
            let kind = match chain {
                Chain::Wide => "",
                Chain::WideFresh => " with checkpointing",
                Chain::Narrow => " of an older kind",
                Chain::NarrowFresh => " of an older kind with checkpointing",
            };
            format!("dali shuffle_after_epoch{kind}, epoch {epoch}")
        }
        Sampler::Torch(key) => format!("torch DistributedSampler, seed + epoch = {key}"),
        Sampler::Hint(_) => "hint".to_owned(),
        Sampler::HintSeed(index) => format!("hint, seed {} of those given", index + 1),
        Sampler::Learned => "learned from an earlier epoch".to_owned(),
    }
}

/// Into how many shards the order is cut: the fewest that begin where the streams began.
fn shards(shapes: &[Shape], sampler: Sampler, n: u32) -> Option<u32> {
    let ranks = matches!(sampler, Sampler::Torch(_) | Sampler::HintSeed(_));
    let plain = shapes.iter().all(|shape| shape.stride == 1 && shape.block == 0);
    if ranks || !plain || shapes.is_empty() {
        return None;
    }
    (1..=SHARDS_MAX.min(n)).find(|&shards| {
        shapes.iter().all(|shape| {
            let index = index_of(shape.start, shards, n);
            shard(n as usize, index, shards as usize).start == shape.start as usize
        })
    })
}

/// The shard in which a place lies or, between two, the one that begins first at or after it.
fn index_of(start: u32, shards: u32, n: u32) -> usize {
    (start as usize * shards as usize).div_ceil(n.max(1) as usize)
}

/// Where the shard that begins at `start` ends.
fn shard_end(start: u32, shards: u32, n: u32) -> u32 {
    let range = shard(n as usize, index_of(start, shards, n), shards as usize);
    u32::try_from(range.end).unwrap_or(n)
}

/// Batch and jump of a loader's workers, from where they began: worker w of a rank begins w batches
/// after worker 0. The workers seen so far count as all; one that jumps shows whether that was right.
fn batches(shapes: &[Shape], sampler: Sampler, n: u32) -> Option<(u32, u32)> {
    if sampler.is_dali() {
        return None;
    }
    if let Some(shape) = shapes.iter().find(|shape| shape.block != 0) {
        return Some((shape.block, shape.jump));
    }
    let stride = shapes.first().map(|shape| shape.stride)?;
    if shapes.iter().any(|shape| shape.stride != stride) {
        return None;
    }
    let mut ranks: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for shape in shapes {
        ranks.entry(shape.start % stride).or_default().push(shape.start);
    }
    let mut starts = ranks.into_values().max_by_key(Vec::len)?;
    starts.sort_unstable();
    starts.dedup();
    let gaps: Vec<u32> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let batch = *gaps.iter().min()?;
    let even = batch.is_multiple_of(stride) && gaps.iter().all(|gap| gap.is_multiple_of(batch));
    let first = *starts.first()?;
    let workers = (starts.last()? - first) / batch + 1;
    let (block, jump) = (batch / stride, batch.checked_mul(workers)?);
    // Shards of a listing look like workers with very large batches that end with the listing.
    let shard_like = n - n / 8 <= jump;
    let fits = even && first < stride && 1 < block && block <= BATCH_GUESS_MAX;
    (fits && !shard_like && workers <= WORKERS_MAX).then_some((block, jump))
}
