//! `deploy`: deploys the revision that this build registered to services.

use super::StepScope;
use crate::aws::AwsError;
use crate::connections::Access;
use crate::deployment::{
    AfterDeploy, CodeDeployGroup, DeployOptions, DeployRequest, ServiceSet, deployable, failure_of, results,
};
use crate::exit::Failure;
use crate::language::pipeline::model::{Action, Deploy, Step, When};
use crate::language::pipeline::template::Template;
use crate::plan::{Mode, condition};

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

/// Fails if ECS is deleting a service to which a later step deploys this family, or if there is no such service and no
/// command in between can create it. Then nothing is registered. What cannot be read is left to that step.
pub(super) async fn check_services(cx: &StepScope<'_>, step: &Step, family: &str) -> Result<(), Failure> {
    let pipeline = &cx.project.pipeline;
    let left_out = condition::left_out(&condition::verdicts(pipeline, &cx.project.context));
    let mut checked: Vec<(Access, String, String)> = Vec::new();
    let (mut is_later, mut may_be_created) = (false, false);
    for phase in &pipeline.phases {
        // Between phases the buildspec may have commands.
        may_be_created |= is_later;
        for later in phase.all_steps().flat_map(Step::tree) {
            let was_later = is_later;
            is_later |= later.id == step.id;
            let runs = was_later
                && !left_out.contains_key(&later.id)
                && later.when.unwrap_or(phase.when) != When::Failure;
            match &later.action {
                Action::Run(_) => may_be_created |= runs,
                Action::Deploy(deploy) if runs => {
                    let Some(target) = target(cx, later, deploy, family) else { continue };
                    for service in target.services {
                        let place = (target.access.clone(), target.cluster.clone(), service);
                        if !checked.contains(&place) {
                            check_service(cx, &place, may_be_created).await?;
                            checked.push(place);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The services to which a later step deploys a family.
struct LaterTarget {
    access: Access,
    cluster: String,
    services: Vec<String>,
}

/// Returns `None` if the step deploys another family, or if its names are not known yet.
fn target(cx: &StepScope<'_>, step: &Step, deploy: &Deploy, family: &str) -> Option<LaterTarget> {
    let values = cx.shared.values().clone().with_step(&step.env).ok()?;
    let text = |template: &Template| Some(template.resolve(&values).ok()?.expose().to_owned());
    if let Some(named) = &deploy.task_definition
        && text(named)? != family
    {
        return None;
    }
    let aws = step.aws.as_ref().unwrap_or(&cx.project.pipeline.aws);
    Some(LaterTarget {
        access: cx.project.access(&values, aws).ok()?,
        cluster: text(&deploy.cluster)?,
        services: deploy.services.iter().map(text).collect::<Option<_>>()?,
    })
}

async fn check_service(
    cx: &StepScope<'_>,
    (access, cluster, service): &(Access, String, String),
    may_be_created: bool,
) -> Result<(), Failure> {
    let Ok(aws) = cx.connections.aws(access).await else { return Ok(()) };
    match aws.noticing(cx.events.warning_later()).ecs_service(cluster, service).await {
        Ok(service) => deployable(&service),
        Err(error @ AwsError::NotFound { .. }) if !may_be_created => Err(error.into()),
        Err(_) => Ok(()),
    }
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
