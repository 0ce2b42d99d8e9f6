//! A scenario as a value, drawn from a seed: nodes, objects, readers, and what happens to them when.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use feedline_cluster::LocalCopies;
use feedline_model::page::PAGE_BYTES;

use crate::faults;
use crate::rng::Rng;

/// What a scenario is about, and so what is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing happens: each page is fetched from the bucket exactly once.
    Calm,
    /// One node dies for good: what it owned may be fetched once more.
    Death,
    /// Anything may happen, and is over at the end.
    Chaos,
}

/// One node.
#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    pub(crate) id: u64,
    pub(crate) quota_bytes: u64,
    pub(crate) starts_at: Duration,
    /// It fetches everything in the background as well, so many objects at once; 0: it does not.
    pub(crate) fill_at_once: usize,
    /// Half of a round trip between two nodes is half of the sum of both.
    pub(crate) delay: Duration,
}

/// One read.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) place: usize,
    pub(crate) range: Range<u64>,
    /// The pause before it.
    pub(crate) think: Duration,
}

/// One process that reads, on one node.
#[derive(Debug, Clone)]
pub(crate) struct ReaderPlan {
    pub(crate) node: usize,
    pub(crate) steps: Vec<Step>,
}

/// How a node dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Its process is killed: connections break, the port refuses.
    Process,
    /// Its machine is off: nothing is heard from it.
    Machine,
    /// It stops in good order.
    Stop,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    Die {
        node: usize,
        how: Death,
    },
    /// At an address of the list; `place` is the wish, the next free one is taken.
    Start {
        node: usize,
        place: usize,
        quota_bytes: u64,
        is_wiped: bool,
    },
    Pause {
        node: usize,
    },
    GoOn {
        node: usize,
    },
    Cut {
        from: usize,
        to: usize,
    },
    Mend {
        from: usize,
        to: usize,
        resets: bool,
    },
    Reset {
        a: usize,
        b: usize,
    },
    Slow {
        from: usize,
        to: usize,
        extra: Duration,
    },
    Loss {
        from: usize,
        to: usize,
        permille: u64,
    },
    Damage {
        from: usize,
        to: usize,
        permille: u64,
    },
    SlowBucket {
        extra: Duration,
    },
    Throttle {
        is_on: bool,
    },
    FailBucket {
        is_on: bool,
    },
    Refuse {
        node: usize,
        is_on: bool,
    },
    SlowDisk {
        node: usize,
        slow_ms: u64,
    },
    Lie {
        node: usize,
        is_on: bool,
    },
    /// The node begins a load, or goes on with the one it has.
    Load {
        node: usize,
    },
    StopLoad {
        node: usize,
    },
    /// The directory of nodes answers nobody.
    NoDirectory {
        is_on: bool,
    },
    /// It loses all it had.
    Forget,
    /// It does not answer this node, which is listed no more after a while.
    CutOff {
        node: usize,
        is_on: bool,
    },
    /// This node hears so much later who came and left.
    Lag {
        node: usize,
        lag: Duration,
    },
}

/// See the module's head.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    pub(crate) nodes: Vec<NodePlan>,
    /// Addresses that all nodes know: more than nodes, so that some may move.
    pub(crate) places: usize,
    pub(crate) sizes: Vec<u64>,
    pub(crate) is_ample: bool,
    pub(crate) local_copies: LocalCopies,
    pub(crate) has_token: bool,
    pub(crate) bucket_ms: (u64, u64),
    pub(crate) jitter: Duration,
    pub(crate) loss_permille: u64,
    pub(crate) readers: Vec<ReaderPlan>,
    /// Nodes find each other in a directory; else all know all addresses.
    pub(crate) has_directory: bool,
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// When everything is healed.
    pub(crate) span: Duration,
}

impl Plan {
    /// The scenario of a seed.
    pub(crate) fn draw(seed: u64) -> Self {
        let root = Rng::new(seed);
        let mut rng = root.fork(1);
        let kind = match rng.within(0..=7) {
            0 => Kind::Calm,
            1 => Kind::Death,
            _ => Kind::Chaos,
        };
        let mut plan = Self::draw_kind(seed, kind, &mut rng);
        // By chance of their own: what a seed had before there were these is as it was.
        plan.has_directory = root.fork(5).permille(400);
        faults::draw_more(&mut plan, &mut root.fork(6));
        plan
    }

    /// The longest that a read may take, whatever peers do: two peers that are asked in vain, each with up
    /// to 8 s of patience for the request and as much for the answer. A peer that waits for a bucket in
    /// trouble is waited for as long as that lasts, 20 s, before the reader does the same.
    pub(crate) fn wait_max(&self) -> Duration {
        let is_well = self.bucket_ms.1 < 1_000 && !self.has_bucket_troubles();
        Duration::from_secs(if is_well { 32 } else { 60 })
    }

    /// True if the bucket does not always answer as it should.
    pub(crate) fn has_bucket_troubles(&self) -> bool {
        let is_bucket = |(_, fault): &(Duration, Fault)| {
            matches!(
                fault,
                Fault::SlowBucket { .. }
                    | Fault::Throttle { .. }
                    | Fault::FailBucket { .. }
                    | Fault::Refuse { .. }
            )
        };
        self.faults.iter().any(is_bucket)
    }

    /// One of this kind.
    pub(crate) fn draw_kind(seed: u64, kind: Kind, rng: &mut Rng) -> Self {
        let count = rng.within(2..=7);
        let sizes = sizes(rng);
        let total: u64 = sizes.iter().sum();
        let is_ample = kind != Kind::Chaos || rng.permille(500);
        let span = rng.ms(5_000..=60_000);
        let (slow, fills) = (rng.permille(150), rng.permille(300));
        let nodes: Vec<_> = (0..count)
            .map(|at| NodePlan {
                id: (rng.next() & !0xff) | at,
                quota_bytes: match is_ample {
                    true => total * rng.within(1..=3),
                    false => total * rng.within(200..=1_500) / 1_000 / count + 1,
                },
                starts_at: match kind {
                    Kind::Chaos if 0 < at && rng.permille(400) => rng.ms(0..=20_000),
                    _ => rng.ms(0..=50),
                },
                fill_at_once: if fills && rng.permille(700) { 1 + rng.index(64) } else { 0 },
                delay: if slow { rng.ms(5..=120) } else { rng.ms(0..=2) },
            })
            .collect();
        let readers = readers(rng, &sizes, nodes.len(), span);
        let mut plan = Self {
            seed,
            kind,
            places: nodes.len() + 2,
            nodes,
            sizes,
            is_ample,
            local_copies: [LocalCopies::Auto, LocalCopies::Always, LocalCopies::Never]
                [rng.index(3)],
            has_token: rng.permille(300),
            // The slow bucket lets nobody think that it is the owner who is dead.
            bucket_ms: if rng.permille(120) { (2_000, 8_000) } else { (5, 60) },
            jitter: rng.ms(0..=2),
            loss_permille: if rng.permille(300) { rng.within(1..=10) } else { 0 },
            readers,
            has_directory: false,
            faults: Vec::new(),
            span,
        };
        plan.faults = faults::draw(&plan, rng);
        plan
    }
}

/// Mostly small, some of many packets, and now and then one of two pages.
fn sizes(rng: &mut Rng) -> Vec<u64> {
    let count = rng.within(8..=40);
    let mut sizes: Vec<u64> = (0..count)
        .map(|_| match rng.within(0..=9) {
            0..=5 => rng.within(1..=4_000),
            6..=8 => rng.within(4_000..=64_000),
            _ => rng.within(64_000..=300_000),
        })
        .collect();
    if rng.permille(200) {
        sizes.push(PAGE_BYTES + rng.within(1..=100_000));
    }
    sizes
}

/// Each in an order of its own, or one order that the nodes begin at different places.
fn readers(rng: &mut Rng, sizes: &[u64], nodes: usize, span: Duration) -> Vec<ReaderPlan> {
    let (each, epochs) = (rng.within(1..=3), rng.within(1..=2));
    let rotates = rng.permille(300);
    let think = span / u32::try_from(sizes.len() as u64 * epochs).expect("few reads");
    let think_ms = u64::try_from(think.as_millis()).expect("short");
    // Some jobs are quick, so that reads crowd.
    let think_ms = if rng.permille(300) { 5 } else { think_ms };
    let mut readers = Vec::new();
    for node in 0..nodes {
        for number in 0..each {
            let mut steps = Vec::new();
            for epoch in 0..epochs {
                let mut order = match rotates {
                    true => (0..sizes.len()).collect(),
                    false => rng.order(sizes.len()),
                };
                let by = node as u64 * 7 + number * 3 + epoch * 11;
                order.rotate_left(usize::try_from(by).expect("small") % sizes.len());
                steps.extend(order.into_iter().map(|place| Step {
                    place,
                    range: range(rng, sizes[place]),
                    think: rng.ms(0..=2 * think_ms),
                }));
            }
            readers.push(ReaderPlan { node, steps });
        }
    }
    readers
}

/// The whole, or of large ones any part.
fn range(rng: &mut Rng, size: u64) -> Range<u64> {
    if size <= 64_000 || rng.permille(500) {
        return 0..size;
    }
    let start = rng.within(0..=size - 1);
    start..rng.within(start + 1..=size)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, nodes, sizes, is_ample, local_copies, .. } = self;
        writeln!(
            f,
            "{kind:?}: {} nodes, {} objects of {} bytes in all, {} readers, ample {is_ample}, copies \
             {local_copies:?}, token {}, directory {}, bucket {:?} ms, loss {} permille, {:?}",
            nodes.len(),
            sizes.len(),
            sizes.iter().sum::<u64>(),
            self.readers.len(),
            self.has_token,
            self.has_directory,
            self.bucket_ms,
            self.loss_permille,
            self.span,
        )?;
        for (at, node) in nodes.iter().enumerate() {
            writeln!(
                f,
                "  n{at} {:016x}: {} bytes, from {:?}, {:?} away, fills {}",
                node.id, node.quota_bytes, node.starts_at, node.delay, node.fill_at_once
            )?;
        }
        for (at, fault) in &self.faults {
            writeln!(f, "  {:>10.6} {fault:?}", at.as_secs_f64())?;
        }
        Ok(())
    }
}
