//! The set-up of HTTP clients for everything but the AWS SDK: registries, their token services, and webhooks.

use crate::proxy::{Proxies, Proxy};
use std::fmt;
use std::time::Duration;

/// How long a connection may take to be established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client does with a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Redirects {
    /// Follows it, without the `Authorization` header if the host changes.
    Follow,
    /// Returns it as the response: the body of the request may be meant for the first host only.
    Refuse,
}

/// Returns a client that trusts these authorities (certificates in DER form) and no others.
///
/// Requests go through the proxies of the environment.
pub(crate) fn client(
    authorities: &[Vec<u8>],
    redirects: Redirects,
) -> Result<reqwest::Client, reqwest::Error> {
    let proxies = proxies();
    let proxy = reqwest::Proxy::custom(move |url| of(&proxies, url).map(|proxy| proxy.url().to_owned()));
    let certificates = authorities.iter().filter_map(|der| reqwest::Certificate::from_der(der).ok());
    reqwest::Client::builder()
        .user_agent(concat!("codebuild-runner/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .no_proxy()
        .proxy(proxy)
        .tls_certs_only(certificates)
        // With HTTP/2, parallel requests share one connection and its flow-control window.
        .http1_only()
        .redirect(match redirects {
            Redirects::Follow => reqwest::redirect::Policy::default(),
            Redirects::Refuse => reqwest::redirect::Policy::none(),
        })
        .build()
}

/// The proxy of a request, for the end of a message: ` through the proxy HOST:PORT (VARIABLE)`, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Through(Option<Proxy>);

impl fmt::Display for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |proxy| write!(f, " through {proxy}"))
    }
}

/// Returns the proxy through which a client of [`client`] sends a request.
pub(crate) fn through(url: &reqwest::Url) -> Through {
    Through(of(&proxies(), url))
}

/// The proxies of the environment. Whether they are valid was checked when the environment was read.
fn proxies() -> Proxies {
    Proxies::from_environment().unwrap_or_default()
}

fn of(proxies: &Proxies, url: &reqwest::Url) -> Option<Proxy> {
    proxies.of(&url.as_str().parse().ok()?)
}
