//! The claims of `docs/decisions/007`, on small traces. Everything is seeded: a failure repeats.

use super::*;

const OBJECTS: usize = 2_000;

/// Runs policies over one generated trace.
struct Bench {
    trace: Trace,
    share: f64,
}

impl Bench {
    fn new(name: &str, share: f64) -> Self {
        let trace = traces::generated(OBJECTS).into_iter().find(|trace| trace.name == name);
        Self { trace: trace.expect("a generated trace"), share }
    }

    fn run(&self, policy: &str) -> Row {
        let (name, make) = POLICIES.iter().find(|(name, _)| *name == policy).expect("a policy");
        simulate(&self.trace, name, *make, self.share)
    }
}

#[test]
fn a_cyclic_scan_hits_the_cache_s_share_and_lru_next_to_nothing() {
    for share in [0.1, 0.5, 0.9] {
        for trace in ["reshuffled", "fixed order"] {
            let bench = Bench::new(trace, share);
            for policy in ["ours, no foresight", "ours, sets known", "ours, order known"] {
                let row = bench.run(policy);
                assert!(row.to_share >= 0.95, "{share}: {row:?}");
            }
            // The bound: nothing that fetches on demand only gets more than its share.
            let bound = bench.run("Belady");
            assert!((0.97..=1.001).contains(&bound.to_share), "{share}: {bound:?}");
        }
        let lru = Bench::new("fixed order", share).run("LRU");
        assert!(lru.hit_rate < 0.01, "{lru:?}");
    }
}

#[test]
fn fill_hits_more_than_fits_and_costs_the_bucket_nothing() {
    for (policy, at_least) in [("ours, sets known, fill", 1.5), ("ours, order known, fill", 1.8)] {
        let row = Bench::new("reshuffled", 0.5).run(policy);
        assert!(row.to_share >= at_least, "{row:?}");
        assert!(row.fetches_per_use <= 0.53, "{row:?}");
    }
}

#[test]
fn where_the_next_epoch_is_another_part_of_the_data_a_known_order_gains() {
    let bench = Bench::new("random halves, 1 of 2 nodes", 0.5);
    assert!(bench.run("ours, order known").to_share >= 1.2);
    assert!(bench.run("ours, no foresight").to_share >= 0.95);
}

#[test]
fn nothing_is_ever_worse_than_no_cache() {
    for trace in traces::generated(OBJECTS) {
        for (name, make) in POLICIES {
            for share in [0.02, 0.5] {
                let row = simulate(&trace, name, make, share);
                assert!(row.fetches_per_use <= 1.0, "{share}: {row:?}");
            }
        }
    }
}

#[test]
fn two_jobs_share_and_a_new_job_gets_the_place_of_the_old_one() {
    let jobs = Bench::new("two jobs", 0.5);
    for (policy, at_least) in
        [("ours, no foresight", 0.8), ("ours, sets known", 0.95), ("ours, order known", 1.0)]
    {
        let row = jobs.run(policy);
        assert!(row.to_share >= at_least, "{row:?}");
    }
    let change = Bench::new("job change", 0.5);
    assert!(change.run("ours, sets known").hit_rate >= 0.9);
    assert!(change.run("ours, no foresight").hit_rate >= 0.5);
}

#[test]
fn a_hot_set_survives_one_time_reads() {
    let bench = Bench::new("hot set and one-time reads", 0.4);
    let (ours, lru) = (bench.run("ours, no foresight"), bench.run("LRU"));
    assert!(ours.hit_rate >= lru.hit_rate, "{ours:?} {lru:?}");
}

#[test]
fn versions_that_were_replaced_go() {
    let bench = Bench::new("a tenth replaced each epoch", 0.5);
    assert!(bench.run("ours, sets known").to_share >= 0.85);
    assert!(bench.run("ours, no foresight").to_share >= 0.7);
}

#[test]
fn recorded_epochs_are_kept_as_generated_ones() {
    let traces = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/traces");
    let load = |name: &str| Trace::load(&traces.join(name)).expect("a recorded trace");
    let all = Bench { trace: load("train-one-node.txt"), share: 0.5 };
    assert_eq!((all.trace.uses.len(), all.trace.sizes.len()), (2_000, 400));
    for policy in ["ours, no foresight", "ours, sets known", "ours, order known"] {
        let row = all.run(policy);
        assert!(row.to_share >= 0.95, "{row:?}");
    }
    assert!(all.run("LRU").hit_rate < 0.2);
    let half = Bench { trace: load("train-first-of-two-nodes.txt"), share: 0.5 };
    let row = half.run("ours, order known");
    assert!(row.to_share >= 1.2, "{row:?}");
}
