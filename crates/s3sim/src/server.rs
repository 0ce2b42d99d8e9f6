//! The server: connections, and what a request passes through on its way to the S3 calls.
//!
//! Order of a request: counted, body read, rate limit, fault drawn, delay, signature, the call,
//! then the fault on the answer. The body is read first so that a refused upload gets its refusal
//! and not a broken connection.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::body::{Cut, Reply, Source};
use crate::error::S3Error;
use crate::faults::{FaultBoard, FaultKind, FaultRule, Faults};
use crate::handlers::{Answer, Api, Call};
use crate::shape::{Dice, Latency, Line, RateLimit};
use crate::sigv4::{self, Credentials};
use crate::stats::{Ticket, Verb};
use crate::target::Target;
use crate::wire::{Control, Wire};

/// The tag that a `wrong_etag` fault answers with.
const WRONG_TAG: &str = "\"00000000000000000000000000000bad\"";

/// The pause after a failed accept: the usual cause is no free descriptor, and only time helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) api: Api,
    pub(crate) faults: FaultBoard,
    pub(crate) dice: Dice,
    pub(crate) latency: Latency,
    pub(crate) list_latency: Latency,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) connection_bandwidth: Option<u64>,
    pub(crate) line: Option<Arc<Line>>,
}

/// Serves connections until dropped.
pub(crate) async fn serve(server: Arc<Server>, listener: TcpListener) -> Infallible {
    // Owned here, so that dropping this future closes every connection.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&server), stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(server: Arc<Server>, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let control = Arc::new(Control::default());
    let own = server.connection_bandwidth.map(Line::new);
    let wire = Wire::new(stream, Arc::clone(&control), own, server.line.clone());
    let service = service_fn(|request| {
        let (server, control) = (Arc::clone(&server), Arc::clone(&control));
        async move { server.request(request, control).await }
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(wire), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

impl Server {
    async fn request(
        &self,
        request: Request<Incoming>,
        control: Arc<Control>,
    ) -> io::Result<Response<Reply>> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        if path.starts_with("/__") {
            let body = read_body(body).await?;
            return Ok(response(self.admin(&parts, &body), control, None));
        }
        let parsed = Target::parse(&parts.uri);
        let verb = parsed.as_ref().map_or(Verb::Get, |target| target.verb(&parts.method));
        let ticket = self.api.counters.begin(verb);
        let body = read_body(body).await?;
        self.api.counters.received(body.len() as u64);
        let key = parsed.as_ref().map_or("", |target| target.key.as_str());
        let limited = self.rate_limit.as_ref().is_some_and(|limit| !limit.admit(Instant::now()));
        let fault = if limited { None } else { self.faults.draw(verb, key, &self.dice) };
        self.delay(verb).await;
        let answer = match (limited, fault.as_ref().and_then(refusal)) {
            (true, _) => Err(S3Error::slow_down()),
            (false, Some(refusal)) => Err(refusal),
            (false, None) => parsed.and_then(|target| self.call(&parts, &target, body)),
        };
        let mut answer = answer.unwrap_or_else(|error| Answer::error(&error, path));
        if parts.method == Method::HEAD {
            answer.source = Source::Memory(Bytes::new());
        }
        let answered = self.answer(answer, fault.as_ref(), control, ticket);
        let status = answered.as_ref().map_or(0, |response| response.status().as_u16());
        self.api.counters.status(status);
        tracing::debug!(method = %parts.method, %path, status, ?fault);
        answered
    }

    async fn delay(&self, verb: Verb) {
        let latency = if verb == Verb::List { &self.list_latency } else { &self.latency };
        let delay = latency.sample(&self.dice);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    fn call(&self, parts: &Parts, target: &Target, body: Bytes) -> Result<Answer, S3Error> {
        if let Some(credentials) = &self.credentials {
            sigv4::verify(parts, target, credentials)?;
        }
        self.api.call(Call { parts, target, body })
    }

    /// Puts an answer on its way, with the fault it meets there.
    fn answer(
        &self,
        mut answer: Answer,
        fault: Option<&FaultRule>,
        control: Arc<Control>,
        ticket: Ticket,
    ) -> io::Result<Response<Reply>> {
        let Some(fault) = fault else { return Ok(response(answer, control, Some(ticket))) };
        let length = answer.source.len();
        // Strictly inside, so that a cut that is meant always happens.
        let at = fault.at_byte.unwrap_or(length / 2).min(length.saturating_sub(1));
        let cut = match fault.kind {
            FaultKind::Reset if length == 0 || at == 0 => {
                control.reset_at_close();
                return Err(io::Error::other("fault: reset"));
            }
            FaultKind::Reset => Cut::Reset,
            FaultKind::ShortBody => Cut::Short,
            FaultKind::Stall => {
                let stall = Duration::from_millis(fault.stall_ms);
                Cut::Stall(stall)
            }
            FaultKind::WrongEtag => {
                let tags = answer.headers.iter_mut().filter(|(name, _)| name == "etag");
                tags.for_each(|(_, tag)| *tag = WRONG_TAG.into());
                return Ok(response(answer, control, Some(ticket)));
            }
            FaultKind::InternalError | FaultKind::SlowDown | FaultKind::Forbidden => {
                return Ok(response(answer, control, Some(ticket)));
            }
        };
        Ok(response(answer, control, Some(ticket)).map(|reply| reply.cut_at(at, cut)))
    }

    /// `/__stats`, `/__stats/reset` and `/__faults`.
    fn admin(&self, parts: &Parts, body: &[u8]) -> Answer {
        let json = |text: serde_json::Result<String>| match text {
            Ok(text) => Answer::text(StatusCode::OK, "application/json", text),
            Err(error) => Answer::error(&S3Error::internal(error.to_string()), ""),
        };
        match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/__stats") => {
                json(serde_json::to_string(&self.api.counters.snapshot()))
            }
            (&Method::POST, "/__stats/reset") => {
                self.api.counters.reset();
                Answer::empty(StatusCode::NO_CONTENT)
            }
            (&Method::GET, "/__faults") => json(serde_json::to_string(&self.faults.get())),
            (&Method::POST, "/__faults") => match serde_json::from_slice::<Faults>(body) {
                Ok(faults) => {
                    self.faults.set(faults);
                    Answer::empty(StatusCode::NO_CONTENT)
                }
                Err(error) => Answer::error(&S3Error::invalid_argument(error.to_string()), ""),
            },
            (_, path) => Answer::error(&S3Error::not_implemented(path), path),
        }
    }
}

/// The error that a fault answers instead of the call, if it is of that kind.
fn refusal(fault: &FaultRule) -> Option<S3Error> {
    match fault.kind {
        FaultKind::InternalError => {
            Some(S3Error::internal("We encountered an internal error. Please try again."))
        }
        FaultKind::SlowDown => Some(S3Error::slow_down()),
        FaultKind::Forbidden => Some(S3Error::access_denied("Access Denied")),
        FaultKind::Reset | FaultKind::ShortBody | FaultKind::Stall | FaultKind::WrongEtag => None,
    }
}

async fn read_body(body: Incoming) -> io::Result<Bytes> {
    Ok(body.collect().await.map_err(io::Error::other)?.to_bytes())
}

fn response(answer: Answer, control: Arc<Control>, ticket: Option<Ticket>) -> Response<Reply> {
    let mut response = Response::new(Reply::new(answer.source, control, ticket));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert("x-amz-request-id", HeaderValue::from_static("s3sim"));
    headers.insert("server", HeaderValue::from_static("s3sim"));
    for (name, value) in answer.headers {
        let name = HeaderName::try_from(name);
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    response
}
