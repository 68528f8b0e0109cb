//! `runner validate`.

use super::facts;
use super::load::{self, FileReport, Validation};
use super::session::Session;
use crate::exit::{Exit, Failure};
use crate::language::diagnostic::{self, Diagnostic, Severity};
use crate::language::pipeline::{self, Parsed};
use crate::language::source::SourceFile;
use crate::plan::context::BuildContext;
use crate::plan::scope::Sources;
use crate::plan::{self, Mode};
use crate::secret::Masks;
use clap::Args;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Check pipeline files, and report every mistake with its place
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runner validate    check pipeline.yml in this directory
  runner validate services/*/pipeline.yml
  runner validate --json | jq .

Exit codes:
  0  all files are valid
  2  at least one file is invalid")]
pub(crate) struct Arguments {
    /// The files to check
    #[arg(value_name = "FILE", default_value = "pipeline.yml")]
    files: Vec<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    let mut reports = Vec::new();
    for path in &arguments.files {
        reports.push(validate(path, arguments.json, session)?);
    }
    let validation = Validation::new(reports);
    if arguments.json {
        session.printer.json(&validation)?;
    }
    Ok(if validation.valid { Exit::Done } else { Exit::Usage })
}

/// Checks a file, and prints the result unless all of them become one JSON document.
fn validate(path: &Path, json: bool, session: &Session) -> Result<FileReport, Failure> {
    let printer = &session.printer;
    let source = match load::read(path) {
        Ok(source) => source,
        Err(failure) if failure.exit == Exit::Environment => return Err(failure),
        Err(failure) => {
            if !json {
                printer.failure(&failure);
            }
            return Ok(FileReport::unreadable(path, &failure));
        }
    };
    // The text quotes lines of the file, which holds no secrets: its reader gets them as they are.
    let masks = if json { session.masks.clone() } else { Masks::default() };
    let diagnostics = check(&source, path, &masks);
    let report = FileReport::new(&source, &diagnostics);
    if !json {
        load::show(&source, &diagnostics, printer);
        if report.valid {
            printer.result(&format!("{}: valid\n", source.name))?;
        } else {
            let message = format!("{} has {}", source.name, load::count(&diagnostics));
            printer.failure(&Failure::usage(message));
        }
    }
    Ok(report)
}

/// Checks everything that does not depend on where the pipeline runs: CodeBuild's own variables, the commit and the branch
/// count as known.
fn check(source: &SourceFile, path: &Path, masks: &Masks) -> Vec<Diagnostic> {
    let Parsed { pipeline, mut diagnostics } = pipeline::parse(source);
    let Some(pipeline) = pipeline else {
        return diagnostics;
    };
    let sources =
        Sources { process: load::process().into_iter().collect(), elsewhere: true, ..Sources::default() };
    let (values, problems) = plan::values(&pipeline, &sources, &BuildContext::default(), Mode::Publish);
    load::mask(&pipeline, &values, &BuildContext::default(), masks);
    diagnostics.extend(problems);
    diagnostics.extend(plan::undefined_uses(&pipeline, Mode::Publish, &values, &HashMap::new()));
    let directory = path.parent().unwrap_or(Path::new(""));
    let compared = facts::compare(&pipeline, &facts::definitions(&pipeline, &values, directory));
    // A container that looks misspelt already has a warning.
    let known: Vec<_> = diagnostics.iter().map(|problem| problem.span).collect();
    diagnostics.extend(compared.into_iter().filter(|problem| !known.contains(&problem.span)));
    // What this version cannot run yet is not a mistake; it is only of interest in a file without mistakes.
    if !diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        diagnostics.extend(pipeline.unready.into_iter().map(Diagnostic::warning));
    }
    diagnostic::sort(&mut diagnostics);
    diagnostics
}
