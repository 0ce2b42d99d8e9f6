//! Traces: which object is used when, generated from a seed or read from a file.
//!
//! A trace file is text, one use a line: the object's name, its size in bytes and, if known, the data
//! set it belongs to, with blanks between. Lines that are empty or begin with `#` say nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use feedline_oracle::{dali_order, shard};

/// An object of no data set: read once, or by somebody at random.
pub const NO_SET: u16 = u16::MAX;

/// What is used, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// Its name.
    pub name: String,
    /// Numbers of objects, in the order of their uses.
    pub uses: Vec<u32>,
    /// Bytes of each object.
    pub sizes: Vec<u64>,
    /// The data set of each object.
    pub sets: Vec<u16>,
    /// Hits are counted from this use on: after the first epoch, which nobody can hit.
    pub count_from: usize,
    /// Bytes in use at once: what the cache's size is a share of.
    pub data_bytes: u64,
}

/// Small numbers in a fixed order that looks random (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next_u64() % bound as u64).expect("below a usize")
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// A trace under construction.
struct Maker {
    trace: Trace,
    random: Random,
}

impl Maker {
    fn new(name: &str) -> Self {
        let trace = Trace { name: name.to_owned(), ..Trace::default() };
        Self { trace, random: Random(7) }
    }

    /// Adds `count` objects, all of one size, so that the bound is exact; returns their numbers.
    fn objects(&mut self, count: usize, set: u16) -> Vec<u32> {
        let first = self.trace.sizes.len();
        for _ in 0..count {
            self.trace.sizes.push(110_000);
            self.trace.sets.push(set);
        }
        (first..first + count).map(|number| u32::try_from(number).expect("few objects")).collect()
    }

    fn bytes(&self, objects: &[u32]) -> u64 {
        objects.iter().map(|object| self.trace.sizes[*object as usize]).sum()
    }

    fn epoch(&mut self, objects: &mut [u32]) {
        self.random.shuffle(objects);
        self.trace.uses.extend_from_slice(objects);
    }

    fn count_from_here(&mut self) {
        self.trace.count_from = self.trace.uses.len();
    }
}

/// One data set, reshuffled every epoch (torch, DALI's `shuffle_after_epoch`).
fn reshuffled(objects: usize) -> Trace {
    let mut maker = Maker::new("reshuffled");
    let mut set = maker.objects(objects, 0);
    maker.trace.data_bytes = maker.bytes(&set);
    maker.epoch(&mut set);
    maker.count_from_here();
    (0..5).for_each(|_| maker.epoch(&mut set));
    maker.trace
}

/// One data set in the same shuffled order every epoch (DALI's default on one node).
fn fixed(objects: usize) -> Trace {
    let mut maker = Maker::new("fixed order");
    let set = maker.objects(objects, 0);
    maker.trace.data_bytes = maker.bytes(&set);
    let order = dali_order(objects);
    for epoch in 0..6 {
        if epoch == 1 {
            maker.count_from_here();
        }
        maker.trace.uses.extend(order.iter().map(|place| set[*place as usize]));
    }
    maker.trace
}

/// DALI on one of two nodes with four processes each: the shards rotate, so that an epoch sees half
/// of the data set, most of it the same as the one before.
fn dali_shards(objects: usize) -> Trace {
    const SHARDS: usize = 8;
    const PROCESSES: usize = SHARDS / 2;
    let mut maker = Maker::new("dali shards, 1 of 2 nodes");
    let set = maker.objects(objects, 0);
    maker.trace.data_bytes = maker.bytes(&set);
    let order = dali_order(objects);
    for epoch in 0..17 {
        if epoch == SHARDS {
            maker.count_from_here();
        }
        let own = |process| &order[shard(objects, (process + epoch) % SHARDS, SHARDS)];
        let mut left: Vec<_> = (0..PROCESSES).map(|process| own(process).iter()).collect();
        let mut open = PROCESSES;
        while open > 0 {
            // Any process may be next, as on a machine.
            let reader = maker.random.below(PROCESSES);
            match left[reader].next() {
                Some(place) => maker.trace.uses.push(set[*place as usize]),
                None => open = left.iter().filter(|left| left.len() > 0).count(),
            }
        }
    }
    maker.trace
}

/// torch's `DistributedSampler` on one of two nodes: another random half every epoch.
fn random_halves(objects: usize) -> Trace {
    let mut maker = Maker::new("random halves, 1 of 2 nodes");
    let mut set = maker.objects(objects, 0);
    maker.trace.data_bytes = maker.bytes(&set);
    for epoch in 0..10 {
        if epoch == 4 {
            maker.count_from_here();
        }
        maker.random.shuffle(&mut set);
        maker.trace.uses.extend_from_slice(&set[..objects / 2]);
    }
    maker.trace
}

/// Two jobs on two data sets, equally fast; the second, of half the size, begins later.
fn two_jobs(objects: usize) -> Trace {
    let mut maker = Maker::new("two jobs");
    let mut large = maker.objects(objects * 2 / 3, 0);
    let mut small = maker.objects(objects / 3, 1);
    maker.trace.data_bytes = maker.bytes(&large) + maker.bytes(&small);
    (0..2).for_each(|_| maker.epoch(&mut large));
    for epoch in 0..12 {
        if epoch == 2 {
            maker.count_from_here();
        }
        maker.random.shuffle(&mut large);
        for half in large.chunks(large.len().div_ceil(2)) {
            maker.random.shuffle(&mut small);
            for (at, object) in half.iter().enumerate() {
                maker.trace.uses.push(*object);
                maker.trace.uses.extend(small.get(at));
            }
        }
    }
    maker.trace
}

/// A job of twice the cache's usual share ends; another on a smaller data set begins.
fn job_change(objects: usize) -> Trace {
    let mut maker = Maker::new("job change");
    let mut old = maker.objects(objects, 0);
    let mut new = maker.objects(objects * 2 / 5, 1);
    maker.trace.data_bytes = maker.bytes(&old);
    (0..3).for_each(|_| maker.epoch(&mut old));
    maker.epoch(&mut new);
    maker.count_from_here();
    (0..8).for_each(|_| maker.epoch(&mut new));
    maker.trace
}

/// Half of the uses are of a small hot set, unevenly; the others read something once.
fn hot_and_once(objects: usize) -> Trace {
    let mut maker = Maker::new("hot set and one-time reads");
    let hot = maker.objects(objects / 3, NO_SET);
    maker.trace.data_bytes = maker.bytes(&hot) * 3;
    for at in 0..objects * 4 {
        if at == objects {
            maker.count_from_here();
        }
        // The lowest of two: the first objects are used most.
        let (a, b) = (maker.random.below(hot.len()), maker.random.below(hot.len()));
        maker.trace.uses.push(hot[a.min(b)]);
        let once = maker.objects(1, NO_SET);
        maker.trace.uses.extend(once);
    }
    maker.trace
}

/// One data set of which a tenth is replaced by new versions after every epoch.
fn replaced(objects: usize) -> Trace {
    let mut maker = Maker::new("a tenth replaced each epoch");
    let mut set = maker.objects(objects, 0);
    maker.trace.data_bytes = maker.bytes(&set);
    maker.epoch(&mut set);
    maker.count_from_here();
    for _ in 0..7 {
        let new = maker.objects(objects / 10, 0);
        // The order is random, so any tenth will do.
        set[..new.len()].copy_from_slice(&new);
        maker.epoch(&mut set);
    }
    maker.trace
}

/// Every generated trace, of about `objects` objects each.
#[must_use]
pub fn generated(objects: usize) -> Vec<Trace> {
    let makers = [
        reshuffled,
        fixed,
        dali_shards,
        random_halves,
        two_jobs,
        job_change,
        hot_and_once,
        replaced,
    ];
    makers.iter().map(|make| make(objects)).collect()
}

impl Trace {
    /// Reads a trace file. Hits are counted from the first use of an object that was used before.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or names the line that is not understood.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text).with_context(|| path.display().to_string())
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut trace = Self { name: name.to_owned(), ..Self::default() };
        let mut objects: HashMap<&str, u32> = HashMap::new();
        let mut sets: HashMap<&str, u16> = HashMap::new();
        let mut first_again = None;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.split_ascii_whitespace();
            let (Some(object), Some(size)) = (fields.next(), fields.next()) else {
                bail!("line {number}: expected NAME SIZE [SET], found {line:?}");
            };
            let size: u64 = size.parse().with_context(|| format!("line {number}: {size:?}"))?;
            let next_set = u16::try_from(sets.len()).unwrap_or(NO_SET);
            let set = fields.next().map_or(NO_SET, |set| *sets.entry(set).or_insert(next_set));
            let next = u32::try_from(trace.sizes.len()).context("too many objects")?;
            let object = *objects.entry(object).or_insert(next);
            if object == next {
                trace.sizes.push(size);
                trace.sets.push(set);
                trace.data_bytes += size;
            } else {
                first_again = first_again.or(Some(trace.uses.len()));
            }
            trace.uses.push(object);
        }
        ensure!(!trace.uses.is_empty(), "no uses");
        trace.count_from = first_again.unwrap_or(0);
        Ok(trace)
    }

    /// The trace as the text of a trace file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("# {}: NAME SIZE SET\n", self.name);
        for object in &self.uses {
            let (size, set) = (self.sizes[*object as usize], self.sets[*object as usize]);
            let _ = if set == NO_SET {
                writeln!(text, "{object} {size}")
            } else {
                writeln!(text, "{object} {size} {set}")
            };
        }
        text
    }

    /// For every use, how many uses later the same object is used again; `u64::MAX`: never.
    #[must_use]
    pub fn distances(&self) -> Vec<u64> {
        let mut next = vec![usize::MAX; self.sizes.len()];
        let mut distances = vec![u64::MAX; self.uses.len()];
        for (at, object) in self.uses.iter().enumerate().rev() {
            let later = std::mem::replace(&mut next[*object as usize], at);
            if later != usize::MAX {
                distances[at] = (later - at) as u64;
            }
        }
        distances
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_survives_its_text() {
        for trace in generated(300) {
            let mut read = Trace::parse(&trace.name, &trace.to_text()).expect("its own text");
            assert_eq!(read.uses.len(), trace.uses.len());
            // Numbers are given anew in the order of use; sizes and sets must follow.
            for (own, other) in trace.uses.iter().zip(&read.uses) {
                let (own, other) = (*own as usize, *other as usize);
                assert_eq!(trace.sizes[own], read.sizes[other], "{}", trace.name);
                assert_eq!(trace.sets[own] == NO_SET, read.sets[other] == NO_SET);
            }
            assert_eq!(trace.distances(), read.distances());
            read.name.clear();
        }
        assert!(Trace::parse("x", "a 5\nb\n").expect_err("no size").to_string().contains("line 2"));
        assert!(Trace::parse("x", "# nothing\n").is_err());
    }

    #[test]
    fn an_epoch_uses_every_object_once() {
        for make in [reshuffled, fixed] {
            let trace = make(500);
            for epoch in trace.uses.chunks(500) {
                let mut seen: Vec<_> = epoch.to_vec();
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..500), "{}", trace.name);
            }
            assert_eq!(trace.count_from, 500);
        }
    }
}
