//! HTTP/1.1 as a client over connections that its caller opens: one request under way on each, one body in one
//! buffer.
//!
//! reqwest and hyper read a body of 100 KB in pieces, through a task for each connection, a queue and read
//! buffers of 400 KB that stay with idle connections; then the pieces are copied together. Here the task that
//! wants the body reads it from the socket into the buffer that the cache keeps. What that saves is in
//! docs/decisions/010 (GETs to the bucket) and 012 (reads from other nodes).
//!
//! # Invariants
//!
//! - A connection is used again only after an answer was read to its end, the server keeps it open, and
//!   nothing else has come on it. A request that is dropped takes its connection with it.
//! - Nothing is believed of the server: heads, chunk sizes and trailers are bounded.
//!
//! # Deliberately absent
//!
//! - Opening connections, TLS, and timeouts: they are the caller's.
//! - Bodies of requests: a request is bytes here.
//!
//! # Reading order
//!
//! [`Connection::ask`] sends a request; `head` reads heads, `body` bodies, `idle` keeps connections.

mod body;
mod head;
mod idle;

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use http::Response;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub use body::Body;
pub use idle::Idle;

use head::{Answer, HEAD_BYTES};

/// A connection between two answers, or in one.
pub struct Connection<S> {
    io: S,
    /// What has come and is not taken yet. Small: bodies are not read into it.
    read: BytesMut,
}

impl<S> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} bytes at hand)", self.read.len())
    }
}

/// How an exchange failed.
#[derive(Debug)]
pub struct Broken {
    /// Nothing of an answer had come: on a connection that was used before, the server may just have closed it.
    pub unanswered: bool,
    /// What is no answer ([`io::ErrorKind::InvalidData`]), or how the connection broke.
    pub error: io::Error,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection<S> {
    /// Over a stream on which nothing was said yet.
    pub fn new(io: S) -> Self {
        Self { io, read: BytesMut::with_capacity(HEAD_BYTES) }
    }

    /// What it goes over.
    pub fn stream(&self) -> &S {
        &self.io
    }

    /// What it goes over, to note something about it.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.io
    }

    /// Sends a request, head and body, and reads the head of its answer. Once the answer has been read to its
    /// end, the connection goes to `idle`.
    ///
    /// # Errors
    ///
    /// See [`Broken`]; the connection is gone.
    pub async fn ask(
        mut self,
        request: &[u8],
        idle: Option<&Arc<Idle<S>>>,
    ) -> Result<Response<Body<S>>, Broken> {
        let sent = async {
            self.io.write_all(request).await?;
            self.io.flush().await
        };
        sent.await.map_err(|error| Broken { unanswered: true, error })?;
        let answer = loop {
            let unanswered = self.read.is_empty();
            let broken = |error| Broken { unanswered, error };
            if let Some(answer) = head::answer(&mut self.read).map_err(broken)? {
                break answer;
            }
            if self.io.read_buf(&mut self.read).await.map_err(broken)? == 0 {
                return Err(broken(closed()));
            }
        };
        let Answer { parts, framing, is_kept } = answer;
        let body = Body::new(self, framing, is_kept, idle.cloned());
        Ok(Response::from_parts(parts, body))
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before an answer")
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
