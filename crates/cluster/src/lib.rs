//! Nodes talking to nodes: the ones that mount the same bucket share one cache.
//!
//! Each object has an owner among the nodes, the same in everybody's eyes. [`Link`] stands between a
//! node's cache and the bucket: a miss on an object of another node asks that node, which answers
//! through its own cache, so that the bucket is asked once for each object, by its owner.
//!
//! ```text
//!  reader                                     owner
//!  mount -> cache -> Link --/peer/read--> server -> cache -> Link -> bucket
//!                      |                                       ^
//!                      '-- owner down, slow, full, wrong ------' the next candidate, then the bucket
//! ```
//!
//! # Invariants
//!
//! - Losing any peer, at any moment, costs time and requests, never a read and never a byte.
//! - Requests never go round in circles: who is asked by a peer for bytes asks no other.
//! - What crosses the wire has a version, types of its own (`wire`) and a checksum.
//! - Nothing of a peer's is waited for or kept without a limit.
//!
//! # Deliberately absent
//!
//! - No master and no agreement: nodes whose views of the members differ for a while fetch some
//!   objects twice, and that is all.
//! - No names, no listings: each node lists the bucket itself.
//!
//! # Reading order
//!
//! [`placement`], [`membership`], `sources`, `book` and `greeters` (how members are found: `dns`, `etcd`; `memory`: over a restart; `facts`: what etcd holds besides), `link` (one read, followed), `handover`, `hedge` and `pace` (a peer that keeps a read waiting), `batch`, `peer` and
//! `answer` (asking), `health`, `server`, `seats`, `seldom` and `serve` (answering), `load` (files brought in by their owners), `roll` (whether one of them was lost), `ask` (all other questions), `marks`, [`wire`], `versions`,
//! `token`, `tls`, `net` and `timer` (the world); `cluster` puts them together.

mod answer;
mod ask;
mod batch;
mod book;
mod cluster;
mod dns;
mod etcd;
mod etcd_url;
mod facts;
mod fault;
mod greeters;
mod handover;
mod health;
mod hedge;
mod hello;
mod lanes;
mod link;
mod load;
mod marks;
pub mod membership;
mod memory;
mod net;
mod pace;
mod parts;
mod peer;
mod peers;
pub mod placement;
mod roll;
mod seats;
mod seldom;
mod serve;
mod server;
mod sources;
mod timer;
mod tls;
mod token;
mod versions;
pub mod wire;

pub use ask::{ANSWER_BYTES_MAX, Asker, Questions};
pub use cluster::{Cluster, ClusterError, ClusterStatus, PeerState, PeerStatus};
pub use dns::{Resolver, SystemResolver};
pub use etcd::{Etcd, EtcdSecrets, Mounted};
pub use etcd_url::{CLUSTER_NAME_BYTES_MAX, EtcdUrls};
pub use facts::{Change, Facts};
pub use fault::{Fault, Reason};
pub use link::Link;
pub use load::{LoadPlace, Loads};
pub use memory::Memory;
pub use net::{Accepted, Client, Listener, Net, Opened, Stream, Tcp};
pub use parts::{BodyError, ClusterConfig, ClusterParts, Entropy, Guest, LocalCopies, PortBody};
pub use placement::NodeId;
pub use roll::Roll;
pub use sources::{Announcement, Found, Heard, Source, SourceStatus, Sources};
pub use tls::{Tls, TlsFiles, TlsStatus};
pub use token::{TOKEN_BYTES_MIN, Token};
pub use versions::Versions;
