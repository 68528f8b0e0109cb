//! `runner validate`.

use super::{facts, load, stdio};
use crate::exit::{Exit, Failure};
use crate::language::diagnostic::{self, Diagnostic, Severity};
use crate::language::pipeline::{self, Parsed};
use crate::language::source::SourceFile;
use crate::plan::context::BuildContext;
use crate::plan::scope::Sources;
use crate::plan::{self, Mode};
use clap::Args;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Check pipeline files: every mistake at once, each with its place
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  runner validate                        pipeline.yml of this directory\n  runner validate services/*/pipeline.yml\n  runner validate --json | jq .\n\nExit codes: 0 all files are valid, 2 one is not."
)]
pub(crate) struct Arguments {
    /// The files to check
    #[arg(value_name = "FILE", default_value = "pipeline.yml")]
    files: Vec<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(arguments: &Arguments, no_color: bool) -> Result<Exit, Failure> {
    let mut all_valid = true;
    let mut reports: Vec<Value> = Vec::new();
    for path in &arguments.files {
        let report = match load::read(path) {
            Ok(source) => {
                let diagnostics = check(&source, path);
                let report = load::report(&source, &diagnostics);
                if !arguments.json {
                    load::show(&source, &diagnostics, no_color);
                    if report["valid"] == true {
                        stdio::result(&format!("{}: valid\n", source.name))?;
                    } else {
                        let message = format!("{} has {}", source.name, load::count(&diagnostics));
                        stdio::error(&Failure::usage(message), no_color);
                    }
                }
                report
            }
            Err(failure) => {
                if !arguments.json {
                    stdio::error(&failure, no_color);
                }
                let problem =
                    json!({ "severity": "error", "message": failure.message, "help": failure.help });
                json!({ "file": path.display().to_string(), "valid": false, "diagnostics": [problem] })
            }
        };
        all_valid &= report["valid"] == true;
        reports.push(report);
    }
    if arguments.json {
        stdio::json(&json!({ "version": 1, "valid": all_valid, "files": reports }))?;
    }
    Ok(if all_valid { Exit::Done } else { Exit::Usage })
}

/// Everything that can be said of a file without running it: wherever it will run, CodeBuild's own variables, the commit and
/// the branch count as known.
fn check(source: &SourceFile, path: &Path) -> Vec<Diagnostic> {
    let Parsed { pipeline, mut diagnostics } = pipeline::parse(source);
    let Some(pipeline) = pipeline else {
        return diagnostics;
    };
    let sources =
        Sources { process: load::process().into_iter().collect(), elsewhere: true, ..Sources::default() };
    let (values, problems) = plan::values(&pipeline, &sources, &BuildContext::default(), Mode::Publish);
    diagnostics.extend(problems);
    diagnostics.extend(plan::undefined_uses(&pipeline, Mode::Publish, &values, &HashMap::new()));
    let directory = path.parent().unwrap_or(Path::new(""));
    diagnostics.extend(facts::containers(&pipeline, &facts::definitions(&pipeline, &values, directory)));
    // What cannot be carried out yet is no mistake, and only of interest where there is none.
    if !diagnostics.iter().any(|one| one.severity == Severity::Error) {
        diagnostics.extend(pipeline.unready.into_iter().map(Diagnostic::warning));
    }
    diagnostic::sort(&mut diagnostics);
    diagnostics
}
