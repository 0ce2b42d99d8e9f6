//! Loads: a node with a load job has each file brought in by the node that owns it, and hears of each.
//!
//! Only words cross the wire, no bytes of objects. The node that was told does nothing that it would not do
//! for a load of its own, and remembers nothing: whoever has the job asks again, here or elsewhere, after
//! any trouble. Files for one peer are collected into batches; a batch is answered file by file as they are
//! done, with signs of life in between.
//!
//! # Invariants
//!
//! - A file is told to one node at a time, in placement's order, so the bucket is asked for it once.
//! - When nobody waits for a batch any more, its request is dropped, and the other end stops.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::clock::Sleep;
use feedline_model::{Clock, Object, ObjectId};
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::cluster::Cluster;
use crate::fault::{Fault, Reason};
use crate::parts::{BodyError, PortBody, within};
use crate::peer::Peer;
use crate::placement::{NodeId, candidates};
use crate::serve::{Serve, WAITING_EVERY};
use crate::wire::{
    self, FrameKind, Frames, ITEM_BYTES_MAX, ITEMS_MAX, Item, ItemFault, LoadRequest, LoadSaid,
    REASON_BYTES_MAX,
};

/// Files in one request at most: few enough that the first are not kept waiting by the last.
const BATCH: usize = 64;

/// Requests to one peer at once. While all are under way, files gather for the next one.
const BATCHES_AT_ONCE: usize = 8;

/// Files that wait for a request at most.
const QUEUE: usize = 256;

/// Brings files into this node's cache when a peer says so.
#[async_trait]
pub trait Loads: fmt::Debug + Send + Sync {
    /// Brings one in and says what became of it. Dropping it gives up.
    async fn load(&self, object: &Object) -> LoadSaid;
}

/// Where a file is to be brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadPlace {
    /// On this node.
    Here,
    /// On that one, and how people call it.
    Peer(NodeId, Arc<str>),
}

/// A file that waits for its answer.
struct Wanted {
    object: Object,
    reply: oneshot::Sender<Result<LoadSaid, Fault>>,
}

/// The way to each peer.
#[derive(Debug, Default)]
pub(crate) struct LoadQueues {
    /// Not by node: one that moves is another peer.
    by_address: Mutex<BTreeMap<Arc<str>, Queue>>,
}

/// What waits for one peer.
#[derive(Debug)]
struct Queue {
    /// Whom the batches are sent to. Who left and came back at the same address is another one.
    peer: Arc<Peer>,
    to: mpsc::Sender<Wanted>,
}

impl Queue {
    fn leads_to(&self, peer: &Arc<Peer>) -> bool {
        Arc::ptr_eq(&self.peer, peer) && !self.to.is_closed()
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wanted({})", self.object.key)
    }
}

impl Cluster {
    /// All nodes in the order in which they are to have an object; `up` says which are asked now.
    #[must_use]
    pub fn load_places(&self, id: &ObjectId) -> Vec<(LoadPlace, bool)> {
        let Some(joined) = self.link().joined() else { return vec![(LoadPlace::Here, true)] };
        let epoch = joined.membership.current();
        let order = candidates(id, epoch.weights());
        let place = |node: &NodeId| {
            if *node == joined.me {
                return Some((LoadPlace::Here, true));
            }
            let address = Arc::clone(&epoch.member(*node)?.address);
            Some((LoadPlace::Peer(*node, address), joined.is_there(&epoch, *node)))
        };
        order.iter().filter_map(place).collect()
    }

    /// Has a peer bring in one file, together with what else it is told.
    ///
    /// # Errors
    ///
    /// When it cannot be asked or does not answer; the next place is as good.
    pub async fn load_at(&self, node: NodeId, object: &Object) -> Result<LoadSaid, Fault> {
        let gone = || Fault::new(Reason::Down, "it is no member any more");
        let queue = self.load_queue(node).ok_or_else(gone)?;
        let (reply, said) = oneshot::channel();
        queue.send(Wanted { object: object.clone(), reply }).await.map_err(|_| gone())?;
        said.await.unwrap_or_else(|_| Err(gone()))
    }

    fn load_queue(&self, node: NodeId) -> Option<mpsc::Sender<Wanted>> {
        let joined = self.link().joined()?;
        let epoch = joined.membership.current();
        let peer = joined.peer(&epoch, node)?;
        let mut queues = self.load_queues().by_address.lock();
        if let Some(queue) = queues.get(&peer.address)
            && queue.leads_to(&peer)
        {
            return Some(queue.to.clone());
        }
        // Those of peers that were given up end here, so that there are never more than peers and one.
        let is_known = |queue: &Queue| {
            joined.peers.of(&queue.peer.address).is_some_and(|peer| queue.leads_to(&peer))
        };
        queues.retain(|_, queue| is_known(queue));
        let (to, wanted) = mpsc::channel(QUEUE);
        peer.runtime().spawn(send_batches(Arc::clone(&peer), wanted));
        queues.insert(Arc::clone(&peer.address), Queue { peer, to: to.clone() });
        Some(to)
    }
}

/// Sends what is wanted of one peer; ends with its queue.
async fn send_batches(peer: Arc<Peer>, mut wanted: mpsc::Receiver<Wanted>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        tokio::select! {
            // Not by chance: a seed gives one order.
            biased;
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            count = wanted.recv_many(&mut batch, BATCH), if under_way.len() < BATCHES_AT_ONCE => {
                if count == 0 {
                    return;
                }
                under_way.push(send_batch(&peer, batch));
            }
        }
    }
}

/// Sends one batch and hands each answer to who waits for it.
async fn send_batch(peer: &Peer, batch: Vec<Wanted>) {
    let item = |wanted: &Wanted| {
        let object = &wanted.object;
        // The range stands for the whole object.
        Item::new(object, &object.id(), &(0..object.version.size.min(ITEM_BYTES_MAX)))
    };
    let request = LoadRequest { items: batch.iter().map(item).collect() };
    let mut replies: Vec<_> = batch.into_iter().map(|wanted| Some(wanted.reply)).collect();
    if let Err(fault) = ask(peer, &request, &mut replies).await {
        // A node that knows no loads is good for everything else.
        if fault.reason != Reason::NotCached {
            peer.note(&fault);
        }
        tracing::debug!(peer = %peer.address, "a load goes on elsewhere: {fault}");
        for reply in replies.into_iter().flatten() {
            // Nobody waits any more: then nobody misses it.
            let _ = reply.send(Err(fault.clone()));
        }
    }
}

type Reply = Option<oneshot::Sender<Result<LoadSaid, Fault>>>;

async fn ask(peer: &Peer, request: &LoadRequest, replies: &mut [Reply]) -> Result<(), Fault> {
    let mut answer = peer.ask_load(request).await?;
    loop {
        let is_awaited = |reply: &Reply| reply.as_ref().is_some_and(|reply| !reply.is_closed());
        if !replies.iter().any(is_awaited) {
            return Ok(());
        }
        let expected = |index: u32| replies.get(index as usize).is_some_and(Option::is_some);
        let Some((at, said)) = answer.next(expected).await? else { continue };
        if let Some(reply) = replies[at].take() {
            let _ = reply.send(said);
        }
    }
}

/// What a peer says to a batch, word by word.
pub(crate) struct LoadAnswer {
    pub(crate) body: Incoming,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) patience: std::time::Duration,
    pub(crate) frames: Frames,
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl LoadAnswer {
    /// The next word, and about which file; `None`: only a sign of life. However long it takes, as long
    /// as there are such signs.
    async fn next(
        &mut self,
        expected: impl Fn(u32) -> bool,
    ) -> Result<Option<(usize, Result<LoadSaid, Fault>)>, Fault> {
        loop {
            let frame = self.frames.next(|kind, index, length| match kind {
                FrameKind::Said | FrameKind::Fault => expected(index) && length <= REASON_BYTES_MAX,
                FrameKind::Waiting => length == 1,
                FrameKind::Bytes => false,
            })?;
            let wrong = |error: serde_json::Error| Fault::new(Reason::Wrong, error.to_string());
            let Some(frame) = frame else {
                self.more().await?;
                continue;
            };
            let at = frame.index as usize;
            match frame.kind {
                FrameKind::Said => {
                    let said = serde_json::from_slice(&frame.payload).map_err(wrong)?;
                    return Ok(Some((at, Ok(said))));
                }
                FrameKind::Fault => {
                    return Ok(Some((at, Err(Fault::of_frame(&frame.payload)?))));
                }
                FrameKind::Waiting | FrameKind::Bytes => return Ok(None),
            }
        }
    }

    async fn more(&mut self) -> Result<(), Fault> {
        match within(&*self.clock, self.patience, self.body.frame()).await {
            None => Err(Fault::new(Reason::Silent, "no sign of life during a load")),
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

type Said = (u32, Result<LoadSaid, ItemFault>);

/// The answer to a batch, as frames that come as files are done.
pub(crate) fn answer(
    serve: &Arc<Serve>,
    loads: Arc<dyn Loads>,
    request: LoadRequest,
) -> Result<PortBody, String> {
    wire::check_count(&request.items)?;
    let items = (0_u32..).zip(request.items);
    let mounted = Arc::clone(serve);
    let said = futures::stream::iter(items).map(move |(index, item)| {
        let (serve, loads) = (Arc::clone(&mounted), Arc::clone(&loads));
        async move { (index, load_item(&serve, &*loads, item).await) }
    });
    let sending = Sending {
        said: Box::pin(said.buffer_unordered(ITEMS_MAX)),
        beat: serve.clock.sleep(WAITING_EVERY),
        pieces: VecDeque::new(),
        clock: Arc::clone(&serve.clock),
    };
    let frames = futures::stream::unfold(sending, |mut sending| async move {
        let piece = sending.next().await?;
        Some((Ok::<_, BodyError>(Frame::data(piece)), sending))
    });
    Ok(StreamBody::new(frames).boxed_unsync())
}

async fn load_item(serve: &Serve, loads: &dyn Loads, item: Item) -> Result<LoadSaid, ItemFault> {
    let (object, ..) = serve.mounted_item(item)?;
    let mut said = loads.load(&object).await;
    wire::cut(&mut said.message);
    Ok(said)
}

/// An answer being sent.
struct Sending {
    said: Pin<Box<dyn Stream<Item = Said> + Send>>,
    beat: Sleep,
    pieces: VecDeque<Bytes>,
    clock: Arc<dyn Clock>,
}

impl Sending {
    /// The next piece of the answer; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.pieces.pop_front() {
            return Some(piece);
        }
        let (kind, index, payload) = tokio::select! {
            biased;
            said = self.said.next() => {
                let (index, said) = said?;
                match said {
                    Ok(said) => (FrameKind::Said, index, wire::text_of(&said)),
                    Err(fault) => (FrameKind::Fault, index, wire::text_of(&fault)),
                }
            }
            () = &mut self.beat => {
                self.beat = self.clock.sleep(WAITING_EVERY);
                (FrameKind::Waiting, 0, Bytes::from_static(&[0]))
            }
        };
        let head = wire::head(kind, index, &payload);
        self.pieces.push_back(payload);
        Some(head)
    }
}
