//! A page of a listing from what the tree knows, without a request; nothing if it does not know all.
//!
//! A folder sorts by its name, its keys by the name with a slash: `a-b` comes before `a/c`, and the folder
//! `a` before `a-b`. So folders wait until no key before theirs can come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use feedline_model::{Directory, SourceId, Tree};

use super::find::{Bucket, Scope, is_path, join};
use super::listing::{Ask, Item, Page, Part};

/// The page, if every folder on it is known, no older than it may be, and shows every key that it has.
pub(super) fn page(bucket: &Bucket, tree: &dyn Tree, ask: &Ask) -> Option<Page> {
    let mut walk = Walk { tree, ask, source: bucket.source, page: Page::default() };
    for part in ask.parts(bucket) {
        let is_full = match part {
            Part::Folded(prefix) => walk.page.add(ask, Item::Prefix(prefix.to_owned())),
            Part::Keys(scope, prefix) => walk.keys(scope, prefix)?,
        };
        if is_full {
            break;
        }
    }
    Some(walk.page)
}

/// The folder of the tree that shows the keys with a prefix, and how their names begin there; `None` if
/// that is no path.
pub(super) fn folder_of<'a>(scope: &Scope, prefix: &'a str) -> Option<(String, &'a str)> {
    let rest = prefix.strip_prefix(&scope.prefix)?;
    let (parent, start) = rest.rsplit_once('/').unwrap_or(("", rest));
    if rest.contains('/') && !is_path(parent) {
        return None;
    }
    Some((join(&scope.path, parent), start))
}

struct Walk<'a> {
    tree: &'a dyn Tree,
    ask: &'a Ask,
    source: SourceId,
    page: Page,
}

/// The first entry whose name `is_before` does not hold for.
fn first_entry(directory: &Directory, is_before: impl Fn(&str) -> bool) -> usize {
    let (mut low, mut high) = (0, directory.len());
    while low < high {
        let middle = low.midpoint(high);
        if is_before(directory.name(middle)) { low = middle + 1 } else { high = middle }
    }
    low
}

impl Walk<'_> {
    /// Adds the keys with a prefix. `Some(true)`: the page is full; `None`: not all is known.
    fn keys(&mut self, scope: &Scope, prefix: &str) -> Option<bool> {
        if scope.is_mixed {
            return None;
        }
        let (path, start) = folder_of(scope, prefix)?;
        self.folder(&path, &prefix[..prefix.len() - start.len()], start)
    }

    /// Adds what a folder shows whose names begin with `start`; its keys begin with `prefix`.
    fn folder(&mut self, path: &str, prefix: &str, start: &str) -> Option<bool> {
        if self.ask.is_past(prefix) {
            return Some(false);
        }
        let directory = self.tree.peek(path)?;
        let (source, key_prefix) = directory.origin.as_ref()?;
        if !directory.is_whole || *source != self.source || **key_prefix != *prefix {
            return None;
        }
        let after = self.ask.after.strip_prefix(prefix).unwrap_or("");
        let mut waiting = BinaryHeap::new();
        // A folder that sorts before `after` by its name may not by its keys.
        let ends = after.char_indices().map(|(at, _)| at).skip(1).chain([after.len()]);
        for name in ends.map(|end| &after[..end]).filter(|name| name.starts_with(start)) {
            let found = directory.find(name).filter(|index| directory.version(*index).is_none());
            waiting.extend(found.map(|index| Reverse((format!("{name}/"), index))));
        }
        let first =
            first_entry(&directory, |name| name < start || (!after.is_empty() && name <= after));
        for index in first..directory.len() {
            let name = directory.name(index);
            if !name.starts_with(start) {
                break;
            }
            if self.up_to(Some(name), &directory, prefix, &mut waiting)? {
                return Some(true);
            }
            let Some(version) = directory.version(index) else {
                waiting.push(Reverse((format!("{name}/"), index)));
                continue;
            };
            let item = Item::Object(format!("{prefix}{name}"), version.to_version());
            if self.page.add(self.ask, item) {
                return Some(true);
            }
        }
        self.up_to(None, &directory, prefix, &mut waiting)
    }

    /// Adds the folders whose keys come before `name`; without one, all that wait.
    fn up_to(
        &mut self,
        name: Option<&str>,
        directory: &Arc<Directory>,
        prefix: &str,
        waiting: &mut BinaryHeap<Reverse<(String, usize)>>,
    ) -> Option<bool> {
        while let Some(Reverse((folder, _))) = waiting.peek()
            && name.is_none_or(|name| folder.as_str() < name)
        {
            let Some(Reverse((folder, index))) = waiting.pop() else { break };
            let below = format!("{prefix}{folder}");
            let is_full = if self.ask.is_folded {
                self.page.add(self.ask, Item::Prefix(below))
            } else {
                self.folder(&directory.child_path(directory.name(index)), &below, "")?
            };
            if is_full {
                return Some(true);
            }
        }
        Some(false)
    }
}
