//! From a key to the version that is served: asked of the tree, or of the bucket where the tree cannot
//! know.

use std::sync::Arc;
use std::time::Duration;

use feedline_model::{Clock, ListRequest, Lister, Object, ReadError, SourceId, Tree};

use super::S3Mount;

/// How long a lookup waits for the folder's listing before it asks for the one key: a listing of a
/// hundred thousand names takes many round trips, and goes on meanwhile.
pub(super) const LISTED_WITHIN: Duration = Duration::from_millis(500);

/// A bucket, with what of it is mounted.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) source: SourceId,
    pub(super) lister: Arc<dyn Lister>,
    /// Sorted by prefix; none lies within another.
    pub(super) scopes: Vec<Scope>,
}

/// One mounted prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) prefix: String,
    /// In the tree.
    pub(super) path: String,
    /// Something else is mounted below: the tree shows folders here that the bucket does not have.
    pub(super) is_mixed: bool,
}

/// A key found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) object: Object,
    /// The folder in the tree that said so; `None`: the bucket did.
    folder: Option<String>,
}

impl Bucket {
    /// One for each name. Of two buckets with one name, which two stores may have, the first is served.
    pub(super) fn of_mounts(mounts: Vec<S3Mount>) -> Vec<Self> {
        let paths: Vec<_> = mounts.iter().map(|mount| mount.path.clone()).collect();
        let mut buckets: Vec<Self> = Vec::new();
        for S3Mount { bucket: name, lister, prefix, path } in mounts {
            let is_below = |other: &String| {
                *other != path && (path.is_empty() || other.starts_with(&format!("{path}/")))
            };
            let is_mixed = paths.iter().any(is_below);
            let scope = Scope { prefix, path, is_mixed };
            let source = lister.source();
            match buckets.iter_mut().find(|bucket| bucket.name == name) {
                Some(bucket) if bucket.source == source => bucket.scopes.push(scope),
                Some(_) => tracing::warn!(
                    bucket = name,
                    "two mounted stores have a bucket of this name: S3 clients see the first"
                ),
                None => buckets.push(Self { name, source, lister, scopes: vec![scope] }),
            }
        }
        for bucket in &mut buckets {
            // The outermost of nested ones: keys below the others are below it as well.
            bucket.scopes.sort_by(|a, b| a.prefix.cmp(&b.prefix));
            bucket.scopes.dedup_by(|inner, outer| inner.prefix.starts_with(&outer.prefix));
        }
        buckets.sort_by(|a, b| a.name.cmp(&b.name));
        buckets
    }

    /// The mounted prefix that a key is below.
    pub(super) fn scope_of(&self, key: &str) -> Option<&Scope> {
        self.scopes.iter().find(|scope| key.starts_with(&scope.prefix))
    }

    /// The object with this key, as the tree or the bucket has it; `None`: there is none, or it is not
    /// mounted.
    ///
    /// Cost: memory if the folder's listing is known; else that listing or one LIST.
    pub(super) async fn find(
        &self,
        tree: &dyn Tree,
        clock: &dyn Clock,
        key: &str,
    ) -> Result<Option<Found>, ReadError> {
        let Some(scope) = self.scope_of(key) else { return Ok(None) };
        let mut is_new = None;
        if let Some((folder, name)) = scope.place(key) {
            let listed = match tree.peek(&folder) {
                Some(directory) => Some(directory),
                None => tokio::select! {
                    listed = tree.list(&folder) => listed?,
                    () = clock.sleep(LISTED_WITHIN) => None,
                },
            };
            if let Some(directory) = listed {
                let object = directory.find(name).and_then(|index| directory.object(index));
                // A mount within a mount may give the place to another bucket.
                let is_it = |it: &Object| it.source == self.source && *it.key == *key;
                if let Some(object) = object.filter(is_it) {
                    return Ok(Some(Found { object, folder: Some(folder) }));
                }
                is_new = directory.is_whole.then_some(folder);
            }
        }
        let found = self.ask(key).await?;
        if let (Some(_), Some(folder)) = (&found, is_new) {
            // It came since the folder was listed. The next lookup shall not have to ask.
            tree.expire(&folder);
        }
        Ok(found)
    }

    /// Asks the bucket: for keys that are no path, and those newer than the listing.
    async fn ask(&self, key: &str) -> Result<Option<Found>, ReadError> {
        let request = ListRequest { prefix: key.to_owned(), ..ListRequest::default() };
        let page = self.lister.list(&request).await?;
        let same = page.objects.into_iter().find(|listed| listed.key == key);
        Ok(same.map(|listed| {
            let object = Object { source: self.source, key: key.into(), version: listed.version };
            Found { object, folder: None }
        }))
    }
}

impl Scope {
    /// The folder of the tree in which a key would be shown, and its name there; `None` for a key that
    /// is no path.
    pub(super) fn place<'a>(&self, key: &'a str) -> Option<(String, &'a str)> {
        let rest = key.strip_prefix(&self.prefix)?;
        if !is_path(rest) {
            return None;
        }
        let (parent, name) = rest.rsplit_once('/').unwrap_or(("", rest));
        Some((join(&self.path, parent), name))
    }
}

/// True if every part between slashes is the name of a file or folder.
pub(super) fn is_path(text: &str) -> bool {
    text.split('/').all(|part| !["", ".", ".."].contains(&part))
}

/// A path of the tree.
pub(super) fn join(path: &str, below: &str) -> String {
    match (path.is_empty(), below.is_empty()) {
        (true, _) => below.to_owned(),
        (_, true) => path.to_owned(),
        _ => format!("{path}/{below}"),
    }
}

impl Found {
    /// What is known of it was wrong: the next lookup asks the bucket.
    pub(super) fn forget(&self, tree: &dyn Tree) {
        if let Some(folder) = &self.folder {
            tree.expire(folder);
        }
    }
}
