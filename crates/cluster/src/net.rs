//! The network as this crate sees it: connections out, a port in. TCP, unless a test owns the wires.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

/// How long the other end may take none of what was sent to it, dead or asleep: until then its part of
/// what may be on its way is lost to others.
const TAKE_WITHIN: Duration = Duration::from_secs(60);

/// Both directions of one connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How nodes reach each other.
#[async_trait]
pub trait Net: fmt::Debug + Send + Sync {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    ///
    /// If nobody answers there. How long that takes is the caller's to limit.
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>>;

    /// Opens a port, at once.
    ///
    /// # Errors
    ///
    /// If it cannot be had.
    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>>;
}

/// An open port; dropping it closes it.
#[async_trait]
pub trait Listener: Send {
    /// Where it is: with the port that the system chose, if 0 was asked for.
    fn address(&self) -> SocketAddr;

    /// The next connection. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// Of one connection, or for want of descriptors: the port stays open.
    async fn accept(&mut self) -> io::Result<Accepted>;
}

/// A connection that came in. Nothing was waited for yet that its other end has to do.
pub struct Accepted {
    /// Where it comes from.
    pub from: SocketAddr,
    /// Makes it ready for use, as slowly as its other end likes.
    pub opening: BoxFuture<'static, io::Result<Opened>>,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accepted({})", self.from)
    }
}

impl Accepted {
    /// A connection that is ready, from somebody whom nobody asked who he is.
    #[must_use]
    pub fn plain(stream: Box<dyn Stream>, from: SocketAddr) -> Self {
        let opened = Opened { stream, client: Client::Unasked };
        Self { from, opening: Box::pin(std::future::ready(Ok(opened))) }
    }
}

/// A connection that is ready for use.
pub struct Opened {
    /// What is said on it.
    pub stream: Box<dyn Stream>,
    /// Whether its other end is a node.
    pub client: Client,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened({:?})", self.client)
    }
}

/// What is known of the end that opened a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Client {
    /// The connection itself asks nobody.
    Unasked,
    /// A node: its certificate says so.
    Proved,
    /// No node, in words to itself; a guest's client may be one all the same.
    Unproved(String),
    /// It does not even speak TLS, which everybody must: the answer to all that it asks.
    Plain(&'static str),
}

/// Why a connection is of no use though somebody is there: trust, not reach. The inside of an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Untrusted(pub(crate) String);

/// TCP, with the tasks of this runtime.
#[derive(Debug, Clone)]
pub struct Tcp(pub Handle);

#[async_trait]
impl Net for Tcp {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(address).await?;
        // Requests are small and somebody waits for each.
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _within = self.0.enter();
        Ok(Box::new(TcpPort { address, listener: TcpListener::from_std(listener)? }))
    }
}

struct TcpPort {
    address: SocketAddr,
    listener: TcpListener,
}

#[async_trait]
impl Listener for TcpPort {
    fn address(&self) -> SocketAddr {
        self.address
    }

    async fn accept(&mut self) -> io::Result<Accepted> {
        let (stream, from) = self.listener.accept().await?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let taken_within = u32::try_from(TAKE_WITHIN.as_millis()).expect("a minute");
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, taken_within) {
            tracing::debug!(%error, "no TCP_USER_TIMEOUT");
        }
        Ok(Accepted::plain(Box::new(stream), from))
    }
}
