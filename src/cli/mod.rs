//! The command line: raw arguments become typed configuration once, before anything happens.

mod run;
mod stdio;

use crate::exit::Failure;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs the phases of an AWS CodeBuild pipeline from a typed file: builds, tests and pushes Docker images, registers ECS
/// task definitions and deploys them, the same way on a laptop and in CodeBuild.
#[derive(Debug, Parser)]
#[command(
    name = "runner",
    version,
    after_help = "Example:\n  runner run --phase build\n\nExit codes: 0 done, 1 a step failed, 2 bad usage or invalid file, 3 the environment cannot serve,\n4 image tests failed, 128+N stopped by signal N."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print without colours, also on a terminal (as with the variable NO_COLOR)
    #[arg(long, global = true)]
    no_color: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
}

/// Parses the arguments, does what they say, and gives the exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Run(run) => run::main(&run, arguments.no_color),
    };
    match result {
        Ok(code) => ExitCode::from(code.code()),
        Err(failure) => report(&failure, arguments.no_color),
    }
}

/// Prints a failure that no report shows, and gives its exit code.
fn report(failure: &Failure, no_color: bool) -> ExitCode {
    stdio::error(failure, no_color);
    ExitCode::from(failure.exit.code())
}
