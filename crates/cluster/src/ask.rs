//! Questions between nodes that are no reads: how a node does, what it holds, what it shall drop or keep.
//!
//! This crate carries them and knows none: a question is a JSON value, and so is its answer. Whoever answers
//! may take its time, as long as the node can say that it is alive.
//!
//! # Invariants
//!
//! - An answer has a maximum in bytes, and a question one in time.
//! - A node works on so many questions at once and keeps no more: the next is refused before it is read.
//! - A node that does not know a question is as good as any for everything else.
//! - When nobody waits for an answer any more, its request is dropped, and the other end stops.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::Clock;
use feedline_model::clock::Sleep;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cluster::Cluster;
use crate::fault::{Fault, Reason};
use crate::parts::{BodyError, PortBody, within};
use crate::serve::{Serve, WAITING_EVERY};
use crate::wire::{self, FaultKind, FrameKind, Frames, ItemFault, REASON_BYTES_MAX};

/// An answer as JSON at most: a few thousand objects, of each a place and a size.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Questions that a node is working on at most, those that wait for room included. Each is kept as it came, of
/// up to 2 MiB: 128 MiB at the worst. A command asks each node one thing at a time.
const QUESTIONS_MAX: usize = 64;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A node, as token or certificate prove; or somebody on this machine, which alone reaches the port.
    Trusted,
    /// Anybody who reaches the port, from wherever.
    Anybody,
}

/// Answers what peers ask.
#[async_trait]
pub trait Questions: fmt::Debug + Send + Sync {
    /// The answer as JSON, [`ANSWER_BYTES_MAX`] at most. Which questions are for anybody is for this to say.
    /// Dropping it gives up.
    async fn answer(&self, asker: Asker, question: serde_json::Value) -> Vec<u8>;
}

/// Who answers here, and whom.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Set when it is there.
    pub(crate) questions: OnceLock<Arc<dyn Questions>>,
    /// For what is under way.
    pub(crate) room: Arc<Semaphore>,
    /// True if the port can be reached from this machine alone.
    pub(crate) is_local: bool,
}

impl Desk {
    pub(crate) fn new(is_local: bool) -> Self {
        let room = Arc::new(Semaphore::new(QUESTIONS_MAX));
        Self { questions: OnceLock::new(), room, is_local }
    }
}

impl Cluster {
    /// Asks the peer at an address, and waits for `limit` at most; less if it gives no sign of life. One
    /// that is passed by is not asked.
    ///
    /// # Errors
    ///
    /// Why there is no answer, in words for people.
    pub async fn ask<A: DeserializeOwned>(
        &self,
        address: &str,
        question: &impl Serialize,
        limit: Duration,
    ) -> Result<A, Fault> {
        let joined = self.link().joined();
        let peer = joined.and_then(|joined| joined.peers.of(address));
        let peer = peer.ok_or_else(|| Fault::new(Reason::Down, "it is no member any more"))?;
        if peer.health.is_gone() {
            let trouble = peer.health.condition().trouble;
            let trouble = trouble.unwrap_or_else(|| "it does not answer".into());
            return Err(Fault::new(Reason::Down, trouble));
        }
        let asking = async { peer.ask_question(question).await?.whole().await };
        let asked = within(self.clock(), limit, asking).await;
        let slow = || Fault::new(Reason::Full, format!("no answer within {limit:?}"));
        match asked.unwrap_or_else(|| Err(slow())) {
            Ok(answer) => serde_json::from_slice(&answer).map_err(|error| {
                Fault::new(Reason::Wrong, format!("its answer makes no sense: {error}"))
            }),
            Err(fault) => {
                if fault.reason.hold().is_some() {
                    peer.note(&fault);
                }
                Err(fault)
            }
        }
    }
}

/// An answer that is being received.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) body: Incoming,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) patience: Duration,
    pub(crate) frames: Frames,
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Reply {
    async fn whole(mut self) -> Result<Bytes, Fault> {
        loop {
            let frame = self.frames.next(|kind, index, length| match kind {
                FrameKind::Said => index == 0 && length <= ANSWER_BYTES_MAX,
                FrameKind::Fault => index == 0 && length <= REASON_BYTES_MAX,
                FrameKind::Waiting => length == 1,
                FrameKind::Bytes => false,
            })?;
            match frame {
                None => self.more().await?,
                Some(frame) if frame.kind == FrameKind::Said => return Ok(frame.payload),
                Some(frame) if frame.kind == FrameKind::Fault => {
                    return Err(Fault::of_frame(&frame.payload)?);
                }
                Some(_) => {}
            }
        }
    }

    async fn more(&mut self) -> Result<(), Fault> {
        match within(&*self.clock, self.patience, self.body.frame()).await {
            None => Err(Fault::new(Reason::Silent, "no sign of life during a question")),
            Some(Some(Err(error))) => Err(Fault::unreachable(&error)),
            Some(Some(Ok(frame))) => {
                if let Ok(piece) = frame.into_data() {
                    self.frames.push(piece);
                }
                Ok(())
            }
            Some(None) => Err(Fault::new(Reason::Wrong, "its answer was too short")),
        }
    }
}

/// The answer where there is no room for the question.
pub(crate) fn full(serve: &Serve) -> PortBody {
    let message = format!("{QUESTIONS_MAX} questions are being answered: try again later");
    let (kind, payload) = fault_full(message);
    let pieces = VecDeque::from([wire::head(kind, 0, &payload), payload]);
    frames(serve, None, pieces, None)
}

/// The answer to a question, as frames: signs of life, then the answer. It keeps `room` until all is sent.
pub(crate) fn answer(
    serve: &Serve,
    questions: Arc<dyn Questions>,
    (asker, question): (Asker, serde_json::Value),
    room: OwnedSemaphorePermit,
) -> PortBody {
    let answer = async move { questions.answer(asker, question).await };
    frames(serve, Some(Box::pin(answer)), VecDeque::new(), Some(room))
}

fn frames(
    serve: &Serve,
    answer: Option<BoxFuture<'static, Vec<u8>>>,
    pieces: VecDeque<Bytes>,
    room: Option<OwnedSemaphorePermit>,
) -> PortBody {
    let (beat, clock) = (serve.clock.sleep(WAITING_EVERY), Arc::clone(&serve.clock));
    let sending = Sending { answer, beat, pieces, clock, _room: room };
    let frames = futures::stream::unfold(sending, |mut sending| async move {
        let piece = sending.next().await?;
        Some((Ok::<_, BodyError>(Frame::data(piece)), sending))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// An answer being sent.
struct Sending {
    answer: Option<BoxFuture<'static, Vec<u8>>>,
    beat: Sleep,
    pieces: VecDeque<Bytes>,
    clock: Arc<dyn Clock>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Sending {
    /// The next piece; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.pieces.pop_front() {
            return Some(piece);
        }
        let answer = self.answer.as_mut()?;
        let (kind, payload) = tokio::select! {
            biased;
            said = answer => {
                self.answer = None;
                framed(said)
            }
            () = &mut self.beat => {
                self.beat = self.clock.sleep(WAITING_EVERY);
                (FrameKind::Waiting, Bytes::from_static(&[0]))
            }
        };
        let head = wire::head(kind, 0, &payload);
        self.pieces.push_back(payload);
        Some(head)
    }
}

fn framed(said: Vec<u8>) -> (FrameKind, Bytes) {
    if said.len() <= ANSWER_BYTES_MAX {
        return (FrameKind::Said, said.into());
    }
    fault_full(format!("an answer of {} bytes: at most {ANSWER_BYTES_MAX}", said.len()))
}

fn fault_full(message: String) -> (FrameKind, Bytes) {
    (FrameKind::Fault, wire::text_of(&ItemFault { kind: FaultKind::Full, message }))
}
