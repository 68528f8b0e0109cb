//! The certificate authorities that runner trusts: the machine's, or built-in ones where the machine has none.

use std::path::Path;

/// Certificates in DER form: those of `AWS_CA_BUNDLE` where it is set, otherwise the machine's (`SSL_CERT_FILE` and
/// `SSL_CERT_DIR` are honoured), otherwise Mozilla's, which are part of the binary for `FROM scratch`.
pub fn authorities(aws_ca_bundle: Option<&Path>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    if let Some(bundle) = aws_ca_bundle {
        found = from_file(bundle);
    }
    if found.is_empty() {
        let native = rustls_native_certs::load_native_certs();
        found = native.certs.iter().map(|der| der.to_vec()).collect();
    }
    if found.is_empty() {
        found = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| der.to_vec()).collect();
    }
    found
}

/// The certificates of a PEM file or of the `.crt` files of a directory; none where it cannot be read.
pub fn from_file(path: &Path) -> Vec<Vec<u8>> {
    let result = if path.is_dir() {
        rustls_native_certs::load_certs_from_paths(None, Some(path))
    } else {
        rustls_native_certs::load_certs_from_paths(Some(path), None)
    };
    result.certs.iter().map(|der| der.to_vec()).collect()
}

/// A certificate as PEM text, for clients that take no other form.
pub fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n")
}

/// A client for plain HTTP work (registries, webhooks) that trusts these authorities.
pub fn http_client(authorities: &[Vec<u8>]) -> Result<reqwest::Client, reqwest::Error> {
    let certificates = authorities.iter().filter_map(|der| reqwest::Certificate::from_der(der).ok());
    reqwest::Client::builder()
        .user_agent(concat!("codebuild-runner/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(std::time::Duration::from_secs(10))
        .tls_certs_only(certificates)
        .build()
}
