//! `run`: a script or a program on this machine.

use super::Context;
use crate::engine::failure::STOPPED;
use crate::exit::Failure;
use crate::pipeline::model::{Command, Shell};
use crate::pipeline::template::Template;
use crate::plan::Mode;
use crate::process::{self, Ending};

/// What would let a command reach AWS; local mode takes it away.
const CREDENTIALS: [&str; 14] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CREDENTIAL_EXPIRATION",
];
/// The AWS tools' other ways to credentials, closed.
const CLOSED: [(&str, &str); 3] = [
    ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ("AWS_CONFIG_FILE", "/dev/null"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

pub(super) async fn run(
    cx: &mut Context<'_>,
    command: &Command,
    dir: Option<&Template>,
) -> Result<(), Failure> {
    let dir = match dir {
        Some(dir) => cx.path(dir)?,
        None => cx.run.job.directory.clone(),
    };
    let command =
        process::Command { argv: argv(command, cx.run.job.pipeline.env.shell), dir, env: environment(cx) };
    match process::run(&command, cx.output, cx.stopping).await? {
        Ending::Exited(0) => Ok(()),
        Ending::Exited(code) => Err(Failure::step(format!("the command ended with exit code {code}"))),
        Ending::Signalled(signal) => Err(Failure::step(format!("the command was ended by signal {signal}"))),
        Ending::Stopped => Err(Failure::environment(STOPPED)),
    }
}

/// A script gets `-e`, and `pipefail` where the shell knows it.
fn argv(command: &Command, shell: Shell) -> Vec<String> {
    let script = match command {
        Command::Argv(argv) => return argv.clone(),
        Command::Script(script) => script,
    };
    let options: &[&str] = match shell {
        Shell::Bash => &["-e", "-o", "pipefail", "-c"],
        Shell::Sh => &["-e", "-c"],
    };
    let mut argv = vec![shell.program().to_owned()];
    argv.extend(options.iter().map(ToString::to_string));
    argv.push(script.clone());
    argv
}

fn environment(cx: &Context<'_>) -> Vec<(String, String)> {
    let mode = cx.run.job.mode;
    let mut environment = cx.values.environment();
    environment.insert("RUNNER_MODE".to_owned(), mode.as_str().to_owned());
    if mode == Mode::Local {
        for name in CREDENTIALS {
            environment.shift_remove(name);
        }
        for (name, value) in CLOSED {
            environment.insert(name.to_owned(), value.to_owned());
        }
    }
    environment.into_iter().collect()
}
