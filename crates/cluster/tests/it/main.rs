//! Nodes on real sockets: over caches in memory, and against peers that lie, hang and die.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic as the test itself may")]

mod circles;
mod common;
mod hostile;
mod loads;
mod nodes;
mod tls;
mod questions;
mod trust;
