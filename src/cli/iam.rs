//! `runner iam`.

use super::facts;
use super::load::{self, Loaded};
use super::printer::Printer;
use super::session::Session;
use crate::exit::{Exit, Failure};
use crate::plan::Mode;
use crate::plan::asks::{AskList, Unknowns};
use crate::plan::facts::Facts;
use crate::plan::policy::{EVENTS, Policy, TASKS, policies};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Print the least-privilege IAM policy that this pipeline needs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  runner iam > policy.json
  aws iam put-role-policy --role-name codebuild-webapp --policy-name runner \\
    --policy-document file://policy.json
  runner iam --format terraform --region eu-central-1

An unknown account or region is `*` in JSON, and that of the stack or the provider in the other
formats. The permissions of CodeBuild itself (logs, artifacts, networks) are not included.")]
pub(crate) struct Arguments {
    /// The pipeline file
    #[arg(long, short, default_value = "pipeline.yml", value_name = "FILE")]
    file: PathBuf,
    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// The region of names that have none [default: that of the environment]
    #[arg(long, value_name = "REGION", value_parser = region)]
    region: Option<String>,
    /// The account of names that have none [default: that of the environment]
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
    valid.then(|| id.to_owned()).ok_or_else(|| "expected an account id of twelve digits".to_owned())
}

fn region(name: &str) -> Result<String, String> {
    let valid = name.contains('-') && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    valid.then(|| name.to_owned()).ok_or_else(|| "expected a region such as eu-central-1".to_owned())
}

pub(crate) async fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    let request = load::Request {
        file: &arguments.file,
        mode: Some(Mode::Publish),
        no_publish: false,
        env_file: None,
        elsewhere: true,
        json: false,
    };
    let loaded = load::load(&request, session).await?;
    let region = arguments.region.as_deref().or(loaded.context.region.as_deref());
    let account = arguments.account.as_deref().or(loaded.context.account.as_deref());
    let facts = facts::facts(&loaded.pipeline, &loaded.values, &loaded.directory);
    let all = pipeline_policies(&loaded, &facts, (region, account));
    let policy = all.iter().find(|policy| policy.role == arguments.role).ok_or_else(|| {
        let known: Vec<&str> = all.iter().filter_map(|policy| policy.role.as_deref()).collect();
        Failure::usage("no step of this pipeline assumes that role")
            .help(format!("the pipeline assumes {}", crate::text::listed(known)))
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
    if printer.masks(&policy.to_json().to_string()) {
        printer.warning(
            "the value of a secret is part of a name in this policy and was replaced by `***`, which IAM reads as a \
             wildcard; unset the variable of the secret and print the policy again",
        );
    }
    notes(&all, policy, arguments.format, printer);
    Ok(Exit::Done)
}

/// The policies of a pipeline for all of its builds. `place` is the region and the account of names that have none.
pub(crate) fn pipeline_policies(
    loaded: &Loaded,
    facts: &Facts,
    place: (Option<&str>, Option<&str>),
) -> Vec<Policy> {
    let list = AskList::new(&loaded.pipeline, &loaded.values, facts, Unknowns::Patterns, place);
    policies(&loaded.pipeline, &list)
}

/// Prints notes about the policy on stderr.
fn notes(all: &[Policy], policy: &Policy, format: Format, printer: &Printer) {
    if format == Format::Json && policy.has_unknown_place() {
        printer.message(
            "note: the account or the region is unknown and replaced by `*`; set it with --region or --account",
        );
    }
    for service in policy.passes_any_role() {
        let whose = match service {
            TASKS => "task definition are unknown (only ECS knows them, or its file cannot be read)",
            EVENTS => "rules that start tasks are only known to EventBridge",
            _ => "schedules that start tasks are only known to EventBridge Scheduler",
        };
        printer.message(&format!(
            "note: iam:PassRole is on `role/*`, because the roles of the {whose}; replace it by their ARNs"
        ));
    }
    if policy.statements.is_empty() {
        printer.message(match policy.role {
            None => {
                "note: runner makes no calls to AWS for this pipeline; the calls of its commands are unknown"
            }
            Some(_) => "note: only commands use this role, and their calls are unknown",
        });
    }
    if policy.statements.iter().any(|statement| ["Ssm", "Secretsmanager"].contains(&statement.sid.as_str())) {
        printer.message("note: secrets with a customer managed KMS key also need kms:Decrypt on that key");
    }
    for role in all.iter().filter_map(|other| other.role.as_ref()).filter(|_| policy.role.is_none()) {
        printer.message(&format!("note: the role {role} needs its own policy: runner iam --role {role}"));
    }
}
