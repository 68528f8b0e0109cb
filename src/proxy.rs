//! The proxies of the environment, for AWS, registries and webhooks alike.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use hyper_util::client::proxy::matcher::{Builder, Intercept, Matcher};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The variables that name proxies, by scheme. As in curl, the lower-case name counts, too.
const HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
/// The variables with hosts that are reached directly.
const NO: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A variable that names no proxy that runner can use.
#[derive(Debug, thiserror::Error)]
#[error("the variable {variable} names no HTTP proxy: {reason}")]
pub(crate) struct InvalidProxy {
    variable: &'static str,
    reason: &'static str,
}

/// The proxies of the environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    matcher: Option<Arc<Matcher>>,
    /// The variables for http and https.
    http: Option<&'static str>,
    https: Option<&'static str>,
}

/// A proxy for a request. `Debug` and `Display` show no credentials.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// With the user name and password, if there are any.
    url: String,
    /// The host and port.
    name: String,
    /// The variable that names it.
    variable: &'static str,
}

impl Proxies {
    /// Reads the environment of this process.
    pub(crate) fn from_environment() -> Result<Self, InvalidProxy> {
        Self::read(|name| std::env::var(name).ok())
    }

    fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidProxy> {
        let first = |names: [&'static str; 2]| {
            names
                .into_iter()
                .find_map(|name| Some((name, get(name).filter(|value| !value.trim().is_empty())?)))
        };
        let mut matcher = Matcher::builder();
        let all = first(ALL).map(|(variable, _)| variable);
        let [http, https] = [HTTP, HTTPS].map(|names| first(names).map(|(variable, _)| variable).or(all));
        for (names, set) in [
            (HTTP, Builder::http::<String> as fn(Builder, String) -> Builder),
            (HTTPS, Builder::https::<String>),
            (ALL, Builder::all::<String>),
        ] {
            if let Some((variable, value)) = first(names) {
                check(&value).map_err(|reason| InvalidProxy { variable, reason })?;
                matcher = set(matcher, value);
            }
        }
        let no = first(NO).map(|(_, value)| value).unwrap_or_default();
        // The matcher takes this for names only, not for IP addresses.
        if no.split(',').any(|host| host.trim() == "*") {
            return Ok(Self::default());
        }
        Ok(Self { matcher: Some(Arc::new(matcher.no(no).build())), http, https })
    }

    /// The proxy for a request, or `None` if it goes directly.
    pub(crate) fn of(&self, target: &Uri) -> Option<Proxy> {
        if target.host().is_some_and(is_metadata) {
            return None;
        }
        let found = self.matcher.as_ref()?.intercept(target)?;
        let name = found.uri().authority()?.host().to_owned();
        let port = found.uri().port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        let name = format!("{name}{port}");
        let scheme = found.uri().scheme_str().unwrap_or("http");
        let mut url = reqwest::Url::parse(&format!("{scheme}://{name}")).ok()?;
        if let Some((user, password)) = login(&found) {
            url.set_username(&user).and_then(|()| url.set_password(Some(&password))).ok()?;
        }
        let variable = if target.scheme_str() == Some("https") { self.https } else { self.http };
        Some(Proxy { url: url.into(), name, variable: variable? })
    }
}

impl Proxy {
    /// The URL, with credentials if there are any.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The host and port.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The variable that names it.
    pub(crate) fn variable(&self) -> &'static str {
        self.variable
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy {} ({})", self.name, self.variable)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.name)
    }
}

/// The passwords of the proxies in the environment, without any encoding.
pub(crate) fn passwords() -> Vec<String> {
    passwords_in(|name| std::env::var(name).ok())
}

fn passwords_in(get: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let values = [HTTP, HTTPS, ALL].into_iter().flatten().filter_map(get);
    let password = |value: String| {
        let found = Matcher::builder().all(value).build().intercept(&Uri::from_static("http://any.invalid/"));
        login(&found?).map(|(_, password)| password)
    };
    values.filter_map(password).filter(|password| !password.is_empty()).collect()
}

/// The user name and password of a proxy, which the matcher has encoded as a header.
fn login(found: &Intercept) -> Option<(String, String)> {
    let header = found.basic_auth()?.to_str().ok()?;
    let decoded = STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let (user, password) = str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Whether a value is the address of a proxy: a URL, or a host with a port.
fn check(value: &str) -> Result<(), &'static str> {
    let value = value.trim();
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let url = reqwest::Url::parse(&with_scheme).map_err(|_| "it is not a URL with a host")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only `http://` and `https://` proxies are supported");
    }
    Ok(())
}

/// Whether a host is a metadata address of AWS, which no proxy can reach: those of EC2, ECS and EKS are link-local.
fn is_metadata(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => address.is_link_local(),
        Ok(IpAddr::V6(address)) => address.segments()[..2] == [0xfd00, 0x0ec2],
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, InvalidProxy> {
        Proxies::read(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn of(variables: &[(&str, &str)], target: &str) -> Option<String> {
        let proxy = proxies(variables).unwrap().of(&target.parse().unwrap())?;
        Some(format!("{} {}", proxy.name(), proxy.variable()))
    }

    /// Findings, B13.
    #[test]
    fn the_scheme_selects_the_proxy() {
        let both = [("HTTPS_PROXY", "http://secure:1"), ("http_proxy", "plain:2"), ("ALL_PROXY", "all:3")];
        assert_eq!(of(&both, "https://ecr.example.com/").as_deref(), Some("secure:1 HTTPS_PROXY"));
        assert_eq!(of(&both, "http://ecr.example.com/").as_deref(), Some("plain:2 http_proxy"));
        let all = [("all_proxy", "http://all:3"), ("HTTP_PROXY", "plain:2")];
        assert_eq!(of(&all, "https://x.example.com/").as_deref(), Some("all:3 all_proxy"));
        assert_eq!(of(&all, "http://x.example.com/").as_deref(), Some("plain:2 HTTP_PROXY"));
        assert_eq!(of(&[("HTTPS_PROXY", "")], "https://x.example.com/"), None);
        assert_eq!(of(&[], "https://x.example.com/"), None);
    }

    #[test]
    fn some_hosts_are_reached_directly() {
        let variables =
            [("HTTPS_PROXY", "p:1"), ("HTTP_PROXY", "p:1"), ("NO_PROXY", "internal.example.com,10.0.0.0/8")];
        for target in [
            "https://internal.example.com/",
            "https://a.internal.example.com/",
            "https://10.1.2.3/",
            "http://169.254.169.254/latest/meta-data/",
            "http://169.254.170.2/v2/credentials",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::254]/latest",
            "http://[fd00:ec2::23]/v1/credentials",
        ] {
            assert_eq!(of(&variables, target), None, "{target}");
        }
        for target in ["https://example.com/", "http://127.0.0.1:5000/", "https://11.0.0.1/"] {
            assert!(of(&variables, target).is_some(), "{target}");
        }
        for target in ["https://example.com/", "https://10.0.0.1/", "https://[::2]/"] {
            assert_eq!(of(&[("HTTPS_PROXY", "p:1"), ("NO_PROXY", "a, *")], target), None, "{target}");
        }
    }

    #[test]
    fn an_address_that_is_no_proxy_is_an_error() {
        for value in ["socks5://p:1", "http://", "http://a b:1", "ftp://p", "p:port"] {
            assert!(proxies(&[("HTTPS_PROXY", value)]).is_err(), "{value}");
        }
        for value in
            ["p", "p:3128", "http://p:3128/", "https://user:pass@p:3128", "http://[::1]:3128", "127.0.0.1:1"]
        {
            assert!(proxies(&[("HTTPS_PROXY", value)]).is_ok(), "{value}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        let found = proxies(&[("HTTPS_PROXY", "http://user:p%40ss@p:1")]).unwrap();
        let proxy = found.of(&"https://example.com/".parse().unwrap()).unwrap();
        assert_eq!(
            (format!("{proxy} {proxy:?}"), proxy.url()),
            ("the proxy p:1 (HTTPS_PROXY) Proxy(p:1)".to_owned(), "http://user:p%40ss@p:1/")
        );
        let values = [("https_proxy", "user:p%40ss@p:1"), ("ALL_PROXY", "http://u@p"), ("HTTP_PROXY", "p:1")];
        let get = |name: &str| {
            let found = values.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(passwords_in(get), ["p@ss"]);
    }
}
