//! Where etcd is, as an operator writes it.

use http::Uri;

/// etcd's usual port.
const PORT: u16 = 2379;

/// The longest name of a cluster: it is a part of every key.
pub const CLUSTER_NAME_BYTES_MAX: usize = 100;

/// `http://[USER@]HOST:PORT[/NAME]`, one or more of them: all of one etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUrls {
    /// `http://HOST:PORT` each.
    pub(crate) endpoints: Vec<String>,
    /// Who this node is to etcd.
    pub(crate) user: Option<String>,
    /// The cluster among those that share the etcd.
    pub(crate) name: Option<String>,
}

impl EtcdUrls {
    /// Reads a comma-separated list.
    ///
    /// # Errors
    ///
    /// What is wrong with it: continues a sentence that begins with the text.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut urls: Option<Self> = None;
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let one = read_one(part)?;
            match &mut urls {
                None => urls = Some(one),
                Some(urls) => urls.add(one)?,
            }
        }
        urls.ok_or_else(|| "needs the URL of an etcd, such as http://etcd:2379".into())
    }

    fn add(&mut self, other: Self) -> Result<(), String> {
        if (&self.user, &self.name) != (&other.user, &other.name) {
            return Err("names more than one user or cluster: give each URL the same".into());
        }
        self.endpoints.extend(other.endpoints);
        if self.endpoints.iter().any(|it| is_tls(it) != self.is_tls()) {
            return Err("mixes http:// and https://".into());
        }
        Ok(())
    }

    /// Who this node is to etcd, if the URLs say so.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The cluster's name, if the URLs say so.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// True if the connection is to be encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.endpoints.first().is_some_and(|it| is_tls(it))
    }
}

fn is_tls(endpoint: &str) -> bool {
    endpoint.starts_with("https:")
}

fn read_one(part: &str) -> Result<EtcdUrls, String> {
    let none = || format!("needs URLs such as http://etcd:2379; {:?} is none", hidden(part));
    let uri: Uri = part.parse().map_err(|_| none())?;
    let scheme = uri.scheme_str().filter(|it| ["http", "https"].contains(it)).ok_or_else(none)?;
    let authority = uri.authority().ok_or_else(none)?;
    if authority.host().is_empty() || uri.query().is_some() {
        return Err(none());
    }
    let user = authority.as_str().rsplit_once('@').map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':')) {
        return Err("holds a password, which everybody on the machine could see: put it into the \
                    file etcd-password in the directory of cluster_secrets"
            .into());
    }
    if user.is_some_and(|user| user.is_empty() || user.contains('%')) {
        return Err(none());
    }
    // Not `authority.port()`: it takes a port out of range for none.
    let after_host = authority.as_str().rsplit_once(authority.host()).map_or("", |(_, it)| it);
    let port = match after_host.strip_prefix(':') {
        Some(port) => port.parse::<u16>().ok().filter(|port| 0 < *port).ok_or_else(none)?,
        None => PORT,
    };
    let name = Some(uri.path().trim_matches('/')).filter(|name| !name.is_empty());
    if let Some(name) = name
        && !is_name(name)
    {
        return Err(format!(
            "needs a name of at most {CLUSTER_NAME_BYTES_MAX} letters, digits, dots, underscores and \
             hyphens after the address; {name:?} is none"
        ));
    }
    Ok(EtcdUrls {
        endpoints: vec![format!("{scheme}://{}:{port}", authority.host())],
        user: user.map(str::to_owned),
        name: name.map(str::to_owned),
    })
}

/// What can be a part of a key, and read by people there.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    name.len() <= CLUSTER_NAME_BYTES_MAX && name.chars().all(is_plain)
}

/// Without what stands before the host, which may be a password.
fn hidden(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_what_they_may_leave_out() {
        let urls = EtcdUrls::read("http://a:2379, http://b,http://[::1]:80/").unwrap();
        assert_eq!(urls.endpoints, ["http://a:2379", "http://b:2379", "http://[::1]:80"]);
        assert_eq!((urls.user(), urls.name(), urls.is_tls()), (None, None, false));
        let urls = EtcdUrls::read("https://feed@a:1/lab-2,https://feed@b:1/lab-2").unwrap();
        assert_eq!(urls.endpoints, ["https://a:1", "https://b:1"]);
        assert_eq!((urls.user(), urls.name(), urls.is_tls()), (Some("feed"), Some("lab-2"), true));
    }

    #[test]
    fn what_is_no_url_of_an_etcd_is_refused_and_a_password_never_shown() {
        for (text, expected) in [
            ("", "needs the URL"),
            ("a:2379", "\"a:2379\" is none"),
            ("a", "\"a\" is none"),
            ("ftp://a:1", "\"ftp://a:1\" is none"),
            ("http://a:99999", "is none"),
            ("http://a:0", "is none"),
            ("http://a:1?x=1", "is none"),
            ("http://@a:1", "is none"),
            ("http://a/b/c", "\"b/c\" is none"),
            ("http://a,https://b", "mixes"),
            ("http://x@a,http://b", "the same"),
            ("http://a/x,http://b/y", "the same"),
            ("http://me:hunter2@a:1", "etcd-password"),
            ("ftp://me:hunter2@a:1", "…@a:1"),
        ] {
            let said = EtcdUrls::read(text).unwrap_err();
            assert!(said.contains(expected) && !said.contains("hunter2"), "{text}: {said}");
        }
    }
}
