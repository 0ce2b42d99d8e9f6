//! The HTTP clients, and reading an answer's body under a watchdog.
//!
//! # Invariants
//!
//! - No try hangs: one that brings no byte for the timeout, or is slower altogether than
//!   [`BYTES_PER_SECOND_MIN`], ends as [`Failure::Timeout`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use feedline_model::Clock;
use feedline_model::clock::Sleep;
use futures::StreamExt as _;
use object_store::ClientOptions;
use object_store::client::{
    Certificate, HttpClient, HttpConnector as _, HttpError, HttpErrorKind, HttpResponseBody,
    ReqwestConnector,
};
use tokio::runtime::Handle;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use crate::config::{OpenError, StoreConfig};
use crate::direct::{self, DirectConfig};
use crate::failure::Failure;

/// Slower than this is as good as stalled: a page of 4 MiB would take over a minute, and another
/// connection is nearly always faster.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// Idle connections are kept this long: S3 closes them after about 20 s without notice, and a
/// request on a closed one costs a retry.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Options for every client of this store: HTTP/1.1, pooled, without timeouts for the body.
pub(crate) fn client_options(
    config: &StoreConfig,
    allow_http: bool,
) -> Result<ClientOptions, OpenError> {
    let mut options = ClientOptions::new()
        .with_http1_only()
        .with_allow_http(allow_http)
        .with_connect_timeout(config.connect_timeout)
        .with_timeout_disabled()
        .with_pool_idle_timeout(POOL_IDLE_TIMEOUT)
        // As many as may be in flight; fewer would close and reopen them all the time.
        .with_pool_max_idle_per_host(config.requests_in_flight_max);
    for certificate in certificates(config, Certificate::from_pem_bundle)? {
        options = options.with_root_certificate(certificate);
    }
    Ok(options)
}

/// A client with `options` for the bucket at an address, which errors name by its location.
pub(crate) fn connect(
    config: &StoreConfig,
    options: &ClientOptions,
    (bucket_url, location): (&str, &str),
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
) -> Result<HttpClient, OpenError> {
    let error = |why: String| OpenError::Client { location: location.to_owned(), why };
    let others = ReqwestConnector::default().connect(options);
    let others = others.map_err(|e| error(with_sources(&e)))?;
    direct::client(DirectConfig {
        url: bucket_url.parse().map_err(|e| error(format!("{bucket_url:?} is no URL: {e}")))?,
        connect_timeout: config.connect_timeout,
        idle_timeout: POOL_IDLE_TIMEOUT,
        idle_max: config.requests_in_flight_max,
        authorities: certificates(config, |pem| CertificateDer::pem_slice_iter(pem).collect())?,
        others,
        clock: Arc::clone(clock),
        tasks: tasks.clone(),
    })
    .map_err(error)
}

/// The certificates of `--ca-file`, as `parse` has them; none if it is not set.
fn certificates<T, E: std::fmt::Display>(
    config: &StoreConfig,
    parse: impl FnOnce(&[u8]) -> Result<Vec<T>, E>,
) -> Result<Vec<T>, OpenError> {
    let Some(path) = &config.ca_file else { return Ok(Vec::new()) };
    let error = |why: String| OpenError::Certificate { path: path.display().to_string(), why };
    let pem = std::fs::read(path).map_err(|e| error(e.to_string()))?;
    let certificates = parse(&pem).map_err(|e| error(e.to_string()))?;
    if certificates.is_empty() {
        return Err(error("holds no certificate".into()));
    }
    Ok(certificates)
}

/// An error with its causes, which alone often say what happened.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// What a failure of the HTTP client means.
pub(crate) fn http_failure(error: &HttpError) -> Failure {
    let text = with_sources(error);
    match error.kind() {
        HttpErrorKind::Connect => {
            // A certificate that is not trusted, or a scheme that is not allowed, stays so.
            if text.contains("certificate") {
                Failure::Malformed(format!("{text}; to trust a private authority set --ca-file"))
            } else {
                Failure::Connect(text)
            }
        }
        HttpErrorKind::Timeout => Failure::Timeout(text),
        _ if text.contains("builder error") => Failure::Malformed(text),
        // What is left is a connection that broke in some way; the kinds are not complete.
        _ => Failure::Reset(text),
    }
}

/// Ends a try that stands still.
pub(crate) struct Watchdog {
    clock: Arc<dyn Clock>,
    timeout: Duration,
    deadline: Duration,
    sleep: Sleep,
    progressed: bool,
}

impl Watchdog {
    /// For a try that brings `expected` bytes.
    pub(crate) fn new(clock: &Arc<dyn Clock>, timeout: Duration, expected: u64) -> Self {
        let slowest = Duration::from_secs(expected / BYTES_PER_SECOND_MIN);
        Self {
            clock: clock.clone(),
            timeout,
            deadline: clock.monotonic() + timeout + slowest,
            sleep: clock.sleep(timeout),
            progressed: false,
        }
    }

    /// Waits for `future`, the next step of the try, unless the try stands still.
    pub(crate) async fn guard<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Failure> {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => {
                    self.progressed = true;
                    return Ok(output);
                }
                () = &mut self.sleep => {
                    if !self.progressed {
                        let why = format!("no answer for {:?}", self.timeout);
                        return Err(Failure::Timeout(why));
                    }
                    if self.clock.monotonic() >= self.deadline {
                        let why = format!("slower than {} KiB/s", BYTES_PER_SECOND_MIN >> 10);
                        return Err(Failure::Timeout(why));
                    }
                    self.progressed = false;
                    self.sleep = self.clock.sleep(self.timeout);
                }
            }
        }
    }
}

/// Reads a body that must be of exactly `expected` bytes, into one buffer of that size; one that came
/// in one piece is not copied. Unless `length_known`, the answer did not tell its length, and only its end
/// shows that there is no more.
pub(crate) async fn read_body(
    body: HttpResponseBody,
    expected: u64,
    length_known: bool,
    watchdog: &mut Watchdog,
) -> Result<Bytes, Failure> {
    let mut stream = body.bytes_stream();
    let capacity = usize::try_from(expected).expect("a range fits in memory");
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(chunk) = watchdog.guard(stream.next()).await? {
        let chunk = chunk.map_err(|error| body_failure(&error, buffer.len() as u64, expected))?;
        if length_known && buffer.is_empty() && chunk.len() == capacity {
            return Ok(chunk);
        }
        if buffer.len() + chunk.len() > capacity {
            return Err(Failure::Changed(format!("the body is longer than {expected} bytes")));
        }
        if buffer.capacity() == 0 {
            buffer.reserve_exact(capacity);
        }
        buffer.extend_from_slice(&chunk);
        // The end is known from the length: do not wait for the connection to say so.
        if length_known && buffer.len() == capacity {
            return Ok(buffer.into());
        }
    }
    if buffer.len() == capacity {
        return Ok(buffer.into());
    }
    Err(Failure::Short { got: buffer.len() as u64, expected })
}

/// A body that ends early is told apart from a connection that is reset.
fn body_failure(error: &HttpError, got: u64, expected: u64) -> Failure {
    let text = with_sources(error);
    if text.contains("end of file before message length") || text.contains("UnexpectedEof") {
        return Failure::Short { got, expected };
    }
    http_failure(error)
}

/// Reads a small body whole: a listing or an error document of at most `limit` bytes.
pub(crate) async fn read_text(
    body: HttpResponseBody,
    limit: usize,
    watchdog: &mut Watchdog,
) -> Result<Vec<u8>, Failure> {
    let mut stream = body.bytes_stream();
    let mut text = Vec::new();
    while let Some(chunk) = watchdog.guard(stream.next()).await? {
        let chunk = chunk.map_err(|error| http_failure(&error))?;
        if text.len() + chunk.len() > limit {
            return Err(Failure::Malformed(format!("an answer of over {limit} bytes")));
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}
