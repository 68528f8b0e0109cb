//! The command line: raw arguments become typed configuration once, before any effect.

mod doctor;
mod ecs;
mod facts;
mod gc;
mod iam;
mod image;
mod load;
mod plan;
mod printer;
mod run;
mod schema;
mod session;
mod stdio;
mod validate;

use crate::exit::{Exit, Failure};
use crate::limits;
use crate::process::detached::{self, DETACHED};
use crate::process::guard::{self, GUARD};
use crate::process::init;
use crate::secret::Masks;
use clap::{Parser, Subcommand};
use printer::Printer;
use session::Session;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the phases of an AWS CodeBuild pipeline from a typed file: builds, tests and pushes Docker images, registers ECS
/// task definitions and deploys them, the same way on a laptop and in CodeBuild.
#[derive(Debug, Parser)]
#[command(
    name = "runner",
    version,
    after_help = "\
Example:
  runner run --phase build

Exit codes:
  0      success
  1      a step failed
  2      wrong usage or an invalid pipeline file
  3      the environment is not usable: Docker, credentials, permissions, registry or network
  4      image tests failed
  5      a deployment failed and was rolled back
  6      a deployment failed and was not rolled back
  7      a timeout passed
  8      a deployment was superseded by another one
  128+N  stopped by signal N"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print without colours even on a terminal, like the variable NO_COLOR
    #[arg(long, global = true)]
    no_color: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    User(UserCommand),
    /// Start the process that ends commands when runner is gone; for runner itself
    #[command(name = GUARD, hide = true)]
    Guard,
    /// Start a program that outlives the run; for runner itself
    #[command(name = DETACHED, hide = true)]
    Detached {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        argv: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    Run(run::Arguments),
    Plan(plan::Arguments),
    Validate(validate::Arguments),
    Schema(schema::Arguments),
    Iam(iam::Arguments),
    Doctor(doctor::Arguments),
    Gc(gc::Arguments),
    Image(image::Arguments),
    Ecs(ecs::Arguments),
}

/// Parses the arguments, runs the command, and returns the exit code.
pub fn main() -> ExitCode {
    if init::is_first() {
        return exit_code("cannot start", init::main());
    }
    let Arguments { command, no_color } = Arguments::parse();
    match command {
        Command::User(command) => session::run(no_color, async |session| command.run(session).await),
        Command::Guard => exit_code("cannot watch over commands", guard::main().map(|()| 0)),
        Command::Detached { argv } => exit_code("cannot start it", detached::main(&argv).map(|()| 0)),
    }
}

impl UserCommand {
    async fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self {
            Self::Run(run) => run::main(&run, session).await,
            Self::Plan(plan) => plan::main(&plan, session).await,
            Self::Validate(validate) => validate::main(&validate, session),
            Self::Schema(schema) => schema::main(&schema, session),
            Self::Iam(iam) => iam::main(&iam, session).await,
            Self::Doctor(doctor) => doctor::main(&doctor, session).await,
            Self::Gc(gc) => gc::main(&gc, session).await,
            Self::Image(image) => image::main(&image, session).await,
            Self::Ecs(ecs) => ecs::main(&ecs, session).await,
        }
    }
}

/// The exit code of an internal process, which needs no runtime and knows no secrets.
fn exit_code(problem: &str, result: std::io::Result<u8>) -> ExitCode {
    result.map_or_else(
        |error| {
            let failure = Failure::environment(format!("{problem}: {error}"));
            let failure = failure.limited(limits::start_advice(&error));
            Printer::new(&Masks::default(), false).failure(&failure);
            ExitCode::from(failure.exit.code())
        },
        ExitCode::from,
    )
}
