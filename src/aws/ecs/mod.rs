//! Amazon Elastic Container Service: task definitions in this file, services, tasks and users of revisions in others.
//!
//! Task definitions are raw JSON, because the SDK's types drop fields that they do not know.

mod services;
mod tasks;
mod usage;

pub(crate) use services::time;
pub(crate) use tasks::{RunTask, TaskFilter};

use super::raw::{RawBody, swap_body};
use super::{Aws, AwsError};
use crate::address::Arn;
use crate::ecs::revisions::{Revision, RevisionName};
use aws_sdk_ecs::types::{SortOrder, TaskDefinitionStatus};
use aws_smithy_types::retry::RetryConfig;
use serde_json::Value;

impl Aws {
    /// The `DescribeTaskDefinition` response, with tags, for an ARN or for the latest revision of a family.
    pub(crate) async fn ecs_task_definition(&self, name: &str) -> Result<Value, AwsError> {
        const ACTION: &str = "ecs:DescribeTaskDefinition";
        let raw = RawBody::default();
        let answer = client!(aws_sdk_ecs, self)
            .describe_task_definition()
            .task_definition(name)
            .include(aws_sdk_ecs::types::TaskDefinitionField::Tags)
            .customize()
            .interceptor(raw.clone())
            .send()
            .await;
        if let Err(failed) = answer {
            // ECS has no specific error for a missing task definition, and the call has no other client error.
            return Err(match self.error(ACTION, "*", failed) {
                AwsError::Service { code, .. } if code == "ClientException" => {
                    self.not_found("task definition", name)
                }
                other => other,
            });
        }
        raw.json(ACTION)
    }

    /// The latest revision of a family that this run has made here.
    pub(crate) fn made_revision(&self, family: &str) -> Option<Revision> {
        let is_here = |arn: &String| Arn::parse(arn).and_then(|arn| arn.region()) == Some(self.region());
        let made = self.attempts.all_made().into_iter().filter(is_here).map(|arn| Revision { arn });
        let own = made.filter(|made| {
            let name = RevisionName::parse(&made.arn);
            name.family == family && name.number.is_some()
        });
        own.max_by_key(Revision::number)
    }

    /// Registers exactly this request and returns the new revision. Never retried: if the response is lost, a retry
    /// could register it twice.
    pub(crate) async fn ecs_register(&self, request: &Value) -> Result<Revision, AwsError> {
        const ACTION: &str = "ecs:RegisterTaskDefinition";
        let family = request.get("family").and_then(Value::as_str).unwrap_or("*");
        let resource = self.arn("ecs", &format!("task-definition/{family}:*"));
        let answer = client!(aws_sdk_ecs, self, RetryConfig::disabled())
            .register_task_definition()
            .customize()
            .mutate_request(swap_body(request))
            .send()
            .await
            .map_err(|failed| self.error(ACTION, &resource, failed))?;
        let arn = answer.task_definition.and_then(|definition| definition.task_definition_arn);
        let arn = arn.ok_or_else(|| AwsError::without(ACTION, "revision"))?;
        self.made(&arn);
        Ok(Revision { arn })
    }

    /// The active revisions of a family, newest first.
    pub(crate) async fn ecs_revisions(&self, family: &str) -> Result<Vec<Revision>, AwsError> {
        const ACTION: &str = "ecs:ListTaskDefinitions";
        let answers = client!(aws_sdk_ecs, self)
            .list_task_definitions()
            .family_prefix(family)
            .status(TaskDefinitionStatus::Active)
            .sort(SortOrder::Desc)
            .into_paginator()
            .items()
            .send()
            .collect::<Result<Vec<String>, _>>()
            .await
            .map_err(|failed| self.error(ACTION, "*", failed))?;
        // The prefix also matches longer family names.
        let revisions = answers.into_iter().map(|arn| Revision { arn });
        let own = format!("{family}:");
        let mut revisions: Vec<Revision> =
            revisions.filter(|revision| revision.short().starts_with(&own)).collect();
        revisions.sort_by_key(|revision| std::cmp::Reverse(revision.number()));
        Ok(revisions)
    }

    /// Deregisters a revision: it can no longer start tasks.
    pub(crate) async fn ecs_deregister(&self, revision: &Revision) -> Result<(), AwsError> {
        client!(aws_sdk_ecs, self)
            .deregister_task_definition()
            .task_definition(&revision.arn)
            .send()
            .await
            .map_err(|failed| self.error("ecs:DeregisterTaskDefinition", "*", failed))?;
        Ok(())
    }
}
