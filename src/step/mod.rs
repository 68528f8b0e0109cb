//! What each kind of step does.

mod build;
mod code_pipeline;
mod command;
mod deploy;
mod image;
mod image_definitions;
mod junit;
pub(crate) mod mask_files;
mod parallel;
mod push;
mod run_task;
mod scan;
mod task_definition;
mod test;
pub(crate) mod transfer;
mod unchanged;

use crate::aws::Aws;
use crate::connections::Access;
use crate::deployment::Deployer;
use crate::engine::Job;
use crate::engine::run::{Around, Run};
use crate::event::Events;
use crate::exit::Failure;
use crate::language::pipeline::model::{Action, AwsAccess, Step};
use crate::language::pipeline::template::Template;
use crate::plan::asks::{self, ResolvedAccess};
use crate::plan::scope::Values;
use crate::process::Stopping;
use crate::text::listed;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// A step under way.
struct Context<'a> {
    run: &'a Run,
    /// The run's values, as they were when the step began, with the step's own variables on top.
    values: Values,
    /// For what the step has to say.
    events: Events,
    output: &'a mpsc::Sender<Vec<u8>>,
    stopping: &'a Stopping,
    /// Where its AWS calls go.
    aws: &'a AwsAccess,
}

impl Context<'_> {
    fn resolve(&self, template: &Template) -> Result<String, Failure> {
        self.run.job.resolve(&self.values, template)
    }

    /// Where the step's AWS calls go, with values in the place of `${…}`.
    fn access(&self) -> Result<Access, Failure> {
        self.run.job.access(&self.values, self.aws)
    }

    /// AWS, as the step reaches it.
    async fn aws(&self) -> Result<Aws, Failure> {
        self.run.services.aws(&self.access()?).await
    }

    /// What deploys with this access.
    fn deployer<'a>(&'a self, aws: &'a Aws) -> Result<Deployer<'a>, Failure> {
        Ok(Deployer {
            aws,
            services: &self.run.services,
            access: self.access()?,
            events: &self.events,
            stop: &self.stopping.soft,
            poll: self.run.job.settings.ecs_poll,
        })
    }

    fn resolve_all<'t>(
        &self,
        templates: impl IntoIterator<Item = &'t Template>,
    ) -> Result<Vec<String>, Failure> {
        templates.into_iter().map(|template| self.resolve(template)).collect()
    }

    fn resolve_pairs<'t>(
        &self,
        pairs: impl IntoIterator<Item = (&'t String, &'t Template)>,
    ) -> Result<Vec<(String, String)>, Failure> {
        pairs.into_iter().map(|(name, template)| Ok((name.clone(), self.resolve(template)?))).collect()
    }

    /// The family and the revision to use: what the step names, or the only one that this build registered.
    fn registered(&self, named: Option<&Template>) -> Result<(String, String), Failure> {
        let registered = self.run.state().task_definitions.clone();
        if let Some(template) = named {
            let family = self.resolve(template)?;
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

    /// A path, which starts from the pipeline file's directory.
    fn path(&self, template: &Template) -> Result<PathBuf, Failure> {
        Ok(self.run.job.directory.join(self.resolve(template)?))
    }
}

fn none_registered(what: &str) -> Failure {
    Failure::usage(format!("{what} has been registered in this build"))
        .help("put a `task-definition` step before this one, or run that phase first")
}

/// The accesses to AWS that the steps of the job's plan use, each once.
pub(crate) fn accesses(job: &Job) -> Vec<Access> {
    let known = asks::accesses(&job.pipeline, &job.plan, &job.values, &job.facts);
    let access = |ResolvedAccess { region, role, external_id }| Access { region, role, external_id };
    known.into_iter().map(access).collect()
}

pub(crate) async fn run(
    run: &Run,
    step: &Step,
    output: &mpsc::Sender<Vec<u8>>,
    stopping: &Stopping,
    around: &Around<'_>,
) -> Result<(), Failure> {
    let before = run.values().clone();
    let values = before.with_step(&step.env).map_err(|undefined| run.job.undefined(&undefined, &before))?;
    let aws = step.aws.as_ref().unwrap_or(&run.job.pipeline.aws);
    let cx = &Context { run, values, events: run.events.of(step.id), output, stopping, aws };
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
        Action::Deploy(deploy) => deploy::run(cx, deploy).await,
        // A group may hold groups, so its future has no size of its own.
        Action::Parallel(steps) => Box::pin(parallel::run(cx, steps, around)).await,
        Action::RunTask(task) => run_task::run(cx, task).await,
    }
}
