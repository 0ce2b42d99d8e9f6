//! Fakes and conformance suites for the tests of every other crate; only ever a dev-dependency.
//!
//! - [`clock`]: [`FakeClock`], moved by hand, and [`RealClock`] for tests that need real time.
//! - [`memory`]: [`MemorySource`], a read-chain link over objects in memory that counts and fails.
//! - [`lister`]: [`MemoryLister`], listings with S3's order, folding and pages.
//! - [`conformance`]: what every `BlockSource` and every `Lister` must do, as functions.
//! - [`authority`]: certificates for nodes that speak TLS, good ones and bad ones.
//! - [`bytes_of`]: reproducible content.
//!
//! # Invariants
//!
//! - Nothing here is random but the keys of certificates: equal seeds and equal calls give equal bytes and equal answers.

pub mod authority;
pub mod bytes_of;
pub mod clock;
pub mod conformance;
pub mod lister;
pub mod memory;
pub mod process;

pub use authority::{Authority, NodeFiles};
pub use bytes_of::{object_bytes, object_range};
pub use clock::{FakeClock, RealClock};
pub use lister::MemoryLister;
pub use memory::{Hold, MemorySource, ReadRecord};
