//! What was freed is not wanted until it is read again.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_is_forgotten_is_left_alone_until_it_is_read_again() {
    let bed = bed(5, 100);
    bed.scatter(8);
    bed.until_state("complete").await;
    // What was reported, or is too little for a set yet, goes too.
    bed.scatter(20);
    bed.fill.forget("train");
    bed.shelf.free_all();
    bed.source.clear_log();
    // Longer than a turn of the engine.
    let dropped = |status: &FillStatus| status.scans.is_empty() && status.in_flight == 0;
    bed.until("nothing is known", dropped).await;
    RealClock::new().sleep(Duration::from_millis(1_200)).await;
    assert_eq!(bed.reads_by_key().len(), 0);
    bed.order()[..8].iter().for_each(|index| bed.access(2, *index));
    bed.until("all again", |status| status.files == 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_of_which_a_part_is_forgotten_goes_on() {
    let bed = bed(5, 100);
    bed.scatter(8);
    bed.until_state("complete").await;
    for path in ["train/n00000", "tra", "train/x", "other"] {
        bed.fill.forget(path);
    }
    assert_eq!(bed.fill.status().scans.len(), 1);
    bed.fill.forget("");
    assert_eq!(bed.fill.status().scans.len(), 0);
}
