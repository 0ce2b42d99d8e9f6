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

use feedline_cluster::Token;
use feedline_gateway::S3Keys;

use crate::role::StartError;

/// The secret that all nodes share.
const TOKEN: &str = "token";

/// The key pairs of the S3 gateway.
const S3_KEYS: &str = "s3-keys";

/// Every file that is looked for.
const NAMES: &[&str] = &[TOKEN, S3_KEYS];

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
}

impl Secrets {
    /// Reads all files once; what changes later is seen at the next start.
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
        Ok(Self { token: token.transpose()?, s3_keys: s3_keys.transpose()? })
    }
}

/// A file and what it holds; `None` if it is not there.
fn read_file(file: &Path) -> Result<Option<(PathBuf, Vec<u8>)>, StartError> {
    let mut text = Vec::new();
    let mut read = || -> io::Result<bool> {
        let opened = match File::open(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if opened.metadata()?.permissions().mode() & WORLD_READS != 0 {
            tracing::warn!(
                file = %file.display(),
                "everybody on this machine can read this secret: chmod o-r, or in Kubernetes \
                 defaultMode 0400"
            );
        }
        opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
        Ok(true)
    };
    let failed = |why: String| StartError::Secrets { path: file.to_owned(), why };
    let is_there = read().map_err(|error| failed(error.to_string()))?;
    if FILE_BYTES_MAX < text.len() as u64 {
        return Err(failed(format!("is larger than {} KiB", FILE_BYTES_MAX >> 10)));
    }
    Ok(is_there.then(|| (file.to_owned(), text)))
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
