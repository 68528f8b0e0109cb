//! `test`: runs a command in a container of exactly the image that was built, with services next to it.

use super::StepScope;
use super::junit::{CaseResult, Results};
use crate::address::ImageReference;
use crate::connections::pull_failure;
use crate::docker::container::ContainerRun;
use crate::docker::files::{CopyOut, Volume};
use crate::docker::probe::Probe;
use crate::docker::service::Service;
use crate::docker::unpack::CopyTarget;
use crate::docker::{DockerError, Engine};
use crate::event::{CaseStatus, Counts, Kind, TestCase, Tested};
use crate::exit::{Exit, Failure, FailureKind};
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{self, Test};
use crate::language::pipeline::template::Template;
use crate::secret::Secret;
use crate::work::unusable;
use futures_util::future::{join_all, try_join_all};
use indexmap::IndexMap;
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

/// The directory of reports in `.runner/`.
const REPORTS: &str = "reports";
/// The largest file of results that is read, in bytes.
const MAX_RESULTS: u64 = 64 * 1024 * 1024;

pub(crate) async fn run(
    cx: &StepScope<'_>,
    test: &Test,
    env: &IndexMap<String, Template>,
) -> Result<(), Failure> {
    let engine = cx.connections.docker().await?.clone();
    let container = container(cx, test, env)?;
    let staging = cx.work.temporary_directory()?;
    let mut out = Vec::new();
    for (from, to) in &test.copy_out {
        out.push(CopyOut { from: from.clone(), to: copy_target(cx, &cx.request(to)?, &staging)? });
    }
    // CodeBuild's `reports` can find them here, and people read them.
    let reports = cx.work.directory.path().join(REPORTS).join(&test.image.value);
    let copy_out_count = out.len();
    for from in cx.request_all(&test.junit)? {
        let to = CopyTarget {
            base: reports.clone(),
            below: PathBuf::new(),
            staging: new_staging(&staging)?,
            masks: Some(cx.project.masks.clone()),
        };
        out.push(CopyOut { from, to });
    }
    if !test.junit.is_empty() {
        // Results of an earlier attempt say nothing about this one.
        let directory = cx.work.within(REPORTS)?;
        let _ = directory.remove(&test.image.value);
        directory.within(&test.image.value).map_err(|error| unusable(&reports, &error))?;
    }
    let started = Kind::TestStarted { image: cx.events.shown(&test.image.value) };
    cx.events.send_for(cx.events.id().inner(&test.image.value), started).await;
    let ended = if test.services.is_empty() {
        engine.run(&container, None, &out, &cx.output, &cx.stopping.soft).await
    } else {
        with_services(cx, &engine, test, &container, &out).await?
    };
    let end = match ended {
        Err(DockerError::Service { name, outcome: what, log }) => {
            let log = log.trim_end();
            let _ = cx.output.send(format!("── log of the service {name}:\n{log}\n").into_bytes()).await;
            let message = format!("the service `{name}` {what}; its log is above");
            return Err(Failure::new(Exit::TestsFailed, message));
        }
        ended => ended?,
    };
    let (copied, results) = end.files.split_at(copy_out_count);
    let missing = test.copy_out.keys().zip(copied).filter(|(_, files)| files.is_empty());
    for (from, _) in missing {
        cx.events.warn(format!("`copy-out` found nothing at {from} in the container")).await;
    }
    for left_out in end.left_out {
        cx.events.warn(format!("not copied out of the container: {left_out}")).await;
    }
    let results = read_results(cx, test, &results.concat()).await;
    let result = evaluate(cx, test, end.code, end.out_of_memory, results).await;
    match (result, end.not_copied) {
        (Ok(()), Some(error)) => Err(error.into()),
        (Err(failure), Some(error)) => {
            cx.events.warn(crate::exit::chain(&error)).await;
            Err(failure)
        }
        (result, None) => result,
    }
}

/// The target of `copy-out`. A path of the project stays below the project: no link leads out of it.
fn copy_target(cx: &StepScope<'_>, to: &str, staging: &TempDir) -> Result<CopyTarget, Failure> {
    let to = Path::new(to);
    let is_below = to.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let (base, below) = if is_below {
        (cx.project.directory.clone(), to.components().filter(|part| *part != Component::CurDir).collect())
    } else {
        let whole = cx.project.directory.join(to);
        match (whole.parent(), whole.file_name()) {
            (Some(parent), Some(name)) => (parent.to_owned(), PathBuf::from(name)),
            _ => (whole, PathBuf::new()),
        }
    };
    Ok(CopyTarget { base, below, staging: new_staging(staging)?, masks: None })
}

/// Creates an empty directory for arriving files.
fn new_staging(staging: &TempDir) -> Result<PathBuf, Failure> {
    let created = tempfile::tempdir_in(staging.path()).map(TempDir::keep);
    created.map_err(|error| unusable(staging.path(), &error))
}

/// Reports the results. The exit code decides whether the test has passed.
async fn evaluate(
    cx: &StepScope<'_>,
    test: &Test,
    code: i64,
    out_of_memory: bool,
    results: Option<Results>,
) -> Result<(), Failure> {
    let image = &test.image.value;
    let counts = results.as_ref().map(|results| results.counts);
    if out_of_memory && code == 0 {
        cx.events.warn("a process of the container ran out of memory, but the test passed").await;
    }
    let out_of_memory = out_of_memory && code != 0;
    let failure = (code != 0).then(|| {
        let reason = reason(test, code, out_of_memory);
        counts.map_or(reason.clone(), |counts| format!("{reason}, {}", counted(counts)))
    });
    report(cx, image, results.unwrap_or_default(), counts, failure.as_deref()).await;
    let Some(reason) = failure else { return Ok(()) };
    let failure =
        Failure::new(Exit::TestsFailed, format!("the tests of the image `{image}` failed: {reason}"));
    Err(if out_of_memory { failure.kind(FailureKind::OutOfMemory) } else { failure })
}

/// Sends the events about test cases and about the end of the tests.
async fn report(
    cx: &StepScope<'_>,
    image: &str,
    results: Results,
    counts: Option<Counts>,
    failure: Option<&str>,
) {
    let events = cx.events.of(cx.events.id().inner(image));
    for (case, number) in results.cases.into_iter().zip(1..) {
        let (status, message) = match case.status {
            CaseResult::Passed => (CaseStatus::Passed, None),
            CaseResult::Skipped => (CaseStatus::Skipped, None),
            CaseResult::Failed(reason) => (CaseStatus::Failed, Some(events.shown(reason))),
        };
        let case = TestCase { name: events.shown(case.name), status, message };
        events.send_for(events.id().inner(&format!("t{number}")), Kind::TestCase(case)).await;
    }
    let failure = failure.map(|reason| events.shown(reason));
    events.send(Kind::TestFinished(Tested { image: events.shown(image), counts, failure })).await;
}

/// The reason for a failure, from the end of the container.
fn reason(test: &Test, code: i64, out_of_memory: bool) -> String {
    match code {
        _ if out_of_memory => "the container ran out of memory".to_owned(),
        // The process that ran out of memory may be another than the first, which the engine does not report.
        137 if test.memory.is_some() => "exit code 137, ended by signal 9, probably out of memory".to_owned(),
        code @ 129..=192 => format!("exit code {code}, ended by signal {}", code - 128),
        code => format!("exit code {code}"),
    }
}

fn counted(Counts { run, failed, skipped }: Counts) -> String {
    let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    format!("{run} tests, {failed} failed{skipped}")
}

/// Reads the files of results. One that cannot be read is only a warning, because the exit code decides.
async fn read_results(cx: &StepScope<'_>, test: &Test, files: &[PathBuf]) -> Option<Results> {
    if test.junit.is_empty() {
        return None;
    }
    if files.is_empty() {
        cx.events.warn("`reports` found no JUnit files in the container").await;
        return None;
    }
    let mut results = Results::default();
    for file in files {
        let read = crate::files::read_small(file, MAX_RESULTS).map_err(|error| error.to_string());
        let read = read.and_then(|bytes| results.add(&String::from_utf8_lossy(&bytes)));
        if let Err(reason) = read {
            let warning = format!("{} is not a valid JUnit file: {reason}", file.display());
            cx.events.warn(warning).await;
        }
    }
    Some(results)
}

/// Runs the test in a network with its services. Removes them and the network, however the test ends.
async fn with_services(
    cx: &StepScope<'_>,
    engine: &Engine,
    test: &Test,
    container: &ContainerRun,
    out: &[CopyOut],
) -> Result<Result<crate::docker::container::ContainerEnd, DockerError>, Failure> {
    let mut services = Vec::new();
    for (name, service) in &test.services {
        services.push(self::service(cx, engine, name, service, container).await?);
    }
    let network = format!("runner-{}", crate::random::id());
    engine.create_network(&network, &container.run, &container.owner).await?;
    let mut made = Vec::new();
    let ended = async {
        for service in &services {
            if cx.stopping.soft.is_cancelled() {
                return Err(DockerError::Stopped);
            }
            made.push(engine.create_service(service, &network).await?);
        }
        let start =
            try_join_all(services.iter().zip(&made).map(|(service, id)| engine.start_service(service, id)));
        tokio::select! {
            started = start => drop(started?),
            () = cx.stopping.soft.cancelled() => return Err(DockerError::Stopped),
        }
        let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
        cx.events.note(format!("services are ready: {}", names.join(", "))).await;
        cx.events.send(Kind::ServicesReady { names: cx.events.shown_all(&names) }).await;
        let end = engine.run(container, Some(&network), out, &cx.output, &cx.stopping.soft).await?;
        // The result of a test whose service has failed is worthless.
        for (service, id) in services.iter().zip(&made) {
            engine.check_service(service, id).await?;
        }
        Ok(end)
    }
    .await;
    let removed = join_all(made.iter().map(|id| engine.remove_container(id))).await;
    let removed: Result<(), DockerError> = removed.into_iter().collect();
    // Only an empty network can be removed.
    let removed = removed.and(engine.remove_network(&network).await);
    Ok(ended.and_then(|end| removed.map(|()| end)))
}

/// Resolves a service, and pulls its image if the engine does not have it.
async fn service(
    cx: &StepScope<'_>,
    engine: &Engine,
    name: &str,
    service: &model::Service,
    test: &ContainerRun,
) -> Result<Service, Failure> {
    let image = cx.request(&service.image)?;
    let image = if cx.project.pipeline.images.contains_key(&image) {
        cx.built_image(&image)?
    } else {
        if engine.image(&image).await.is_err() {
            let host = ImageReference::parse(&image).repository().map(|repository| repository.host);
            let host = host.as_deref().unwrap_or("docker.io");
            // The registry may need no login.
            let (login, problem) = match cx.connections.login(host, &cx.access()?).await? {
                Ok(login) => (login, None),
                Err(problem) => (None, Some(problem)),
            };
            cx.events.note(format!("pulling {image}")).await;
            let pull = engine.pull(&image, login.as_ref());
            tokio::select! {
                pulled = pull => pulled.map_err(|error| pull_failure(error, problem))?,
                () = cx.stopping.soft.cancelled() => return Err(Failure::stopped()),
            }
        }
        image
    };
    let env = service.env.iter();
    let env = env.map(|(name, template)| Ok((name.clone(), cx.resolve(template)?.into_secret())));
    let container = ContainerRun {
        image,
        command: argv(cx, service.command.as_ref())?,
        entrypoint: None,
        env: env.collect::<Result<_, Failure>>()?,
        user: None,
        workdir: None,
        memory: None,
        volumes: volumes(cx, &service.volumes)?,
        run: test.run.clone(),
        owner: test.owner.clone(),
    };
    let ready = service.ready.as_ref().map(|ready| probe(cx, &ready.probe)).transpose()?;
    let timeout = service.ready.as_ref().map(|ready| ready.timeout).unwrap_or_default();
    Ok(Service { name: name.to_owned(), container, ready, timeout })
}

fn probe(cx: &StepScope<'_>, probe: &model::Probe) -> Result<Probe, Failure> {
    Ok(match probe {
        model::Probe::Healthcheck => Probe::Healthcheck,
        model::Probe::Port(port) => Probe::Port(*port),
        model::Probe::Log(text) => Probe::Log(cx.request(text)?),
        model::Probe::Command(argv) => Probe::Command(cx.request_all(argv)?),
        model::Probe::Http(template) => {
            let text = cx.request(template)?;
            let rest = text.trim_start_matches(':');
            let (port, path) = rest.split_once('/').unwrap_or((rest, ""));
            let port = port.parse().map_err(|_| {
                let problem = Diagnostic::new(format!("`{text}` is not a port and a path"), template.span);
                cx.project.located(&problem.help("write `http: \":8080/health\"`"))
            })?;
            Probe::Http(port, format!("/{path}"))
        }
    })
}

fn argv(cx: &StepScope<'_>, templates: Option<&Vec<Template>>) -> Result<Option<Vec<String>>, Failure> {
    templates.map(|templates| cx.request_all(templates)).transpose()
}

fn container(
    cx: &StepScope<'_>,
    test: &Test,
    env: &IndexMap<String, Template>,
) -> Result<ContainerRun, Failure> {
    let mut variables: Vec<(String, Secret)> =
        env.keys().filter_map(|name| Some((name.clone(), cx.values.secret(name)?))).collect();
    for name in &test.secrets {
        variables.push((name.value.clone(), cx.secret(name)?));
    }
    Ok(ContainerRun {
        image: cx.built_image(&test.image.value)?,
        command: argv(cx, test.command.as_ref())?,
        entrypoint: argv(cx, test.entrypoint.as_ref())?,
        env: variables,
        user: test.user.as_ref().map(|user| cx.request(user)).transpose()?,
        workdir: test.workdir.as_ref().map(|workdir| cx.request(workdir)).transpose()?,
        memory: test.memory,
        volumes: volumes(cx, &test.volumes)?,
        run: cx.project.build_id.clone(),
        owner: cx.shared.guards.owner().to_owned(),
    })
}

/// Resolves volumes: `PATH:CONTAINER-PATH`, with `:bind` at the end to mount the files instead of copying them.
pub(crate) fn volumes(cx: &StepScope<'_>, templates: &[Template]) -> Result<Vec<Volume>, Failure> {
    let volume = |template: &Template| {
        let text = cx.request(template)?;
        let (rest, bind) = text.strip_suffix(":bind").map_or((text.as_str(), false), |rest| (rest, true));
        match rest.rsplit_once(':') {
            Some((from, to))
                if !from.is_empty() && to.starts_with('/') && !to.trim_matches('/').is_empty() =>
            {
                Ok(Volume { from: cx.project.directory.join(from), to: to.to_owned(), bind })
            }
            _ => {
                let problem = Diagnostic::new(format!("`{text}` is not a volume"), template.span);
                Err(cx
                    .project
                    .located(&problem.help("write `PATH:/CONTAINER/PATH`, or `PATH:/CONTAINER/PATH:bind`")))
            }
        }
    };
    templates.iter().map(volume).collect()
}

impl StepScope<'_> {
    /// Whether an image was not built, because its repository has an image of the same sources.
    pub(crate) fn is_unchanged(&self, name: &str) -> bool {
        self.shared.results().images.get(name).is_some_and(|image| image.unchanged.is_some())
    }

    /// The id of an image that this build has built.
    pub(crate) fn built_image(&self, name: &str) -> Result<String, Failure> {
        let id = self.shared.results().images.get(name).map(|image| image.id.clone());
        let id = id.filter(|id| !id.is_empty());
        id.ok_or_else(|| {
            Failure::usage(format!("the image `{name}` has not been built in this build"))
                .help(format!("put `build: {name}` before this step, or run that phase first"))
        })
    }

    /// `repository@sha256:…` of an image that this build has pushed.
    pub(crate) fn pushed_image(&self, name: &str) -> Result<String, Failure> {
        let uri = self.shared.results().images.get(name).and_then(|image| image.uri.clone());
        uri.ok_or_else(|| {
            Failure::usage(format!("the image `{name}` has not been pushed in this build"))
                .help(format!("put `push: {name}` before this step, or run that phase first"))
        })
    }
}
