//! The certificate authorities that runner trusts: the machine's, or built-in ones where the machine has none.

use std::path::Path;

/// Certificates in DER form: the machine's (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured), or Mozilla's, which are part of
/// the binary for `FROM scratch`; and those of `AWS_CA_BUNDLE` where it is set.
pub(crate) fn authorities(aws_ca_bundle: Option<&Path>) -> Vec<Vec<u8>> {
    let native = rustls_native_certs::load_native_certs();
    let mut found: Vec<Vec<u8>> = native.certs.iter().map(|der| der.to_vec()).collect();
    if found.is_empty() {
        found = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| der.to_vec()).collect();
    }
    found.extend(aws_ca_bundle.map(from_file).unwrap_or_default());
    found
}

/// The certificates of a PEM file or of the `.crt` files of a directory; none where it cannot be read.
pub(crate) fn from_file(path: &Path) -> Vec<Vec<u8>> {
    let result = if path.is_dir() {
        rustls_native_certs::load_certs_from_paths(None, Some(path))
    } else {
        rustls_native_certs::load_certs_from_paths(Some(path), None)
    };
    result.certs.iter().map(|der| der.to_vec()).collect()
}

/// A certificate as PEM text, for clients that take no other form.
pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n")
}

/// What a client does when it is sent elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Redirects {
    /// Goes there, without the `Authorization` header where the host is another one.
    Follow,
    /// Takes it for the answer: what is sent along may be meant for the first host only.
    Refuse,
}

/// A client for plain HTTP work (registries, webhooks) that trusts these authorities.
pub(crate) fn http_client(
    authorities: &[Vec<u8>],
    redirects: Redirects,
) -> Result<reqwest::Client, reqwest::Error> {
    let certificates = authorities.iter().filter_map(|der| reqwest::Certificate::from_der(der).ok());
    reqwest::Client::builder()
        .user_agent(concat!("codebuild-runner/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(std::time::Duration::from_secs(10))
        .tls_certs_only(certificates)
        // What is sent side by side gets a connection each, and does not share the window of one.
        .http1_only()
        .redirect(match redirects {
            Redirects::Follow => reqwest::redirect::Policy::default(),
            Redirects::Refuse => reqwest::redirect::Policy::none(),
        })
        .build()
}
