//! The HTTP side of a node: the admin API on a Unix socket, its client, and Prometheus metrics.
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
//! - No authentication beyond the socket's mode. The TCP address serves metrics and health only.
//!
//! # Reading order
//!
//! [`api`] is the contract, [`admin`] what the daemon implements, [`server`] and [`client`] the two
//! ends of the socket, [`metrics`] the table of metric names.

pub mod admin;
pub mod api;
pub mod client;
pub mod metrics;
pub mod server;

pub use admin::{Admin, Lines};
pub use api::ApiError;
pub use client::{Client, ClientError, ItemStream};
pub use server::{Server, ServerError};
