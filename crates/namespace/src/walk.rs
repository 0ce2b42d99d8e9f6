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

    /// A [walk](Namespace::walk) that leaves no listing in memory which was not there for others: when
    /// the visitor asks for the next, the last one is left to the state file, if there is one. Who
    /// needs it later has it from there, without a LIST.
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
        let walk = (inner, stack, None::<Arc<Directory>>);
        stream::unfold(walk, move |(inner, mut stack, last)| async move {
            if let (Some(last), Some(persist)) = (last, &inner.persist) {
                persist.rest(last);
            }
            loop {
                let ahead = stack.iter_mut().rev().take(inner.lists_max);
                ahead.for_each(|next| next.begin(&inner));
                let Next { path, begun } = stack.pop()?;
                let visited = wait(begun?, &path).await;
                let mut last = None;
                let item = match visited {
                    Ok(None) => continue,
                    Ok(Some(directory)) => {
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
                return Some((item, (inner, stack, last)));
            }
        })
    }
}
