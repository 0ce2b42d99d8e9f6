//! What a peer says to a read, frame by frame, under limits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use feedline_http1::Body;
use feedline_model::Clock;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use crate::fault::{Fault, Reason};
use crate::lanes::Lane;
use crate::pace::{Said, Signs};
use crate::parts::within;
use crate::wire::{FrameKind, Frames, REASON_BYTES_MAX};

/// The body of an answer, by the way it came.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    Http2(Incoming),
    Lane(Body<Lane>),
}

impl AnswerBody {
    /// The next piece, of which `missing` bytes belong together; `None` at the end.
    async fn piece(&mut self, missing: usize) -> Option<Result<Bytes, Fault>> {
        let frame = match self {
            Self::Http2(body) => body.frame().await?.map_err(|error| Fault::unreachable(&error)),
            Self::Lane(body) => {
                // What a frame carries is read into a buffer of its own, where it begins.
                body.limit_piece(missing);
                body.frame().await?.map_err(|error| Fault::broken(&error))
            }
        };
        Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
    }
}

/// An answer under way. Dropping it ends the request.
#[derive(Debug)]
pub(crate) struct Answer {
    body: AnswerBody,
    frames: Frames,
    /// Of each item; `None` once it has come.
    lengths: Vec<Option<u64>>,
    clock: Arc<dyn Clock>,
    started: Duration,
    patience: Duration,
    /// When the whole answer must be here.
    deadline: Duration,
    has_waited: bool,
    _permit: OwnedSemaphorePermit,
}

/// One item of an answer.
pub(crate) type Given = (usize, Result<Bytes, Fault>);

impl Answer {
    pub(crate) fn new(
        body: AnswerBody,
        lengths: Vec<u64>,
        clock: Arc<dyn Clock>,
        started: Duration,
        (patience, answer_max): (Duration, Duration),
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            body,
            frames: Frames::default(),
            lengths: lengths.into_iter().map(Some).collect(),
            clock,
            started,
            patience,
            deadline: started + answer_max,
            has_waited: false,
            _permit: permit,
        }
    }

    /// True if the peer had to ask for patience.
    pub(crate) fn has_waited(&self) -> bool {
        self.has_waited
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// How long it has been going on.
    pub(crate) fn took(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.started)
    }

    /// The next item, in whatever order they come; `None`: all have come, and the answer ended well. What is said
    /// meanwhile goes to `signs`.
    ///
    /// # Errors
    ///
    /// The answer as a whole is no good; what has not come does not come.
    pub(crate) async fn next(&mut self, signs: &Signs) -> Result<Option<Given>, Fault> {
        loop {
            let lengths = &self.lengths;
            let frame = self.frames.next(|kind, index, length| {
                let wanted = lengths.get(index as usize).copied().flatten();
                match kind {
                    FrameKind::Bytes => wanted == Some(length as u64),
                    FrameKind::Fault => wanted.is_some() && length <= REASON_BYTES_MAX,
                    FrameKind::Waiting => length == 1,
                    FrameKind::Said => false,
                }
            })?;
            let Some(frame) = frame else {
                if self.more().await? {
                    continue;
                }
                return Ok(None);
            };
            let at = frame.index as usize;
            match frame.kind {
                FrameKind::Bytes => {
                    self.lengths[at] = None;
                    return Ok(Some((at, Ok(frame.payload))));
                }
                FrameKind::Fault => {
                    self.lengths[at] = None;
                    return Ok(Some((at, Err(Fault::of_frame(&frame.payload)?))));
                }
                FrameKind::Said => {}
                FrameKind::Waiting => {
                    self.has_waited = true;
                    let is_here = frame.payload[0] == 1;
                    signs.heard(Said { is_here, at: self.clock.monotonic() });
                    if is_here {
                        // It has the object: only its disk keeps it, and the bucket is as good.
                        self.deadline = self.deadline.min(self.started + self.patience);
                    }
                }
            }
        }
    }

    /// Takes the next piece; false: the answer has ended, and well.
    async fn more(&mut self) -> Result<bool, Fault> {
        let left = self.deadline.saturating_sub(self.clock.monotonic());
        if left.is_zero() {
            return Err(Fault::new(Reason::Silent, format!("no end after {:?}", self.took())));
        }
        let (clock, missing) = (Arc::clone(&self.clock), self.frames.missing());
        match within(&*clock, left.min(self.patience), self.body.piece(missing)).await {
            None => Err(Fault::new(Reason::Silent, format!("nothing after {:?}", self.took()))),
            Some(Some(Err(fault))) => Err(fault),
            Some(Some(Ok(piece))) => {
                self.frames.push(piece);
                Ok(true)
            }
            Some(None)
                if self.frames.is_at_a_boundary() && self.lengths.iter().all(Option::is_none) =>
            {
                Ok(false)
            }
            Some(None) => Err(Fault::new(Reason::Wrong, "its answer was too short")),
        }
    }
}
