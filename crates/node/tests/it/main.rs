//! Whole nodes: a simulated bucket behind a socket, a real cache, a real mount.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod common;
mod end_to_end;
mod faults;
mod fill;
mod larger;
mod metrics;
mod property;
mod push;
