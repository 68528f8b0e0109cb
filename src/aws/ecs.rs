//! Amazon Elastic Container Service: task definitions and services.
//!
//! Task definitions travel as JSON: the SDK's types would drop every field that they do not know yet.

use super::{Aws, AwsError, error};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::AfterDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::retry::RetryConfig;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// A revision of a task definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its ARN, `…:task-definition/FAMILY:N`.
    pub arn: String,
}

impl Revision {
    /// Its number in its family; 0 where the ARN has none.
    pub fn number(&self) -> u64 {
        self.arn.rsplit(':').next().and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    /// `FAMILY:N`, for people.
    pub fn short(&self) -> &str {
        self.arn.rsplit('/').next().unwrap_or(&self.arn)
    }
}

impl Aws {
    /// A task definition by family (its latest revision) or ARN, as `DescribeTaskDefinition` answers, tags included.
    pub async fn ecs_task_definition(&self, name: &str) -> Result<Value, AwsError> {
        const ACTION: &str = "ecs:DescribeTaskDefinition";
        let raw = RawBody::default();
        let answer = aws_sdk_ecs::Client::new(&self.config)
            .describe_task_definition()
            .task_definition(name)
            .include(aws_sdk_ecs::types::TaskDefinitionField::Tags)
            .customize()
            .interceptor(raw.clone())
            .send()
            .await;
        if let Err(failed) = answer {
            // ECS has no error of its own for this: the call is so simple that nothing else can be wrong with it.
            return Err(match error(ACTION, "*", failed) {
                AwsError::Service { code, .. } if code == "ClientException" => {
                    AwsError::NotFound { what: "task definition", name: name.to_owned() }
                }
                other => other,
            });
        }
        let body = raw.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        serde_json::from_slice(&body.unwrap_or_default()).map_err(|failed| AwsError::Service {
            action: ACTION,
            code: "invalid answer".to_owned(),
            message: failed.to_string(),
        })
    }

    /// The ARN of the task definition that a service is to run.
    pub async fn ecs_service_task_definition(
        &self,
        cluster: &str,
        service: &str,
    ) -> Result<String, AwsError> {
        let answer = aws_sdk_ecs::Client::new(&self.config)
            .describe_services()
            .cluster(cluster)
            .services(service)
            .send()
            .await
            .map_err(|failed| {
                missing(
                    error("ecs:DescribeServices", &self.service_arn(cluster, service), failed),
                    cluster,
                    service,
                )
            })?;
        answer
            .services()
            .iter()
            .find(|found| found.status() != Some("INACTIVE"))
            .and_then(|found| found.task_definition())
            .map(ToOwned::to_owned)
            .ok_or_else(|| AwsError::NotFound { what: "service", name: format!("{cluster}/{service}") })
    }

    fn service_arn(&self, cluster: &str, service: &str) -> String {
        if service.starts_with("arn:") {
            return service.to_owned();
        }
        let cluster = cluster.rsplit('/').next().unwrap_or_default();
        self.arn("ecs", &format!("service/{cluster}/{service}"))
    }

    /// Registers exactly this request and gives the new revision. One attempt: where its answer is lost, another one could register it
    /// twice.
    pub async fn ecs_register(&self, request: &Value) -> Result<Revision, AwsError> {
        const ACTION: &str = "ecs:RegisterTaskDefinition";
        let body = request.to_string();
        let family = request.get("family").and_then(Value::as_str).unwrap_or("*");
        let resource = self.arn("ecs", &format!("task-definition/{family}:*"));
        let answer = aws_sdk_ecs::Client::new(&self.config)
            .register_task_definition()
            .customize()
            .config_override(aws_sdk_ecs::Config::builder().retry_config(RetryConfig::disabled()))
            // The request is signed after this.
            .mutate_request(move |http| {
                http.headers_mut().insert("content-length", body.len().to_string());
                *http.body_mut() = SdkBody::from(body.clone());
            })
            .send()
            .await
            .map_err(|failed| error(ACTION, &resource, failed))?;
        answer
            .task_definition
            .and_then(|definition| definition.task_definition_arn)
            .map(|arn| Revision { arn })
            .ok_or(AwsError::Service {
                action: ACTION,
                code: "invalid answer".to_owned(),
                message: "the answer names no revision".to_owned(),
            })
    }

    /// Points a service to a revision, and starts new tasks also where it runs that one if `force` says so. Gives the id of the
    /// deployment that this starts, where ECS names it.
    pub async fn ecs_update_service(
        &self,
        cluster: &str,
        service: &str,
        revision: &str,
        force: bool,
    ) -> Result<Option<String>, AwsError> {
        let answer = aws_sdk_ecs::Client::new(&self.config)
            .update_service()
            .cluster(cluster)
            .service(service)
            .task_definition(revision)
            .force_new_deployment(force)
            .send()
            .await
            .map_err(|failed| {
                missing(
                    error("ecs:UpdateService", &self.service_arn(cluster, service), failed),
                    cluster,
                    service,
                )
            })?;
        let deployments = answer.service.and_then(|service| service.deployments);
        Ok(deployments
            .unwrap_or_default()
            .into_iter()
            .find(|deployment| deployment.status.as_deref() == Some("PRIMARY"))
            .and_then(|deployment| deployment.id))
    }
}

/// ECS's errors for a cluster or service that does not exist, by name.
fn missing(failed: AwsError, cluster: &str, service: &str) -> AwsError {
    let AwsError::Service { code, .. } = &failed else {
        return failed;
    };
    match code.as_str() {
        "ClusterNotFoundException" => AwsError::NotFound { what: "cluster", name: cluster.to_owned() },
        "ServiceNotFoundException" | "ServiceNotActiveException" => {
            AwsError::NotFound { what: "service", name: format!("{cluster}/{service}") }
        }
        _ => failed,
    }
}

/// Keeps an answer's body as it came.
#[derive(Debug, Clone, Default)]
struct RawBody(Arc<Mutex<Option<Vec<u8>>>>);

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
