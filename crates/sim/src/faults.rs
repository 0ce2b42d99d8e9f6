//! What goes wrong in a scenario, and when: each trouble with its end.

use std::time::Duration;

use crate::plan::{Death, Fault, Kind, Plan};
use crate::rng::Rng;

/// Troubles of one scenario at most.
const TROUBLES_MAX: u64 = 8;

/// All that happens, in the order of time.
pub(crate) fn draw(plan: &Plan, rng: &mut Rng) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    for (node, it) in plan.nodes.iter().enumerate() {
        let start =
            Fault::Start { node, place: node, quota_bytes: it.quota_bytes, is_wiped: false };
        faults.push((it.starts_at, start));
    }
    let span_ms = u64::try_from(plan.span.as_millis()).expect("short");
    match plan.kind {
        Kind::Calm => {}
        Kind::Death => {
            let how = [Death::Process, Death::Machine, Death::Stop][rng.index(3)];
            let node = rng.index(plan.nodes.len());
            faults.push((rng.ms(1_500..=span_ms), Fault::Die { node, how }));
        }
        Kind::Chaos => {
            for _ in 0..rng.within(1..=TROUBLES_MAX) {
                let at = rng.ms(0..=span_ms);
                // Blinks, and what outlasts everybody's patience.
                let lasts = match rng.permille(500) {
                    true => rng.ms(1..=1_500),
                    false => rng.ms(1_000..=20_000),
                };
                trouble(plan, rng, &mut faults, (at, lasts));
            }
        }
    }
    // Stable: what was drawn first happens first.
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// Loads, and what goes wrong with a directory, if there is one.
pub(crate) fn draw_more(plan: &mut Plan, rng: &mut Rng) {
    let span_ms = u64::try_from(plan.span.as_millis()).expect("short");
    let mut faults = Vec::new();
    for node in 0..plan.nodes.len() {
        if rng.permille(200) {
            loads(rng, &mut faults, node, span_ms);
        }
    }
    if plan.has_directory && plan.kind == Kind::Chaos {
        for _ in 0..rng.within(0..=4) {
            let (at, lasts) = (rng.ms(0..=span_ms), rng.ms(100..=25_000));
            let node = rng.index(plan.nodes.len());
            let mut both =
                |begin: Fault, end: Fault| faults.extend([(at, begin), (at + lasts, end)]);
            match rng.within(0..=4) {
                0 => both(Fault::NoDirectory { is_on: true }, Fault::NoDirectory { is_on: false }),
                1 => {
                    both(Fault::CutOff { node, is_on: true }, Fault::CutOff { node, is_on: false })
                }
                2 => faults.push((at, Fault::Forget)),
                _ => both(
                    Fault::Lag { node, lag: rng.ms(500..=15_000) },
                    Fault::Lag { node, lag: Duration::ZERO },
                ),
            }
        }
    }
    plan.faults.extend(faults);
    plan.faults.sort_by_key(|(at, _)| *at);
}

/// A load of one node, which may be stopped and gone on with.
fn loads(rng: &mut Rng, faults: &mut Faults, node: usize, span_ms: u64) {
    let at = rng.ms(0..=span_ms);
    faults.push((at, Fault::Load { node }));
    if rng.permille(400) {
        let stop_at = at + rng.ms(0..=2_000);
        let again = stop_at + rng.ms(0..=10_000);
        faults.extend([(stop_at, Fault::StopLoad { node }), (again, Fault::Load { node })]);
    }
}

type Faults = Vec<(Duration, Fault)>;

/// One trouble from `at`, for so long.
fn trouble(plan: &Plan, rng: &mut Rng, faults: &mut Faults, (at, lasts): (Duration, Duration)) {
    let node = rng.index(plan.nodes.len());
    // Another one: there are at least two.
    let other = (node + 1 + rng.index(plan.nodes.len() - 1)) % plan.nodes.len();
    let mut both = |begin: Fault, end: Fault| faults.extend([(at, begin), (at + lasts, end)]);
    match rng.within(0..=12) {
        0..=2 => {
            let how = [Death::Process, Death::Machine, Death::Stop][rng.index(3)];
            let quota = plan.nodes[node].quota_bytes;
            let again = Fault::Start {
                node,
                place: if rng.permille(200) { rng.index(plan.places) } else { node },
                quota_bytes: if rng.permille(200) { quota / 2 + 1 } else { quota },
                is_wiped: rng.permille(300),
            };
            both(Fault::Die { node, how }, again);
        }
        3 => both(Fault::Pause { node }, Fault::GoOn { node }),
        4 => partition(plan, rng, faults, (at, lasts)),
        5 => both(
            Fault::Cut { from: node, to: other },
            Fault::Mend { from: node, to: other, resets: rng.permille(300) },
        ),
        6 => faults.push((at, Fault::Reset { a: node, b: other })),
        7 => {
            let extra = rng.ms(50..=4_000);
            let slow_ms = u64::try_from(extra.as_millis()).expect("seconds");
            // One way to another node, or the node's disk.
            if slow_ms % 2 == 0 {
                let slow = |extra| Fault::Slow { from: node, to: other, extra };
                both(slow(extra), slow(Duration::ZERO));
            } else {
                let slow = |slow_ms| Fault::SlowDisk { node, slow_ms };
                both(slow(slow_ms), slow(0));
            }
        }
        8 => {
            let loss = |permille| Fault::Loss { from: node, to: other, permille };
            both(loss(rng.within(10..=300)), loss(plan.loss_permille));
        }
        9 => {
            let damage = |permille| Fault::Damage { from: node, to: other, permille };
            both(damage(rng.within(5..=300)), damage(0));
        }
        10 => match rng.within(0..=2) {
            0 => both(
                Fault::SlowBucket { extra: rng.ms(100..=6_000) },
                Fault::SlowBucket { extra: Duration::ZERO },
            ),
            1 => both(Fault::Throttle { is_on: true }, Fault::Throttle { is_on: false }),
            _ => both(Fault::FailBucket { is_on: true }, Fault::FailBucket { is_on: false }),
        },
        11 => both(Fault::Refuse { node, is_on: true }, Fault::Refuse { node, is_on: false }),
        _ => both(Fault::Lie { node, is_on: true }, Fault::Lie { node, is_on: false }),
    }
}

/// Some nodes do not hear the others, nor the others them.
fn partition(plan: &Plan, rng: &mut Rng, faults: &mut Faults, (at, lasts): (Duration, Duration)) {
    let side: Vec<bool> = plan.nodes.iter().map(|_| rng.permille(500)).collect();
    let resets = rng.permille(300);
    for from in 0..side.len() {
        for to in 0..side.len() {
            if side[from] != side[to] {
                faults.push((at, Fault::Cut { from, to }));
                faults.push((at + lasts, Fault::Mend { from, to, resets }));
            }
        }
    }
}
