//! Members by etcd: each node keeps a key with a lease, and watches those of the others.
//!
//! A session is one connection to one endpoint, from its lease to its loss. Whatever breaks it ends it:
//! the next one, perhaps with another endpoint, has a lease of its own, lists everything and watches
//! from there on. So nothing is assumed of what etcd did meanwhile, be it a restart without its data.
//!
//! # Deliberately absent
//!
//! - No agreement beyond "this key is there": who is a member is each node's own conclusion (`book`).

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, ConnectOptions, Error, EventType, GetOptions, Identity, KeyValue,
    LeaseKeepAliveStream, LeaseKeeper, PutOptions, TlsOptions, WatchOptions, WatchStream,
};
use feedline_model::Clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::book::{Found, MEMBERS_MAX};
use crate::etcd_url::EtcdUrls;
use crate::facts::{Events, Facts};
use crate::parts::within;
use crate::placement::NodeId;
use crate::sources::{Announcement, Heard, Source};
use crate::wire::WIRE;

/// How long a node that died stays listed. Dead is found out by reads and greetings long before; a
/// shorter time would have a busy machine's pauses list nodes out.
const LEASE_TTL: Duration = Duration::from_secs(10);

/// How often the lease is prolonged: two may be lost.
const KEEP_EVERY: Duration = Duration::from_secs(3);

/// The facts that cannot be heard may be many, so they are listed seldom: each half minute, unless something was removed.
const HEAR_AGAIN: u32 = 10;

/// How long etcd may take for any answer: it writes to a disk, which may be slow, and elects leaders
/// within about a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// What etcd lets this node in with.
#[derive(Clone, Default)]
pub struct EtcdSecrets {
    /// The password of the user in the URLs.
    pub password: Option<String>,
    /// Whose certificates are trusted, in PEM; `None`: those that the system trusts.
    pub ca_pem: Option<Vec<u8>>,
    /// This node's certificate and its key, in PEM.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for EtcdSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EtcdSecrets(..)")
    }
}

/// The value of a node's key.
#[derive(Debug, Serialize, Deserialize)]
struct Value {
    /// Version of the protocol between nodes.
    wire: u32,
    /// `HOST:PORT` for the others.
    address: String,
    /// Bytes.
    quota: u64,
    /// Of the binary, for people.
    version: String,
    /// What it mounts; older versions do not say.
    #[serde(default)]
    mounted: Mounted,
}

/// A row of the cluster's table of mounts: what a node shows, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Where, on its machine.
    pub mountpoint: String,
    /// The URLs.
    pub sources: Vec<String>,
}

/// One etcd, of one or more endpoints.
pub struct Etcd {
    urls: EtcdUrls,
    secrets: EtcdSecrets,
    pub(crate) cluster: String,
    clock: Arc<dyn Clock>,
    /// Which endpoint is asked next.
    turn: AtomicUsize,
    /// What the node's key lives by.
    lease: Mutex<Option<(Client, i64)>>,
    /// The operator has been told about the address.
    warned: AtomicBool,
    /// What this node tells of itself.
    mounted: Mounted,
    /// What the nodes told, by key; also of those that are listed no more.
    mounts: Mutex<HashMap<String, Mounted>>,
    /// Of the session, while there is one.
    pub(crate) client: Mutex<Option<Client>>,
    /// What it holds beside the members.
    pub(crate) facts: watch::Sender<Arc<Facts>>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Etcd({}, {})", self.urls.endpoints.join(","), self.cluster)
    }
}

impl Etcd {
    /// `cluster` tells this cluster from others in the same etcd, unless the URLs name it.
    ///
    /// # Errors
    ///
    /// If secrets and URLs do not go together, with the way out.
    pub fn new(
        urls: EtcdUrls,
        secrets: EtcdSecrets,
        cluster: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        if let Some(user) = urls.user()
            && secrets.password.is_none()
        {
            return Err(format!(
                "names the user {user:?}: put the password into the file etcd-password in the \
                 directory of cluster_secrets"
            ));
        }
        if !urls.is_tls() && (secrets.ca_pem.is_some() || secrets.identity_pem.is_some()) {
            return Err(
                "has certificates in cluster_secrets (etcd-ca.crt, etcd-tls.crt) and is not \
                        encrypted: write https://, or remove them"
                    .into(),
            );
        }
        let cluster = urls.name().unwrap_or(cluster).to_owned();
        let (turn, lease, warned) = (AtomicUsize::new(0), Mutex::default(), AtomicBool::new(false));
        let (client, facts) = (Mutex::default(), watch::Sender::default());
        let (mounted, mounts) = (Mounted::default(), Mutex::default());
        Ok(Self {
            urls,
            secrets,
            cluster,
            clock,
            turn,
            lease,
            warned,
            mounted,
            mounts,
            client,
            facts,
        })
    }

    /// The same, telling the others what this node mounts.
    #[must_use]
    pub fn telling(self, mounted: Mounted) -> Self {
        Self { mounted, ..self }
    }

    /// What a node mounts, as it said last; `None`: it never did.
    #[must_use]
    pub fn mounted(&self, node: NodeId) -> Option<Mounted> {
        self.mounts.lock().get(&format!("{}{node}", self.prefix())).cloned()
    }

    /// Where the nodes of the cluster are listed.
    fn prefix(&self) -> String {
        format!("/feedline/{}/members/", self.cluster)
    }

    /// Members and facts.
    fn whole_prefix(&self) -> String {
        format!("/feedline/{}/", self.cluster)
    }

    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(ANSWER_WITHIN)
            // A member of etcd that lost the others ends the watch instead of being silent.
            .with_require_leader(true);
        if let (Some(user), Some(password)) = (&self.urls.user, &self.secrets.password) {
            options = options.with_user(user, password).with_auto_token_refresh(true);
        }
        if self.urls.is_tls() {
            let mut tls = match &self.secrets.ca_pem {
                Some(pem) => TlsOptions::new().ca_certificate(Certificate::from_pem(pem)),
                None => TlsOptions::new().with_enabled_roots(),
            };
            if let Some((certificate, key)) = &self.secrets.identity_pem {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(tls);
        }
        options
    }

    /// The first endpoint that lets a connection in, and this machine's address towards it. etcd's
    /// client alone would wait in silence where nobody listens.
    async fn reach(&self) -> Result<(&str, IpAddr), String> {
        let endpoints = &self.urls.endpoints;
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failed = Vec::new();
        for at in 0..endpoints.len() {
            let endpoint = endpoints[(first + at) % endpoints.len()].as_str();
            let address = endpoint.split_once("://").map_or(endpoint, |(_, address)| address);
            let connect = async { TcpStream::connect(address).await?.local_addr() };
            match within(&*self.clock, ANSWER_WITHIN, connect).await {
                Some(Ok(local)) => return Ok((endpoint, local.ip())),
                Some(Err(error)) => failed.push(format!("{endpoint}: {error}")),
                None => failed.push(format!("{endpoint}: no connection in time")),
            }
        }
        Err(format!("nobody listens ({}): check the URL, and that etcd runs", failed.join("; ")))
    }

    /// What `work` gives, in time and with an error that people understand.
    pub(crate) async fn ask<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, String> {
        match within(&*self.clock, ANSWER_WITHIN, work).await {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(self.explain(&error)),
            None => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
        }
    }

    fn explain(&self, error: &Error) -> String {
        let said = match error {
            Error::GRpcStatus(status) => {
                let mut said = status.message().to_owned();
                add_causes(&mut said, status.source());
                said
            }
            Error::TransportError(error) => {
                let mut said = error.to_string();
                add_causes(&mut said, error.source());
                said
            }
            other => other.to_string(),
        };
        let user = self.urls.user().unwrap_or_default();
        for (part, meaning) in [
            (
                "authentication failed",
                format!("it does not know the user {user:?} with the password in etcd-password"),
            ),
            (
                "user name is empty",
                "it wants a user: write http://USER@HOST, with the password in the file \
                 etcd-password in cluster_secrets"
                    .into(),
            ),
            (
                "authentication is not enabled",
                format!("it has no users: take {user}@ out of the URL"),
            ),
            (
                "permission denied",
                format!(
                    "the user {user:?} needs a role that reads and writes the prefix /feedline/"
                ),
            ),
            (
                "invalid peer certificate",
                "its certificate is not trusted here: the authority that signed it belongs into the file \
                 etcd-ca.crt in cluster_secrets"
                    .into(),
            ),
        ] {
            if said.contains(part) {
                return format!("{meaning} ({said})");
            }
        }
        // Over TLS 1.3 the other end tells about our certificate after the handshake, and closes: which
        // of the two is seen first is a matter of luck.
        let broke = ["received fatal alert", "connection closed", "broken pipe", "reset by peer"];
        if self.urls.is_tls() && broke.iter().any(|part| said.contains(part)) {
            return format!(
                "it broke off, perhaps for want of a certificate that it trusts: the files \
                 etcd-tls.crt and etcd-tls.key in cluster_secrets ({said})"
            );
        }
        said
    }

    /// The address that the others are to use.
    fn address(&self, listen: SocketAddr, towards_etcd: IpAddr) -> String {
        if !listen.ip().is_unspecified() {
            return listen.to_string();
        }
        if towards_etcd.is_loopback() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "etcd is on this machine, so this node tells the others to reach it at \
                 {towards_etcd}, which only this machine can: give --listen its own address"
            );
        }
        SocketAddr::new(towards_etcd, listen.port()).to_string()
    }

    /// Lists this node and the others.
    async fn open(&self, me: &Announcement, heard: &Heard) -> Result<Session, String> {
        let (endpoint, towards_etcd) = self.reach().await?;
        let of = |why: String| format!("{endpoint}: {why}");
        let mut client =
            self.ask(Client::connect([endpoint], Some(self.options()))).await.map_err(of)?;
        let value = Value {
            wire: WIRE,
            address: self.address(me.listen, towards_etcd),
            quota: me.quota_bytes,
            version: me.version.clone(),
            mounted: self.mounted.clone(),
        };
        let ttl_s = i64::try_from(LEASE_TTL.as_secs()).expect("seconds");
        let lease = self.ask(client.lease_grant(ttl_s, None)).await.map_err(of)?.id();
        *self.lease.lock() = Some((client.clone(), lease));
        let key = format!("{}{}", self.prefix(), me.node);
        let text = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
        let with_lease = PutOptions::new().with_lease(lease);
        self.ask(client.put(key.as_str(), text, Some(with_lease))).await.map_err(of)?;
        let (keeper, kept) = self.ask(client.lease_keep_alive(lease)).await.map_err(of)?;
        let drawn = format!("{}-{:x}", me.node, self.clock.unix_ms());
        self.begin_facts(&mut client, &drawn).await.map_err(of)?;
        let limit = i64::try_from(MEMBERS_MAX).expect("a few thousand");
        let all = GetOptions::new().with_prefix().with_limit(limit);
        let listed = self.ask(client.get(self.prefix(), Some(all))).await.map_err(of)?;
        let revision = listed.header().map_or(0, etcd_client::ResponseHeader::revision);
        let from = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
        let watch = self.ask(client.watch(self.whole_prefix(), Some(from))).await.map_err(of)?;
        self.hear_facts(&mut client, Some(revision)).await.map_err(of)?;
        let address = value.address;
        let session = Session { client, keeper, kept, watch, key, address, hear_again: 0 };
        heard.all(listed.kvs().iter().filter_map(|kv| self.found(&session, kv)).collect()).await;
        Ok(session)
    }

    /// How many nodes are listed, without listing this one.
    ///
    /// # Errors
    ///
    /// Why that cannot be heard, in a sentence.
    pub async fn nodes(&self) -> Result<usize, String> {
        let (endpoint, _) = self.reach().await?;
        let mut client = self.ask(Client::connect([endpoint], Some(self.options()))).await?;
        let count = GetOptions::new().with_prefix().with_count_only();
        let listed = self.ask(client.get(self.prefix(), Some(count))).await?;
        Ok(usize::try_from(listed.count()).unwrap_or_default())
    }

    /// A node other than this one.
    fn found(&self, session: &Session, kv: &KeyValue) -> Option<Found> {
        let key = String::from_utf8_lossy(kv.key()).into_owned();
        let value = match serde_json::from_slice::<Value>(kv.value()) {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(key, %error, "a key in etcd is no node's and is left out");
                return None;
            }
        };
        if key != session.key {
            let mut mounts = self.mounts.lock();
            // Nodes that come and go for ever are not remembered for ever.
            if MEMBERS_MAX <= mounts.len() && !mounts.contains_key(&key) {
                mounts.clear();
            }
            mounts.insert(key.clone(), value.mounted);
            drop(mounts);
            return Some(Found { key, address: value.address });
        }
        if value.address != session.address {
            tracing::warn!(
                key,
                address = value.address,
                "another node has this node's own id, as a copied cache directory has: empty the \
                 cache directory of one of the two"
            );
        }
        None
    }

    /// Watches and prolongs, until something breaks.
    async fn follow(&self, session: &mut Session, heard: &Heard) -> Result<(), String> {
        let mut next = self.clock.monotonic() + KEEP_EVERY;
        loop {
            let left = next.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                // Before anything that is heard: however much there is, the lease lives.
                self.prolong(session).await?;
                next = self.clock.monotonic() + KEEP_EVERY;
                self.hear_facts_again(session).await?;
                continue;
            }
            tokio::select! {
                biased;
                said = session.watch.message() => {
                    let said = said.map_err(|error| self.explain(&error))?;
                    let said = said.ok_or("it closed the connection")?;
                    if said.canceled() {
                        return Err(format!("it ended the watch: {}", said.cancel_reason()));
                    }
                    let (members, mut facts) = (self.prefix(), Events::new());
                    for event in said.events() {
                        self.note_fact(event, &mut facts);
                        let Some(kv) = event.kv() else { continue };
                        if !kv.key().starts_with(members.as_bytes()) {
                            continue;
                        }
                        if event.event_type() == EventType::Put {
                            if let Some(found) = self.found(session, kv) {
                                heard.here(found).await;
                            }
                        } else if kv.key() == session.key.as_bytes() {
                            return Err("this node's own key was removed; it is put back".into());
                        } else {
                            heard.left(String::from_utf8_lossy(kv.key()).into_owned()).await;
                        }
                    }
                    let revision = said.header().map_or(0, etcd_client::ResponseHeader::revision);
                    if self.take_facts(facts, revision)? {
                        session.hear_again = 0;
                    }
                }
                () = self.clock.sleep(left) => {}
            }
        }
    }

    /// Tries again what a session that goes on could not hear; asked each [`KEEP_EVERY`].
    async fn hear_facts_again(&self, session: &mut Session) -> Result<(), String> {
        if !self.are_facts_in_trouble() {
            return Ok(());
        }
        if 0 < session.hear_again {
            session.hear_again -= 1;
            return Ok(());
        }
        session.hear_again = HEAR_AGAIN;
        self.hear_facts(&mut session.client, None).await
    }

    async fn prolong(&self, session: &mut Session) -> Result<(), String> {
        let Session { keeper, kept, .. } = session;
        let answer = self.ask(async {
            keeper.keep_alive().await?;
            kept.message().await
        });
        match answer.await? {
            Some(answer) if 0 < answer.ttl() => Ok(()),
            Some(_) => {
                Err("the lease of this node ended, as after a pause of one of the two".into())
            }
            None => Err("it closed the connection".into()),
        }
    }
}

/// One connection, and what lives on it.
struct Session {
    client: Client,
    keeper: LeaseKeeper,
    kept: LeaseKeepAliveStream,
    watch: WatchStream,
    /// This node's own.
    key: String,
    address: String,
    /// How often the lease is prolonged before facts that could not be heard are listed again.
    hear_again: u32,
}

/// What is behind an error, without saying anything twice.
fn add_causes(said: &mut String, mut cause: Option<&(dyn std::error::Error + 'static)>) {
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        cause = error.source();
    }
}

#[async_trait]
impl Source for Etcd {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    fn place(&self) -> String {
        format!("{} (cluster {})", self.urls.endpoints.join(","), self.cluster)
    }

    async fn attend(&self, me: &Announcement, heard: &Heard) -> String {
        let attended = async {
            let mut session = self.open(me, heard).await?;
            self.follow(&mut session, heard).await
        };
        let why = attended.await.err().unwrap_or_default();
        self.lose_facts(&why);
        why
    }

    async fn leave(&self) {
        self.lose_facts("this node leaves");
        let Some((mut client, lease)) = self.lease.lock().take() else { return };
        if let Err(error) = client.lease_revoke(lease).await {
            tracing::debug!(%error, "the lease ends by itself");
        }
    }
}
