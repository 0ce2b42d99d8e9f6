//! An authority that signs certificates for the nodes of a test. Keys are drawn anew: there is no seed for those.

use std::fs;
use std::io;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

/// Signs what it is asked to.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(..)")
    }
}

/// PEM texts, as cert-manager puts them into a Secret.
#[derive(Debug, Clone)]
pub struct NodeFiles {
    /// `ca.crt`.
    pub ca: String,
    /// `tls.crt`.
    pub cert: String,
    /// `tls.key`.
    pub key: String,
}

impl NodeFiles {
    /// Writes them into a directory under their names.
    ///
    /// # Errors
    ///
    /// If one cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join("ca.crt"), &self.ca)?;
        fs::write(dir.join("tls.crt"), &self.cert)?;
        fs::write(dir.join("tls.key"), &self.key)
    }
}

/// The years from the start of which a certificate is valid, and to the start of which.
pub type Years = (i32, i32);

/// Valid now, and for longer than any test is run.
pub const NOW: Years = (2020, 2120);

/// No longer valid.
pub const PAST: Years = (2020, 2021);

/// Not valid yet.
pub const FUTURE: Years = (2110, 2120);

impl Authority {
    /// One that nobody knew before.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("keys can be drawn");
        let mut params = CertificateParams::default();
        params.distinguished_name = named("an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("its own");
        Self { certificate: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// Its own certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a node that is called `localhost` and may be both server and client.
    #[must_use]
    pub fn node(&self, (from, to): Years) -> NodeFiles {
        let ends = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.signed((from, to), &["localhost"], &ends)
    }

    /// A certificate for these names and addresses.
    #[must_use]
    pub fn for_names(&self, names: &[&str]) -> NodeFiles {
        let ends = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.signed(NOW, names, &ends)
    }

    /// A certificate for a server that is no client.
    #[must_use]
    pub fn server_only(&self) -> NodeFiles {
        self.signed(NOW, &["localhost"], &[ExtendedKeyUsagePurpose::ServerAuth])
    }

    fn signed(
        &self,
        (from, to): Years,
        names: &[&str],
        ends: &[ExtendedKeyUsagePurpose],
    ) -> NodeFiles {
        let key = KeyPair::generate().expect("keys can be drawn");
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = named("a node");
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        params.extended_key_usages = ends.to_vec();
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        NodeFiles { ca: self.certificate.clone(), cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// Clients take a certificate that is called as who signed it for one that signed itself.
fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
