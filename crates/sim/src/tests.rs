//! Scenarios written by hand: what a seed failed with once, cut down to what it takes.

use std::ops::Range;
use std::time::Duration;

use feedline_cluster::LocalCopies;
use feedline_model::page::PAGE_BYTES;

use crate::plan::{Death, Fault, Kind, NodePlan, Plan, ReaderPlan, Step};
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

/// Nodes with room for everything, that start when they are told to; so many objects of 100 bytes.
fn ample(starts: &[Duration], objects: usize) -> Plan {
    let mut plan = plan(Kind::Chaos);
    let mut rng = Rng::new(9);
    let node = |starts_at: &Duration| NodePlan {
        id: rng.next(),
        quota_bytes: 64 << 20,
        starts_at: *starts_at,
        fill_at_once: 0,
        delay: Duration::from_millis(1),
    };
    plan.nodes = starts.iter().map(node).collect();
    (plan.places, plan.is_ample) = (starts.len(), true);
    plan.local_copies = LocalCopies::Auto;
    plan.sizes = vec![100; objects];
    let start = |(node, it): (usize, &NodePlan)| {
        let quota_bytes = it.quota_bytes;
        (it.starts_at, Fault::Start { node, place: node, quota_bytes, is_wiped: false })
    };
    plan.faults = plan.nodes.iter().enumerate().map(start).collect();
    plan.readers.clear();
    plan
}

/// The first bytes of each of these, one soon after the other.
fn reads(places: Range<usize>) -> impl Iterator<Item = Step> {
    let think = Duration::from_millis(5);
    places.map(move |place| Step { place, range: 0..100, think })
}

#[test]
fn nodes_that_join_at_once_cost_the_bucket_nothing_of_what_the_old_ones_have() {
    let s = Duration::from_secs;
    for joining in 2..=6 {
        let starts: Vec<_> = [s(0); 2].into_iter().chain(vec![s(60); joining]).collect();
        let mut plan = ample(&starts, 150);
        plan.span = s(100);
        // Of a large one the old nodes have the first page alone.
        plan.sizes.push(PAGE_BYTES + 5);
        plan.readers = (0..2 + joining)
            .map(|node| ReaderPlan { node, steps: reads(0..151).collect() })
            .collect();
        // Of the old nodes one reads, so that each has what it owns, and the other has no more.
        plan.readers[1].steps.clear();
        let report = holds(&plan);
        assert_eq!(report.gets, 150 + 2, "{joining} that join at once");
    }
}

#[test]
fn a_node_that_stood_still_asks_those_that_stood_in_for_it() {
    let s = Duration::from_secs;
    let mut plan = ample(&[s(0); 3], 700);
    (plan.span, plan.bucket_ms) = (s(60), (1, 3));
    // The first 400 are nobody's, and the questions of each owner about its share are in vain.
    let mut steps: Vec<_> = reads(0..700).collect();
    steps[400].think = s(15);
    plan.readers.push(ReaderPlan { node: 0, steps });
    plan.faults.extend([(s(10), Fault::Pause { node: 1 }), (s(40), Fault::GoOn { node: 1 })]);
    // In the last epoch nothing is fetched that its owner or who stood in for it has.
    let report = holds(&plan);
    // Twice at most what was on its way when it stood still.
    assert!((700..710).contains(&report.gets), "{}", report.gets);
}
