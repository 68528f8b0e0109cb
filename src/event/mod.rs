//! Events: everything that the engine, the steps and the reports share. Each has a time, an id and a parent.
//!
//! Text in an event is a [`Shown`], which only masking creates, so a report cannot forget to mask.
//! [`channel`] carries events to the reports, [`wire`] is their published form, `runner.events/1`.

mod channel;
mod id;
pub(crate) mod wire;

pub(crate) use channel::{Events, Wants};
pub(crate) use id::Id;

use crate::exit::{Exit, FailureKind};
use crate::secret::Shown;
use bytes::Bytes;
use jiff::Timestamp;
use std::time::Duration;

/// Something that happened.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// Its number in the build, from 1. An unnumbered event has the number of the event before it.
    pub(crate) number: u64,
    /// The number of the call in the build, from 1.
    pub(crate) call: u32,
    pub(crate) at: Timestamp,
    /// The monotonic time since the call started.
    pub(crate) elapsed: Duration,
    /// The subject of the event.
    pub(crate) id: Id,
    pub(crate) kind: Kind,
}

/// The kinds of events. The names follow `runner.events/1`.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// The build. Each call sends it first.
    BuildOpened(Box<BuildOpened>),
    /// Every phase and step of this call, so that a reader knows which ones never ran.
    BuildPlanned(Vec<Node>),
    CallStarted {
        phases: Vec<Shown>,
        arguments: Vec<Shown>,
    },
    CallFinished {
        ending: Ending,
        exit: Exit,
        elapsed: Duration,
        /// It is the last call of its build.
        last: bool,
    },
    PhaseStarted,
    PhaseSkipped {
        reason: SkipReason,
    },
    PhaseFinished {
        ending: Ending,
        elapsed: Duration,
    },
    GroupStarted {
        title: Shown,
        finally: bool,
        /// It runs in parallel with other steps.
        beside: bool,
        members: Vec<Id>,
    },
    GroupFinished {
        title: Shown,
        ending: Ending,
        elapsed: Duration,
    },
    StepStarted(StepStarted),
    StepSkipped {
        title: Shown,
        reason: SkipReason,
    },
    StepFinished {
        title: Shown,
        ending: Ending,
        elapsed: Duration,
        attempts: u32,
    },
    AttemptStarted {
        number: u32,
    },
    AttemptFinished {
        ending: Ending,
        elapsed: Duration,
        /// The delay before the next attempt, if there is one.
        retry_in: Option<Duration>,
        /// How many attempts the step may take.
        allowed: u32,
    },
    CommandFinished(CommandEnd),
    /// Masked output of a command, a container or a build.
    Output(Chunk),
    /// The step's output has ended: no more bytes follow.
    OutputEnded,
    /// The lines that show a step's current work on a terminal. They replace its previous lines.
    Live(Vec<Shown>),
    /// A line for the log.
    Note(Shown),
    /// A warning, which does not stop the run.
    Warning(Shown),
    VertexStarted {
        name: Shown,
    },
    VertexFinished {
        name: Shown,
        status: VertexStatus,
        elapsed: Duration,
        error: Option<Shown>,
    },
    /// The build of an image starts.
    ImageStarted {
        image: Shown,
    },
    ImageBuilt(Built),
    /// An image was not built, because its repository has an image of the same sources.
    ImageUnchanged {
        image: Shown,
        digest: Shown,
    },
    /// The tests of an image start.
    TestStarted {
        image: Shown,
    },
    TestCase(TestCase),
    TestFinished(Tested),
    /// All services of a test are ready.
    ServicesReady {
        names: Vec<Shown>,
    },
    PushStarted {
        image: Shown,
        repository: Shown,
        tags: Vec<Shown>,
    },
    PushFinished(Pushed),
    ScanFinished(Scanned),
    /// A file for another tool was written.
    FileWritten {
        /// The containers or the family that the file is about.
        subject: Shown,
        path: Shown,
        what: WrittenFile,
    },
    DefinitionRegistered(Registered),
    /// A task definition was written to a file instead of being registered.
    DefinitionRendered {
        family: Shown,
        file: Shown,
        /// The file has only the changes, because the current revision was not read.
        changes_only: bool,
    },
    TaskStarted {
        arn: Shown,
        cluster: Shown,
    },
    TaskFinished(TaskRun),
    /// In local mode, the task that `run-task` would run.
    TaskPlanned {
        family: Shown,
        cluster: Shown,
    },
    DeploymentStarted {
        service: Shown,
        cluster: Shown,
        before: Option<Shown>,
        after: Shown,
    },
    /// The deployment's state has changed.
    DeploymentState {
        service: Shown,
        state: Shown,
        /// Other services are deployed at the same time.
        is_one_of_many: bool,
    },
    DeploymentFinished(Deployed),
    /// In local mode, the deployment that `deploy` would start.
    DeploymentPlanned {
        service: Shown,
        family: Shown,
    },
    ScheduleMoved {
        name: Shown,
        before: Shown,
        after: Shown,
    },
    ValueExported {
        name: Shown,
        value: Shown,
    },
    /// A signal or a deadline stops the run.
    StopRequested {
        by: Shown,
    },
    /// Values were added to the masks.
    MaskAdded {
        count: usize,
    },
    /// The whole build has ended with this call.
    BuildFinished {
        ending: Ending,
        exit: Exit,
        elapsed: Duration,
    },
}

/// The build that a call belongs to.
#[derive(Debug, Clone)]
pub(crate) struct BuildOpened {
    pub(crate) pipeline: Shown,
    /// The pipeline file.
    pub(crate) file: Shown,
    pub(crate) build_id: Shown,
    pub(crate) build_number: Option<Shown>,
    pub(crate) build_url: Option<Shown>,
    /// The build runs in CodeBuild.
    pub(crate) in_codebuild: bool,
    /// `local` or `publish`.
    pub(crate) mode: &'static str,
    pub(crate) source: Source,
    /// This is the first call of the build.
    pub(crate) first: bool,
    /// This call runs further phases of a build whose log has begun.
    pub(crate) continues: bool,
}

/// The source of a build.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Why the build runs: `push`, `pull-request`, `pull-request-merged`, `tag` or `manual`.
    pub(crate) event: &'static str,
    pub(crate) repository: Option<Shown>,
    pub(crate) commit: Option<Shown>,
    /// The branch. For a pull request, its base branch.
    pub(crate) branch: Option<Shown>,
    pub(crate) tag: Option<Shown>,
}

impl Source {
    /// A human-readable phrase: `main at 1a2b3c4`, `pull request to main at 1a2b3c4`.
    pub(crate) fn summary(&self) -> String {
        let request = match self.event {
            "pull-request" => Some("pull request"),
            "pull-request-merged" => Some("merged pull request"),
            _ => None,
        };
        let name = match (request, self.tag.as_ref().or(self.branch.as_ref())) {
            // The branch is the base: nothing of it is built here.
            (Some(request), Some(base)) => Some(format!("{request} to {base}")),
            (Some(request), None) => Some(request.to_owned()),
            (None, name) => name.map(ToString::to_string),
        };
        let commit = self.commit.as_ref().map(|commit| commit.chars().take(7).collect::<String>());
        match (name, commit) {
            (Some(name), Some(commit)) => format!("{name} at {commit}"),
            (Some(name), None) => name,
            (None, Some(commit)) => format!("commit {commit}"),
            (None, None) => "no commit known".to_owned(),
        }
    }
}

/// A phase, group or step that this call may run.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) id: Id,
    /// `phase`, `parallel`, or the key of the step.
    pub(crate) kind: &'static str,
    pub(crate) title: Shown,
    /// `failure` or `always`; `None` if it runs only while nothing has failed.
    pub(crate) when: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub(crate) struct StepStarted {
    /// The key of the step: `run`, `build` …
    pub(crate) kind: &'static str,
    pub(crate) title: Shown,
    /// It belongs to `finally`.
    pub(crate) finally: bool,
    /// It runs in parallel with other steps, so their output is interleaved.
    pub(crate) beside: bool,
    /// How many attempts it may take.
    pub(crate) attempts_allowed: u32,
    /// How long one attempt may take.
    pub(crate) timeout: Option<Duration>,
    /// The line of the pipeline file that holds it, from 1.
    pub(crate) line: Option<usize>,
}

/// Why something was skipped.
#[derive(Debug, Clone)]
pub(crate) struct SkipReason {
    pub(crate) code: SkipCode,
    pub(crate) text: Shown,
}

/// The reasons for skipping, as the wire format spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SkipCode {
    /// `only` or `except`.
    Condition,
    PullRequest,
    FailedBefore,
    NotFailed,
    Stopping,
}

impl SkipCode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Condition => "condition",
            Self::PullRequest => "pull-request",
            Self::FailedBefore => "failed-before",
            Self::NotFailed => "not-failed",
            Self::Stopping => "stopping",
        }
    }
}

/// How a run, phase, step or attempt ended.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    Succeeded,
    Failed(Cause),
    /// A signal stopped it.
    Stopped(Cause),
    /// Another member of its parallel group failed.
    Cancelled,
}

impl Ending {
    /// The status as the wire format spells it.
    pub(crate) fn status(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(cause) if cause.kind == FailureKind::Timeout => "timed-out",
            Self::Failed(_) => "failed",
            Self::Stopped(_) => "stopped",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Failed(cause) | Self::Stopped(cause) => Some(cause),
            Self::Succeeded | Self::Cancelled => None,
        }
    }
}

/// Why something failed: a [`Failure`](crate::exit::Failure) whose text is masked.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    pub(crate) kind: FailureKind,
    pub(crate) exit: Exit,
    pub(crate) text: Shown,
    pub(crate) help: Option<Shown>,
    /// The id of the step that failed.
    pub(crate) place: Option<Shown>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandEnd {
    Exited(i32),
    Signalled(i32),
    /// It was ended, because the step was stopped.
    Stopped,
}

/// Masked output. Only [`Events::output`] creates it.
#[derive(Debug, Clone)]
pub(crate) struct Chunk(Bytes);

impl Chunk {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VertexStatus {
    Cached,
    Done,
    Failed,
}

#[derive(Debug, Clone)]
pub(crate) struct Built {
    pub(crate) image: Shown,
    /// The image's id in the engine.
    pub(crate) image_id: Shown,
    pub(crate) bytes: u64,
    /// The number of instructions whose results came from the cache.
    pub(crate) cached: usize,
    /// The number of instructions of the Dockerfile.
    pub(crate) vertices: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct TestCase {
    pub(crate) name: Shown,
    pub(crate) status: CaseStatus,
    /// Why it failed.
    pub(crate) message: Option<Shown>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CaseStatus {
    Passed,
    Failed,
    Skipped,
}

/// The end of the tests of an image.
#[derive(Debug, Clone)]
pub(crate) struct Tested {
    pub(crate) image: Shown,
    /// The counts, if there are results.
    pub(crate) counts: Option<Counts>,
    /// Why the tests count as failed.
    pub(crate) failure: Option<Shown>,
}

/// Counts of test cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Cases that ran, including failed ones.
    pub(crate) run: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    pub(crate) image: Shown,
    /// `repository@sha256:…`
    pub(crate) uri: Shown,
    pub(crate) digest: Shown,
    pub(crate) tags: Vec<Shown>,
    /// It was stored in an image layout on this machine.
    pub(crate) local: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Scanned {
    pub(crate) image: Shown,
    /// Findings that are not ignored.
    pub(crate) findings: usize,
    pub(crate) ignored: usize,
    /// Findings at or above the threshold.
    pub(crate) blocking: usize,
    /// The lowest severity that blocks.
    pub(crate) threshold: Shown,
}

/// The files that runner writes for other tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WrittenFile {
    ImageDefinitions,
    /// `taskdef.json` and `appspec.yaml`.
    TaskDefinition,
}

impl WrittenFile {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ImageDefinitions => "image-definitions",
            Self::TaskDefinition => "task-definition",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Registered {
    /// `FAMILY:N`
    pub(crate) revision: Shown,
    pub(crate) arn: Shown,
    /// The revision existed before and has the same content.
    pub(crate) unchanged: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct TaskRun {
    /// The container that ran the command, or the family.
    pub(crate) subject: Shown,
    pub(crate) cluster: Shown,
    /// `FAMILY:N`
    pub(crate) revision: Shown,
    pub(crate) elapsed: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Deployed {
    pub(crate) service: Shown,
    pub(crate) cluster: Shown,
    /// `FAMILY:N`
    pub(crate) revision: Shown,
    pub(crate) status: DeploymentStatus,
    pub(crate) elapsed: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeploymentStatus {
    Successful,
    /// The service already ran the revision.
    Unchanged,
    /// The service was updated; its progress is unknown.
    Unconfirmed,
    RolledBack,
    NotRolledBack,
    TimedOut,
    Superseded,
    Stopped,
    /// Its progress could no longer be read.
    Lost,
    NotStarted,
}

impl DeploymentStatus {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Successful => "successful",
            Self::Unchanged => "unchanged",
            Self::Unconfirmed => "unconfirmed",
            Self::RolledBack => "rolled-back",
            Self::NotRolledBack => "not-rolled-back",
            Self::TimedOut => "timed-out",
            Self::Superseded => "superseded",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
            Self::NotStarted => "not-started",
        }
    }
}
