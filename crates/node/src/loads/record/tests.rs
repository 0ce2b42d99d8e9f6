//! How the numbers of a job add up over its passes.

use super::*;

fn record(id: &str) -> Record {
    Record::new(id.into(), "set".into(), &LoadRequest::default(), 7, 1)
}

fn count(files: u64) -> Count {
    Count { files, bytes: files * 10 }
}

/// A pass that met files: here, fetched (every other one by node 7), failed.
fn meet(record: &mut Record, here: u64, fetched: u64, failed: u64) {
    record.pass.listed += count(here + fetched + failed);
    record.pass.here += count(here);
    (0..fetched).for_each(|at| record.fetched((at % 2 == 0).then_some(NodeId(7)), 10));
    (0..failed).for_each(|_| record.pass.fail(Kind::Unavailable, 10));
}

fn numbers(record: &Record) -> (u64, u64, u64, u64) {
    let status = record.status(0, 1);
    (status.files, status.cached, status.loaded, status.failed)
}

#[test]
fn a_pass_that_begins_again_counts_what_it_had_brought_once() {
    let mut record = record("a");
    meet(&mut record, 5, 20, 2);
    record.again();
    assert_eq!(numbers(&record), (0, 0, 0, 0));
    meet(&mut record, 10, 0, 0);
    record.again();
    meet(&mut record, 25, 70, 5);
    assert_eq!(numbers(&record), (100, 5, 90, 5));
    record.end();
    assert_eq!(record.state, State::Incomplete);
    let reason = record.reason.clone().unwrap();
    assert!(reason.starts_with("95 of 100 files"), "{reason}");
    assert!(reason.contains("bucket unavailable: 5"), "{reason}");
}

#[test]
fn a_retry_takes_up_what_failed_and_the_numbers_are_those_of_the_whole_job() {
    let mut record = record("a");
    meet(&mut record, 10, 85, 5);
    record.end();
    record.retry();
    assert_eq!((record.names, record.state), (Names::Failed, State::Running));
    meet(&mut record, 1, 3, 1);
    assert_eq!(numbers(&record), (100, 11, 88, 1));
    record.end();
    record.retry();
    meet(&mut record, 0, 1, 0);
    record.end();
    assert_eq!((numbers(&record), record.state), ((100, 11, 89, 0), State::Done));
    assert_eq!(record.reason, None);
}

#[test]
fn a_retry_of_what_did_not_see_everything_sees_everything() {
    let mut record = record("a");
    meet(&mut record, 10, 20, 0);
    record.pass.fail(Kind::Unlisted, 0);
    record.end();
    assert_eq!(record.state, State::Incomplete);
    record.retry();
    assert_eq!(record.names, Names::Listings);
    meet(&mut record, 30, 60, 0);
    assert_eq!(numbers(&record), (90, 10, 80, 0));
}

fn others(nodes: &[u64]) -> Nodes {
    nodes.iter().map(|node| (NodeId(*node).to_string(), 1)).collect()
}

#[test]
fn what_was_brought_to_a_node_that_is_lost_is_brought_again_and_counted_once() {
    let mut record = record("a");
    record.begin(others(&[7, 8]));
    meet(&mut record, 60, 40, 0);
    assert_eq!(numbers(&record), (100, 60, 40, 0));
    // 7 dies with 20 that it was brought, see `meet`, and 20 that it had before.
    record.once_more("7 is down", others(&[8]));
    assert_eq!(record.state, State::Running);
    assert!(record.reason.as_ref().unwrap().contains("7 is down"));
    meet(&mut record, 60, 40, 0);
    assert_eq!(numbers(&record), (100, 40, 60, 0));
    record.end();
    assert_eq!((record.state, &record.reason), (State::Done, &None));
}

#[test]
fn a_load_that_may_have_lost_files_is_not_done_and_its_retry_sees_everything() {
    let mut record = record("a");
    record.begin(others(&[7]));
    meet(&mut record, 10, 20, 0);
    record.lost = Some("7 is down".into());
    record.end();
    assert_eq!(record.state, State::Incomplete);
    assert!(record.reason.as_ref().unwrap().contains("7 is down"), "{record:?}");
    record.retry();
    assert_eq!((record.names, record.state), (Names::Listings, State::Running));
    record.begin(others(&[7]));
    meet(&mut record, 30, 0, 0);
    record.end();
    assert_eq!((numbers(&record), record.state), ((30, 10, 20, 0), State::Done));
    // With failures as well, both are said.
    record.pass.fail(Kind::NoRoom, 10);
    record.lost = Some("8 left".into());
    record.end();
    let reason = record.reason.clone().unwrap();
    assert!(reason.contains("the cache is full") && reason.contains("8 left"), "{reason}");
}

#[test]
fn a_retry_sees_everything_if_a_node_is_not_the_one_that_held_the_rest() {
    let mut ended = record("a");
    ended.begin(others(&[7, 8]));
    meet(&mut ended, 10, 20, 5);
    ended.end();
    ended.retry();
    let names = |nodes: Nodes| {
        let mut record = ended.clone();
        record.begin(nodes);
        record.names
    };
    assert_eq!(names(others(&[7, 8, 9])), Names::Failed);
    assert_eq!(names(others(&[7])), Names::Listings);
    let anew = others(&[7, 8]).into_keys().zip([1, 2]).collect();
    assert_eq!(names(anew), Names::Listings);
    // The numbers are those of the whole job, whatever is gone over.
    ended.begin(others(&[7]));
    meet(&mut ended, 30, 5, 0);
    ended.end();
    assert_eq!((numbers(&ended), ended.state), ((35, 10, 25, 0), State::Done));
}

#[test]
fn a_record_comes_back_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.json");
    let mut record = record("a");
    meet(&mut record, 1, 2, 3);
    record.save(&file, false).unwrap();
    record.save(&file, true).unwrap();
    assert_eq!(Record::read(&file).unwrap(), record);
    fs::write(&file, "{").unwrap();
    assert!(Record::read(&file).is_err());
}
