//! `runner image`.

mod context;
mod push;

use crate::exit::{Exit, Failure};
use clap::{Args, Subcommand};

/// Work with images, without a pipeline file
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Context(context::Context),
    Push(push::Push),
}

pub(super) fn main(arguments: &Arguments) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Context(arguments) => context::main(arguments),
        Command::Push(arguments) => push::main(arguments),
    }
}
