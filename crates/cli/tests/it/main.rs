//! The real `feedline` binary against an S3 on a socket, on real FUSE mounts.
//!
//! They need root and `/dev/fuse`, and fail with the reason without them. Each test owns a
//! [`sandbox::Sandbox`], which checks at its end that no mount, process or file is left.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic as the test itself may")]

mod bench_names;
mod cluster;
mod cluster_etcd;
mod cluster_facts;
mod cluster_load;
mod cluster_rot;
mod cluster_wide;
mod compare;
mod configured;
mod demo;
mod errors;
mod full_node;
mod hard;
mod hints;
mod learned;
mod lifecycle;
mod load;
mod loaders;
mod memory;
mod mount_helper;
mod names;
mod netns;
mod plain;
mod python;
mod readme;
mod s3;
mod sandbox;
mod tls;
mod versions;
mod watchdog;
