//! `runner ecs`.

mod deploy;
mod diff;
mod invocation;
mod output;
mod render;
mod rollback;
mod status;

use super::printer::Printer;
use super::session::Session;
use crate::address::ImageReference;
use crate::deployment::{ServiceSet, read_definition};
use crate::ecs::task_definition::{ContainerPatch, Patch, Request};
use crate::exit::{Exit, Failure};
use clap::{Args, Subcommand};
use std::path::PathBuf;

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

#[derive(Debug, Args)]
struct TargetServices {
    /// The services' cluster
    #[arg(long)]
    cluster: String,
    /// The service; can be given several times
    #[arg(long = "service", required = true)]
    services: Vec<String>,
}

impl TargetServices {
    fn service_set(&self) -> ServiceSet {
        ServiceSet { cluster: self.cluster.clone(), services: self.services.clone() }
    }
}

/// A task definition and changes to it.
#[derive(Debug, Args)]
struct DefinitionArguments {
    /// A task definition in JSON or YAML, in any shape that the AWS tools write
    #[arg(long, value_name = "TD.json")]
    file: PathBuf,
    #[command(flatten)]
    changes: Changes,
}

/// Changes to a task definition.
#[derive(Debug, Args)]
struct Changes {
    /// The image of a container
    #[arg(long, value_name = "CONTAINER=URI", value_parser = pair)]
    image: Vec<(String, String)>,
    /// A variable of a container; the others stay
    #[arg(long, value_name = "CONTAINER:KEY=VALUE", value_parser = variable)]
    env: Vec<(String, String, String)>,
}

impl DefinitionArguments {
    fn request(&self, printer: &Printer) -> Result<Request, Failure> {
        let mut request = read_definition(&self.file)?;
        request.apply(&self.changes.patch()?)?;
        for typo in request.likely_typos() {
            printer.warning(&typo);
        }
        Ok(request)
    }
}

impl Changes {
    /// Fails if something is given twice.
    fn patch(&self) -> Result<Patch, Failure> {
        let twice =
            |what: String| Err(Failure::usage(format!("{what} is given twice")).help("keep one of them"));
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
            if containers[at].image.replace(uri.clone()).is_some() {
                return twice(format!("the image of the container `{}`", containers[at].name));
            }
        }
        for (at, variable) in variables {
            if containers[at].environment.iter().any(|(known, _)| *known == variable.0) {
                return twice(format!(
                    "the variable {} of the container `{}`",
                    variable.0, containers[at].name
                ));
            }
            containers[at].environment.push(variable);
        }
        Ok(Patch { containers, ..Patch::default() })
    }
}

/// `NAME=VALUE`
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            ImageReference::checked(value).map_err(|error| error.to_string())?;
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
