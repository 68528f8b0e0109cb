//! `run`: a script or a program on this machine.

use super::Context;
use crate::engine::failure::STOPPED;
use crate::exit::Failure;
use crate::files;
use crate::pipeline::model::{Command, Shell, Step};
use crate::plan::{Mode, environment};
use crate::process::{self, Ending, ProcessError};
use crate::secret::{Masks, Secret};
use indexmap::IndexMap;
use std::path::{Path, PathBuf};
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

/// The largest file `$RUNNER_ENV` that is read, in bytes.
const MAX_HANDED_ON: u64 = 1024 * 1024;

pub(super) async fn run(cx: &mut Context<'_>, command: &Command, step: &Step) -> Result<(), Failure> {
    let dir = match &step.dir {
        Some(dir) => cx.path(dir)?,
        None => cx.run.job.directory.clone(),
    };
    // For what the command hands on to later steps; removed when this step is over.
    let file = |prefix: &str| {
        tempfile::Builder::new().prefix(prefix).tempfile_in(&cx.run.work).map_err(|error| {
            Failure::environment(format!("cannot write to {}: {error}", cx.run.work.display()))
                .help("is the disk full, or the directory not writable?")
        })
    };
    let (handed_on, unmasked) = (file("env-")?, file("mask-")?);
    let mut env = environment(cx, step);
    env.insert("RUNNER_ENV".to_owned(), handed_on.path().display().to_string());
    env.insert("RUNNER_MASK".to_owned(), unmasked.path().display().to_string());
    if step.aws.is_some() && cx.run.job.mode == Mode::Publish {
        give_access(cx, &mut env).await?;
    }
    let command = process::Command {
        argv: argv(command, cx.run.job.pipeline.env.shell),
        dir,
        env: env.into_iter().collect(),
    };
    let mut masked = Registered { path: unmasked.path().to_owned(), read: 0 };
    let (ending, short) = follow(cx, &command, &mut masked).await;
    if short > 0 {
        let warning = "a value in $RUNNER_MASK is shorter than four characters and is not masked";
        cx.run.events.warn(warning).await;
    }
    let result = match ending? {
        Ending::Exited(0) => Ok(()),
        Ending::Exited(code) => Err(Failure::step(format!("the command ended with exit code {code}"))),
        Ending::Signalled(signal) => Err(Failure::step(format!("the command was ended by signal {signal}"))),
        Ending::Stopped => Err(Failure::environment(STOPPED)),
    };
    // A failed command hands on what it wrote before it failed: a step after the failure may need it.
    result.and(take_over(cx, handed_on.path()).await)
}

/// Runs the command. Before any of its output goes on, what it has written to `$RUNNER_MASK` by then is masked. The second
/// value is how many of these values are too short.
async fn follow(
    cx: &Context<'_>,
    command: &process::Command,
    masked: &mut Registered,
) -> (Result<Ending, ProcessError>, usize) {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(1);
    let mut short = 0;
    let masks = &cx.run.job.masks;
    let forward = async {
        while let Some(bytes) = receiver.recv().await {
            short += masked.take_over(masks);
            if cx.output.send(bytes).await.is_err() {
                // Nobody listens any more; the command goes on.
                receiver.close();
            }
        }
    };
    let run = async {
        let ending = process::run(command, &sender, cx.stopping).await;
        drop(sender);
        ending
    };
    let (ending, ()) = tokio::join!(run, forward);
    short += masked.take_over(masks);
    (ending, short)
}

/// The file `$RUNNER_MASK`, and how much of it is known.
struct Registered {
    path: PathBuf,
    read: u64,
}

impl Registered {
    /// Masks the values that have come, one a line. The answer is how many are too short to be masked.
    fn take_over(&mut self, masks: &Masks) -> usize {
        let grown = std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() > self.read);
        let Some(bytes) = grown.then(|| files::read_small(&self.path, MAX_HANDED_ON).ok()).flatten() else {
            return 0;
        };
        self.read = bytes.len() as u64;
        let text = String::from_utf8_lossy(&bytes);
        let values = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
        values.filter(|value| !masks.add(&Secret::new(*value))).count()
    }
}

/// Sets the variables that a command has written to `$RUNNER_ENV` for all later steps.
async fn take_over(cx: &mut Context<'_>, path: &Path) -> Result<(), Failure> {
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
        if cx.run.job.pipeline.secret_names().contains(&name.as_str()) {
            // A new value of a secret is one.
            cx.run.job.masks.add(&Secret::new(value.as_str()));
        }
        cx.run.job.values.set(&name, &value);
        if cx.run.job.masks.text(&value) == value {
            cx.run.state.variables.insert(name, value);
        } else {
            cx.run.state.variables.shift_remove(&name);
            let warning = format!(
                "{name} holds a secret: it is set for the steps of this call, but not kept for later ones"
            );
            cx.run.events.warn(warning).await;
        }
    }
    Ok(())
}

/// The keys of the step's role, and its region.
async fn give_access(cx: &Context<'_>, env: &mut IndexMap<String, String>) -> Result<(), Failure> {
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
            cx.run.job.masks.add(&secret);
            env.insert(name.to_owned(), secret.expose().to_owned());
        }
    }
    Ok(())
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

/// The command's environment. What the pipeline file itself sets is no credential of this machine.
fn environment(cx: &Context<'_>, step: &Step) -> IndexMap<String, String> {
    let mode = cx.run.job.mode;
    let mut environment = cx.values.environment();
    environment.insert("RUNNER_MODE".to_owned(), mode.as_str().to_owned());
    if mode == Mode::Local {
        let variables = &cx.run.job.pipeline.env.variables;
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
