//! Scheduled tasks of a family are pointed to the revision that was deployed: rules of `EventBridge` and schedules of its Scheduler.

use super::{Deployer, Order, short};
use crate::address::short_name;
use crate::aws::AwsError;
use crate::aws::events::RuleTarget;
use crate::aws::scheduler::Schedule;
use crate::connections::failure::told;
use crate::ecs::revisions::{RevisionName, started_by};
use crate::event;
use crate::exit::Failure;
use serde_json::Value;

/// Where a target names its revision.
const REVISION: &str = "/EcsParameters/TaskDefinitionArn";

/// Something that starts an older revision.
pub(crate) struct Behind {
    /// What it is called, for people.
    pub(crate) name: String,
    /// The revision that it starts, as it names it.
    pub(crate) revision: String,
    kind: Kind,
}

enum Kind {
    Rule(RuleTarget),
    Schedule(Schedule),
    /// A schedule that calls `RunTask` itself. Its input is its own.
    Call,
}

impl Behind {
    fn target(&mut self) -> Option<&mut Value> {
        match &mut self.kind {
            Kind::Rule(rule) => Some(&mut rule.target),
            Kind::Schedule(schedule) => schedule.document.get_mut("Target"),
            Kind::Call => None,
        }
    }
}

impl Deployer<'_> {
    /// Points what starts an older revision of the order's family in its cluster to the order's. Gives what was moved, and a failure that
    /// names what was not.
    pub(crate) async fn move_schedules(
        &self,
        order: &Order,
        cluster: &str,
    ) -> (Vec<String>, Option<Failure>) {
        let (found, mut left) = self.behind_schedule(cluster, &RevisionName::parse(&order.revision)).await;
        let mut moved = Vec::new();
        for behind in found {
            let (name, old) = (behind.name.clone(), short(&behind.revision));
            if self.stop.is_cancelled() {
                return (moved, Some(Failure::stopped()));
            }
            match self.point(behind, &order.revision).await {
                Ok(()) => {
                    let events = self.events;
                    let (before, after) = (events.shown(&old), events.shown(short(&order.revision)));
                    events
                        .send(event::Kind::ScheduleMoved { name: events.shown(&name), before, after })
                        .await;
                    moved.push(name);
                }
                Err(reason) => {
                    self.events.warn(format!("{name} could not be moved: {reason}")).await;
                    left.push(format!("{name} still starts {old}"));
                }
            }
        }
        let failure = (!left.is_empty()).then(|| {
            let message = format!(
                "the deployment is through, but not all scheduled tasks follow it: {}",
                left.join("; ")
            );
            Failure::step(message).help("the warnings above say why; a further deployment tries again")
        });
        (moved, failure)
    }

    /// What starts older revisions than `newer` in a cluster, which is given as its ARN; and what could not be looked at.
    pub(crate) async fn behind_schedule(
        &self,
        cluster: &str,
        newer: &RevisionName<'_>,
    ) -> (Vec<Behind>, Vec<String>) {
        let (mut found, mut unknown) = (Vec::new(), Vec::new());
        match self.aws.rules_of_clusters(&[cluster]).await {
            Ok(rules) => {
                found.extend(rules.into_iter().filter_map(|rule| {
                    let revision = started_by(&rule.target)?;
                    Some(Behind { name: rule.name(), revision, kind: Kind::Rule(rule) })
                }));
            }
            Err(error) => unknown.push(self.unseen("rules", error).await),
        }
        match self.aws.schedules_of_tasks().await {
            Ok(schedules) => found.extend(schedules.into_iter().filter_map(|schedule| {
                let target = schedule.document.get("Target")?;
                let revision = started_by(target)?;
                let arn = target.get("Arn").and_then(Value::as_str);
                let is_call = target.pointer(REVISION).is_none();
                let is_here = if is_call { calls_for(target, cluster) } else { arn == Some(cluster) };
                is_here.then(|| Behind {
                    name: schedule.name(),
                    revision,
                    kind: if is_call { Kind::Call } else { Kind::Schedule(schedule) },
                })
            })),
            Err(error) => unknown.push(self.unseen("schedules", error).await),
        }
        found.retain(|behind| RevisionName::parse(&behind.revision).is_behind(newer));
        (found, unknown)
    }

    async fn unseen(&self, what: &str, error: AwsError) -> String {
        let text = format!("{what} that start tasks could not be looked for: {}", told(&error));
        self.events.warn(text).await;
        format!("{what} could not be looked for")
    }

    /// Points one of them to a revision, and changes nothing else of it.
    async fn point(&self, mut behind: Behind, revision: &str) -> Result<(), String> {
        let named = behind.target().and_then(|target| target.pointer_mut(REVISION));
        let Some(named) = named else {
            return Err("it calls RunTask with an input of its own, which runner does not change".to_owned());
        };
        *named = Value::from(revision);
        match &behind.kind {
            Kind::Rule(rule) => self.aws.put_rule_target(rule).await,
            Kind::Schedule(schedule) => self.aws.update_schedule(schedule).await,
            Kind::Call => Ok(()),
        }
        .map_err(told)
    }
}

/// Whether a schedule that calls `RunTask` does so for a cluster (an ARN). Without a name it is the one called `default`.
fn calls_for(target: &Value, cluster: &str) -> bool {
    let input = target.get("Input").and_then(Value::as_str).unwrap_or_default();
    let input: Value = serde_json::from_str(input).unwrap_or_default();
    let named = ["Cluster", "cluster"].into_iter().find_map(|key| input.get(key)?.as_str());
    let named = named.unwrap_or("default");
    named == cluster || short_name(cluster) == named
}
