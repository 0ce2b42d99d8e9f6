//! Members by a name in DNS, such as a headless service of Kubernetes: each of its addresses is a node.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use feedline_model::Clock;

use crate::book::Found;
use crate::parts::within;
use crate::sources::{Announcement, Heard, Source};

/// What an entry of the peers that is a name begins with.
const SCHEME: &str = "dns://";

/// How often a name is resolved: the time to live of cluster DNS in Kubernetes is 5 s as well.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);

/// How long an answer may take: the usual resolver's first try of one server.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// True if this entry of the peers is a name that is resolved again and again.
pub(crate) fn is_name(peer: &str) -> bool {
    peer.starts_with(SCHEME)
}

/// How names become addresses.
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync {
    /// All addresses of `NAME:PORT`, in any order.
    ///
    /// # Errors
    ///
    /// If there is no answer, or the name is not there.
    async fn resolve(&self, name: &str) -> io::Result<Vec<SocketAddr>>;
}

/// The system's resolver. Needs a tokio runtime.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host(name).await?.collect())
    }
}

/// One name.
#[derive(Debug)]
pub(crate) struct DnsName {
    name: String,
    resolver: Arc<dyn Resolver>,
    clock: Arc<dyn Clock>,
}

impl DnsName {
    /// `entry` is as among the peers: `dns://NAME:PORT`.
    pub(crate) fn new(entry: &str, resolver: Arc<dyn Resolver>, clock: Arc<dyn Clock>) -> Self {
        let name = entry.strip_prefix(SCHEME).unwrap_or(entry).to_owned();
        Self { name, resolver, clock }
    }

    /// Its addresses now, sorted.
    async fn addresses(&self) -> Result<Vec<Found>, String> {
        let answer = within(&*self.clock, RESOLVE_WITHIN, self.resolver.resolve(&self.name)).await;
        let mut addresses = match answer {
            Some(Ok(addresses)) => addresses,
            Some(Err(error)) => return Err(format!("no answer: {error}")),
            None => return Err(format!("no answer within {} s", RESOLVE_WITHIN.as_secs())),
        };
        if addresses.is_empty() {
            return Err("the answer has no address".into());
        }
        addresses.sort_unstable();
        addresses.dedup();
        let found = addresses.iter().map(|address| {
            let address = address.to_string();
            Found { key: address.clone(), address }
        });
        Ok(found.collect())
    }
}

#[async_trait]
impl Source for DnsName {
    fn kind(&self) -> &'static str {
        "dns"
    }

    fn place(&self) -> String {
        self.name.clone()
    }

    async fn attend(&self, _: &Announcement, heard: &Heard) -> String {
        loop {
            match self.addresses().await {
                Ok(found) => heard.all(found).await,
                Err(why) => return why,
            }
            self.clock.sleep(RESOLVE_EVERY).await;
        }
    }
}
