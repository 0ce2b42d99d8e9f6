//! An S3 server over a folder, with the latency, limits and faults of a cloud.
//!
//! ```
//! use feedline_s3sim::{FaultKind, FaultRule, S3Sim};
//!
//! # fn main() -> std::io::Result<()> {
//! let sim = S3Sim::builder().empty().latency_ms(2).start()?;
//! sim.put_object("bucket", "dir/key", b"hello");
//! sim.set_faults(FaultRule::next(FaultKind::SlowDown, 1));
//! println!("{} has served {} GETs", sim.endpoint(), sim.stats().get);
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! - Nothing of Feedline is imported: the far end of a test must not share the near end's mistakes.
//! - Without faults, an answer is right or is an S3 error; shapes change when it comes, never what.
//! - Same seed, same requests in the same order: same delays, same faults.
//!
//! # Deliberately absent
//!
//! - Virtual-host addressing, versions, access lists, HTTP/2 and TLS.
//! - The MD5 of files that were put into the folder by other means: their tag has its form, as with
//!   SSE-KMS, but no bytes are read for it. rclone takes it for the MD5: `copy --ignore-checksum`,
//!   `check --download`.
//! - Durability. Files are renamed into place but not synced, and keys that no folder can hold live
//!   in memory only.
//!
//! # Reading order
//!
//! [`sim`] is the handle. [`server`] shows what a request passes through, [`handlers`] holds the S3
//! calls, [`store`] the objects ([`folder`], [`index`], [`made_up`]); [`shape`], [`faults`], [`wire`] and
//! [`body`] make it slow and wrong. [`cli`] is the command.

#![expect(
    clippy::disallowed_methods,
    reason = "the simulator is a program of its own: it owns its clock, threads and sockets"
)]

mod body;
mod chunked;
mod cli;
mod error;
mod faults;
mod folder;
mod handlers;
mod index;
mod list;
mod made_up;
mod multipart;
mod object;
mod server;
mod shape;
mod sigv4;
mod sim;
mod stats;
mod store;
mod target;
mod wire;
mod xml;

pub use cli::{Args, run};
pub use faults::{FaultKind, FaultRule, Faults};
pub use sim::{Builder, S3Sim};
pub use stats::{Stats, Verb};
