//! The constant facts of a run: the pipeline, its source, the mode and the directories.

use crate::connections::Access;
use crate::exit::Failure;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::Pipeline;
use crate::language::pipeline::model::AwsAccess;
use crate::language::pipeline::template::{Template, Unresolved};
use crate::language::source::SourceFile;
use crate::plan::asks::ResolvedAccess;
use crate::plan::context::BuildContext;
use crate::plan::scope::Values;
use crate::plan::{self, Mode};
use crate::secret::{Masks, MaybeSecret};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The facts that all steps of a run read.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    pub(crate) pipeline: Pipeline,
    /// The pipeline file, for the places of errors.
    pub(crate) source: SourceFile,
    /// The absolute path of the pipeline file, which is part of a build's identity.
    pub(crate) file: PathBuf,
    pub(crate) context: BuildContext,
    pub(crate) mode: Mode,
    /// The build's id, from CodeBuild or from runner.
    pub(crate) build_id: String,
    /// The pipeline file's directory.
    pub(crate) directory: PathBuf,
    /// The directory for CodePipeline's files when publishing.
    pub(crate) artifacts: PathBuf,
    /// Variables of the environment that are not text, for commands.
    pub(crate) not_text: Vec<(OsString, OsString)>,
    /// The interval at which ECS is polled, if it is set.
    pub(crate) ecs_poll: Option<Duration>,
    pub(crate) masks: Masks,
    /// The working tree differed from its commit when the build began.
    pub(crate) dirty: bool,
}

impl Project {
    /// Resolves a template. The failure names the place in the file.
    pub(crate) fn resolve(&self, values: &Values, template: &Template) -> Result<MaybeSecret, Failure> {
        template.resolve(values).map_err(|unresolved| self.unresolved(&unresolved, values))
    }

    /// An access to AWS with every `${…}` resolved.
    pub(crate) fn access(&self, values: &Values, access: &AwsAccess) -> Result<Access, Failure> {
        let resolved = ResolvedAccess::resolve(access, values);
        resolved.map(Access::from).map_err(|unresolved| self.unresolved(&unresolved, values))
    }

    /// The failure for a reference that cannot be replaced by its value.
    pub(crate) fn unresolved(&self, unresolved: &Unresolved, values: &Values) -> Failure {
        self.located(&plan::unresolved(unresolved, values))
    }

    /// The failure for a mistake in the file that was found during the run.
    pub(crate) fn located(&self, problem: &Diagnostic) -> Failure {
        let (line, column) = self.source.line_column(problem.span.start);
        let message = format!("{}:{line}:{column}: {}", self.source.name, problem.message);
        let failure = Failure::usage(message);
        match &problem.help {
            Some(help) => failure.help(help.as_str()),
            None => failure,
        }
    }
}
