//! An engine for a run in CodeBuild that finds none: its own `dockerd` is started, or one that is coming up is waited for.

use crate::docker::{DockerError, Engine, daemon};
use crate::event::Events;
use crate::exit::Failure;
use crate::process::Stopping;
use crate::process::detached::Detached;
use crate::work::unusable;
use rustix::process::Pid;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a process is looked at that is to come up.
const LOOK: Duration = Duration::from_millis(100);

/// What an engine that is started in the midst of a run has to do with.
pub(crate) struct Surroundings {
    pub(crate) events: Events,
    pub(crate) stopping: Stopping,
    pub(crate) work: PathBuf,
}

impl Surroundings {
    /// Starts the engine, or waits for one that is coming up already. It stays when the run is through: the next call needs its
    /// images.
    pub(crate) async fn start(&self, dockerd: &Path) -> Result<Engine, Failure> {
        let begin = Instant::now();
        let log = self.work.join("dockerd.log");
        let other = daemon::running().and_then(Pid::from_raw).map(Detached::of).filter(Detached::lives);
        let own = other.is_none();
        let process = match other {
            Some(other) => other,
            None => self.launch(dockerd, &log).await?,
        };
        let ended = async {
            while process.lives() {
                tokio::time::sleep(LOOK).await;
            }
        };
        // In `finally` after a stop there is another try.
        let stop = if self.stopping.soft.is_cancelled() { &self.stopping.hard } else { &self.stopping.soft };
        let engine = tokio::select! {
            engine = daemon::wait_until_ready(ended, &log) => engine,
            () = stop.cancelled() => return Err(Failure::stopped()),
        };
        match engine {
            Ok(engine) => {
                let took = begin.elapsed().as_secs_f64();
                let note = if own {
                    format!("started dockerd, which took {took:.1} s; log: .runner/dockerd.log")
                } else {
                    format!("waited for the dockerd that was coming up, which took {took:.1} s")
                };
                self.events.note(note).await;
                Ok(engine)
            }
            Err(error) => {
                // There is none where somebody else has started it.
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
        let file = File::options().create(true).write(true).truncate(true).mode(0o600).open(log);
        let file = file.map_err(|error| unusable(log, &error))?;
        let program = dockerd.to_owned();
        let start = move || Detached::start(&program, daemon::ARGUMENTS, daemon::ENVIRONMENT, file);
        let started = tokio::task::spawn_blocking(start).await.unwrap_or_else(|error| Err(error.into()));
        started.map_err(|error| Failure::environment(format!("cannot start {}: {error}", dockerd.display())))
    }
}
