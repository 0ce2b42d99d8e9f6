//! Nodes on real sockets: over caches in memory, and against peers that lie, hang and die.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic as the test itself may")]

mod circles;
mod common;
mod crowd;
mod etcd;
mod full;
mod hostile;
mod lanes;
mod loads;
mod nodes;
mod questions;
mod slow;
mod sources;
mod tls;
mod trust;
mod versions;
