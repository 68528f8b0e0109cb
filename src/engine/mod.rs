//! Runs a plan: what a run is made from, what has to be known before anything runs, how it begins and ends.

mod deadline;
pub(crate) mod gc;
mod output;
pub(crate) mod run;
pub(crate) mod state;

pub(crate) use crate::connections::Settings;
use crate::connections::{Access, Services};
use crate::event::{Event, Events, RunFinished};
use crate::exit::Failure;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{AwsAccess, Pipeline};
use crate::language::pipeline::template::{Builtin, Template, Undefined};
use crate::language::source::SourceFile;
use crate::plan::context::BuildContext;
use crate::plan::facts::Facts;
use crate::plan::scope::Values;
use crate::plan::{self, Mode, Plan};
use crate::process::Stopping;
use crate::run::secrets;
use crate::secret::Masks;
use crate::step;
use crate::work::Work;
use run::{Around, Run};
use state::{Identity, RecordedFailure, State};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::{Duration, Instant};

/// The directory for everything that runner writes.
const WORK_DIRECTORY: &str = ".runner";

/// Everything that a run is made from.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) pipeline: Pipeline,
    /// Its file, for errors that show up while it runs.
    pub(crate) source: SourceFile,
    pub(crate) plan: Plan,
    /// The values of `${…}` and the environment of commands.
    pub(crate) values: Values,
    /// What is being built.
    pub(crate) context: BuildContext,
    /// What the files of the source say.
    pub(crate) facts: Facts,
    pub(crate) mode: Mode,
    /// The pipeline file, as a full path: calls of one build share it.
    pub(crate) pipeline_file: PathBuf,
    /// The pipeline file's directory.
    pub(crate) directory: PathBuf,
    /// Where the files for CodePipeline go when publishing.
    pub(crate) artifacts: PathBuf,
    /// How connections are made.
    pub(crate) settings: Settings,
    /// The secrets of the run.
    pub(crate) masks: Masks,
    /// Variables of the environment that are not text, for commands.
    pub(crate) not_text: Vec<(OsString, OsString)>,
    /// How long this call may take; the pipeline's own `timeout` holds beside it.
    pub(crate) timeout: Option<Duration>,
}

impl Job {
    /// `.runner/` of this pipeline.
    pub(crate) fn work_directory(&self) -> PathBuf {
        self.directory.join(WORK_DIRECTORY)
    }

    /// A template's text; its failure names the place in the file.
    pub(crate) fn resolve(&self, values: &Values, template: &Template) -> Result<String, Failure> {
        template.resolve(values).map_err(|undefined| self.undefined(&undefined, values))
    }

    /// Where AWS calls go, with values in the place of `${…}`.
    pub(crate) fn access(&self, values: &Values, access: &AwsAccess) -> Result<Access, Failure> {
        // An empty value is no value: `${ROLE:-}` asks for none.
        let resolve = |template: &Option<Template>| {
            let text = template.as_ref().map(|template| self.resolve(values, template)).transpose();
            text.map(|text| text.filter(|text| !text.is_empty()))
        };
        Ok(Access {
            region: resolve(&access.region)?,
            role: resolve(&access.role_arn)?,
            external_id: resolve(&access.external_id)?,
        })
    }

    pub(crate) fn undefined(&self, undefined: &Undefined, values: &Values) -> Failure {
        self.located(&plan::undefined(undefined, values))
    }

    /// A mistake in the file that only showed up now.
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

/// How a run is stopped from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancellation {
    /// What running commands are told.
    pub(crate) stopping: Stopping,
    /// The signal that asked for it; 0 while none has.
    pub(crate) signal: Arc<AtomicU8>,
}

/// A job that can begin: `.runner/` is ours, earlier calls are remembered, secrets have their values.
pub(crate) struct Prepared {
    job: Job,
    state: State,
    services: Services,
    warnings: Vec<String>,
    work: Work,
}

impl Prepared {
    /// The job, its values complete.
    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    /// Runs the job to its end. The error is the first failure, or the signal that stopped the run.
    pub(crate) async fn run(self, events: &Events, cancellation: &Cancellation) -> Result<(), Failure> {
        let begin = Instant::now();
        let run = Run::new(self.job, self.state, self.services, self.work, events, cancellation);
        run.begin(self.warnings).await;
        let failure = match run.phases().await {
            Ok(()) => run.state().failure.as_ref().map(RecordedFailure::to_failure),
            Err(failure) => Some(failure),
        };
        run.guards.close().await;
        // A signal beats all.
        let failure = run.stopped().or(failure);
        let last = run.end(failure.as_ref());
        let failure = run.export(last).await.err().or(failure);
        let finished = RunFinished { failure: failure.clone(), last, elapsed: begin.elapsed() };
        events.send(Event::RunFinished(finished)).await;
        failure.map_or(Ok(()), Err)
    }
}

/// Prepares a job. Nothing has run yet, so a failure needs no report.
pub(crate) async fn prepare(mut job: Job) -> Result<Prepared, Failure> {
    let work = Work::take(job.work_directory()).await?;
    let identity = Identity {
        build_id: job.context.build_id.clone(),
        pipeline: job.pipeline_file.display().to_string(),
        commit: job.context.commit.clone(),
        mode: job.mode,
        continues: job.plan.single_phases,
    };
    let mut state = State::join(&work.state(), &identity, &job.plan.phases)?;
    job.values.set_builtin(Builtin::BuildId, state.build_id.clone());
    let services = Services::new(&job);
    if job.context.failing {
        let failure = Failure::step("an earlier command of this CodeBuild build has failed");
        state.record(&failure, None, &job.masks);
    }
    let warnings = match resolve(&mut job, &services).await {
        Ok(warnings) => warnings,
        Err(failure) => {
            // CodeBuild may call for the next phase all the same, which must not run as if nothing had failed.
            state.phases.extend(&job.plan.phases);
            state.record(&failure, None, &job.masks);
            state.save(&work.state())?;
            return Err(failure);
        }
    };
    Ok(Prepared { job, state, services, warnings, work })
}

/// Asks for what has to be known before anything runs.
async fn resolve(job: &mut Job, services: &Services) -> Result<Vec<String>, Failure> {
    let warnings = secrets::resolve(job, services).await?;
    if job.mode == Mode::Publish {
        // A missing region, missing credentials or a role that may not be assumed should not cost an image build first.
        for access in step::accesses(job) {
            services.aws(&access).await?;
        }
    }
    Ok(warnings)
}
