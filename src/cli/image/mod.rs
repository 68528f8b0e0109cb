//! `runner image`.

mod context;
mod push;

use super::session::Session;
use crate::exit::{Exit, Failure};
use clap::{Args, Subcommand};

/// Work with images without a pipeline file
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Context(context::Context),
    Push(push::Push),
}

pub(crate) async fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Context(arguments) => context::main(arguments, session).await,
        Command::Push(arguments) => push::main(arguments, session).await,
    }
}
