//! `runner ecs render`.

use super::DefinitionArguments;
use crate::cli::session::Session;
use crate::exit::{Exit, Failure};
use clap::Args;

/// Print the request that registers a task definition
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the body of RegisterTaskDefinition. Read-only fields and nulls are left out; everything else stays as it \
is, including fields that runner does not know. Makes no call to AWS.

Example:
  runner ecs render --file taskdef.json --image web=registry.example.com/webapp:v1 --env web:LOG_LEVEL=debug")]
pub(crate) struct Render {
    #[command(flatten)]
    definition: DefinitionArguments,
}

pub(crate) fn main(arguments: &Render, session: &Session) -> Result<Exit, Failure> {
    session.printer.document(arguments.definition.request(&session.printer)?.into_json())?;
    Ok(Exit::Done)
}
