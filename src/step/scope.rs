//! The scope of a step: values, events, output, stopping, connections and the working directory; never the run.

use super::mask_files::MaskFiles;
use super::project::Project;
use super::results::Results;
use super::transfer::PushedBlobs;
use crate::aws::Aws;
use crate::connections::{Access, Connections};
use crate::deployment::Deployer;
use crate::event::Events;
use crate::exit::Failure;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{AwsAccess, Step};
use crate::language::pipeline::template::Template;
use crate::plan::scope::Values;
use crate::process::{Guards, Stopping};
use crate::registry::retries::OnWait;
use crate::secret::MaybeSecret;
use crate::text::listed;
use crate::work::Work;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// The state that the steps of a run share. Steps may run in parallel, so it is behind locks.
pub(crate) struct Shared {
    pub(crate) project: Project,
    pub(crate) connections: Connections,
    pub(crate) work: Work,
    pub(crate) guards: Guards,
    /// The values of `${…}` and the environment of commands. Steps add to them.
    values: Mutex<Values>,
    results: Mutex<Results>,
    /// The `$RUNNER_MASK` files of running commands.
    pub(crate) mask_files: MaskFiles,
    /// Held while an image layout changes, because images may share one.
    pub(crate) layouts: tokio::sync::Mutex<()>,
    /// The blobs that pushes have sent, by registry host. A push holds the lock: it uses all cores, and the next one
    /// may need to send less.
    pub(crate) pushed: tokio::sync::Mutex<HashMap<String, PushedBlobs>>,
}

impl Shared {
    pub(crate) fn new(
        project: Project,
        connections: Connections,
        work: Work,
        mut values: Values,
        results: Results,
    ) -> Self {
        for (name, value) in &results.variables {
            values.set(name, MaybeSecret::Plain(value.clone()));
        }
        // The built-ins of images that an earlier call pushed.
        for (name, image) in &results.images {
            if let (Some(uri), Some(digest)) = (&image.uri, &image.digest) {
                values.set_image(name, uri, digest);
            }
        }
        Self {
            guards: Guards::new(&work.lock),
            project,
            connections,
            work,
            values: Mutex::new(values),
            results: Mutex::new(results),
            mask_files: MaskFiles::default(),
            layouts: tokio::sync::Mutex::default(),
            pushed: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn results(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The results for the state file, without variables that turned out to contain a secret after they were set.
    pub(crate) fn kept_results(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut results = self.results();
        results.variables.retain(|_, value| self.project.masks.text(value) == *value);
        results.to_fields()
    }
}

/// An attempt of a step.
pub(crate) struct StepScope<'a> {
    pub(crate) project: &'a Project,
    pub(crate) connections: &'a Connections,
    pub(crate) work: &'a Work,
    pub(crate) shared: &'a Shared,
    /// The run's values as they were when the step started, with the step's own variables on top.
    pub(crate) values: Values,
    /// Events about this attempt.
    pub(crate) events: Events,
    pub(crate) output: mpsc::Sender<Vec<u8>>,
    pub(crate) stopping: Stopping,
    /// The step's access to AWS.
    aws: &'a AwsAccess,
}

impl<'a> StepScope<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        step: &'a Step,
        events: Events,
        output: mpsc::Sender<Vec<u8>>,
        stopping: Stopping,
    ) -> Result<Self, Failure> {
        let before = shared.values().clone();
        let project = &shared.project;
        let values =
            before.with_step(&step.env).map_err(|unresolved| project.unresolved(&unresolved, &before))?;
        let aws = step.aws.as_ref().unwrap_or(&project.pipeline.aws);
        let (connections, work) = (&shared.connections, &shared.work);
        Ok(Self { project, connections, work, shared, values, events, output, stopping, aws })
    }

    /// Notes waits for a registry in the log while they last.
    pub(crate) fn on_wait(&self) -> OnWait {
        let events = self.events.clone();
        Arc::new(move |text| {
            let events = events.clone();
            Box::pin(async move { events.note(text).await })
        })
    }

    pub(crate) fn resolve(&self, template: &Template) -> Result<MaybeSecret, Failure> {
        self.project.resolve(&self.values, template)
    }

    /// Resolves a field that others can read. It refuses secrets.
    pub(crate) fn plain(&self, template: &Template) -> Result<String, Failure> {
        match self.resolve(template)? {
            MaybeSecret::Plain(text) => Ok(text),
            MaybeSecret::Secret(_) => {
                let problem = Diagnostic::new("a secret would be readable here", template.span);
                Err(self.project.located(&problem.help("use a variable that is not a secret")))
            }
        }
    }

    /// Resolves the fields of a mapping that others can read.
    pub(crate) fn plain_pairs<'t>(
        &self,
        pairs: impl IntoIterator<Item = (&'t String, &'t Template)>,
    ) -> Result<Vec<(String, String)>, Failure> {
        pairs.into_iter().map(|(name, template)| Ok((name.clone(), self.plain(template)?))).collect()
    }

    /// Resolves a field for a request, to the engine or to AWS, or for the name of a file. A secret is exposed there.
    pub(crate) fn request(&self, template: &Template) -> Result<String, Failure> {
        Ok(self.resolve(template)?.expose().to_owned())
    }

    /// Resolves the fields of a list for a request.
    pub(crate) fn request_all<'t>(
        &self,
        templates: impl IntoIterator<Item = &'t Template>,
    ) -> Result<Vec<String>, Failure> {
        templates.into_iter().map(|template| self.request(template)).collect()
    }

    /// Resolves the fields of a mapping for a request.
    pub(crate) fn request_pairs<'t>(
        &self,
        pairs: impl IntoIterator<Item = (&'t String, &'t Template)>,
    ) -> Result<Vec<(String, String)>, Failure> {
        pairs.into_iter().map(|(name, template)| Ok((name.clone(), self.request(template)?))).collect()
    }

    /// A path, relative to the pipeline file's directory.
    pub(crate) fn path(&self, template: &Template) -> Result<PathBuf, Failure> {
        Ok(self.project.directory.join(self.request(template)?))
    }

    /// The step's access to AWS, with every `${…}` resolved.
    pub(crate) fn access(&self) -> Result<Access, Failure> {
        self.project.access(&self.values, self.aws)
    }

    /// The AWS clients for the step's access.
    pub(crate) async fn aws(&self) -> Result<Aws, Failure> {
        let aws = self.connections.aws(&self.access()?).await?;
        Ok(aws.noticing(self.events.warning_later()))
    }

    /// A deployer with the step's access.
    pub(crate) fn deployer<'d>(&'d self, aws: &'d Aws) -> Result<Deployer<'d>, Failure> {
        Ok(Deployer {
            aws,
            connections: self.connections,
            access: self.access()?,
            events: &self.events,
            stop: &self.stopping.soft,
            poll: self.project.ecs_poll,
        })
    }

    /// The family and the revision to use: the one that the step names, or the only one that this build has registered.
    pub(crate) fn registered(&self, named: Option<&Template>) -> Result<(String, String), Failure> {
        let registered = self.shared.results().task_definitions.clone();
        if let Some(template) = named {
            let family = self.request(template)?;
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
                    .help("select one with `task-definition: FAMILY`"))
            }
        }
    }
}

fn none_registered(what: &str) -> Failure {
    Failure::usage(format!("{what} has been registered in this build"))
        .help("put a `task-definition` step before this one, or run that phase first")
}
