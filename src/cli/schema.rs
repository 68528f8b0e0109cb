//! `runner schema`.

use super::session::Session;
use crate::exit::{Exit, Failure};
use crate::language::{reference, schema};
use clap::Args;

/// Print the JSON Schema of the pipeline file, for editors
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  runner schema > pipeline.schema.json\n\nand as the first line of pipeline.yml, for the YAML language server:\n  # yaml-language-server: $schema=pipeline.schema.json"
)]
pub(crate) struct Arguments {
    /// Print the reference of the pipeline file as Markdown instead
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
