//! The node's port: connections, who may speak on them, and what goes where.
//!
//! # Invariants
//!
//! - Over TLS only who has proved to be a node speaks as one; who does not speak TLS then is told so and no more.
//! - A connection says hello before anything else of `/peer/` is answered; with a token, only who
//!   proves to know it is let in, and a nonce is good for one proof.
//! - Who speaks none of our wire versions is refused in words that both ends can read; after the hello a
//!   connection speaks one.
//! - What is not for peers goes to the guest, who knows by itself who may ask.
//! - Connections of each kind (`seats`), streams on them, headers and bodies all have a maximum; so have lines of
//!   the log about who is refused.
//! - A connection that does not show what it is, or a guest's on which nothing is asked, is closed after a while.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::DATE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::ask::{self, Asker};
use crate::load;
use crate::net::{Accepted, Client, Listener, Opened, Stream};
use crate::parts::{OnRuntime, PortBody, within};
use crate::peer::World;
use crate::seats::{Kind, Seat, Seats};
use crate::seldom::Seldom;
use crate::serve::Serve;
use crate::token::{End, Nonce};
use crate::versions::Versions;
use crate::wire::{
    ASK_PATH, Challenge, HELLO_PATH, Hello, LOAD_PATH, LoadRequest, READ_PATH, REQUEST_BYTES_MAX,
    ReadRequest, Refusal, WIRE_HEADER, from_hex, hex,
};

/// Streams of one connection at once.
const STREAMS_MAX: u32 = 256;

/// What a stream of a request may have on its way: a batch of ordinary keys.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// What a request's headers may take together.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// How long a connection may stay open without a request that shows what it is, and a request may take to arrive.
const SPEAK_WITHIN: Duration = Duration::from_secs(10);

/// How long a guest's connection stays open after its last request. Pools of S3 clients expect that: they are
/// used to a minute or less, and connect again.
const GUEST_IDLE_MAX: Duration = Duration::from_secs(60);

/// How often an idle connection is tested.
const PING_EVERY: Duration = Duration::from_secs(20);

/// The pause after a failed accept: the usual cause is no free descriptor, and only time helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// What one connection remembers.
#[derive(Debug)]
struct Connection {
    from: SocketAddr,
    client: Client,
    seat: Seat,
    /// When it asked last as a guest, in milliseconds of the node's clock.
    asked_ms: AtomicU64,
    /// There is no seat for it: it ends after the answer that says so.
    has_no_seat: Notify,
    /// The version that both ends use since it was let in; 0 before.
    wire: AtomicU32,
    /// The nonce of a challenge that was not answered yet.
    nonce: Mutex<Option<Nonce>>,
    /// Who was refused, on all connections.
    refused: Arc<Seldom>,
}

/// Why a connection is closed from this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// At once: nobody knows what it is.
    Silent,
    /// After what is under way: it is not used, or may not be.
    Unused,
}

impl Connection {
    fn of(client: Client, from: SocketAddr, seat: Seat, refused: Arc<Seldom>) -> Self {
        Self {
            from,
            client,
            seat,
            asked_ms: AtomicU64::new(0),
            has_no_seat: Notify::new(),
            wire: AtomicU32::new(0),
            nonce: Mutex::default(),
            refused,
        }
    }

    /// The version that both ends use; `None`: nobody was let in.
    fn wire(&self) -> Option<u32> {
        Some(self.wire.load(Ordering::Acquire)).filter(|wire| 0 < *wire)
    }

    /// True if the log is to say now that its other end was refused.
    fn is_worth_a_line(&self, world: &World) -> bool {
        self.refused.is_due(self.from.ip(), world.clock.monotonic())
    }

    /// Something was asked that is not for nodes. False: there are as many guests as may be.
    fn is_guest(&self, world: &World) -> bool {
        let now_ms = u64::try_from(world.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.asked_ms.store(now_ms, Ordering::Relaxed);
        let has_seat = self.seat.change(Kind::Guest);
        if !has_seat {
            if self.is_worth_a_line(world) {
                let most = Kind::Guest.seats_max();
                tracing::warn!(from = %self.from, "{most} connections of clients are open: refused");
            }
            self.has_no_seat.notify_one();
        }
        has_seat
    }

    /// Completes when it is to be closed; never, for a node's.
    async fn over(&self, world: &World) -> Over {
        let mut pause = SPEAK_WITHIN;
        loop {
            tokio::select! {
                biased;
                () = self.has_no_seat.notified() => return Over::Unused,
                () = world.clock.sleep(pause) => {}
            }
            match self.seat.kind() {
                Kind::Stranger => return Over::Silent,
                Kind::Node | Kind::Lane => return std::future::pending().await,
                Kind::Guest => {
                    let asked = Duration::from_millis(self.asked_ms.load(Ordering::Relaxed));
                    pause = (asked + GUEST_IDLE_MAX).saturating_sub(world.clock.monotonic());
                    if pause.is_zero() {
                        return Over::Unused;
                    }
                }
            }
        }
    }
}

impl Server {
    /// Serves on a port that is open already.
    pub(crate) fn start(listener: Box<dyn Listener>, serve: Arc<Serve>, world: World) -> Self {
        let address = listener.address();
        let runtime = world.runtime.clone();
        let task = runtime.spawn(accept(listener, serve, world));
        Self { address, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port and every connection.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

async fn accept(mut listener: Box<dyn Listener>, serve: Arc<Serve>, world: World) {
    // Owned here, so that the end of this task closes every connection.
    let mut connections = JoinSet::new();
    let seats = Seats::new();
    let refused = Arc::new(Seldom::default());
    let runtime = world.runtime.clone();
    loop {
        tokio::select! {
            // In this order: those that ended make room first, and a seed gives one order.
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(Accepted { from, opening }) => {
                    let Some(seat) = seats.stranger() else {
                        if refused.is_due(from.ip(), world.clock.monotonic()) {
                            let most = Kind::Stranger.seats_max();
                            tracing::warn!(%from, "{most} connections that have said nothing yet: \
                                no more are taken");
                        }
                        continue;
                    };
                    let (serve, world) = (Arc::clone(&serve), world.clone());
                    let refused = Arc::clone(&refused);
                    let task = async move {
                        if let Some(Opened { stream, client }) = open(from, opening, &world).await {
                            let state = Connection::of(client, from, seat, refused);
                            connection(stream, state, serve, world.clone()).await;
                        }
                    };
                    connections.spawn_on(task, &runtime);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer");
                    world.clock.sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// A connection made ready, unless its other end takes too long or makes no sense.
async fn open(
    from: SocketAddr,
    opening: BoxFuture<'static, io::Result<Opened>>,
    world: &World,
) -> Option<Opened> {
    match within(&*world.clock, SPEAK_WITHIN, opening).await {
        Some(Ok(opened)) => Some(opened),
        Some(Err(error)) => {
            tracing::debug!(%from, %error, "a connection that came to nothing");
            None
        }
        None => {
            tracing::debug!(%from, "a connection that said nothing");
            None
        }
    }
}

async fn connection(stream: Box<dyn Stream>, state: Connection, serve: Arc<Serve>, world: World) {
    let state = Arc::new(state);
    let mut builder = Builder::new(OnRuntime(world.runtime.clone()));
    builder
        .http1()
        .timer(world.timer.clone())
        // Peers have no use for it, and hyper's is of the machine's clock; see `dated`.
        .auto_date_header(false)
        .header_read_timeout(SPEAK_WITHIN)
        .max_buf_size(HEADERS_BYTES_MAX as usize);
    builder
        .http2()
        .timer(world.timer.clone())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(4 * STREAM_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .auto_date_header(false)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(SPEAK_WITHIN);
    let service = {
        let (state, world) = (Arc::clone(&state), world.clone());
        service_fn(move |request| {
            let (state, serve, world) = (Arc::clone(&state), Arc::clone(&serve), world.clone());
            async move { Ok::<_, Infallible>(answer(&state, &serve, &world, request).await) }
        })
    };
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        biased;
        ended = &mut served => ended,
        over = state.over(&world) => match over {
            Over::Silent => return,
            Over::Unused => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a peer's connection ended");
    }
}

/// An answer with the time, as HTTP wants it of whoever has a clock.
fn dated(mut answer: Response<PortBody>, world: &World) -> Response<PortBody> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(world.clock.unix_ms());
    let now = HeaderValue::try_from(httpdate::fmt_http_date(now)).expect("letters and digits");
    answer.headers_mut().entry(DATE).or_insert(now);
    answer
}

/// Peers say their version with each request, which no other client does.
async fn answer(
    state: &Connection,
    serve: &Arc<Serve>,
    world: &World,
    request: Request<Incoming>,
) -> Response<PortBody> {
    let is_of_peer = [HELLO_PATH, READ_PATH, LOAD_PATH, ASK_PATH].contains(&request.uri().path())
        && (request.method() == Method::POST || request.headers().contains_key(WIRE_HEADER));
    if let Client::Plain(why) = state.client {
        return with_version(refuse(StatusCode::FORBIDDEN, why), world.me.wire);
    }
    match &serve.guest {
        Some(guest) if !is_of_peer && state.is_guest(world) => {
            dated(guest.answer(request).await, world)
        }
        Some(_) if !is_of_peer => {
            let most = Kind::Guest.seats_max();
            let message = format!(
                "{most} connections of clients are open here already: close some, \
                let clients open fewer, or ask another node"
            );
            refuse(StatusCode::SERVICE_UNAVAILABLE, message)
        }
        _ => {
            let is_hello = request.uri().path() == HELLO_PATH;
            let answer = answer_peer(state, serve, world, request).await;
            let used = state.wire().filter(|_| !is_hello).map(Versions::only);
            with_version(answer, used.unwrap_or(world.me.wire))
        }
    }
}

async fn answer_peer(
    state: &Connection,
    serve: &Arc<Serve>,
    world: &World,
    request: Request<Incoming>,
) -> Response<PortBody> {
    let path = request.uri().path();
    let kind = if request.version() == Version::HTTP_2 { Kind::Node } else { Kind::Lane };
    let (is_hello, is_load) = (path == HELLO_PATH, path == LOAD_PATH);
    let is_question = path == ASK_PATH;
    if !is_hello && !is_load && !is_question && path != READ_PATH {
        return refuse(StatusCode::NOT_FOUND, "nothing is served under this path");
    }
    if request.method() != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "only POST");
    }
    let wire = match agreed(state, world, request.headers(), is_hello) {
        Ok(wire) => wire,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
    };
    if let Client::Unproved(why) = &state.client {
        if is_hello && state.is_worth_a_line(world) {
            let from = state.from;
            tracing::warn!(%from, why, "a peer that does not prove to be a node: refused");
        }
        return refuse(StatusCode::FORBIDDEN, why);
    }
    if !is_hello && state.wire().is_none() {
        return refuse(StatusCode::UNAUTHORIZED, "say hello first");
    }
    if is_hello {
        return match body::<Hello>(world, request).await {
            Ok(hello) => greet(state, serve, world, (&hello, wire, kind)),
            Err(refusal) => refusal,
        };
    }
    if is_load {
        let Some(loads) = serve.loads.get().cloned() else {
            return refuse(StatusCode::NOT_FOUND, "this node takes no loads");
        };
        return match body::<LoadRequest>(world, request).await {
            Ok(load) => framed(load::answer(serve, loads, load)),
            Err(refusal) => refusal,
        };
    }
    if is_question {
        let Some(questions) = serve.desk.questions.get().cloned() else {
            return refuse(StatusCode::NOT_FOUND, "this node answers no questions yet");
        };
        // Before it is read: what waits is kept.
        let Ok(room) = Arc::clone(&serve.desk.room).try_acquire_owned() else {
            return Response::new(ask::full(serve));
        };
        return match body::<serde_json::Value>(world, request).await {
            Ok(question) => {
                let question = (asker(state, serve, world), question);
                Response::new(ask::answer(serve, questions, question, room))
            }
            Err(refusal) => refusal,
        };
    }
    match body::<ReadRequest>(world, request).await {
        Ok(read) => framed(Arc::clone(serve).read(read).await),
        Err(refusal) => refusal,
    }
}

/// The version that both ends speak: the one agreed on, or with a hello, the highest. Else why it is refused.
fn agreed(
    state: &Connection,
    world: &World,
    headers: &HeaderMap,
    is_hello: bool,
) -> Result<u32, String> {
    let ours = state.wire().filter(|_| !is_hello).map_or(world.me.wire, Versions::only);
    let said = Versions::read(headers);
    said.and_then(|said| ours.common(said)).ok_or_else(|| {
        let said = said.map_or_else(|| "no version".into(), |said| said.to_string());
        if is_hello && state.is_worth_a_line(world) {
            let from = state.from;
            tracing::warn!(%from, "a peer that speaks {said} between nodes, this one {ours}: refused");
        }
        format!("you speak {said} between nodes, this one {ours}: update one")
    })
}

/// Who asks on a connection that has been let in.
fn asker(state: &Connection, serve: &Serve, world: &World) -> Asker {
    let has_proved = world.me.token.is_some() || state.client == Client::Proved;
    if has_proved || serve.desk.is_local { Asker::Trusted } else { Asker::Anybody }
}

fn framed(frames: Result<PortBody, String>) -> Response<PortBody> {
    frames.map_or_else(|why| refuse(StatusCode::BAD_REQUEST, why), Response::new)
}

/// Lets a peer in, or wants a proof first.
fn greet(
    state: &Connection,
    serve: &Serve,
    world: &World,
    (hello, wire, kind): (&Hello, u32, Kind),
) -> Response<PortBody> {
    let welcome = || welcome(state, serve, world, (hello, wire, kind));
    let Some(token) = &world.me.token else { return welcome() };
    if state.wire().is_some() {
        return welcome();
    }
    let Some(theirs) = from_hex(&hello.nonce) else {
        return refuse(StatusCode::BAD_REQUEST, "a hello has a nonce of 64 hexadecimal digits");
    };
    let challenged = state.nonce.lock().take();
    if let (Some(proof), Some(ours)) = (&hello.proof, challenged) {
        if token.is_proof(End::Client, &theirs, &ours, proof) {
            return welcome();
        }
        if state.is_worth_a_line(world) {
            let (from, node) = (state.from, hello.node);
            tracing::warn!(%from, node, "a peer does not know the cluster's token: refused");
        }
        return refuse(StatusCode::FORBIDDEN, "that is not this cluster's token");
    }
    let ours = world.entropy.nonce();
    *state.nonce.lock() = Some(ours);
    let proof = token.prove(End::Server, &theirs, &ours);
    json(StatusCode::UNAUTHORIZED, &Challenge { nonce: hex(&ours), proof })
}

/// Lets a node in that has shown to be one.
fn welcome(
    state: &Connection,
    serve: &Serve,
    world: &World,
    (hello, wire, kind): (&Hello, u32, Kind),
) -> Response<PortBody> {
    if !state.seat.change(kind) {
        let most = kind.seats_max();
        let message = format!("{most} connections of nodes are open here already");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, message);
    }
    state.wire.store(wire, Ordering::Release);
    if hello.passed_by {
        serve.handover.was_passed_by();
    }
    json(StatusCode::OK, &world.hello())
}

/// The body of a request, or why not.
async fn body<T: DeserializeOwned>(
    world: &World,
    request: Request<Incoming>,
) -> Result<T, Response<PortBody>> {
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect();
    let body = match within(&*world.clock, SPEAK_WITHIN, body).await {
        Some(Ok(body)) => body.to_bytes(),
        Some(Err(error)) => return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())),
        None => return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the request did not end")),
    };
    serde_json::from_slice(&body)
        .map_err(|error| refuse(StatusCode::BAD_REQUEST, error.to_string()))
}

fn refuse(status: StatusCode, message: impl Into<String>) -> Response<PortBody> {
    json(status, &Refusal { message: message.into() })
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<PortBody> {
    let text = serde_json::to_vec(value).expect("plain data can be written");
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}

fn with_version(mut response: Response<PortBody>, said: Versions) -> Response<PortBody> {
    said.write(response.headers_mut());
    response
}
