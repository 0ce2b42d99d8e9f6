//! Measures us and others with the same loader; makes and uploads data sets.
//!
//! # Reading order
//!
//! [`dataset`] makes what is read, [`train`] is the loader (in DALI's order, which `oracle` knows),
//! [`read`], [`http`], [`meta`] and [`names`] are the plain measurements, [`targets`] composes them into the table
//! that `make bench` prints, [`compare`] into whatever a config file asks for, [`report`] draws results. [`cluster`] starts several
//! nodes on this machine, in the networks of [`netns`], and measures them. [`evict`] stands apart: it simulates what a cache
//! that is too small keeps.
//!
//! # Deliberately absent
//!
//! - No knowledge of how Feedline works inside: it measures mounted folders and runs the
//!   `feedline` command as a user would. [`evict`] alone runs a part of it, the policy of the cache.

pub mod bench;
pub mod caches;
pub mod cgroup;
pub mod cluster;
pub mod compare;
pub mod dataset;
pub mod evict;
pub mod facts;
pub mod files;
mod fio;
pub mod http;
mod interrupt;
pub mod jpeg;
mod juicefs;
pub mod loaders;
pub mod meta;
pub mod names;
pub mod netns;
pub mod read;
pub mod report;
pub mod s3fs;
mod tables;
pub mod targets;
mod time;
pub mod train;
pub mod units;

pub use bench::{BenchArgs, run};
