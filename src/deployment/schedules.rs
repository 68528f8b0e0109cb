//! Moves scheduled tasks to the deployed revision: rules of `EventBridge` and schedules of its Scheduler.

use super::{DeployRequest, Deployer, results, short};
use crate::address::short_name;
use crate::aws::AwsError;
use crate::aws::events::RuleTarget;
use crate::aws::scheduler::Schedule;
use crate::connections::failure::with_advice;
use crate::ecs::revisions::{RevisionName, started_by};
use crate::exit::Failure;
use serde_json::Value;

/// The field of a target that names its revision.
const REVISION: &str = "/EcsParameters/TaskDefinitionArn";

/// A rule or schedule that starts an older revision.
pub(crate) struct OutdatedSchedule {
    /// Its name in messages.
    pub(crate) name: String,
    /// The revision that it starts, as written in its target.
    pub(crate) revision: String,
    kind: ScheduleKind,
}

enum ScheduleKind {
    Rule(RuleTarget),
    Schedule(Schedule),
    /// A schedule that calls `RunTask` itself, with an input that runner does not change.
    Call,
}

impl OutdatedSchedule {
    fn target(&mut self) -> Option<&mut Value> {
        match &mut self.kind {
            ScheduleKind::Rule(rule) => Some(&mut rule.target),
            ScheduleKind::Schedule(schedule) => schedule.document.get_mut("Target"),
            ScheduleKind::Call => None,
        }
    }
}

impl Deployer<'_> {
    /// Moves the rules and schedules of a cluster that start an older revision of the family to the deployed
    /// one. Returns the names of those that were moved, and a failure that names the others.
    pub(crate) async fn move_schedules(
        &self,
        request: &DeployRequest,
        cluster: &str,
    ) -> (Vec<String>, Option<Failure>) {
        let (found, mut left) =
            self.outdated_schedules(cluster, &RevisionName::parse(&request.revision)).await;
        let mut moved = Vec::new();
        for outdated in found {
            let (name, old) = (outdated.name.clone(), outdated.revision.clone());
            if self.stop.is_cancelled() {
                return (moved, Some(Failure::stopped()));
            }
            match self.update_schedule(outdated, &request.revision).await {
                Ok(()) => {
                    results::moved(self.events, &name, &old, &request.revision).await;
                    moved.push(name);
                }
                Err(reason) => {
                    self.events.warn(format!("could not move {name}: {reason}")).await;
                    left.push(format!("{name} still starts {}", short(&old)));
                }
            }
        }
        let failure = (!left.is_empty()).then(|| {
            let message = format!(
                "the deployment succeeded, but not all schedules were moved to it: {}",
                left.join("; ")
            );
            Failure::step(message).help("see the warnings above; the next deployment retries")
        });
        (moved, failure)
    }

    /// Returns the rules and schedules that start older revisions than `newer` in a cluster, which is an ARN,
    /// and descriptions of what could not be read.
    pub(crate) async fn outdated_schedules(
        &self,
        cluster: &str,
        newer: &RevisionName<'_>,
    ) -> (Vec<OutdatedSchedule>, Vec<String>) {
        let (mut found, mut unknown) = (Vec::new(), Vec::new());
        match self.aws.rules_of_clusters(&[cluster]).await {
            Ok(rules) => {
                found.extend(rules.into_iter().filter_map(|rule| {
                    let revision = started_by(&rule.target)?;
                    Some(OutdatedSchedule { name: rule.name(), revision, kind: ScheduleKind::Rule(rule) })
                }));
            }
            Err(error) => unknown.push(self.unreadable("rules", error).await),
        }
        match self.aws.schedules_of_tasks().await {
            Ok(schedules) => found.extend(schedules.into_iter().filter_map(|schedule| {
                let target = schedule.document.get("Target")?;
                let revision = started_by(target)?;
                let arn = target.get("Arn").and_then(Value::as_str);
                let is_call = target.pointer(REVISION).is_none();
                let is_here = if is_call { calls_for(target, cluster) } else { arn == Some(cluster) };
                is_here.then(|| OutdatedSchedule {
                    name: schedule.name(),
                    revision,
                    kind: if is_call { ScheduleKind::Call } else { ScheduleKind::Schedule(schedule) },
                })
            })),
            Err(error) => unknown.push(self.unreadable("schedules", error).await),
        }
        found.retain(|outdated| RevisionName::parse(&outdated.revision).is_behind(newer));
        (found, unknown)
    }

    async fn unreadable(&self, kind: &str, error: AwsError) -> String {
        self.events
            .warn(format!("could not read the {kind} that start tasks: {}", with_advice(&error)))
            .await;
        format!("could not read the {kind}")
    }

    /// Changes the revision of a rule or schedule, and nothing else.
    async fn update_schedule(&self, mut outdated: OutdatedSchedule, revision: &str) -> Result<(), String> {
        let named = outdated.target().and_then(|target| target.pointer_mut(REVISION));
        let Some(named) = named else {
            return Err("it calls RunTask itself, and runner does not change its input".to_owned());
        };
        *named = Value::from(revision);
        match &outdated.kind {
            ScheduleKind::Rule(rule) => self.aws.put_rule_target(rule).await,
            ScheduleKind::Schedule(schedule) => self.aws.update_schedule(schedule).await,
            ScheduleKind::Call => Ok(()),
        }
        .map_err(with_advice)
    }
}

/// Whether a schedule that calls `RunTask` does so for a cluster (an ARN). If it names none, that is
/// `default`.
fn calls_for(target: &Value, cluster: &str) -> bool {
    let input = target.get("Input").and_then(Value::as_str).unwrap_or_default();
    let input: Value = serde_json::from_str(input).unwrap_or_default();
    let named = ["Cluster", "cluster"].into_iter().find_map(|key| input.get(key)?.as_str());
    let named = named.unwrap_or("default");
    named == cluster || short_name(cluster) == named
}
