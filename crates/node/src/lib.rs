//! The only place that knows everyone: configuration, the chain of links, the running role.
//!
//! # Reading order
//!
//! [`config`] turns text into a [`config::ResolvedConfig`]; `chain` nests the links of one read, in
//! one place; [`registry`] is how commands find a running daemon.

pub mod clock;
pub mod config;
pub mod logging;
pub mod paths;
pub mod registry;

pub use feedline_gateway::{Client, ClientError, ItemStream, api};
