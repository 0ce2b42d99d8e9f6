//! The connection: a TCP stream that is paced, and that can be reset on purpose.
//!
//! Pacing at the socket, below HTTP, is what a slow network does: heads and bodies share the line,
//! and a client that reads slowly is not paced twice.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::shape::Line;

/// What a request's fault may do to the connection that carries it.
#[derive(Debug, Default)]
pub(crate) struct Control {
    reset: AtomicBool,
}

impl Control {
    /// Makes the end of this connection a reset, which the caller then brings about by an error.
    pub(crate) fn reset_at_close(&self) {
        self.reset.store(true, Relaxed);
    }

    fn is_reset(&self) -> bool {
        self.reset.load(Relaxed)
    }
}

/// A stream with up to two lines to pass: its own and the one that all connections share.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    control: Arc<Control>,
    own: Option<Line>,
    shared: Option<Arc<Line>>,
    /// Bytes of the current slot that are not yet written.
    allowance: usize,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub(crate) fn new(
        stream: TcpStream,
        control: Arc<Control>,
        own: Option<Line>,
        shared: Option<Arc<Line>>,
    ) -> Self {
        Self { stream, control, own, shared, allowance: 0, wait: None }
    }

    fn is_paced(&self) -> bool {
        self.own.is_some() || self.shared.is_some()
    }

    /// Waits until at least one byte may be written; then `allowance` says how many.
    fn poll_allowance(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<()> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            if 0 < self.allowance {
                return Poll::Ready(());
            }
            let lines = [self.own.as_ref(), self.shared.as_deref()];
            let slot = lines.iter().flatten().map(|line| line.slot_bytes()).min();
            let bytes = slot.unwrap_or(wanted).min(wanted).max(1);
            let now = Instant::now();
            let start = lines.iter().flatten().map(|line| line.book(bytes, now)).max();
            self.allowance = bytes;
            if let Some(start) = start.filter(|start| now < *start) {
                self.wait = Some(Box::pin(tokio::time::sleep_until(start.into())));
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.is_paced() || buf.is_empty() {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        ready!(self.poll_allowance(cx, buf.len()));
        let end = buf.len().min(self.allowance);
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &buf[..end]))?;
        self.allowance -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.is_paced() {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.poll_write(cx, first.map_or(&[], |buf| &**buf))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.control.is_reset() {
            return Poll::Ready(Ok(())); // A FIN first would let the client see an orderly end.
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.control.is_reset() {
            // Close with unsent bytes thrown away: the peer gets RST instead of FIN.
            let _ = self.stream.set_zero_linger();
        }
    }
}
