//! What each kind of step does.

mod build;
mod command;
mod deploy;
mod image_definitions;
mod push;
mod task_definition;
mod test;

use super::{Job, Run};
use crate::exit::Failure;
use crate::pipeline::model::{Action, Phase, Step};
use crate::pipeline::template::Template;
use crate::plan::scope::Values;
use crate::process::Stopping;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// A step under way.
struct Context<'a> {
    run: &'a mut Run,
    /// The run's values with the step's own variables on top.
    values: Values,
    output: &'a mpsc::Sender<Vec<u8>>,
    stopping: &'a Stopping,
}

impl Context<'_> {
    fn resolve(&self, template: &Template) -> Result<String, Failure> {
        self.run.job.resolve(&self.values, template)
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

    /// A path, which starts from the pipeline file's directory.
    fn path(&self, template: &Template) -> Result<PathBuf, Failure> {
        Ok(self.run.job.directory.join(self.resolve(template)?))
    }
}

/// Whether a step of the job's plan will ask AWS for something.
pub(super) fn need_aws(job: &Job) -> bool {
    let phases = job.plan.phases.iter().filter_map(|name| job.pipeline.phase(*name));
    phases.flat_map(Phase::all_steps).filter(|step| job.plan.skip_reason(step).is_none()).any(|step| {
        match &step.action {
            Action::TaskDefinition(_) | Action::Deploy(_) => true,
            Action::Push(images) => images.iter().any(|name| {
                let image = job.pipeline.images.get(&name.value);
                let repository = image.and_then(|image| image.repository.resolve(&job.values).ok());
                repository.is_some_and(|repository| push::is_in_ecr(&repository))
            }),
            Action::Run(_) | Action::Build(_) | Action::Test(_) | Action::ImageDefinitions(_) => false,
        }
    })
}

/// Runs a step.
pub(super) async fn run(
    run: &mut Run,
    step: &Step,
    output: &mpsc::Sender<Vec<u8>>,
    stopping: &Stopping,
) -> Result<(), Failure> {
    let values = run
        .job
        .values
        .with_step(&step.env)
        .map_err(|undefined| run.job.undefined(&undefined, &run.job.values))?;
    let mut context = Context { run, values, output, stopping };
    let cx = &mut context;
    match &step.action {
        Action::Run(command) => command::run(cx, command, step.dir.as_ref()).await,
        Action::Build(images) => build::run(cx, images).await,
        Action::Test(test) => test::run(cx, test, &step.env).await,
        Action::Push(images) => push::run(cx, images).await,
        Action::ImageDefinitions(pairs) => image_definitions::run(cx, pairs).await,
        Action::TaskDefinition(definition) => task_definition::run(cx, definition).await,
        Action::Deploy(deploy) => deploy::run(cx, deploy).await,
    }
}
