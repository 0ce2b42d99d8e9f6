//! What comes next, over all streams, and when a position is needed.

use crate::oracle::Oracle;
use crate::shared::Shared;
use crate::stream::Stream;
use crate::walk::Walk;

/// Something that makes opens: a stream's walk, one that is expected, or a shared order.
enum Source<'a> {
    Walk(&'a mut Walk),
    Shared(&'a mut Shared),
}

impl Source<'_> {
    /// How many rounds ahead were told, or `u64::MAX` if there is no more to tell. In a round each stream
    /// makes one open.
    fn told(&self) -> u64 {
        match self {
            Self::Walk(walk) => {
                let told = walk.told.saturating_sub(walk.opens);
                if told < walk.tellable() { told } else { u64::MAX }
            }
            Self::Shared(shared) => shared.told() / u64::from(shared.streams),
        }
    }

    /// Adds what is opened in a round, 1 is the next.
    fn round(&self, k: u64, out: &mut Vec<u32>) {
        match self {
            Self::Walk(walk) if walk.tellable() < k => {}
            Self::Walk(walk) => out.extend(walk.position(k)),
            Self::Shared(shared) => {
                let streams = u64::from(shared.streams);
                let places = (k - 1) * streams + 1..=k * streams;
                let told = shared.told();
                out.extend(places.filter(|&at| told < at).map(|at| shared.position(at)));
            }
        }
    }

    fn tell(&mut self, rounds: u64) {
        match self {
            Self::Walk(walk) => {
                let rounds = rounds.min(walk.tellable());
                walk.told = walk.told.max(walk.opens + rounds);
            }
            Self::Shared(shared) => shared.tell(rounds * u64::from(shared.streams)),
        }
    }
}

impl Oracle {
    /// The positions that the locked streams will open next and that were not yet told, in the
    /// order they will be needed if the streams advance at the same speed; at most `ahead` opens
    /// ahead of where each stream is, and none beyond the end of its shard before the stream has gone on
    /// there. A position may be told again where the prediction changed.
    ///
    /// Streams that ended with their epoch count as if their successors had begun. Cost: about
    /// 20 ns a position, plus 20 ns a stream.
    pub fn upcoming(&mut self, ahead: usize) -> Vec<u32> {
        let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
        let locked = self.streams.values_mut().filter_map(Stream::walk_mut);
        let walks = locked.chain(&mut self.ghosts).map(Source::Walk);
        let mut sources: Vec<Source<'_>> =
            walks.chain(self.shared.iter_mut().map(Source::Shared)).collect();
        let told: Vec<u64> = sources.iter().map(Source::told).collect();
        let mut out = Vec::new();
        let least = told.iter().copied().min().unwrap_or(ahead);
        for k in least.saturating_add(1)..=ahead {
            for (source, &told) in sources.iter().zip(&told) {
                if told < k {
                    source.round(k, &mut out);
                }
            }
        }
        for source in &mut sources {
            source.tell(ahead);
        }
        out
    }

    /// The positions that the locked streams will open next, whatever was told before: at most `count`,
    /// in the order of [`Oracle::upcoming`]. Cost: about 20 ns a position.
    #[must_use]
    pub fn next_opens(&self, count: usize) -> Vec<u32> {
        let mut out = Vec::with_capacity(count);
        // As many rounds as positions at most; a stream whose epoch ends has none to give.
        for k in 1..=count as u64 {
            for walk in self.walks().chain(&self.ghosts) {
                out.extend(walk.position(k));
            }
            for shared in &self.shared {
                let streams = u64::from(shared.streams);
                let places = (k - 1) * streams + 1..=k * streams;
                out.extend(places.map(|at| shared.position(at)));
            }
            if out.is_empty() || count <= out.len() {
                break;
            }
        }
        out.truncate(count);
        out
    }

    /// In how many opens, over all locked streams, the position is needed next: 1 is the very next
    /// open. `u64::MAX`: known not to be needed in this epoch and the next. `None`: unknown.
    ///
    /// It is the place that [`Oracle::upcoming`] would give the position if nothing had been told
    /// yet. Cost: about 20 ns a stream.
    #[must_use]
    pub fn next_use(&self, position: u32) -> Option<u64> {
        let shared_streams: u64 = self.shared.iter().map(|s| u64::from(s.streams)).sum();
        let round = (self.locked.len() + self.ghosts.len()) as u64 + shared_streams;
        let mut best: Option<u64> = None;
        let mut consider = |opens: u64| best = Some(best.map_or(opens, |best| best.min(opens)));
        let mut before = 0;
        for walk in self.walks().chain(&self.ghosts) {
            if let Some(k) = walk.opens_until(position) {
                consider((k - 1).saturating_mul(round) + before + 1);
            }
            before += 1;
        }
        for shared in &self.shared {
            let streams = u64::from(shared.streams);
            if let Some(places) = shared.opens_until(position) {
                let (rounds, rest) = ((places - 1) / streams, (places - 1) % streams);
                consider(rounds.saturating_mul(round) + before + rest + 1);
            }
            before += streams;
        }
        let all_known = 0 < round && self.streams.values().all(|stream| !stream.is_open());
        best.or(all_known.then_some(u64::MAX))
    }
}
