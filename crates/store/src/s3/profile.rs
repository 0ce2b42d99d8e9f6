//! Shared AWS files: `~/.aws/credentials` and `~/.aws/config`, which object_store does not read.
//!
//! # Deliberately absent
//!
//! - SSO, `credential_process`, `source_profile`: a profile that needs them is refused with the
//!   command that turns it into variables.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::{Environment, OpenError};

/// What a profile gives.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) keys: Option<ProfileKeys>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint: Option<String>,
    /// A web identity: token file and role.
    pub(crate) web_identity: Option<(String, String)>,
}

/// Keys of a profile; the secret parts never print.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ProfileKeys {
    pub(crate) key_id: String,
    pub(crate) secret_key: String,
    pub(crate) token: Option<String>,
}

impl fmt::Debug for ProfileKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfileKeys").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The settings of one section.
type Section = BTreeMap<String, String>;

/// Reads an INI file as the AWS tools do: `[section]`, `name = value`, comments on lines of their
/// own, indented lines belong to the setting above and are left out.
fn parse_ini(text: &str) -> BTreeMap<String, Section> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if line.trim().is_empty() || line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            sections.entry(name.clone()).or_default();
            current = Some(name);
        } else if let (Some(section), Some((name, value))) = (&current, line.split_once('=')) {
            // A comment may follow a value after white space.
            let value = value.split(" #").next().unwrap_or_default();
            let settings = sections.entry(section.clone()).or_default();
            settings.insert(name.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    sections
}

fn read_ini(path: &Path) -> BTreeMap<String, Section> {
    // A file that is absent or not readable gives nothing, as with the AWS tools.
    std::fs::read_to_string(path).map(|text| parse_ini(&text)).unwrap_or_default()
}

fn file(environment: &Environment, variable: &str, name: &str) -> Option<PathBuf> {
    match environment.get(variable) {
        Some(path) => Some(path.into()),
        None => Some(Path::new(environment.get("HOME")?).join(".aws").join(name)),
    }
}

/// Reads the profile that `AWS_PROFILE` names, or `default`. `Ok(None)`: none is named and there is
/// no `default`.
pub(crate) fn read_profile(environment: &Environment) -> Result<Option<Profile>, OpenError> {
    let named = environment.get("AWS_PROFILE").or_else(|| environment.get("AWS_DEFAULT_PROFILE"));
    let name = named.unwrap_or("default");
    let credentials = file(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials");
    let config = file(environment, "AWS_CONFIG_FILE", "config");
    let mut settings = Section::new();
    let mut found = false;
    let config_name = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    // The credentials file wins, so it comes last.
    for (path, section) in [(&config, config_name.as_str()), (&credentials, name)] {
        let sections = path.as_deref().map(read_ini).unwrap_or_default();
        if let Some(section) = sections.get(section) {
            found = true;
            settings.extend(section.clone());
        }
    }
    if !found {
        return match named {
            None => Ok(None),
            Some(_) => Err(OpenError::Profile {
                profile: name.to_owned(),
                why: format!("is in neither {} nor {}", shown(&credentials), shown(&config)),
            }),
        };
    }
    profile_of(name, settings, named.is_some()).map(Some)
}

fn shown(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(|| "~/.aws".to_owned(), |path| path.display().to_string())
}

fn profile_of(name: &str, mut settings: Section, named: bool) -> Result<Profile, OpenError> {
    let mut take = |setting: &str| settings.remove(setting).filter(|value| !value.is_empty());
    let keys = match (take("aws_access_key_id"), take("aws_secret_access_key")) {
        (Some(key_id), Some(secret_key)) => {
            Some(ProfileKeys { key_id, secret_key, token: take("aws_session_token") })
        }
        (None, None) => None,
        _ => {
            let why = "has only one of aws_access_key_id and aws_secret_access_key".to_owned();
            return Err(OpenError::Profile { profile: name.to_owned(), why });
        }
    };
    let web_identity = take("web_identity_token_file").zip(take("role_arn"));
    let region = take("region");
    let endpoint = take("endpoint_url");
    let foreign = [
        "credential_process",
        "sso_session",
        "sso_start_url",
        "source_profile",
        "credential_source",
    ];
    let usable = keys.is_some() || web_identity.is_some();
    let setting = foreign.into_iter().find(|setting| settings.contains_key(*setting));
    if let Some(setting) = setting.filter(|_| named && !usable) {
        let why = format!(
            "uses {setting}, which is not supported; run: \
             eval \"$(aws configure export-credentials --profile {name} --format env)\""
        );
        return Err(OpenError::Profile { profile: name.to_owned(), why });
    }
    Ok(Profile { name: name.to_owned(), keys, region, endpoint, web_identity })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(
        files: &[(&str, &str)],
        more: &[(&str, &str)],
    ) -> (tempfile::TempDir, Environment) {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(home.path().join(".aws")).expect("a directory");
        for (name, text) in files {
            std::fs::write(home.path().join(".aws").join(name), text).expect("written");
        }
        let home_text = home.path().to_str().expect("text").to_owned();
        let pairs = more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let environment = Environment::from_pairs(pairs.chain([("HOME".to_owned(), home_text)]));
        (home, environment)
    }

    const CREDENTIALS: &str = "# mine\n[default]\naws_access_key_id = AK1\naws_secret_access_key=SK1=\n\
        \n[ work ]\naws_access_key_id=AK2\naws_secret_access_key=SK2\naws_session_token = T2\n[half]\naws_access_key_id=x\n";
    const CONFIG: &str = "[default]\nregion = eu-west-1 # home\n[profile work]\nregion=us-west-2\n\
        s3 =\n  addressing_style = path\nendpoint_url = http://h:9\n[profile sso]\nsso_session = x\n";

    #[test]
    fn keys_and_region_come_from_both_files() {
        let files = [("credentials", CREDENTIALS), ("config", CONFIG)];
        let (_home, plain) = environment(&files, &[]);
        let profile = read_profile(&plain).expect("valid").expect("found");
        assert_eq!(profile.region.as_deref(), Some("eu-west-1"));
        assert_eq!(profile.keys.as_ref().map(|keys| keys.secret_key.as_str()), Some("SK1="));
        assert!(!format!("{profile:?} {:?}", profile.keys).contains("SK1"));

        let (_home, work) = environment(&files, &[("AWS_PROFILE", "work")]);
        let profile = read_profile(&work).expect("valid").expect("found");
        assert_eq!(profile.region.as_deref(), Some("us-west-2"));
        assert_eq!(profile.endpoint.as_deref(), Some("http://h:9"));
        assert_eq!(profile.keys.and_then(|keys| keys.token).as_deref(), Some("T2"));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_way_out() {
        let files = [("credentials", CREDENTIALS), ("config", CONFIG)];
        for (name, expected) in
            [("absent", "is in neither"), ("sso", "export-credentials"), ("half", "only one of")]
        {
            let (_home, environment) = environment(&files, &[("AWS_PROFILE", name)]);
            let error = read_profile(&environment).expect_err(name).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let (_home, nothing) = environment(&[], &[]);
        assert_eq!(read_profile(&nothing).expect("fine"), None);
    }

    #[test]
    fn the_files_can_be_elsewhere() {
        let elsewhere = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(elsewhere.path(), CREDENTIALS).expect("written");
        let path = elsewhere.path().to_str().expect("text");
        let (_home, environment) = environment(&[], &[("AWS_SHARED_CREDENTIALS_FILE", path)]);
        let profile = read_profile(&environment).expect("valid").expect("found");
        assert_eq!(profile.keys.map(|keys| keys.key_id).as_deref(), Some("AK1"));
    }
}
