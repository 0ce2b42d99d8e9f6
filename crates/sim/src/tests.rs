//! Scenarios written by hand: what a seed failed with once, cut down to what it takes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use feedline_cluster::LocalCopies;
use feedline_model::page::PAGE_BYTES;

use crate::plan::{Death, Fault, Kind, NodePlan, Plan, ReaderPlan, Step};
use crate::rng::Rng;
use crate::{Options, Promise, Report, Sabotage, run};

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
    plan.faults = begins(&plan.nodes);
    plan.readers.clear();
    plan
}

/// Each node begins when it is to.
fn begins(nodes: &[NodePlan]) -> Vec<(Duration, Fault)> {
    let start = |(node, it): (usize, &NodePlan)| {
        let quota_bytes = it.quota_bytes;
        (it.starts_at, Fault::Start { node, place: node, quota_bytes, is_wiped: false })
    };
    nodes.iter().enumerate().map(start).collect()
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

/// All nodes from the start, and each reads all of so many objects.
fn busy(kind: Kind, nodes: usize, objects: usize) -> Plan {
    let mut plan = ample(&vec![Duration::ZERO; nodes], objects);
    (plan.kind, plan.span) = (kind, Duration::from_secs(30));
    plan.readers =
        (0..nodes).map(|node| ReaderPlan { node, steps: reads(0..objects).collect() }).collect();
    plan
}

/// Nobody reads, and the first node loads all of it.
fn loading(objects: usize) -> Plan {
    let mut plan = busy(Kind::Chaos, 3, objects);
    plan.readers.clear();
    plan.faults.push((Duration::from_secs(2), Fault::Load { node: 0 }));
    plan
}

/// What is broken, which promise that breaks, and the scenario in which it shows.
fn sabotages() -> Vec<(Sabotage, Promise, Plan)> {
    let (busy_chaos, calm) = (busy(Kind::Chaos, 3, 20), busy(Kind::Calm, 3, 20));
    let mut twice = busy(Kind::Chaos, 2, 20);
    twice.readers.extend(twice.readers.clone());
    let mut narrow = busy(Kind::Chaos, 2, 20);
    narrow.nodes.iter_mut().for_each(|node| node.quota_bytes = 500);
    narrow.faults = begins(&narrow.nodes);
    let mut without_copies = busy(Kind::Chaos, 3, 20);
    without_copies.local_copies = LocalCopies::Never;
    let mut death = busy(Kind::Death, 3, 60);
    death.faults.push((Duration::from_secs(20), Fault::Die { node: 2, how: Death::Process }));
    // Slow, so that a node dies that has its part, and others have not.
    let mut lost = loading(200);
    lost.bucket_ms = (500, 600);
    lost.faults.push((Duration::from_secs(4), Fault::Die { node: 2, how: Death::Process }));
    lost.kind = Kind::Death;
    vec![
        (Sabotage::WrongByte, Promise::RightBytes, busy_chaos.clone()),
        (Sabotage::FailedRead, Promise::ReadsSucceed, busy_chaos.clone()),
        (Sabotage::SlowRead, Promise::ReadsAreQuick, busy_chaos.clone()),
        (Sabotage::EndlessRead, Promise::ReadersFinish, busy_chaos.clone()),
        (Sabotage::NoSingleFlight, Promise::OneFlight, twice),
        (Sabotage::NoQuota, Promise::QuotaHeld, narrow),
        (Sabotage::PartOfPage, Promise::WholePages, busy_chaos.clone()),
        (Sabotage::PeersIgnored, Promise::FetchedOnce, calm),
        (Sabotage::PeersIgnored, Promise::DeathIsCheap, death),
        (Sabotage::PeersIgnored, Promise::NothingAgain, without_copies),
        (Sabotage::NeverHeal, Promise::NodesAgree, busy_chaos.clone()),
        (Sabotage::NoCopies, Promise::CopiesKept, busy_chaos.clone()),
        (Sabotage::FlightLeft, Promise::NothingLeft, busy_chaos.clone()),
        (Sabotage::EmptyWords, Promise::DoneIsTrue, loading(20)),
        (Sabotage::NoRollCall, Promise::DoneIsTrue, lost),
        (Sabotage::OutcomeLost, Promise::LoadCounts, loading(20)),
        (Sabotage::EndlessLoad, Promise::LoadsEnd, loading(20)),
        (Sabotage::PortTaken, Promise::NodesStart, busy_chaos.clone()),
        (Sabotage::Panic, Promise::NoPanic, busy_chaos),
    ]
}

#[test]
fn what_is_broken_on_purpose_breaks_its_promise_and_no_other() {
    for (sabotage, promise, plan) in sabotages() {
        let report = run::run(&plan, &Options::default());
        assert!(report.is_ok(), "{sabotage:?}, unbroken: {report:?}");
        let broken = Options { sabotage: Some(sabotage), ..Options::default() };
        let failure = run::run(&plan, &broken).expect_err(&format!("{sabotage:?} is not found"));
        assert_eq!(failure.broken, [promise].into(), "{sabotage:?}: {failure}");
        assert!(failure.to_string().contains(&format!("{promise}: at ")), "{failure}");
    }
}

#[test]
fn each_promise_has_something_that_breaks_it() {
    let held: BTreeSet<_> = sabotages().into_iter().map(|(_, promise, _)| promise).collect();
    assert_eq!(held, Promise::ALL.into());
}

#[test]
fn a_load_asks_the_bucket_once_for_each_object_though_it_is_stopped_and_gone_on_with() {
    let ms = Duration::from_millis;
    let mut plan = loading(100);
    plan.bucket_ms = (100, 200);
    plan.faults.push((ms(2_300), Fault::StopLoad { node: 0 }));
    plan.faults.push((ms(9_000), Fault::Load { node: 0 }));
    // And on another node, after it.
    plan.faults.push((ms(20_000), Fault::Load { node: 1 }));
    assert_eq!(holds(&plan).gets, 100);
}

#[test]
fn a_load_outlives_its_node_and_the_node_that_had_a_part_of_it() {
    let s = Duration::from_secs;
    let quota_bytes = 64 << 20;
    let mut plan = loading(300);
    plan.bucket_ms = (300, 600);
    let again = |node| Fault::Start { node, place: node, quota_bytes, is_wiped: node == 2 };
    plan.faults.extend([
        (s(3), Fault::Die { node: 2, how: Death::Machine }),
        (s(5), Fault::Die { node: 0, how: Death::Process }),
        (s(9), again(0)),
        (s(20), again(2)),
    ]);
    // A load that is done has everything somewhere: that is asked at its end, by itself.
    let report = holds(&plan);
    assert!(300 <= report.gets, "{}", report.gets);
}

#[test]
fn a_node_that_starts_while_the_directory_is_silent_asks_those_it_knew() {
    let s = Duration::from_secs;
    let mut plan = busy(Kind::Chaos, 3, 200);
    (plan.has_directory, plan.local_copies, plan.span) = (true, LocalCopies::Never, s(90));
    // All is read by the first node, and once more after both its death and that of the directory.
    plan.readers.truncate(1);
    plan.readers[0].steps = reads(0..200).chain(reads(0..200)).collect();
    plan.readers[0].steps[0].think = s(5);
    plan.readers[0].steps[200].think = s(25);
    let quota_bytes = 64 << 20;
    let again = Fault::Start { node: 0, place: 0, quota_bytes, is_wiped: false };
    plan.faults.extend([
        (s(15), Fault::NoDirectory { is_on: true }),
        (s(16), Fault::Die { node: 0, how: Death::Process }),
        (s(17), again),
    ]);
    assert_eq!(holds(&plan).gets, 200, "the others have their share");
}

#[test]
fn a_node_whose_disk_is_slow_is_not_waited_for_and_costs_its_share_once_more_at_most() {
    let s = Duration::from_secs;
    let mut plan = ample(&[s(0); 4], 400);
    plan.span = s(80);
    // The first reads everything, so that each has what it owns; the others read it when one has a slow disk.
    let mut later: Vec<_> = reads(0..400).collect();
    later[0].think = s(25);
    plan.readers.push(ReaderPlan { node: 0, steps: reads(0..400).collect() });
    plan.readers.extend([2, 3].map(|node| ReaderPlan { node, steps: later.clone() }));
    let slow = |slow_ms| Fault::SlowDisk { node: 1, slow_ms };
    plan.faults.extend([(s(20), slow(2_500)), (s(70), slow(0))]);
    let report = holds(&plan);
    // Some hundred are that node's.
    assert!((400..400 + 140).contains(&report.gets), "{}", report.gets);
    assert!(report.wait_max < s(3), "{:?}", report.wait_max);
}
