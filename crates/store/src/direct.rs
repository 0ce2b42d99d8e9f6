//! The way of a GET to the bucket: HTTP/1.1 over connections of our own, one body in one buffer.
//!
//! The exchanges and the idle connections are those of `feedline_http1`, which says why; what that saves is in
//! docs/decisions/010.
//!
//! # Invariants
//!
//! - What fails on a used connection before a byte of an answer has come is tried once more on a new one:
//!   servers close idle connections without notice.
//!
//! # Deliberately absent
//!
//! - Anything but GETs of one host: others, redirects, and everything where the environment names a
//!   proxy go through object_store's client.
//! - Timeouts of answers: who waits has a [`Watchdog`](crate::http::Watchdog).
//!
//! # Reading order
//!
//! [`Direct`] sends a request, `head` makes its head.

mod head;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use feedline_http1::{Broken, Connection, Idle};
use feedline_model::Clock;
use http::uri::{Authority, Scheme};
use http::{Method, Uri};
use http_body_util::BodyExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tower_service::Service as _;

/// A socket, with TLS or without.
type Io = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

/// The operating system notices a peer that is gone without a word, as object_store's client has it.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Variables that name a proxy, in small letters; they are read in capitals too.
const PROXIES: [&str; 3] = ["http_proxy", "https_proxy", "all_proxy"];

/// What a client is made of.
#[derive(Debug)]
pub(crate) struct DirectConfig {
    /// The address of the bucket; all requests to its host go directly.
    pub(crate) url: Uri,
    pub(crate) connect_timeout: Duration,
    /// Idle connections are closed after this.
    pub(crate) idle_timeout: Duration,
    /// Idle connections kept at most.
    pub(crate) idle_max: usize,
    /// Authorities that are trusted besides the machine's.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    /// For everything else.
    pub(crate) others: HttpClient,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where idle connections are looked after.
    pub(crate) tasks: Handle,
}

/// See the module.
#[derive(Debug)]
struct Direct {
    scheme: Scheme,
    authority: Authority,
    connector: HttpsConnector<HttpConnector>,
    connect_timeout: Duration,
    idle: Arc<Idle<Io>>,
    others: HttpClient,
    clock: Arc<dyn Clock>,
}

/// A client that sends GETs itself. `config.others` if a proxy is to be used, or `config.url` is none.
///
/// # Errors
///
/// If the machine's trusted certificates cannot be used.
pub(crate) fn client(config: DirectConfig) -> Result<HttpClient, String> {
    let (Some(scheme), Some(authority)) = (config.url.scheme(), config.url.authority()) else {
        return Ok(config.others);
    };
    if has_proxy(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        return Ok(config.others);
    }
    let tls = tls(scheme, &config.authorities)?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_connect_timeout(Some(config.connect_timeout));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    Ok(HttpClient::new(Direct {
        scheme: scheme.clone(),
        authority: authority.clone(),
        connector: https.enable_http1().wrap_connector(tcp),
        connect_timeout: config.connect_timeout,
        idle: Idle::new(
            config.idle_max,
            config.idle_timeout,
            Arc::clone(&config.clock),
            config.tasks,
        ),
        others: config.others,
        clock: config.clock,
    }))
}

fn has_proxy(is_set: impl Fn(&str) -> bool) -> bool {
    PROXIES.iter().any(|name| is_set(name) || is_set(&name.to_ascii_uppercase()))
}

/// What is trusted: as object_store's client does, what the machine trusts, and `authorities`.
fn tls(scheme: &Scheme, authorities: &[CertificateDer<'static>]) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    if *scheme == Scheme::HTTP {
        // Nothing is read that is not needed.
        let none = RootCertStore::empty();
        return Ok(builder.with_root_certificates(none).with_no_client_auth());
    }
    let verifier = if authorities.is_empty() {
        Verifier::new(provider)
    } else {
        Verifier::new_with_extra_roots(authorities.iter().cloned(), provider)
    };
    let verifier = Arc::new(verifier.map_err(|e| e.to_string())?);
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// What is no answer, or a connection that broke.
fn failure(error: io::Error) -> HttpError {
    let kind = if error.kind() == io::ErrorKind::InvalidData {
        HttpErrorKind::Decode
    } else {
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, error)
}

impl Direct {
    fn suits(&self, request: &HttpRequest) -> bool {
        request.method() == Method::GET
            && request.body().is_empty()
            && request.uri().scheme() == Some(&self.scheme)
            && request.uri().authority() == Some(&self.authority)
    }

    async fn connect(&self, uri: Uri) -> Result<Connection<Io>, HttpError> {
        let mut connector = self.connector.clone();
        let stream = tokio::select! {
            connected = connector.call(uri) => {
                connected.map_err(|error| HttpError::new_boxed(HttpErrorKind::Connect, error))?
            }
            () = self.clock.sleep(self.connect_timeout) => {
                let why = format!("no connection within {:?}", self.connect_timeout);
                let error = io::Error::new(io::ErrorKind::TimedOut, why);
                return Err(HttpError::new(HttpErrorKind::Timeout, error));
            }
        };
        Ok(Connection::new(TokioIo::new(stream)))
    }

    async fn exchange(
        &self,
        connection: Connection<Io>,
        request: &[u8],
    ) -> Result<HttpResponse, Broken> {
        let response = connection.ask(request, Some(&self.idle)).await?;
        Ok(response.map(|body| HttpResponseBody::new(body.map_err(failure))))
    }

    async fn get(&self, request: &HttpRequest) -> Result<HttpResponse, HttpError> {
        let head = head::request(request);
        if let Some(connection) = self.idle.take() {
            match self.exchange(connection, &head).await {
                Ok(response) => return Ok(response),
                Err(broken) if broken.unanswered => {}
                Err(broken) => return Err(failure(broken.error)),
            }
        }
        let connection = self.connect(request.uri().clone()).await?;
        self.exchange(connection, &head).await.map_err(|broken| failure(broken.error))
    }
}

#[async_trait]
impl HttpService for Direct {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if !self.suits(&request) {
            return self.others.execute(request).await;
        }
        let response = self.get(&request).await?;
        let is_elsewhere = response.status().is_redirection();
        if is_elsewhere && response.headers().contains_key(http::header::LOCATION) {
            return self.others.execute(request).await;
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests;
