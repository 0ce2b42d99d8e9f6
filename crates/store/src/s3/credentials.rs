//! The AWS credential chain: variables, web identity, profile, container, instance metadata.
//!
//! The order is that of the AWS tools. Profiles are read here; the rest are object_store's
//! providers, which cache and renew what they get.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use feedline_model::Clock;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use object_store::{BackoffConfig, ClientOptions, CredentialProvider, RetryConfig};
use parking_lot::Mutex;

use super::profile::{Profile, ProfileKeys, read_profile};
use crate::config::{Environment, OpenError};
use crate::failure::Failure;
use crate::http::with_sources;

/// A profile's keys are read again this often, so that a tool that rotates them is followed.
const PROFILE_TTL: Duration = Duration::from_secs(60);

/// Credentials that the store calls expired are fetched anew at most this often: if the new ones are
/// refused as well, that is what the caller hears.
const RENEW_INTERVAL: Duration = Duration::from_secs(60);

/// A token service or metadata service that has not answered for this long does not.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the container and instance providers read from the environment.
const BUILDER_VARIABLES: [&str; 9] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
    "AWS_IMDSV1_FALLBACK",
];

/// Where the signature's keys come from.
pub(crate) struct S3Credentials {
    provider: Arc<RenewableProvider>,
    clock: Arc<dyn Clock>,
    /// For messages: `the environment`, `profile work`, …
    pub(crate) origin: String,
    /// True once there were any: a failure to renew them is then a passing one.
    had: AtomicBool,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Credentials").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl S3Credentials {
    /// Picks the first link of the chain that the environment names.
    pub(crate) fn open(
        environment: &Environment,
        profile: Option<&Profile>,
        region: &str,
        options: &ClientOptions,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let keys =
            environment.get("AWS_ACCESS_KEY_ID").zip(environment.get("AWS_SECRET_ACCESS_KEY"));
        if let Some((key_id, secret_key)) = keys {
            let keys = ProfileKeys {
                key_id: key_id.to_owned(),
                secret_key: secret_key.to_owned(),
                token: environment.get("AWS_SESSION_TOKEN").map(str::to_owned),
            };
            let provider = object_store::StaticCredentialProvider::new(keys.into_credential());
            let provider: AwsCredentialProvider = Arc::new(provider);
            // The process's own variables never change: there is nothing to renew.
            return Ok(Self::new(clock, "the environment", provider, || None));
        }
        let web_identity = environment.get("AWS_WEB_IDENTITY_TOKEN_FILE").is_some()
            && environment.get("AWS_ROLE_ARN").is_some();
        let container = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_some()
            || environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some();
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name("credentials-only")
            .with_region(region)
            .with_client_options(options.clone().with_timeout(TOKEN_TIMEOUT))
            .with_retry(token_retries());
        for (name, value) in environment.with_prefix("AWS_") {
            if BUILDER_VARIABLES.contains(&name)
                && let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()
            {
                builder = builder.with_config(key, value);
            }
        }
        let origin = match profile {
            _ if web_identity => "web identity".to_owned(),
            Some(Profile { name, keys: Some(keys), .. }) => {
                let provider = ProfileProvider::shared(environment, clock, keys.clone());
                let (environment, again) = (environment.clone(), clock.clone());
                let renew = move || match read_profile(&environment) {
                    Ok(Some(Profile { keys: Some(keys), .. })) => {
                        Some(ProfileProvider::shared(&environment, &again, keys))
                    }
                    _ => None,
                };
                return Ok(Self::new(clock, &format!("profile {name}"), provider, renew));
            }
            Some(Profile { name, web_identity: Some((token_file, role)), .. }) => {
                builder = builder
                    .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file)
                    .with_config(AmazonS3ConfigKey::RoleArn, role);
                format!("web identity of profile {name}")
            }
            _ if container => "container".to_owned(),
            _ => "instance metadata".to_owned(),
        };
        let again = builder.clone();
        let store = builder.build().map_err(|e| OpenError::Client {
            location: format!("AWS credentials from {origin}"),
            why: with_sources(&e),
        })?;
        // object_store's providers keep what they have until its stated end: only a new one asks again.
        let renew = move || again.clone().build().ok().map(|store| store.credentials().clone());
        Ok(Self::new(clock, &origin, store.credentials().clone(), renew))
    }

    fn new(
        clock: &Arc<dyn Clock>,
        origin: &str,
        provider: AwsCredentialProvider,
        renew: impl Fn() -> Option<AwsCredentialProvider> + Send + Sync + 'static,
    ) -> Self {
        let current = Mutex::new(Current { provider, generation: 0, renewed_at: None });
        let provider = Arc::new(RenewableProvider { current, renew: Box::new(renew) });
        let (clock, origin) = (clock.clone(), origin.to_owned());
        Self { provider, clock, origin, had: AtomicBool::new(false) }
    }

    /// Fetches new credentials because the store calls those of `generation` expired. True if there
    /// are others to try, whoever fetched them.
    pub(crate) fn renew(&self, generation: u64) -> bool {
        let now = self.clock.monotonic();
        let mut current = self.provider.current.lock();
        if current.generation != generation {
            return true;
        }
        if current.renewed_at.is_some_and(|at| now < at + RENEW_INTERVAL) {
            return false;
        }
        let Some(provider) = (self.provider.renew)() else { return false };
        *current = Current { provider, generation: generation + 1, renewed_at: Some(now) };
        true
    }

    /// The provider itself, for object_store's own client.
    pub(crate) fn provider(&self) -> AwsCredentialProvider {
        self.provider.clone()
    }

    /// Credentials that are valid now, and which generation they are, for [`Self::renew`]. Cost:
    /// memory, except when they must be renewed.
    pub(crate) async fn get(&self) -> Result<(Arc<AwsCredential>, u64), Failure> {
        let (provider, generation) = self.provider.current();
        let error = match provider.get_credential().await {
            Ok(credential) => {
                self.had.store(true, Ordering::Relaxed);
                return Ok((credential, generation));
            }
            Err(error) => error,
        };
        let why = with_sources(&error);
        if self.had.load(Ordering::Relaxed) {
            return Err(Failure::CredentialsUnavailable(format!("{}: {why}", self.origin)));
        }
        if self.origin == "instance metadata" {
            let why = format!(
                "no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                 AWS_PROFILE, or give the machine a role, or use --anonymous (last tried: \
                 instance metadata: {why})"
            );
            return Err(Failure::CredentialsMissing(why));
        }
        // The service's refusal is final; that it does not answer is not.
        if why.contains("status code: 4") {
            let why = format!("wrong credentials: {} refused: {why}", self.origin);
            return Err(Failure::CredentialsMissing(why));
        }
        Err(Failure::CredentialsUnavailable(format!("{}: {why}", self.origin)))
    }
}

impl ProfileKeys {
    fn into_credential(self) -> AwsCredential {
        AwsCredential { key_id: self.key_id, secret_key: self.secret_key, token: self.token }
    }
}

/// Retries of the token services, short: they are asked within the try of a request.
fn token_retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: 2,
        retry_timeout: TOKEN_TIMEOUT,
    }
}

/// The provider in use; its successor takes over when the store refuses its token.
struct Current {
    provider: AwsCredentialProvider,
    generation: u64,
    renewed_at: Option<Duration>,
}

/// A provider that can be replaced by a new one of its kind.
struct RenewableProvider {
    current: Mutex<Current>,
    renew: Box<dyn Fn() -> Option<AwsCredentialProvider> + Send + Sync>,
}

impl RenewableProvider {
    fn current(&self) -> (AwsCredentialProvider, u64) {
        let current = self.current.lock();
        (current.provider.clone(), current.generation)
    }
}

impl fmt::Debug for RenewableProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewableProvider").finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialProvider for RenewableProvider {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.current().0.get_credential().await
    }
}

/// Keys of a profile, followed when they change.
struct ProfileProvider {
    environment: Environment,
    clock: Arc<dyn Clock>,
    cached: Mutex<(Duration, Arc<AwsCredential>)>,
}

impl ProfileProvider {
    fn shared(
        environment: &Environment,
        clock: &Arc<dyn Clock>,
        keys: ProfileKeys,
    ) -> AwsCredentialProvider {
        let cached = Mutex::new((clock.monotonic(), Arc::new(keys.into_credential())));
        Arc::new(Self { environment: environment.clone(), clock: clock.clone(), cached })
    }
}

impl fmt::Debug for ProfileProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfileProvider").finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialProvider for ProfileProvider {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let now = self.clock.monotonic();
        let mut cached = self.cached.lock();
        if now >= cached.0 + PROFILE_TTL {
            cached.0 = now;
            // A file that is being rewritten gives nothing for a moment: the old keys stay.
            if let Ok(Some(Profile { keys: Some(keys), .. })) = read_profile(&self.environment) {
                cached.1 = Arc::new(keys.into_credential());
            }
        }
        Ok(cached.1.clone())
    }
}
