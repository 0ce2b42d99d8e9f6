//! The network as this crate sees it: connections out, a port in. TCP, unless a test owns the wires.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
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
    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)>;
}

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

    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let (stream, from) = self.listener.accept().await?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let taken_within = u32::try_from(TAKE_WITHIN.as_millis()).expect("a minute");
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, taken_within) {
            tracing::debug!(%error, "no TCP_USER_TIMEOUT");
        }
        Ok((Box::new(stream), from))
    }
}
