//! `runner image`.

mod context;
mod push;

use super::invocation::Invocation;
use crate::exit::{Exit, Failure};
use clap::{Args, Subcommand};

/// Work with images, without a pipeline file
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

pub(crate) async fn main(arguments: &Arguments, invocation: &Invocation) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Context(arguments) => context::main(arguments, invocation).await,
        Command::Push(arguments) => push::main(arguments, invocation).await,
    }
}
