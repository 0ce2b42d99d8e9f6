//! Members by a name in DNS, such as a headless service of Kubernetes: each of its addresses is a node.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
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

    /// Those of its addresses now, sorted, where a node that listens as this one can be.
    async fn addresses(&self, listen: IpAddr) -> Result<Vec<Found>, String> {
        let answer = within(&*self.clock, RESOLVE_WITHIN, self.resolver.resolve(&self.name)).await;
        let mut addresses = match answer {
            Some(Ok(addresses)) => addresses,
            Some(Err(error)) => return Err(format!("no answer: {error}")),
            None => return Err(format!("no answer within {} s", RESOLVE_WITHIN.as_secs())),
        };
        if addresses.is_empty() {
            return Err("the answer has no address".into());
        }
        addresses.retain(|address| is_served(listen, address.ip()));
        if addresses.is_empty() {
            return Err(format!(
                "the answer has no address of the kind (IPv4, IPv6) that this node listens on, {listen}: \
                 set listen to one of its kind, or to [::] for both"
            ));
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

/// True if a node that listens on `listen` may answer at `address`. A machine often has addresses of both
/// kinds, and the nodes of a cluster listen alike: at the others nobody would ever answer, and each would
/// be a node that is down.
fn is_served(listen: IpAddr, address: IpAddr) -> bool {
    match listen.to_canonical() {
        IpAddr::V6(listen) if listen.is_unspecified() => true,
        IpAddr::V6(_) => address.to_canonical().is_ipv6(),
        IpAddr::V4(_) => address.to_canonical().is_ipv4(),
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

    async fn attend(&self, me: &Announcement, heard: &Heard) -> String {
        loop {
            match self.addresses(me.listen.ip()).await {
                Ok(found) => heard.all(found).await,
                Err(why) => return why,
            }
            self.clock.sleep(RESOLVE_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use feedline_testkit::FakeClock;

    use super::*;

    /// Has these addresses.
    #[derive(Debug)]
    struct Names(&'static [&'static str]);

    #[async_trait]
    impl Resolver for Names {
        async fn resolve(&self, _: &str) -> io::Result<Vec<SocketAddr>> {
            Ok(self.0.iter().map(|address| address.parse().unwrap()).collect())
        }
    }

    async fn addresses(
        names: &'static [&'static str],
        listen: &str,
    ) -> Result<Vec<String>, String> {
        let name = DnsName::new("dns://a:1", Arc::new(Names(names)), FakeClock::new().shared());
        let found = name.addresses(listen.parse().unwrap()).await?;
        Ok(found.into_iter().map(|it| it.address).collect())
    }

    #[tokio::test]
    async fn only_addresses_of_the_kind_that_nodes_listen_on_are_nodes() {
        let names = &["10.0.0.2:1", "[fd00::2]:1", "[fd00::1]:1", "10.0.0.1:1", "10.0.0.1:1"];
        let (four, six) = (["10.0.0.1:1", "10.0.0.2:1"], ["[fd00::1]:1", "[fd00::2]:1"]);
        for listen in ["0.0.0.0", "127.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"] {
            assert_eq!(addresses(names, listen).await.unwrap(), four, "{listen}");
        }
        for listen in ["::1", "fd00::1"] {
            assert_eq!(addresses(names, listen).await.unwrap(), six, "{listen}");
        }
        assert_eq!(addresses(names, "::").await.unwrap(), [four, six].concat());
    }

    #[tokio::test]
    async fn an_answer_without_any_such_address_is_none_and_says_what_to_do() {
        let why = addresses(&["[fd00::1]:1"], "0.0.0.0").await.unwrap_err();
        assert!(why.contains("0.0.0.0") && why.contains("[::]"), "{why}");
        assert_eq!(addresses(&[], "::").await.unwrap_err(), "the answer has no address");
    }
}
