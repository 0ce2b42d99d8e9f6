//! The handle: starts a server on threads of its own, talks to it, and stops it when dropped.
//!
//! The server never runs on the caller's runtime, so that it can be used from a test of any kind
//! and a caller that blocks does not stop its own bucket.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;

use crate::faults::{FaultBoard, Faults};
use crate::handlers::Api;
use crate::made_up::MadeUp;
use crate::multipart::Uploads;
use crate::object::Tag;
use crate::server::{self, Server};
use crate::shape::{Dice, Latency, Line, RateLimit};
use crate::sigv4::Credentials;
use crate::stats::{Counters, Stats};
use crate::store::{Content, Store};

/// What a server is to be like. Everything has a default: memory only, no delay, no limit.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    root: Option<PathBuf>,
    listen: SocketAddr,
    latency: Duration,
    latency_sigma: f64,
    list_latency: Option<Duration>,
    bandwidth: Option<u64>,
    connection_bandwidth: Option<u64>,
    rate_limit: Option<u32>,
    seed: u64,
    threads: usize,
    credentials: Option<Credentials>,
    faults: Faults,
    names: Option<u32>,
}

impl Builder {
    fn new() -> Self {
        Self {
            root: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            latency: Duration::ZERO,
            latency_sigma: 0.0,
            list_latency: None,
            bandwidth: None,
            connection_bandwidth: None,
            rate_limit: None,
            seed: 1,
            threads: 1,
            credentials: None,
            faults: Faults::none(),
            names: None,
        }
    }

    /// Serves the directories of `root` as buckets, and writes to them. Created if missing.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Keeps everything in memory: no bucket at the start, nothing left at the end. The default.
    pub fn empty(mut self) -> Self {
        self.root = None;
        self
    }

    /// The address to listen on; port 0 (the default, on 127.0.0.1) takes a free one.
    pub fn listen(mut self, listen: SocketAddr) -> Self {
        self.listen = listen;
        self
    }

    /// Median time to the first byte of every answer, in milliseconds.
    pub fn latency_ms(self, latency_ms: u64) -> Self {
        self.latency(Duration::from_millis(latency_ms))
    }

    /// Median time to the first byte of every answer.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Spread of the latency: the standard deviation of its logarithm; 0, the default, is none.
    pub fn latency_sigma(mut self, sigma: f64) -> Self {
        self.latency_sigma = sigma;
        self
    }

    /// Median time to the first byte of a LIST, in milliseconds, if it differs.
    pub fn list_latency_ms(self, latency_ms: u64) -> Self {
        self.list_latency(Duration::from_millis(latency_ms))
    }

    /// Median time to the first byte of a LIST, if it differs.
    pub fn list_latency(mut self, latency: Duration) -> Self {
        self.list_latency = Some(latency);
        self
    }

    /// Bytes per second that all connections send together. Must not be 0.
    pub fn bandwidth(mut self, bytes_per_s: u64) -> Self {
        self.bandwidth = Some(bytes_per_s);
        self
    }

    /// Bytes per second that each connection sends. Must not be 0.
    pub fn connection_bandwidth(mut self, bytes_per_s: u64) -> Self {
        self.connection_bandwidth = Some(bytes_per_s);
        self
    }

    /// Requests per second above which the answer is 503 SlowDown. A tenth of a second's worth may
    /// come at once.
    pub fn rate_limit(mut self, requests_per_s: u32) -> Self {
        self.rate_limit = Some(requests_per_s);
        self
    }

    /// Seed of the delays and of the faults by probability.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Threads that serve; 1 is the default. Must not be 0.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Accepts only requests signed (SigV4) with this pair. By default anyone may do anything.
    pub fn credentials(mut self, access_key: &str, secret_key: &str) -> Self {
        let (access_key, secret_key) = (access_key.to_owned(), secret_key.to_owned());
        self.credentials = Some(Credentials { access_key, secret_key });
        self
    }

    /// The faults in force from the start.
    pub fn faults(mut self, faults: impl Into<Faults>) -> Self {
        self.faults = faults.into();
        self
    }

    /// Serves a bucket `names` besides, of so many keys that nobody stored, in folders of a thousand: at
    /// most 100 million, which take no memory. It cannot be written to.
    pub fn names(mut self, count: u32) -> Self {
        self.names = Some(count);
        self
    }

    fn server(&self) -> io::Result<Server> {
        let store = Store::open(self.root.clone())?;
        if let Some(count) = self.names {
            store.make_up(MadeUp::new(count));
        }
        let latency = Latency { median: self.latency, sigma: self.latency_sigma };
        let list_median = self.list_latency.unwrap_or(self.latency);
        Ok(Server {
            api: Api {
                store,
                uploads: Uploads::default(),
                counters: Arc::new(Counters::default()),
            },
            faults: FaultBoard::new(self.faults.clone()),
            dice: Dice::new(self.seed),
            latency,
            list_latency: Latency { median: list_median, ..latency },
            rate_limit: self.rate_limit.map(RateLimit::new),
            credentials: self.credentials.clone(),
            connection_bandwidth: self.connection_bandwidth,
            line: self.bandwidth.map(|bytes_per_s| Arc::new(Line::new(bytes_per_s))),
        })
    }

    /// Starts the server. When this returns, it is reachable. Blocks for the bind alone, so it may
    /// be called from async code.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made, the address is taken, or no thread can be started.
    pub fn start(self) -> io::Result<S3Sim> {
        let server = Arc::new(self.server()?);
        let socket = std::net::TcpListener::bind(self.listen)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let mut runtime = if self.threads == 1 {
            runtime::Builder::new_current_thread()
        } else {
            runtime::Builder::new_multi_thread()
        };
        let runtime = runtime.worker_threads(self.threads).enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let served = Arc::clone(&server);
        let thread = std::thread::Builder::new().name("s3sim".into()).spawn(move || {
            runtime.block_on(async {
                let listener = match TcpListener::from_std(socket) {
                    Ok(listener) => listener,
                    Err(error) => return tracing::error!(%error, "cannot listen"),
                };
                // A task, so that with several threads connections start on any of them.
                let mut serving = tokio::task::JoinSet::new();
                serving.spawn(server::serve(served, listener));
                let _ = stopped.await; // The handle is gone, one way or the other.
                serving.shutdown().await;
            });
        })?;
        Ok(S3Sim { server, address, stop: Some(stop), thread: Some(thread) })
    }
}

/// A running server. Dropping it closes every connection and ends its threads.
#[derive(Debug)]
pub struct S3Sim {
    server: Arc<Server>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl S3Sim {
    /// Begins a description of a server.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The URL to give to clients, as `http://127.0.0.1:PORT`, path style.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.server.api.counters.snapshot()
    }

    /// All counters to zero, those by key included.
    pub fn reset_stats(&self) {
        self.server.api.counters.reset();
    }

    /// How many GETs each object has answered, by `bucket/key`.
    #[must_use]
    pub fn gets_by_key(&self) -> HashMap<String, u64> {
        self.server.api.counters.gets_by_key()
    }

    /// Replaces the faults: a [`FaultRule`](crate::FaultRule), or [`Faults`].
    pub fn set_faults(&self, faults: impl Into<Faults>) {
        self.server.faults.set(faults.into());
    }

    /// Makes a bucket, if it does not exist.
    ///
    /// # Panics
    ///
    /// If the name cannot be a bucket's, or the folder cannot be written.
    pub fn create_bucket(&self, bucket: &str) {
        self.server
            .api
            .store
            .create_bucket(bucket)
            .unwrap_or_else(|error| panic!("{bucket}: {}", error.message));
    }

    /// Stores an object past the network, without counting, and returns its tag without quotes.
    /// Makes the bucket if need be. Any key is kept, also one that no folder can hold.
    ///
    /// # Panics
    ///
    /// As [`create_bucket`](Self::create_bucket).
    pub fn put_object(&self, bucket: &str, key: &str, bytes: impl AsRef<[u8]>) -> String {
        self.create_bucket(bucket);
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        let (store, tag) = (&self.server.api.store, Tag::of_bytes(&bytes));
        let entry = store.bucket(bucket).and_then(|bucket| {
            bucket.put(store, key, Content::Bytes(bytes), tag, Vec::new(), |_| Ok(()))
        });
        entry.unwrap_or_else(|error| panic!("{bucket}/{key}: {}", error.message)).tag.to_string()
    }

    /// Deletes an object past the network; one that does not exist is no error.
    ///
    /// # Panics
    ///
    /// If there is no such bucket, or the folder cannot be written.
    pub fn delete_object(&self, bucket: &str, key: &str) {
        let deleted = self.server.api.store.bucket(bucket).and_then(|bucket| bucket.delete(key));
        deleted.unwrap_or_else(|error| panic!("{bucket}/{key}: {}", error.message));
    }

    /// Walks the folder again at the next LIST. Needed only after files were rewritten in place by
    /// other means; files made and removed are noticed without.
    ///
    /// # Panics
    ///
    /// If there is no such bucket.
    pub fn rescan(&self, bucket: &str) {
        let found = self.server.api.store.bucket(bucket);
        found.unwrap_or_else(|error| panic!("{bucket}: {}", error.message)).rescan();
    }
}

impl Drop for S3Sim {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the server's thread panicked");
        }
        self.server.api.store.remove_scratch_dir();
    }
}
