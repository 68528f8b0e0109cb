//! The command line of `runner`; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    codebuild_runner::main()
}
