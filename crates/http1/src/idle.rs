//! Connections between two requests: the one used last is used first, so that those too many grow old.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use feedline_model::Clock;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Handle;

use crate::Connection;
use crate::head::HEAD_BYTES;

/// Connections between two requests.
pub struct Idle<S> {
    connections: Mutex<Kept<S>>,
    max: usize,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    tasks: Handle,
}

struct Kept<S> {
    /// The one used last is last; since when each is idle, by the clock.
    connections: VecDeque<(Duration, Connection<S>)>,
    /// A task looks after them.
    watched: bool,
}

impl<S> fmt::Debug for Idle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.connections.lock().connections.len();
        write!(f, "Idle({kept} of {})", self.max)
    }
}

impl<S: AsyncRead + Unpin + Send + 'static> Idle<S> {
    /// At most `max`, each for `timeout`; `tasks` looks after them.
    #[must_use]
    pub fn new(max: usize, timeout: Duration, clock: Arc<dyn Clock>, tasks: Handle) -> Arc<Self> {
        let kept = Kept { connections: VecDeque::new(), watched: false };
        Arc::new(Self { connections: Mutex::new(kept), max, timeout, clock, tasks })
    }

    fn is_old(&self, since: Duration) -> bool {
        self.timeout <= self.clock.monotonic().saturating_sub(since)
    }

    /// A connection that is open as far as this end knows.
    pub fn take(&self) -> Option<Connection<S>> {
        loop {
            let (since, mut connection) = self.connections.lock().connections.pop_back()?;
            if !self.is_old(since) && is_open(&mut connection) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection on which an answer was read to its end.
    pub fn put(self: &Arc<Self>, mut connection: Connection<S>) {
        // More than was asked for: what follows could be taken for an answer.
        if !connection.read.is_empty() {
            return;
        }
        // A long head made it grow, and what was taken from it is not free before this.
        if HEAD_BYTES < connection.read.capacity() {
            connection.read = bytes::BytesMut::new();
        }
        connection.read.reserve(HEAD_BYTES);
        let mut kept = self.connections.lock();
        if self.max <= kept.connections.len() {
            kept.connections.pop_front();
        }
        kept.connections.push_back((self.clock.monotonic(), connection));
        if !std::mem::replace(&mut kept.watched, true) {
            let (idle, clock) = (Arc::downgrade(self), Arc::clone(&self.clock));
            self.tasks.spawn(watch(idle, clock, self.timeout / 4));
        }
    }

    /// Closes what is too old. False: none is left to look after.
    fn close_old(&self) -> bool {
        let mut old = Vec::new();
        let mut kept = self.connections.lock();
        while let Some((since, _)) = kept.connections.front()
            && self.is_old(*since)
        {
            old.extend(kept.connections.pop_front());
        }
        kept.watched = !kept.connections.is_empty();
        kept.watched
    }
}

/// Closes idle connections when their time is over, as long as there are any.
async fn watch<S: AsyncRead + Unpin + Send + 'static>(
    idle: Weak<Idle<S>>,
    clock: Arc<dyn Clock>,
    pause: Duration,
) {
    loop {
        clock.sleep(pause).await;
        if !idle.upgrade().is_some_and(|idle| idle.close_old()) {
            return;
        }
    }
}

/// False: the peer has closed it, or sent what nobody asked for.
fn is_open<S: AsyncRead + Unpin>(connection: &mut Connection<S>) -> bool {
    let mut byte = [0];
    let mut context = Context::from_waker(Waker::noop());
    let mut buffer = ReadBuf::new(&mut byte);
    Pin::new(&mut connection.io).poll_read(&mut context, &mut buffer).is_pending()
}
