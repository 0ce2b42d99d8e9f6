//! The S3 endpoint of a node: what it serves, who may read, and its place on the node's port.

use std::sync::Arc;

use feedline_cluster::Guest;
use feedline_gateway::{S3Access, S3Endpoint, S3Mount, S3Parts};
use feedline_model::Clock;
use tokio::runtime::Handle;

use crate::chain::Chain;
use crate::config::{ClusterSettings, ResolvedConfig};
use crate::secrets::Secrets;

/// The share of the buffer that may be on its way to S3 clients: half of what peers may have.
const SERVE_SHARE: u64 = 4;

/// Why nobody may read, and what to do about it.
const CLOSED: &str = "S3 is closed on this node: other machines reach its port, or its peers need a secret, and it has no S3 \
     keys. Put a file s3-keys with lines of ACCESS_KEY SECRET_KEY into the directory given as cluster_secrets";

/// Who may read. Without keys everybody, where everybody may read anyway: the operator said so, or the port is
/// on this machine and asks nobody for a secret.
fn access(settings: &ClusterSettings, secrets: &Secrets) -> S3Access {
    match &secrets.s3_keys {
        Some(keys) => S3Access::Keys(keys.clone()),
        None if settings.insecure => S3Access::Anonymous,
        None if settings.is_open() && !secrets.close_the_port() => S3Access::Anonymous,
        None => S3Access::Closed(CLOSED),
    }
}

/// The endpoint for everything that is mounted.
pub(crate) fn endpoint(
    config: &ResolvedConfig,
    settings: &ClusterSettings,
    secrets: &Secrets,
    chain: &Chain,
    clock: &Arc<dyn Clock>,
    tasks: &Handle,
) -> S3Endpoint {
    let mounts = chain.mounted.iter().map(|mounted| {
        let store = &chain.stores[&mounted.source];
        // A folder on disk is called by the last part of its path.
        let name = store.base().rsplit('/').next().unwrap_or_default();
        S3Mount {
            bucket: name.to_owned(),
            lister: Arc::clone(store) as _,
            prefix: mounted.prefix.clone(),
            path: mounted.path.trim_matches('/').to_owned(),
        }
    });
    S3Endpoint::new(S3Parts {
        mounts: mounts.collect(),
        access: access(settings, secrets),
        bytes_max: config.buffer_bytes / SERVE_SHARE,
        blocks: Arc::clone(&chain.cache) as _,
        tree: Arc::new(chain.namespace.clone()),
        clock: Arc::clone(clock),
        tasks: tasks.clone(),
    })
}

/// The endpoint as a guest of the port.
pub(crate) fn guest(endpoint: &S3Endpoint) -> Guest {
    let endpoint = endpoint.clone();
    Guest::new(move |request| endpoint.answer(request))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LocalCopies;
    use feedline_cluster::{TlsFiles, Token};
    use feedline_gateway::S3Keys;

    #[test]
    fn without_keys_s3_is_open_only_where_the_port_is() {
        let settings = |listen: &str, insecure| ClusterSettings {
            listen: listen.parse().unwrap(),
            peers: Vec::new(),
            etcd: None,
            local_copies: LocalCopies::Auto,
            secrets_dir: None,
            insecure,
        };
        let token = || Token::read(&[b'a'; 32]).ok();
        let none = Secrets::default();
        let with_token = Secrets { token: token(), ..Secrets::default() };
        let none_of_it = || TlsFiles { ca: Vec::new(), cert: Vec::new(), key: Vec::new() };
        let with_tls = Secrets { tls: Some(none_of_it()), ..Secrets::default() };
        let keys = Some(S3Keys::parse("AK SK").unwrap());
        let with_keys = Secrets { s3_keys: keys, token: token(), ..Secrets::default() };
        let (here, open) = ("127.0.0.1:1", "0.0.0.0:1");
        let label =
            |listen, insecure, secrets| access(&settings(listen, insecure), secrets).label();
        assert_eq!(label(here, false, &none), "anonymous");
        assert_eq!(label(open, true, &none), "anonymous");
        assert_eq!(label(open, true, &with_token), "anonymous");
        assert_eq!(label(here, false, &with_token), "closed");
        assert_eq!(label(open, false, &with_token), "closed");
        assert_eq!(label(open, false, &none), "closed");
        assert_eq!(label(here, false, &with_tls), "closed");
        assert_eq!(label(here, false, &with_keys), "keys");
        assert_eq!(label(open, true, &with_keys), "keys");
    }
}
