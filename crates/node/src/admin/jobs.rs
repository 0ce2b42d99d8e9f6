//! Load jobs as facts of the cluster: each node tells etcd of its own, and is asked for more where it can be.
//!
//! What etcd has is for people who ask another node; a job lives in its node's directory, and goes on from there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use feedline_cluster::{Change, Cluster, Etcd, Facts, PeerState};
use feedline_gateway::ApiError;
use feedline_gateway::api::{LoadNode, LoadState, LoadStatus};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::NodeAdmin;
use super::others::ask_one;
use super::question::{Question, Told};

/// Where jobs stand among the facts.
const LOADS: &str = "loads/";

/// How often this node looks at its jobs for what etcd does not know.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the numbers of a job go to etcd while its state stays: who wants them newer asks the node.
const NUMBERS_EVERY: Duration = Duration::from_secs(5);

/// Jobs of a node that have ended and are told again to an etcd that may not know them.
const ENDED_TOLD: usize = 20;

/// Jobs of all nodes in etcd; the oldest go first.
const JOBS_MAX: usize = 200;

/// Changes at once at most: etcd takes 128 as it is delivered.
const CHANGES_MAX: usize = 100;

/// Bytes of a job at most, well within what a fact may be; of a larger one the details are left away.
const JOB_BYTES_MAX: usize = 6 << 10;

/// Nodes that were passed by, as told.
const PASSED_BY_MAX: usize = 8;

/// A job in etcd.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct JobFact {
    /// Whose it is.
    node: String,
    /// Where that node was when it told.
    address: String,
    job: LoadStatus,
}

/// What of a job is worth telling.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Numbers {
    state: LoadState,
    files: u64,
    files_total: Option<u64>,
    bytes: u64,
}

impl Numbers {
    fn of(job: &LoadStatus) -> Self {
        let LoadStatus { state, files, files_total, bytes, .. } = *job;
        Self { state, files, files_total, bytes }
    }
}

/// What this node has told of its jobs, and to which etcd.
#[derive(Debug, Default)]
struct Said {
    generation: String,
    jobs: HashMap<String, (Numbers, Duration)>,
}

impl Said {
    /// True if a job of this node, the `at`-th newest, is to be told now.
    fn is_due(&self, job: &LoadStatus, at: usize, now: Duration) -> bool {
        let Some((before, when)) = self.jobs.get(&job.id) else {
            return job.state.is_running() || at < ENDED_TOLD;
        };
        let numbers = Numbers::of(job);
        numbers.state != before.state || (numbers != *before && *when + NUMBERS_EVERY <= now)
    }
}

/// With the names of the facts that they are in.
fn facts_of(facts: &Facts) -> impl Iterator<Item = (&str, JobFact)> {
    // One of a newer version that is written otherwise is none that this node could show.
    let jobs = facts.below(LOADS);
    jobs.filter_map(|(name, value)| Some((name, serde_json::from_slice(value).ok()?)))
}

/// Jobs that make room for so many more: those that have ended, of these the ones that began first. What this node
/// cannot read is a newer one's, and stays.
fn surplus(facts: &Facts, more: usize) -> Vec<Change> {
    let age = |(name, JobFact { job, .. })| (job.state.is_running(), job.started_ms, name);
    let mut all: Vec<_> = facts_of(facts).map(age).collect();
    all.sort_unstable();
    let surplus = (all.len() + more).saturating_sub(JOBS_MAX);
    let first = all.into_iter().take(surplus);
    first.map(|(.., name)| Change::Remove(format!("{LOADS}{name}"))).collect()
}

impl NodeAdmin {
    /// Tells etcd of this node's jobs, for as long as the node runs.
    pub(crate) fn tell_loads(self: &Arc<Self>, tasks: &Handle) {
        let Some(etcd) = self.chain.etcd.get().cloned() else { return };
        let (weak, clock) = (Arc::downgrade(self), Arc::clone(&self.clock));
        let mut stop = self.stop.subscribe();
        drop(tasks.spawn(async move {
            let mut said = Said::default();
            loop {
                let is_told = match weak.upgrade() {
                    Some(admin) => admin.tell_loads_once(&etcd, &mut said).await,
                    None => return,
                };
                let pause = if is_told { LOOK_EVERY } else { NUMBERS_EVERY };
                tokio::select! {
                    () = clock.sleep(pause) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        }));
    }

    /// False: etcd did not take it.
    async fn tell_loads_once(&self, etcd: &Etcd, said: &mut Said) -> bool {
        let Some(cluster) = self.chain.cluster.get() else { return true };
        let facts = etcd.facts().borrow().clone();
        if facts.trouble.is_some() {
            return true;
        }
        if said.generation != facts.generation {
            *said = Said { generation: facts.generation.clone(), jobs: HashMap::new() };
        }
        let (now, own) = (self.clock.monotonic(), self.loads.list());
        let due = own.iter().enumerate().filter(|(at, job)| said.is_due(job, *at, now));
        let due: Vec<_> = due.map(|(_, job)| job).take(CHANGES_MAX).collect();
        // Those that this node has forgotten; of those of earlier runs, age takes care.
        let is_gone = |id: &String| own.iter().all(|job| job.id != *id);
        let gone: Vec<_> = said.jobs.keys().filter(|id| is_gone(id)).cloned().collect();
        if due.is_empty() && gone.is_empty() {
            return true;
        }
        let new = due.iter().filter(|job| !said.jobs.contains_key(&job.id)).count();
        let mut changes: Vec<_> = due.iter().map(|job| told(cluster, job)).collect();
        changes.extend(gone.iter().map(|id| Change::Remove(format!("{LOADS}{id}"))));
        if 0 < new {
            let is_told = |change: &Change| {
                let Change::Remove(name) = change else { return false };
                due.iter().all(|job| name.strip_prefix(LOADS) != Some(&*job.id))
            };
            changes.extend(surplus(&facts, new).into_iter().filter(is_told));
        }
        for some in changes.chunks(CHANGES_MAX) {
            if let Err(why) = etcd.change_facts(some).await {
                tracing::debug!("etcd is not told of load jobs: {why}");
                return false;
            }
        }
        said.jobs.retain(|id, _| !gone.contains(id));
        said.jobs.extend(due.iter().map(|job| (job.id.clone(), (Numbers::of(job), now))));
        true
    }

    /// Jobs of other nodes, as far as etcd knows them.
    fn loads_elsewhere(&self) -> Vec<LoadStatus> {
        let (Some(etcd), Some(cluster)) = (self.chain.etcd.get(), self.chain.cluster.get()) else {
            return Vec::new();
        };
        let facts = etcd.facts().borrow().clone();
        let me = cluster.status().node.to_string();
        let others = facts_of(&facts).map(|(_, fact)| fact).filter(|fact| fact.node != me);
        others.map(|fact| seen(cluster, &facts, fact)).collect()
    }

    fn load_elsewhere(&self, id: &str) -> Option<(&Cluster, LoadStatus, LoadNode)> {
        let job = self.loads_elsewhere().into_iter().find(|job| job.id == id)?;
        let node = job.node.clone()?;
        Some((self.chain.cluster.get()?, job, node))
    }

    /// This node's jobs and those of the others, the newest first.
    pub(super) fn loads_of_all(&self) -> Vec<LoadStatus> {
        let mut all = self.loads.list();
        all.extend(self.loads_elsewhere());
        all.sort_by(|a, b| b.started_ms.cmp(&a.started_ms).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// How a job stands, whose ever it is.
    pub(super) async fn load_of_any(&self, id: &str) -> Result<LoadStatus, ApiError> {
        match self.loads.status(id) {
            Err(unknown) => self.ask_for_load(id, unknown).await,
            known => known,
        }
    }

    /// Stops a job, whose ever it is.
    pub(super) async fn stop_load(&self, id: &str) -> Result<LoadStatus, ApiError> {
        match self.loads.status(id) {
            Err(unknown) => {
                let question = Question::StopLoad { id: id.to_owned() };
                self.order_for_load(id, &question, unknown).await
            }
            Ok(_) => self.loads.stop(id).await,
        }
    }

    /// Begins again with what is not cached.
    pub(super) async fn retry_load(&self, id: &str) -> Result<LoadStatus, ApiError> {
        match self.loads.status(id) {
            Err(unknown) => {
                let question = Question::RetryLoad { id: id.to_owned() };
                self.order_for_load(id, &question, unknown).await
            }
            Ok(_) => self.loads.retry(id).await,
        }
    }

    /// How a job of another node stands, by its own word if it can be heard. `unknown`: what is said of one that
    /// nobody knows.
    async fn ask_for_load(&self, id: &str, unknown: ApiError) -> Result<LoadStatus, ApiError> {
        let Some((cluster, last, node)) = self.load_elsewhere(id) else { return Err(unknown) };
        let question = Question::Load { id: id.to_owned() };
        let trouble = match ask_one(cluster, &node.address, &question).await {
            Ok(Told::Load { job }) => {
                let node = Some(LoadNode { address: node.address, trouble: None });
                return Ok(LoadStatus { node, ..*job });
            }
            Ok(_) => "its answer makes no sense".into(),
            Err(why) => why,
        };
        let node = LoadNode { address: node.address, trouble: Some(trouble) };
        Ok(LoadStatus { node: Some(node), ..last })
    }

    /// Has the node whose job it is do something with it.
    async fn order_for_load(
        &self,
        id: &str,
        question: &Question,
        unknown: ApiError,
    ) -> Result<LoadStatus, ApiError> {
        let Some((cluster, _, node)) = self.load_elsewhere(id) else { return Err(unknown) };
        match ask_one(cluster, &node.address, question).await {
            Ok(Told::Load { job }) => {
                Ok(LoadStatus { node: Some(LoadNode { trouble: None, ..node }), ..*job })
            }
            answer => {
                let why = answer.err().unwrap_or_else(|| "its answer makes no sense".into());
                Err(ApiError::unavailable(format!(
                    "load {id} is the job of node {}, which did not confirm it: {why}; a job goes on when its node is back",
                    node.address
                )))
            }
        }
    }

    /// Why the failures of a job are not to be had here.
    pub(super) fn failures_elsewhere(&self, id: &str, unknown: ApiError) -> ApiError {
        let Some((_, _, node)) = self.load_elsewhere(id) else { return unknown };
        ApiError::bad_request(format!(
            "what load {id} could not cache is written down on its node, {}: say it there",
            node.address
        ))
    }
}

/// What etcd is told of a job.
fn told(cluster: &Cluster, job: &LoadStatus) -> Change {
    let status = cluster.status();
    let mut job = job.clone();
    job.passed_by = job.passed_by.into_iter().take(PASSED_BY_MAX).collect();
    let name = format!("{LOADS}{}", job.id);
    let (node, address) = (status.node.to_string(), status.address.to_string());
    let mut fact = JobFact { node, address, job };
    let mut value = serde_json::to_vec(&fact).expect("plain data");
    if JOB_BYTES_MAX < value.len() {
        (fact.job.reason, fact.job.passed_by) = (None, BTreeMap::new());
        value = serde_json::to_vec(&fact).expect("plain data");
    }
    Change::Put(name, value)
}

/// A job of another node, with what is known of that node.
fn seen(cluster: &Cluster, facts: &Facts, fact: JobFact) -> LoadStatus {
    let peers = cluster.status().peers;
    let is_it = |node: feedline_cluster::NodeId| node.to_string() == fact.node;
    let peer = peers.into_iter().find(|peer| peer.node.is_some_and(is_it));
    let (address, trouble) = match peer {
        Some(peer) if peer.state == PeerState::Down => {
            (peer.address, Some(peer.trouble.unwrap_or_else(|| "it does not answer".into())))
        }
        Some(peer) => (peer.address, None),
        None => (fact.address, Some("it is no member now".into())),
    };
    let silence = || facts.trouble.as_ref().map(|why| format!("etcd cannot be heard: {why}"));
    let node = Some(LoadNode { address, trouble: trouble.or_else(silence) });
    LoadStatus { node, ..fact.job }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loads::status_of_new;

    fn job(id: &str, started_ms: u64) -> LoadStatus {
        status_of_new(id, started_ms)
    }

    #[test]
    fn a_change_of_state_is_told_at_once_and_numbers_seldom() {
        let s = Duration::from_secs;
        let mut said = Said::default();
        let mut running = job("a", 1);
        assert!(said.is_due(&running, 99, s(0)));
        said.jobs.insert("a".into(), (Numbers::of(&running), s(0)));
        assert!(!said.is_due(&running, 0, s(99)), "nothing is new");
        running.files = 5;
        assert!(!said.is_due(&running, 0, s(4)) && said.is_due(&running, 0, s(5)));
        running.state = LoadState::Done;
        assert!(said.is_due(&running, 0, s(0)));
        said.jobs.clear();
        assert!(said.is_due(&running, 19, s(0)) && !said.is_due(&running, 20, s(0)));
    }

    #[test]
    fn the_jobs_that_began_first_make_room() {
        let fact = |at: usize| {
            let mut job = job(&format!("j{at}"), at as u64);
            // The very first one still runs.
            job.state = if at == 0 { LoadState::Loading } else { LoadState::Done };
            let fact = JobFact { node: "n".into(), address: "a:1".into(), job };
            let value = serde_json::to_vec(&fact).unwrap();
            (format!("{LOADS}j{at}"), Arc::from(value))
        };
        let mut facts = Facts { entries: (0..JOBS_MAX).map(fact).collect(), ..Facts::default() };
        facts.entries.insert(format!("{LOADS}new"), Arc::from(&b"{}"[..]));
        assert_eq!(surplus(&facts, 0), []);
        let gone = ["j1", "j2"].map(|id| Change::Remove(format!("{LOADS}{id}")));
        assert_eq!(surplus(&facts, 2), gone);
    }
}
