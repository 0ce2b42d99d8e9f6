//! Bodies, from the socket into the buffer that their reader keeps.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use crate::head::Framing;
use crate::idle::Idle;
use crate::{Connection, invalid};

/// A body up to this comes in one piece; of a longer one the pieces tell that it goes on.
const PIECE_BYTES: u64 = 256 << 10;

/// A piece of a body whose length is not known.
const REST_BYTES: u64 = 16 << 10;

/// A line of a chunk's size, or of a trailer, is not longer.
const LINE_BYTES_MAX: usize = 8 << 10;

/// All trailers together are not longer.
const TRAILER_BYTES_MAX: usize = 64 << 10;

/// What is still to come.
#[derive(Debug, Clone, Copy)]
enum Left {
    /// So many bytes, and then the end.
    Length(u64),
    /// The line that tells the size of a chunk.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of the line behind a chunk.
    ChunkEnd,
    /// Lines behind the last chunk, of which so many bytes have come.
    Trailer(usize),
    /// What comes until the connection is closed.
    Rest,
}

/// The body of an answer.
pub struct Body<S> {
    /// `None` once the body has ended or failed.
    connection: Option<Connection<S>>,
    left: Left,
    /// The piece that is being read.
    piece: Vec<u8>,
    /// The next piece is not longer.
    piece_max: u64,
    /// Where the connection goes at the end.
    idle: Option<Arc<Idle<S>>>,
    /// The server keeps it open.
    is_kept: bool,
    /// The connection, if the body has ended, the server keeps it and it went nowhere.
    free: Option<Connection<S>>,
}

impl<S> fmt::Debug for Body<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({:?})", self.left)
    }
}

impl<S: AsyncRead + Unpin + Send + 'static> Body<S> {
    pub(crate) fn new(
        connection: Connection<S>,
        framing: Framing,
        is_kept: bool,
        idle: Option<Arc<Idle<S>>>,
    ) -> Self {
        let left = match framing {
            Framing::Length(bytes) => Left::Length(bytes),
            Framing::Chunked => Left::Size,
            Framing::Rest => Left::Rest,
        };
        let mut body = Self {
            connection: Some(connection),
            left,
            piece: Vec::new(),
            piece_max: PIECE_BYTES,
            idle,
            is_kept,
            free: None,
        };
        if let Left::Length(0) = left {
            body.end();
        }
        body
    }

    /// The next piece has so many bytes at most, and one at least: so what a reader knows to end there comes in a
    /// buffer of its own. Not while a piece is being read.
    pub fn limit_piece(&mut self, bytes: usize) {
        if self.piece.is_empty() {
            self.piece_max = (bytes as u64).clamp(1, PIECE_BYTES);
        }
    }

    /// Nothing more is to come.
    fn end(&mut self) {
        let Some(connection) = self.connection.take().filter(|_| self.is_kept) else { return };
        match self.idle.take() {
            Some(idle) => idle.put(connection),
            None => self.free = Some(connection),
        }
    }

    /// The connection, for the next request, if all of the body was read and it was not put to the idle ones.
    pub fn into_connection(self) -> Option<Connection<S>> {
        self.free
    }

    /// Reads a piece of exactly `bytes` bytes.
    fn poll_piece(&mut self, context: &mut Context<'_>, bytes: u64) -> Poll<io::Result<Bytes>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(Err(ended())) };
        let bytes = usize::try_from(bytes).expect("a piece is short");
        if self.piece.capacity() == 0 {
            self.piece.reserve_exact(bytes);
        }
        let at_hand = connection.read.len().min(bytes - self.piece.len());
        self.piece.extend_from_slice(&connection.read[..at_hand]);
        connection.read.advance(at_hand);
        while self.piece.len() < bytes {
            let missing = bytes - self.piece.len();
            let mut into = (&mut self.piece).limit(missing);
            let io = Pin::new(&mut connection.io);
            if ready!(poll_read_buf(io, context, &mut into))? == 0 {
                return Poll::Ready(Err(ended()));
            }
        }
        Poll::Ready(Ok(std::mem::take(&mut self.piece).into()))
    }

    /// Reads a line, which is left where it is, and returns its length with its end.
    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(Connection { io, read }) = &mut self.connection else {
            return Poll::Ready(Err(ended()));
        };
        loop {
            if let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                return Poll::Ready(Ok(end + 1));
            }
            if LINE_BYTES_MAX <= read.len() {
                return Poll::Ready(Err(invalid("a line that is too long")));
            }
            if ready!(poll_read_buf(Pin::new(io), context, read))? == 0 {
                return Poll::Ready(Err(ended()));
            }
        }
    }

    /// Takes a line of so many bytes, without its end.
    fn line(&mut self, bytes: usize) -> Vec<u8> {
        let Some(connection) = &mut self.connection else { return Vec::new() };
        connection.read.split_to(bytes).trim_ascii().to_vec()
    }

    /// One step; `None` if there is more to do.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match self.left {
            Left::Length(bytes) | Left::Chunk(bytes) => {
                let piece = ready!(self.poll_piece(context, bytes.min(self.piece_max)))?;
                let rest = bytes - piece.len() as u64;
                self.left = match self.left {
                    Left::Chunk(_) if rest == 0 => Left::ChunkEnd,
                    Left::Chunk(_) => Left::Chunk(rest),
                    _ => Left::Length(rest),
                };
                if let Left::Length(0) = self.left {
                    self.end();
                }
                return Poll::Ready(Ok(Some(piece)));
            }
            Left::Size => {
                let bytes = ready!(self.poll_line(context))?;
                let line = self.line(bytes);
                let chunk =
                    size_of_chunk(&line).ok_or_else(|| invalid("a chunk without a size"))?;
                self.left = if chunk == 0 { Left::Trailer(0) } else { Left::Chunk(chunk) };
            }
            Left::ChunkEnd => {
                let bytes = ready!(self.poll_line(context))?;
                if !self.line(bytes).is_empty() {
                    return Poll::Ready(Err(invalid("a chunk that is longer than its size")));
                }
                self.left = Left::Size;
            }
            Left::Trailer(before) => {
                let bytes = ready!(self.poll_line(context))?;
                if TRAILER_BYTES_MAX < before + bytes {
                    return Poll::Ready(Err(invalid("too many trailers")));
                }
                self.left = Left::Trailer(before + bytes);
                if self.line(bytes).is_empty() {
                    self.end();
                }
            }
            Left::Rest => return self.poll_rest(context),
        }
        Poll::Ready(Ok(None))
    }

    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Some(Connection { io, read }) = &mut self.connection else {
            return Poll::Ready(Err(ended()));
        };
        let mut piece = read.split().to_vec();
        if piece.is_empty() {
            let room = usize::try_from(REST_BYTES).expect("is short");
            piece.reserve_exact(room);
            if ready!(poll_read_buf(Pin::new(io), context, &mut (&mut piece).limit(room)))? == 0 {
                self.connection = None;
                return Poll::Ready(Ok(None));
            }
        }
        Poll::Ready(Ok(Some(piece.into())))
    }
}

fn size_of_chunk(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.is_empty())?;
    // A sign is no digit, though a number may be parsed with it.
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| is_hex)
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "end of file before message length reached")
}

impl<S: AsyncRead + Unpin + Send + 'static> http_body::Body for Body<S> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        while self.connection.is_some() {
            match ready!(self.poll_step(context)) {
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                Ok(None) => {}
                Err(error) => {
                    self.connection = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Left::Length(bytes) => SizeHint::with_exact(bytes),
            _ => SizeHint::default(),
        }
    }
}
