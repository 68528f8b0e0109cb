//! `run`: a script or a program on this machine.

use super::StepScope;
use crate::event::{CommandEnd, Kind};
use crate::exit::{Failure, FailureKind};
use crate::files;
use crate::language::pipeline::model::{Command, Shell, Step};
use crate::plan::{Mode, environment};
use crate::process::{self, Ended, Ending, ProcessError};
use crate::secret::Secret;
use crate::text::listed;
use crate::work::unusable;
use indexmap::IndexMap;
use std::ffi::OsString;
use std::path::Path;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

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

/// What the kernel takes as one argument, in bytes with the final NUL: `MAX_ARG_STRLEN` (execve(2)).
const MAX_ARGUMENT: usize = 128 * 1024;
/// The largest file `$RUNNER_ENV` that is read, in bytes.
const MAX_HANDED_ON: u64 = 1024 * 1024;

pub(crate) async fn run(cx: &StepScope<'_>, command: &Command, step: &Step) -> Result<(), Failure> {
    let dir = match &step.dir {
        Some(dir) => cx.path(dir)?,
        None => cx.project.directory.clone(),
    };
    // For what the command hands on to later steps; removed when this step is over.
    let (handed_on, to_mask) = (cx.work.temporary_file("env-")?, cx.work.temporary_file("mask-")?);
    let mut env = environment(cx, step);
    if step.aws.is_some() && cx.project.mode == Mode::Publish {
        give_access(cx, &mut env).await?;
    }
    // What is no text comes from the environment alone, and everything else wins over it.
    let mut variables: Vec<(OsString, OsString)> = cx.project.not_text.clone();
    variables.extend(env.into_iter().map(|(name, value)| (name.into(), value.into())));
    variables.push(("RUNNER_ENV".into(), handed_on.path().into()));
    variables.push(("RUNNER_MASK".into(), to_mask.path().into()));
    let (argv, _script) = argv(cx, command)?;
    let command = process::Command { argv, dir, env: variables };
    let registration = cx.shared.mask_files.watch(to_mask.path());
    let ended = follow(cx, &command).await?;
    let (unmasked, masked) = (registration.unmasked(), registration.count());
    drop(registration);
    if masked > 0 {
        cx.events.send(Kind::MaskAdded { count: masked }).await;
    }
    if unmasked.as_ref().is_ok_and(|count| *count > 0) {
        let warning = "a value in $RUNNER_MASK is shorter than four characters, or only brackets and commas, and is not masked";
        cx.events.warn(warning).await;
    }
    if !ended.left.is_empty() {
        let left = listed(ended.left.iter().map(String::as_str));
        cx.events.note(format!("what the command left running was ended: {left}")).await;
    }
    if !ended.alive.is_empty() {
        let alive = listed(ended.alive.iter().map(String::as_str));
        cx.events.warn(format!("what the command started cannot be ended: {alive}")).await;
    }
    let end = match ended.ending {
        Ending::Exited(code) => CommandEnd::Exited(code),
        Ending::Signalled(signal) => CommandEnd::Signalled(signal),
        Ending::Stopped => CommandEnd::Stopped,
    };
    cx.events.send(Kind::CommandFinished(end)).await;
    let result = match end {
        CommandEnd::Exited(0) => Ok(()),
        CommandEnd::Exited(code) => {
            Err(Failure::step(format!("the command ended with exit code {code}"))
                .kind(FailureKind::CommandExit))
        }
        CommandEnd::Signalled(signal) => {
            Err(Failure::step(format!("the command was ended by signal {signal}"))
                .kind(FailureKind::CommandSignal))
        }
        CommandEnd::Stopped => Err(Failure::stopped()),
    };
    // A failed command hands on what it wrote before it failed: a step after the failure may need it.
    let result = result.and(take_over(cx, handed_on.path()).await);
    let Err(reason) = unmasked else { return result };
    let message =
        format!("the command wrote to $RUNNER_MASK what cannot be read: {reason}; its output is held back");
    if result.is_err() {
        cx.events.warn(message.as_str()).await;
    }
    result.and(Err(Failure::step(message).help("write one value a line, 1 MiB in all at most")))
}

/// Runs the command. Before any of its output goes on, what it and those beside it have written to `$RUNNER_MASK` by then is
/// masked.
async fn follow(cx: &StepScope<'_>, command: &process::Command) -> Result<Ended, ProcessError> {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(1);
    let take_over = || cx.shared.mask_files.take_over(&cx.project.masks);
    let forward = async {
        while let Some(bytes) = receiver.recv().await {
            if take_over() && cx.output.send(bytes).await.is_err() {
                // Nobody listens any more; the command goes on.
                receiver.close();
            }
        }
    };
    let run = async {
        let ended = cx.shared.guards.run(command, &sender, &cx.stopping).await;
        drop(sender);
        ended
    };
    let (ended, ()) = tokio::join!(run, forward);
    take_over();
    ended
}

/// Sets the variables that a command has written to `$RUNNER_ENV` for all later steps.
async fn take_over(cx: &StepScope<'_>, path: &Path) -> Result<(), Failure> {
    let invalid = |reason: String| {
        Failure::step(format!("the command wrote to $RUNNER_ENV what cannot be read: {reason}"))
            .help("write lines `KEY=value`, or blocks of `KEY<<MARK`, the value's lines and `MARK`")
    };
    // A command may take its file away, or put something else in its place.
    let text = match files::read_small(path, MAX_HANDED_ON) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(invalid(error.to_string())),
        Ok(text) => text,
    };
    let text = String::from_utf8(text).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
    let variables = environment::parse_handed_on(&text).map_err(|error| invalid(error.to_string()))?;
    for (name, value) in variables {
        let is_secret = cx.project.pipeline.secret_names().contains(&name.as_str());
        if is_secret {
            // A new value of a secret is one.
            cx.project.masks.add(&Secret::new(value.as_str()));
        }
        cx.shared.values().set(&name, &value);
        if !is_secret && cx.project.masks.text(&value) == value {
            cx.shared.results().variables.insert(name, value);
        } else {
            cx.shared.results().variables.shift_remove(&name);
            let warning = format!(
                "{name} holds a secret: it is set for the steps of this call, but not kept for later calls"
            );
            cx.events.warn(warning).await;
        }
    }
    Ok(())
}

/// The keys of the step's role, and its region.
async fn give_access(cx: &StepScope<'_>, env: &mut IndexMap<String, String>) -> Result<(), Failure> {
    let access = cx.access()?;
    if let Some(region) = &access.region {
        for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
            env.insert(name.to_owned(), region.clone());
        }
    }
    if access.role.is_none() {
        return Ok(());
    }
    let keys = cx.aws().await?.credentials().await?;
    for name in CREDENTIALS {
        env.shift_remove(name);
    }
    env.insert("AWS_ACCESS_KEY_ID".to_owned(), keys.id);
    for (name, secret) in
        [("AWS_SECRET_ACCESS_KEY", Some(keys.secret)), ("AWS_SESSION_TOKEN", keys.session_token)]
    {
        if let Some(secret) = secret {
            cx.project.masks.add(&secret);
            env.insert(name.to_owned(), secret.expose().to_owned());
        }
    }
    Ok(())
}

/// The words to start. A script gets `-e`, and `pipefail` where the shell knows it; one that is too long for an argument
/// becomes a file, to be kept while it runs.
fn argv(cx: &StepScope<'_>, command: &Command) -> Result<(Vec<OsString>, Option<NamedTempFile>), Failure> {
    let script = match command {
        Command::Argv(argv) => return Ok((argv.iter().map(OsString::from).collect(), None)),
        Command::Script(script) => script,
    };
    let shell = cx.project.pipeline.env.shell;
    let options: &[&str] = match shell {
        Shell::Bash => &["-e", "-o", "pipefail"],
        Shell::Sh => &["-e"],
    };
    let mut argv: Vec<OsString> = [shell.program()].iter().chain(options).map(OsString::from).collect();
    if script.len() < MAX_ARGUMENT {
        argv.extend(["-c".into(), script.into()]);
        return Ok((argv, None));
    }
    let file = cx.work.temporary_file("script-")?;
    std::fs::write(file.path(), script).map_err(|error| unusable(file.path(), &error))?;
    argv.push(file.path().into());
    Ok((argv, Some(file)))
}

/// The command's environment. What the pipeline file itself sets is no credential of this machine.
fn environment(cx: &StepScope<'_>, step: &Step) -> IndexMap<String, String> {
    let mode = cx.project.mode;
    let mut environment = cx.values.environment();
    environment.insert("RUNNER_MODE".to_owned(), mode.as_str().to_owned());
    if mode == Mode::Local {
        let variables = &cx.project.pipeline.env.variables;
        let is_in_file = |name: &str| step.env.contains_key(name) || variables.contains_key(name);
        for name in CREDENTIALS.into_iter().filter(|name| !is_in_file(name)) {
            environment.shift_remove(name);
        }
        for (name, value) in CLOSED.into_iter().filter(|(name, _)| !is_in_file(name)) {
            environment.insert(name.to_owned(), value.to_owned());
        }
    }
    environment
}
