//! One seed, one run: the hash over all that happens is the same in one process twice and in another one.

use std::process::Command;

use feedline_sim::{Options, Report, run};

/// Of all kinds, with and without directories, loads and everything that goes wrong.
const SEEDS: std::ops::Range<u64> = 0..12;

/// What a process of its own is asked by.
const CHILD: &str = "FEEDLINE_SIM_TELL_HASHES";

fn reports() -> Vec<Report> {
    let run = |seed| run(&Options { seed, ..Options::default() });
    SEEDS.map(|seed| run(seed).unwrap_or_else(|failure| panic!("{failure}"))).collect()
}

fn lines() -> Vec<String> {
    let line = |(seed, it): (u64, Report)| {
        format!("seed {seed}: {:016x} of {} events, lived {:?}", it.hash, it.events, it.lived)
    };
    SEEDS.zip(reports()).map(line).collect()
}

#[test]
fn a_seed_gives_the_same_run_twice_in_one_process_and_in_another_one() {
    if std::env::var_os(CHILD).is_some() {
        lines().iter().for_each(|line| println!("{line}"));
        return;
    }
    let first = lines();
    let name = "a_seed_gives_the_same_run_twice_in_one_process_and_in_another_one";
    let child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let told = String::from_utf8(child.stdout).unwrap();
    let told: Vec<_> = told.lines().filter(|line| line.contains(" events, lived ")).collect();
    // The first line of a test's output may follow the harness's own words.
    let told: Vec<_> = told.iter().map(|line| &line[line.find("seed ").unwrap()..]).collect();
    assert_eq!(first.len(), told.len(), "{told:?}");
    let again = lines();
    let others = first.iter().zip(again.iter().zip(&told));
    let others: Vec<_> =
        others.filter(|(first, (again, told))| first != again || first != told).collect();
    assert!(others.is_empty(), "first, again, and in another process: {others:#?}");
}
