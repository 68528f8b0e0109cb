//! `runner schema`.

use super::session::Session;
use crate::exit::{Exit, Failure};
use crate::language::{reference, schema};
use clap::Args;

/// Print the JSON Schema of the pipeline file, for editors
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  runner schema > pipeline.schema.json

The YAML language server uses it if pipeline.yml starts with this line:
  # yaml-language-server: $schema=pipeline.schema.json")]
pub(crate) struct Arguments {
    /// Print the reference of the pipeline file in Markdown instead
    #[arg(long)]
    markdown: bool,
}

pub(crate) fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    if arguments.markdown {
        session.printer.result(&reference::reference())?;
    } else {
        session.printer.json(&schema::schema())?;
    }
    Ok(Exit::Done)
}
