//! What the admin API asks of a running node: the tree joined with the cache.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use feedline_cache::Cache;
use feedline_fill::{HintError, OrderHint};
use feedline_gateway::api::{
    CheckEvent, Health, HintAnswer, HintOrder, HintRequest, LoadFailure, LoadRequest, LoadStatus,
    LsEntry, NodeSummary, PathQuery, SettingInfo, Status, Usage,
};
use feedline_gateway::{Admin, ApiError, Lines};
use feedline_model::{Clock, Directory, Object, ObjectId, ReadError, Tree};
use feedline_mount::MountHandle;
use futures::{Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use crate::chain::Chain;
use crate::cluster;
use crate::config::ResolvedConfig;
use crate::loads::Loads;
use crate::pins::Pins;
use crate::status;

mod answers;
mod facts;
mod history;
mod jobs;
mod listing;
mod nodes;
mod others;
mod pinning;
mod question;
mod wide;

pub(crate) use answers::Answers;
pub(crate) use listing::list_elsewhere;

/// Files read back at once by a check: enough to keep an SSD busy, few enough to leave it to others.
const CHECKS_AT_ONCE: usize = 4;

/// Where the node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Starting,
    Serving,
    Stopping,
}

/// The node as the admin API sees it.
#[derive(Debug)]
pub(crate) struct NodeAdmin {
    config: Arc<ResolvedConfig>,
    chain: Chain,
    /// What is kept whole on this node.
    pins: Pins,
    /// What is kept in the cluster: of it this node keeps what it owns.
    shared_pins: Pins,
    /// Held while a path is pinned or unpinned, the list and what follows: else what is applied from a list
    /// read before would pin again what was unpinned meanwhile, and no list would name it.
    pinning: Mutex<()>,
    loads: Loads,
    clock: Arc<dyn Clock>,
    tasks: Handle,
    mount: OnceLock<Arc<MountHandle>>,
    started: Duration,
    state: AtomicU8,
    stop: watch::Sender<bool>,
}

/// What a path stands for.
enum Target {
    Directory(Arc<Directory>),
    /// The directory that holds the file, and its place in it.
    File(Arc<Directory>, usize),
}

impl NodeAdmin {
    pub(crate) fn new(
        config: Arc<ResolvedConfig>,
        chain: Chain,
        (pins, shared_pins, loads): (Pins, Pins, Loads),
        clock: Arc<dyn Clock>,
        tasks: Handle,
    ) -> Self {
        let started = clock.monotonic();
        let state = AtomicU8::new(State::Starting as u8);
        let (stop, _) = watch::channel(false);
        Self {
            config,
            chain,
            pins,
            shared_pins,
            pinning: Mutex::default(),
            loads,
            clock,
            tasks,
            mount: OnceLock::new(),
            started,
            state,
            stop,
        }
    }

    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    pub(crate) fn load_jobs(&self) -> &Loads {
        &self.loads
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn config(&self) -> &ResolvedConfig {
        &self.config
    }

    pub(crate) fn mount(&self) -> Option<Arc<MountHandle>> {
        self.mount.get().cloned()
    }

    /// Called once, when the mount serves.
    pub(crate) fn set_mount(&self, mount: MountHandle) {
        self.mount.set(Arc::new(mount)).expect("a node mounts once");
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.started)
    }

    /// Completes when the API was asked to end the node.
    pub(crate) async fn until_asked_to_stop(&self) {
        // The sender lives as long as we do.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Completes when the mount has ended, by whomever.
    pub(crate) async fn until_unmounted(&self) {
        match self.mount() {
            Some(mount) => mount.wait().await,
            None => std::future::pending().await,
        }
    }

    /// Pins what the list of pins says: at start, and again each `metadata_ttl`, because what
    /// appears below a pinned path is pinned too. Costs LISTs only where a listing is outdated, and
    /// nothing without pins.
    pub(crate) fn keep_pins_applied(self: &Arc<Self>, tasks: &Handle) {
        let weak = Arc::downgrade(self);
        let (clock, period) = (Arc::clone(&self.clock), self.config.metadata_ttl);
        let mut stop = self.stop.subscribe();
        drop(tasks.spawn(async move {
            loop {
                {
                    let Some(admin) = weak.upgrade() else { return };
                    admin.apply_pins().await;
                }
                tokio::select! {
                    () = clock.sleep(period) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        }));
    }

    /// Finds what a path stands for.
    async fn target(&self, path: &str) -> Result<Target, ApiError> {
        let tree = &self.chain.namespace;
        let absent = || ApiError::not_found(format!("/{path}: no such file or directory"));
        if path.is_empty() {
            return tree
                .list("")
                .await
                .map_err(api_error)?
                .map(Target::Directory)
                .ok_or_else(absent);
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = tree.list(parent).await.map_err(api_error)?.ok_or_else(absent)?;
        let index = parent.find(name).ok_or_else(absent)?;
        if parent.object(index).is_some() {
            return Ok(Target::File(parent, index));
        }
        tree.list(path).await.map_err(api_error)?.map(Target::Directory).ok_or_else(absent)
    }

    /// Each directory at and below a path, with the places of the objects in it that count: all of
    /// them, or the one that the path names.
    async fn objects_below(
        &self,
        path: &str,
    ) -> Result<
        impl Stream<Item = Result<(Arc<Directory>, Vec<usize>), ApiError>> + Send + use<>,
        ApiError,
    > {
        let (one, all) = match self.target(path).await? {
            Target::File(directory, index) => (Some(Ok((directory, vec![index]))), None),
            Target::Directory(_) => (None, Some(self.chain.namespace.walk(path))),
        };
        let all = futures::stream::iter(all).flatten().map(|directory| {
            let directory = directory.map_err(api_error)?;
            let files = (0..directory.len()).filter(|index| directory.object(*index).is_some());
            let files = files.collect();
            Ok((directory, files))
        });
        Ok(futures::stream::iter(one).chain(all))
    }

    /// Joins one file with what the cache knows of it.
    fn file_entry(&self, directory: &Directory, index: usize, object: &Object) -> LsEntry {
        let path = directory.child_path(directory.entry(index).name);
        let id = object.id();
        let size = object.version.size;
        let cached_bytes = self.chain.cache.cached_bytes(&id);
        LsEntry {
            directory: false,
            size,
            modified_ms: object.version.modified_ms,
            etag: object.version.etag.text(),
            location: self.location(object),
            cached_bytes,
            cached: is_cached(&self.chain.cache, &id, size),
            pinned: self.is_pinned(&path),
            path,
            ..Default::default()
        }
    }

    fn directory_entry(&self, path: String) -> LsEntry {
        LsEntry { directory: true, pinned: self.is_pinned(&path), path, ..Default::default() }
    }

    fn is_pinned(&self, path: &str) -> bool {
        [&self.pins, &self.shared_pins].iter().any(|pins| pins.covering(path).is_some())
    }

    fn location(&self, object: &Object) -> Option<String> {
        let store = self.chain.stores.get(&object.source)?;
        Some(format!("{}/{}", store.base(), object.key))
    }

    /// Sends what one directory holds. False: the client is gone.
    async fn send_directory(
        &self,
        directory: &Directory,
        query: &PathQuery,
        out: &Lines<LsEntry>,
    ) -> bool {
        for index in 0..directory.len() {
            let entry = match directory.object(index) {
                Some(object) => self.file_entry(directory, index, &object),
                // A listing of what is cached below shows the files alone.
                None if query.recursive && query.cached => continue,
                None => self.directory_entry(directory.child_path(directory.entry(index).name)),
            };
            let wanted = !query.cached || entry.directory || 0 < entry.cached_bytes;
            if wanted && !out.send(entry).await {
                return false;
            }
        }
        true
    }

    /// Counts what lies below a path.
    async fn usage(&self, path: &str) -> Result<Usage, ApiError> {
        let mut usage = Usage::default();
        let mut batches = std::pin::pin!(self.objects_below(path).await?);
        while let Some(batch) = batches.next().await {
            let (directory, files) = batch?;
            for index in files {
                let Some(object) = directory.object(index) else { continue };
                let entry = self.file_entry(&directory, index, &object);
                usage.files += 1;
                usage.bytes += entry.size;
                usage.cached_files += u64::from(entry.cached);
                usage.cached_bytes += entry.cached_bytes;
                usage.pinned_files += u64::from(entry.pinned);
            }
        }
        Ok(usage)
    }

    /// Drops what is cached below a path; pinned files stay.
    async fn free_below(&self, path: &str) -> Result<Usage, ApiError> {
        let (_, paths) = self.places_of(path);
        // What is being fetched ahead has time to arrive while the files are counted.
        self.free_these(Vec::new(), &paths).await;
        let before = self.usage(path).await?;
        let mut batches = std::pin::pin!(self.objects_below(path).await?);
        while let Some(batch) = batches.next().await {
            let (directory, files) = batch?;
            let ids = files.iter().map(|index| id_at(&directory, *index)).collect();
            self.free_these(ids, &paths).await;
        }
        let after = self.usage(path).await?;
        let freed_files = before.cached_files.saturating_sub(after.cached_files);
        let freed_bytes = before.cached_bytes.saturating_sub(after.cached_bytes);
        Ok(Usage {
            files: freed_files,
            bytes: freed_bytes,
            cached_files: freed_files,
            cached_bytes: freed_bytes,
            pinned_files: after.pinned_files,
            cluster: None,
        })
    }

    /// Lists the folder and all below it, for files are known by their place in it, then hands the
    /// hint over. A folder below that cannot be listed has no files in the order.
    async fn take_hint(
        &self,
        path: String,
        from: u32,
        hint: OrderHint,
    ) -> Result<HintAnswer, ApiError> {
        if let Target::File(..) = self.target(&path).await? {
            return Err(ApiError::bad_request(format!(
                "/{path} is a file: give the folder of the data set"
            )));
        }
        let mut directories = std::pin::pin!(self.chain.namespace.walk(&path));
        while let Some(directory) = directories.next().await {
            if let Err(error) = directory {
                tracing::warn!(path, %error, "hint: a folder cannot be listed");
            }
        }
        let fill = Arc::clone(&self.chain.fill);
        let taken = self.tasks.spawn_blocking(move || fill.hint(&path, from, &hint)).await;
        let taken = taken.map_err(|error| ApiError::internal(error.to_string()))?;
        let outcome = taken.map_err(hint_error)?;
        Ok(HintAnswer { files: outcome.files, matched: outcome.matched })
    }

    async fn check_below(&self, path: &str, out: &Lines<CheckEvent>) -> Result<(), ApiError> {
        let total = self.usage(path).await?;
        let (mut files, mut bytes, mut corrupt) = (0, 0, 0);
        let mut batches = std::pin::pin!(self.objects_below(path).await?);
        while let Some(batch) = batches.next().await {
            let (directory, indexes) = batch?;
            let checks = indexes.into_iter().filter_map(|index| {
                let id = id_at(&directory, index);
                let path = directory.child_path(directory.entry(index).name);
                let here = 0 < self.chain.cache.cached_bytes(&id);
                here.then_some(
                    async move { (path, self.chain.cache.check(vec![id], |_| {}).await) },
                )
            });
            let mut checks = std::pin::pin!(futures::stream::iter(checks).buffered(CHECKS_AT_ONCE));
            while let Some((path, report)) = checks.next().await {
                files += report.progress.files;
                bytes += report.progress.bytes;
                if 0 < report.progress.corrupt {
                    corrupt += 1;
                    let detail = "does not match its checksum; dropped, the next read fetches it";
                    let detail = detail.into();
                    if !out.send(CheckEvent::Corrupt { path, detail, node: None }).await {
                        return Ok(());
                    }
                }
            }
            let (files_total, bytes_total) = (total.cached_files, total.cached_bytes);
            if !out.send(CheckEvent::Progress { files, bytes, files_total, bytes_total }).await {
                return Ok(());
            }
        }
        out.send(CheckEvent::Done { files, bytes, corrupt }).await;
        Ok(())
    }
}

#[async_trait]
impl Admin for NodeAdmin {
    fn health(&self) -> Health {
        let state = match self.state.load(Ordering::Relaxed) {
            state if state == State::Starting as u8 => "starting",
            state if state == State::Serving as u8 => "serving",
            _ => "stopping",
        };
        Health { state: state.into(), pid: std::process::id() }
    }

    async fn status(&self) -> Status {
        status::of(self)
    }

    async fn nodes(&self) -> Vec<NodeSummary> {
        nodes::of(self).await
    }

    async fn config(&self) -> Vec<SettingInfo> {
        self.config.settings.clone()
    }

    async fn ls(&self, query: PathQuery, out: Lines<LsEntry>) -> Result<(), ApiError> {
        let query = clean(query);
        if let Some(cluster) = self.wide(&query) {
            return self.ls_wide(cluster, &query, &out).await;
        }
        match self.target(&query.path).await? {
            Target::File(directory, index) => {
                if let Some(object) = directory.object(index) {
                    let entry = self.file_entry(&directory, index, &object);
                    if !query.cached || 0 < entry.cached_bytes {
                        out.send(entry).await;
                    }
                }
            }
            Target::Directory(directory) if !query.recursive => {
                self.send_directory(&directory, &query, &out).await;
            }
            Target::Directory(_) => {
                let mut directories = std::pin::pin!(self.chain.namespace.walk(&query.path));
                while let Some(directory) = directories.next().await {
                    let directory = directory.map_err(api_error)?;
                    if !self.send_directory(&directory, &query, &out).await {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    async fn stat(&self, query: PathQuery) -> Result<LsEntry, ApiError> {
        let query = clean(query);
        Ok(match self.target(&query.path).await? {
            Target::File(directory, index) => match directory.object(index) {
                Some(object) => {
                    let mut entry = self.file_entry(&directory, index, &object);
                    if let Some(cluster) = self.wide(&query) {
                        self.stat_wide(cluster, &object, &mut entry).await;
                    }
                    entry
                }
                None => self.directory_entry(query.path),
            },
            Target::Directory(directory) => {
                let changed = i64::try_from(directory.changed_ms).unwrap_or(i64::MAX);
                LsEntry { modified_ms: changed, ..self.directory_entry(query.path) }
            }
        })
    }

    async fn du(&self, query: PathQuery) -> Result<Usage, ApiError> {
        let query = clean(query);
        match self.wide(&query) {
            Some(cluster) => self.usage_wide(cluster, &query.path).await,
            None => self.usage(&query.path).await,
        }
    }

    async fn free(&self, query: PathQuery) -> Result<Usage, ApiError> {
        let query = clean(query);
        match self.wide(&query) {
            Some(cluster) => self.free_wide(cluster, &query.path).await,
            None => self.free_below(&query.path).await,
        }
    }

    async fn pin(&self, query: PathQuery) -> Result<Usage, ApiError> {
        let query = clean(query);
        if let Some(cluster) = self.wide(&query) {
            return self.pin_wide(cluster, &query.path).await;
        }
        let path = query.path;
        // The path must exist: a pin on a misspelt one would keep nothing and say so nowhere.
        self.target(&path).await?;
        self.pin_here(&path).await?;
        self.usage(&path).await
    }

    async fn unpin(&self, query: PathQuery) -> Result<Usage, ApiError> {
        let query = clean(query);
        match self.wide(&query) {
            Some(cluster) => self.unpin_wide(cluster, &query.path).await,
            None => self.unpin_here(&query.path).await,
        }
    }

    async fn check(&self, query: PathQuery, out: Lines<CheckEvent>) -> Result<(), ApiError> {
        let query = clean(query);
        let check = async {
            match self.wide(&query) {
                Some(cluster) => self.check_wide(cluster, &query.path, &out).await,
                None => self.check_below(&query.path, &out).await,
            }
        };
        // It reads for long without a word: whoever goes away does not leave that behind.
        tokio::select! {
            checked = check => checked,
            () = out.closed() => Ok(()),
        }
    }

    async fn hint(&self, request: HintRequest) -> Result<HintAnswer, ApiError> {
        let path = request.path.trim_matches('/').to_owned();
        let hint = match request.order {
            HintOrder::Files(files) => OrderHint::Files(files),
            HintOrder::Positions(positions) => OrderHint::Positions(positions),
            HintOrder::TorchSeeds(seeds) => OrderHint::TorchSeeds(seeds),
        };
        self.take_hint(path, request.from, hint).await
    }

    async fn load(&self, request: LoadRequest) -> Result<LoadStatus, ApiError> {
        // Eight digits, to be typed; two of the same would need a hundred thousand jobs at once.
        let id = format!("{:08x}", cluster::random_number() >> 32);
        self.loads.start(id, request).await
    }

    async fn loads(&self) -> Vec<LoadStatus> {
        self.loads_of_all()
    }

    async fn load_status(&self, id: String) -> Result<LoadStatus, ApiError> {
        self.load_of_any(&id).await
    }

    async fn load_stop(&self, id: String) -> Result<LoadStatus, ApiError> {
        self.stop_load(&id).await
    }

    async fn load_retry(&self, id: String) -> Result<LoadStatus, ApiError> {
        self.retry_load(&id).await
    }

    async fn load_failed(&self, id: String, out: Lines<LoadFailure>) -> Result<(), ApiError> {
        match self.loads.status(&id) {
            Err(unknown) => Err(self.failures_elsewhere(&id, unknown)),
            Ok(_) => self.loads.failed(&id, out).await,
        }
    }

    fn shutdown(&self) {
        self.set_state(State::Stopping);
        self.stop.send_replace(true);
    }
}

/// Takes slashes off the ends of the path, as people and shells leave them.
fn clean(query: PathQuery) -> PathQuery {
    let path = query.path.trim_matches('/').to_owned();
    PathQuery { path, ..query }
}

fn id_at(directory: &Directory, index: usize) -> ObjectId {
    directory.object(index).expect("only places of objects are kept").id()
}

/// An empty object has no bytes to fetch: it counts as cached without being in the cache.
fn is_cached(cache: &Cache, id: &ObjectId, size: u64) -> bool {
    use feedline_model::ObjectIndex;
    size == 0 || cache.contains(id)
}

/// A [`HintError`] as the API says it, without a wildcard.
fn hint_error(error: HintError) -> ApiError {
    match error {
        HintError::NoFiles { .. } => ApiError::not_found(error.to_string()),
        HintError::Empty
        | HintError::NoMatch { .. }
        | HintError::TooLong { .. }
        | HintError::Off => ApiError::bad_request(error.to_string()),
    }
}

/// A [`ReadError`] as the API says it, without a wildcard: a new kind must be decided on.
pub(crate) fn api_error(error: ReadError) -> ApiError {
    match error {
        ReadError::NotFound { .. } => ApiError::not_found(error.to_string()),
        ReadError::Unavailable { .. } | ReadError::Changed { .. } => {
            ApiError::unavailable(error.to_string())
        }
        ReadError::Forbidden { .. } | ReadError::Rejected { .. } => {
            ApiError::bad_request(error.to_string())
        }
    }
}
