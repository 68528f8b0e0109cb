//! What each kind of step does: one file a kind, each with a narrow [`StepScope`].

mod build;
mod code_pipeline;
mod command;
mod deploy;
mod image;
mod image_definitions;
mod junit;
mod mask_files;
pub(crate) mod project;
mod push;
pub(crate) mod results;
mod run_task;
mod scan;
mod scope;
mod task_definition;
mod test;
pub(crate) mod transfer;
mod unchanged;

pub(crate) use project::Project;
pub(crate) use results::Results;
pub(crate) use scope::{Shared, StepScope};

use crate::address::Repository;
use crate::connections::Access;
use crate::exit::Failure;
use crate::language::pipeline::model::{Action, CacheTo, Phase, PhaseName, Step, TaskDefinitionBase};
use crate::plan::Plan;
use crate::plan::scope::Values;
use std::time::Duration;

/// How long the guard of a command may take, after the grace, to end what it can and to report what it cannot.
const LAST_PROCESSES: Duration = Duration::from_secs(10);
/// How long other steps may take to end once they are stopped.
const LEFT_BEHIND: Duration = Duration::from_secs(5);

/// How long a step may take to end once it is stopped. `grace` is the time between TERM and KILL.
pub(crate) fn patience(action: &Action, grace: Duration) -> Duration {
    match action {
        Action::Run(_) => grace + LAST_PROCESSES,
        // ECS is asked to roll back, or to end a task.
        Action::Deploy(_) | Action::RunTask(_) => grace + LEFT_BEHIND,
        _ => LEFT_BEHIND,
    }
}

/// The accesses to AWS that steps of the job's plan will use, each once.
pub(crate) fn accesses(project: &Project, plan: &Plan, values: &Values) -> Vec<Access> {
    let mut accesses: Vec<Access> = Vec::new();
    let phases = plan.phases.iter().filter_map(|name: &PhaseName| project.pipeline.phase(*name));
    let steps = phases.flat_map(Phase::all_steps).flat_map(Step::tree);
    for step in steps.filter(|step| plan.skip_reason(step).is_none()) {
        let needs = match &step.action {
            Action::TaskDefinition(definition) => {
                definition.registers() || !matches!(definition.base, TaskDefinitionBase::File(_))
            }
            Action::Deploy(_) | Action::RunTask(_) => true,
            Action::Push(images) => images.iter().any(|name| {
                let image = project.pipeline.images.get(&name.value);
                let repository = image.and_then(|image| image.repository.resolve(values).ok());
                repository.is_some_and(|repository| push::is_in_ecr(&repository))
            }),
            Action::Run(_) => step.aws.as_ref().is_some_and(|aws| aws.role_arn.is_some()),
            // The cache beside an image in ECR is looked for there.
            Action::Build(images) => images.iter().any(|name| {
                let image = project.pipeline.images.get(&name.value);
                let cached = image.filter(|image| image.cache_to != CacheTo::None);
                let repository = cached.and_then(|image| image.repository.resolve(values).ok());
                repository.is_some_and(|repository| matches!(Repository::parse(&repository), Ok(None)))
            }),
            Action::Test(_) | Action::ImageDefinitions(_) => false,
            Action::Parallel(_) => false,
        };
        // What only gets its value on the way is met when the step comes to it.
        let access = || {
            let own = values.with_step(&step.env).ok()?;
            project.access(&own, step.aws.as_ref().unwrap_or(&project.pipeline.aws)).ok()
        };
        if needs && let Some(access) = access().filter(|access| !accesses.contains(access)) {
            accesses.push(access);
        }
    }
    accesses
}

/// Makes one attempt of a step.
pub(crate) async fn run(cx: &StepScope<'_>, step: &Step) -> Result<(), Failure> {
    match &step.action {
        Action::Run(command) => command::run(cx, command, step).await,
        Action::Build(images) => build::run(cx, images).await,
        Action::Test(test) if cx.is_unchanged(&test.image.value) => {
            cx.events.note("not run: an image of the same sources has passed this test").await;
            Ok(())
        }
        Action::Test(test) => {
            test::run(cx, test, &step.env).await?;
            unchanged::record(cx, &test.image, Some(step.id)).await
        }
        Action::Push(images) => push::run(cx, images).await,
        Action::ImageDefinitions(pairs) => image_definitions::run(cx, pairs).await,
        Action::TaskDefinition(definition) => task_definition::run(cx, definition).await,
        Action::RunTask(task) => run_task::run(cx, task).await,
        Action::Deploy(deploy) => deploy::run(cx, deploy).await,
        // The engine runs the members of a group.
        Action::Parallel(_) => Ok(()),
    }
}
