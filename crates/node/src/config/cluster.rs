//! The settings of a cluster, and what must hold between them.

use std::net::SocketAddr;
use std::path::PathBuf;

use feedline_cluster::EtcdUrls;
pub use feedline_cluster::LocalCopies;

use super::table::Value;
use super::written::{ConfigError, Merged};

/// What a node of a cluster is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Where the others reach this node.
    pub listen: SocketAddr,
    /// Every node, this one included; or names that resolve to them.
    pub peers: Vec<String>,
    /// Where nodes list themselves instead.
    pub etcd: Option<EtcdUrls>,
    /// Whether what others own is kept here.
    pub local_copies: LocalCopies,
    /// The directory that holds the secrets of the port.
    pub secrets_dir: Option<PathBuf>,
    /// The operator says that all who can reach the port may read the bucket.
    pub insecure: bool,
}

impl ClusterSettings {
    /// True if whoever reaches the port may read without a secret, unless there is one.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.insecure || self.listen.ip().is_loopback()
    }
}

/// `None`: no cluster.
pub(super) fn resolve(merged: &Merged) -> Result<Option<ClusterSettings>, ConfigError> {
    let peers = match merged.value("peers")? {
        Some(Value::Peers(peers)) => peers,
        _ => Vec::new(),
    };
    let etcd = match merged.value("etcd")? {
        Some(Value::Etcd(urls)) => Some(urls),
        _ => None,
    };
    if etcd.is_some() && !peers.is_empty() {
        let why = "and peers exclude each other: one of them says who the members are";
        return Err(ConfigError::new("etcd", why));
    }
    let Some(Value::Address(listen)) = merged.value("listen")? else {
        let given = [(etcd.is_some(), "etcd"), (!peers.is_empty(), "peers")];
        let Some((_, name)) = given.into_iter().find(|(is_given, _)| *is_given) else {
            return Ok(None);
        };
        let why = "needs listen as well: where the others reach this node";
        return Err(ConfigError::new(name, why));
    };
    let local_copies = match merged.text("local_copies")?.as_str() {
        "always" => LocalCopies::Always,
        "never" => LocalCopies::Never,
        _ => LocalCopies::Auto,
    };
    let secrets_dir = merged.path("cluster_secrets")?;
    let insecure = merged.switch("insecure")?;
    let settings = ClusterSettings { listen, peers, etcd, local_copies, secrets_dir, insecure };
    if settings.secrets_dir.is_none() && !settings.is_open() {
        let why = format!(
            "{listen} can be reached from other machines: give cluster_secrets, or insecure if all \
             who can reach it may read the bucket"
        );
        return Err(ConfigError::new(merged.place("listen"), why));
    }
    Ok(Some(settings))
}

#[cfg(test)]
mod tests {
    use super::super::{Inputs, Merged, ResolvedConfig};
    use super::*;

    fn resolve(more: &[(&str, &str)]) -> Result<Option<ClusterSettings>, String> {
        let base = [("source", "s3://b"), ("mountpoint", "/mnt/data")];
        let flags =
            base.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let inputs = Inputs { flags: flags.collect(), ..Inputs::default() };
        let config = ResolvedConfig::resolve(&Merged::load(&inputs).unwrap());
        config.map(|config| config.cluster).map_err(|error| error.to_string())
    }

    #[test]
    fn a_node_is_alone_unless_it_is_told_where_to_listen() {
        assert_eq!(resolve(&[]), Ok(None));
        let both = [("listen", "127.0.0.1:7001"), ("peers", "a:1, 127.0.0.1:7001,a:1,")];
        let settings = resolve(&both).unwrap().unwrap();
        assert_eq!(settings.peers, ["a:1", "127.0.0.1:7001"]);
        assert_eq!(settings.local_copies, LocalCopies::Auto);
        assert_eq!(settings.listen.port(), 7001);
    }

    #[test]
    fn members_come_from_names_or_etcd_but_not_from_a_list_and_etcd() {
        let listen = ("listen", "127.0.0.1:7001");
        let settings = resolve(&[listen, ("peers", "dns://nodes:7001,a:1")]).unwrap().unwrap();
        assert_eq!(settings.peers, ["dns://nodes:7001", "a:1"]);
        let etcd = ("etcd", "http://a:2379,http://b:2379");
        let settings = resolve(&[listen, etcd]).unwrap().unwrap();
        assert!(settings.etcd.is_some());
        let both = resolve(&[listen, etcd, ("peers", "a:1")]).unwrap_err();
        assert!(both.contains("etcd: and peers exclude each other"), "{both}");
        let deaf = resolve(&[etcd]).unwrap_err();
        assert!(deaf.contains("etcd: needs listen as well"), "{deaf}");
    }

    #[test]
    fn a_port_that_others_can_reach_needs_secrets_or_the_operators_word() {
        let open = ("listen", "0.0.0.0:7001");
        let refused = resolve(&[open]).unwrap_err();
        assert!(refused.starts_with("--listen: 0.0.0.0:7001 can be reached"), "{refused}");
        assert!(refused.contains("cluster_secrets") && refused.contains("insecure"));
        assert!(resolve(&[open, ("insecure", "true")]).is_ok());
        assert!(resolve(&[open, ("cluster_secrets", "/etc/feedline")]).is_ok());
        for here in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1"] {
            assert!(resolve(&[("listen", here)]).is_ok(), "{here}");
        }
    }
}
