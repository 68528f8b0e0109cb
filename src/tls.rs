//! The certificate authorities that runner trusts: the machine's, or built-in ones if the machine has none.

use std::path::Path;

/// Returns certificates in DER form: the machine's (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured), or Mozilla's, which are
/// part of the binary for `FROM scratch`; and those of `AWS_CA_BUNDLE` if it is set.
pub(crate) fn authorities(aws_ca_bundle: Option<&Path>) -> Vec<Vec<u8>> {
    let native = rustls_native_certs::load_native_certs();
    let mut found: Vec<Vec<u8>> = native.certs.iter().map(|der| der.to_vec()).collect();
    if found.is_empty() {
        found = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| der.to_vec()).collect();
    }
    found.extend(aws_ca_bundle.map(load_certificates).unwrap_or_default());
    found
}

/// Loads the certificates of a PEM file, or of the `.crt` files of a directory. Returns none if it cannot be read.
pub(crate) fn load_certificates(path: &Path) -> Vec<Vec<u8>> {
    let result = if path.is_dir() {
        rustls_native_certs::load_certs_from_paths(None, Some(path))
    } else {
        rustls_native_certs::load_certs_from_paths(Some(path), None)
    };
    result.certs.iter().map(|der| der.to_vec()).collect()
}

/// Encodes a certificate as PEM text, for clients that accept no other form.
pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n")
}
