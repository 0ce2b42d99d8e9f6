//! What a hint changes, and which are refused.

use super::*;
use crate::{HintError, HintOutcome};

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_makes_the_set_known_and_its_order_that_of_the_fetches() {
    let bed = bed_of(2, 50, 100, FillConfig { window_max: 1, ..FillConfig::default() });
    let order: Vec<u32> = (0..100).map(|step| (step * 37 + 11) % 100).collect();
    let path = |at: &u32| bed.objects[*at as usize].key.replace("train/", "");
    let hint = OrderHint::Files(order.iter().map(path).collect());
    let outcome = bed.fill.hint("train", 0, &hint).expect("its files");
    assert_eq!(outcome, HintOutcome { files: 100, matched: 100 });
    bed.until_state("complete").await;
    let log = bed.source.log();
    let fetched: Vec<_> = log.iter().map(|read| Arc::clone(&read.key)).collect();
    let hinted: Vec<_> =
        order.iter().map(|at| Arc::clone(&bed.objects[*at as usize].key)).collect();
    // A few are in flight at once and may be logged in any order.
    for (place, key) in fetched.iter().enumerate() {
        let expected = hinted.iter().position(|other| other == key).expect("of the set");
        assert!(place.abs_diff(expected) < 16, "{key}: {place} instead of {expected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_hint_brings_back_what_is_gone_and_nothing_else() {
    let bed = bed(2, 50);
    let hint = |first: u32| OrderHint::Positions((first..100).chain(0..first).collect());
    bed.fill.hint("train", 0, &hint(0)).expect("positions");
    bed.until_state("complete").await;
    assert_eq!(bed.source.reads_total(), 100);
    // All is here still.
    bed.fill.hint("train", 0, &hint(10)).expect("positions");
    bed.until_state("complete").await;
    assert_eq!(bed.source.reads_total(), 100);
    for hint in [hint(20), OrderHint::TorchSeeds(vec![1])] {
        bed.shelf.free_all();
        bed.source.clear_log();
        bed.fill.hint("train", 0, &hint).expect("a hint");
        bed.until("all again", |_| bed.reads_by_key().len() == 100).await;
        bed.until_state("complete").await;
        assert_eq!(bed.reads_by_key().len(), 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_of_several_ranks_are_fetched_in_turns() {
    let bed = bed_of(1, 4_000, 100, FillConfig { window_max: 1, ..FillConfig::default() });
    let hold = bed.source.hold();
    for rank in 0..4_u32 {
        // Told before anything can be fetched but what the first one lets begin.
        let order = OrderHint::Positions((0..1_000).map(|step| rank * 1_000 + step).collect());
        bed.fill.hint("train", rank, &order).expect("positions");
    }
    hold.release();
    bed.until("fetches", |status| status.files >= 2_000).await;
    let log = bed.source.log();
    let numbers = log[..1_200].iter().map(|read| {
        bed.objects.iter().position(|object| object.key == read.key).expect("of the set")
    });
    let mut of_rank = [0; 4];
    numbers.for_each(|number| of_rank[number / 1_000] += 1);
    assert!(of_rank.iter().all(|count| (280..=320).contains(count)), "{of_rank:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hint_keeps_the_set_and_a_first_one_replaces_its_parts() {
    let bed = bed_of(2, 50, 100, FillConfig { enabled: false, ..FillConfig::default() });
    for folder in ["train/c000", "train/c001", "train", "train"] {
        bed.fill.hint(folder, 0, &OrderHint::TorchSeeds(vec![1])).expect("a known folder");
    }
    let roots: Vec<String> = bed.fill.status().scans.into_iter().map(|scan| scan.root).collect();
    assert_eq!(roots, ["train"]);
    bed.access(1, 3);
    bed.until("the read counts for it", |status| status.scans[0].read == 1).await;
    bed.fill.hint("train", 0, &OrderHint::Positions(vec![5])).expect("a position");
    assert_eq!(bed.fill.status().scans[0].read, 1, "what was known of it is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_makes_no_sense_is_refused_and_changes_nothing() {
    let bed = bed(2, 50);
    let refused = |root: &str, hint: OrderHint| bed.fill.hint(root, 0, &hint).unwrap_err();
    let files = |names: &[&str]| OrderHint::Files(names.iter().map(|n| (*n).to_owned()).collect());
    let said = refused("train", files(&["x.jpg", "../c000/00000.jpg"])).to_string();
    assert!(said.contains("none of the 2") && said.contains("\"x.jpg\""), "{said}");
    let said = refused("train", OrderHint::Positions(vec![100, u32::MAX])).to_string();
    assert!(said.contains("100 files below /train"), "{said}");
    let said = refused("train", OrderHint::Positions(vec![0; 65_537])).to_string();
    assert!(said.contains("at most 65536"), "{said}");
    assert_eq!(refused("train", files(&[])), HintError::Empty);
    assert_eq!(refused("absent", files(&["a"])), HintError::NoFiles { root: "absent".into() });
    assert!(matches!(
        refused("train", OrderHint::TorchSeeds(vec![0; 10_001])),
        HintError::TooLong { .. }
    ));
    assert!(bed.fill.status().scans.is_empty());
    let mixed = OrderHint::Positions(vec![7, 100, 8, 7]);
    assert_eq!(bed.fill.hint("train", 0, &mixed), Ok(HintOutcome { files: 100, matched: 3 }));

    let off = bed_of(1, 9, 100, FillConfig { oracle: false, ..FillConfig::default() });
    assert_eq!(off.fill.hint("train", 0, &mixed).unwrap_err(), HintError::Off);
}
