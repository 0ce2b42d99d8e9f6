//! What the socket tests share: a bucket in s3sim, and a store open on it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::{ListRequest, Lister as _, Object};
use feedline_s3sim::S3Sim;
use feedline_store::{Environment, Store, StoreConfig};
use feedline_testkit::conformance::{KeyFixture, ObjectFixture};
use feedline_testkit::{RealClock, object_bytes};
use tokio::runtime::Handle;

/// The keys that the signing tests use.
pub(crate) const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "test-key"), ("AWS_SECRET_ACCESS_KEY", "test-secret")];

/// The bucket of every test.
pub(crate) const BUCKET: &str = "bucket";

/// A simulator and a store on its bucket.
pub(crate) struct Rig {
    pub(crate) sim: S3Sim,
    pub(crate) store: Arc<Store>,
}

/// The configuration for `url` at `endpoint`, with short timeouts and these variables only.
pub(crate) fn config(url: &str, endpoint: &str, variables: &[(&str, &str)]) -> StoreConfig {
    let mut config = StoreConfig::new(url);
    config.endpoint = Some(endpoint.to_owned());
    config.environment = Environment::from_pairs(variables.iter().copied());
    config.request_timeout = Duration::from_millis(500);
    config.retry_budget = Duration::from_secs(10);
    config
}

/// Opens with a real clock.
pub(crate) fn open(config: &StoreConfig) -> Arc<Store> {
    Store::open(config, RealClock::shared(), Handle::current(), 1).expect("opens")
}

/// A simulator that checks signatures, and a store that signs.
pub(crate) fn rig() -> Rig {
    let builder = S3Sim::builder().credentials("test-key", "test-secret");
    let sim = builder.start().expect("starts");
    sim.create_bucket(BUCKET);
    let store = open(&config("s3://bucket", &sim.endpoint(), &KEYS));
    Rig { sim, store }
}

impl Rig {
    /// Stores seeded bytes past the network; returns the object as a listing gives it.
    pub(crate) async fn seeded(&self, key: &str, seed: u64, size: u64) -> Object {
        self.put(key, object_bytes(seed, size)).await
    }
}

/// The object as `store` lists it.
pub(crate) async fn listed(store: &Store, key: &str) -> Object {
    let request =
        ListRequest { prefix: key.to_owned(), delimiter: false, after: None, token: None };
    let page = store.list(&request).await.expect("lists");
    let found = page.objects.into_iter().find(|object| object.key == key).expect("is listed");
    Object { source: store.source(), key: key.into(), version: found.version }
}

#[async_trait]
impl ObjectFixture for Rig {
    async fn put(&self, key: &str, bytes: Bytes) -> Object {
        self.sim.put_object(BUCKET, key, bytes);
        listed(&self.store, key).await
    }

    async fn remove(&self, key: &str) {
        self.sim.delete_object(BUCKET, key);
    }
}

#[async_trait]
impl KeyFixture for Rig {
    async fn put_key(&self, key: &str, size: u64) {
        self.sim.put_object(BUCKET, key, object_bytes(size, size));
    }

    async fn remove_key(&self, key: &str) {
        self.sim.delete_object(BUCKET, key);
    }
}
