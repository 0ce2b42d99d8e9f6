//! Asks the store: one directory by LIST with delimiter, or a whole subtree without.
//!
//! A listing is dated by the moment *before* its first page was asked for, so that "no older than
//! the TTL" holds for every entry of it, however many pages it took.

use std::collections::HashMap;

use feedline_model::{ListPage, ListRequest, ReadError};

use crate::gather::{DirectoryListing, Gather};
use crate::inner::Inner;
use crate::mounts::{Mount, Place};

/// A store that broke the protocol of listings.
fn broken(prefix: &str, cause: &str) -> ReadError {
    ReadError::Rejected { location: prefix.into(), cause: cause.into() }
}

/// Calls `take` with each page of the listing, in order.
async fn pages(
    inner: &Inner,
    mount: &Mount,
    prefix: &str,
    delimiter: bool,
    mut take: impl FnMut(ListPage) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let mut request =
        ListRequest { prefix: prefix.to_owned(), delimiter, after: None, token: None };
    loop {
        let mut page = inner.page(mount, &request).await?;
        let next = page.next.take();
        take(page)?;
        match next {
            None => return Ok(()),
            Some(next) if request.token.as_ref() == Some(&next) => {
                return Err(broken(prefix, "the store gave the same page token twice"));
            }
            next => request.token = next,
        }
    }
}

/// What follows `prefix` in `key`.
fn rest<'a>(key: &'a str, prefix: &str) -> Result<&'a str, ReadError> {
    key.strip_prefix(prefix)
        .ok_or_else(|| broken(prefix, &format!("the store listed {key:?}, outside of the prefix")))
}

/// Lists one directory. `None`: the store knows no key below it.
///
/// Cost: one LIST per 1,000 names.
pub(crate) async fn directory(
    inner: &Inner,
    path: &str,
    place: Place,
) -> Result<Option<DirectoryListing>, ReadError> {
    let mount = inner.mounts.get(place.mount);
    let prefix = place.key_prefix.clone();
    let listed_ms = inner.clock.unix_ms();
    let mut gather = Gather::new(path.to_owned(), place);
    pages(inner, mount, &prefix, true, |page| {
        for object in page.objects {
            gather.object(rest(&object.key, &prefix)?, object.version);
        }
        for folded in page.prefixes {
            let name = rest(&folded, &prefix)?;
            gather.directory(name.strip_suffix('/').unwrap_or(name));
        }
        Ok(())
    })
    .await?;
    Ok(gather.seal(mount.lister.source(), listed_ms, inner.ttl_ms))
}

/// All directories of a subtree under construction.
struct Subtree<'a> {
    inner: &'a Inner,
    mount: usize,
    top: &'a str,
    by_path: HashMap<String, Gather>,
}

impl Subtree<'_> {
    /// Makes sure that the directory `parts` below the top is there; `None` if it is hidden.
    fn descend(&mut self, parts: &str) -> Option<String> {
        let mut path = self.top.to_owned();
        for part in parts.split('/') {
            let gather = self.by_path.get_mut(&path)?;
            if !gather.directory_seen(part) {
                return None;
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(part);
            if !self.by_path.contains_key(&path) {
                let place = self.inner.mounts.place(&path)?;
                if place.mount != self.mount {
                    return None;
                }
                self.by_path.insert(path.clone(), Gather::new(path.clone(), place));
            }
        }
        Some(path)
    }
}

/// Lists a whole subtree of one mount. Directories come with their parents first; empty if the
/// store knows no key below `path`.
///
/// Cost: one LIST per 1,000 keys, one after another; memory for all entries of the subtree.
pub(crate) async fn subtree(
    inner: &Inner,
    path: &str,
    place: Place,
) -> Result<Vec<DirectoryListing>, ReadError> {
    let mount_index = place.mount;
    let mount = inner.mounts.get(mount_index);
    let prefix = place.key_prefix.clone();
    let listed_ms = inner.clock.unix_ms();
    let top = Gather::new(path.to_owned(), place);
    let by_path = HashMap::from([(path.to_owned(), top)]);
    let mut tree = Subtree { inner, mount: mount_index, top: path, by_path };
    // Keys of one directory mostly come together, so the last one found is remembered.
    let mut last: Option<(String, Option<String>)> = None;
    pages(inner, mount, &prefix, false, |page| {
        for object in page.objects {
            let rest = rest(&object.key, &prefix)?;
            let Some((parts, name)) = rest.rsplit_once('/') else {
                if let Some(top) = tree.by_path.get_mut(path) {
                    top.object(rest, object.version);
                }
                continue;
            };
            if last.as_ref().is_none_or(|(known, _)| known != parts) {
                last = Some((parts.to_owned(), tree.descend(parts)));
            }
            if let Some((_, Some(at))) = &last
                && let Some(gather) = tree.by_path.get_mut(at)
            {
                gather.object(name, object.version);
            }
        }
        Ok(())
    })
    .await?;
    let mut gathers: Vec<Gather> = tree.by_path.into_values().collect();
    gathers.sort_by(|a, b| a.path().cmp(b.path()));
    let source = mount.lister.source();
    Ok(gathers
        .into_iter()
        .filter_map(|gather| gather.seal(source, listed_ms, inner.ttl_ms))
        .collect())
}
