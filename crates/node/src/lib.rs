//! The only place that knows everyone: configuration, the chain of links, the running role.
//!
//! # Invariants
//!
//! - Links are nested in `chain`, and nowhere else.
//! - The real clock is asked in [`clock`] alone.
//! - Credentials are no setting; they come from the environment that the store reads.
//!
//! # Reading order
//!
//! [`config`] turns text into a [`config::ResolvedConfig`]; `chain` nests the links of one read;
//! [`role`] is a node from start to end; `admin` and `status` answer the admin API; [`registry`] is
//! how commands find a running daemon; `loads` are the jobs that bring data sets in.

mod admin;
mod chain;
pub mod clock;
mod cluster;
pub mod config;
mod etcd;
mod files;
mod loads;
pub mod logging;
mod members;
mod orders;
pub mod paths;
mod pins;
mod reach;
pub mod registry;
pub mod role;
mod router;
mod s3;
mod secrets;
mod signals;
mod status;

pub use etcd::{ReachedEtcd, reach_etcd};
pub use feedline_gateway::{Client, ClientError, ItemStream, api};
/// The object stores, for commands that write to a bucket without a mount.
pub use feedline_store as store;
pub use reach::{Reached, Unreached, reach};
pub use registry::{Registered, locate, log_file, make_dir, running};
pub use role::{Node, StartError, StopError};
