//! A cluster on this machine: a bucket, and nodes that mount it, each with a network namespace, a cache
//! directory and a mountpoint of its own. Each is what a user would start, by the same command.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use feedline_node::api::{ClusterStatus, Status};

use crate::netns::Network;
use crate::targets::Requests;
use crate::targets::lab::{Bucket, Mount, wait_until};
use crate::targets::system::System;

/// The port of every node, in its own namespace.
pub(super) const PORT: u16 = 7001;
/// A cache with room for everything.
const QUOTA_BYTES: u64 = 40 << 30;

/// What a cluster looks like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The quota of each node's cache, in bytes; as many as there are nodes.
    pub quota_bytes: Vec<u64>,
    /// More flags of every `feedline mount`.
    pub flags: Vec<String>,
    /// Time until the bucket sends the first byte, as `feedline s3sim` takes it.
    pub latency: String,
    /// What each node's link carries in each direction, in bytes a second; `None`: what the CPU can.
    pub link_bytes_per_s: Option<u64>,
}

impl Shape {
    /// So many nodes with room for everything and Feedline's defaults.
    #[must_use]
    pub fn new(nodes: usize, latency: &str) -> Self {
        Self {
            quota_bytes: vec![QUOTA_BYTES; nodes],
            flags: Vec::new(),
            latency: latency.to_owned(),
            link_bytes_per_s: None,
        }
    }
}

/// The running cluster. Dropping it ends all of it; caches and mountpoints lie below its home and stay.
#[derive(Debug)]
pub struct Nodes {
    // In the order in which they are dropped: a daemon that ends may still talk to the bucket.
    mounts: Vec<Mount>,
    bucket: Bucket,
    network: Network,
    shape: Shape,
    home: PathBuf,
    name: String,
}

impl Nodes {
    /// Serves the folder `name` of `root` as a bucket, mounts it on every node, and waits until each
    /// node knows all others. What the nodes keep lies below `home`.
    ///
    /// # Errors
    ///
    /// Without root or iproute2, or if a node does not come up.
    pub fn start(shape: &Shape, root: &Path, name: &str, home: &Path) -> Result<Self> {
        let network = Network::new(shape.quota_bytes.len(), shape.link_bytes_per_s)?;
        let at = (network.hub(), network.hub_address());
        let bucket = Bucket::start_in(root, &["--latency", &shape.latency], at)?;
        bucket.know(name)?;
        let mut this = Self {
            mounts: Vec::new(),
            bucket,
            network,
            shape: shape.clone(),
            home: home.to_owned(),
            name: name.to_owned(),
        };
        for node in 0..shape.quota_bytes.len() {
            let mount = this.mount(node)?;
            this.mounts.push(mount);
        }
        this.wait_for_members()?;
        Ok(this)
    }

    fn mount(&self, node: usize) -> Result<Mount> {
        let home = self.home.join(format!("node-{}", node + 1));
        let all = 0..self.shape.quota_bytes.len();
        let peers: Vec<String> = all.map(|node| self.address(node)).collect();
        let quota = self.shape.quota_bytes[node];
        let mut flags = vec![
            format!("--cache={}:{}KiB", home.join("cache").display(), quota >> 10),
            format!("--listen={}", self.address(node)),
            format!("--peers={}", peers.join(",")),
            "--insecure".to_owned(),
        ];
        flags.extend(self.shape.flags.iter().cloned());
        let system = System::Feedline { name: format!("node {}", node + 1), flags };
        let inside = self.network.node(node);
        Mount::new_in(&system, &self.bucket, &self.name, &home, Some(inside))
            .with_context(|| format!("node {}", node + 1))
    }

    /// Every node must know all others: until then they would place objects differently.
    fn wait_for_members(&self) -> Result<()> {
        let all = self.mounts.len();
        let knows_all = |mount: &Mount| {
            let Some(cluster) = mount.status()?.cluster else { return Ok(false) };
            let up = cluster.peers.iter().filter(|peer| peer.state == "up").count();
            anyhow::Ok(cluster.members == all as u64 && up == all - 1)
        };
        for (node, mount) in self.mounts.iter().enumerate() {
            let met = wait_until(|| knows_all(mount))?;
            ensure!(met, "node {} does not see all of the {all} nodes", node + 1);
        }
        Ok(())
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.mounts.len()
    }

    /// Where node `node`, from 0, has the bucket mounted.
    #[must_use]
    pub fn dir(&self, node: usize) -> &Path {
        &self.mounts[node].dir
    }

    /// `ADDRESS:PORT` of a node.
    #[must_use]
    pub fn address(&self, node: usize) -> String {
        format!("{}:{PORT}", self.network.address(node))
    }

    /// What a node says of itself.
    pub(super) fn status(&self, node: usize) -> Result<Status> {
        self.mounts[node].status()
    }

    /// Requests that the bucket has answered so far, by verb.
    ///
    /// # Errors
    ///
    /// If the bucket is gone.
    pub fn requests(&self) -> Result<Requests> {
        self.bucket.requests()
    }

    /// What every node says of the cluster.
    pub(super) fn clusters(&self) -> Result<Vec<ClusterStatus>> {
        let of = |node| self.status(node)?.cluster.context("a node of a cluster says so");
        (0..self.count()).map(of).collect()
    }

    /// Ends a node's daemon as a crash does.
    pub(super) fn kill(&mut self, node: usize) -> Result<()> {
        self.mounts[node].kill()
    }

    /// Mounts a node's bucket anew, so that the kernel holds nothing of it; its cache stays.
    pub(super) fn remount(&mut self, node: usize) -> Result<()> {
        let last = self.mounts.len() - 1;
        self.mounts.swap(node, last);
        if let Some(mount) = self.mounts.pop() {
            mount.end()?;
        }
        let mount = self.mount(node)?;
        self.mounts.push(mount);
        self.mounts.swap(node, last);
        self.wait_for_members()
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    pub(super) fn node(&self, node: usize) -> &Mount {
        &self.mounts[node]
    }

    fn end_all(&mut self) -> Result<()> {
        self.mounts.drain(..).try_for_each(Mount::end)
    }

    /// Ends all of it, and moves what the nodes kept to another place on the same file system.
    pub(super) fn set_aside(mut self, to: &Path) -> Result<()> {
        self.end_all()?;
        std::fs::rename(&self.home, to).with_context(|| format!("make {}", to.display()))
    }

    /// Ends all of it, and removes what the nodes kept.
    ///
    /// # Errors
    ///
    /// If a daemon does not unmount when asked to end.
    pub fn discard(mut self) -> Result<()> {
        self.end_all()?;
        std::fs::remove_dir_all(&self.home)
            .with_context(|| format!("remove {}", self.home.display()))
    }
}
