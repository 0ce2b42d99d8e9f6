//! A directory of nodes as etcd is one: keys with leases, a watch for each node, and all that may go wrong between.
//!
//! A node hears what the others did after a while of its own, which may grow; one that is cut off hears nothing and
//! is listed no more when its lease has ended; a directory that is down is silent for all, and may have lost its data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use feedline_cluster::{Announcement, Found, Heard, Memory, Source};
use feedline_model::Clock as _;
use parking_lot::Mutex;

use crate::clock::{HostClock, SimClock};
use crate::rng::Rng;
use crate::trace::Trace;

/// As etcd's clients of this cluster have it.
const LEASE_TTL: Duration = Duration::from_secs(10);

/// How often a lease is prolonged.
const KEEP_EVERY: Duration = Duration::from_secs(3);

/// How often a node looks for news: a watch is not told what it is slow to hear.
const LOOK_EVERY_MS: u64 = 100;

#[derive(Debug, Clone)]
enum Change {
    Put(Found),
    Delete(String),
}

#[derive(Debug)]
struct Key {
    address: String,
    ends_at: Duration,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    keys: BTreeMap<String, Key>,
    log: Vec<(Duration, Change)>,
    /// Another one has another log.
    generation: u64,
    is_down: bool,
    cut_off: BTreeSet<usize>,
    lag: BTreeMap<usize, Duration>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Directory {
    clock: SimClock,
    trace: Trace,
    state: Mutex<State>,
}

impl Directory {
    pub(crate) fn new(rng: Rng, clock: SimClock, trace: Trace) -> Arc<Self> {
        let state = State {
            rng,
            keys: BTreeMap::new(),
            log: Vec::new(),
            generation: 1,
            is_down: false,
            cut_off: BTreeSet::new(),
            lag: BTreeMap::new(),
        };
        Arc::new(Self { clock, trace, state: Mutex::new(state) })
    }

    /// As a node reaches it.
    pub(crate) fn door(self: &Arc<Self>, node: usize, clock: HostClock) -> Arc<dyn Source> {
        Arc::new(Door { directory: Arc::clone(self), node, clock })
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.state.lock().is_down = is_down;
    }

    /// All keys are lost.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.keys.clear();
        state.log.clear();
    }

    pub(crate) fn cut_off(&self, node: usize, is_cut: bool) {
        let cut_off = &mut self.state.lock().cut_off;
        if is_cut {
            cut_off.insert(node)
        } else {
            cut_off.remove(&node)
        };
    }

    /// How much later than others a node hears of anything.
    pub(crate) fn set_lag(&self, node: usize, lag: Duration) {
        self.state.lock().lag.insert(node, lag);
    }

    pub(crate) fn heal(&self) {
        let mut state = self.state.lock();
        state.is_down = false;
        state.cut_off.clear();
        state.lag.clear();
    }

    /// What `work` gives, once the keys whose lease is over are gone; `None`: it does not answer this node.
    fn ask<T>(&self, node: usize, work: impl FnOnce(&mut State, Duration) -> T) -> Option<T> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if state.is_down || state.cut_off.contains(&node) {
            return None;
        }
        let over = state.keys.iter().filter(|(_, key)| key.ends_at < now);
        let over: Vec<_> = over.map(|(key, _)| key.clone()).collect();
        for key in over {
            self.trace.note(format_args!("the lease of {key} is over"));
            state.keys.remove(&key);
            state.log.push((now, Change::Delete(key)));
        }
        Some(work(&mut state, now))
    }
}

/// What a node has heard of.
struct Session {
    key: String,
    generation: u64,
    /// So much of the log.
    heard: usize,
}

#[derive(Debug)]
struct Door {
    directory: Arc<Directory>,
    node: usize,
    clock: HostClock,
}

impl Door {
    async fn sleep_ms(&self, low: u64, high: u64) {
        let pause = self.directory.state.lock().rng.ms(low..=high);
        self.clock.sleep(pause).await;
    }

    /// Lists this node, and the others.
    fn open(&self, me: &Announcement) -> Option<(Session, Vec<Found>)> {
        let (key, address) = (me.node.to_string(), me.listen.to_string());
        self.directory.ask(self.node, |state, now| {
            let listed = Key { address: address.clone(), ends_at: now + LEASE_TTL };
            state.keys.insert(key.clone(), listed);
            state.log.push((now, Change::Put(Found { key: key.clone(), address })));
            let others = state.keys.iter().filter(|(other, _)| **other != key);
            let found = |(key, it): (&String, &Key)| Found {
                key: key.clone(),
                address: it.address.clone(),
            };
            let others = others.map(found).collect();
            let heard = state.log.len();
            (Session { key, generation: state.generation, heard }, others)
        })
    }

    /// What has happened since, as far as this node hears of it by now; `None`: nothing is heard.
    fn news(&self, session: &mut Session) -> Option<Result<Vec<Change>, String>> {
        self.directory.ask(self.node, |state, now| {
            if state.generation != session.generation {
                return Err("it began anew".to_owned());
            }
            let lag = state.lag.get(&self.node).copied().unwrap_or_default();
            let news = state.log[session.heard..].iter().take_while(|(at, _)| *at + lag <= now);
            let news: Vec<_> = news.map(|(_, change)| change.clone()).collect();
            session.heard += news.len();
            Ok(news)
        })
    }

    fn prolong(&self, session: &Session) -> Result<(), String> {
        let prolonged = self.directory.ask(self.node, |state, now| {
            let key = state.keys.get_mut(&session.key).ok_or("the lease of this node ended")?;
            key.ends_at = now + LEASE_TTL;
            Ok(())
        });
        prolonged.unwrap_or_else(|| Err("no answer".into()))
    }

    async fn follow(&self, mut session: Session, heard: &Heard) -> Result<(), String> {
        let mut keep_at = self.clock.monotonic() + KEEP_EVERY;
        loop {
            self.sleep_ms(1, LOOK_EVERY_MS).await;
            if keep_at <= self.clock.monotonic() {
                self.prolong(&session)?;
                keep_at = self.clock.monotonic() + KEEP_EVERY;
            }
            // Who is cut off finds it out when it prolongs its lease.
            for change in self.news(&mut session).unwrap_or_else(|| Ok(Vec::new()))? {
                match change {
                    Change::Put(found) if found.key == session.key => {}
                    Change::Delete(key) if key == session.key => {
                        return Err("this node's own key was removed".into());
                    }
                    Change::Put(found) => heard.here(found).await,
                    Change::Delete(key) => heard.left(key).await,
                }
            }
        }
    }
}

#[async_trait]
impl Source for Door {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    fn place(&self) -> String {
        "sim".into()
    }

    async fn attend(&self, me: &Announcement, heard: &Heard) -> String {
        self.sleep_ms(1, 20).await;
        let Some((session, others)) = self.open(me) else { return "nobody listens".into() };
        let lag = self.directory.state.lock().lag.get(&self.node).copied().unwrap_or_default();
        self.clock.sleep(lag).await;
        heard.all(others).await;
        self.follow(session, heard).await.err().unwrap_or_default()
    }
}

/// What a node remembers of the directory over its lives.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<Option<Vec<u8>>>);

impl Remembered {
    /// With the disk.
    pub(crate) fn wipe(&self) {
        *self.0.lock() = None;
    }
}

#[async_trait]
impl Memory for Remembered {
    fn recall(&self) -> Option<Vec<u8>> {
        self.0.lock().clone()
    }

    async fn keep(&self, bytes: Vec<u8>) {
        *self.0.lock() = Some(bytes);
    }
}
