//! What a node shows to be one, and by what it knows the others: three files, checked as a whole.
//!
//! A certificate that the cluster's authority has signed, for servers and for clients, is a node. Names in it
//! are not compared: nodes are addressed by numbers and names that change. See docs/decisions/017.
//!
//! # Invariants
//!
//! - Nothing that a file holds is in an error or in `Debug` output.
//! - Time is the node's clock, never the machine's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use feedline_model::Clock;
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerMisbehaved, RootCertStore, ServerConfig, SignatureScheme,
};

/// The files, PEM, as cert-manager writes them into a Secret. Printing them shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `ca.crt`: who signs the certificates of nodes.
    pub ca: Vec<u8>,
    /// `tls.crt`: this node's certificate, and what stands between it and the authority.
    pub cert: Vec<u8>,
    /// `tls.key`: the key that belongs to it.
    pub key: Vec<u8>,
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsFiles(..)")
    }
}

impl TlsFiles {
    /// Equal if the files are; says nothing about them.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [&self.ca, &self.cert, &self.key] {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

/// The files in use: both ends of a connection, and the verdict on who comes.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) digest: [u8; 32],
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    /// When the node's own certificate ends, since 1970.
    pub(super) expires: Duration,
    judge: Judge,
}

impl Identity {
    /// Checks the files against each other.
    ///
    /// # Errors
    ///
    /// What is wrong with which. That the certificate has expired, or is not valid yet, is not: the node is
    /// told apart from its peers by that soon enough, and reads on from the bucket.
    pub(super) fn of(files: &TlsFiles, clock: &Arc<dyn Clock>) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.ca, "ca.crt")? {
            roots.add(root).map_err(|_| "ca.crt holds a certificate that is none")?;
        }
        let judge = Judge::new(Arc::new(roots), Arc::clone(&provider))?;
        let chain = certificates(&files.cert, "tls.crt")?;
        let key = || {
            PrivateKeyDer::from_pem_slice(&files.key)
                .map_err(|_| "tls.key holds no private key in PEM form")
        };
        let (end, between) = chain.split_first().expect("checked to hold one");
        let fits = |fit: Result<(), CertificateError>| match fit {
            Ok(()) => Ok(()),
            Err(error) if ends(&error).is_some() || begins(&error).is_some() => Ok(()),
            Err(error) => Err(format!("tls.crt {}", words(&error, "ca.crt"))),
        };
        let now = now(&**clock);
        fits(judge.server(end, between, now))?;
        fits(judge.client(end, between, now))?;
        let expires = expiry(&judge, end, between);
        let time: Arc<dyn TimeProvider> = Arc::new(Time(Arc::clone(clock)));
        let does_not_fit = |_: Error| "tls.key does not belong to tls.crt".to_owned();
        let no_tls13 = |error: Error| format!("TLS 1.3 is not to be had: {error}");
        let mut server =
            ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&time))
                .with_protocol_versions(&[&TLS13])
                .map_err(no_tls13)?
                .with_client_cert_verifier(Arc::new(judge.clone()))
                .with_single_cert(chain.clone(), key()?)
                .map_err(does_not_fit)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut client = ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(&[&TLS13])
            .map_err(no_tls13)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge.clone()))
            .with_client_auth_cert(chain, key()?)
            .map_err(does_not_fit)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        // Two connections that stay: nothing to gain, and each is to check the certificate of its own day.
        client.resumption = Resumption::disabled();
        let (server, client) = (Arc::new(server), Arc::new(client));
        Ok(Self { digest: files.digest(), server, client, expires, judge })
    }

    /// Whether who showed these is a node; if not, why, in words to itself.
    pub(super) fn judge_client(
        &self,
        shown: &[CertificateDer<'_>],
        clock: &dyn Clock,
    ) -> Result<(), String> {
        let Some((end, between)) = shown.split_first() else {
            return Err(
                "you showed no certificate, as a node must here: give ca.crt, tls.crt and \
                        tls.key in cluster_secrets"
                    .into(),
            );
        };
        let judged = self.judge.client(end, between, now(clock));
        judged.map_err(|error| format!("your certificate {}", words(&error, "this node's ca.crt")))
    }
}

/// Checks chains against the authority, in both directions.
#[derive(Debug, Clone)]
struct Judge {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Judge {
    fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| format!("ca.crt: {error}"))?;
        Ok(Self { roots, provider, clients })
    }

    fn server(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let verify = || {
            let end = ParsedCertificate::try_from(end)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&end, &self.roots, between, now, algorithms)
        };
        verify().map_err(certificate_error)
    }

    fn client(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let verified = self.clients.verify_client_cert(end, between, now);
        verified.map(|_| ()).map_err(certificate_error)
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// As a client: the server is a node, or there is no connection.
impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.server(end, between, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// As a server: the handshake proves only that the client has the key of what it shows, if it shows
/// anything. What that is worth, [`Identity::judge_client`] says after it, so that a node which is refused
/// is told why in an answer that it can show, and S3 clients need no certificate.
impl ClientCertVerifier for Judge {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: a node shows what it has, also if it is of another authority.
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// The node's clock, as rustls asks for it.
#[derive(Debug)]
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(now(&*self.0))
    }
}

fn now(clock: &dyn Clock) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(clock.unix_ms()))
}

fn certificates(text: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let none = || format!("{name} holds no certificate in PEM form");
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(none)
}

fn certificate_error(error: Error) -> CertificateError {
    match error {
        Error::InvalidCertificate(error) => error,
        _ => CertificateError::ApplicationVerificationFailure,
    }
}

fn ends(error: &CertificateError) -> Option<Duration> {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => Some(not_after.as_secs()),
        _ => None,
    }
    .map(Duration::from_secs)
}

fn begins(error: &CertificateError) -> Option<Duration> {
    match error {
        CertificateError::NotValidYetContext { not_before, .. } => Some(not_before.as_secs()),
        _ => None,
    }
    .map(Duration::from_secs)
}

/// When a certificate ends: asked of the verifier at a time when all have ended.
fn expiry(judge: &Judge, end: &CertificateDer<'_>, between: &[CertificateDer<'_>]) -> Duration {
    /// The last second that a certificate can name is in the year 9999.
    const AFTER_ALL: Duration = Duration::from_secs(253_402_300_800);
    let error = judge.server(end, between, UnixTime::since_unix_epoch(AFTER_ALL)).err();
    error.as_ref().and_then(ends).unwrap_or(AFTER_ALL)
}

/// What is wrong with a certificate: a sentence that begins with its owner.
pub(super) fn words(error: &CertificateError, ca: &str) -> String {
    if let Some(at) = ends(error) {
        return format!("expired on {}", date(at));
    }
    if let Some(at) = begins(error) {
        return format!("is not valid before {}: a clock is wrong, or it is too new", date(at));
    }
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("is not signed by {ca}")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not for both ends: issue it with the usages server auth and client auth".into()
        }
        error => format!("cannot be used: {error}"),
    }
}

/// A day and a minute, UTC, for people.
pub(super) fn date(since_1970: Duration) -> String {
    let minutes = since_1970.as_secs() / 60;
    let (year, month, day) = civil_date(minutes / (24 * 60));
    let (hour, minute) = (minutes / 60 % 24, minutes % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// The date of a day counted from 1970-01-01 (Hinnant's `civil_from_days`).
fn civil_date(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468; // days from 0000-03-01
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59 UTC"),
            (253_402_300_799, "9999-12-31 23:59 UTC"),
        ] {
            assert_eq!(date(Duration::from_secs(seconds)), expected);
        }
    }
}
