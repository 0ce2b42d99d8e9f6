//! TLS between nodes: a network whose connections are sealed, and whose ends show that they are nodes.
//!
//! [`Tls`] holds the files in use and looks from time to time whether there are newer ones; [`TlsNet`] is a
//! [`Net`] over another one. What a node is, and what is checked: `identity`.
//!
//! # Invariants
//!
//! - New files are used for the next connection, in both directions, or not at all: a set that does not fit
//!   together leaves the last one in use.
//! - Nothing is waited for between two accepted connections: a handshake belongs to its own connection.

mod begun;
mod identity;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use feedline_model::Clock;
use parking_lot::{Mutex, RwLock};
use tokio::io::BufReader;
use tokio::runtime::Handle;
use tokio_rustls::rustls::Error as TlsError;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use identity::TlsFiles;

use crate::net::{Accepted, Client, Listener, Net, Opened, Stream, Untrusted};
use begun::Begun;
use identity::{Identity, date};

/// How often the files are looked at: a kubelet takes about a minute to bring new ones, and three small
/// files are nothing to read.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A certificate that has no longer than this left should have been renewed.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often that is said.
const SAY_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Records that are written at once: sixteen of the largest, so that an object of 110 KB is one or two writes.
const BUFFER_BYTES: usize = 256 << 10;

/// Read ahead of a session, which itself asks the system for 4 KiB at a time: an object of 110 KB would be
/// 27 calls. Only where objects arrive: what is asked of a node is short.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// The first byte of whatever speaks TLS: a record of a handshake.
const HANDSHAKE: u8 = 0x16;

const PLAIN: &str = "this port speaks TLS: use https://, and as a node ca.crt, tls.crt and tls.key in cluster_secrets";

type ReadFiles = dyn Fn() -> Result<TlsFiles, String> + Send + Sync;

/// How the node's certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsStatus {
    /// When it ends, in seconds since 1970.
    pub expires_unix_s: u64,
    /// Why files that are newer are not used, or that it ends soon.
    pub trouble: Option<String>,
}

/// The files in use, and where newer ones come from.
pub struct Tls {
    read: Box<ReadFiles>,
    clock: Arc<dyn Clock>,
    identity: RwLock<Arc<Identity>>,
    watch: Mutex<Watch>,
}

#[derive(Default)]
struct Watch {
    /// Why the files are not those in use.
    trouble: Option<String>,
    /// When the end of the certificate is to be spoken of again.
    say_at: Option<Duration>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl Tls {
    /// Uses `files`, and later what `read` gives, which may take its time.
    ///
    /// # Errors
    ///
    /// What is wrong with `files`.
    pub fn new(
        files: TlsFiles,
        read: impl Fn() -> Result<TlsFiles, String> + Send + Sync + 'static,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let identity = RwLock::new(Arc::new(Identity::of(&files, &clock)?));
        let tls = Self { read: Box::new(read), clock, identity, watch: Mutex::default() };
        tls.say_when_it_ends();
        Ok(tls)
    }

    /// Looks at the files once, and uses those that are new and fit together.
    pub fn look(&self) {
        let looked = (self.read)().and_then(|files| {
            if files.digest() == self.now().digest {
                return Ok(false);
            }
            *self.identity.write() = Arc::new(Identity::of(&files, &self.clock)?);
            Ok(true)
        });
        let mut watch = self.watch.lock();
        match looked {
            Ok(is_new) => {
                watch.trouble = None;
                if is_new {
                    watch.say_at = None;
                    let until = date(self.now().expires);
                    tracing::info!("this node's certificate was renewed, until {until}");
                }
            }
            Err(why) if watch.trouble.as_ref() == Some(&why) => {}
            Err(why) => {
                tracing::warn!("cluster_secrets: {why}; the certificate read before stays in use");
                watch.trouble = Some(why);
            }
        }
        drop(watch);
        self.say_when_it_ends();
    }

    /// How the certificate is now.
    #[must_use]
    pub fn status(&self) -> TlsStatus {
        let trouble = self.watch.lock().trouble.clone().or_else(|| self.ends_soon());
        TlsStatus { expires_unix_s: self.now().expires.as_secs(), trouble }
    }

    /// Looks again and again, for as long as the node runs.
    pub(crate) async fn renew(self: Arc<Self>, runtime: Handle) {
        loop {
            self.clock.sleep(LOOK_EVERY).await;
            let tls = Arc::clone(&self);
            if let Err(error) = runtime.spawn_blocking(move || tls.look()).await {
                tracing::warn!(%error, "cluster_secrets could not be looked at");
            }
        }
    }

    fn now(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.read())
    }

    fn ends_soon(&self) -> Option<String> {
        let (end, now) = (self.now().expires, Duration::from_millis(self.clock.unix_ms()));
        if EXPIRES_SOON < end.saturating_sub(now) {
            return None;
        }
        let tense = if end <= now { "expired" } else { "expires" };
        Some(format!("{tense} on {}: renew tls.crt in cluster_secrets", date(end)))
    }

    fn say_when_it_ends(&self) {
        let Some(ends) = self.ends_soon() else { return };
        let now = self.clock.monotonic();
        let mut watch = self.watch.lock();
        if watch.say_at.is_none_or(|at| at <= now) {
            watch.say_at = Some(now + SAY_EVERY);
            tracing::warn!("this node's certificate {ends}");
        }
    }
}

/// A network over which everything is sealed.
#[derive(Debug)]
pub(crate) struct TlsNet {
    wires: Arc<dyn Net>,
    tls: Arc<Tls>,
}

impl TlsNet {
    pub(crate) fn over(wires: Arc<dyn Net>, tls: Arc<Tls>) -> Arc<dyn Net> {
        Arc::new(Self { wires, tls })
    }
}

#[async_trait]
impl Net for TlsNet {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let name = server_name(address)?;
        let stream = self.wires.connect(address).await?;
        let stream = BufReader::with_capacity(READ_AHEAD_BYTES, stream);
        let connector = TlsConnector::from(Arc::clone(&self.tls.now().client));
        let sealed = connector
            .connect_with(name, stream, |session| session.set_buffer_limit(Some(BUFFER_BYTES)));
        Ok(Box::new(sealed.await.map_err(refused)?))
    }

    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let wires = self.wires.listen(address)?;
        Ok(Box::new(TlsPort { wires, tls: Arc::clone(&self.tls) }))
    }
}

struct TlsPort {
    wires: Box<dyn Listener>,
    tls: Arc<Tls>,
}

#[async_trait]
impl Listener for TlsPort {
    fn address(&self) -> SocketAddr {
        self.wires.address()
    }

    async fn accept(&mut self) -> io::Result<Accepted> {
        let Accepted { from, opening } = self.wires.accept().await?;
        let tls = Arc::clone(&self.tls);
        let opening = Box::pin(async move { open(opening.await?.stream, &tls).await });
        Ok(Accepted { from, opening })
    }
}

async fn open(stream: Box<dyn Stream>, tls: &Tls) -> io::Result<Opened> {
    let (stream, first) = Begun::read(stream).await?;
    if first != HANDSHAKE {
        return Ok(Opened { stream: Box::new(stream), client: Client::Plain(PLAIN) });
    }
    let identity = tls.now();
    let acceptor = TlsAcceptor::from(Arc::clone(&identity.server));
    let sealed = acceptor
        .accept_with(stream, |session| session.set_buffer_limit(Some(BUFFER_BYTES)))
        .await?;
    let shown = sealed.get_ref().1.peer_certificates().unwrap_or_default();
    let client = match identity.judge_client(shown, &*tls.clock) {
        Ok(()) => Client::Proved,
        Err(why) => Client::Unproved(why),
    };
    Ok(Opened { stream: Box::new(sealed), client })
}

/// What a handshake wants to hear. It is not compared with anything: see `identity`.
fn server_name(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host);
    name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Why a handshake failed, in words about the other end.
fn refused(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let why = match inner {
        Some(TlsError::InvalidCertificate(error)) => {
            format!("its certificate {}", identity::words(error, "our ca.crt"))
        }
        Some(TlsError::InvalidMessage(_)) => "it does not speak TLS: give it ca.crt, tls.crt and \
             tls.key in cluster_secrets as well"
            .into(),
        Some(TlsError::AlertReceived(alert)) => format!("it ended the TLS handshake: {alert:?}"),
        Some(error) => format!("the TLS handshake with it failed: {error}"),
        None => return error,
    };
    io::Error::new(io::ErrorKind::PermissionDenied, Untrusted(why))
}
