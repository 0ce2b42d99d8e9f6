//! A walk over all directories below a path, in order, while the next ones are listed ahead.
//!
//! What goes over everything once, as a load does, passes through: behind it a listing lies in the state
//! file, where a restart would find it, so that its memory does not grow with the bucket.

use std::sync::Arc;

use feedline_model::{Directory, EntryKind, EntryRef, ReadError};
use futures::stream::{self, Stream};
use tokio::sync::watch;

use crate::inner::{Inner, Outcome, wait};
use crate::namespace::Namespace;

/// Of a walk that passes through: names listed ahead of the visitor, by the mean of the directories before.
/// A load takes some thousand a second, and a LIST under way holds the answer's XML and its entries, a
/// megabyte for a thousand names.
const NAMES_AHEAD: usize = 8_192;

/// Directories listed ahead before anything is known of their size, and of very large ones.
const AHEAD_MIN: usize = 4;

/// How far ahead of its visitor a walk lists.
#[derive(Debug, Clone, Copy)]
enum Ahead {
    /// As many directories as may be listed at a time.
    All,
    /// So many that their names are few; counted are the directories visited, and the names in them.
    Few { directories: usize, names: usize },
}

impl Ahead {
    fn visited(&mut self, directory: &Directory) {
        if let Self::Few { directories, names } = self {
            *directories += 1;
            *names += directory.len();
        }
    }

    fn directories(self, lists_max: usize) -> usize {
        match self {
            Self::All => lists_max,
            Self::Few { directories: 0, .. } => AHEAD_MIN.min(lists_max),
            Self::Few { directories, names } => {
                let mean = names.div_ceil(directories).max(1);
                (NAMES_AHEAD / mean).max(AHEAD_MIN).min(lists_max)
            }
        }
    }
}

/// A directory still to be visited.
struct Next {
    path: String,
    /// Its listing, once begun ahead of the visit.
    begun: Option<watch::Receiver<Option<Outcome>>>,
}

impl Next {
    /// Begins to list the directory, as a task of its own.
    fn begin(&mut self, inner: &Arc<Inner>) {
        if self.begun.is_some() {
            return;
        }
        let (sender, receiver) = watch::channel(None);
        let (inner, path) = (Arc::clone(inner), self.path.clone());
        let handle = inner.handle.clone();
        handle.spawn(async move {
            let outcome = inner.list(&path).await;
            // The walk may have ended early.
            let _ = sender.send(Some(outcome));
        });
        self.begun = Some(receiver);
    }
}

impl Namespace {
    /// All directories at and below `path`, each before those in it, siblings in name order.
    ///
    /// Up to `lists_max` listings are fetched ahead of the visitor. A directory that cannot be
    /// listed is an error of its own in the stream, and the walk goes on; one that vanished
    /// meanwhile is left out. Nothing at `path`: an empty stream. Dropping the stream ends the walk.
    ///
    /// Cost: memory for the paths of the siblings of each directory on the way down.
    pub fn walk(
        &self,
        path: &str,
    ) -> impl Stream<Item = Result<Arc<Directory>, ReadError>> + Send + use<> {
        self.go_over(path, false)
    }

    /// A [walk](Namespace::walk) that lists some thousand names ahead, and leaves no listing in memory
    /// which was not there for others: when the visitor asks for the next, the last one is left to the
    /// state file, if there is one. Who needs it later has it from there, without a LIST.
    pub fn pass_through(
        &self,
        path: &str,
    ) -> impl Stream<Item = Result<Arc<Directory>, ReadError>> + Send + use<> {
        self.go_over(path, true)
    }

    fn go_over(
        &self,
        path: &str,
        passes: bool,
    ) -> impl Stream<Item = Result<Arc<Directory>, ReadError>> + Send + use<> {
        let inner = Arc::clone(&self.inner);
        let stack = vec![Next { path: path.to_owned(), begun: None }];
        let ahead = if passes { Ahead::Few { directories: 0, names: 0 } } else { Ahead::All };
        let walk = (inner, stack, None::<Arc<Directory>>, ahead);
        stream::unfold(walk, move |(inner, mut stack, last, mut ahead)| async move {
            if let (Some(last), Some(persist)) = (last, &inner.persist) {
                persist.rest(last);
            }
            loop {
                let next = stack.iter_mut().rev().take(ahead.directories(inner.lists_max));
                next.for_each(|next| next.begin(&inner));
                let Next { path, begun } = stack.pop()?;
                let visited = wait(begun?, &path).await;
                let mut last = None;
                let item = match visited {
                    Ok(None) => continue,
                    Ok(Some(directory)) => {
                        ahead.visited(&directory);
                        last = passes.then(|| Arc::clone(&directory));
                        // The first in name order comes to lie on top.
                        let below = (0..directory.len()).rev().map(|index| directory.entry(index));
                        let below = below.filter(|entry| entry.kind == EntryKind::Directory);
                        let path_of = |entry: EntryRef<'_>| directory.child_path(entry.name);
                        stack.extend(below.map(|entry| Next { path: path_of(entry), begun: None }));
                        Ok(directory)
                    }
                    Err(error) => Err(error),
                };
                return Some((item, (inner, stack, last, ahead)));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Ahead;

    #[test]
    fn what_passes_through_lists_as_many_directories_ahead_as_have_some_thousand_names() {
        let few = |directories, names| Ahead::Few { directories, names }.directories(64);
        assert_eq!([few(0, 0), few(1, 10_000)], [4, 4], "nothing is known, and large ones");
        assert_eq!([few(10, 10_000), few(40, 10_000)], [8, 32]);
        assert_eq!([few(100, 10_000), few(100, 0)], [64, 64], "small ones");
        assert_eq!(Ahead::Few { directories: 0, names: 0 }.directories(2), 2);
        assert_eq!(Ahead::All.directories(64), 64);
    }
}
