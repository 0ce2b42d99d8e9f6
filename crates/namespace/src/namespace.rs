//! The public face: opening, closing, and the answers as a [`Tree`]. What happens behind it is in
//! [`crate::inner`].

use std::sync::Arc;

use async_trait::async_trait;
use feedline_model::{Clock, Directory, Tree};
use tokio::runtime::Handle;

use crate::config::{ConfigError, Listing, NamespaceConfig};
use crate::inner::{Age, Inner, Known, Outcome, Parts};
use crate::mounts::Mounts;
use crate::persist::Persist;
use crate::preload;
use crate::restore;
use crate::state::StateFile;
use crate::table::Table;

/// The buckets as one tree. Clones share it. See the [crate].
#[derive(Debug, Clone)]
pub struct Namespace {
    pub(crate) inner: Arc<Inner>,
}

impl Namespace {
    /// Builds the tree and reads the state file. Tasks run on `handle`. With [`Listing::Eager`] it
    /// begins to list everything that the state file does not know.
    ///
    /// A state file that cannot be used is logged, and the tree works without it.
    /// Cost: reads where the listings lie in the state file, not the listings.
    ///
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for settings that cannot be.
    pub fn open(
        config: NamespaceConfig,
        clock: Arc<dyn Clock>,
        handle: Handle,
    ) -> Result<Self, ConfigError> {
        if config.lists_max == 0 {
            return Err(ConfigError::Zero { field: "lists_max" });
        }
        if config.directories_max == 0 {
            return Err(ConfigError::Zero { field: "directories_max" });
        }
        let mounts = Mounts::new(config.mounts, clock.unix_ms())?;
        let table = Arc::new(Table::new(config.directories_max));
        let ttl_ms = u64::try_from(config.metadata_ttl.as_millis()).unwrap_or(u64::MAX / 4);
        let ttl_ms = ttl_ms.min(u64::MAX / 4);
        let persist = config.state_file.and_then(|path| {
            let opened = StateFile::open(&path, mounts.identity());
            let opened = opened.inspect_err(|error| {
                let path = path.display();
                tracing::warn!(%path, %error, "listings are not kept over a restart");
            });
            let (state, loaded) = opened.ok()?;
            restore::fill(&table, &mounts, loaded, clock.unix_ms());
            Some(Persist::start(state, Arc::clone(&table), &handle))
        });
        let (listing, lists_max) = (config.listing, config.lists_max);
        let parts = Parts { mounts, table, clock, handle, ttl_ms, listing, lists_max, persist };
        let inner = Arc::new(Inner::new(parts));
        if listing == Listing::Eager {
            for (index, mount) in inner.mounts.iter().enumerate() {
                if !matches!(inner.known(&mount.path), Known::Fresh(_) | Known::Kept(Age::Fresh)) {
                    preload::in_background(&inner, index);
                }
            }
        }
        Ok(Self { inner })
    }

    /// Writes what is known to the state file and syncs it. The tree answers on; what it learns
    /// from then on is not kept.
    pub async fn close(&self) {
        if let Some(persist) = &self.inner.persist {
            persist.close().await;
        }
    }
}

#[async_trait]
impl Tree for Namespace {
    fn peek(&self, path: &str) -> Option<Arc<Directory>> {
        if let Some(lead) = self.inner.mounts.lead(path) {
            return Some(Arc::clone(lead));
        }
        match self.inner.known(path) {
            Known::Fresh(directory) => Some(directory),
            Known::Aging(directory) => {
                self.inner.refresh_in_background(path);
                Some(directory)
            }
            // What lies on disk is read by `list`: this may not block.
            Known::Outdated(_) | Known::Kept(_) | Known::Unknown => None,
        }
    }

    async fn list(&self, path: &str) -> Outcome {
        let outcome = self.inner.list(path).await;
        if matches!(outcome, Ok(Some(_))) {
            self.inner.table.want(path);
        }
        outcome
    }

    fn expire(&self, path: &str) {
        self.inner.expire(path);
    }
}
