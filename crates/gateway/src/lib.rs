//! The HTTP side of a node: the admin API on a Unix socket, and Prometheus metrics.

pub mod api;
