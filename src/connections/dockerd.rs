//! Starts `dockerd` for a run in CodeBuild that finds no engine, or waits for one that is already starting.

use crate::docker::{DockerError, Engine, daemon};
use crate::event::Events;
use crate::exit::Failure;
use crate::files::Directory;
use crate::limits;
use crate::process::Stopping;
use crate::process::detached::Detached;
use crate::work::unusable;
use rustix::fs::OFlags;
use rustix::process::Pid;
use std::path::Path;
use std::time::{Duration, Instant};

/// The name of the log of an engine that runner started, in `.runner/`.
const LOG: &str = "dockerd.log";
/// The interval at which a starting `dockerd` is polled.
const POLL: Duration = Duration::from_millis(100);

/// What starting an engine in a run needs.
pub(crate) struct DockerdStart {
    pub(crate) events: Events,
    pub(crate) stopping: Stopping,
    pub(crate) work: Directory,
}

impl DockerdStart {
    /// Starts the engine, or waits for one that is already starting. It outlives the run, because the next call needs
    /// its images.
    pub(crate) async fn start(&self, dockerd: &Path) -> Result<Engine, Failure> {
        let begin = Instant::now();
        let log = self.work.path().join(LOG);
        let other = daemon::running().and_then(Pid::from_raw).map(Detached::of).filter(Detached::lives);
        let own = other.is_none();
        let process = match other {
            Some(other) => other,
            None => self.launch(dockerd, &log).await?,
        };
        let ended = async {
            while process.lives() {
                tokio::time::sleep(POLL).await;
            }
        };
        // `finally` after a stop may still start an engine; only the second signal ends that.
        let stop = if self.stopping.soft.is_cancelled() { &self.stopping.hard } else { &self.stopping.soft };
        let engine = tokio::select! {
            engine = daemon::wait_until_ready(ended, &log) => engine,
            () = stop.cancelled() => return Err(Failure::stopped()),
        };
        match engine {
            Ok(engine) => {
                let took = begin.elapsed().as_secs_f64();
                let note = if own {
                    format!("started dockerd in {took:.1} s; log: .runner/dockerd.log")
                } else {
                    format!("waited {took:.1} s for a dockerd that was already starting")
                };
                self.events.note(note).await;
                Ok(engine)
            }
            Err(error) => {
                // Without lines, another process started it and has the log.
                if let DockerError::Daemon { lines, .. } = &error
                    && !lines.is_empty()
                {
                    self.events.note("the last lines of .runner/dockerd.log:").await;
                    for line in lines {
                        self.events.note(line).await;
                    }
                }
                Err(error.into())
            }
        }
    }

    async fn launch(&self, dockerd: &Path, log: &Path) -> Result<Detached, Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let file = self.work.file(LOG, flags, 0o600);
        let file = file.map_err(|error| unusable(log, &error))?;
        let program = dockerd.to_owned();
        let start = move || Detached::start(&program, daemon::arguments(), daemon::ENVIRONMENT, file);
        let started = tokio::task::spawn_blocking(start).await.unwrap_or_else(|error| Err(error.into()));
        started.map_err(|error| {
            let failure = Failure::environment(format!("cannot start {}: {error}", dockerd.display()));
            failure.limited(limits::start_advice(&error))
        })
    }
}
