//! `deploy`: deploys the revision that this build registered to services.

use super::StepScope;
use crate::deployment::{
    AfterDeploy, CodeDeployGroup, DeployOptions, DeployRequest, ServiceSet, failure_of, results,
};
use crate::exit::Failure;
use crate::language::pipeline::model::Deploy;
use crate::plan::Mode;

pub(crate) async fn run(cx: &StepScope<'_>, deploy: &Deploy) -> Result<(), Failure> {
    let (family, revision) = cx.registered(deploy.task_definition.as_ref())?;
    let request = DeployRequest {
        target: ServiceSet {
            cluster: cx.request(&deploy.cluster)?,
            services: cx.request_all(&deploy.services)?,
        },
        revision,
        options: DeployOptions {
            wait: deploy.wait,
            wait_includes_pauses: deploy.wait_includes_pauses,
            on_failure: deploy.on_failure,
            force: deploy.force,
            after: AfterDeploy { keep_revisions: deploy.keep_revisions, schedules: deploy.schedules },
        },
        code_deploy: code_deploy_group(cx, deploy)?,
        verified: false,
    };
    if cx.project.mode == Mode::Local {
        return plan(cx, &request, &family).await;
    }
    let aws = cx.aws().await?;
    // An earlier phase may have registered it, in another process.
    aws.made(&request.revision);
    let deployer = cx.deployer(&aws)?;
    let reports = deployer.deploy(&request).await?;
    for report in &reports {
        results::deployment(&cx.events, &request.target.cluster, report).await;
    }
    if let Some(failure) = failure_of(&reports) {
        return Err(failure);
    }
    deployer.follow_up(&request, &reports).await.failure.map_or(Ok(()), Err)
}

fn code_deploy_group(cx: &StepScope<'_>, deploy: &Deploy) -> Result<Option<CodeDeployGroup>, Failure> {
    let Some(wanted) = &deploy.code_deploy else { return Ok(None) };
    let job = &cx.project;
    let commit = job.context.commit.as_ref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
    let description = format!("{}, build {}{commit}", job.pipeline.name, cx.project.build_id);
    let (application, group) = (cx.request(&wanted.application)?, cx.request(&wanted.group)?);
    Ok(Some(CodeDeployGroup { application, group, description }))
}

/// Writes the plan of each service to a file, in local mode.
async fn plan(cx: &StepScope<'_>, request: &DeployRequest, family: &str) -> Result<(), Failure> {
    let ServiceSet { cluster, services } = &request.target;
    for service in services {
        cx.work.write_new_ecs(&format!("deploy-{cluster}-{service}"), &request.local_plan(service))?;
        results::planned_deployment(&cx.events, service, family).await;
    }
    Ok(())
}
