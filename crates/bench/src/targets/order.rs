//! What prediction costs where it cannot help: in an order that nobody can know, and in another one
//! than was told.
//!
//! # Invariants
//!
//! - All read the same files in the same random order from the same capped bucket, and fill is on for
//!   all: nothing but the oracle differs.
//! - A wrong order is told right before the first read: what fill could fetch before is no part of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::cold::{CAP, feedline};
use super::groups::{Collector, Lab};
use super::lab::{self, Bucket, Mount};
use super::sample::Contestant;
use crate::files::list_tree;
use crate::read::{Order, Pass, Plan, ReadArgs};

/// Contestants, and the flags of each.
const OFF: (&str, &[&str]) = ("oracle off", &["--oracle=off"]);
const UNKNOWN: (&str, &[&str]) = ("unknown order", &[]);
const WRONG: (&str, &[&str]) = ("wrong order", &[]);

/// Rows, and who is compared with `OFF` in each.
const ROWS: [(&str, &str); 2] = [("cold-unknown-order", UNKNOWN.0), ("cold-wrong-order", WRONG.0)];

/// Another seed than that of the order that is read.
const WRONG_SEED: u64 = 2;

impl Lab {
    /// Measures both rows, all rounds.
    pub(super) fn order(&self, into: &mut Collector<'_>) -> Result<()> {
        let flags = ["--latency", self.latency.as_str(), "--bandwidth", CAP];
        let bucket = Bucket::start(&self.root, &flags)?;
        let mut contestants = [OFF, UNKNOWN, WRONG];
        for round in 0..self.rounds {
            self.cold_round(into, round)?;
            let mut done: BTreeMap<&str, Contestant> = BTreeMap::new();
            for (name, flags) in contestants {
                let told = name == WRONG.0;
                let read = |mount: &Mount| read(mount, told, round);
                done.insert(name, self.cold_pass(&bucket, &feedline(name, flags), "small", read)?);
            }
            contestants.rotate_left(1);
            for (row, name) in ROWS {
                into.compare(row, &done[name], &done[OFF.0]);
            }
        }
        Ok(())
    }
}

/// Everything in random order with 8 readers, after the daemon was told another order.
fn read(mount: &Mount, told: bool, round: usize) -> Result<Pass> {
    let plan = Plan::new(&ReadArgs::new(&mount.dir))?;
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
