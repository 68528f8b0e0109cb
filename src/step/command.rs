//! `run`: runs a script or a program on this machine.

use super::StepScope;
use crate::event::{CommandEnd, Kind};
use crate::exit::{Failure, FailureKind};
use crate::files;
use crate::language::pipeline::model::{Command, Shell, Step};
use crate::plan::{self, Mode, environment};
use crate::process::{self, Defect, Ended, Ending, ProcessError};
use crate::secret::{MaybeSecret, Secret};
use crate::text::{human_size, listed};
use crate::work::unusable;
use indexmap::IndexMap;
use std::ffi::OsString;
use std::path::Path;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

/// The variables with AWS credentials, which local mode removes from commands.
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
/// Variables that close the other sources of credentials of AWS tools.
const NO_CREDENTIALS: [(&str, &str); 3] = [
    ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ("AWS_CONFIG_FILE", "/dev/null"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// The kernel's limit for one argument, in bytes with the final NUL: `MAX_ARG_STRLEN` (execve(2)).
const MAX_ARGUMENT: usize = 128 * 1024;
/// The stack that is assumed if it has no limit, in bytes.
const MAX_STACK: u64 = 1 << 40;
/// The most that Linux gives a program for its arguments and variables, in bytes.
const MAX_EXEC: u64 = 6 * 1024 * 1024;
/// The part of it that is kept for arguments, in bytes.
const FOR_ARGUMENTS: u64 = 256 * 1024;
/// The exit codes of shells and `env` if a program cannot be run, or is missing (POSIX, `sh`, "Exit Status").
const CANNOT_RUN: [i32; 2] = [126, 127];
/// The largest file `$RUNNER_ENV` that is read, in bytes.
const MAX_HANDED_ON: u64 = 1024 * 1024;

pub(crate) async fn run(cx: &StepScope<'_>, command: &Command, step: &Step) -> Result<(), Failure> {
    let dir = match &step.dir {
        Some(dir) => cx.path(dir)?,
        None => cx.project.directory.clone(),
    };
    // Removed at the end of this step.
    let (env_file, mask_file) = (cx.work.temporary_file("env-")?, cx.work.temporary_file("mask-")?);
    let mut env = environment(cx, step);
    if step.aws.is_some() && cx.project.mode == Mode::Publish {
        add_credentials(cx, &mut env).await?;
    }
    // Variables that are not text come only from the environment, so all others take precedence.
    let mut variables: Vec<(OsString, OsString)> = cx.project.not_text.clone();
    variables.extend(env.into_iter().map(|(name, value)| (name.into(), value.expose().into())));
    variables.push(("RUNNER_ENV".into(), env_file.path().into()));
    variables.push(("RUNNER_MASK".into(), mask_file.path().into()));
    let (argv, _script) = argv(cx, command)?;
    let script = match command {
        Command::Script(script) => Some(script.as_str()),
        Command::Argv(_) => None,
    };
    let command = process::Command { argv, dir, env: variables };
    let registration = cx.shared.mask_files.watch(mask_file.path());
    let ended = run_masked(cx, &command).await?;
    let (unmasked, masked) = (registration.unmasked(), registration.count());
    drop(registration);
    if masked > 0 {
        cx.events.send(Kind::MaskAdded { count: masked }).await;
    }
    if unmasked.as_ref().is_ok_and(|count| *count > 0) {
        let warning = "a value in $RUNNER_MASK is not masked: it is shorter than four characters, or only brackets and commas";
        cx.events.warn(warning).await;
    }
    if !ended.left.is_empty() {
        let left = listed(ended.left.iter().map(String::as_str));
        cx.events.note(format!("ended processes that the command left running: {left}")).await;
    }
    if !ended.alive.is_empty() {
        let alive = listed(ended.alive.iter().map(String::as_str));
        cx.events.warn(format!("could not end processes that the command started: {alive}")).await;
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
            let failure = Failure::step(format!("the command ended with exit code {code}"))
                .kind(FailureKind::CommandExit);
            let defect = if CANNOT_RUN.contains(&code) { defect(&command, script) } else { None };
            Err(match defect {
                Some((file, defect)) => failure.help(format!("`{file}` {defect}: {}", defect.help())),
                None => failure,
            })
        }
        CommandEnd::Signalled(signal) => {
            Err(Failure::step(format!("the command was ended by signal {signal}"))
                .kind(FailureKind::CommandSignal))
        }
        CommandEnd::Stopped => Err(Failure::stopped()),
    };
    // The variables of a failed command are set as well: a step after the failure may need them.
    let result = result.and(import_variables(cx, env_file.path()).await);
    let Err(reason) = unmasked else { return result };
    let message = format!("cannot read $RUNNER_MASK: {reason}; the command's output is held back");
    if result.is_err() {
        cx.events.warn(message.as_str()).await;
    }
    result.and(Err(Failure::step(message).help("write one value per line, at most 1 MiB in total")))
}

/// A file of a command that a shell or `env` could not run, and the reason.
fn defect(command: &process::Command, script: Option<&str>) -> Option<(String, Defect)> {
    let program = command.argv.first().and_then(|program| program.to_str());
    let words = match script {
        Some(script) => script.split(|c: char| c.is_whitespace() || ";&|()\"'`".contains(c)).collect(),
        None => Vec::from_iter(program),
    };
    let mut files = words.into_iter().filter(|word| word.contains('/'));
    files.find_map(|file| {
        let defect = Defect::of(&command.dir.join(file))?;
        // Other programs may well be used here, but only a missing loader could make them fail.
        (defect != Defect::NoLoader).then(|| (file.to_owned(), defect))
    })
}

/// Runs the command. Before any of its output is forwarded, the values that running commands have written to
/// `$RUNNER_MASK` are masked.
async fn run_masked(cx: &StepScope<'_>, command: &process::Command) -> Result<Ended, ProcessError> {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(1);
    let mask_new = || cx.shared.mask_files.mask_new(&cx.project.masks);
    let forward = async {
        while let Some(bytes) = receiver.recv().await {
            if mask_new() && cx.output.send(bytes).await.is_err() {
                // The output has no reader any more. The command continues.
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
    mask_new();
    ended
}

/// Sets the variables that a command has written to `$RUNNER_ENV` for all later steps.
async fn import_variables(cx: &StepScope<'_>, path: &Path) -> Result<(), Failure> {
    let invalid = |reason: String| {
        Failure::step(format!("cannot read $RUNNER_ENV: {reason}"))
            .help("write lines `KEY=value`, or blocks of `KEY<<MARK`, the value's lines and `MARK`")
    };
    // A command may remove its file, or replace it.
    let text = match files::read_small(path, MAX_HANDED_ON) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(invalid(error.to_string())),
        Ok(text) => text,
    };
    let text = String::from_utf8(text).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
    let variables = environment::parse_handed_on(&text).map_err(|error| invalid(error.to_string()))?;
    check_size(cx, &variables)?;
    for (name, value) in variables {
        let is_secret = cx.project.pipeline.secret_names().contains(&name.as_str());
        if is_secret {
            // A new value of a secret is a secret too.
            let public = plan::public_values(&cx.project.pipeline, &cx.project.context);
            cx.project.masks.add_document(&Secret::new(value.as_str()), &public);
        }
        // Text that contains a secret is a secret, too.
        let is_secret = is_secret || cx.project.masks.text(&value) != value;
        cx.shared.values().set(&name, MaybeSecret::new(value.as_str(), is_secret));
        if is_secret {
            cx.shared.results().variables.shift_remove(&name);
            let warning = format!(
                "{name} contains a secret: it is set for the steps of this call, but not kept for later calls"
            );
            cx.events.warn(warning).await;
        } else {
            cx.shared.results().variables.insert(name, value);
        }
    }
    Ok(())
}

/// Fails if no later command could start: Linux gives a program a quarter of the stack's limit for its arguments and
/// variables, and at most 6 MiB (execve(2)).
fn check_size<'v>(
    cx: &StepScope<'_>,
    added: impl IntoIterator<Item = &'v (String, String)>,
) -> Result<(), Failure> {
    let stack = rustix::process::getrlimit(rustix::process::Resource::Stack).current.unwrap_or(MAX_STACK);
    let limit = (stack.min(MAX_STACK) / 4).min(MAX_EXEC).saturating_sub(FOR_ARGUMENTS);
    let mut environment = cx.shared.values().environment();
    environment.extend(
        added.into_iter().map(|(name, value)| (name.clone(), MaybeSecret::new(value.as_str(), true))),
    );
    // Each has a `=`, a NUL and a pointer.
    let size = |(name, value): (&String, &MaybeSecret)| (name.len() + value.expose().len() + 10) as u64;
    let total: u64 = environment.iter().map(size).sum();
    if total <= limit {
        return Ok(());
    }
    let message = format!(
        "all variables together would have {}, but a program can get {}",
        human_size(total),
        human_size(limit)
    );
    Err(Failure::step(message).help("write data of this size to a file, and pass its name on"))
}

/// Adds the credentials of the step's role, and its region.
async fn add_credentials(cx: &StepScope<'_>, env: &mut IndexMap<String, MaybeSecret>) -> Result<(), Failure> {
    let access = cx.access()?;
    if let Some(region) = &access.region {
        for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
            env.insert(name.to_owned(), MaybeSecret::Plain(region.clone()));
        }
    }
    if access.role.is_none() {
        return Ok(());
    }
    let keys = cx.aws().await?.credentials().await?;
    for name in CREDENTIALS {
        env.shift_remove(name);
    }
    env.insert("AWS_ACCESS_KEY_ID".to_owned(), MaybeSecret::Plain(keys.id));
    for (name, secret) in
        [("AWS_SECRET_ACCESS_KEY", Some(keys.secret)), ("AWS_SESSION_TOKEN", keys.session_token)]
    {
        if let Some(secret) = secret {
            cx.project.masks.add(&secret);
            env.insert(name.to_owned(), MaybeSecret::Secret(secret));
        }
    }
    Ok(())
}

/// The program and its arguments. A script runs with `-e`, and with `pipefail` if the shell supports it. A script that
/// is too long for an argument is returned as a file, which must live as long as the command.
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

/// The command's environment. In local mode it has no credentials of this machine, but those that the pipeline file
/// sets.
fn environment(cx: &StepScope<'_>, step: &Step) -> IndexMap<String, MaybeSecret> {
    let mode = cx.project.mode;
    let mut environment = cx.values.environment();
    environment.insert("RUNNER_MODE".to_owned(), MaybeSecret::new(mode.as_str(), false));
    if mode == Mode::Local {
        let variables = &cx.project.pipeline.env.variables;
        let is_in_file = |name: &str| step.env.contains_key(name) || variables.contains_key(name);
        for name in CREDENTIALS.into_iter().filter(|name| !is_in_file(name)) {
            environment.shift_remove(name);
        }
        for (name, value) in NO_CREDENTIALS.into_iter().filter(|(name, _)| !is_in_file(name)) {
            environment.insert(name.to_owned(), MaybeSecret::new(value, false));
        }
    }
    environment
}
