//! Raw request and response bodies, because the SDK's types drop fields that they do not know.

use super::AwsError;
use crate::document;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// Captures the body of a response.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawBody(Arc<Mutex<Option<Vec<u8>>>>);

impl RawBody {
    /// The captured body as JSON.
    pub(crate) fn json(&self, action: &'static str) -> Result<Value, AwsError> {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let text = String::from_utf8(body.unwrap_or_default()).map_err(|failed| failed.to_string());
        text.and_then(|text| document::json(&text).map_err(|failed| failed.to_string()))
            .map_err(|message| AwsError::UnexpectedResponse { action, message })
    }
}

impl Intercept for RawBody {
    fn name(&self) -> &'static str {
        "RawBody"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().map(<[u8]>::to_vec);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = body;
        Ok(())
    }
}

/// Replaces the body of a request before it is signed.
pub(crate) fn swap_body(body: &Value) -> impl Fn(&mut HttpRequest) + Send + Sync + use<> {
    let body = body.to_string();
    move |http| {
        http.headers_mut().insert("content-length", body.len().to_string());
        *http.body_mut() = SdkBody::from(body.clone());
    }
}
