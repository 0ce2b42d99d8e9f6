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
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};

use crate::answer::Answer;
use crate::ask::Reply;
use crate::fault::{Fault, Reason};
use crate::greeters::now_ms;
use crate::health::Health;
use crate::load::LoadAnswer;
use crate::net::Net;
use crate::pace::{Pace, Signs};
use crate::parts::{Entropy, OnRuntime, within};
use crate::roll::Lives;
use crate::timer::ClockTimer;
use crate::token::{End, Token};
use crate::versions::Versions;
use crate::wire::{
    ASK_PATH, Challenge, Frames, HELLO_PATH, Hello, HelloAnswer, LOAD_PATH, LoadRequest, READ_PATH,
    REASON_BYTES_MAX, ReadRequest, Refusal, WIRE_HEADER, from_hex, hex,
};

/// Connections to one peer: two, so that a lost packet holds up half and two cores share the work.
const CONNECTIONS: usize = 2;

/// Requests to one peer under way at most, over all connections.
pub(crate) const REQUESTS_MAX: usize = 256;

/// How long a connection and its hello may take: a few round trips, and a lost packet's resend.
const HELLO_LIMIT: Duration = Duration::from_secs(3);

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

type Sender = SendRequest<Full<Bytes>>;

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

/// Who answered a hello, and the version that both ends use from then on.
type Met = (HelloAnswer, u32);

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
            if let Some(mut line) = line
                && !line.way.sender.is_closed()
                && let Ok(answer) = self.hello_again(&mut line.way.sender).await
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
        let response = self.post_within(READ_PATH, request, patience, signs).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response, patience).await);
        }
        let clock = Arc::clone(&self.world.clock);
        let limits = (patience, self.world.answer_max);
        Ok(Answer::new(response.into_body(), lengths, clock, started, limits, permit))
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
    async fn refusal(&self, response: Response<Incoming>, patience: Duration) -> Fault {
        match self.whole(response, patience).await {
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
        let (mut sender, connection) = handshake.map_err(|error| Fault::unreachable(&error))?;
        let address = Arc::clone(&self.address);
        self.world.runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(peer = %address, %error, "a connection ended");
            }
        });
        let (answer, wire) = self.hello(&mut sender).await?;
        self.lives.met(answer.instance);
        self.wire.store(wire, Ordering::Relaxed);
        self.says_at_once.store(answer.says_at_once, Ordering::Relaxed);
        Ok(Line { way: Way { sender, wire }, answer })
    }

    /// The first words on a connection: each end shows that it knows the token, if there is one.
    async fn hello(&self, sender: &mut Sender) -> Result<Met, Fault> {
        let me = &self.world.me;
        let ours = self.world.entropy.nonce();
        let (status, body, wire) = self.post(sender, &self.our_hello(hex(&ours), None)).await?;
        match (status, &me.token) {
            (StatusCode::OK, None) => Ok((decode(&body)?, wire)),
            (StatusCode::OK, Some(_)) => Err(Fault::new(
                Reason::Refused,
                "it asks for no token: give it the file token in cluster_secrets as well",
            )),
            (StatusCode::UNAUTHORIZED, None) => Err(Fault::new(
                Reason::Refused,
                "it wants the cluster's token: give this node the file token in cluster_secrets as well",
            )),
            (StatusCode::UNAUTHORIZED, Some(token)) => {
                let challenge: Challenge = decode(&body)?;
                let theirs = from_hex(&challenge.nonce)
                    .filter(|it| token.is_proof(End::Server, &ours, it, &challenge.proof));
                let theirs = theirs.ok_or_else(|| {
                    Fault::new(Reason::Refused, "it has another token (cluster_secrets)")
                })?;
                let proof = token.prove(End::Client, &ours, &theirs);
                let hello = self.our_hello(hex(&ours), Some(proof));
                match self.post(sender, &hello).await? {
                    (StatusCode::OK, body, wire) => Ok((decode(&body)?, wire)),
                    (status, body, _) => Err(refused(status, &body)),
                }
            }
            (status, _) => Err(refused(status, &body)),
        }
    }

    /// On a connection that has been let in.
    async fn hello_again(&self, sender: &mut Sender) -> Result<HelloAnswer, Fault> {
        match self.post(sender, &self.our_hello(String::new(), None)).await? {
            (StatusCode::OK, body, _) => decode(&body),
            (status, body, _) => Err(refused(status, &body)),
        }
    }

    fn our_hello(&self, nonce: String, proof: Option<String>) -> Hello {
        let HelloAnswer { wire, version, node, instance, quota_bytes, .. } =
            self.world.me.hello.clone();
        let passed_by = self.health.is_down();
        Hello { wire, version, node, instance, quota_bytes, nonce, proof, passed_by }
    }

    /// Sends a hello: what is answered, and the version that both ends speak.
    async fn post(
        &self,
        sender: &mut Sender,
        hello: &Hello,
    ) -> Result<(StatusCode, Bytes, u32), Fault> {
        let ours = self.world.me.wire;
        let sent = sender.send_request(request(HELLO_PATH, encode(hello)?, ours)).await;
        let response = sent.map_err(|error| Fault::unreachable(&error))?;
        let wire = agreed(ours, response.headers())?;
        let (status, body) = self.whole(response, HELLO_LIMIT).await?;
        Ok((status, body, wire))
    }

    /// The whole of a short answer.
    async fn whole(
        &self,
        response: Response<Incoming>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), Fault> {
        let status = response.status();
        let body = Limited::new(response.into_body(), REASON_BYTES_MAX).collect();
        match within(self.clock(), limit, body).await {
            Some(Ok(body)) => Ok((status, body.to_bytes())),
            Some(Err(error)) => Err(Fault::new(Reason::Wrong, error.to_string())),
            None => Err(Fault::new(Reason::Silent, "its answer did not end")),
        }
    }
}

fn request(path: &'static str, body: Bytes, said: Versions) -> Request<Full<Bytes>> {
    // The authority is of no meaning between nodes: the connection is.
    let mut request = Request::post(format!("http://peer{path}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .expect("fixed parts make a request");
    said.write(request.headers_mut());
    request
}

fn encode(value: &impl Serialize) -> Result<Bytes, Fault> {
    let text = serde_json::to_vec(value);
    text.map(Bytes::from).map_err(|error| Fault::new(Reason::Refused, error.to_string()))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::new(Reason::Wrong, error.to_string()))
}

fn refused(status: StatusCode, body: &[u8]) -> Fault {
    let message = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) => format!("status {status}"),
    };
    Fault::new(Reason::Refused, message)
}

/// The version that both ends speak; ours may be the one that was agreed on.
fn agreed(ours: Versions, headers: &HeaderMap) -> Result<u32, Fault> {
    let said = Versions::read(headers);
    said.and_then(|said| ours.common(said)).ok_or_else(|| {
        let said = said.map_or_else(|| "no version".into(), |said| said.to_string());
        let message = format!("it speaks {said} between nodes, we speak {ours}: update one");
        Fault::new(Reason::Version, message)
    })
}
