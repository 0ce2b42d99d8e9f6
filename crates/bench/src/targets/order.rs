//! What prediction costs where it cannot help: in an order that nobody can know, and in another one
//! than was told. And whether all that we do ahead is ever worse than nothing.
//!
//! # Invariants
//!
//! - All read the same files in the same random order from the same bucket, and fill is on: nothing but the
//!   oracle differs. One contestant has neither, and reads the first of those files.
//! - A wrong order is told right before the first read: what fill could fetch before is no part of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::cold::{CAP, feedline};
use super::groups::{Collector, Lab};
use super::lab::{self, Bucket, Mount};
use super::rows::Link;
use super::sample::Contestant;
use crate::files::list_tree;
use crate::read::{Order, Pass, Plan, ReadArgs};

/// Contestants, and the flags of each.
const OFF: (&str, &[&str]) = ("oracle off", &["--oracle=off"]);
const UNKNOWN: (&str, &[&str]) = ("unknown order", &[]);
const WRONG: (&str, &[&str]) = ("wrong order", &[]);

const DEMAND: (&str, &[&str]) = ("demand only", &["--fill=off", "--oracle=off"]);

/// Rows, and who is compared in each.
const CAPPED: &[(&str, &str, &str)] =
    &[("cold-unknown-order", UNKNOWN.0, OFF.0), ("cold-wrong-order", WRONG.0, OFF.0)];
const UNCAPPED: &[(&str, &str, &str)] = &[
    ("uncapped-unknown-order", UNKNOWN.0, OFF.0),
    ("uncapped-wrong-order", WRONG.0, OFF.0),
    ("uncapped-demand", UNKNOWN.0, DEMAND.0),
];

/// Another seed than that of the order that is read.
const WRONG_SEED: u64 = 2;

impl Lab {
    /// Measures the rows of a link, all rounds.
    pub(super) fn order(&self, link: Link, into: &mut Collector<'_>) -> Result<()> {
        match link {
            Link::Capped => {
                let flags = ["--latency", self.latency.as_str(), "--bandwidth", CAP];
                let bucket = Bucket::start(&self.root, &flags)?;
                self.orders(&bucket, vec![OFF, UNKNOWN, WRONG], CAPPED, into)
            }
            Link::Uncapped => {
                self.orders(&self.bucket, vec![OFF, UNKNOWN, WRONG, DEMAND], UNCAPPED, into)
            }
        }
    }

    fn orders(
        &self,
        bucket: &Bucket,
        mut contestants: Vec<(&'static str, &'static [&'static str])>,
        rows: &[(&str, &str, &str)],
        into: &mut Collector<'_>,
    ) -> Result<()> {
        for round in 0..self.rounds {
            self.cold_round(into, round)?;
            let mut done: BTreeMap<&str, Contestant> = BTreeMap::new();
            for &(name, flags) in &contestants {
                let told = name == WRONG.0;
                let files = if name == DEMAND.0 { self.demand_files() } else { 0 };
                let read = |mount: &Mount| read(mount, files, told, round);
                done.insert(name, self.cold_pass(bucket, &feedline(name, flags), "small", read)?);
            }
            contestants.rotate_left(1);
            for (row, ours, theirs) in rows {
                into.compare(row, &done[ours], &done[theirs]);
            }
        }
        Ok(())
    }
}

/// `files` in random order with 8 readers, 0 for all, after the daemon was `told` another order.
fn read(mount: &Mount, files: usize, told: bool, round: usize) -> Result<Pass> {
    let plan = Plan::new(&ReadArgs { files, ..ReadArgs::new(&mount.dir) })?;
    if told {
        let set = mount.dir.join("train");
        let file = mount.home.join("order.txt");
        write_order(&set, &file, round)?;
        let mut hint = lab::feedline()?;
        let output = hint.arg("hint").arg(&set).arg("--order").arg(&file).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "feedline hint failed: {said}");
    }
    plan.pass(round)
}

/// The files of `set` in an order that is not read in this round.
fn write_order(set: &Path, file: &Path, round: usize) -> Result<()> {
    let files = list_tree(set)?;
    let mut text = String::new();
    for place in Order::Random.of(files.len(), WRONG_SEED, round) {
        let name = files[place].strip_prefix(set)?.to_str().context("a name that is not UTF-8")?;
        text.push_str(name);
        text.push('\n');
    }
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}
