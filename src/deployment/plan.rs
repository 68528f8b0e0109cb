//! What a deployment would do: for `--dry-run`, and for local mode.

use super::after::{AfterDeploy, FollowUp};
use super::controller::CodeDeployGroup;
use super::registration::Registered;
use super::revisions::Family;
use super::snapshot::{ServiceSnapshot, definition_of};
use super::{DEFAULT_WAIT, DeployOptions, DeployRequest, Deployer, ServiceSet};
use crate::ecs::appspec::AppSpec;
use crate::ecs::diff::compare;
use crate::ecs::revisions::RevisionName;
use crate::ecs::service::Service;
use crate::ecs::task_definition::{Patch, Request};
use crate::exit::Failure;
use crate::language::pipeline::model::OnFailure;
use serde_json::{Value, json};

/// The task definition that a deployment starts from.
#[derive(Debug, Clone)]
pub(crate) enum DefinitionSource {
    /// The content of a file, from which a revision is registered.
    File(Request),
    /// A registered revision: a family, `FAMILY:N` or an ARN.
    Registered(String),
    /// The revision of the first service.
    Running,
}

/// A request to register a revision, and the registered revision that it was made from.
pub(crate) struct Prepared {
    pub(crate) request: Request,
    pub(crate) base: Option<Registered>,
}

#[derive(Debug)]
pub(crate) struct PlannedService {
    pub(crate) service: String,
    /// The revision that it has, as an ARN.
    pub(crate) current: String,
    /// The revision that it would get: an ARN, or the family if one would be registered.
    pub(crate) new: String,
    /// `new` is inactive: its content would be registered again.
    pub(crate) registers_again: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// An ARN, or the family if a revision would be registered.
    pub(crate) revision: String,
    /// A revision would be registered.
    pub(crate) registers: bool,
    /// The change of the task definition, as a unified diff.
    pub(crate) difference: Option<String>,
    /// The services that would be deployed.
    pub(crate) services: Vec<PlannedService>,
    pub(crate) follow_up: FollowUp,
}

impl Deployer<'_> {
    /// Applies a patch to the task definition that a deployment starts from.
    pub(crate) async fn prepare(
        &self,
        snapshots: &[ServiceSnapshot],
        source: DefinitionSource,
        patch: &Patch,
    ) -> Result<Prepared, Failure> {
        let (mut request, base) = match source {
            DefinitionSource::File(request) => (request, None),
            DefinitionSource::Registered(name) => {
                let document = self.aws.ecs_task_definition(&name).await?;
                let base = Registered::read(&document)
                    .ok_or_else(|| Failure::usage(format!("{name} is no longer active")))?;
                (Request::from_document(document)?, Some(base))
            }
            DefinitionSource::Running => {
                is_one_family(snapshots)?;
                let document = self.aws.ecs_task_definition(running(snapshots)).await?;
                let base = Registered::read(&document);
                (Request::from_document(document)?, base)
            }
        };
        request.apply(patch)?;
        for slip in request.likely_typos() {
            self.events.warn(slip).await;
        }
        Ok(Prepared { request, base })
    }

    /// Plans a deployment and changes nothing.
    pub(crate) async fn plan(
        &self,
        target: &ServiceSet,
        source: DefinitionSource,
        patch: &Patch,
        options: &DeployOptions,
    ) -> Result<Plan, Failure> {
        let snapshots = self.snapshots(target).await?;
        let Prepared { request, base } = self.prepare(&snapshots, source, patch).await?;
        let latest = self.latest(&request).await?;
        let same = Registered::same_content(&request, [&base, &latest]).filter(|_| !options.force);
        let same = same.map(|same| same.revision.arn.clone());
        self.verify_definition(request.fields()).await?;
        let current = self.aws.ecs_task_definition(running(&snapshots)).await?;
        let mut plan = Plan {
            registers: same.is_none(),
            revision: same.clone().unwrap_or_else(|| request.family().to_owned()),
            difference: compare(&Request::from_document(current)?, &request),
            ..Plan::default()
        };
        let (mut cluster, mut previous) = (String::new(), Vec::new());
        for snapshot in snapshots {
            self.verify_service(&snapshot.service, request.fields()).await?;
            // After a failure the same revision is deployed again.
            let rollout = snapshot.service.primary().and_then(|primary| primary.rollout.clone());
            let has_failed = rollout.as_deref() == Some("FAILED");
            let Service { name: service, cluster: of, task_definition: current, .. } = snapshot.service;
            cluster = of;
            previous.push(current.clone());
            if options.force || has_failed || same.as_ref() != Some(&current) {
                plan.services.push(PlannedService {
                    service,
                    current,
                    new: plan.revision.clone(),
                    registers_again: false,
                });
            }
        }
        plan.follow_up = self
            .plan_follow_up(&cluster, request.family(), same.as_deref(), &previous, options.after)
            .await?;
        Ok(plan)
    }

    /// Plans what follows the deployment of `revision`, or of a new one if that is `None`.
    async fn plan_follow_up(
        &self,
        cluster: &str,
        family: &str,
        revision: Option<&str>,
        previous: &[String],
        after: AfterDeploy,
    ) -> Result<FollowUp, Failure> {
        let mut follow_up = FollowUp::default();
        // Whichever number a new revision gets, it is higher than all others.
        let new = format!("{family}:{}", u64::MAX);
        let deployed = revision.unwrap_or(&new);
        if after.schedules {
            let (found, problems) = self.outdated_schedules(cluster, &RevisionName::parse(deployed)).await;
            if !problems.is_empty() {
                return Err(Failure::step(problems.join("; ")).help("see the warnings above"));
            }
            follow_up.moved = found.into_iter().map(|outdated| outdated.name).collect();
        }
        if let Some(keep) = after.keep_revisions {
            let keep = usize::try_from(keep).unwrap_or(usize::MAX);
            let previous = previous.iter().map(String::as_str).collect();
            let family = Family { name: family, cluster, deployed, previous };
            // A new revision is one of those that are kept.
            let keep = keep.saturating_sub(usize::from(revision.is_none()));
            match self.older_revisions(&family, keep).await {
                Ok(older) => follow_up.deregistered = older.unused,
                Err(reason) => {
                    let text = format!("all revisions of {} would be kept: {reason}", family.name);
                    self.events.warn(text).await;
                }
            }
        }
        Ok(follow_up)
    }

    /// Compares a request with the revision that a service runs. Returns a unified diff, or `None` if both
    /// have the same content.
    pub(crate) async fn difference(
        &self,
        cluster: &str,
        service: &str,
        request: &Request,
    ) -> Result<Option<String>, Failure> {
        let service = self.aws.ecs_service(cluster, service).await?;
        let running = self.aws.ecs_task_definition(definition_of(&service)?).await?;
        let running = Request::from_document(running)?;
        Ok(compare(&running, request))
    }
}

/// Fails if services run different families: the revision of one does not belong to another.
fn is_one_family(snapshots: &[ServiceSnapshot]) -> Result<(), Failure> {
    let family =
        |snapshot: &ServiceSnapshot| RevisionName::parse(&snapshot.service.task_definition).family.to_owned();
    let first = snapshots.first().map(family);
    if snapshots.iter().all(|snapshot| Some(family(snapshot)) == first) {
        return Ok(());
    }
    let each: Vec<String> = snapshots
        .iter()
        .map(|snapshot| format!("{} runs {}", snapshot.service.name, family(snapshot)))
        .collect();
    let message = format!("the services run different task definitions: {}", each.join(", "));
    Err(Failure::usage(message).help(
        "deploy them one at a time, or select one task definition for all with --file or --task-definition",
    ))
}

/// The revision of the first service, as an ARN.
fn running(snapshots: &[ServiceSnapshot]) -> &str {
    snapshots.first().map(|first| first.service.task_definition.as_str()).unwrap_or_default()
}

impl DeployRequest {
    /// Describes the deployment of one service for local mode, which does not ask AWS.
    pub(crate) fn local_plan(&self, service: &str) -> Value {
        let options = &self.options;
        let on_failure = match options.on_failure {
            OnFailure::Rollback => "rollback",
            OnFailure::Leave => "leave",
        };
        let mut plan = json!({
            "cluster": self.target.cluster, "service": service, "taskDefinition": self.revision,
            "waitSeconds": options.wait.unwrap_or(DEFAULT_WAIT).as_secs(), "onFailure": on_failure,
        });
        if let Some(keep) = options.after.keep_revisions {
            plan["keepRevisions"] = json!(keep);
        }
        if options.after.schedules {
            plan["schedules"] = json!(true);
        }
        if let Some(group) = &self.code_deploy {
            plan["codeDeploy"] = self.code_deploy_request(group);
        }
        plan
    }

    /// The request to `CodeDeploy`. Only ECS knows the container and the port of the load balancer.
    fn code_deploy_request(&self, group: &CodeDeployGroup) -> Value {
        let spec = AppSpec { task_definition: self.revision.clone(), ..AppSpec::default() };
        json!({
            "applicationName": group.application, "deploymentGroupName": group.group,
            "description": group.description,
            "revision": { "revisionType": "AppSpecContent", "appSpecContent": { "content": spec.json() } },
        })
    }
}
