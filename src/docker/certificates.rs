//! TLS to the engine, with certificates from the files that the docker command takes.

use super::DockerError;
use crate::tls::authorities;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, crypto::aws_lc_rs,
};
use tokio_rustls::{TlsConnector, rustls::ConfigBuilder};

/// Certificate files and how to use them.
pub(crate) struct Certificates<'a> {
    /// The directory of `ca.pem`, `cert.pem` and `key.pem`.
    pub(crate) directory: &'a Path,
    /// Whether the engine's certificate is verified.
    pub(crate) verified: bool,
    /// The variable or docker context that turns TLS on.
    pub(crate) asked_by: &'static str,
}

/// The TLS configuration for one engine.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    verified: bool,
    /// The path of the client certificate if the file is missing.
    absent: Option<PathBuf>,
}

impl Certificates<'_> {
    /// Reads the files for the engine of this host name. Returns `None` if the name is not valid. As with docker, `ca.pem` must
    /// exist if the engine is verified; the other two are optional.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Tls>, DockerError> {
        let Ok(name) = ServerName::try_from(name.to_owned()) else { return Ok(None) };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.unusable("ca.pem", error))?;
        let builder = if self.verified {
            builder.with_root_certificates(self.roots()?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
        };
        let (config, absent) = self.with_client(builder)?;
        Ok(Some(Tls { config: Arc::new(config), name, verified: self.verified, absent }))
    }

    /// Returns the machine's authorities and the engine's own.
    fn roots(&self) -> Result<RootCertStore, DockerError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities(None).into_iter().map(CertificateDer::from));
        for certificate in self.certificates("ca.pem")? {
            roots.add(certificate).map_err(|error| self.unusable("ca.pem", error))?;
        }
        Ok(roots)
    }

    fn with_client(
        &self,
        builder: ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    ) -> Result<(ClientConfig, Option<PathBuf>), DockerError> {
        let (certificate, key) = (self.directory.join("cert.pem"), self.directory.join("key.pem"));
        if !certificate.exists() && !key.exists() {
            return Ok((builder.with_no_client_auth(), Some(certificate)));
        }
        let chain = self.certificates("cert.pem")?;
        let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| self.unusable("key.pem", error))?;
        let config =
            builder.with_client_auth_cert(chain, key).map_err(|error| self.unusable("key.pem", error))?;
        Ok((config, None))
    }

    fn certificates(&self, file: &str) -> Result<Vec<CertificateDer<'static>>, DockerError> {
        let read = || CertificateDer::pem_file_iter(self.directory.join(file))?.collect();
        let found: Result<Vec<CertificateDer<'static>>, pem::Error> = read();
        let found = found.map_err(|error| self.unusable(file, error))?;
        if found.is_empty() {
            return Err(self.unusable(file, pem::Error::NoItemsFound));
        }
        Ok(found)
    }

    fn unusable(
        &self,
        file: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> DockerError {
        let source = source.into();
        // The library's text for an I/O error is not readable.
        let source = match source.downcast::<pem::Error>() {
            Ok(error) => match *error {
                pem::Error::Io(error) => error.into(),
                pem::Error::NoItemsFound => "there is nothing of that kind in it".into(),
                other => other.into(),
            },
            Err(source) => source,
        };
        DockerError::Certificate { path: self.directory.join(file), asked_by: self.asked_by, source }
    }
}

impl Tls {
    /// Starts TLS on a connection.
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.verified { "TLS" } else { "TLS, its certificate is not checked" })?;
        match &self.absent {
            Some(path) => write!(f, ", without a client certificate: there is no {}", path.display()),
            None => Ok(()),
        }
    }
}

/// Accepts every certificate: the meaning of `DOCKER_TLS` without `DOCKER_TLS_VERIFY`.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
