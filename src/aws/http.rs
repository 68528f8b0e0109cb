//! The HTTP client of the AWS SDK: runner's authorities, and the proxies of the environment.

use super::AwsError;
use crate::proxy::{Proxies, Proxy};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A client that trusts these authorities (in DER form) and no others.
pub(super) fn client(authorities: &[Vec<u8>]) -> Result<SharedHttpClient, AwsError> {
    let mut store = TrustStore::empty();
    for der in authorities {
        store.add_pem_certificate(crate::tls::pem(der).into_bytes());
    }
    let context = TlsContext::builder()
        .with_trust_store(store)
        .build()
        .map_err(|error| AwsError::Tls(Box::new(error)))?;
    let proxies = Proxies::from_environment().map_err(|error| AwsError::Proxy(Box::new(error)))?;
    let direct = through(&context, &ProxyConfig::disabled());
    Ok(SharedHttpClient::new(Routes { proxies, context, direct, proxied: Arc::default() }))
}

fn through(context: &TlsContext, proxy: &ProxyConfig) -> SharedHttpClient {
    let (context, proxy) = (context.clone(), proxy.clone());
    Builder::new().build_with_connector_fn(move |settings, _| {
        let mut connector = Connector::builder().proxy_config(proxy.clone());
        connector.set_connector_settings(settings.cloned());
        connector.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).tls_context(context.clone()).build()
    })
}

/// Selects the proxy of each request: metadata addresses and those of `NO_PROXY` are reached directly.
#[derive(Debug, Clone)]
struct Routes {
    proxies: Proxies,
    context: TlsContext,
    direct: SharedHttpClient,
    /// A client for each proxy that was used.
    proxied: Arc<Mutex<HashMap<String, SharedHttpClient>>>,
}

impl Routes {
    fn client(&self, proxy: &Proxy) -> Result<SharedHttpClient, ConnectorError> {
        let mut proxied = self.proxied.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = proxied.get(proxy.url()) {
            return Ok(client.clone());
        }
        let config = ProxyConfig::all(proxy.url()).map_err(|error| ConnectorError::user(error.into()))?;
        let client = through(&self.context, &config);
        proxied.insert(proxy.url().to_owned(), client.clone());
        Ok(client)
    }
}

impl HttpClient for Routes {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Route {
            routes: self.clone(),
            direct: self.direct.http_connector(settings, components),
            settings: settings.clone(),
            components: components.clone(),
        })
    }
}

#[derive(Debug)]
struct Route {
    routes: Routes,
    direct: SharedHttpConnector,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for Route {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.uri().parse().ok();
        let Some(proxy) = target.and_then(|target| self.routes.proxies.of(&target)) else {
            return self.direct.call(request);
        };
        let client = match self.routes.client(&proxy) {
            Ok(client) => client,
            Err(error) => return HttpConnectorFuture::ready(Err(error)),
        };
        let connector = client.http_connector(&self.settings, &self.components);
        HttpConnectorFuture::new(async move {
            connector.call(request).await.map_err(|error| named(error, &proxy))
        })
    }
}

/// An error of a request that went through a proxy.
#[derive(Debug, thiserror::Error)]
#[error("through {proxy}")]
struct ThroughProxy {
    proxy: Proxy,
    #[source]
    source: ConnectorError,
}

/// Adds the proxy to an error, which stays as transient as it was.
fn named(error: ConnectorError, proxy: &Proxy) -> ConnectorError {
    let (is_timeout, is_io) = (error.is_timeout(), error.is_io());
    let named = Box::new(ThroughProxy { proxy: proxy.clone(), source: error });
    if is_timeout {
        ConnectorError::timeout(named)
    } else if is_io {
        ConnectorError::io(named)
    } else {
        ConnectorError::other(named, None)
    }
}
