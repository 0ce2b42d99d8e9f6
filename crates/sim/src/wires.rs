//! What lies between machines, for each pair and direction: delay, loss, damage, and whether anything passes.

use std::task::{Context, Waker};
use std::time::Duration;

use crate::rng::Rng;

/// What a lost packet costs: the least time after which TCP sends it again.
const RESEND_AFTER: Duration = Duration::from_millis(200);

/// One direction between two machines.
#[derive(Debug, Default)]
struct Wire {
    /// Not only slow for a while: part of the plan.
    delay: Duration,
    extra: Duration,
    loss_permille: u64,
    damage_permille: u64,
    /// Partitions that it is cut by: they may overlap.
    cuts: u32,
    waiting: Vec<Waker>,
}

/// All wires, and which machines are off.
#[derive(Debug)]
pub(crate) struct Wires {
    hosts: usize,
    wires: Vec<Wire>,
    is_off: Vec<bool>,
    jitter: Duration,
    rng: Rng,
}

impl Wires {
    pub(crate) fn new(hosts: usize, jitter: Duration, rng: Rng) -> Self {
        let wires = (0..hosts * hosts).map(|_| Wire::default()).collect();
        Self { hosts, wires, is_off: vec![false; hosts], jitter, rng }
    }

    fn wire(&mut self, from: usize, to: usize) -> &mut Wire {
        &mut self.wires[from * self.hosts + to]
    }

    pub(crate) fn set_delay(&mut self, from: usize, to: usize, delay: Duration) {
        self.wire(from, to).delay = delay;
    }

    pub(crate) fn set_extra(&mut self, from: usize, to: usize, extra: Duration) {
        self.wire(from, to).extra = extra;
    }

    pub(crate) fn set_loss(&mut self, from: usize, to: usize, permille: u64) {
        self.wire(from, to).loss_permille = permille;
    }

    pub(crate) fn set_damage(&mut self, from: usize, to: usize, permille: u64) {
        self.wire(from, to).damage_permille = permille;
    }

    /// How long what is sent now takes.
    pub(crate) fn delay(&mut self, from: usize, to: usize) -> Duration {
        let jitter = u64::try_from(self.jitter.as_micros()).expect("short");
        let jitter = Duration::from_micros(self.rng.within(0..=jitter));
        let loss_permille = self.wire(from, to).loss_permille;
        let lost = self.rng.permille(loss_permille);
        let wire = self.wire(from, to);
        let resent = if lost { RESEND_AFTER } else { Duration::ZERO };
        wire.delay + wire.extra + jitter + resent
    }

    /// Which byte of so many is damaged, if one is.
    pub(crate) fn damage(&mut self, from: usize, to: usize, length: usize) -> Option<usize> {
        let permille = self.wire(from, to).damage_permille;
        (0 < permille && self.rng.permille(permille)).then(|| self.rng.index(length))
    }

    /// True if nothing arrives now: then `context` is woken when something may.
    pub(crate) fn holds(&mut self, from: usize, to: usize, context: &Context<'_>) -> bool {
        let is_held = 0 < self.wire(from, to).cuts || self.is_off[from] || self.is_off[to];
        if is_held {
            self.wire(from, to).waiting.push(context.waker().clone());
        }
        is_held
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.wire(from, to).cuts += 1;
    }

    /// One cut less. Whoever waited is to be woken, without a lock.
    #[must_use]
    pub(crate) fn mend(&mut self, from: usize, to: usize) -> Vec<Waker> {
        let wire = self.wire(from, to);
        wire.cuts = wire.cuts.saturating_sub(1);
        std::mem::take(&mut wire.waiting)
    }

    /// A machine goes off or on. Whoever waited is to be woken, without a lock.
    #[must_use]
    pub(crate) fn switch(&mut self, host: usize, is_off: bool) -> Vec<Waker> {
        self.is_off[host] = is_off;
        let hosts = self.hosts;
        let touched = |at: &usize| at / hosts == host || at % hosts == host;
        let touched = (0..hosts * hosts).filter(touched);
        touched.flat_map(|at| std::mem::take(&mut self.wires[at].waiting)).collect()
    }

    /// No loss, no damage, no cuts, nothing slower than planned. Whoever waited is to be woken.
    #[must_use]
    pub(crate) fn heal(&mut self) -> Vec<Waker> {
        let mut waiting = Vec::new();
        for wire in &mut self.wires {
            (wire.extra, wire.loss_permille, wire.damage_permille) = (Duration::ZERO, 0, 0);
            wire.cuts = 0;
            waiting.append(&mut wire.waiting);
        }
        waiting
    }
}
