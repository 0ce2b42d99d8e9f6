//! The HTTP side of a node: the admin API on a Unix socket, its client, Prometheus metrics, and S3 for
//! reads on the node's port.
//!
//! # Invariants
//!
//! - The socket is mode 0600: whoever may open it may do everything that the API offers.
//! - A long answer flows through a bounded channel; a client that hangs up ends the work behind it.
//! - Metrics are rendered from a [`api::Status`] when somebody asks; a read pays nothing for them.
//!
//! # Deliberately absent
//!
//! - No logic: [`Admin`] (implemented by `node`) decides, this crate only carries.
//! - No authentication beyond the socket's mode, S3 aside. The metrics address serves metrics and health
//!   only; the node's port belongs to `cluster`, which hands S3's requests over through `node`.
//!
//! # Reading order
//!
//! [`api`] is the contract, [`admin`] what the daemon implements, [`server`] and [`client`] the two
//! ends of the socket, [`metrics`] the table of metric names. [`s3`] stands by itself.

pub mod admin;
pub mod api;
pub mod client;
mod loads;
pub mod metrics;
mod nodes;
pub mod s3;
pub mod server;

pub use admin::{Admin, Lines};
pub use api::ApiError;
pub use client::{Client, ClientError, ItemStream};
pub use s3::{S3Access, S3Endpoint, S3Keys, S3Mount, S3Parts, S3Stats};
pub use server::{Server, ServerError};
