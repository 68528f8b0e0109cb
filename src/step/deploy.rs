//! `deploy`: services get the revision that this build registered.

use super::StepScope;
use crate::deployment::{CodeDeploy, Order, Outcome, Report, WAIT, Wishes, failure_of, short};
use crate::ecs::appspec::AppSpec;
use crate::event::{Deployed, DeploymentStatus, Kind};
use crate::exit::Failure;
use crate::files::{self, Access};
use crate::language::pipeline::model::{Deploy, OnFailure};
use crate::plan::Mode;
use serde_json::{Value, json};

pub(crate) async fn run(cx: &StepScope<'_>, deploy: &Deploy) -> Result<(), Failure> {
    let (family, revision) = cx.registered(deploy.task_definition.as_ref())?;
    let order = Order {
        cluster: cx.resolve(&deploy.cluster)?,
        services: cx.resolve_all(&deploy.services)?,
        revision,
        wait: deploy.wait,
        on_failure: deploy.on_failure,
        force: deploy.force,
        verified: false,
    };
    let wishes = Wishes { keep_revisions: deploy.keep_revisions, schedules: deploy.schedules };
    let by = by(cx, deploy)?;
    if cx.project.mode == Mode::Local {
        return planned(cx, &order, by.as_ref(), &family, wishes).await;
    }
    let aws = cx.aws().await?;
    let deployer = cx.deployer(&aws)?;
    let reports = match &by {
        Some(by) => vec![deployer.deploy_by(&order, by).await?],
        None => deployer.deploy(&order, deployer.look(&order.cluster, &order.services).await?).await?,
    };
    for report in &reports {
        report_end(cx, &order, report).await;
    }
    if let Some(failure) = failure_of(&reports) {
        return Err(failure);
    }
    deployer.after(&order, &reports, wishes).await.failure.map_or(Ok(()), Err)
}

/// By what `CodeDeploy` deploys, where it does.
fn by(cx: &StepScope<'_>, deploy: &Deploy) -> Result<Option<CodeDeploy>, Failure> {
    let Some(by) = &deploy.code_deploy else { return Ok(None) };
    let job = &cx.project;
    let commit = job.context.commit.as_ref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
    let note = format!("{}, build {}{commit}", job.pipeline.name, cx.project.build_id);
    Ok(Some(CodeDeploy { application: cx.resolve(&by.application)?, group: cx.resolve(&by.group)?, note }))
}

/// What `CodeDeploy` would be asked for. The container and the port of the load balancer are known to ECS alone.
fn request(order: &Order, by: &CodeDeploy) -> Value {
    let spec = AppSpec { task_definition: order.revision.clone(), ..AppSpec::default() };
    json!({
        "applicationName": by.application, "deploymentGroupName": by.group, "description": by.note,
        "revision": { "revisionType": "AppSpecContent", "appSpecContent": { "content": spec.json() } },
    })
}

/// What local mode leaves of a deployment.
async fn planned(
    cx: &StepScope<'_>,
    order: &Order,
    by: Option<&CodeDeploy>,
    family: &str,
    wishes: Wishes,
) -> Result<(), Failure> {
    let Order { cluster, services, revision, .. } = order;
    for service in services {
        let path = cx.work.another_ecs_file(&format!("deploy-{cluster}-{service}"));
        let on_failure = match order.on_failure {
            OnFailure::Rollback => "rollback",
            OnFailure::Leave => "leave",
        };
        let mut planned = json!({
            "cluster": cluster, "service": service, "taskDefinition": revision,
            "waitSeconds": order.wait.unwrap_or(WAIT).as_secs(), "onFailure": on_failure,
        });
        if let Some(keep) = wishes.keep_revisions {
            planned["keepRevisions"] = json!(keep);
        }
        if wishes.schedules {
            planned["schedules"] = json!(true);
        }
        if let Some(by) = by {
            planned["codeDeploy"] = request(order, by);
        }
        files::write_json(&path, &planned, Access::Owner)?;
        let (service, family) = (cx.events.shown(service), cx.events.shown(family));
        cx.events.send(Kind::DeploymentPlanned { service, family }).await;
    }
    Ok(())
}

/// How the deployment of a service ended.
async fn report_end(cx: &StepScope<'_>, order: &Order, report: &Report) {
    let events = &cx.events;
    let status = match report.outcome {
        Outcome::Deployed => DeploymentStatus::Successful,
        Outcome::Unchanged => DeploymentStatus::Unchanged,
        Outcome::Unconfirmed => DeploymentStatus::Unconfirmed,
        Outcome::RolledBack => DeploymentStatus::RolledBack,
        Outcome::RollbackFailed | Outcome::Left => DeploymentStatus::NotRolledBack,
        Outcome::TimedOut => DeploymentStatus::TimedOut,
        Outcome::Superseded => DeploymentStatus::Superseded,
        Outcome::Stopped => DeploymentStatus::Stopped,
        Outcome::Lost => DeploymentStatus::Lost,
        Outcome::NotBegun => DeploymentStatus::NotStarted,
    };
    let deployed = Deployed {
        service: events.shown(&report.service),
        cluster: events.shown(&order.cluster),
        revision: events.shown(short(&order.revision)),
        status,
        elapsed: report.elapsed,
    };
    events.send_for(events.id().inner(&report.service), Kind::DeploymentFinished(deployed)).await;
}
