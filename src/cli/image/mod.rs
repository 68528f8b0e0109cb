//! `runner image`.

mod context;
mod push;

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

pub(crate) fn main(arguments: &Arguments) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Context(arguments) => context::main(arguments),
        Command::Push(arguments) => push::main(arguments),
    }
}
