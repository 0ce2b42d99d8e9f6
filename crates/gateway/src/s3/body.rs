//! The bytes of one version, streamed in pieces that are read a little ahead of the connection.
//!
//! # Invariants
//!
//! - A piece has its part of the budget from before it is read until the connection asks for the piece
//!   after it.
//! - A body that cannot be had to the end ends with an error, never early and never with other bytes:
//!   the connection is cut, and the client sees fewer bytes than were announced.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use feedline_model::page::PAGE_BYTES;
use feedline_model::{BlockSource, Clock, Object, Priority, ReadError};
use futures::StreamExt as _;
use s3s::dto::StreamingBlob;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Counters;

/// The unit of the budget: a semaphore counts to 2^29 on some machines.
const UNIT_BYTES: u64 = 1 << 10;

/// Pages read at once, one of them being sent: hides the latency of a bucket at the rate of one
/// connection, and is what a client that goes away costs in vain.
const PAGES_AT_ONCE: usize = 3;

/// How long a request waits for its part of the budget before the client is told to come back. S3
/// clients retry for longer than that.
const ROOM_WITHIN: Duration = Duration::from_secs(5);

/// The budget of bytes on their way to clients.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

/// Bytes, and their part of the budget.
struct Piece {
    bytes: Bytes,
    room: OwnedSemaphorePermit,
}

/// Why a body could not begin.
#[derive(Debug)]
pub(super) enum NotBegun {
    /// The budget is taken.
    Full,
    /// The bytes cannot be had.
    Read(ReadError),
}

/// Why a body ended too soon. The log says more.
#[derive(Debug, thiserror::Error)]
#[error("the object could not be read to its end")]
struct Cut;

impl Room {
    /// So many bytes, at least a page.
    pub(super) fn new(bytes_max: u64) -> Self {
        let units = usize::try_from(bytes_max.max(PAGE_BYTES) / UNIT_BYTES);
        Self(Arc::new(Semaphore::new(
            units.map_or(Semaphore::MAX_PERMITS, |units| units.min(Semaphore::MAX_PERMITS)),
        )))
    }

    async fn take(&self, bytes: u64) -> OwnedSemaphorePermit {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).expect("a piece is at most a page");
        let permit = Arc::clone(&self.0).acquire_many_owned(units).await;
        permit.expect("the semaphore is never closed")
    }
}

/// The parts of `range`, cut where pages end.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        let piece = start..((start / PAGE_BYTES + 1) * PAGE_BYTES).min(range.end);
        start = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// What a body is read from.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) blocks: Arc<dyn BlockSource>,
    pub(super) room: Room,
    pub(super) tasks: Handle,
    pub(super) counters: Arc<Counters>,
}

impl Reading {
    /// Reads the first piece, so that what is wrong can be said in the head of the answer, and gives
    /// the rest as it is asked for.
    pub(super) async fn begin(
        &self,
        clock: &dyn Clock,
        object: &Object,
        range: Range<u64>,
    ) -> Result<StreamingBlob, NotBegun> {
        let mut pieces = pieces(range.clone());
        let first = match pieces.next() {
            None => None,
            Some(piece) => {
                let room = tokio::select! {
                    room = self.room.take(piece.end - piece.start) => room,
                    () = clock.sleep(ROOM_WITHIN) => return Err(NotBegun::Full),
                };
                let read = self.blocks.read(object, piece, Priority::Demand).await;
                Some(Piece { bytes: read.map_err(NotBegun::Read)?, room })
            }
        };
        let pieces: Vec<_> = pieces.collect();
        let rest = (!pieces.is_empty()).then(|| self.read_on(object.clone(), pieces));
        let counters = Arc::clone(&self.counters);
        let left = range.end - range.start;
        let mut body = Body { first, rest, held: None, left, counters };
        Ok(StreamingBlob::wrap(futures::stream::poll_fn(move |context| body.poll(context))))
    }

    /// Reads the other pieces in a task of their own, as long as somebody wants them.
    fn read_on(&self, object: Object, pieces: Vec<Range<u64>>) -> mpsc::Receiver<Piece> {
        let (out, rest) = mpsc::channel(1);
        let (blocks, room) = (Arc::clone(&self.blocks), self.room.clone());
        self.tasks.spawn(async move {
            let read = |piece: Range<u64>| {
                let (blocks, room, object) = (&blocks, &room, &object);
                async move {
                    let room = room.take(piece.end - piece.start).await;
                    let bytes = blocks.read(object, piece, Priority::Demand).await?;
                    Ok::<_, ReadError>(Piece { bytes, room })
                }
            };
            let mut read = futures::stream::iter(pieces).map(read).buffered(PAGES_AT_ONCE - 1);
            loop {
                let next = tokio::select! {
                    next = read.next() => next,
                    () = out.closed() => return,
                };
                match next {
                    Some(Ok(piece)) => {
                        if out.send(piece).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "an S3 client's connection is cut in mid-object");
                        return;
                    }
                    None => return,
                }
            }
        });
        rest
    }
}

/// A body under way.
struct Body {
    first: Option<Piece>,
    rest: Option<mpsc::Receiver<Piece>>,
    /// Of the piece that the connection has.
    held: Option<OwnedSemaphorePermit>,
    /// Bytes to come.
    left: u64,
    counters: Arc<Counters>,
}

impl Body {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        self.held = None;
        let piece = match (self.first.take(), &mut self.rest) {
            (Some(first), _) => Some(first),
            (None, Some(rest)) => std::task::ready!(rest.poll_recv(context)),
            (None, None) => None,
        };
        match piece {
            Some(Piece { bytes, room }) => {
                let len = bytes.len() as u64;
                self.left = self.left.saturating_sub(len);
                self.counters.bytes.fetch_add(len, Ordering::Relaxed);
                self.held = Some(room);
                Poll::Ready(Some(Ok(bytes)))
            }
            None if 0 < self.left => {
                self.left = 0;
                Poll::Ready(Some(Err(Cut)))
            }
            None => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_pages_do_and_leave_nothing_out() {
        let page = PAGE_BYTES;
        let cut = |range| pieces(range).map(|it| (it.start, it.end)).collect::<Vec<_>>();
        assert_eq!(cut(0..0), []);
        assert_eq!(cut(5..6), [(5, 6)]);
        assert_eq!(cut(0..page), [(0, page)]);
        let three = [(page - 1, page), (page, 2 * page), (2 * page, 2 * page + 1)];
        assert_eq!(cut(page - 1..2 * page + 1), three);
    }
}
