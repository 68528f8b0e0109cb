//! The kinds of steps, one file each, with a narrow [`StepScope`].

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

pub(crate) use image::DIRTY_LABEL;
pub(crate) use project::Project;
pub(crate) use results::Results;
pub(crate) use scope::{Shared, StepScope};

use crate::connections::Access;
use crate::exit::Failure;
use crate::language::pipeline::model::{Action, Step};
use crate::plan::Plan;
use crate::plan::asks;
use crate::plan::facts::Facts;
use crate::plan::scope::Values;
use std::time::Duration;

/// How long the guard of a command may take, after the grace, to kill processes and to report those that remain.
const GUARD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long other steps may take to end once they are stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a step may take to end once it is stopped. `grace` is the time between TERM and KILL.
pub(crate) fn stop_timeout(action: &Action, grace: Duration) -> Duration {
    match action {
        Action::Run(_) => grace + GUARD_TIMEOUT,
        // These requests to ECS start a rollback, or stop a task.
        Action::Deploy(_) | Action::RunTask(_) => grace + STOP_TIMEOUT,
        _ => STOP_TIMEOUT,
    }
}

/// The accesses to AWS that the steps of a plan use, each once.
pub(crate) fn accesses(project: &Project, plan: &Plan, values: &Values, facts: &Facts) -> Vec<Access> {
    let known = asks::accesses(&project.pipeline, plan, values, facts);
    known.into_iter().map(Access::from).collect()
}

/// Runs one attempt of a step.
pub(crate) async fn run(cx: &StepScope<'_>, step: &Step) -> Result<(), Failure> {
    match &step.action {
        Action::Run(command) => command::run(cx, command, step).await,
        Action::Build(images) => build::run(cx, images).await,
        Action::Test(test) if cx.is_unchanged(&test.image.value) => {
            cx.events.note("skipped: an image of the same sources has passed this test").await;
            Ok(())
        }
        Action::Test(test) => {
            test::run(cx, test, &step.env).await?;
            unchanged::record(cx, &test.image, Some(step.id)).await
        }
        Action::Push(images) => push::run(cx, images).await,
        Action::ImageDefinitions(pairs) => image_definitions::run(cx, pairs).await,
        Action::TaskDefinition(definition) => task_definition::run(cx, step, definition).await,
        Action::RunTask(task) => run_task::run(cx, task).await,
        Action::Deploy(deploy) => deploy::run(cx, deploy).await,
        // The engine runs the members of a group.
        Action::Parallel(_) => Ok(()),
    }
}
