//! The body of an answer: bytes from memory or from a file, cut where a fault says so.
//!
//! A small file is read whole before its head is sent; a large one is read as the client takes it,
//! so that memory stays bounded by connections and not by sizes. Reads block the server's thread:
//! data comes from the page cache in a bench, and a hop to another thread costs more than the copy.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::stats::Ticket;
use crate::wire::Control;

/// The size of one read of a large file: large enough to amortise the call, small enough to stay
/// in the second-level cache between the read and the write to the socket.
pub(crate) const CHUNK_BYTES: u64 = 256 * 1024;

/// Where the bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// All of it.
    Memory(Bytes),
    /// `left` bytes of the file from `at`.
    File { file: Arc<File>, at: u64, left: u64 },
}

impl Source {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { left, .. } => *left,
        }
    }

    /// Takes the next chunk, at most `limit` bytes; empty at the end.
    fn take(&mut self, limit: u64) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => Ok(bytes.split_to(bytes.len().min(limit as usize))),
            Self::File { file, at, left } => {
                let mut chunk = vec![0; CHUNK_BYTES.min(*left).min(limit) as usize];
                file.read_exact_at(&mut chunk, *at)?;
                *at += chunk.len() as u64;
                *left -= chunk.len() as u64;
                Ok(chunk.into())
            }
        }
    }
}

/// What happens to a body on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// End the connection by a reset.
    Reset,
    /// End the connection in good order.
    Short,
    /// Send nothing for this long, then go on.
    Stall(Duration),
}

/// A body under way. It keeps its request counted as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct Reply {
    source: Source,
    /// Bytes until the cut, and the cut.
    cut: Option<(u64, Cut)>,
    /// The bytes before the cut have been left to the connection to flush.
    yielded: bool,
    stall: Option<Pin<Box<Sleep>>>,
    control: Arc<Control>,
    ticket: Option<Ticket>,
}

impl Reply {
    pub(crate) fn new(source: Source, control: Arc<Control>, ticket: Option<Ticket>) -> Self {
        Self { source, cut: None, yielded: false, stall: None, control, ticket }
    }

    /// Plans a cut after `at` bytes.
    pub(crate) fn cut_at(mut self, at: u64, cut: Cut) -> Self {
        self.cut = Some((at, cut));
        self
    }

    /// Passes or brings about the cut that has been reached.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever waits once lets hyper flush what was handed over before: the client must see the
        // bytes before the cut.
        if !self.yielded {
            self.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.cut {
            Some((_, Cut::Stall(stall))) => {
                let sleep = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
                ready!(sleep.as_mut().poll(cx));
            }
            Some((_, Cut::Reset)) => {
                self.control.reset_at_close();
                return Poll::Ready(Err(io::Error::other("fault: reset")));
            }
            Some((_, Cut::Short)) => return Poll::Ready(Err(io::Error::other("fault: short"))),
            None => {}
        }
        self.cut = None;
        Poll::Ready(Ok(()))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.source.len() == 0 {
            return Poll::Ready(None);
        }
        if self.cut.as_ref().is_some_and(|(left, _)| *left == 0) {
            ready!(self.poll_cut(cx))?;
        }
        let limit = self.cut.as_ref().map_or(u64::MAX, |(left, _)| *left);
        let chunk = self.source.take(limit)?;
        if let Some((left, _)) = &mut self.cut {
            *left -= chunk.len() as u64;
        }
        if let Some(ticket) = &self.ticket {
            ticket.counters().sent(chunk.len() as u64);
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.source.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.source.len())
    }
}
