//! Puts what the state file knew into an empty table.

use std::collections::HashMap;
use std::sync::Arc;

use crate::gather::DirectoryListing;
use crate::mounts::{Mounts, parent};
use crate::state::Loaded;
use crate::table::{Table, has_directory};

/// Fills `table`. Left out: listings dated in the future (the clock was set back), and directories
/// that the listing of their parent denies (the record of their removal was lost).
pub(crate) fn fill(
    table: &Table,
    mounts: &Mounts,
    loaded: HashMap<Arc<str>, Loaded>,
    now_ms: u64,
    ttl_ms: u64,
) {
    // Parents sort before their children, so each parent is there to be asked.
    let mut sorted: Vec<_> = loaded.into_iter().collect();
    sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (path, Loaded { listed_ms, content, .. }) in sorted {
        let Some(place) = mounts.place(&path).filter(|_| listed_ms <= now_ms) else { continue };
        let name = path.rsplit('/').next().unwrap_or(&path);
        let denied = !place.is_root
            && table.get(parent(&path)).is_some_and(|found| !has_directory(&found.directory, name));
        if denied {
            continue;
        }
        let source = mounts.get(place.mount).lister.source();
        let origin = Some((source, place.key_prefix.as_str().into()));
        let (mut directory, _) = content.builder.build(&path, origin, listed_ms, ttl_ms);
        directory.changed_ms = content.changed_ms;
        let (hidden, examples) = (content.hidden, Vec::new());
        table.restore(DirectoryListing { directory, hidden, examples });
    }
}
