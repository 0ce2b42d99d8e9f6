//! The peers of this node by address.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::peer::{Peer, World};

/// All peers that are greeted. Never more than addresses were configured or heard of.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) world: World,
    /// In order, so that all end in one order as well.
    by_address: RwLock<BTreeMap<Arc<str>, Arc<Peer>>>,
}

impl Peers {
    pub(crate) fn new(world: World) -> Arc<Self> {
        Arc::new(Self { world, by_address: RwLock::default() })
    }

    /// The peer at an address that has been added.
    pub(crate) fn of(&self, address: &str) -> Option<Arc<Peer>> {
        self.by_address.read().get(address).cloned()
    }

    pub(crate) fn add(&self, address: &Arc<str>) -> Arc<Peer> {
        let mut peers = self.by_address.write();
        let peer = peers.entry(Arc::clone(address));
        Arc::clone(
            peer.or_insert_with(|| Arc::new(Peer::new(Arc::clone(address), self.world.clone()))),
        )
    }

    pub(crate) fn remove(&self, address: &str) {
        self.by_address.write().remove(address);
    }

    /// All, sorted by address.
    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        self.by_address.read().values().cloned().collect()
    }
}
