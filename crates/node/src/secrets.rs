//! The secrets of a node's port: one directory, shaped as Kubernetes mounts a Secret, one file each.
//!
//! # Invariants
//!
//! - No error, log line or `Debug` output holds anything that a file holds.
//! - A directory without any of the names is an error: it is a typing mistake, and going on would
//!   leave a port open that was meant to be closed.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use feedline_cluster::{EtcdSecrets, TlsFiles, Token};
use feedline_gateway::S3Keys;

use crate::role::StartError;

/// The secret that all nodes share.
const TOKEN: &str = "token";

/// The key pairs of the S3 gateway.
const S3_KEYS: &str = "s3-keys";

/// Who signs the certificates of nodes, this node's own, and its key: as cert-manager names them.
const TLS: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// The password of this node's user of etcd.
const ETCD_PASSWORD: &str = "etcd-password";

/// Whose certificates of etcd are trusted.
const ETCD_CA: &str = "etcd-ca.crt";

/// What this node shows to etcd.
const ETCD_CERTIFICATE: &str = "etcd-tls.crt";
const ETCD_KEY: &str = "etcd-tls.key";

/// Every file that is looked for.
const NAMES: &[&str] =
    &[TOKEN, S3_KEYS, TLS[0], TLS[1], TLS[2], ETCD_PASSWORD, ETCD_CA, ETCD_CERTIFICATE, ETCD_KEY];

/// Certificates, which are for everybody: only their keys are secrets.
const PUBLIC: [&str; 4] = [TLS[0], TLS[1], ETCD_CA, ETCD_CERTIFICATE];

/// More than any of the files needs; one that is larger is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The bits by which everybody on the machine reads a file.
const WORLD_READS: u32 = 0o004;

/// What the directory holds.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// What peers must know, if anything.
    pub(crate) token: Option<Token>,
    /// With what S3 clients sign.
    pub(crate) s3_keys: Option<S3Keys>,
    /// With what it proves to be a node; looked at again while it runs.
    pub(crate) tls: Option<TlsFiles>,
    /// With what etcd lets this node in.
    pub(crate) etcd: EtcdSecrets,
}

impl Secrets {
    /// Reads all files once; what changes later is seen at the next start, unless it is of TLS.
    pub(crate) fn read(dir: &Path) -> Result<Self, StartError> {
        let failed = |why: String| StartError::Secrets { path: dir.to_owned(), why };
        fs::read_dir(dir).map_err(|error| failed(error.to_string()))?;
        if !NAMES.iter().any(|name| dir.join(name).exists()) {
            return Err(failed(format!("holds none of the files {}", NAMES.join(", "))));
        }
        let token = read_file(&dir.join(TOKEN))?.map(|(file, text)| {
            Token::read(&text).map_err(|why| StartError::Secrets { path: file, why })
        });
        let s3_keys = read_file(&dir.join(S3_KEYS))?.map(|(file, text)| {
            let text = String::from_utf8(text).map_err(|_| "is no text".to_owned());
            let keys = text.and_then(|text| S3Keys::parse(&text));
            keys.map_err(|why| StartError::Secrets { path: file, why })
        });
        let tls = tls_files(dir).map_err(failed)?;
        if tls.is_some() {
            warn_of_readers(&dir.join(TLS[2]));
        }
        let etcd = read_etcd(dir)?;
        Ok(Self { token: token.transpose()?, s3_keys: s3_keys.transpose()?, tls, etcd })
    }

    /// True if nobody is let in as a peer who does not prove to be one.
    pub(crate) fn close_the_port(&self) -> bool {
        self.token.is_some() || self.tls.is_some()
    }
}

/// The files of TLS as they are now: all three, or none.
pub(crate) fn tls_files(dir: &Path) -> Result<Option<TlsFiles>, String> {
    let mut missing = Vec::new();
    let mut texts = Vec::new();
    for name in TLS {
        match read_text(&dir.join(name)).map_err(|why| format!("{name}: {why}"))? {
            Some(text) => texts.push(text),
            None => missing.push(name),
        }
    }
    let [ca, cert, key] = match <[Vec<u8>; 3]>::try_from(texts) {
        Ok(texts) => texts,
        Err(texts) if texts.is_empty() => return Ok(None),
        Err(_) => {
            let (all, missing) = (TLS.join(", "), missing.join(" and "));
            return Err(format!("holds no {missing}: TLS needs {all}, all of them or none"));
        }
    };
    Ok(Some(TlsFiles { ca, cert, key }))
}

fn read_etcd(dir: &Path) -> Result<EtcdSecrets, StartError> {
    let failed = |name: &str, why: &str| {
        Err(StartError::Secrets { path: dir.join(name), why: why.to_owned() })
    };
    let read = |name: &str| read_file(&dir.join(name)).map(|read| read.map(|(_, text)| text));
    let password = match read(ETCD_PASSWORD)?.map(String::from_utf8) {
        Some(Ok(text)) if text.trim().is_empty() => return failed(ETCD_PASSWORD, "is empty"),
        Some(Ok(text)) => Some(text.trim().to_owned()),
        Some(Err(_)) => return failed(ETCD_PASSWORD, "is no text"),
        None => None,
    };
    let identity_pem = match (read(ETCD_CERTIFICATE)?, read(ETCD_KEY)?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return failed(ETCD_KEY, "is missing beside etcd-tls.crt"),
        (None, Some(_)) => return failed(ETCD_CERTIFICATE, "is missing beside etcd-tls.key"),
    };
    Ok(EtcdSecrets { password, ca_pem: read(ETCD_CA)?, identity_pem })
}

/// A file and what it holds; `None` if it is not there.
fn read_file(file: &Path) -> Result<Option<(PathBuf, Vec<u8>)>, StartError> {
    let failed = |why: String| StartError::Secrets { path: file.to_owned(), why };
    let text = read_text(file).map_err(failed)?;
    if text.is_some() {
        warn_of_readers(file);
    }
    Ok(text.map(|text| (file.to_owned(), text)))
}

/// What a file holds; `None` if it is not there.
fn read_text(file: &Path) -> Result<Option<Vec<u8>>, String> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if FILE_BYTES_MAX < text.len() as u64 {
        return Err(format!("is larger than {} KiB", FILE_BYTES_MAX >> 10));
    }
    Ok(Some(text))
}

/// Says so if everybody can read a secret.
fn warn_of_readers(file: &Path) {
    if is_exposed(file) {
        tracing::warn!(
            file = %file.display(),
            "everybody on this machine can read this secret: chmod o-r, or in Kubernetes \
             defaultMode 0400"
        );
    }
}

/// True if everybody can read it, and it is a secret.
fn is_exposed(file: &Path) -> bool {
    let mode = fs::metadata(file).map(|metadata| metadata.permissions().mode());
    let is_public = PUBLIC.iter().any(|name| file.ends_with(name));
    !is_public && mode.is_ok_and(|mode| mode & WORLD_READS != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(dir: &Path) -> String {
        Secrets::read(dir).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_without_any_secret_is_refused_with_the_names_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let said_of_none = said(dir.path());
        assert!(said_of_none.contains("token, s3-keys"), "{said_of_none}");
        assert!(said_of_none.contains("cluster_secrets"), "{said_of_none}");
        assert!(said(&dir.path().join("absent")).contains("No such file"));
        let file = dir.path().join("token");
        fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
        assert!(said(&file).contains("Not a directory"));
    }

    #[test]
    fn each_file_may_be_absent_and_one_that_is_no_secret_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(TOKEN);
        fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
        assert!(Secrets::read(dir.path()).unwrap().token.is_some());
        fs::write(&file, "short").unwrap();
        let said_of_short = said(dir.path());
        assert!(said_of_short.contains("/token: ") && said_of_short.contains("at least 32"));
        assert!(!said_of_short.contains("short"), "{said_of_short}");
        fs::write(&file, vec![b'a'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(said(dir.path()).contains("larger than 1024 KiB"));
        fs::remove_file(&file).unwrap();
        fs::write(dir.path().join(S3_KEYS), "# ours\n\nAK  hunter2\n").unwrap();
        let secrets = Secrets::read(dir.path()).unwrap();
        assert!(secrets.token.is_none() && secrets.s3_keys.is_some());
        assert!(!format!("{secrets:?}").contains("hunter2"));
    }

    #[test]
    fn the_files_of_tls_are_all_there_or_the_missing_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = feedline_testkit::Authority::new().for_names(&["localhost"]);
        files.write(dir.path()).unwrap();
        let secrets = Secrets::read(dir.path()).unwrap();
        assert!(secrets.tls.as_ref().is_some_and(|tls| tls.key == files.key.as_bytes()));
        assert!(secrets.close_the_port() && !format!("{secrets:?}").contains("BEGIN"));
        fs::remove_file(dir.path().join("ca.crt")).unwrap();
        let said_of_one = said(dir.path());
        assert!(said_of_one.contains("holds no ca.crt: TLS needs ca.crt, tls.crt, tls.key"));
        fs::remove_file(dir.path().join("tls.key")).unwrap();
        let said_of_two = said(dir.path());
        assert!(said_of_two.contains("holds no ca.crt and tls.key"), "{said_of_two}");
    }

    #[test]
    fn what_etcd_lets_a_node_in_with_is_read_and_half_of_it_refused() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| fs::write(dir.path().join(name), text).unwrap();
        write(ETCD_PASSWORD, b" hunter2\n");
        write(ETCD_CA, b"ca");
        let secrets = Secrets::read(dir.path()).unwrap();
        assert_eq!(secrets.etcd.password.as_deref(), Some("hunter2"));
        assert_eq!(secrets.etcd.ca_pem.as_deref(), Some(&b"ca"[..]));
        assert!(secrets.etcd.identity_pem.is_none());
        assert!(!format!("{secrets:?}").contains("hunter2"));
        write(ETCD_CERTIFICATE, b"crt");
        let said_of_half = said(dir.path());
        assert!(said_of_half.contains("/etcd-tls.key: "), "{said_of_half}");
        write(ETCD_KEY, b"key");
        assert!(Secrets::read(dir.path()).unwrap().etcd.identity_pem.is_some());
        write(ETCD_PASSWORD, b"\n");
        assert!(said(dir.path()).contains("/etcd-password: "));
    }

    #[test]
    fn who_can_read_a_certificate_exposes_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let exposed = |mode| {
            let is_exposed_with_mode = |name: &&str| {
                let file = dir.path().join(name);
                fs::write(&file, "").unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
                is_exposed(&file)
            };
            NAMES.iter().copied().filter(is_exposed_with_mode).collect::<Vec<_>>()
        };
        let secrets = ["token", "s3-keys", "tls.key", "etcd-password", "etcd-tls.key"];
        assert_eq!(exposed(0o644), secrets);
        assert_eq!(exposed(0o640), [""; 0]);
        assert!(!is_exposed(&dir.path().join("absent")));
    }

    #[test]
    fn a_bad_line_of_s3_keys_is_named_by_its_number_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("AK SK\nhunter2\n", "line 2 is not ACCESS_KEY SECRET_KEY"),
            ("AK hunter2 more\n", "line 1 is not ACCESS_KEY SECRET_KEY"),
            ("AK hunter2\nAK hunter2\n", "line 2 has the access key of a line before it"),
            ("# nothing\n", "holds no key"),
        ] {
            fs::write(dir.path().join(S3_KEYS), text).unwrap();
            let said = said(dir.path());
            assert!(said.contains("/s3-keys: ") && said.contains(expected), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
