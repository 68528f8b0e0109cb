//! Checks of the machine: Docker, and the shell of scripts.

use super::Checks;
use crate::connections::Settings;
use crate::docker::{DockerError, Engine, daemon};
use crate::exit::Failure;
use crate::language::pipeline::model::{Action, Command, Pipeline, Shell};
use crate::proxy::Proxies;
use crate::text::human_size;
use std::collections::HashMap;
use std::path::Path;

/// Less free disk space, in bytes, is reported as missing.
const LITTLE_SPACE: u64 = 5_000_000_000;

pub(crate) async fn docker(checks: &mut Checks, settings: &Settings) {
    let engine = match Engine::connect(&settings.docker).await {
        Ok(engine) => engine,
        Err(failed) => return no_docker(checks, settings, failed),
    };
    let about = match engine.about().await {
        Ok(about) => about,
        Err(failed) => {
            checks.unknown("Docker Engine", Failure::from(failed).message, None);
            return;
        }
    };
    let detail = format!("{} (API {}, {}) at {}", about.version, about.api, about.storage, about.host);
    checks.good("Docker Engine", detail);
    match engine.has_buildkit().await {
        Ok(()) => checks.good("BuildKit", format!("embedded in the engine {}", about.version)),
        Err(failed) => {
            checks.missing(
                "BuildKit",
                Failure::from(failed).message,
                "use Docker Engine 20.10 or newer with BuildKit enabled",
            );
        }
    }
    match rustix::fs::statvfs(&about.root) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let detail = format!("{} free in {}", human_size(free), about.root.display());
            if free < LITTLE_SPACE {
                checks.missing(
                    "disk",
                    detail,
                    "run `docker system prune`, or use a larger compute type in CodeBuild",
                );
            } else {
                checks.good("disk", detail);
            }
        }
        Err(_) => checks.unknown("disk", format!("{} is not on this machine", about.root.display()), None),
    }
}

/// Names the proxies through which AWS, registries and webhooks are reached, if there are any.
pub(crate) fn proxies(checks: &mut Checks) -> Result<(), Failure> {
    let proxies = Proxies::from_environment().map_err(|error| Failure::usage(error.to_string()))?;
    for (scheme, target) in [("https", "https://sts.amazonaws.com/"), ("http", "http://sts.amazonaws.com/")] {
        if let Some(proxy) = target.parse().ok().and_then(|target| proxies.of(&target)) {
            checks.good("proxy", format!("{} for {scheme} ({})", proxy.name(), proxy.variable()));
        }
    }
    Ok(())
}

/// Reports why the engine does not respond, or that a run will start one.
fn no_docker(checks: &mut Checks, settings: &Settings, failed: DockerError) {
    let remedy = if settings.in_codebuild {
        daemon::find(failed, &settings.docker, &settings.path)
    } else {
        Err(failed)
    };
    match remedy {
        Ok(dockerd) => {
            let detail =
                format!("not running; `runner run` starts {} when a step needs it", dockerd.display());
            checks.good("Docker Engine", detail);
            checks.unknown("BuildKit and disk", "unknown until dockerd runs", None);
        }
        Err(failed) => {
            let failure = Failure::from(failed);
            checks.missing("Docker Engine", failure.message, failure.help.unwrap_or_default());
        }
    }
}

pub(crate) fn shell(checks: &mut Checks, pipeline: &Pipeline, process: &HashMap<String, String>) {
    let has_scripts = pipeline.steps().any(|step| matches!(step.action, Action::Run(Command::Script(_))));
    if !has_scripts {
        return;
    }
    let program = pipeline.env.shell.program();
    let path = process.get("PATH").map(String::as_str).unwrap_or_default();
    let found =
        path.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.is_file());
    if let Some(path) = found {
        checks.good(format!("shell {program}"), path.display().to_string());
        return;
    }
    let mend = match pipeline.env.shell {
        Shell::Bash => "install bash, or write `env: { shell: sh }`",
        Shell::Sh => "install a POSIX shell in the build image",
    };
    checks.missing(format!("shell {program}"), "not in PATH", mend);
}
