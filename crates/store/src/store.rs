//! Opens a store: takes the configuration apart and nests backend, limit and retries, once.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::{
    BlockSource, Clock, ListPage, ListRequest, Lister, Object, Priority, ReadError, SourceId,
};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::PaginatedListStore;
use tokio::runtime::Handle;

use crate::backend::Backend;
use crate::cloud::CloudBackend;
use crate::config::{OpenError, Scheme, StoreConfig, StoreUrl};
use crate::folder::FolderBackend;
use crate::http::{client_options, connect, with_sources};
use crate::limit::Limiter;
use crate::observe::ObservingConnector;
use crate::retry::{RetryParts, RetryPolicy, RetrySource};
use crate::s3::S3Backend;
use crate::s3::credentials::S3Credentials;
use crate::s3::profile::read_profile;
use crate::s3::sign::Signer;
use crate::stats::StoreStats;
use crate::upload::{UploadTarget, Uploader};

/// One bucket, container or folder, open. The far end of the read chain.
#[derive(Debug)]
pub struct Store {
    chain: RetrySource,
    limiter: Arc<Limiter>,
    stats: Arc<StoreStats>,
    uploader: Uploader,
    prefix: String,
    base: Arc<str>,
}

/// What a scheme gives: reading, and where uploads go.
struct Opened {
    backend: Arc<dyn Backend>,
    target: UploadTarget,
    /// The endpoint, if it is part of what the source is.
    endpoint: Option<String>,
}

impl Store {
    /// Opens the store that `config` names. Sends no request: the first listing or read shows
    /// whether bucket and credentials are right. `seed` is for the jitter of retries; `handle` is the
    /// runtime on which files of a local folder are read. Its futures must be polled in a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`OpenError`], if something in the configuration or the environment must change.
    pub fn open(
        config: &StoreConfig,
        clock: Arc<dyn Clock>,
        handle: Handle,
        seed: u64,
    ) -> Result<Arc<Self>, OpenError> {
        let url = StoreUrl::parse(&config.url)?;
        let stats = Arc::new(StoreStats::default());
        let opened = match url.scheme {
            Scheme::S3 => open_s3(config, &url, &clock, &handle)?,
            Scheme::Gcs => open_gcs(config, &url, &clock)?,
            Scheme::Azure => open_azure(config, &url, &clock)?,
            Scheme::File => {
                let root = Path::new(&url.bucket).into();
                let folder = FolderBackend { root, handle, stats: stats.clone() };
                Opened {
                    backend: Arc::new(folder.clone()),
                    target: UploadTarget::Folder(folder),
                    endpoint: None,
                }
            }
        };
        let limiter = Limiter::new(clock.clone(), config.requests_in_flight_max);
        let base: Arc<str> = url.base().into();
        let chain = RetrySource::new(RetryParts {
            backend: opened.backend,
            limiter: limiter.clone(),
            stats: stats.clone(),
            clock,
            policy: RetryPolicy { budget: config.retry_budget },
            source: SourceId::of_url(&url.canonical(opened.endpoint.as_deref())),
            base: base.clone(),
            seed,
        });
        let uploader = Uploader { target: opened.target, stats: stats.clone(), base: base.clone() };
        Ok(Arc::new(Self { chain, limiter, stats, uploader, prefix: url.prefix, base }))
    }

    /// The prefix that the URL names: empty, or with a slash at its end. Reads and listings take
    /// whole keys; nothing here adds it.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The bucket as the operator knows it: `s3://bucket`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Counters since it was opened.
    #[must_use]
    pub fn stats(&self) -> &Arc<StoreStats> {
        &self.stats
    }

    /// The limit of requests in flight, to look at.
    #[must_use]
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// What writes to the bucket.
    #[must_use]
    pub fn uploader(&self) -> Uploader {
        self.uploader.clone()
    }
}

#[async_trait]
impl BlockSource for Store {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        self.chain.read(object, range, priority).await
    }
}

#[async_trait]
impl Lister for Store {
    async fn list(&self, request: &ListRequest) -> Result<ListPage, ReadError> {
        self.chain.list(request).await
    }

    fn source(&self) -> SourceId {
        self.chain.source()
    }
}

/// Checks an endpoint and takes the slash off its end.
fn checked_endpoint(endpoint: &str) -> Result<String, OpenError> {
    let error = |why: String| OpenError::Endpoint { endpoint: endpoint.to_owned(), why };
    let parsed = url::Url::parse(endpoint).map_err(|e| error(e.to_string()))?;
    if !["http", "https"].contains(&parsed.scheme()) || parsed.host_str().is_none() {
        return Err(error("it is no address of a web server".into()));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(OpenError::Endpoint {
            endpoint: "(hidden)".into(),
            why: "credentials do not belong into the address".into(),
        });
    }
    Ok(endpoint.trim_end_matches('/').to_owned())
}

/// The address as the HTTP client sends it, since a signature covers it, and its host.
fn normalised(bucket_url: &str) -> Result<(String, String), OpenError> {
    let parsed = url::Url::parse(bucket_url)
        .map_err(|e| OpenError::Endpoint { endpoint: bucket_url.to_owned(), why: e.to_string() })?;
    let host = parsed[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
    Ok((parsed.as_str().trim_end_matches('/').to_owned(), host))
}

/// True if the bucket can be the first label of a host name: a dot would be outside of S3's TLS
/// certificate, and a host name has no upper case and no underscore (buckets of before 2018 may).
fn fits_host_name(bucket: &str) -> bool {
    bucket.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The bucket's address.
fn bucket_url(bucket: &str, region: &str, endpoint: Option<&str>, path_style: bool) -> String {
    let amazon;
    let endpoint = match endpoint {
        Some(endpoint) => endpoint,
        None => {
            let domain =
                if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            amazon = format!("https://s3.{region}.{domain}");
            &amazon
        }
    };
    if path_style {
        return format!("{endpoint}/{bucket}");
    }
    let (scheme, host) = endpoint.split_once("://").expect("an endpoint was checked");
    format!("{scheme}://{bucket}.{host}")
}

fn open_s3(
    config: &StoreConfig,
    url: &StoreUrl,
    clock: &Arc<dyn Clock>,
    handle: &Handle,
) -> Result<Opened, OpenError> {
    let environment = &config.environment;
    let profile = if config.anonymous { None } else { read_profile(environment)? };
    let from_profile = |pick: fn(&crate::s3::profile::Profile) -> &Option<String>| {
        profile.as_ref().and_then(|profile| pick(profile).as_deref())
    };
    let endpoint = config
        .endpoint
        .as_deref()
        .or_else(|| environment.get("AWS_ENDPOINT_URL_S3"))
        .or_else(|| environment.get("AWS_ENDPOINT_URL"))
        .or_else(|| from_profile(|profile| &profile.endpoint))
        .map(checked_endpoint)
        .transpose()?;
    let region = config
        .region
        .as_deref()
        .or_else(|| environment.get("AWS_REGION"))
        .or_else(|| environment.get("AWS_DEFAULT_REGION"))
        .or_else(|| from_profile(|profile| &profile.region))
        .unwrap_or("us-east-1")
        .to_owned();
    let path_style =
        config.path_style.unwrap_or(endpoint.is_some() || !fits_host_name(&url.bucket));
    let bucket_url = bucket_url(&url.bucket, &region, endpoint.as_deref(), path_style);
    let allow_http = bucket_url.starts_with("http://");
    let options = client_options(config, allow_http)?;
    let credentials = if config.anonymous {
        None
    } else {
        Some(S3Credentials::open(environment, profile.as_ref(), &region, &options, clock)?)
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&url.bucket)
        .with_region(&region)
        // With this style object_store takes the address as it is.
        .with_virtual_hosted_style_request(true)
        .with_endpoint(&bucket_url)
        .with_client_options(options.clone())
        .with_skip_signature(credentials.is_none())
        .with_http_connector(ObservingConnector);
    if let Some(credentials) = &credentials {
        builder = builder.with_credentials(credentials.provider());
    }
    let upload = builder.build().map_err(|e| client_error(url, &e))?;
    let (bucket_url, host) = normalised(&bucket_url)?;
    let backend = S3Backend {
        signer: Signer::new(host, region.clone()),
        http: connect(config, &options, (&bucket_url, &url.base()), clock, handle)?,
        credentials,
        region,
        bucket_url,
        clock: clock.clone(),
        skew_ms: AtomicI64::new(0),
        timeout: config.request_timeout,
    };
    Ok(Opened {
        backend: Arc::new(backend),
        target: UploadTarget::Store(Arc::new(upload)),
        endpoint,
    })
}

fn client_error(url: &StoreUrl, error: &object_store::Error) -> OpenError {
    OpenError::Client { location: url.base(), why: with_sources(error) }
}

/// Reading without object_store's retries, uploading with them.
fn cloud<S: ObjectStore + PaginatedListStore>(
    config: &StoreConfig,
    clock: &Arc<dyn Clock>,
    reading: S,
    uploading: S,
    endpoint: Option<String>,
) -> Opened {
    let reading = Arc::new(reading);
    let backend = CloudBackend {
        store: reading.clone(),
        lister: reading,
        clock: clock.clone(),
        timeout: config.request_timeout,
    };
    Opened {
        backend: Arc::new(backend),
        target: UploadTarget::Store(Arc::new(uploading)),
        endpoint,
    }
}

fn no_retries() -> object_store::RetryConfig {
    object_store::RetryConfig { max_retries: 0, ..object_store::RetryConfig::default() }
}

fn open_gcs(
    config: &StoreConfig,
    url: &StoreUrl,
    clock: &Arc<dyn Clock>,
) -> Result<Opened, OpenError> {
    let endpoint = config.endpoint.as_deref().map(checked_endpoint).transpose()?;
    let allow_http = endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let options = client_options(config, allow_http)?;
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&url.bucket)
        .with_client_options(options)
        .with_skip_signature(config.anonymous)
        .with_http_connector(ObservingConnector);
    if let Some(endpoint) = &endpoint {
        builder = builder.with_base_url(endpoint);
    }
    for (name, value) in config.environment.with_prefix("GOOGLE_") {
        if name == "GOOGLE_APPLICATION_CREDENTIALS" {
            builder = builder.with_application_credentials(value);
        } else if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let build =
        |builder: GoogleCloudStorageBuilder| builder.build().map_err(|e| client_error(url, &e));
    let reading = build(builder.clone().with_retry(no_retries()))?;
    Ok(cloud(config, clock, reading, build(builder)?, endpoint))
}

fn open_azure(
    config: &StoreConfig,
    url: &StoreUrl,
    clock: &Arc<dyn Clock>,
) -> Result<Opened, OpenError> {
    let given = config.endpoint.as_deref().map(checked_endpoint).transpose()?;
    let allow_http = given.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let options = client_options(config, allow_http)?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(&url.bucket)
        .with_client_options(options)
        .with_skip_signature(config.anonymous)
        .with_http_connector(ObservingConnector);
    for (name, value) in config.environment.with_prefix("AZURE_") {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(endpoint) = &given {
        builder = builder.with_endpoint(endpoint.clone());
    }
    // A container's name is unique within its account only.
    let account = config.environment.get("AZURE_STORAGE_ACCOUNT_NAME").map(str::to_owned);
    let build = |builder: MicrosoftAzureBuilder| builder.build().map_err(|e| client_error(url, &e));
    let reading = build(builder.clone().with_retry(no_retries()))?;
    Ok(cloud(config, clock, reading, build(builder)?, given.or(account)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(bucket: &str, region: &str, endpoint: Option<&str>) -> String {
        let path_style = endpoint.is_some() || !fits_host_name(bucket);
        bucket_url(bucket, region, endpoint, path_style)
    }

    #[test]
    fn a_bucket_of_aws_is_in_the_host_name_if_it_can_be() {
        assert_eq!(url("data-1", "eu-west-1", None), "https://data-1.s3.eu-west-1.amazonaws.com");
        assert_eq!(url("d", "cn-north-1", None), "https://d.s3.cn-north-1.amazonaws.com.cn");
        for bucket in ["my.data", "My-Data", "my_data"] {
            let expected = format!("https://s3.us-east-1.amazonaws.com/{bucket}");
            assert_eq!(url(bucket, "us-east-1", None), expected);
        }
    }

    #[test]
    fn a_bucket_of_another_endpoint_is_in_the_path_unless_told_otherwise() {
        assert_eq!(url("d", "r", Some("http://h:9000")), "http://h:9000/d");
        assert_eq!(bucket_url("d", "r", Some("https://h:9000"), false), "https://d.h:9000");
    }
}
