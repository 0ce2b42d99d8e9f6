//! Whether the configured buckets can be reached: one LIST each, nothing mounted, for `doctor`.

use std::sync::Arc;
use std::time::Duration;

use feedline_model::{Clock, ListRequest, Lister as _, ReadError};
use feedline_store::Environment;

use crate::chain;
use crate::clock::SystemClock;
use crate::config::ResolvedConfig;
use crate::role;

/// One bucket or prefix, and how it answered.
#[derive(Debug)]
pub struct Reached {
    /// As configured.
    pub url: String,
    /// How long the LIST took, retries included, or why it failed.
    pub outcome: Result<Duration, Unreached>,
}

/// Why a bucket could not be listed.
#[derive(Debug)]
pub struct Unreached {
    /// One sentence that names it.
    pub error: String,
    /// What to do about it.
    pub way_out: String,
}

/// Lists one page of each configured bucket, with this process's credentials. Blocks, at most for the
/// retry budget of each; must not be called within a tokio runtime.
#[must_use]
pub fn reach(config: &ResolvedConfig) -> Vec<Reached> {
    let all = |unreached: &dyn Fn() -> Unreached| {
        let reached = |url: &str| Reached { url: url.to_owned(), outcome: Err(unreached()) };
        config.mounts.iter().map(|mount| reached(&mount.url)).collect()
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return all(&|| Unreached {
                error: error.to_string(),
                way_out: "raise the limit of open files".into(),
            });
        }
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let environment = Environment::from_process();
    let _within = runtime.enter();
    let (mounted, stores) = match chain::open_stores(config, &environment, &clock, runtime.handle())
    {
        Ok(stores) => stores,
        Err(error) => {
            return all(&|| Unreached {
                error: error.to_string(),
                way_out: "`feedline config` explains each setting".into(),
            });
        }
    };
    let mut reached = Vec::new();
    for mount in mounted {
        let request =
            ListRequest { prefix: mount.prefix, delimiter: true, after: None, token: None };
        let start = clock.monotonic();
        let listed = runtime.block_on(stores[&mount.source].list(&request));
        let took = clock.monotonic().saturating_sub(start);
        let outcome = listed.map(|_| took).map_err(|error: ReadError| Unreached {
            way_out: role::way_out(&error).into(),
            error: error.to_string(),
        });
        reached.push(Reached { url: mount.url, outcome });
    }
    reached
}
