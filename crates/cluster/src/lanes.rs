//! The short way to a peer: HTTP/1.1, one read under way on each connection, which the task that reads awaits itself.
//!
//! Over HTTP/2 a read goes through the task of its connection, at either end, and is cut into frames that are counted:
//! for a file of 110 KB that is a good part of the CPU it costs (docs/decisions/012). What is said is the same.
//!
//! # Invariants
//!
//! - No read waits for a lane: what finds none that is idle goes over HTTP/2, and one more is opened behind it.
//! - Lanes of a peer and of this node have a maximum. Unused, they are closed.
//! - A lane decides nothing about a peer's health before it has carried a byte of an answer: what fails earlier is
//!   asked again over HTTP/2.
//!
//! # Deliberately absent
//!
//! - Fill, batches, loads, questions and greetings: nobody waits for them, and on two connections they are in nobody's way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use feedline_http1::{Body, Connection, Idle};
use http::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fault::{Fault, Reason};
use crate::greeters::now_ms;
use crate::hello::{Fresh, HELLO_LIMIT, Introduction, encode, request_text};
use crate::net::Stream;
use crate::pace::Signs;
use crate::parts::within;
use crate::peer::World;
use crate::versions::Versions;
use crate::wire::{READ_PATH, ReadRequest};

/// Lanes to one peer: the readers of a machine that ask the same peer at the same moment.
const LANES_MAX: usize = 16;

/// Lanes to all peers, which a node's descriptors must allow for: sixteen peers at full speed, or all readers of
/// a large machine that each ask another one.
const ROOM_MAX: usize = 256;

/// An unused lane is closed after this. The other end lets go of it after 10 s.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// After a lane could not be opened none is tried for so long: the other end may have no more seats.
const PAUSE: Duration = Duration::from_secs(10);

/// A stream that has been let in.
pub(crate) struct Lane {
    stream: Box<dyn Stream>,
    /// The version that both ends use.
    wire: u32,
    /// Of this peer's lanes, and of all of this node's.
    _room: [OwnedSemaphorePermit; 2],
}

impl AsyncRead for Lane {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Lane {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The head of an answer that came over a lane, and the version that it is to be of.
type Sent = (Response<Body<Lane>>, u32);

/// Room for the lanes of a node.
pub(crate) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(ROOM_MAX))
}

/// All lanes to one peer.
#[derive(Debug)]
pub(crate) struct Lanes {
    idle: Arc<Idle<Lane>>,
    room: Arc<Semaphore>,
    /// None is opened before, in milliseconds of the node's clock.
    not_before_ms: Arc<AtomicI64>,
}

impl Lanes {
    pub(crate) fn new(world: &World) -> Self {
        let (clock, tasks) = (Arc::clone(&world.clock), world.runtime.clone());
        Self {
            idle: Idle::new(LANES_MAX, IDLE_MAX, clock, tasks),
            room: Arc::new(Semaphore::new(LANES_MAX)),
            not_before_ms: Arc::default(),
        }
    }

    /// Sends a read over a lane; `None`: there was none, and the read goes over HTTP/2.
    pub(crate) async fn ask(
        &self,
        (world, address): (&World, &Arc<str>),
        read: &ReadRequest,
        patience: Duration,
        signs: &Signs,
    ) -> Option<Result<Sent, Fault>> {
        let Some(lane) = self.idle.take() else {
            self.widen(world, address);
            return None;
        };
        let wire = lane.stream().wire;
        let request = match encode(read) {
            Ok(body) => request_text(READ_PATH, &body, Versions::only(wire)),
            Err(fault) => return Some(Err(fault)),
        };
        signs.sent(world.clock.monotonic());
        match within(&*world.clock, patience, lane.ask(&request, Some(&self.idle))).await {
            Some(Ok(response)) => Some(Ok((response, wire))),
            Some(Err(broken)) if broken.unanswered => {
                tracing::debug!(peer = %address, error = %broken.error, "a lane was closed");
                None
            }
            Some(Err(broken)) => Some(Err(Fault::broken(&broken.error))),
            None => {
                let message = format!("no answer within {patience:?}");
                Some(Err(Fault::new(Reason::Silent, message)))
            }
        }
    }

    /// Opens one more lane, behind the read that found none.
    fn widen(&self, world: &World, address: &Arc<str>) {
        if now_ms(&*world.clock) < self.not_before_ms.load(Ordering::Relaxed) {
            return;
        }
        let room =
            [&self.room, &world.lanes_room].map(|it| Arc::clone(it).try_acquire_owned().ok());
        let [Some(of_peer), Some(of_node)] = room else { return };
        let room = [of_peer, of_node];
        let (world, address) = (world.clone(), Arc::clone(address));
        let (idle, not_before_ms) = (Arc::clone(&self.idle), Arc::clone(&self.not_before_ms));
        let runtime = world.runtime.clone();
        runtime.spawn(async move {
            let opened = within(&*world.clock, HELLO_LIMIT, open(&world, &address, room)).await;
            let silent = || Fault::new(Reason::Silent, "no hello in time");
            match opened.unwrap_or_else(|| Err(silent())) {
                Ok(lane) => idle.put(lane),
                Err(fault) => {
                    tracing::debug!(peer = %address, "no lane: {fault}");
                    let pause = i64::try_from(PAUSE.as_millis()).expect("seconds");
                    not_before_ms.store(now_ms(&*world.clock) + pause, Ordering::Relaxed);
                }
            }
        });
    }
}

async fn open(
    world: &World,
    address: &str,
    room: [OwnedSemaphorePermit; 2],
) -> Result<Connection<Lane>, Fault> {
    let stream = world.net.connect(address).await;
    let stream = stream.map_err(|error| Fault::no_connection(&error))?;
    let lane = Connection::new(Lane { stream, wire: 0, _room: room });
    let mut fresh = Fresh::Http1(Some(lane));
    // Reads go to it, so it is not passed by.
    let (_, wire) = Introduction { world, passed_by: false }.hello(&mut fresh).await?;
    match fresh {
        Fresh::Http1(Some(mut lane)) => {
            lane.stream_mut().wire = wire;
            Ok(lane)
        }
        _ => Err(Fault::new(Reason::Unreachable, "it closed the connection")),
    }
}
