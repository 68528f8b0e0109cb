//! `deploy`: services get the revision that this build registered.

use super::Context;
use crate::aws::{Aws, AwsError};
use crate::exit::Failure;
use crate::files::{self, Access};
use crate::pipeline::model::Deploy;
use crate::plan::Mode;
use crate::text::listed;
use serde_json::json;

pub(super) async fn run(cx: &Context<'_>, deploy: &Deploy) -> Result<(), Failure> {
    let cluster = cx.resolve(&deploy.cluster)?;
    let services = cx.resolve_all(&deploy.services)?;
    let (family, revision) = revision(cx, deploy)?;
    for service in &services {
        if cx.run.job.mode == Mode::Local {
            let path = cx.run.ecs_file(&format!("deploy-{cluster}-{service}"));
            let planned = json!({ "cluster": cluster, "service": service, "taskDefinition": revision });
            files::write_json(&path, &planned, Access::Owner)?;
            let detail = format!("would run a new revision of {family}");
            cx.events.result("planned", service, detail).await;
            continue;
        }
        let aws = cx.aws().await?;
        let short = revision.rsplit('/').next().unwrap_or(&revision);
        if !deploy.force && runs(cx, &aws, &cluster, service).await? == Some(revision.clone()) {
            cx.events
                .result("unchanged", service, format!("{cluster} · {short} is what it runs already"))
                .await;
            continue;
        }
        let deployment = aws.ecs_update_service(&cluster, service, &revision, deploy.force).await?;
        let id = deployment.unwrap_or_else(|| "a deployment".to_owned());
        cx.events.note(format!("{id} has begun; this version of runner does not wait for its end")).await;
        cx.events.result("updated", service, format!("{cluster} · {short}")).await;
    }
    Ok(())
}

/// The revision that a service is to run now; nothing where that may not be asked.
async fn runs(cx: &Context<'_>, aws: &Aws, cluster: &str, service: &str) -> Result<Option<String>, Failure> {
    match aws.ecs_service_task_definition(cluster, service).await {
        Ok(revision) => Ok(Some(revision)),
        Err(error @ AwsError::Denied { .. }) => {
            let cause = crate::exit::chain(&error);
            cx.events.warn(format!("what {service} runs now cannot be told: {cause}")).await;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The family and the revision to deploy: the one that the step names, or the only one that this build registered.
fn revision(cx: &Context<'_>, deploy: &Deploy) -> Result<(String, String), Failure> {
    let registered = cx.run.state().task_definitions.clone();
    if let Some(template) = &deploy.task_definition {
        let family = cx.resolve(template)?;
        return match registered.get(&family) {
            Some(revision) => Ok((family, revision.clone())),
            None => Err(none_registered(&format!("no task definition `{family}`"))),
        };
    }
    let mut all = registered.iter();
    match (all.next(), all.next()) {
        (Some((family, revision)), None) => Ok((family.clone(), revision.clone())),
        (None, _) => Err(none_registered("no task definition")),
        (Some(_), Some(_)) => {
            let families = listed(registered.keys().map(String::as_str));
            Err(Failure::usage(format!("this build registered several task definitions: {families}"))
                .help("say which with `task-definition: FAMILY`"))
        }
    }
}

fn none_registered(what: &str) -> Failure {
    Failure::usage(format!("{what} has been registered in this build"))
        .help("put a `task-definition` step before this one, or run that phase first")
}
