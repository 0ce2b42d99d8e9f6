//! The running role: a node that shows buckets as a folder, from start to a clean end.
//!
//! # Order
//!
//! Start: chain, first listing (wrong credentials and missing buckets show here, before anything is
//! mounted), cluster, admin socket, mount, registration. End: unmount, cluster, cache, listings, socket,
//! registration.
//!
//! # Invariants
//!
//! - A start that fails leaves no mount, socket or file, and the cache marked as cleanly stopped.
//! - Whoever unmounts, the daemon ends: a daemon without a mount serves nobody.
//! - A node that ends by signals catches them before anything is mounted: one that comes during the
//!   start is acted on, and never leaves a mount.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use feedline_gateway::{Admin, Client, Server, ServerError};
use feedline_model::{Clock, ReadError, Tree};
use feedline_mount::{MountError, Unmount};
use feedline_store::Environment;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::admin::{Answers, NodeAdmin, State};
use crate::chain::{self, Chain};
use crate::clock::SystemClock;
use crate::cluster;
use crate::config::{LocalCopies, ResolvedConfig};
use crate::loads::{ForPeers, Loads, Lookup, Places, Work};
use crate::pins::Pins;
use crate::registry::{self, Registration, SOCKET};
use crate::signals::{self, Signals};

/// How long the first listing may take when listings of an earlier run are at hand.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// How long files may stay open after an unmount was asked for: long enough for a loader to finish
/// a batch, well under the 30 s after which container runtimes kill.
const OPEN_FILES_GRACE: Duration = Duration::from_secs(10);

/// Threads for blocking disk work: an SSD gains nothing beyond a few dozen requests at once.
const BLOCKING_THREADS_MAX: usize = 64;

/// How long tasks may take to end at the very end.
const TASKS_GRACE: Duration = Duration::from_secs(2);

/// Why a node could not start. Each message names the thing and the way out.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the doc of each variant covers its fields")]
pub enum StartError {
    /// The store's settings make no sense.
    #[error(transparent)]
    Store(#[from] feedline_store::OpenError),

    /// A cache directory cannot be used.
    #[error(transparent)]
    Cache(#[from] feedline_cache::CacheError),

    /// A cache directory, or what belongs beside it, cannot be made.
    #[error("{}: cannot be used as a cache: {source}", dir.display())]
    CacheDir { dir: PathBuf, source: io::Error },

    /// The mounts do not fit into one tree.
    #[error(transparent)]
    Namespace(#[from] feedline_namespace::ConfigError),

    /// A bucket refuses, is missing or does not answer, and nothing is known of it yet.
    #[error("cannot list {url}: {error}; {way_out}")]
    Bucket { url: String, error: ReadError, way_out: &'static str },

    /// The run directory cannot be written.
    #[error("{}: cannot be used as run directory (setting run_dir): {source}", dir.display())]
    RunDir { dir: PathBuf, source: io::Error },

    /// The port for peers cannot be had.
    #[error(transparent)]
    Cluster(#[from] feedline_cluster::ClusterError),

    /// The URLs of etcd and its secrets do not go together.
    #[error("--etcd {0}")]
    Etcd(String),

    /// The secrets of the port cannot be used: the directory, or a file in it.
    #[error("{}: cannot be used as secrets of the cluster (setting cluster_secrets): {why}", path.display())]
    Secrets { path: PathBuf, why: String },

    /// Nothing says who may use a port that other machines can reach.
    #[error("--listen: {listen} can be reached from other machines, and {} holds neither a token nor ca.crt, \
             tls.crt and tls.key: add either, or give insecure if all who can reach it may read the bucket", secrets.display())]
    Open { listen: SocketAddr, secrets: PathBuf },

    /// The admin socket or the metrics address cannot be had.
    #[error(transparent)]
    Server(#[from] ServerError),

    /// The kernel does not mount.
    #[error(transparent)]
    Mount(#[from] MountError),

    /// The system gives no threads.
    #[error("cannot start threads: {0}")]
    Threads(io::Error),

    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),

    /// A signal asked for the end before anything was mounted.
    #[error("{signal}: nothing is mounted")]
    Interrupted { signal: &'static str },
}

/// Why a node did not end as asked.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The mount is still there.
    #[error(transparent)]
    Mount(#[from] MountError),

    /// Signals cannot be caught; the node was ended at once.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
}

/// A running node. Dropping it ends it as [`Node::stop`] does.
#[derive(Debug)]
pub struct Node {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    runtime: Runtime,
    admin: Arc<NodeAdmin>,
    ends: Ends,
    /// Those that were caught at the start.
    signals: Option<Signals>,
}

impl Node {
    /// Starts with this process's environment for credentials, and catches SIGTERM and SIGINT from
    /// before anything is mounted, for [`Node::serve_until_signal`]. Returns when the mount serves.
    /// Blocks; must not be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start(config: ResolvedConfig) -> Result<Self, StartError> {
        Self::begin(config, &Environment::from_process(), true)
    }

    /// As [`Node::start`], with credentials from exactly this environment, and without catching
    /// signals: the process may hold several nodes, and does as it likes.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start_with(
        config: ResolvedConfig,
        environment: &Environment,
    ) -> Result<Self, StartError> {
        Self::begin(config, environment, false)
    }

    fn begin(
        config: ResolvedConfig,
        environment: &Environment,
        catch_signals: bool,
    ) -> Result<Self, StartError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(config.threads)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("feedline")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let (mut signals, chain) = {
            let _within = runtime.enter();
            let signals = catch_signals.then(Signals::catch).transpose();
            let signals = signals.map_err(StartError::Signals)?;
            (signals, chain::build(&config, environment, &clock, runtime.handle())?)
        };
        let config = Arc::new(config);
        let live = go_live(&config, chain, &clock, runtime.handle(), &mut signals);
        match runtime.block_on(live) {
            Ok((admin, ends)) => {
                Ok(Self { running: Some(Running { runtime, admin, ends, signals }) })
            }
            Err(error) => {
                runtime.shutdown_timeout(TASKS_GRACE);
                Err(error)
            }
        }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("only a node that was stopped runs no more")
    }

    /// Where it is mounted, as `/proc/mounts` names it.
    #[must_use]
    pub fn mountpoint(&self) -> PathBuf {
        self.running().admin.mount().map_or_else(PathBuf::new, |m| m.mountpoint().to_owned())
    }

    /// Its directory within the run directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.running().ends.dir
    }

    /// Its admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir().join(SOCKET)
    }

    /// A client of its admin API.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.socket(), self.mountpoint().display().to_string())
    }

    /// Where metrics are served over TCP, if they are.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.running().ends.server.metrics_address()
    }

    /// Blocks until SIGTERM or SIGINT, a shutdown over the API, or somebody's unmount; then ends
    /// cleanly. A second signal ends at once: open files fail, and the cache verifies at its next
    /// start what it was writing.
    ///
    /// # Errors
    ///
    /// If the signals cannot be caught, or the mount cannot be taken away.
    pub fn serve_until_signal(mut self) -> Result<(), StopError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let mut signals = match running.signals.take() {
            Some(caught) => caught,
            None => {
                let _within = running.runtime.enter();
                Signals::catch().map_err(StopError::Signals)?
            }
        };
        let admin = Arc::clone(&running.admin);
        running.runtime.block_on(async {
            tokio::select! {
                name = signals.next() => tracing::info!("{name}: unmounting"),
                () = admin.until_asked_to_stop() => tracing::info!("asked to end: unmounting"),
                () = admin.until_unmounted() => tracing::info!("unmounted by somebody else: ending"),
            }
        });
        running.end(async move {
            signals.next().await;
        })
    }

    /// Blocks until a shutdown over the API or somebody's unmount; the node must still be stopped.
    pub fn wait(&self) {
        let running = self.running();
        running.runtime.block_on(async {
            tokio::select! {
                () = running.admin.until_asked_to_stop() => {}
                () = running.admin.until_unmounted() => {}
            }
        });
    }

    /// Ends cleanly: unmounts, waits a while for open files, closes cache and listings.
    ///
    /// # Errors
    ///
    /// If the mount cannot be taken away.
    pub fn stop(mut self) -> Result<(), StopError> {
        match self.running.take() {
            Some(running) => running.end(std::future::pending()),
            None => Ok(()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.take()
            && let Err(error) = running.end(std::future::pending())
        {
            tracing::error!(%error, "the node did not end cleanly");
        }
    }
}

impl Running {
    /// Ends everything, in order; at once when `hurry` completes.
    fn end(self, hurry: impl Future<Output = ()>) -> Result<(), StopError> {
        let Self { runtime, admin, ends, signals: _ } = self;
        let unmounted = runtime.block_on(async {
            tokio::pin!(hurry);
            admin.set_state(State::Stopping);
            let mut hurried = false;
            let unmounted = unmount(&admin, &mut hurry, &mut hurried).await;
            if !hurried {
                tokio::select! {
                    () = end_work(&admin) => {}
                    () = &mut hurry => tracing::warn!("second signal: the cache is not closed"),
                }
            }
            ends.server.stop().await;
            unmounted
        });
        drop(ends.registration);
        runtime.shutdown_timeout(TASKS_GRACE);
        unmounted
    }
}

/// Unmounts: as it should be, else lazily with a grace for open files, else by force.
async fn unmount(
    admin: &Arc<NodeAdmin>,
    hurry: &mut (impl Future<Output = ()> + Unpin),
    hurried: &mut bool,
) -> Result<(), StopError> {
    let Some(mount) = admin.mount() else { return Ok(()) };
    let by = |how: Unmount| {
        let mount = Arc::clone(&mount);
        async move {
            let done = Handle::current().spawn_blocking(move || mount.unmount(how)).await;
            done.unwrap_or(Ok(()))
        }
    };
    if let Err(MountError::Busy { .. }) = by(Unmount::Normal).await {
        tracing::warn!("files are open: detached, serving them for {OPEN_FILES_GRACE:?} at most");
        by(Unmount::Lazy).await?;
    }
    tokio::select! {
        () = mount.wait() => return Ok(()),
        () = admin.clock().sleep(OPEN_FILES_GRACE) => {}
        () = hurry => *hurried = true,
    }
    tracing::warn!("files are still open: ending their connection");
    by(Unmount::Abort).await?;
    // Somebody else's lazy unmount leaves nothing to abort by path; marked as lazy, the mount is not
    // waited for, and the end of this process ends its connection.
    by(Unmount::Lazy).await?;
    Ok(())
}

/// Ends the loads, which go on at the next start, then closes the rest.
async fn end_work(admin: &NodeAdmin) {
    admin.load_jobs().close().await;
    close(admin.chain()).await;
}

/// Closes what keeps state: the next start then needs no verification and no LIST.
async fn close(chain: &Chain) {
    // First: peers go on without us, and none waits for a cache that is being closed.
    if let Some(cluster) = chain.cluster.get() {
        cluster.leave().await;
    }
    chain.fill.stop().await;
    chain.cache.close().await;
    chain.namespace.close().await;
}

/// What must be ended besides the chain.
#[derive(Debug)]
struct Ends {
    server: Server,
    registration: Registration,
    dir: PathBuf,
}

/// From the chain to a mount that serves. On failure everything is closed again.
async fn go_live(
    config: &Arc<ResolvedConfig>,
    chain: Chain,
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
    signals: &mut Option<Signals>,
) -> Result<(Arc<NodeAdmin>, Ends), StartError> {
    let kept = match open_lists(config, &chain, clock, tasks) {
        Ok(kept) => kept,
        Err(error) => {
            close(&chain).await;
            return Err(error);
        }
    };
    let admin =
        Arc::new(NodeAdmin::new(Arc::clone(config), chain, kept, Arc::clone(clock), tasks.clone()));
    let ends = match mount_and_announce(config, &admin, clock, tasks, signals).await {
        Ok(ends) => ends,
        Err(error) => {
            close(admin.chain()).await;
            return Err(error);
        }
    };
    admin.set_state(State::Serving);
    admin.keep_pins_applied(tasks);
    admin.follow_facts(tasks);
    admin.load_jobs().resume();
    admin.tell_loads(tasks);
    Ok((admin, ends))
}

/// Pins and loads of earlier runs.
fn open_lists(
    config: &ResolvedConfig,
    chain: &Chain,
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
) -> Result<(Pins, Pins, Loads), StartError> {
    let dir = chain::state_dir(config)?;
    let failed = |source| StartError::CacheDir { dir: dir.clone(), source };
    let pins = Pins::open(dir.join("pins.json")).map_err(failed)?;
    let shared_pins = Pins::open(dir.join("shared-pins.json")).map_err(failed)?;
    let work = Work {
        dir: dir.join("loads"),
        lookup: Arc::new(Lookup {
            namespace: chain.namespace.clone(),
            mountpoint: config.mountpoint.clone(),
            mounted: chain.mounted.iter().map(|it| (it.path.clone(), it.url.clone())).collect(),
        }),
        places: Places {
            loader: Arc::clone(&chain.loader),
            cluster: Arc::clone(&chain.cluster),
            mounted: chain.mounted_places(),
        },
        keeps_copies: config
            .cluster
            .as_ref()
            .is_none_or(|cluster| cluster.local_copies != LocalCopies::Never),
        clock: Arc::clone(clock),
        tasks: tasks.clone(),
    };
    let loads = Loads::open(work).map_err(failed)?;
    Ok((pins, shared_pins, loads))
}

async fn mount_and_announce(
    config: &Arc<ResolvedConfig>,
    admin: &Arc<NodeAdmin>,
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
    signals: &mut Option<Signals>,
) -> Result<Ends, StartError> {
    // A bucket that does not answer takes the whole retry budget: too long for a signal to wait.
    tokio::select! {
        biased;
        signal = signals::next_of(signals) => return Err(StartError::Interrupted { signal }),
        listed = first_listing(admin.chain(), clock) => listed?,
    }
    join_cluster(config, admin, clock, tasks).await?;
    let run_dir = |source| StartError::RunDir { dir: config.run_dir.clone(), source };
    let dir = registry::make_dir(&config.run_dir, &config.mountpoint).map_err(run_dir)?;
    let served = Arc::clone(admin) as Arc<dyn Admin>;
    let server = Server::start(served, &dir.join(SOCKET), config.metrics_listen, tasks)?;
    let mounted = {
        let (admin, config) = (Arc::clone(admin), Arc::clone(config));
        let (clock, tasks_of_mount) = (Arc::clone(clock), tasks.clone());
        let mounting = tasks
            .spawn_blocking(move || chain::mount(admin.chain(), &config, &clock, &tasks_of_mount));
        mounting.await.unwrap_or_else(|error| Err(StartError::Threads(error.into())))
    };
    let registered = mounted.and_then(|mount| {
        let sources = config.mounts.iter().map(|mount| mount.url.clone()).collect();
        let mountpoint = mount.mountpoint().to_owned();
        // Before the announcement: dropping the admin unmounts if that fails.
        admin.set_mount(mount);
        Registration::announce(dir.clone(), &mountpoint, sources).map_err(run_dir)
    });
    match registered {
        Ok(registration) => Ok(Ends { server, registration, dir }),
        Err(error) => {
            server.stop().await;
            let _ = std::fs::remove_dir(&dir);
            Err(error)
        }
    }
}

/// Joins the cluster, if the node is told to: before the mount, so that no read misses the peers.
async fn join_cluster(
    config: &ResolvedConfig,
    admin: &Arc<NodeAdmin>,
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
) -> Result<(), StartError> {
    let Some(settings) = &config.cluster else { return Ok(()) };
    let chain = admin.chain();
    let joined = cluster::join(config, settings, chain, &chain.link, clock, tasks).await?;
    let (cluster, s3, etcd) = joined;
    // Before anybody asks: a pin of another node is to stand there too.
    if let Some(etcd) = etcd {
        chain.etcd.set(etcd).expect("a node joins once");
    }
    cluster.serve_loads(Arc::new(ForPeers(Arc::clone(&chain.loader))));
    cluster.serve_questions(Arc::new(Answers::new(Arc::downgrade(admin))));
    chain.cluster.set(cluster).expect("a node joins once");
    chain.s3.set(s3).expect("a node joins once");
    Ok(())
}

/// Lists the root of each bucket, so that what is wrong shows before anything is mounted. Costs no
/// request where the listing of an earlier run is still good.
async fn first_listing(chain: &Chain, clock: &Arc<dyn Clock>) -> Result<(), StartError> {
    let known = 0 < chain.namespace.stats().entries;
    for mounted in &chain.mounted {
        let listing = chain.namespace.list(&mounted.path);
        let outcome = if known {
            tokio::select! {
                outcome = listing => outcome,
                () = clock.sleep(FIRST_ANSWER) => {
                    tracing::warn!(url = mounted.url, "no answer yet: serving what is known of it");
                    continue;
                }
            }
        } else {
            listing.await
        };
        match outcome {
            Ok(Some(directory)) if directory.is_empty() => {
                tracing::warn!(url = mounted.url, "nothing has this prefix: the folder is empty");
            }
            Ok(_) => {}
            Err(error @ ReadError::Unavailable { .. }) if known => {
                tracing::warn!(url = mounted.url, %error, "serving what is known of it");
            }
            Err(error) => {
                let way_out = way_out(&error);
                return Err(StartError::Bucket { url: mounted.url.clone(), error, way_out });
            }
        }
    }
    Ok(())
}

/// What the operator can do about a bucket that cannot be listed.
pub(crate) fn way_out(error: &ReadError) -> &'static str {
    match error {
        ReadError::NotFound { .. } => "check the bucket's name, and the endpoint if one is given",
        ReadError::Forbidden { .. } => {
            "check the credentials (environment, profile, role) and that they allow s3:ListBucket; \
             --anonymous is for public buckets"
        }
        ReadError::Changed { .. } => "try again",
        ReadError::Unavailable { .. } => "check the endpoint and the network",
        ReadError::Rejected { .. } => "check endpoint, region and path_style",
    }
}
