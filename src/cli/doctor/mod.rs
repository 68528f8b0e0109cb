//! `runner doctor`.

mod aws;
mod machine;

use super::load::{self, Loaded};
use super::session::Session;
use crate::aws::AwsError;
use crate::exit::{Exit, Failure};
use crate::plan::Mode;
use crate::style::Styles;
use aws::Examination;
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Check the requirements of a run: Docker, credentials, permissions, repositories, services
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runner doctor
  runner doctor --json | jq '.checks[] | select(.state == \"missing\")'

It changes nothing. A check without the permission to read is `could not check`.

Exit codes:
  0  nothing is missing
  3  something is missing")]
pub(crate) struct Arguments {
    /// The pipeline file [default: pipeline.yml if it exists; otherwise only the machine is checked]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take variables and secrets from a file of KEY=value lines
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum CheckState {
    Good,
    Missing,
    CouldNotCheck,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
struct Check {
    subject: String,
    state: CheckState,
    detail: String,
    /// The command or console step that fixes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Debug, Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn add(
        &mut self,
        subject: impl Into<String>,
        state: CheckState,
        detail: impl Into<String>,
        mend: Option<String>,
    ) {
        self.0.push(Check { subject: subject.into(), state, detail: detail.into(), mend });
    }

    fn good(&mut self, subject: impl Into<String>, detail: impl Into<String>) {
        self.add(subject, CheckState::Good, detail, None);
    }

    fn missing(&mut self, subject: impl Into<String>, detail: impl Into<String>, mend: impl Into<String>) {
        self.add(subject, CheckState::Missing, detail, Some(mend.into()));
    }

    fn unknown(&mut self, subject: impl Into<String>, detail: impl Into<String>, mend: Option<String>) {
        self.add(subject, CheckState::CouldNotCheck, detail, mend);
    }

    /// Adds the check of a failed call to AWS.
    fn failed(&mut self, subject: impl Into<String>, failed: AwsError, mend: impl FnOnce() -> String) {
        let is_absent = matches!(failed, AwsError::NotFound { .. });
        // Other errors, such as throttling or an outage, say nothing about the resource.
        let is_unusable = matches!(failed, AwsError::UnusableSecret { .. } | AwsError::BadCredentials { .. });
        let failure = Failure::from(failed);
        if is_absent {
            self.missing(subject, failure.message, mend());
        } else if is_unusable {
            self.add(subject, CheckState::Missing, failure.message, failure.help.or_else(|| Some(mend())));
        } else {
            self.unknown(subject, failure.message, failure.help);
        }
    }
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct CheckReport<'a> {
    version: u32,
    ready: bool,
    checks: &'a [Check],
}

pub(crate) async fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    let default = Path::new("pipeline.yml");
    let file = arguments.file.as_deref().or(default.exists().then_some(default));
    let loaded = match file {
        Some(file) => {
            let request = load::Request {
                file,
                mode: Some(Mode::Publish),
                no_publish: false,
                env_file: arguments.env_file.as_deref(),
                elsewhere: true,
                json: arguments.json,
            };
            Some(load::load(&request, session).await?)
        }
        None => None,
    };
    let checks = examine(loaded.as_ref()).await?;
    let ready = !checks.0.iter().any(|check| check.state == CheckState::Missing);
    let printer = &session.printer;
    if arguments.json {
        printer.json(&CheckReport { version: 1, ready, checks: &checks.0 })?;
    } else {
        printer.result(&table(&checks.0, Styles::new(printer.color)))?;
    }
    Ok(if ready { Exit::Done } else { Exit::Environment })
}

async fn examine(loaded: Option<&Loaded>) -> Result<Checks, Failure> {
    let mut checks = Checks::default();
    let process = load::process();
    let settings = loaded.map_or_else(|| load::settings(&process), Loaded::settings)?;
    let Some(loaded) = loaded else {
        machine::docker(&mut checks, &settings).await;
        machine::proxies(&mut checks)?;
        checks.unknown(
            "pipeline",
            "there is no pipeline.yml here",
            Some("choose one with --file".to_owned()),
        );
        return Ok(checks);
    };
    let mut examination = Examination::new(loaded, &settings);
    if examination.needs_docker() {
        machine::docker(&mut checks, &settings).await;
    } else {
        checks.good("Docker Engine", "this pipeline does not use it");
    }
    machine::proxies(&mut checks)?;
    machine::shell(&mut checks, &loaded.pipeline, &process);
    examination.examine(&mut checks).await;
    Ok(checks)
}

/// The checks as a table.
fn table(checks: &[Check], Styles { green, yellow, error, .. }: Styles) -> String {
    let paint = |state: CheckState| match state {
        CheckState::Good => format!("{green}good           {green:#}"),
        CheckState::Missing => format!("{error}missing        {error:#}"),
        CheckState::CouldNotCheck => format!("{yellow}could not check{yellow:#}"),
    };
    let width = checks.iter().map(|check| check.subject.chars().count()).max().unwrap_or_default().min(48);
    let mut text = String::new();
    for check in checks {
        let gap = width.saturating_sub(check.subject.chars().count());
        text.push_str(&format!(
            "{}  {}{}  {}\n",
            paint(check.state),
            check.subject,
            " ".repeat(gap),
            check.detail
        ));
        if let Some(mend) = check.mend.as_ref().filter(|mend| !mend.is_empty()) {
            text.push_str(&format!("{}  → {mend}\n", " ".repeat(15)));
        }
    }
    let count = |state: CheckState| checks.iter().filter(|check| check.state == state).count();
    text.push_str(&format!(
        "\n{} good, {} missing, {} could not be checked\n",
        count(CheckState::Good),
        count(CheckState::Missing),
        count(CheckState::CouldNotCheck)
    ));
    text
}
