//! How each group of rows is measured. Every measurement begins with a new cluster and empty caches.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::epochs::{ClusterEpoch, Job, Shards, gets_per_object, run};
use super::nodes::{Nodes, Shape};
use super::rows::Group;
use super::verify::{Source, Verified};
use super::{ClusterSample, NODES};
use crate::caches::{Removals, level};
use crate::http::{Fetch, objects};
use crate::read::{Order, Pass, Plan, ReadArgs};
use crate::targets::Contestant;
use crate::targets::data::{MILLION, make_million};
use crate::targets::lab::{Scratch, detach, feedline, run_to_end};
use crate::time::now;
use crate::train::Decode;
use crate::units::rate;

/// The bucket: the small files of the table of targets.
pub(super) const BUCKET: &str = "small";
/// Loader processes of each node.
const PROCESSES: usize = 2;
/// Readers that fill a cache, where speed is not measured.
const FILL_READERS: usize = 64;
/// Connections that the bare client tries; the best is its measure. As many as the table of one node gives
/// it: at 25 ms a request, 128 of them are 4,200 files a second at most, whatever the machine.
const CONNECTIONS: [usize; 4] = [8, 32, 128, 256];
/// The least that a cache may be: a reader with it owns next to nothing beside one with room for all.
const QUOTA_LEAST_BYTES: u64 = 64 << 20;

/// What the groups share.
#[derive(Debug)]
pub(super) struct Lab {
    /// Holds the bucket's folder.
    pub(super) root: PathBuf,
    /// For caches and mountpoints.
    pub(super) home: Scratch,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) latency: String,
    pub(super) rounds: usize,
    /// Tiny files of which the memory of a load is measured.
    pub(super) very_many: usize,
    /// When files were removed: a load waits until that costs it nothing.
    pub(super) removals: Removals,
}

/// Measurements by row.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<&'static str, Vec<ClusterSample>>);

impl Samples {
    fn add(&mut self, row: &'static str, sample: ClusterSample) {
        self.0.entry(row).or_default().push(sample);
    }

    pub(super) fn take(&mut self, row: &str) -> Vec<ClusterSample> {
        self.0.remove(row).unwrap_or_default()
    }
}

impl Lab {
    /// Measures every row of `group`, all rounds.
    pub(super) fn measure(&self, group: Group, into: &mut Samples) -> Result<()> {
        for round in 0..self.rounds {
            crate::interrupt::check()?;
            eprintln!("{group:?}: round {} of {}", round + 1, self.rounds);
            match group {
                Group::Epochs(shards) => self.epochs(shards, into),
                Group::Load => self.load(round, into),
                Group::Peer => self.peer(round, into),
                Group::Killed => self.killed(round, into),
                Group::Quota => self.quota(into),
                // Memory scatters little, and a million files take minutes.
                Group::Memory if round > 0 => Ok(()),
                Group::Memory => self.load_memory(into),
            }?;
        }
        Ok(())
    }

    /// A new cluster, from a level start.
    fn start(&self, shape: &Shape) -> Result<Nodes> {
        level(&self.root.join(BUCKET))?;
        Nodes::start(shape, &self.root, BUCKET, &self.home.join("cluster"))
    }

    fn discard(&self, nodes: Nodes) -> Result<()> {
        nodes.discard()?;
        self.removals.note();
        Ok(())
    }

    fn shape(&self) -> Shape {
        Shape::new(NODES, &self.latency)
    }

    fn epochs(&self, shards: Shards, into: &mut Samples) -> Result<()> {
        let nodes = self.start(&self.shape())?;
        let epochs = self.job(&nodes, shards, 3)?;
        let note = note(&epochs);
        let sample = |figure| ClusterSample { figure, note: note.clone(), ..Default::default() };
        let gets = gets_per_object(&epochs);
        match shards {
            Shards::Fixed => {
                let second = epochs.get(1).context("a second epoch")?;
                let [requests, bytes] = [second.requests.total(), second.peer_bytes];
                into.add("fixed-warm-requests", sample(requests as f64));
                into.add("fixed-warm-peers", sample(bytes as f64 / 1e6));
                into.add("fixed-gets", ClusterSample { epochs, ..sample(gets) });
            }
            Shards::Reshuffled => {
                into.add("reshuffled-gets", ClusterSample { epochs, ..sample(gets) });
            }
        }
        self.discard(nodes)
    }

    fn job(&self, nodes: &Nodes, shards: Shards, epochs: usize) -> Result<Vec<ClusterEpoch>> {
        let job = Job { processes: PROCESSES, shards, epochs, decode: Decode::None };
        run(nodes, &job, &mut |_| ())
    }

    /// The data set is three times as large as one node's quota, and fits into all of them.
    fn quota(&self, into: &mut Samples) -> Result<()> {
        let quota = self.bytes / 3;
        ensure!(quota >= QUOTA_LEAST_BYTES, "a third of the data set is no cache");
        let shape = Shape { quota_bytes: vec![quota; NODES], ..self.shape() };
        let nodes = self.start(&shape)?;
        let epochs = self.job(&nodes, Shards::Reshuffled, 3)?;
        let figure = epochs.get(1).context("a second epoch")?.hit_rate;
        let note = note(&epochs);
        into.add("quota-hits", ClusterSample { figure, note, epochs, ..Default::default() });
        self.discard(nodes)
    }

    /// Three nodes read the data set twice, each time in another order and other files each; the fourth
    /// dies in the middle of the first time.
    fn killed(&self, round: usize, into: &mut Samples) -> Result<()> {
        let source = Source::new(&self.root.join(BUCKET))?;
        let mut nodes = self.start(&self.shape())?;
        let dead = NODES - 1;
        let mounts: Vec<PathBuf> = (0..dead).map(|node| nodes.dir(node).to_owned()).collect();
        let order = |pass| Order::Random.of(source.count(), 1, 2 * round + pass);
        let mut had = 0;
        let first = source.read(&mounts, &order(0), || {
            had = nodes.status(dead)?.requests.get("GET").copied().unwrap_or(0);
            nodes.kill(dead)
        })?;
        let second = source.read(&mounts, &order(1), || Ok(()))?;
        let gets = nodes.requests()?.get;
        let count = source.count() as u64;
        let share = count as f64 / NODES as f64;
        let extra = gets.saturating_sub(count);
        let failed = failures(&first) + failures(&second);
        let trouble = first.first.or(second.first).unwrap_or_else(|| "none".to_owned());
        let right = first.right + second.right;
        let sample = |figure, note| ClusterSample { figure, note, ..Default::default() };
        into.add(
            "killed-reads",
            sample(failed as f64, format!("{right} right; first trouble: {trouble}")),
        );
        let note =
            format!("{gets} GETs for {count} objects, of which the dead node had fetched {had}");
        into.add("killed-gets", sample(extra as f64 / share, note));
        // Its mountpoint went with it.
        drop(nodes);
        self.clear()
    }

    fn clear(&self) -> Result<()> {
        let home = self.home.join("cluster");
        detach(&home);
        fs::remove_dir_all(&home).with_context(|| format!("remove {}", home.display()))
    }

    /// The first node reads what the second has in memory: it owns next to nothing itself and keeps no
    /// copy. A bare client in the first node's place gets the same bytes from the second node.
    fn peer(&self, round: usize, into: &mut Samples) -> Result<()> {
        let mut shape = Shape::new(2, &self.latency);
        shape.quota_bytes[0] = QUOTA_LEAST_BYTES;
        shape.flags = vec!["--local-copies=never".to_owned()];
        let mut nodes = self.start(&shape)?;
        let fill = ReadArgs { readers: FILL_READERS, ..ReadArgs::new(nodes.dir(1)) };
        Plan::new(&fill)?.pass(round)?;
        // Twice: what is read by pages is completed behind the reads.
        Plan::new(&fill)?.pass(round)?;
        nodes.remount(0)?;
        let from_peer = || anyhow::Ok(nodes.clusters()?[0].bytes_from_peers);
        let before: u64 = from_peer()?;
        let plan = Plan::new(&ReadArgs::new(nodes.dir(0)))?;
        let pass = || plan.pass(round);
        let ours = Contestant::measured(nodes.bucket(), Some(nodes.node(0)), pass)?;
        let moved = from_peer()? - before;
        let theirs = self.bare_from_peer(&nodes, round)?;
        let figure = ours.files_per_s() / theirs.files_per_s();
        let note = format!(
            "8 readers {:.0} files/s, {:.0} MB from the peer; {} {:.0} files/s",
            ours.files_per_s(),
            moved as f64 / 1e6,
            theirs.name,
            theirs.files_per_s()
        );
        into.add(
            "peer-read",
            ClusterSample { figure, note, contestants: vec![ours, theirs], ..Default::default() },
        );
        self.discard(nodes)
    }

    /// The bare client against the second node's own port, which speaks S3.
    fn bare_from_peer(&self, nodes: &Nodes, round: usize) -> Result<Contestant> {
        let all = objects(&self.root.join(BUCKET))?;
        let fetch = Fetch::new(&format!("http://{}/{BUCKET}", nodes.address(1)), all)?;
        let reader = nodes.network().node(0);
        let connections = reader.run(|| fetch.best_connections(&CONNECTIONS))??;
        let order = Order::Random.of(fetch.objects.len(), 1, round);
        let pass = || reader.run(|| fetch.pass(connections, &order, None))?;
        let got = Contestant::measured(nodes.bucket(), None, pass)?;
        Ok(got.renamed(&format!("http, {connections} connections")))
    }

    /// The peak of a load of the small files, and of very many tiny ones that are nothing but names.
    fn load_memory(&self, into: &mut Samples) -> Result<()> {
        eprintln!("load-memory: {} files, some minutes", self.very_many);
        make_million(&self.root.join(MILLION), self.very_many)?;
        let few = self.load_peak(BUCKET)?;
        let many = self.load_peak(MILLION)?;
        let [few_mib, many_mib] = [few, many].map(|bytes| bytes as f64 / f64::from(1 << 20));
        let note = format!(
            "the largest of {NODES} daemons: {few_mib:.0} MiB with {} files, {many_mib:.0} MiB with {} tiny ones",
            self.files, self.very_many
        );
        let figure = many as f64 / few as f64;
        into.add("load-memory", ClusterSample { figure, note, ..Default::default() });
        Ok(())
    }

    /// The largest peak of the daemons that load all of `bucket`.
    fn load_peak(&self, bucket: &str) -> Result<u64> {
        let nodes = Nodes::start(&self.shape(), &self.root, bucket, &self.home.join("cluster"))?;
        let log = self.home.join("load.log");
        run_to_end(feedline()?.arg("load").arg(nodes.dir(0)).args(["--wait", "--json"]), &log)?;
        let peak = peak_bytes(&nodes)?;
        self.discard(nodes)?;
        Ok(peak)
    }

    /// `feedline load` of everything on one node, which has every node load what it owns. Timed is the
    /// making of files, which what was removed before would slow down: so no round removes anything.
    fn load(&self, round: usize, into: &mut Samples) -> Result<()> {
        self.removals.forget(&|what| eprintln!("load: {what}"))?;
        let nodes = self.start(&self.shape())?;
        let log = self.home.join("load.log");
        let load = || -> Result<Pass> {
            let started = now();
            let mut command = feedline()?;
            run_to_end(command.arg("load").arg(nodes.dir(0)).args(["--wait", "--json"]), &log)?;
            let seconds = started.elapsed().as_secs_f64();
            Ok(whole(self.files, self.bytes, seconds))
        };
        let ours = Contestant::measured(nodes.bucket(), None, load)?.renamed("feedline load");
        let gets = ours.requests.map_or(0, |requests| requests.get);
        let url = format!("{}/{BUCKET}", nodes.bucket().url);
        let fetch = Fetch::new(&url, objects(&self.root.join(BUCKET))?)?;
        let client = nodes.network().node(0);
        let connections = client.run(|| fetch.best_connections(&CONNECTIONS))??;
        let order = Order::Random.of(fetch.objects.len(), 1, round);
        let pass = || client.run(|| fetch.pass(connections, &order, None))?;
        let theirs = Contestant::measured(nodes.bucket(), None, pass)?;
        let theirs = theirs.renamed(&format!("http, {connections} connections"));
        let note = format!(
            "{:.0} files/s with {gets} GETs, {} {:.0}",
            ours.files_per_s(),
            theirs.name,
            theirs.files_per_s()
        );
        let figure = ours.files_per_s() / theirs.files_per_s();
        let contestants = vec![ours, theirs];
        into.add("load", ClusterSample { figure, note, contestants, ..Default::default() });
        nodes.set_aside(&self.home.join(format!("loaded-{round}")))
    }
}

/// The most that the daemon of any node has had in memory.
fn peak_bytes(nodes: &Nodes) -> Result<u64> {
    let of = |node| anyhow::Ok(nodes.node(node).resident_bytes()?.1);
    let all: Vec<u64> = (0..nodes.count()).map(of).collect::<Result<_>>()?;
    all.into_iter().max().context("a node")
}

/// A pass of another program, which tells no more.
fn whole(files: u64, bytes: u64, seconds: f64) -> Pass {
    Pass {
        files,
        bytes,
        seconds,
        files_per_s: rate(files as f64, seconds),
        mb_per_s: rate(bytes as f64 / 1e6, seconds),
        ..Pass::default()
    }
}

fn failures(verified: &Verified) -> u64 {
    verified.failed + verified.wrong
}

/// What each epoch was.
fn note(epochs: &[ClusterEpoch]) -> String {
    let of = |epoch: &ClusterEpoch| {
        let ClusterEpoch { images_per_s, requests, peer_bytes, .. } = epoch;
        let mb = *peer_bytes as f64 / 1e6;
        format!("{images_per_s:.0} images/s, {} requests, {mb:.0} MB from peers", requests.total())
    };
    epochs.iter().map(of).collect::<Vec<_>>().join("; ")
}
