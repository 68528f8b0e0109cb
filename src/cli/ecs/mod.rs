//! `runner ecs`.

mod deploy;
mod diff;
mod render;
mod rollback;
mod status;

use super::load;
use super::printer::Printer;
use super::session::{Session, cancel_on_signals};
use crate::connections::Settings;
use crate::deployment::commands::{self, Place};
use crate::deployment::read_definition;
use crate::ecs::task_definition::{ContainerPatch, Patch, Request};
use crate::event::{Event, Events, Kind, Wants};
use crate::exit::{Exit, Failure};
use crate::process::Stopping;
use crate::report::summary;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;

/// Work with Amazon ECS, without a pipeline file
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Render(render::Render),
    Diff(diff::Diff),
    Deploy(deploy::Deploy),
    Rollback(rollback::Rollback),
    Status(status::Status),
}

pub(crate) async fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Render(arguments) => render::main(arguments, session),
        Command::Diff(arguments) => diff::main(arguments, session).await,
        Command::Deploy(arguments) => deploy::main(arguments, session).await,
        Command::Rollback(arguments) => rollback::main(arguments, session).await,
        Command::Status(arguments) => status::main(arguments, session).await,
    }
}

/// The services that a command is about.
#[derive(Debug, Args)]
struct Target {
    /// The services' cluster
    #[arg(long)]
    cluster: String,
    /// The service; may be given several times
    #[arg(long = "service", required = true)]
    services: Vec<String>,
}

impl Target {
    fn place(&self) -> Place {
        Place { cluster: self.cluster.clone(), services: self.services.clone() }
    }
}

/// A task definition and what changes in it.
#[derive(Debug, Args)]
struct Definition {
    /// A task definition in JSON or YAML, in any shape that the AWS tools write
    #[arg(long, value_name = "TD.json")]
    file: PathBuf,
    #[command(flatten)]
    changes: Changes,
}

/// What changes in a task definition.
#[derive(Debug, Args)]
struct Changes {
    /// The image of a container
    #[arg(long, value_name = "CONTAINER=URI", value_parser = pair)]
    image: Vec<(String, String)>,
    /// A variable of a container; the others stay
    #[arg(long, value_name = "CONTAINER:KEY=VALUE", value_parser = variable)]
    env: Vec<(String, String, String)>,
}

impl Definition {
    /// The request to register it.
    fn request(&self, printer: &Printer) -> Result<Request, Failure> {
        let mut request = Request::from_document(read_definition(&self.file)?)?;
        request.apply(&self.changes.patch())?;
        for typo in request.likely_typos() {
            printer.warning(&typo);
        }
        Ok(request)
    }
}

impl Changes {
    fn patch(&self) -> Patch {
        let mut containers: Vec<ContainerPatch> = Vec::new();
        let mut of = |name: &String| {
            containers.iter().position(|known| known.name == *name).unwrap_or_else(|| {
                containers.push(ContainerPatch { name: name.clone(), ..ContainerPatch::default() });
                containers.len() - 1
            })
        };
        let images: Vec<(usize, &String)> = self.image.iter().map(|(name, uri)| (of(name), uri)).collect();
        let variables: Vec<(usize, (String, String))> =
            self.env.iter().map(|(name, key, value)| (of(name), (key.clone(), value.clone()))).collect();
        for (at, uri) in images {
            containers[at].image = Some(uri.clone());
        }
        for (at, variable) in variables {
            containers[at].environment.push(variable);
        }
        Patch { containers, ..Patch::default() }
    }
}

/// How long a deployment that a signal ends may take to ask for the way back.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many events may wait to be written.
const WAITING: usize = 100;

/// What a command that asks AWS works with: progress goes to stderr, signals end it in order.
struct Invocation<'a> {
    settings: Settings,
    session: &'a Session,
}

impl<'a> Invocation<'a> {
    fn new(session: &'a Session) -> Result<Self, Failure> {
        Ok(Self { settings: load::settings(&load::process())?, session })
    }

    /// Does something, and gives what comes out of it. Whoever changes something ends in order after a signal, within a time; the
    /// rest is dropped at once.
    async fn run<T>(
        &self,
        changes: bool,
        work: impl AsyncFnOnce(&commands::Session<'_>) -> Result<T, Failure>,
    ) -> Result<Ended<T>, Failure> {
        let Session { masks, printer } = self.session;
        let cancellation = cancel_on_signals(Stopping::default())?;
        let (events, mut channels) = Events::open(&[Wants::default()], WAITING, masks, 1, 0);
        let printing = channels.pop().map(|channel| tokio::spawn(print(channel, printer.clone())));
        let session = commands::Session {
            settings: &self.settings,
            masks,
            events: &events,
            cancellation: &cancellation,
        };
        let too_long = async {
            cancellation.stopping.soft.cancelled().await;
            tokio::time::sleep(if changes { PATIENCE } else { Duration::ZERO }).await;
        };
        let result = tokio::select! {
            result = work(&session) => result,
            () = too_long => Err(Failure::stopped()),
        };
        drop(events);
        if let Some(printing) = printing {
            let _ = printing.await;
        }
        let stopped = match cancellation.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(Failure::new(Exit::Signal(signal), "stopped in the middle")),
        };
        match (result, stopped) {
            (Ok(value), stopped) => Ok(Ended { value, stopped }),
            (Err(_), Some(stopped)) => Err(stopped),
            (Err(failure), None) => Err(failure),
        }
    }
}

/// What came out of a command.
struct Ended<T> {
    value: T,
    /// A signal has asked for the end.
    stopped: Option<Failure>,
}

impl<T> Ended<T> {
    /// What came out, of a command that only looks.
    fn unless_stopped(self) -> Result<T, Failure> {
        self.stopped.map_or(Ok(self.value), Err)
    }
}

/// Writes what happens to stderr.
async fn print(mut channel: mpsc::Receiver<Event>, printer: Printer) {
    while let Some(event) = channel.recv().await {
        match &event.kind {
            Kind::Note(text) => printer.message(text),
            Kind::Warning(text) => printer.warning(text),
            kind => {
                if let Some(result) = summary::result(kind) {
                    printer.message(&format!("{} {}: {}", result.verb, result.subject, result.detail));
                }
            }
        }
    }
}

/// `NAME=VALUE`
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("write CONTAINER=URI, such as web=123456789012.dkr.ecr.eu-west-1.amazonaws.com/webapp:v1"
            .to_owned()),
    }
}

/// `CONTAINER:KEY=VALUE`
fn variable(text: &str) -> Result<(String, String, String), String> {
    let parts = text.split_once('=').and_then(|(name, value)| Some((name.split_once(':')?, value)));
    match parts {
        Some(((container, key), value)) if !container.is_empty() && !key.is_empty() => {
            Ok((container.to_owned(), key.to_owned(), value.to_owned()))
        }
        _ => Err("write CONTAINER:KEY=VALUE, such as web:LOG_LEVEL=debug".to_owned()),
    }
}
