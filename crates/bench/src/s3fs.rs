//! How s3fs is started when it is compared with: one set of options, so that it is the same contestant
//! in the demo and in the target table.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

/// Where s3fs reads from and what it may use.
#[derive(Debug, Clone, Copy)]
pub struct S3fs<'a> {
    /// Address of the S3 server.
    pub endpoint: &'a str,
    /// The bucket's name.
    pub bucket: &'a str,
    /// `KEY:SECRET`.
    pub credentials: &'a str,
    /// Where it is mounted.
    pub mountpoint: &'a Path,
    /// Its disk cache; `None`: every byte comes from the bucket each time.
    pub cache: Option<&'a Path>,
    /// Where the credentials are written for it.
    pub password_file: &'a Path,
}

impl S3fs<'_> {
    /// The command, in the foreground, with the options that were found best for reading, by trial.
    /// Writes the password file.
    ///
    /// # Errors
    ///
    /// If the password file cannot be written.
    pub fn command(&self) -> Result<Command> {
        let password = self.password_file;
        fs::write(password, format!("{}\n", self.credentials))
            .and_then(|()| fs::set_permissions(password, fs::Permissions::from_mode(0o600)))
            .with_context(|| format!("write {}", password.display()))?;
        let mut options = format!(
            "url={},use_path_request_style,sigv4,passwd_file={},ro,umask=0022,complement_stat,\
             kernel_cache,max_background=1000,parallel_count=30,multireq_max=30,\
             max_stat_cache_size=2000000,stat_cache_expire=86400,enable_noobj_cache,listobjectsv2,\
             attr_timeout=3600,entry_timeout=3600",
            self.endpoint,
            password.display(),
        );
        if let Some(cache) = self.cache {
            // Writing to a String cannot fail.
            let _ = write!(options, ",use_cache={},ensure_diskfree=10240", cache.display());
        }
        let mut command = Command::new("s3fs");
        command.arg(self.bucket).arg(self.mountpoint).args(["-f", "-o", &options]);
        Ok(command)
    }
}
