//! Scenarios written by hand: what a seed failed with once, cut down to what it takes.

use std::time::Duration;

use crate::plan::{Death, Fault, Kind, Plan};
use crate::rng::Rng;
use crate::{Options, Report, run};

fn plan(kind: Kind) -> Plan {
    let mut plan = Plan::draw_kind(1, kind, &mut Rng::new(1));
    plan.nodes.iter_mut().for_each(|node| node.fill_at_once = 0);
    (plan.loss_permille, plan.bucket_ms) = (0, (5, 60));
    plan
}

fn holds(plan: &Plan) -> Report {
    run::run(plan, &Options::default()).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn a_node_that_comes_back_at_another_address_is_found_there() {
    let mut plan = plan(Kind::Chaos);
    let count = plan.nodes.len();
    let quota_bytes = plan.nodes[1].quota_bytes;
    let begin = |(number, node): (usize, &crate::plan::NodePlan)| {
        let quota_bytes = node.quota_bytes;
        let start = Fault::Start { node: number, place: number, quota_bytes, is_wiped: false };
        (Duration::from_millis(number as u64), start)
    };
    plan.faults = plan.nodes.iter().enumerate().map(begin).collect();
    let elsewhere = Fault::Start { node: 1, place: count, quota_bytes, is_wiped: false };
    plan.faults.extend([
        (Duration::from_secs(2), Fault::Die { node: 1, how: Death::Process }),
        (Duration::from_secs(4), elsewhere),
    ]);
    holds(&plan);
}
