//! One connection: two pipes, one for each direction, and the ends that a node holds.

use std::collections::VecDeque;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{Pause, SimSleep};
use crate::net::Shared;

/// What one direction holds before its writer must wait, as the buffers of both kernels together.
const PIPE_BYTES: usize = 1 << 20;

/// How a direction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// After all that was sent.
    Closed,
    /// At once, whatever was sent.
    Reset,
}

#[derive(Debug, Default)]
struct State {
    segments: VecDeque<(Duration, Bytes)>,
    buffered: usize,
    /// When the last segment arrives: none overtakes another.
    last: Duration,
    ending: Option<(Duration, Ending)>,
    /// Nobody reads any more.
    is_unread: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) from: usize,
    pub(crate) to: usize,
    state: Mutex<State>,
}

impl Pipe {
    pub(crate) fn new(from: usize, to: usize) -> Arc<Self> {
        Arc::new(Self { from, to, state: Mutex::default() })
    }

    /// Both ends hear of it: the reading one at `at`, the writing one with its next word.
    pub(crate) fn reset(&self, at: Duration) {
        self.end(at, Ending::Reset);
    }

    fn end(&self, at: Duration, ending: Ending) {
        let mut state = self.state.lock();
        let is_final = matches!(state.ending, Some((_, Ending::Reset)));
        if is_final || (state.ending.is_some() && ending == Ending::Closed) {
            return;
        }
        state.ending = Some((at, ending));
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        reader.into_iter().chain(writer).for_each(Waker::wake);
    }

    /// The bytes that are here, or until when to wait for more.
    fn take(&self, now: Duration, most: usize, context: &Context<'_>) -> Taken {
        let mut state = self.state.lock();
        match state.ending {
            Some((at, Ending::Reset)) if at <= now => return Taken::Reset,
            Some((at, Ending::Closed)) if at <= now && state.segments.is_empty() => {
                return Taken::Bytes(Bytes::new());
            }
            _ => {}
        }
        if let Some((at, segment)) = state.segments.front_mut()
            && *at <= now
        {
            let bytes = segment.split_to(segment.len().min(most));
            if segment.is_empty() {
                state.segments.pop_front();
            }
            state.buffered -= bytes.len();
            let writer = state.writer.take();
            drop(state);
            writer.into_iter().for_each(Waker::wake);
            return Taken::Bytes(bytes);
        }
        let segment = state.segments.front().map(|(at, _)| *at);
        let ending = state.ending.map(|(at, _)| at);
        let before = state.reader.replace(context.waker().clone());
        drop(state);
        drop(before);
        Taken::Later(segment.into_iter().chain(ending).min())
    }

    /// Takes what fits; `None`: wait.
    fn put(&self, net: &Shared, bytes: &[u8], context: &Context<'_>) -> Option<io::Result<usize>> {
        let mut state = self.state.lock();
        if state.ending.is_some() || state.is_unread {
            return Some(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let fits = bytes.len().min(PIPE_BYTES - state.buffered);
        if fits == 0 {
            let before = state.writer.replace(context.waker().clone());
            drop(state);
            drop(before);
            return None;
        }
        let (at, sent) = net.carry(self.from, self.to, &bytes[..fits]);
        state.last = state.last.max(at);
        let at = state.last;
        state.segments.push_back((at, sent));
        state.buffered += fits;
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Some(Ok(fits))
    }

    /// The last word of the writer.
    fn close(&self, net: &Shared) {
        let (at, _) = net.carry(self.from, self.to, &[]);
        let last = self.state.lock().last;
        self.end(at.max(last), Ending::Closed);
    }

    /// The reader has gone: the writer hears of it with its next word.
    fn leave(&self) {
        let mut state = self.state.lock();
        state.is_unread = true;
        let unread = std::mem::take(&mut state.segments);
        state.buffered = 0;
        let writer = state.writer.take();
        drop(state);
        drop(unread);
        writer.into_iter().for_each(Waker::wake);
    }
}

enum Taken {
    Bytes(Bytes),
    Reset,
    Later(Option<Duration>),
}

/// One end of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) out: Arc<Pipe>,
    pub(crate) inn: Arc<Pipe>,
    pub(crate) net: Arc<Shared>,
    /// Of the node that holds this end.
    pub(crate) pause: Arc<Pause>,
    pub(crate) sleep: Option<SimSleep>,
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pause.holds(context) || self.net.holds(self.inn.from, self.inn.to, context) {
            return Poll::Pending;
        }
        loop {
            match self.inn.take(self.net.clock.now(), into.remaining(), context) {
                Taken::Bytes(mut bytes) => {
                    while bytes.has_remaining() {
                        let piece = bytes.chunk().len();
                        into.put_slice(bytes.chunk());
                        bytes.advance(piece);
                    }
                    return Poll::Ready(Ok(()));
                }
                Taken::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Taken::Later(None) => return Poll::Pending,
                Taken::Later(Some(at)) => {
                    if self.sleep.as_ref().is_none_or(|sleep| sleep.at() != at) {
                        self.sleep = Some(self.net.clock.sleep_until(at));
                    }
                    let sleep = self.sleep.as_mut().expect("just made");
                    if Pin::new(sleep).poll(context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.pause.holds(context) {
            return Poll::Pending;
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match self.out.put(&self.net, bytes, context) {
            Some(done) => Poll::Ready(done),
            None => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out.close(&self.net);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // What a machine that is off still has is silent; see `SimNet::switch_off`.
        if !self.net.is_off(self.out.from) {
            self.out.close(&self.net);
            self.inn.leave();
        }
    }
}
