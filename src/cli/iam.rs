//! `runner iam`.

use super::facts;
use super::load::{self, Loaded};
use super::printer::Printer;
use super::session::Session;
use crate::exit::{Exit, Failure};
use crate::plan::Mode;
use crate::plan::calls::{Caller, Unknowns};
use crate::plan::policy::{EVENTS, Policy, TASKS, policies};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Print the least-privilege IAM policy that this pipeline needs
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  runner iam > policy.json\n  aws iam put-role-policy --role-name codebuild-webapp --policy-name runner --policy-document file://policy.json\n  runner iam --format terraform --region eu-central-1\n\nWhat the file leaves open is `*` in JSON, and the stack's or the provider's own account and region otherwise.\nWhat CodeBuild itself needs (its logs, artifacts, networks) is not part of it."
)]
pub(crate) struct Arguments {
    /// The pipeline file
    #[arg(long, short, default_value = "pipeline.yml", value_name = "FILE")]
    file: PathBuf,
    /// The form to print
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// The region of names that have none (that of the environment where this is absent)
    #[arg(long, value_name = "REGION", value_parser = region)]
    region: Option<String>,
    /// The account of names that have none
    #[arg(long, value_name = "ID", value_parser = account)]
    account: Option<String>,
    /// Print the policy of a role that steps assume, instead of the build's own
    #[arg(long, value_name = "ARN")]
    role: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A policy document
    Json,
    /// A data source `aws_iam_policy_document`
    Terraform,
    /// A template with a managed policy, as YAML
    Cloudformation,
}

fn account(id: &str) -> Result<String, String> {
    let valid = id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| id.to_owned()).ok_or_else(|| "an account's id has twelve digits".to_owned())
}

fn region(name: &str) -> Result<String, String> {
    let valid = name.contains('-') && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    valid.then(|| name.to_owned()).ok_or_else(|| "a region is called like eu-central-1".to_owned())
}

pub(crate) fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    let request = load::Request {
        file: &arguments.file,
        mode: Some(Mode::Publish),
        env_file: None,
        elsewhere: true,
        json: false,
    };
    let loaded = load::load(&request, session)?;
    let region = arguments.region.as_deref().or(loaded.context.region.as_deref());
    let account = arguments.account.as_deref().or(loaded.context.account.as_deref());
    let all = pipeline_policies(&loaded, (region, account));
    let policy = all.iter().find(|policy| policy.role == arguments.role).ok_or_else(|| {
        let known: Vec<&str> = all.iter().filter_map(|policy| policy.role.as_deref()).collect();
        Failure::usage("no step of this pipeline assumes that role")
            .help(format!("the roles that are assumed: {}", crate::text::listed(known)))
    })?;
    let printer = &session.printer;
    match arguments.format {
        Format::Json => printer.json(&policy.to_json())?,
        Format::Terraform => printer.result(&policy.to_terraform())?,
        Format::Cloudformation => {
            let template = serde_yaml::to_string(&policy.to_cloudformation())
                .map_err(|error| Failure::environment(error.to_string()))?;
            printer.result(&template)?;
        }
    }
    notes(&all, policy, arguments.format, printer);
    Ok(Exit::Done)
}

/// The policies of a pipeline, whatever this build is.
pub(crate) fn pipeline_policies(loaded: &Loaded, place: (Option<&str>, Option<&str>)) -> Vec<Policy> {
    let facts = facts::facts(&loaded.pipeline, &loaded.values, &loaded.directory);
    let caller = Caller::new(&loaded.pipeline, &loaded.values, &facts, Unknowns::Patterns, place);
    policies(&loaded.pipeline, &caller)
}

/// What the user should know of the policy; the policy itself is on stdout.
fn notes(all: &[Policy], policy: &Policy, format: Format, printer: &Printer) {
    if format == Format::Json && policy.has_unknown_place() {
        printer.message(
            "note: the account or the region is not known, `*` stands in its place; --account and --region set them",
        );
    }
    for service in policy.passes_any_role() {
        let whose = match service {
            TASKS => "task definition are not known here (only ECS knows them, or its file cannot be read)",
            EVENTS => "rules that start tasks are known to EventBridge alone",
            _ => "schedules that start tasks are known to EventBridge Scheduler alone",
        };
        printer.message(&format!(
            "note: iam:PassRole is on `role/*`, because the roles of the {whose}: put their ARNs there"
        ));
    }
    if policy.statements.is_empty() {
        printer.message(match policy.role {
            None => {
                "note: runner itself asks nothing of AWS for this pipeline; what its commands call is not known to runner"
            }
            Some(_) => "note: only commands use this role, and what they call is not known to runner",
        });
    }
    if policy.statements.iter().any(|statement| ["Ssm", "Secretsmanager"].contains(&statement.sid.as_str())) {
        printer.message("note: secrets under a KMS key of your own need kms:Decrypt on that key as well");
    }
    for role in all.iter().filter_map(|other| other.role.as_ref()).filter(|_| policy.role.is_none()) {
        printer
            .message(&format!("note: the role {role} needs a policy of its own: runner iam --role {role}"));
    }
}
