//! Where a node learns of the others: what a source says becomes addresses that are greeted.
//!
//! A source (a name in DNS, a directory such as etcd) is listened to for as long as it can be heard;
//! when it cannot, the members stay as they are, that is said once, and it is tried again. One task
//! carries out what follows, so that addresses come and go one after another.
//!
//! What a source said is remembered over a restart (`memory`): until it is heard, those whom it named in an
//! earlier run are greeted. Its first list then counts as one after a loss (`book`).

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use crate::book::Found;
use crate::book::{Book, Step};
use crate::dns::{self, DnsName, Resolver, SystemResolver};
use crate::greeters::{Greeters, Pending};
use crate::memory::{self, Memory, Said};
use crate::parts::within;
use crate::peer::World;
use crate::placement::NodeId;

/// The pause after a source could not be heard; twice as long each time, up to [`AGAIN_MAX`].
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The longest such pause. Well below the grace of members that are not listed: after a loss of the
/// directory's data every node is back in it before that is over.
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// How often those that are not listed any more are looked at, while there are any.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// News under way from all sources.
const NEWS_MAX: usize = 64;

/// How long a directory may take to be told that this node leaves: a lease ends by itself as well.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// How often it is noted that a source still says what it said: so exact is the time of which `status`
/// speaks after a crash.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// What is the matter with a source at the start.
const NOT_ASKED: &str = "not asked yet";

/// What a node says of itself where others look for it.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// Who.
    pub node: NodeId,
    /// Its port; the address may be the one that means all of the machine's.
    pub listen: SocketAddr,
    /// Its quota in bytes.
    pub quota_bytes: u64,
    /// Version of the binary, for people.
    pub version: String,
}

/// Somebody who knows of nodes.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// What it is, in a word: `dns`, `etcd`.
    fn kind(&self) -> &'static str;

    /// Where it is, for people.
    fn place(&self) -> String;

    /// Says that this node is there, if there is a way to, and tells `heard` of the nodes, for as long
    /// as it can be heard. Gives why it cannot: one sentence.
    async fn attend(&self, me: &Announcement, heard: &Heard) -> String;

    /// This node leaves: says so, if it can.
    async fn leave(&self) {}
}

#[derive(Debug)]
enum News {
    All(Vec<Found>),
    Here(Found),
    Left(String),
    Lost(String),
}

/// What a source tells, in order.
#[derive(Debug)]
pub struct Heard {
    source: usize,
    to: mpsc::Sender<(usize, News)>,
}

impl Heard {
    async fn tell(&self, news: News) {
        // An error means that the node ends.
        let _ = self.to.send((self.source, news)).await;
    }

    /// These are all there are now.
    pub async fn all(&self, found: Vec<Found>) {
        self.tell(News::All(found)).await;
    }

    /// One more, or one that moved.
    pub async fn here(&self, found: Found) {
        self.tell(News::Here(found)).await;
    }

    /// The one with this key is listed no more.
    pub async fn left(&self, key: String) {
        self.tell(News::Left(key)).await;
    }
}

/// Who is asked for nodes, besides the addresses that were configured.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Resolves the names among the peers.
    pub resolver: Arc<dyn Resolver>,
    /// Where all nodes list themselves, if anywhere.
    pub directory: Option<Arc<dyn Source>>,
    /// What keeps over a restart whom they named; `None`: nothing does.
    pub memory: Option<Arc<dyn Memory>>,
}

impl Default for Sources {
    /// The system's resolver, no directory, and no memory.
    fn default() -> Self {
        Self { resolver: Arc::new(SystemResolver), directory: None, memory: None }
    }
}

/// A source as its node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// `list`, `dns` or `etcd`.
    pub kind: &'static str,
    /// Where it is.
    pub place: String,
    /// Addresses or nodes that it named last.
    pub found: u64,
    /// Why it cannot be heard now; the members are those of before. `None`: all is well.
    pub trouble: Option<String>,
    /// When it was heard last, if it cannot be now: the members are of that time. `None`: never.
    pub heard_unix_ms: Option<u64>,
    /// Since when it cannot be heard, in this run.
    pub lost_unix_ms: Option<u64>,
    /// It has not been heard in this run: whom it named is remembered from an earlier one.
    pub is_remembered: bool,
}

/// All that names members to this node. Dropping it ends all greetings.
#[derive(Debug)]
pub(crate) struct Members {
    pending: Pending,
    greeters: Arc<Greeters>,
    sources: Vec<Arc<dyn Source>>,
    status: Arc<Mutex<Vec<SourceStatus>>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Members {
    /// Starts greeting `addresses` and listening to the names among them and to the directory.
    pub(crate) fn start(
        addresses: &[String],
        sources: Sources,
        me: Announcement,
        world: &World,
        greeters: impl FnOnce(Pending) -> Greeters,
    ) -> Self {
        let (names, fixed): (Vec<&String>, Vec<&String>) =
            addresses.iter().partition(|address| dns::is_name(address));
        let named = |name: &&String| -> Arc<dyn Source> {
            let (resolver, clock) = (Arc::clone(&sources.resolver), Arc::clone(&world.clock));
            Arc::new(DnsName::new(name, resolver, clock))
        };
        let mut asked: Vec<_> = names.iter().map(named).collect();
        asked.extend(sources.directory);
        let remembered = sources.memory.as_deref().map(recall).unwrap_or_default();
        let pending = Pending::of(asked.len());
        let greeters = Arc::new(greeters(pending.clone()));
        let (mut status, mut ears) = (Vec::new(), Vec::new());
        for source in &asked {
            let (ear, its) = Ear::new(&**source, &remembered, &greeters, world);
            ears.push(ear);
            status.push(its);
        }
        for address in &fixed {
            greeters.add(&Arc::from(address.as_str()));
        }
        if !fixed.is_empty() {
            let (kind, place, found) = ("list", "peers".to_owned(), fixed.len() as u64);
            status.push(SourceStatus { kind, place, found, ..SourceStatus::default() });
        }
        let status = Arc::new(Mutex::new(status));
        let mut tasks = JoinSet::new();
        if !asked.is_empty() {
            let (to, news) = mpsc::channel(NEWS_MAX);
            for (at, source) in asked.iter().enumerate() {
                let heard = Heard { source: at, to: to.clone() };
                let task = listen(Arc::clone(source), me.clone(), heard, world.clone());
                tasks.spawn_on(task, &world.runtime);
            }
            let notes = sources.memory.map(|memory| {
                let (to, said) = watch::channel(remembered);
                tasks.spawn_on(keep(memory, said), &world.runtime);
                Notes { to, due: world.clock.monotonic() + NOTE_EVERY }
            });
            let keeper = Keeper {
                ears,
                greeters: Arc::clone(&greeters),
                status: Arc::clone(&status),
                pending: pending.clone(),
                world: world.clone(),
                notes,
            };
            tasks.spawn_on(keeper.run(news), &world.runtime);
        }
        Self { pending, greeters, sources: asked, status, tasks: Mutex::new(tasks) }
    }

    /// Completes when every source has said something and every address has been greeted once.
    pub(crate) async fn settled(&self) {
        self.pending.settled().await;
    }

    pub(crate) fn status(&self) -> Vec<SourceStatus> {
        self.status.lock().clone()
    }

    /// Ends listening and greeting, and says so where this node is listed.
    pub(crate) async fn leave(&self, world: &World) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        // To their end: one under way must not list this node again.
        tasks.shutdown().await;
        self.greeters.end();
        for source in &self.sources {
            if within(&*world.clock, LEAVE_WITHIN, source.leave()).await.is_none() {
                let kind = source.kind();
                tracing::warn!("{kind} was not told that this node leaves: its lease ends soon");
            }
        }
    }
}

/// Listens to one source for as long as the node runs.
async fn listen(source: Arc<dyn Source>, me: Announcement, heard: Heard, world: World) {
    let mut pause = AGAIN_AFTER;
    loop {
        let started = world.clock.monotonic();
        let why = source.attend(&me, &heard).await;
        if AGAIN_MAX < world.clock.monotonic().saturating_sub(started) {
            pause = AGAIN_AFTER;
        }
        heard.tell(News::Lost(why)).await;
        world.clock.sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MAX);
    }
}

/// What was kept in an earlier run.
fn recall(memory: &dyn Memory) -> Vec<Said> {
    let Some(bytes) = memory.recall() else { return Vec::new() };
    memory::decode(&bytes).unwrap_or_else(|| {
        tracing::warn!("who the members were is damaged, or of another version, and is not used");
        Vec::new()
    })
}

/// Keeps what is said, the newest when there is time for it.
async fn keep(memory: Arc<dyn Memory>, mut said: watch::Receiver<Vec<Said>>) {
    while said.changed().await.is_ok() {
        let bytes = memory::encode(&said.borrow_and_update());
        memory.keep(bytes).await;
    }
}

/// What goes to the memory, and when it is due whether or not anything has changed.
struct Notes {
    to: watch::Sender<Vec<Said>>,
    due: Duration,
}

/// What one source has said.
#[derive(Default)]
struct Ear {
    book: Book,
    /// In this run, be it that it cannot be heard.
    has_spoken: bool,
}

impl Ear {
    /// Begins with whom the source named in an earlier run, who are greeted from now on.
    fn new(
        source: &dyn Source,
        remembered: &[Said],
        greeters: &Greeters,
        world: &World,
    ) -> (Self, SourceStatus) {
        let (kind, place) = (source.kind(), source.place());
        let mut ear = Self::default();
        let mut status = SourceStatus {
            kind,
            place,
            trouble: Some(NOT_ASKED.into()),
            lost_unix_ms: Some(world.clock.unix_ms()),
            ..SourceStatus::default()
        };
        let same = |said: &&Said| said.kind == kind && said.place == status.place;
        if let Some(said) = remembered.iter().find(same) {
            for step in ear.book.all(said.found.clone(), world.clock.monotonic()) {
                if let Step::Greet(address) = step {
                    greeters.add(&address);
                }
            }
            status.found = ear.book.len() as u64;
            status.heard_unix_ms = Some(said.heard_unix_ms);
            status.is_remembered = true;
        }
        (ear, status)
    }
}

/// Carries out what follows from the news.
struct Keeper {
    /// Of each source.
    ears: Vec<Ear>,
    greeters: Arc<Greeters>,
    status: Arc<Mutex<Vec<SourceStatus>>>,
    pending: Pending,
    world: World,
    /// `None`: nothing is remembered.
    notes: Option<Notes>,
}

impl Keeper {
    async fn run(mut self, mut news: mpsc::Receiver<(usize, News)>) {
        let clock = Arc::clone(&self.world.clock);
        loop {
            let pause = self.pause();
            tokio::select! {
                biased;
                heard = news.recv() => match heard {
                    Some((source, news)) => self.hear(source, news).await,
                    None => return,
                },
                () = clock.sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
            self.look().await;
            self.remember();
        }
    }

    /// Until something is to be done though there are no news.
    fn pause(&self) -> Option<Duration> {
        let look = self.ears.iter().any(|ear| ear.book.has_missing()).then_some(LOOK_EVERY);
        let now = self.world.clock.monotonic();
        let note = self.notes.as_ref().map(|notes| notes.due.saturating_sub(now));
        look.into_iter().chain(note).min()
    }

    /// Notes whom the sources name, if that is news, or now and then.
    fn remember(&mut self) {
        let Some(notes) = &mut self.notes else { return };
        let now = self.world.clock.monotonic();
        let is_due = notes.due <= now;
        if is_due {
            notes.due = now + NOTE_EVERY;
        }
        let unix_ms = self.world.clock.unix_ms();
        let said = |(status, ear): (&SourceStatus, &Ear)| {
            let heard_unix_ms =
                if status.trouble.is_none() { unix_ms } else { status.heard_unix_ms? };
            let (kind, place) = (status.kind.to_owned(), status.place.clone());
            Some(Said { kind, place, heard_unix_ms, found: ear.book.found() })
        };
        let said: Vec<_> = self.status.lock().iter().zip(&self.ears).filter_map(said).collect();
        let names = |said: &[Said]| -> Vec<_> {
            said.iter().map(|it| (it.kind.clone(), it.place.clone(), it.found.clone())).collect()
        };
        notes.to.send_if_modified(|old| {
            let is_news = *old != said && (is_due || names(old) != names(&said));
            if is_news {
                *old = said;
            }
            is_news
        });
    }

    async fn hear(&mut self, source: usize, news: News) {
        let now = self.world.clock.monotonic();
        let Ear { book, has_spoken } = &mut self.ears[source];
        let is_first = !std::mem::replace(has_spoken, true);
        let (steps, trouble) = match news {
            News::All(found) => (book.all(found, now), None),
            News::Here(found) => (book.here(found, now), None),
            News::Left(key) => (book.left(&key, now), None),
            News::Lost(why) => {
                book.lost();
                (Vec::new(), Some(why))
            }
        };
        self.note(source, trouble);
        self.take(steps).await;
        if is_first {
            self.pending.one_less();
        }
    }

    async fn look(&mut self) {
        let now = self.world.clock.monotonic();
        let greeters = Arc::clone(&self.greeters);
        let due = |ear: &mut Ear| ear.book.due(now, |address| greeters.failed(address));
        let steps = self.ears.iter_mut().flat_map(due).collect();
        self.take(steps).await;
        let mut status = self.status.lock();
        for (status, ear) in status.iter_mut().zip(&self.ears) {
            status.found = ear.book.len() as u64;
        }
    }

    async fn take(&self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Greet(address) => self.greeters.add(&address),
                Step::Test(address) => self.greeters.test(&address),
                Step::Drop(address) => self.greeters.remove(&address).await,
            }
        }
    }

    /// Says once that a source cannot be heard, and that it can again.
    fn note(&self, source: usize, trouble: Option<String>) {
        let mut status = self.status.lock();
        let status = &mut status[source];
        let (kind, place) = (status.kind, &status.place);
        match (&status.trouble, &trouble) {
            (Some(old), Some(why)) if old != NOT_ASKED => {
                // Said already; what is the matter just now stands in the status.
                tracing::debug!("{kind} {place} still cannot be heard: {why}");
            }
            (_, Some(why)) => {
                tracing::warn!(
                    "{kind} {place} cannot be heard, the members stay as they are: {why}"
                );
            }
            (Some(_), None) => tracing::info!("{kind} {place} names the members"),
            (None, None) => {}
        }
        let now = self.world.clock.unix_ms();
        if trouble.is_none() {
            (status.heard_unix_ms, status.lost_unix_ms, status.is_remembered) = (None, None, false);
        } else if status.trouble.is_none() {
            (status.heard_unix_ms, status.lost_unix_ms) = (Some(now), Some(now));
        }
        status.trouble = trouble;
    }
}
