//! The command line: raw arguments become typed configuration once, before anything happens.

mod doctor;
mod ecs;
mod facts;
mod gc;
mod iam;
mod image;
mod load;
mod plan;
mod run;
mod schema;
mod stdio;
mod validate;

use crate::exit::{Exit, Failure};
use crate::process::detached::{self, DETACHED};
use crate::process::guard::{self, GUARD};
use crate::process::init;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the phases of an AWS CodeBuild pipeline from a typed file: builds, tests and pushes Docker images, registers ECS
/// task definitions and deploys them, the same way on a laptop and in CodeBuild.
#[derive(Debug, Parser)]
#[command(
    name = "runner",
    version,
    after_help = "Example:\n  runner run --phase build\n\nExit codes: 0 done, 1 a step failed, 2 bad usage or invalid file, 3 the environment cannot serve,\n4 image tests failed, 5 a deployment was rolled back, 6 it failed and was not, 7 a timeout passed, 8 a deployment was superseded,\n128+N stopped by signal N."
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
    Plan(plan::Arguments),
    Validate(validate::Arguments),
    Schema(schema::Arguments),
    Iam(iam::Arguments),
    Doctor(doctor::Arguments),
    Gc(gc::Arguments),
    Image(image::Arguments),
    Ecs(ecs::Arguments),
    /// The process that watches over commands; runner itself starts it
    #[command(name = GUARD, hide = true)]
    Guard,
    /// Starts a program that outlives the run; runner itself calls it
    #[command(name = DETACHED, hide = true)]
    Detached {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        argv: Vec<OsString>,
    },
}

/// Parses the arguments, does what they say, and gives the exit code.
pub fn main() -> ExitCode {
    if init::is_first() {
        return match init::main() {
            Ok(code) => ExitCode::from(code),
            Err(error) => report(&Failure::environment(format!("cannot start: {error}")), false),
        };
    }
    let arguments = Arguments::parse();
    let no_color = arguments.no_color;
    let result = match arguments.command {
        Command::Run(run) => run::main(&run, no_color),
        Command::Plan(plan) => plan::main(&plan, no_color),
        Command::Validate(validate) => validate::main(&validate, no_color),
        Command::Schema(schema) => schema::main(&schema),
        Command::Iam(iam) => iam::main(&iam, no_color),
        Command::Doctor(doctor) => doctor::main(&doctor, no_color),
        Command::Gc(gc) => gc::main(&gc),
        Command::Image(image) => image::main(&image),
        Command::Ecs(ecs) => ecs::main(&ecs),
        Command::Guard => guard::main()
            .map(|()| Exit::Done)
            .map_err(|error| Failure::environment(format!("cannot watch over commands: {error}"))),
        Command::Detached { argv } => detached::main(&argv)
            .map(|()| Exit::Done)
            .map_err(|error| Failure::environment(format!("cannot start it: {error}"))),
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
