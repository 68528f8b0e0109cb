//! The front end for pipeline files: prepares a planned pipeline and runs it on the engine.

mod items;
mod notify;
mod secrets;

use crate::connections::dockerd::DockerdStart;
use crate::connections::{Access, Connections, Settings};
use crate::duration;
use crate::engine::{self, Cancellation, Deadline, Identity, Setup, State};
use crate::event::{BuildOpened, Events, Id, Kind, Source};
use crate::exit::Failure;
use crate::files::Readers;
use crate::language::pipeline::template::Builtin;
use crate::plan::facts::Facts;
use crate::plan::scope::Values;
use crate::plan::{Mode, Plan};
use crate::report::notify::Receivers;
use crate::secret::MaybeSecret;
use crate::step::{self, DIRTY_LABEL, Project, Results, Shared};
use crate::text::listed;
use crate::work::{WORK_DIRECTORY, Work};
use std::time::{Duration, Instant, SystemTime};

/// Everything that a run needs.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) project: Project,
    pub(crate) plan: Plan,
    /// Facts from files of the source.
    pub(crate) facts: Facts,
    /// The values of `${…}` and the environment of commands.
    pub(crate) values: Values,
    pub(crate) settings: Settings,
    /// The files that differ from the commit under whose name images are pushed.
    pub(crate) changes: Vec<String>,
    /// Push nevertheless.
    pub(crate) allow_dirty: bool,
    /// The arguments of this call, for events.
    pub(crate) arguments: Vec<String>,
}

/// A job that can start: `.runner/` is locked, earlier calls' state is loaded, secrets have their values.
pub(crate) struct Prepared {
    job: Job,
    state: State,
    results: Results,
    connections: Connections,
    warnings: Vec<String>,
    work: Work,
    deadline: Deadline,
}

/// Prepares a job. Nothing has run yet, so a failure needs no report. `deadline` has started with the call.
pub(crate) async fn prepare(
    mut job: Job,
    cancellation: &Cancellation,
    mut deadline: Deadline,
) -> Result<Prepared, Failure> {
    // The shorter one applies.
    if let Some(timeout) = job.project.pipeline.timeout {
        deadline.limit("the run", timeout);
    }
    let acquire = Work::acquire(job.project.directory.join(WORK_DIRECTORY));
    let work = cancellation.prepare(&deadline, "waiting for an earlier run to end", acquire).await?;
    let identity = Identity {
        build_id: job.project.context.build_id.clone(),
        pipeline: job.project.file.display().to_string(),
        commit: job.project.context.commit.clone(),
        mode: job.project.mode.as_str().to_owned(),
        continues: job.plan.single_phases,
    };
    let phases: Vec<String> = job.plan.phases.iter().map(ToString::to_string).collect();
    let (mut state, results) = State::join(&work.directory, &identity, &phases)?;
    let mut results = Results::read(results).map_err(|reason| {
        let state = work.directory.path().join(engine::STATE);
        Failure::environment(format!("cannot read {}: {reason}", state.display()))
            .help("remove it to start over")
    })?;
    job.project.build_id.clone_from(&state.build_id);
    job.values.set_builtin(Builtin::BuildId, state.build_id.clone());
    let project = &job.project;
    let connections =
        Connections::new(job.settings.clone(), project.mode, project.masks.clone(), &project.pipeline.name);
    if project.context.failing {
        let failure = Failure::step("an earlier command of this CodeBuild build has failed");
        state.record(&failure, None, &project.masks);
    }
    let dirty = dirty(&job, &mut results)?;
    job.project.dirty = results.dirty;
    let resolve = resolve(&mut job, &connections);
    let resolved =
        cancellation.prepare(&deadline, "reading secrets and checking access to AWS", resolve).await;
    let warnings = match resolved {
        Ok(warnings) => [dirty, warnings].concat(),
        Err(failure) => {
            // CodeBuild may still run the next phase, which must know that this one failed.
            state.phases.extend(phases);
            state.record(&failure, None, &job.project.masks);
            state.save(&work.directory, results.to_fields())?;
            return Err(failure);
        }
    };
    Ok(Prepared { job, state, results, connections, warnings, work, deadline })
}

/// Judges the working tree before the first step of a build: what the build's own steps change does not count. Returns a
/// warning if images are pushed although they may differ from the commit.
fn dirty(job: &Job, results: &mut Results) -> Result<Vec<String>, Failure> {
    let project = &job.project;
    if project.mode == Mode::Local || job.changes.is_empty() || results.judged {
        results.judged |= project.mode == Mode::Publish;
        return Ok(Vec::new());
    }
    let names = listed(job.changes.iter().map(String::as_str));
    let commit = project.context.commit.as_deref().unwrap_or_default();
    let differs = format!("the working tree differs from the commit {commit:.7}: {names}");
    if !job.allow_dirty && !project.context.in_codebuild() {
        return Err(Failure::usage(format!("{differs}; nothing was run")).help(
            "the images would be pushed under the name of the commit: commit or stash the changes, or run with --allow-dirty",
        ));
    }
    (results.judged, results.dirty) = (true, true);
    Ok(vec![format!("{differs}; images get the label {DIRTY_LABEL}")])
}

/// Resolves secrets and checks the access to AWS before anything runs. Returns warnings.
async fn resolve(job: &mut Job, connections: &Connections) -> Result<Vec<String>, Failure> {
    let warnings = secrets::resolve(job, connections).await?;
    if job.project.mode == Mode::Publish {
        // Missing credentials, a missing region or a role that cannot be assumed should fail before an image build.
        for access in step::accesses(&job.project, &job.plan, &job.values, &job.facts) {
            connections.aws(&access).await?;
        }
    }
    Ok(warnings)
}

impl Prepared {
    /// The receivers of notifications about this run.
    pub(crate) fn receivers(&self) -> Result<Receivers, Failure> {
        notify::receivers(&self.job, &self.work)
    }

    /// The number of this call in the build, and the number of the previous call's last event.
    pub(crate) fn numbers(&self) -> (u32, u64) {
        (self.state.calls, self.state.events)
    }

    /// Runs the job to its end. The error is the first failure, or the signal that stopped the run.
    pub(crate) async fn run(self, events: &Events, cancellation: &Cancellation) -> Result<(), Failure> {
        let start = Instant::now();
        let Self { job, mut state, results, connections, warnings, work, deadline } = self;
        let Job { project, plan, values, arguments, .. } = job;
        let dockerd_start = DockerdStart {
            events: events.clone(),
            stopping: cancellation.stopping.clone(),
            work: work.directory.clone(),
        };
        let first = !std::mem::replace(&mut state.announced, true);
        let continues = !first && plan.single_phases;
        if first && project.mode == Mode::Local {
            // These are the requests that an earlier build would have sent.
            work.remove_requests();
        }
        events.send(Kind::BuildOpened(Box::new(opened(&project, events, first, continues)))).await;
        let call = events.of(Id::call(events.call()));
        let names = events.shown_all(plan.phases.iter().map(|phase| phase.as_str()));
        call.send(Kind::CallStarted { phases: names, arguments: events.shown_all(arguments) }).await;
        for warning in warnings {
            call.warn(warning).await;
        }
        let directory = work.directory.clone();
        // From here on steps may change the values, which they share.
        let shared = Shared::new(project, connections.starting_dockerd(dockerd_start), work, values, results);
        let project = &shared.project;
        let run = engine::Run::start(Setup {
            events,
            cancellation,
            masks: &project.masks,
            state,
            work: directory,
            results: Box::new(|| shared.kept_results()),
            all_phases: project.pipeline.phases.iter().map(|phase| phase.name.to_string()).collect(),
            deadline,
            ends_soon: ends_soon(&shared),
        });
        let phases = items::phases(&shared, &plan, &cancellation.stopping);
        run.announce(&phases).await;
        let unsaved = run.phases(&phases).await.err();
        shared.guards.close().await;
        let outcome = run.end(run.failure(unsaved));
        let failure = export(&shared, &call, outcome.last).await.err().or(outcome.failure);
        let exit = failure.as_ref().map_or(crate::exit::Exit::Done, |failure| failure.exit);
        let (ending, elapsed) = (events.end(failure.as_ref()), start.elapsed());
        let last = outcome.last;
        call.send(Kind::CallFinished { ending: ending.clone(), exit, elapsed, last }).await;
        if last {
            events.send(Kind::BuildFinished { ending, exit, elapsed }).await;
        }
        run.close();
        failure.map_or(Ok(()), Err)
    }
}

fn opened(project: &Project, events: &Events, first: bool, continues: bool) -> BuildOpened {
    let context = &project.context;
    let shown = |text: &Option<String>| text.as_ref().map(|text| events.shown(text));
    BuildOpened {
        pipeline: events.shown(&project.pipeline.name),
        file: events.shown(&project.source.name),
        build_id: events.shown(&project.build_id),
        build_number: shown(&context.build_number),
        build_url: shown(&context.build_url),
        in_codebuild: context.in_codebuild(),
        mode: project.mode.as_str(),
        source: Source {
            event: context.event.as_str(),
            repository: shown(&context.repository),
            commit: shown(&context.commit),
            branch: shown(&context.branch),
            tag: shown(&context.tag),
        },
        first,
        continues,
    }
}

/// Resolves when CodeBuild is about to end the build. Never resolves without the permission `codebuild:BatchGetBuilds`.
fn ends_soon<'r>(shared: &'r Shared) -> Option<Box<dyn FnOnce(Duration) -> engine::EndsSoon + 'r>> {
    let build = shared.project.context.build_id.clone().filter(|_| shared.project.mode == Mode::Publish)?;
    let connections = shared.connections.clone();
    Some(Box::new(move |reserve| Box::pin(codebuild_ends(connections, build, reserve))))
}

async fn codebuild_ends(connections: Connections, build: String, reserve: Duration) -> Option<String> {
    let aws = connections.aws(&Access::default()).await.ok()?;
    let (end, time) = aws.codebuild_timeout(&build).await.ok()??;
    let left = end.duration_since(SystemTime::now()).ok()?;
    tokio::time::sleep(left.saturating_sub(reserve.min(left / 2))).await;
    let time = duration::display(time);
    Some(format!(
        "CodeBuild's timeout of {time} is close, and the rest is reserved for `finally` and reports"
    ))
}

/// Writes the exported variables for a buildspec to source. `last` is whether the whole build has ended.
async fn export(shared: &Shared, events: &Events, last: bool) -> Result<(), Failure> {
    let exported = &shared.project.pipeline.env.exported;
    if exported.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    for name in exported {
        let value = shared.values().get(name).cloned();
        let masks = &shared.project.masks;
        match value {
            Some(MaybeSecret::Plain(value)) if masks.text(&value) == value => {
                // Quoted, so that the shell expands nothing in the value.
                text.push_str(&format!("export {}='{}'\n", name.value, value.replace('\'', "'\\''")));
                let (name, value) = (events.shown(&name.value), events.shown(&value));
                events.send(Kind::ValueExported { name, value }).await;
            }
            Some(_) => {
                events.warn(format!("{} contains a secret and is not exported", name.value)).await;
            }
            None if last => {
                events.warn(format!("{} has no value and is not exported", name.value)).await;
            }
            None => {}
        }
    }
    Ok(shared.work.directory.write_whole("exports.sh", text.as_bytes(), Readers::Owner)?)
}
