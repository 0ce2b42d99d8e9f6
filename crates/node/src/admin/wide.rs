//! Commands over all nodes: this node walks its listings, and asks the others about the objects that it finds.
//!
//! So the others list nothing, and all speak of the same versions. A node that fails to answer once is not
//! asked again during the same command; it is named in the answer, and the rest of the nodes still counts.

use std::sync::Arc;

use feedline_cluster::{Cluster, LoadPlace};
use feedline_gateway::api::{CheckEvent, LsEntry, NodeUsage, PathQuery, Usage, WideUsage};
use feedline_gateway::{ApiError, Lines};
use feedline_model::{Directory, Object, ObjectId};
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use super::others::Others;
use super::question::{IDS_MAX, Place, Question, Told, ids_as_text};
use super::{NodeAdmin, Target, id_at};

/// Entries of a listing that wait for the others' answers: a person sees the first ones soon.
const LS_BATCH: usize = 1_024;

/// Files that a node is to check before it says so: one that has many large ones is heard of all the same.
const CHECK_BATCH: usize = 64;

/// A file of the tree: its directory, and its place in it.
type Spot = (Arc<Directory>, usize);

impl NodeAdmin {
    /// The cluster, if the question is about all of it.
    pub(super) fn wide(&self, query: &PathQuery) -> Option<&Cluster> {
        if query.node_only { None } else { self.chain.cluster.get() }
    }

    /// Everything below a path, so many files at once.
    async fn spots(
        &self,
        path: &str,
        batch: usize,
    ) -> Result<impl Stream<Item = Result<Vec<Spot>, ApiError>> + Send + use<>, ApiError> {
        let directories = self.objects_below(path).await?;
        let spots = directories.map_ok(|(directory, files)| {
            let spots = files.into_iter().map(move |index| Ok((Arc::clone(&directory), index)));
            futures::stream::iter(spots)
        });
        Ok(spots.try_flatten().try_chunks(batch).map_err(|error| error.1))
    }

    /// This node's part of an answer, empty.
    fn own_part(&self, cluster: &Cluster) -> NodeUsage {
        let status = cluster.status();
        NodeUsage {
            node: status.node.to_string(),
            address: status.address.to_string(),
            ..Default::default()
        }
    }

    /// As [`NodeAdmin::usage`], with what all nodes hold.
    pub(super) async fn usage_wide(
        &self,
        cluster: &Cluster,
        path: &str,
    ) -> Result<Usage, ApiError> {
        let (mut usage, mut all) = (Usage::default(), WideUsage::default());
        let (mut own, mut others) = (self.own_part(cluster), Others::of(cluster).await);
        let mut batches = std::pin::pin!(self.spots(path, IDS_MAX).await?);
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            let ids: Vec<_> = batch.iter().map(|(directory, at)| id_at(directory, *at)).collect();
            let mut holders = vec![Holders::default(); batch.len()];
            for (at, held) in others.held(&ids).await {
                let part = &mut others.get_mut(at).usage;
                for one in held {
                    let (directory, index) = &batch[one.0 as usize];
                    let Some(object) = directory.object(*index) else { continue };
                    let (bytes, is_complete) = (one.1.min(object.version.size), one.is_complete());
                    holders[one.0 as usize].add(bytes, is_complete);
                    part.files += u64::from(is_complete);
                    part.bytes += bytes;
                    part.pinned_files += u64::from(one.is_pinned());
                }
            }
            for ((directory, index), mut holders) in batch.iter().zip(holders) {
                let Some(object) = directory.object(*index) else { continue };
                let entry = self.file_entry(directory, *index, &object);
                usage.files += 1;
                usage.bytes += entry.size;
                usage.cached_files += u64::from(entry.cached);
                usage.cached_bytes += entry.cached_bytes;
                usage.pinned_files += u64::from(entry.pinned);
                if entry.cached || 0 < entry.cached_bytes {
                    own.pinned_files += u64::from(self.chain.cache.is_pinned(&object.id()));
                    holders.add(entry.cached_bytes, entry.cached);
                }
                holders.count(&mut all);
            }
        }
        (own.files, own.bytes) = (usage.cached_files, usage.cached_bytes);
        let heard = others.heard().map(|other| other.usage.clone());
        all.nodes = std::iter::once(own).chain(heard).collect();
        all.unheard = others.unheard();
        usage.cluster = Some(Box::new(all));
        Ok(usage)
    }

    /// As [`NodeAdmin::free_below`], on all nodes.
    pub(super) async fn free_wide(&self, cluster: &Cluster, path: &str) -> Result<Usage, ApiError> {
        let (mut own, mut others) = (self.own_part(cluster), Others::of(cluster).await);
        let (places, paths) = self.places_of(path);
        // Before anything is dropped, for what one node still fetches ahead brings it back on another.
        let question = Question::Free { ids: Vec::new(), places: places.clone() };
        tokio::join!(self.free_these(Vec::new(), &paths), others.order(&question));
        let mut batches = std::pin::pin!(self.spots(path, IDS_MAX).await?);
        while let Some(batch) = batches.next().await {
            let ids: Vec<_> = batch?.iter().map(|(directory, at)| id_at(directory, *at)).collect();
            let question = Question::Free { ids: ids_as_text(&ids), places: places.clone() };
            let (here, told) = tokio::join!(self.free_these(ids, &paths), others.order(&question));
            add_freed(&mut own, &here);
            for (at, told) in told {
                add_freed(&mut others.get_mut(at).usage, &told);
            }
        }
        Ok(changed(own, &others, 0, 0))
    }

    /// Pins a path on all nodes: each keeps what it owns.
    pub(super) async fn pin_wide(&self, cluster: &Cluster, path: &str) -> Result<Usage, ApiError> {
        // The path must exist: a pin on a misspelt one would keep nothing and say so nowhere.
        self.target(path).await?;
        let (mut own, mut others) = (self.own_part(cluster), Others::of(cluster).await);
        let places = Place::of_path(path, &self.mounted_places());
        let noted = self.note_pins(&places, true).await?;
        let question = Question::Pin { places, noted };
        let (here, told) = tokio::join!(self.share_pin(path), others.order(&question));
        let (files, bytes) = here?;
        (own.files, own.bytes, own.pinned_files) = (files, bytes, files);
        add_kept(&mut others, told);
        let usage = self.usage(path).await?;
        let mut usage = Usage {
            pinned_files: usage.pinned_files,
            ..changed(own, &others, usage.files, usage.bytes)
        };
        note(&mut usage, noted);
        Ok(usage)
    }

    /// Takes back [`NodeAdmin::pin_wide`], and this node's own pins of the path.
    pub(super) async fn unpin_wide(
        &self,
        cluster: &Cluster,
        path: &str,
    ) -> Result<Usage, ApiError> {
        let lists = [&self.shared_pins, &self.pins];
        if let Some(pinned) = lists.iter().find_map(|pins| self.pinned_above(pins, path)) {
            return Err(pinned);
        }
        let places = Place::of_path(path, &self.mounted_places());
        // What etcd pins no more may be out of this node's list before it is looked for there.
        let was_pinned = lists.iter().any(|pins| pins.any_below(path)) || self.is_noted(&places);
        let noted = self.note_pins(&places, false).await?;
        let usage = self.unpin_below(path, was_pinned).await?;
        let (mut own, mut others) = (self.own_part(cluster), Others::of(cluster).await);
        let told = others.order(&Question::Unpin { places, noted }).await;
        (own.files, own.bytes) = (usage.files, usage.cached_bytes);
        add_kept(&mut others, told);
        let mut usage = changed(own, &others, usage.files, usage.bytes);
        note(&mut usage, noted);
        Ok(usage)
    }

    /// As [`NodeAdmin::check_below`], on all nodes at once.
    pub(super) async fn check_wide(
        &self,
        cluster: &Cluster,
        path: &str,
        out: &Lines<CheckEvent>,
    ) -> Result<(), ApiError> {
        let total = self.usage_wide(cluster, path).await?.cluster.unwrap_or_default();
        let files_total = total.nodes.iter().map(|node| node.files).sum();
        let bytes_total = total.nodes.iter().map(|node| node.bytes).sum();
        let (mut own, mut others) = (self.own_part(cluster), Others::of(cluster).await);
        let (mut files, mut bytes, mut corrupt) = (0, 0, 0);
        let mut batches = std::pin::pin!(self.spots(path, CHECK_BATCH).await?);
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            let ids: Vec<_> = batch.iter().map(|(directory, at)| id_at(directory, *at)).collect();
            let question = Question::Check { ids: ids_as_text(&ids) };
            let (here, told) = tokio::join!(self.check_these(&ids), others.order(&question));
            own.files += here.files;
            own.bytes += here.bytes;
            let mut bad: Vec<_> =
                here.corrupt.into_iter().map(|at| (own.address.clone(), at)).collect();
            corrupt += bad.len() as u64;
            for (at, told) in told {
                let Told::Checked { files, bytes, corrupt: places } = told else { continue };
                let other = others.get_mut(at);
                other.usage.files = other.usage.files.saturating_add(files);
                other.usage.bytes = other.usage.bytes.saturating_add(bytes);
                other.corrupt += places.len() as u64;
                bad.extend(places.into_iter().map(|at| (other.address().to_owned(), at)));
            }
            for (address, at) in bad {
                if let Some((directory, index)) = batch.get(at as usize)
                    && !out.send(corrupt_on(address, directory, *index)).await
                {
                    return Ok(());
                }
            }
            (files, bytes) = (own.files, own.bytes);
            for other in others.all() {
                files = files.saturating_add(other.usage.files);
                bytes = bytes.saturating_add(other.usage.bytes);
            }
            if !out.send(CheckEvent::Progress { files, bytes, files_total, bytes_total }).await {
                return Ok(());
            }
        }
        let here =
            CheckEvent::Node { address: own.address, files: own.files, bytes: own.bytes, corrupt };
        let there = others.all().filter(|other| 0 < other.usage.files || other.is_heard());
        let there = there.map(|other| {
            corrupt += other.corrupt;
            let NodeUsage { address, files, bytes, .. } = other.usage.clone();
            CheckEvent::Node { address, files, bytes, corrupt: other.corrupt }
        });
        let there: Vec<_> = there.collect();
        let unheard = others.unheard().into_iter().map(CheckEvent::Unheard);
        let done = CheckEvent::Done { files, bytes, corrupt };
        let last = std::iter::once(here).chain(there).chain(unheard).chain([done]);
        for event in last {
            out.send(event).await;
        }
        Ok(())
    }

    /// As [`Admin::ls`](feedline_gateway::Admin::ls), with where each file is.
    pub(super) async fn ls_wide(
        &self,
        cluster: &Cluster,
        query: &PathQuery,
        out: &Lines<LsEntry>,
    ) -> Result<(), ApiError> {
        let mut listing = WideListing {
            node: self,
            cluster,
            own: cluster.status().address.to_string(),
            others: Others::of(cluster).await,
            waiting: Vec::new(),
            cached: query.cached,
            out,
        };
        match self.target(&query.path).await? {
            Target::File(directory, index) => {
                listing.add(&directory, index, query).await;
            }
            Target::Directory(directory) if !query.recursive => {
                listing.add_all(&directory, query).await;
            }
            Target::Directory(_) => {
                let mut directories = std::pin::pin!(self.chain.namespace.walk(&query.path));
                while let Some(directory) = directories.next().await {
                    let directory = directory.map_err(super::api_error)?;
                    if !listing.add_all(&directory, query).await {
                        return Ok(());
                    }
                }
            }
        }
        listing.flush().await;
        let unheard = listing.others.unheard();
        if !unheard.is_empty() {
            let path = query.path.clone();
            out.send(LsEntry { unheard, ..self.directory_entry(path) }).await;
        }
        Ok(())
    }

    /// Where one file is.
    pub(super) async fn stat_wide(&self, cluster: &Cluster, object: &Object, entry: &mut LsEntry) {
        let mut others = Others::of(cluster).await;
        let id = object.id();
        if entry.cached {
            entry.nodes.push(cluster.status().address.to_string());
        }
        for (at, held) in others.held(&[id]).await {
            if held.iter().any(|held| held.is_complete()) {
                entry.nodes.push(others.get(at).address().to_owned());
            }
        }
        entry.owner = owner(cluster, &id);
        entry.unheard = others.unheard();
    }
}

/// Who holds one file.
#[derive(Debug, Clone, Default)]
struct Holders {
    complete: u64,
    bytes: u64,
    bytes_max: u64,
}

impl Holders {
    fn add(&mut self, bytes: u64, is_complete: bool) {
        self.complete += u64::from(is_complete);
        self.bytes += bytes;
        self.bytes_max = self.bytes_max.max(bytes);
    }

    fn count(&self, all: &mut WideUsage) {
        all.files += self.complete.min(1);
        all.copies += self.complete.saturating_sub(1);
        all.bytes += self.bytes_max;
        all.copies_bytes += self.bytes - self.bytes_max;
    }
}

/// A listing whose entries wait, some at a time, for what the others say of them.
struct WideListing<'a> {
    node: &'a NodeAdmin,
    cluster: &'a Cluster,
    own: String,
    others: Others<'a>,
    waiting: Vec<(LsEntry, Option<ObjectId>)>,
    cached: bool,
    out: &'a Lines<LsEntry>,
}

impl WideListing<'_> {
    /// False: the client is gone.
    async fn add_all(&mut self, directory: &Directory, query: &PathQuery) -> bool {
        for index in 0..directory.len() {
            if !self.add(directory, index, query).await {
                return false;
            }
        }
        true
    }

    async fn add(&mut self, directory: &Directory, index: usize, query: &PathQuery) -> bool {
        match directory.object(index) {
            Some(object) => {
                let entry = self.node.file_entry(directory, index, &object);
                self.waiting.push((entry, Some(object.id())));
            }
            // A listing of what is cached below shows the files alone.
            None if query.recursive && query.cached => {}
            None => {
                let path = directory.child_path(directory.entry(index).name);
                self.waiting.push((self.node.directory_entry(path), None));
            }
        }
        self.waiting.len() < LS_BATCH || self.flush().await
    }

    /// Sends what waits.
    async fn flush(&mut self) -> bool {
        let mut waiting = std::mem::take(&mut self.waiting);
        let ids: Vec<_> = waiting.iter().filter_map(|(_, id)| *id).collect();
        let held = if ids.is_empty() { Vec::new() } else { self.others.held(&ids).await };
        let mut is_somewhere = vec![false; ids.len()];
        let mut files: Vec<_> = waiting.iter_mut().filter(|(_, id)| id.is_some()).collect();
        for (entry, id) in &mut files {
            if entry.cached {
                entry.nodes.push(self.own.clone());
            }
            entry.owner = id.and_then(|id| owner(self.cluster, &id));
        }
        for (at, held) in held {
            for one in held {
                is_somewhere[one.0 as usize] = true;
                if one.is_complete() {
                    files[one.0 as usize].0.nodes.push(self.others.get(at).address().to_owned());
                }
            }
        }
        let mut is_somewhere = is_somewhere.into_iter();
        for (entry, id) in waiting {
            let elsewhere = id.is_some() && is_somewhere.next() == Some(true);
            let is_wanted = !self.cached || entry.directory || elsewhere || 0 < entry.cached_bytes;
            if is_wanted && !self.out.send(entry).await {
                return false;
            }
        }
        true
    }
}

/// The address of the node that keeps an object for all.
fn owner(cluster: &Cluster, id: &ObjectId) -> Option<String> {
    match cluster.load_places(id).into_iter().next()?.0 {
        LoadPlace::Here => Some(cluster.address().to_string()),
        LoadPlace::Peer(_, address) => Some(address.to_string()),
    }
}

fn corrupt_on(address: String, directory: &Directory, index: usize) -> CheckEvent {
    CheckEvent::Corrupt {
        path: directory.child_path(directory.entry(index).name),
        detail: "does not match its checksum; dropped, the next read fetches it".into(),
        node: Some(address),
    }
}

fn add_freed(part: &mut NodeUsage, told: &Told) {
    if let Told::Freed { files, bytes, pinned } = told {
        part.files = part.files.saturating_add(*files);
        part.bytes = part.bytes.saturating_add(*bytes);
        part.pinned_files = part.pinned_files.saturating_add(*pinned);
    }
}

fn add_kept(others: &mut Others<'_>, told: Vec<(usize, Told)>) {
    for (at, told) in told {
        if let Told::Kept { files, bytes } = told {
            let part = &mut others.get_mut(at).usage;
            (part.files, part.bytes, part.pinned_files) = (files, bytes, files);
        }
    }
}

/// Says that nodes which did not answer will hear of it.
fn note(usage: &mut Usage, noted: bool) {
    if let Some(all) = &mut usage.cluster {
        all.noted = noted;
    }
}

/// The answer to what changes something: this node's part as one without a cluster has it, then all.
fn changed(own: NodeUsage, others: &Others<'_>, files: u64, bytes: u64) -> Usage {
    let mut all = WideUsage::default();
    let mut usage = Usage {
        files,
        bytes,
        cached_files: own.files,
        cached_bytes: own.bytes,
        pinned_files: own.pinned_files,
        cluster: None,
    };
    if files == 0 {
        (usage.files, usage.bytes) = (own.files, own.bytes);
    }
    // What a node did before it went silent is done.
    let there = others.all().filter(|other| other.is_heard() || 0 < other.usage.files);
    all.nodes = std::iter::once(own).chain(there.map(|other| other.usage.clone())).collect();
    all.unheard = others.unheard();
    for node in &all.nodes {
        all.files = all.files.saturating_add(node.files);
        all.bytes = all.bytes.saturating_add(node.bytes);
    }
    usage.cluster = Some(Box::new(all));
    usage
}
