//! Amazon `EventBridge` Scheduler: schedules that start tasks, as raw JSON, so that unknown fields survive an update.

use super::raw::{RawBody, swap_body};
use super::{Aws, AwsError};
use crate::address::Arn;
use serde_json::Value;

/// The error code for a schedule that no longer exists.
const GONE: &str = "ResourceNotFoundException";
/// Fields that `GetSchedule` returns and `UpdateSchedule` does not accept in its body.
const READ_ONLY: [&str; 4] = ["Arn", "Name", "CreationDate", "LastModificationDate"];
/// The end of the target ARN of a schedule that calls the ECS API.
const RUN_TASK: &str = ":aws-sdk:ecs:runTask";

/// A schedule that starts tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) group: String,
    pub(crate) name: String,
    /// The response of `GetSchedule`.
    pub(crate) document: Value,
}

impl Schedule {
    /// The schedule's name for messages.
    pub(crate) fn name(&self) -> String {
        match self.group.as_str() {
            "default" => format!("the schedule {}", self.name),
            group => format!("the schedule {group}/{}", self.name),
        }
    }
}

impl Aws {
    /// The schedules that start ECS tasks in any cluster.
    pub(crate) async fn schedules_of_tasks(&self) -> Result<Vec<Schedule>, AwsError> {
        let mut pages = client!(aws_sdk_scheduler, self).list_schedules().into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|failed| self.error("scheduler:ListSchedules", "*", failed))?;
            for brief in page.schedules {
                let target = brief.target.map(|target| target.arn).unwrap_or_default();
                let is_cluster =
                    |arn: Arn<'_>| arn.service() == "ecs" && arn.resource().starts_with("cluster/");
                let starts_tasks = Arn::parse(&target).is_some_and(is_cluster) || target.ends_with(RUN_TASK);
                if let (true, Some(group), Some(name)) = (starts_tasks, brief.group_name, brief.name) {
                    found.extend(self.schedule(group, name).await?);
                }
            }
        }
        Ok(found)
    }

    fn schedule_arn(&self, group: &str, name: &str) -> String {
        self.arn("scheduler", &format!("schedule/{group}/{name}"))
    }

    /// Returns `None` if the schedule was deleted meanwhile.
    async fn schedule(&self, group: String, name: String) -> Result<Option<Schedule>, AwsError> {
        const ACTION: &str = "scheduler:GetSchedule";
        let raw = RawBody::default();
        let call = client!(aws_sdk_scheduler, self).get_schedule().group_name(&group).name(&name);
        match call.customize().interceptor(raw.clone()).send().await {
            Ok(_) => Ok(Some(Schedule { document: raw.json(ACTION)?, group, name })),
            Err(failed) => match self.error(ACTION, &self.schedule_arn(&group, &name), failed) {
                AwsError::Service { code, .. } if code == GONE => Ok(None),
                failed => Err(failed),
            },
        }
    }

    /// Replaces the whole schedule with its document. Fields that are not in the document get their defaults.
    pub(crate) async fn update_schedule(&self, schedule: &Schedule) -> Result<(), AwsError> {
        let mut body = schedule.document.clone();
        if let Some(fields) = body.as_object_mut() {
            fields.retain(|name, value| !value.is_null() && !READ_ONLY.contains(&name.as_str()));
            fields.insert("GroupName".to_owned(), Value::from(schedule.group.as_str()));
        }
        client!(aws_sdk_scheduler, self)
            .update_schedule()
            .name(&schedule.name)
            .customize()
            .mutate_request(swap_body(&body))
            .send()
            .await
            .map_err(|failed| {
                let resource = self.schedule_arn(&schedule.group, &schedule.name);
                self.error("scheduler:UpdateSchedule", &resource, failed)
            })?;
        Ok(())
    }
}
