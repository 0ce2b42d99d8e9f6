//! Runs a scenario and asks, all the time and at the end, whether what a cluster promises is kept.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use feedline_cluster::NodeId;
use feedline_cluster::placement::{Weighted, candidates, owner};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;

use crate::bucket::{Bucket, Content, Page};
use crate::cache::Disk;
use crate::clock::{HostClock, Pause, SimClock};
use crate::directory::{Directory, Remembered};
use crate::job::{Living, State};
use crate::net::{SimNet, address};
use crate::node::{Common, Node, Work};
use crate::plan::{Death, Fault, Kind, Plan, Step};
use crate::promise::Promise;
use crate::reader::Reads;
use crate::rng::Rng;
use crate::sabotage::{Broken, Sabotage};
use crate::trace::Trace;
use crate::wires::Wires;
use crate::{Failure, Options, Report};

/// After everything is healed: how long readers may go on. They think about as long as the span.
const FINISH_WITHIN: Duration = Duration::from_secs(600);

/// How long it may take until all nodes ask each other again: the longest that a peer is passed by, the
/// pause between greetings, and as much again.
const AGREE_WITHIN: Duration = Duration::from_secs(150);

/// After the last read: until a request to a peer that was given up has ended on both sides.
const QUIET_WITHIN: Duration = Duration::from_secs(60);

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A panic in a task ends that task and nobody else: it is noted here, for each thread, and is a failure.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Gone if the thread is ending: then no simulation runs on it.
            let _ = PANICS.try_with(|panics| panics.borrow_mut().push(info.to_string()));
            before(info);
        }));
    });
    PANICS.with(|panics| panics.borrow_mut().clear());
}

/// See [`crate::run`].
pub(crate) fn run(plan: &Plan, options: &Options) -> Result<Report, Failure> {
    watch_panics();
    let clock = SimClock::default();
    let trace = Trace::new(clock.clone(), options.prints);
    if options.prints {
        println!("{plan}");
    }
    let idle = clock.clone();
    // No timer and no IO of the runtime's own: when nothing is left to do, time moves.
    let runtime = Builder::new_current_thread().on_thread_park(move || idle.advance()).build();
    let runtime = runtime.expect("a runtime without drivers");
    let reads = Arc::new(Mutex::new(Reads::default()));
    let (gets, lived) = runtime.block_on(async {
        let mut world = World::new(plan, options, &clock, &trace, &reads);
        world.play().await;
        (world.bucket.gets_total(), clock.now())
    });
    drop(runtime);
    for panicked in PANICS.with(|panics| panics.borrow_mut().drain(..).collect::<Vec<_>>()) {
        trace.complain(Promise::NoPanic, panicked);
    }
    let (hash, events) = trace.digest();
    let reads = reads.lock();
    if trace.has_complaints() {
        return Err(Failure {
            seed: options.seed,
            broken: trace.broken(),
            complaints: trace.complaints(),
            plan: plan.to_string(),
            last: trace.last(),
        });
    }
    Ok(Report {
        kind: plan.kind,
        hash,
        events,
        reads: reads.done,
        errors: reads.errors,
        gets,
        wait_max: reads.wait_max,
        lived,
    })
}

struct World<'a> {
    plan: &'a Plan,
    clock: SimClock,
    trace: Trace,
    net: SimNet,
    bucket: Arc<Bucket>,
    common: Common,
    nodes: Vec<Node>,
    is_sabotaged: bool,
    /// At the death of a node for good: GETs that may be made twice.
    spare: u64,
}

impl<'a> World<'a> {
    fn new(
        plan: &'a Plan,
        options: &Options,
        clock: &SimClock,
        trace: &Trace,
        reads: &Arc<Mutex<Reads>>,
    ) -> Self {
        let root = Rng::new(plan.seed);
        let contents = contents(plan, &root.fork(2));
        let bucket =
            Bucket::new(contents, plan.bucket_ms, root.fork(3), clock.clone(), trace.clone());
        let count = plan.nodes.len();
        let wires = wires(plan, root.fork(4));
        let pauses: Vec<_> = (0..count).map(|_| Arc::new(Pause::default())).collect();
        let broken = Broken::new(options.sabotage);
        let net = SimNet::new(clock.clone(), trace.clone(), wires, pauses.clone(), broken.clone());
        let node = |(number, it): (usize, &crate::plan::NodePlan)| {
            let readers = plan.readers.iter().enumerate();
            let readers = readers.filter(|(_, reader)| reader.node == number);
            let work = readers.map(|(number, reader)| work(number, reader.steps.clone()));
            Node {
                number,
                id: it.id,
                clock: HostClock { sim: clock.clone(), pause: Arc::clone(&pauses[number]) },
                net: net.of(number),
                disk: Arc::new(Mutex::new(Disk::new(
                    number,
                    it.quota_bytes,
                    trace.clone(),
                    broken.clone(),
                ))),
                lies: Arc::new(AtomicBool::new(false)),
                slow_ms: Arc::new(AtomicU64::new(0)),
                rng: root.fork(100 + number as u64),
                work: work.collect(),
                fill_at_once: it.fill_at_once,
                life: None,
                job: None,
                remembered: Arc::new(Remembered::default()),
                place: number,
                quota_bytes: it.quota_bytes,
            }
        };
        let nodes: Vec<Node> = plan.nodes.iter().enumerate().map(node).collect();
        let living = living(&nodes);
        let directory = || Directory::new(root.fork(7), clock.clone(), trace.clone());
        let common = Common {
            addresses: (0..plan.places).map(address).collect(),
            has_token: plan.has_token,
            local_copies: plan.local_copies,
            bucket: Arc::clone(&bucket),
            trace: trace.clone(),
            runtime: Handle::current(),
            reads: Arc::clone(reads),
            wait_max: plan.wait_max(),
            members_first: if plan.kind == Kind::Chaos { 1 } else { count },
            directory: plan.has_directory.then(directory),
            living: Arc::new(Mutex::new(living)),
            broken,
        };
        let is_sabotaged = options.sabotage == Some(Sabotage::NeverHeal);
        if options.sabotage == Some(Sabotage::WrongByte) {
            bucket.spoil();
        }
        let (clock, trace) = (clock.clone(), trace.clone());
        Self { plan, clock, trace, net, bucket, common, nodes, is_sabotaged, spare: 0 }
    }

    async fn play(&mut self) {
        if self.is_sabotaged {
            self.net.wires(|wires| wires.cut(0, 1));
        }
        if self.common.broken.is(Sabotage::Panic) {
            self.common.runtime.spawn(async { panic!("on purpose") });
        }
        for (at, fault) in &self.plan.faults {
            self.clock.sleep_until(*at).await;
            self.trace.note(format_args!("{fault:?}"));
            self.happens(*fault);
        }
        self.clock.sleep_until(self.plan.span).await;
        if !self.is_sabotaged {
            self.heal();
        }
        if !self.finish().await || !self.agree().await || !self.load().await {
            return;
        }
        if self.has_room() {
            self.last_epoch().await;
        }
        self.count();
        self.clock.sleep(QUIET_WITHIN).await;
        for (number, life) in self.lives() {
            if let Some(what) = life.leftovers() {
                let what = format_args!("n{number} is not done: {what}");
                self.trace.complain(Promise::NothingLeft, what);
            }
        }
        if 0 < self.bucket.in_flight() {
            let what = "requests to the bucket that nobody waits for";
            self.trace.complain(Promise::NothingLeft, what);
        }
    }

    fn lives(&self) -> impl Iterator<Item = (usize, &crate::node::Life)> {
        self.nodes.iter().filter_map(|node| Some((node.number, node.life.as_ref()?)))
    }

    fn happens(&mut self, fault: Fault) {
        let now = self.clock.now();
        match fault {
            Fault::Die { node, how } => self.die(node, how),
            Fault::Start { node, place, quota_bytes, is_wiped } => {
                self.start(node, place, quota_bytes, is_wiped);
            }
            Fault::Pause { node } => self.nodes[node].clock.pause.stop(now),
            Fault::GoOn { node } => self.nodes[node].clock.pause.go_on(now),
            Fault::Cut { from, to } => self.net.wires(|wires| wires.cut(from, to)),
            Fault::Mend { from, to, resets } => {
                if resets {
                    self.net.reset(from, to);
                }
                self.net.mend(from, to);
            }
            Fault::Reset { a, b } => self.net.reset(a, b),
            Fault::Slow { from, to, extra } => {
                self.net.wires(|wires| wires.set_extra(from, to, extra));
            }
            Fault::Loss { from, to, permille } => {
                self.net.wires(|wires| wires.set_loss(from, to, permille));
            }
            Fault::Damage { from, to, permille } => {
                self.net.wires(|wires| wires.set_damage(from, to, permille));
            }
            Fault::SlowBucket { extra } => self.bucket.weather(|it| it.extra = extra),
            Fault::Throttle { is_on } => self.bucket.weather(|it| it.is_throttling = is_on),
            Fault::FailBucket { is_on } => self.bucket.weather(|it| it.is_failing = is_on),
            Fault::Refuse { node, is_on } => self.bucket.refuse(node, is_on),
            Fault::SlowDisk { node, slow_ms } => {
                self.nodes[node].slow_ms.store(slow_ms, Ordering::Relaxed);
            }
            Fault::Lie { node, is_on } => self.nodes[node].lies.store(is_on, Ordering::Relaxed),
            Fault::Load { node } => {
                if !self.nodes[node].has_job(State::Running) {
                    self.nodes[node].load(&self.common);
                }
            }
            Fault::StopLoad { node } => self.nodes[node].stop_load(),
            Fault::NoDirectory { .. }
            | Fault::Forget
            | Fault::CutOff { .. }
            | Fault::Lag { .. } => {
                self.directory_happens(fault);
            }
        }
    }

    /// What goes wrong with a directory, if there is one.
    fn directory_happens(&self, fault: Fault) {
        let Some(directory) = &self.common.directory else { return };
        match fault {
            Fault::NoDirectory { is_on } => directory.set_down(is_on),
            Fault::Forget => directory.forget(),
            Fault::CutOff { node, is_on } => directory.cut_off(node, is_on),
            Fault::Lag { node, lag } => directory.set_lag(node, lag),
            _ => {}
        }
    }

    /// A node has died or begun.
    fn changed(&self, node: usize) {
        let mut living = self.common.living.lock();
        living.lives[node] = self.nodes[node].life.is_some();
        living.changed_at = self.clock.now();
    }

    fn die(&mut self, node: usize, how: Death) {
        if self.nodes[node].life.is_none() {
            return;
        }
        if self.plan.kind == Kind::Death {
            self.spare = self.spare_after(node);
        }
        match how {
            Death::Process => self.net.reset_all(node),
            Death::Machine => self.net.switch_off(node),
            Death::Stop => {}
        }
        self.nodes[node].stop();
        self.changed(node);
        // A process that was stopped is killed as well.
        self.nodes[node].clock.pause.go_on(self.clock.now());
    }

    /// How many GETs may be made a second time when this node dies: what it owned, and what anybody waits for.
    fn spare_after(&self, dead: usize) -> u64 {
        let weights = self.nodes.iter();
        let weights: Vec<_> =
            weights.map(|it| Weighted { node: NodeId(it.id), weight: it.quota_bytes }).collect();
        let is_its = |content: &&Content| {
            owner(&content.object.id(), &weights) == Some(NodeId(self.nodes[dead].id))
        };
        let owned: u64 = self.bucket.contents.iter().filter(is_its).map(Content::pages).sum();
        let waiting: usize = self.lives().map(|(_, life)| life.cache.in_flight()).sum();
        owned + waiting as u64 + self.plan.readers.len() as u64
    }

    fn start(&mut self, node: usize, place: usize, quota_bytes: u64, is_wiped: bool) {
        if self.nodes[node].life.is_some() {
            return;
        }
        self.net.switch_on(node);
        let is_free =
            |place: &usize| self.nodes.iter().all(|it| it.life.is_none() || it.place != *place);
        let places = (0..self.plan.places).map(|next| (place + next) % self.plan.places);
        let place = places.clone().find(is_free).expect("more places than nodes");
        let it = &mut self.nodes[node];
        (it.place, it.quota_bytes) = (place, quota_bytes);
        let mut disk = it.disk.lock();
        disk.set_quota(quota_bytes);
        if is_wiped {
            disk.wipe();
            it.remembered.wipe();
        }
        drop(disk);
        it.start(&self.common);
        self.changed(node);
    }

    /// Everything is well from now on, and everybody is there; in a scenario of one death, all but one.
    fn heal(&mut self) {
        self.trace.note("all is healed");
        self.net.heal();
        self.bucket.heal();
        self.common.directory.iter().for_each(|directory| directory.heal());
        for number in 0..self.nodes.len() {
            let node = &self.nodes[number];
            node.lies.store(false, Ordering::Relaxed);
            node.slow_ms.store(0, Ordering::Relaxed);
            node.clock.pause.go_on(self.clock.now());
            if self.plan.kind == Kind::Chaos {
                let (place, quota_bytes) = (node.place, node.quota_bytes);
                self.start(number, place, quota_bytes, false);
            }
        }
    }

    /// True when all readers of nodes that live have read everything.
    async fn finish(&self) -> bool {
        let until = self.clock.now() + FINISH_WITHIN;
        let living = || self.nodes.iter().filter(|node| node.life.is_some());
        while living().any(|node| !node.is_done()) {
            if until < self.clock.now() {
                for node in living().filter(|node| !node.is_done()) {
                    let leftovers = node.life.as_ref().and_then(crate::node::Life::leftovers);
                    let number = node.number;
                    let what = format_args!("n{number} reads for ever: {leftovers:?}");
                    self.trace.complain(Promise::ReadersFinish, what);
                }
                return false;
            }
            self.clock.sleep(Duration::from_secs(1)).await;
        }
        true
    }

    /// True when all nodes place objects alike, on all that live.
    async fn agree(&self) -> bool {
        let until = self.clock.now() + AGREE_WITHIN;
        let living = self.nodes.iter().filter(|node| node.life.is_some());
        let mut all: Vec<_> = living.map(|node| (node.id, node.quota_bytes)).collect();
        all.sort_unstable();
        while let Some((number, life)) = self.lives().find(|(_, life)| life.up() != all) {
            if until < self.clock.now() {
                let (up, status) = (life.up(), life.cluster.status());
                self.trace.complain(
                    Promise::NodesAgree,
                    format_args!("n{number} never agrees: {up:x?} instead of {all:x?}, {status:?}"),
                );
                return false;
            }
            self.clock.sleep(Duration::from_secs(1)).await;
        }
        true
    }

    /// True when all loads have ended. Those that did not end well, or were stopped, are begun once more: where
    /// there is room for all they end well now.
    async fn load(&mut self) -> bool {
        if !self.loads_ended().await {
            return false;
        }
        let (common, has_room) = (&self.common, self.has_room());
        for node in self.nodes.iter_mut().filter(|node| node.life.is_some()) {
            if node.has_job(State::Stopped) || node.has_job(State::Incomplete) {
                node.load(common);
            }
        }
        if !self.loads_ended().await {
            return false;
        }
        for node in self.nodes.iter().filter(|node| has_room && node.life.is_some()) {
            if node.has_job(State::Incomplete) {
                let what = format_args!("n{}: {:?}, though all is well", node.number, node.job);
                self.trace.complain(Promise::LoadsEnd, what);
            }
        }
        true
    }

    async fn loads_ended(&self) -> bool {
        let until = self.clock.now() + FINISH_WITHIN;
        let runs = |node: &&Node| node.life.is_some() && node.has_job(State::Running);
        while let Some(node) = self.nodes.iter().find(runs) {
            if until < self.clock.now() {
                let what = format_args!("n{} loads for ever: {:?}", node.number, node.job);
                self.trace.complain(Promise::LoadsEnd, what);
                return false;
            }
            self.clock.sleep(Duration::from_secs(1)).await;
        }
        true
    }

    /// True if each node has room for everything.
    fn has_room(&self) -> bool {
        let total: u64 = self.plan.sizes.iter().sum();
        self.nodes.iter().all(|node| total <= node.quota_bytes)
    }

    /// Everybody reads everything, once all agree: nothing is fetched twice, and nothing that somebody has who is asked.
    async fn last_epoch(&mut self) {
        self.trace.note("the last epoch");
        let (before, had) = (self.bucket.gets(), self.had());
        let mut tasks = JoinSet::new();
        for node in &self.nodes {
            let Some(life) = &node.life else { continue };
            let order = Rng::new(self.plan.seed)
                .fork(200 + node.number as u64)
                .order(self.plan.sizes.len());
            let step = |place: usize| Step {
                place,
                range: 0..self.plan.sizes[place],
                think: Duration::ZERO,
            };
            let work = work(1_000, order.into_iter().map(step).collect());
            let reader = node.reader(&self.common, &work, &life.cache);
            tasks.spawn_on(reader.run(), &self.common.runtime);
        }
        while tasks.join_next().await.is_some() {}
        for (page, count) in self.bucket.gets() {
            let more = count - before.get(&page).copied().unwrap_or_default();
            let is_had = had.contains(&page);
            if u64::from(!is_had) < more {
                self.trace.complain(
                    Promise::NothingAgain,
                    format_args!("{more} GETs of {page:?} in the last epoch, had {is_had}"),
                );
            }
        }
        if self.plan.local_copies != feedline_cluster::LocalCopies::Never {
            for (number, life) in self.lives() {
                let pages = all_pages(&self.bucket);
                if let Some(page) = pages.into_iter().find(|page| !life.cache.has_page(*page)) {
                    let what = format_args!("n{number} has no copy of {page:?}");
                    self.trace.complain(Promise::CopiesKept, what);
                }
            }
        }
    }

    /// The pages that their owners have, or who stands in for them, as the nodes that live see it: none of these may
    /// be fetched any more. An owner whose reads failed may have used up its questions.
    fn had(&self) -> BTreeSet<Page> {
        let living: Vec<_> = self.nodes.iter().filter(|node| node.life.is_some()).collect();
        let weights = living.iter();
        let weights: Vec<_> =
            weights.map(|it| Weighted { node: NodeId(it.id), weight: it.quota_bytes }).collect();
        if self.plan.has_bucket_troubles() {
            return BTreeSet::new();
        }
        let is_had = |page: &Page| {
            let order = candidates(&self.bucket.contents[page.0].object.id(), &weights);
            let asked =
                living.iter().filter(|node| order[..2.min(order.len())].contains(&NodeId(node.id)));
            asked.filter_map(|node| node.life.as_ref()).any(|life| life.cache.has_page(*page))
        };
        all_pages(&self.bucket).into_iter().filter(is_had).collect()
    }

    /// Compares what the bucket was asked for with what the kind of scenario allows.
    fn count(&self) {
        let gets: BTreeMap<Page, u64> = self.bucket.gets();
        let twice: u64 = gets.values().map(|count| count - 1).sum();
        match self.plan.kind {
            Kind::Calm => {
                for page in all_pages(&self.bucket) {
                    let count = gets.get(&page).copied().unwrap_or_default();
                    if count != 1 {
                        let what = format_args!("{count} GETs of {page:?} in a calm");
                        self.trace.complain(Promise::FetchedOnce, what);
                    }
                }
            }
            Kind::Death => {
                let spare = self.spare;
                if spare < twice {
                    let what = format_args!("{twice} GETs too many after a death: {spare} may be");
                    self.trace.complain(Promise::DeathIsCheap, what);
                }
            }
            Kind::Chaos => {}
        }
    }
}

fn contents(plan: &Plan, rng: &Rng) -> Vec<Content> {
    let sizes = plan.sizes.iter().enumerate();
    sizes.map(|(at, size)| Content::new(at, *size, rng)).collect()
}

/// No node lives yet.
fn living(nodes: &[Node]) -> Living {
    Living {
        disks: nodes.iter().map(|node| Arc::clone(&node.disk)).collect(),
        lives: vec![false; nodes.len()],
        changed_at: Duration::ZERO,
    }
}

/// What lies between the nodes of a plan.
fn wires(plan: &Plan, rng: Rng) -> Wires {
    let count = plan.nodes.len();
    let mut wires = Wires::new(count, plan.jitter, rng);
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            wires.set_delay(from, to, (plan.nodes[from].delay + plan.nodes[to].delay) / 2);
            wires.set_loss(from, to, plan.loss_permille);
        }
    }
    wires
}

fn work(number: usize, steps: Vec<Step>) -> Work {
    Work { number, steps: steps.into(), progress: Arc::new(AtomicUsize::new(0)) }
}

fn all_pages(bucket: &Bucket) -> Vec<Page> {
    let pages = bucket.contents.iter().enumerate();
    pages.flat_map(|(place, content)| (0..content.pages()).map(move |page| (place, page))).collect()
}
