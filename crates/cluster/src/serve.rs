//! Answering a peer's read through this node's own cache.
//!
//! # Invariants
//!
//! - Bytes on their way to peers have one budget, held from before they are read until the connection
//!   has taken them.
//! - While a peer is answered, a miss here goes to the bucket: see `marks`.
//! - Only what this node mounts is served, however much more its credentials allow.
//! - As long as an answer takes, the peer hears that we are alive; and at once, if what it waits for is the bucket.
//! - What has rotted on the disk here does not go out: the cache compares what it gives away, and the checksum that
//!   it compared is the one that is sent.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use feedline_model::clock::Sleep;
use feedline_model::{
    CheckedSource, Clock, Object, ObjectId, ObjectIndex, Priority, SourceId, Summed,
};
use futures::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ask::Desk;
use crate::handover::Handover;
use crate::load::Loads;
use crate::marks::Marks;
use crate::parts::{BodyError, Guest, PortBody, within};
use crate::wire::{self, FaultKind, FrameKind, ITEM_BYTES_MAX, Item, ItemFault, ReadRequest};

/// How often a peer that waits hears of us: several times within anybody's patience.
pub(crate) const WAITING_EVERY: Duration = Duration::from_millis(300);

/// How long a read waits for its part of the budget before the peer is told to go elsewhere.
const ROOM_WITHIN: Duration = Duration::from_secs(1);

/// Items of one request read at once.
const ITEMS_AT_ONCE: usize = 16;

/// Bytes handed to the connection at once: what it may hold beyond the flow control of a slow peer.
const PIECE_BYTES: usize = 256 << 10;

/// The unit of the budget: a semaphore counts to 2^29 on some machines.
const UNIT_BYTES: u64 = 1 << 10;

/// What was served.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) objects: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// What peers are served from, and who serves all others.
#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) blocks: Arc<dyn CheckedSource>,
    pub(crate) index: Arc<dyn ObjectIndex>,
    pub(crate) mounted: Vec<(SourceId, String)>,
    pub(crate) marks: Arc<Marks>,
    pub(crate) handover: Arc<Handover>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) served: Served,
    pub(crate) guest: Option<Guest>,
    /// Who brings in what peers say; set when it is there.
    pub(crate) loads: OnceLock<Arc<dyn Loads>>,
    /// Who answers everything else that peers ask.
    pub(crate) desk: Desk,
}

/// An item that has been read; its part of the budget is free when this is dropped.
struct Ready {
    index: u32,
    read: Summed,
    room: OwnedSemaphorePermit,
}

type Outcome = Result<Ready, (u32, ItemFault)>;

impl Serve {
    /// The budget of so many bytes, at least that of one item.
    pub(crate) fn room(bytes_max: u64) -> Arc<Semaphore> {
        let units = bytes_max.max(ITEM_BYTES_MAX) / UNIT_BYTES;
        let units = usize::try_from(units).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)))
    }

    /// The answer to a read, as frames that come as they are ready.
    pub(crate) async fn read(self: Arc<Self>, request: ReadRequest) -> Result<PortBody, String> {
        wire::check_count(&request.items)?;
        let priority = wire::priority(request.demand);
        let items: Vec<_> = request.items.into_iter().map(|item| self.mounted_item(item)).collect();
        let only_item = match &items[..] {
            // Of several, one may have to be fetched.
            [Ok((_, id, range))] => Some((*id, range.clone())),
            _ => None,
        };
        let serve = Arc::clone(&self);
        let read = move |(index, item)| {
            let serve = Arc::clone(&serve);
            async move {
                let read = serve.item(index, item, request.only_cached, priority).await;
                read.map_err(|fault| (index, fault))
            }
        };
        let is_one = items.len() == 1;
        let mut items = (0_u32..).zip(items);
        let mut sending = Sending {
            outcomes: Box::pin(futures::stream::empty()),
            beat: None,
            only_item,
            pieces: VecDeque::new(),
            room: None,
            serve: self,
        };
        if is_one && let Some(only) = items.next() {
            let mut read = Box::pin(read(only));
            // What is in memory is answered as a whole, whose length is known.
            if let Poll::Ready(outcome) = futures::poll!(&mut read) {
                sending.take(outcome);
                return Ok(sending.whole().boxed_unsync());
            }
            sending.outcomes = Box::pin(futures::stream::once(read));
        } else {
            let outcomes = futures::stream::iter(items).map(read);
            sending.outcomes = Box::pin(outcomes.buffer_unordered(ITEMS_AT_ONCE));
        }
        sending.begin();
        let frames = futures::stream::unfold(sending, |mut sending| async move {
            let piece = sending.next().await?;
            Some((Ok::<_, BodyError>(Frame::data(piece)), sending))
        });
        Ok(StreamBody::new(frames).boxed_unsync())
    }

    /// True if only the disk is to be waited for.
    fn is_here(&self, id: &ObjectId, range: &Range<u64>) -> bool {
        self.index.contains(id) || self.index.has(id, range)
    }

    /// What an item asks for, if it makes sense and is in what this node mounts.
    pub(crate) fn mounted_item(
        &self,
        item: Item,
    ) -> Result<(Object, ObjectId, Range<u64>), ItemFault> {
        let refused = |message| ItemFault { kind: FaultKind::Refused, message };
        let (object, id, range) = item.read().map_err(refused)?;
        let is_in = |(source, prefix): &(SourceId, String)| {
            *source == object.source && object.key.starts_with(prefix.as_str())
        };
        if !self.mounted.iter().any(is_in) {
            let message = format!("{}: is not in what is mounted here", object.key);
            return Err(ItemFault { kind: FaultKind::NotMounted, message });
        }
        Ok((object, id, range))
    }

    async fn item(
        &self,
        index: u32,
        item: Result<(Object, ObjectId, Range<u64>), ItemFault>,
        only_cached: bool,
        priority: Priority,
    ) -> Result<Ready, ItemFault> {
        let fault = |kind, message: String| ItemFault { kind, message };
        let (object, id, range) = item?;
        if only_cached && !self.index.has(&id, &range) {
            return Err(fault(FaultKind::NotCached, "not here".into()));
        }
        let units = (range.end - range.start).div_ceil(UNIT_BYTES);
        let units = u32::try_from(units).expect("an item is at most a page");
        let room = Arc::clone(&self.room).acquire_many_owned(units);
        let Some(Ok(room)) = within(&*self.clock, ROOM_WITHIN, room).await else {
            return Err(fault(FaultKind::Full, "as much is being served as may be".into()));
        };
        let Some(_mark) = self.marks.serve(id) else {
            return Err(fault(FaultKind::Busy, "asked of another node by this one".into()));
        };
        let read = if only_cached {
            // It is another node's from now on, so this is no use of it.
            let read = self.blocks.read_here(&object, range).await;
            read.ok_or_else(|| fault(FaultKind::NotCached, "not here any more".into()))?
        } else {
            let read = self.blocks.read_checked(&object, range, priority).await;
            read.map_err(|error| fault(FaultKind::Bucket, error.to_string()))?
        };
        Ok(Ready { index, read, room })
    }
}

/// An answer being sent.
struct Sending {
    outcomes: Pin<Box<dyn Stream<Item = Outcome> + Send>>,
    /// When the peer hears of us next.
    beat: Option<Sleep>,
    /// What it is about, if that is one object.
    only_item: Option<(ObjectId, Range<u64>)>,
    /// Of the item that came last.
    pieces: VecDeque<Bytes>,
    /// Its part of the budget.
    room: Option<OwnedSemaphorePermit>,
    serve: Arc<Serve>,
}

impl Sending {
    /// Something is to be waited for.
    fn begin(&mut self) {
        let is_fetched =
            self.only_item.as_ref().is_some_and(|(id, range)| !self.serve.is_here(id, range));
        let first = if is_fetched { Duration::ZERO } else { WAITING_EVERY };
        self.beat = Some(self.serve.clock.sleep(first));
    }

    /// All that is to be sent.
    fn whole(self) -> Whole {
        let left = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        Whole { pieces: self.pieces, left, _room: self.room }
    }

    /// The next piece of the answer; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.pieces.pop_front() {
            return Some(piece);
        }
        self.room = None;
        let beat = self.beat.get_or_insert_with(|| self.serve.clock.sleep(WAITING_EVERY));
        tokio::select! {
            biased;
            outcome = self.outcomes.next() => {
                self.take(outcome?);
                self.pieces.pop_front()
            }
            () = beat => {
                self.beat = Some(self.serve.clock.sleep(WAITING_EVERY));
                // Asked each time: what turns out to have rotted is fetched.
                let item = self.only_item.as_ref();
                let is_here = item.is_some_and(|(id, range)| self.serve.is_here(id, range));
                let payload: &[u8] = if is_here { &[1] } else { &[0] };
                self.pieces.push_back(Bytes::from_static(payload));
                Some(wire::head(FrameKind::Waiting, 0, payload))
            }
        }
    }

    fn take(&mut self, outcome: Outcome) {
        let served = &self.serve.served;
        match outcome {
            Ok(Ready { index, read: Summed { mut bytes, crc }, room }) => {
                served.objects.fetch_add(1, Ordering::Relaxed);
                served.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let head = wire::head_of(FrameKind::Bytes, index, bytes.len(), crc);
                self.pieces.push_back(head);
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
                    self.pieces.push_back(piece);
                }
                self.room = Some(room);
            }
            Err((index, mut fault)) => {
                served.refused.fetch_add(1, Ordering::Relaxed);
                wire::cut(&mut fault.message);
                let text = wire::text_of(&fault);
                self.pieces.push_back(wire::head(FrameKind::Fault, index, &text));
                self.pieces.push_back(text);
            }
        }
    }
}

/// An answer that is all at hand.
struct Whole {
    pieces: VecDeque<Bytes>,
    /// Bytes of these.
    left: u64,
    /// Their part of the budget.
    _room: Option<OwnedSemaphorePermit>,
}

impl Body for Whole {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
