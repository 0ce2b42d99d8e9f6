//! SIGTERM and SIGINT, caught from before anything is mounted.
//!
//! The default action of both ends the process at once, which would leave a mount behind that nobody
//! serves. So a node that ends by signals catches them first: until it serves they are only
//! recorded, and [`crate::Node::serve_until_signal`] acts on what it finds.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The caught signals. They stay caught for the life of the process.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches both from now on. Must be called within a tokio runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one, also of one that came before this was asked. May be dropped and
    /// asked again.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The next signal if they are caught, else never.
pub(crate) async fn next_of(signals: &mut Option<Signals>) -> &'static str {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}
