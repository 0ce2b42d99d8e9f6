//! The first words on a connection, whichever HTTP it speaks: who is there, in which versions, and that both ends
//! know the token.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use feedline_http1::Connection;
use feedline_model::Clock;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use hyper::client::conn::http2::SendRequest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fault::{Fault, Reason};
use crate::lanes::Lane;
use crate::parts::within;
use crate::peer::World;
use crate::token::End;
use crate::versions::Versions;
use crate::wire::{
    Challenge, HELLO_PATH, Hello, HelloAnswer, REASON_BYTES_MAX, Refusal, from_hex, hex,
};

/// How long a connection and its hello may take: a few round trips, and a lost packet's resend.
pub(crate) const HELLO_LIMIT: Duration = Duration::from_secs(3);

pub(crate) type Sender = SendRequest<Full<Bytes>>;

/// Who answered a hello, and the version that both ends use from then on.
pub(crate) type Met = (HelloAnswer, u32);

/// A connection on which the first words are said.
pub(crate) enum Fresh {
    Http2(Sender),
    /// `None`: it was closed.
    Http1(Option<Connection<Lane>>),
}

/// This end, as it introduces itself.
pub(crate) struct Introduction<'a> {
    pub(crate) world: &'a World,
    /// See [`Hello::passed_by`].
    pub(crate) passed_by: bool,
}

impl Introduction<'_> {
    /// The first words on a connection: each end shows that it knows the token, if there is one.
    pub(crate) async fn hello(&self, line: &mut Fresh) -> Result<Met, Fault> {
        let me = &self.world.me;
        let ours = self.world.entropy.nonce();
        let (status, body, wire) = self.post(line, &self.our_hello(hex(&ours), None)).await?;
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
                match self.post(line, &hello).await? {
                    (StatusCode::OK, body, wire) => Ok((decode(&body)?, wire)),
                    (status, body, _) => Err(refused(status, &body)),
                }
            }
            (status, _) => Err(refused(status, &body)),
        }
    }

    /// On a connection that has been let in.
    pub(crate) async fn hello_again(&self, line: &mut Fresh) -> Result<HelloAnswer, Fault> {
        match self.post(line, &self.our_hello(String::new(), None)).await? {
            (StatusCode::OK, body, _) => decode(&body),
            (status, body, _) => Err(refused(status, &body)),
        }
    }

    fn our_hello(&self, nonce: String, proof: Option<String>) -> Hello {
        let HelloAnswer { wire, version, node, instance, quota_bytes, .. } =
            self.world.me.hello.clone();
        let passed_by = self.passed_by;
        Hello { wire, version, node, instance, quota_bytes, nonce, proof, passed_by }
    }

    /// Sends a hello: what is answered, and the version that both ends speak.
    async fn post(
        &self,
        line: &mut Fresh,
        hello: &Hello,
    ) -> Result<(StatusCode, Bytes, u32), Fault> {
        let (ours, clock) = (self.world.me.wire, &*self.world.clock);
        let hello = encode(hello)?;
        match line {
            Fresh::Http2(sender) => {
                let sent = sender.send_request(request(HELLO_PATH, hello, ours)).await;
                let response = sent.map_err(|error| Fault::unreachable(&error))?;
                let wire = agreed(ours, response.headers())?;
                let (status, body) =
                    whole((response.status(), response.into_body()), clock, HELLO_LIMIT).await?;
                Ok((status, body, wire))
            }
            Fresh::Http1(slot) => {
                let ended = || Fault::new(Reason::Unreachable, "it closed the connection");
                let connection = slot.take().ok_or_else(ended)?;
                let sent = connection.ask(&request_text(HELLO_PATH, &hello, ours), None).await;
                let mut response = sent.map_err(|broken| Fault::unreachable(&broken.error))?;
                let wire = agreed(ours, response.headers())?;
                let answer = (response.status(), response.body_mut());
                let (status, body) = whole(answer, clock, HELLO_LIMIT).await?;
                *slot = response.into_body().into_connection();
                Ok((status, body, wire))
            }
        }
    }
}

/// The body of an answer, whichever HTTP brought it.
pub(crate) trait Answered:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
{
}

impl<B> Answered for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
{
}

/// The whole of a short answer.
pub(crate) async fn whole<B: Answered>(
    (status, body): (StatusCode, B),
    clock: &dyn Clock,
    limit: Duration,
) -> Result<(StatusCode, Bytes), Fault> {
    let body = Limited::new(body, REASON_BYTES_MAX).collect();
    match within(clock, limit, body).await {
        Some(Ok(body)) => Ok((status, body.to_bytes())),
        Some(Err(error)) => Err(Fault::new(Reason::Wrong, error.to_string())),
        None => Err(Fault::new(Reason::Silent, "its answer did not end")),
    }
}

/// A request over HTTP/1.1, head and body.
pub(crate) fn request_text(path: &str, body: &[u8], said: Versions) -> Vec<u8> {
    let mut headers = HeaderMap::new();
    said.write(&mut headers);
    let mut head = String::with_capacity(256 + body.len());
    let length = body.len();
    let _ = write!(head, "POST {path} HTTP/1.1\r\nhost: peer\r\ncontent-length: {length}\r\n");
    for (name, value) in &headers {
        let _ = write!(head, "{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    head.push_str("\r\n");
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    request
}

pub(crate) fn request(path: &'static str, body: Bytes, said: Versions) -> Request<Full<Bytes>> {
    // The authority is of no meaning between nodes: the connection is.
    let mut request = Request::post(format!("http://peer{path}"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .expect("fixed parts make a request");
    said.write(request.headers_mut());
    request
}

pub(crate) fn encode(value: &impl Serialize) -> Result<Bytes, Fault> {
    let text = serde_json::to_vec(value);
    text.map(Bytes::from).map_err(|error| Fault::new(Reason::Refused, error.to_string()))
}

pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::new(Reason::Wrong, error.to_string()))
}

pub(crate) fn refused(status: StatusCode, body: &[u8]) -> Fault {
    let message = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) => format!("status {status}"),
    };
    Fault::new(Reason::Refused, message)
}

/// The version that both ends speak; ours may be the one that was agreed on.
pub(crate) fn agreed(ours: Versions, headers: &HeaderMap) -> Result<u32, Fault> {
    let said = Versions::read(headers);
    said.and_then(|said| ours.common(said)).ok_or_else(|| {
        let said = said.map_or_else(|| "no version".into(), |said| said.to_string());
        let message = format!("it speaks {said} between nodes, we speak {ours}: update one");
        Fault::new(Reason::Version, message)
    })
}
