//! A peer as its client sees it: a few connections with many requests on each, a hello on every new one.
//!
//! # Invariants
//!
//! - Nothing that a peer says or fails to say is waited for without a limit, nor kept without one.
//! - A peer that is down is not connected to by reads; only greetings do that.
//! - Bytes are given out only after length and checksum were right and the answer ended well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use feedline_model::Clock;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http2::Builder;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};

use crate::answer::{Answer, AnswerBody};
use crate::ask::Reply;
use crate::fault::{Fault, Reason};
use crate::greeters::now_ms;
use crate::health::Health;
use crate::hello::{
    Answered, Fresh, HELLO_LIMIT, Introduction, Sender, agreed, encode, refused, request, whole,
};
use crate::lanes::{Lane, Lanes};
use crate::load::LoadAnswer;
use crate::net::Net;
use crate::pace::{Pace, Signs};
use crate::parts::{Entropy, OnRuntime, within};
use crate::roll::Lives;
use crate::timer::ClockTimer;
use crate::token::Token;
use crate::versions::Versions;
use crate::wire::{
    ASK_PATH, Frames, HelloAnswer, LOAD_PATH, LoadRequest, READ_PATH, ReadRequest, WIRE_HEADER,
};

/// Connections to one peer: two, so that a lost packet holds up half and two cores share the work.
const CONNECTIONS: usize = 2;

/// Requests to one peer under way at most, over all connections.
pub(crate) const REQUESTS_MAX: usize = 256;

/// What one stream may have on its way: a whole page and its frames, so that it never waits.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// What all streams of a connection may have on their way: 10 Gb/s at 10 ms, and this node's memory for it.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// An object of 110 KB comes in one frame, and so in one piece.
const FRAME_BYTES: u32 = 1 << 20;

/// What an answer's headers may take together.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// How often an idle connection is tested, and how long the test may take.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Who we are, as told in every hello.
#[derive(Debug)]
pub(crate) struct Me {
    /// Without the age, which changes.
    pub(crate) hello: HelloAnswer,
    pub(crate) wire: Versions,
    /// See [`crate::membership::Member::since_ms`].
    pub(crate) since_ms: i64,
    pub(crate) token: Option<Token>,
}

/// What peers need of the world.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) me: Arc<Me>,
    pub(crate) net: Arc<dyn Net>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timer: ClockTimer,
    pub(crate) entropy: Entropy,
    pub(crate) runtime: Handle,
    /// See `lanes`.
    pub(crate) lanes_room: Arc<Semaphore>,
    /// See [`crate::ClusterConfig::answer_max`].
    pub(crate) answer_max: Duration,
}

impl World {
    /// What this node says to a hello.
    pub(crate) fn hello(&self) -> HelloAnswer {
        let age_ms = now_ms(&*self.clock).saturating_sub(self.me.since_ms);
        let age_ms = u64::try_from(age_ms).unwrap_or(0);
        HelloAnswer { age_ms: Some(age_ms), ..self.me.hello.clone() }
    }
}

/// Counters of one peer.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) objects: AtomicU64,
    pub(crate) bytes: AtomicU64,
    passed: [AtomicU64; Reason::ALL.len()],
}

impl Counters {
    pub(crate) fn pass(&self, reason: Reason) {
        self.passed[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn passed(&self, reason: Reason) -> u64 {
        self.passed[reason as usize].load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone)]
struct Line {
    way: Way,
    answer: HelloAnswer,
}

/// A connection that has been let in, and the version that both its ends use.
#[derive(Debug, Clone)]
struct Way {
    sender: Sender,
    wire: u32,
}

impl Way {
    async fn send(
        &mut self,
        path: &'static str,
        body: Bytes,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.send_request(request(path, body, Versions::only(self.wire))).await
    }
}

/// An answer, and the version that it is to be of.
type Sent = (Response<Incoming>, u32);

/// One peer, by address.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: Arc<str>,
    world: World,
    lines: [Mutex<Option<Line>>; CONNECTIONS],
    turn: AtomicUsize,
    /// The version that the newest connection uses; 0: there was none yet.
    wire: AtomicU32,
    permits: Arc<Semaphore>,
    lanes: Lanes,
    says_at_once: AtomicBool,
    pub(crate) health: Health,
    pub(crate) pace: Pace,
    pub(crate) lives: Lives,
    pub(crate) counters: Counters,
}

impl Peer {
    pub(crate) fn new(address: Arc<str>, world: World) -> Self {
        Self {
            address,
            lanes: Lanes::new(&world),
            world,
            lines: Default::default(),
            turn: AtomicUsize::new(0),
            wire: AtomicU32::new(0),
            permits: Arc::new(Semaphore::new(REQUESTS_MAX)),
            says_at_once: AtomicBool::new(false),
            health: Health::default(),
            pace: Pace::default(),
            lives: Lives::default(),
            counters: Counters::default(),
        }
    }

    fn clock(&self) -> &dyn Clock {
        &*self.world.clock
    }

    /// Requests under way.
    pub(crate) fn in_flight(&self) -> u64 {
        (REQUESTS_MAX - self.permits.available_permits().min(REQUESTS_MAX)) as u64
    }

    /// The version that is used with it; `None`: nobody knows yet.
    pub(crate) fn wire(&self) -> Option<u32> {
        Some(self.wire.load(Ordering::Relaxed)).filter(|wire| 0 < *wire)
    }

    fn introduction(&self) -> Introduction<'_> {
        Introduction { world: &self.world, passed_by: self.health.is_down() }
    }

    /// Counts a fault, and passes the peer by for a while if it says so.
    pub(crate) fn note(&self, fault: &Fault) {
        self.counters.pass(fault.reason);
        self.fail(fault);
    }

    /// As [`Self::note`], and counts nothing.
    pub(crate) fn fail(&self, fault: &Fault) {
        if self.health.failed(fault, self.clock().monotonic()) {
            tracing::warn!(peer = %self.address, "passed by until it answers again: {fault}");
        }
    }

    /// Asks who is there, over a new connection if there is none.
    pub(crate) async fn greet(&self) -> Result<HelloAnswer, Fault> {
        let greeting = async {
            // Not under the lock: reads go on meanwhile.
            let line = self.lines[0].lock().await.clone();
            if let Some(line) = line
                && !line.way.sender.is_closed()
                && let mut fresh = Fresh::Http2(line.way.sender.clone())
                && let Ok(answer) = self.introduction().hello_again(&mut fresh).await
            {
                self.lives.met(answer.instance);
                return Ok(answer);
            }
            let mut slot = self.lines[0].lock().await;
            let line = self.connect().await?;
            let answer = line.answer.clone();
            *slot = Some(line);
            Ok(answer)
        };
        let silent = || Fault::new(Reason::Silent, "no hello in time");
        within(self.clock(), HELLO_LIMIT, greeting).await.unwrap_or_else(|| Err(silent()))
    }

    /// See [`HelloAnswer::says_at_once`]: true if its silence means something.
    pub(crate) fn says_at_once(&self) -> bool {
        self.says_at_once.load(Ordering::Relaxed)
    }

    /// Sends a read; the answer is still to come. `lengths` are those of the items.
    pub(crate) async fn ask(
        &self,
        request: &ReadRequest,
        lengths: Vec<u64>,
        signs: &Signs,
    ) -> Result<Answer, Fault> {
        let patience = self.health.patience();
        let permit = within(self.clock(), patience, Arc::clone(&self.permits).acquire_owned());
        let permit = permit.await.and_then(Result::ok).ok_or_else(|| {
            Fault::new(Reason::Full, format!("{REQUESTS_MAX} requests are under way to it"))
        })?;
        let started = self.clock().monotonic();
        let body = match self.ask_lane(request, patience, signs).await {
            Some(asked) => AnswerBody::Lane(asked?),
            None => {
                let response = self.post_within(READ_PATH, request, patience, signs).await?;
                AnswerBody::Http2(self.accepted(response, patience).await?)
            }
        };
        let clock = Arc::clone(&self.world.clock);
        let limits = (patience, self.world.answer_max);
        Ok(Answer::new(body, lengths, clock, started, limits, permit))
    }

    /// The answer to a read for which somebody waits, over a lane; `None`: it is to go over HTTP/2.
    async fn ask_lane(
        &self,
        request: &ReadRequest,
        patience: Duration,
        signs: &Signs,
    ) -> Option<Result<feedline_http1::Body<Lane>, Fault>> {
        if !request.demand || request.items.len() != 1 || self.health.is_gone() {
            return None;
        }
        let sent = self.lanes.ask((&self.world, &self.address), request, patience, signs).await?;
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let agreed = sent.and_then(|(response, wire)| {
            agreed(Versions::only(wire), response.headers())?;
            Ok(response)
        });
        Some(match agreed {
            Ok(response) => self.accepted(response, patience).await,
            Err(fault) => Err(fault),
        })
    }

    /// The body of an answer that is one.
    async fn accepted<B>(&self, response: Response<B>, patience: Duration) -> Result<B, Fault>
    where
        B: Answered,
    {
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            _ => Err(self.refusal(response, patience).await),
        }
    }

    /// Has it bring in what a request names; the answer is still to come.
    pub(crate) async fn ask_load(&self, request: &LoadRequest) -> Result<LoadAnswer, Fault> {
        let patience = self.health.patience();
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|error| Fault::new(Reason::Full, error.to_string()))?;
        let signs = Signs::default();
        let response = self.post_within(LOAD_PATH, request, patience, &signs).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(Fault::new(Reason::NotCached, "it takes no loads: update it"));
            }
            _ => return Err(self.refusal(response, patience).await),
        }
        let (body, clock) = (response.into_body(), Arc::clone(&self.world.clock));
        Ok(LoadAnswer { body, clock, patience, frames: Frames::default(), _permit: permit })
    }

    /// Sends a question; the answer is still to come.
    pub(crate) async fn ask_question(&self, question: &impl Serialize) -> Result<Reply, Fault> {
        let patience = self.health.patience();
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|error| Fault::new(Reason::Full, error.to_string()))?;
        let signs = Signs::default();
        let (response, wire) = self.send_within(ASK_PATH, question, patience, &signs).await?;
        // A node that is older has its guest answer, which says no version.
        let is_unknown = response.status() == StatusCode::NOT_FOUND
            || !response.headers().contains_key(WIRE_HEADER);
        if is_unknown {
            let version = self.version().await.unwrap_or_else(|| "another version".into());
            let message =
                format!("it runs {version}, which does not know this question: update it");
            return Err(Fault::new(Reason::NotCached, message));
        }
        agreed(Versions::only(wire), response.headers())?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, patience).await);
        }
        let (body, clock) = (response.into_body(), Arc::clone(&self.world.clock));
        Ok(Reply { body, clock, patience, frames: Frames::default(), _permit: permit })
    }

    /// The version of the binary that runs there, if it has said so on a connection that is open.
    async fn version(&self) -> Option<String> {
        for line in &self.lines {
            if let Some(line) = &*line.lock().await {
                return Some(line.answer.version.clone());
            }
        }
        None
    }

    /// Sends a request; the head of an answer must come in time, and be of the version that is used with it.
    async fn post_within(
        &self,
        path: &'static str,
        request: &impl Serialize,
        patience: Duration,
        signs: &Signs,
    ) -> Result<Response<Incoming>, Fault> {
        let (response, wire) = self.send_within(path, request, patience, signs).await?;
        agreed(Versions::only(wire), response.headers())?;
        Ok(response)
    }

    async fn send_within(
        &self,
        path: &'static str,
        request: &impl Serialize,
        patience: Duration,
        signs: &Signs,
    ) -> Result<Sent, Fault> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let body = encode(request)?;
        let silent = || Fault::new(Reason::Silent, format!("no answer within {patience:?}"));
        let response = within(self.clock(), patience, self.send(path, body, signs)).await;
        response.unwrap_or_else(|| Err(silent()))
    }

    /// What an answer that is none says.
    async fn refusal<B: Answered>(&self, response: Response<B>, patience: Duration) -> Fault {
        match whole((response.status(), response.into_body()), self.clock(), patience).await {
            Ok((status, body)) => refused(status, &body),
            Err(fault) => fault,
        }
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.world.runtime
    }

    /// Sends on a connection that is there, or a new one; twice if the first turns out to be broken.
    async fn send(&self, path: &'static str, body: Bytes, signs: &Signs) -> Result<Sent, Fault> {
        let at = self.turn.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        let (mut way, is_new) = self.line(at).await?;
        signs.sent(self.clock().monotonic());
        match way.send(path, body.clone()).await {
            Ok(response) => Ok((response, way.wire)),
            Err(error) if is_new => Err(Fault::unreachable(&error)),
            // Closed by the other end while nobody looked, as a restart does.
            Err(error) => {
                tracing::debug!(peer = %self.address, %error, "a connection broke; one more try");
                let (mut way, _) = self.line(at).await?;
                let sent = way.send(path, body).await;
                sent.map(|it| (it, way.wire)).map_err(|error| Fault::unreachable(&error))
            }
        }
    }

    /// A connection, and whether it is new.
    async fn line(&self, at: usize) -> Result<(Way, bool), Fault> {
        let mut slot = self.lines[at].lock().await;
        if let Some(line) = &*slot
            && !line.way.sender.is_closed()
        {
            return Ok((line.way.clone(), false));
        }
        // Those that waited for the lock must not each try again what just failed.
        if self.health.is_gone() {
            return Err(Fault::new(Reason::Down, "passed by"));
        }
        let connected = within(self.clock(), HELLO_LIMIT, self.connect()).await;
        let silent = || Fault::new(Reason::Silent, "no hello in time");
        match connected.unwrap_or_else(|| Err(silent())) {
            Ok(line) => {
                let way = line.way.clone();
                *slot = Some(line);
                Ok((way, true))
            }
            Err(fault) => {
                self.fail(&fault);
                Err(fault)
            }
        }
    }

    async fn connect(&self) -> Result<Line, Fault> {
        let stream = self.world.net.connect(&self.address).await;
        let stream = stream.map_err(|error| Fault::no_connection(&error))?;
        let handshake = Builder::new(OnRuntime(self.world.runtime.clone()))
            .timer(self.world.timer.clone())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|error| Fault::unreachable(&error))?;
        let address = Arc::clone(&self.address);
        self.world.runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(peer = %address, %error, "a connection ended");
            }
        });
        let mut fresh = Fresh::Http2(sender.clone());
        let (answer, wire) = self.introduction().hello(&mut fresh).await?;
        self.lives.met(answer.instance);
        self.wire.store(wire, Ordering::Relaxed);
        self.says_at_once.store(answer.says_at_once, Ordering::Relaxed);
        Ok(Line { way: Way { sender, wire }, answer })
    }
}
