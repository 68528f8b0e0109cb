//! Decodes the tree to the model. Decoding continues after a mistake, so one run reports them all.

mod fields;
mod images;
mod phases;
mod steps;

use super::model::{
    Action, AwsAccess, Env, EventKind, Filter, Notify, NotifyOn, NotifyTarget, Pipeline, Shell, Step, Zone,
};
use super::reference::{self, SecretReference};
use super::template::Template;
use crate::address::{Arn, is_account};
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::tables;
use crate::language::source::Span;
use crate::language::tree::{Node, Value};
use fields::{Decoder, Fields, is_ignored};
use std::collections::{HashMap, HashSet};

/// Decodes the root of a pipeline file. Also returns whether all steps could be decoded.
pub(crate) fn pipeline(root: &Node, text: &str, problems: &mut Vec<Diagnostic>) -> Option<(Pipeline, bool)> {
    if let Some(problem) = buildspec(root) {
        // What is right in a buildspec is wrong in a pipeline file, so nothing else counts.
        *problems = vec![problem];
        return None;
    }
    let mut d = Decoder::new(text, problems);
    let fields = d.fields(root, &tables::PIPELINE)?;
    version(&mut d, &fields);
    let name = d.required(&fields, "name").and_then(|node| d.literal(node)).unwrap_or_default();
    let aws = d.optional(&fields, "aws", aws).unwrap_or_default();
    let env = d.optional(&fields, "env", env).unwrap_or_default();
    let images = images::images(&mut d, fields.get("images"));
    let mut phases =
        d.required(&fields, "phases").map(|node| phases::phases(&mut d, node)).unwrap_or_default();
    for step in phases.iter_mut().flat_map(|phase| phase.steps.iter_mut().chain(&mut phase.finally)) {
        complete(step, &aws);
    }
    let notify = d.within(Zone::Notify, |d| {
        fields.get("notify").map(|node| d.list(node, "notifications", notify)).unwrap_or_default()
    });
    let timeout = d.optional(&fields, "timeout", Decoder::duration);
    let Decoder { uses, mut unready, lost_steps, .. } = d;
    super::sort(&mut unready);
    Some((Pipeline { name, aws, env, images, phases, notify, timeout, uses, unready }, !lost_steps))
}

/// The keys that a buildspec has at the top level or in a phase, and a pipeline file has not.
const OF_BUILDSPEC: [&str; 6] = ["artifacts", "batch", "cache", "proxy", "reports", "run-as"];
const OF_BUILDSPEC_PHASE: [&str; 3] = ["commands", "on-failure", "runtime-versions"];

/// The mistake of a file that is a buildspec of CodeBuild.
fn buildspec(root: &Node) -> Option<Diagnostic> {
    let entries = |node: &'_ Node| match &node.value {
        Value::Map(entries) => entries.clone(),
        _ => Vec::new(),
    };
    let root = entries(root);
    let version = root.iter().find(|entry| entry.key == "version")?;
    let is_old =
        matches!(&version.node.value, Value::Scalar { text, .. } if ["0.1", "0.2"].contains(&text.as_str()));
    let phases = root.iter().filter(|entry| entry.key == "phases").flat_map(|phases| entries(&phases.node));
    let mut in_phases = phases.flat_map(|phase| entries(&phase.node));
    let has_own = root.iter().any(|entry| OF_BUILDSPEC.contains(&entry.key.as_str()))
        || in_phases.any(|entry| OF_BUILDSPEC_PHASE.contains(&entry.key.as_str()));
    (is_old && has_own).then(|| {
        Diagnostic::new("this is a buildspec of CodeBuild, not a pipeline file", version.node.span)
            .label("the version of a buildspec")
            .help("write the pipeline in `pipeline.yml`, with `version: 1`, and run it in the buildspec with the command `runner run`")
    })
}

fn version(d: &mut Decoder<'_>, fields: &Fields<'_>) {
    let Some(node) = d.required(fields, "version") else {
        return;
    };
    if !matches!(&node.value, Value::Scalar { text, .. } if text == "1") {
        d.problem(
            Diagnostic::new("unknown version of the pipeline language", node.span)
                .label("expected 1")
                .help("write `version: 1`; 0.2 is the version of buildspec files"),
        );
    }
}

fn is_role(arn: &str, is_literal: bool) -> bool {
    // A value may supply several parts at once.
    if !is_literal {
        return Arn::is_prefix_of(arn);
    }
    let Some(arn) = Arn::parse(arn) else { return false };
    arn.service() == "iam"
        && arn.region().is_none()
        && arn.account().is_some_and(is_account)
        && arn.resource().strip_prefix("role/").is_some_and(|name| !name.is_empty() && !name.contains(':'))
}

fn aws(d: &mut Decoder<'_>, node: &Node) -> Option<AwsAccess> {
    let fields = d.fields(node, &tables::AWS)?;
    let access = AwsAccess {
        region: d.optional(&fields, "region", Decoder::named_text),
        role_arn: d.optional(&fields, "role-arn", Decoder::named_text),
        external_id: d.optional(&fields, "external-id", Decoder::named_text),
    };
    if let Some(role) = &access.role_arn
        && !role.begins_with_reference()
        && !is_role(&role.shape(), role.as_literal().is_some())
    {
        d.problem(
            Diagnostic::new("this is not the ARN of a role", role.span)
                .help("write `arn:aws:iam::ACCOUNT:role/NAME`"),
        );
    }
    if let (Some(entry), None, false) =
        (fields.entry("external-id"), fields.entry("role-arn"), fields.is_misspelt(&["role-arn"]))
    {
        d.problem(
            Diagnostic::new("`external-id` needs `role-arn`", entry.key_span)
                .help("it is sent when that role is assumed"),
        );
    }
    Some(access)
}

/// Completes a step's `aws` from the pipeline's. The steps of a group inherit its `env`, `dir` and `aws`.
fn complete(step: &mut Step, outer: &AwsAccess) {
    if let Some(own) = &mut step.aws {
        own.region = own.region.take().or_else(|| outer.region.clone());
        if own.role_arn.is_none() {
            own.role_arn.clone_from(&outer.role_arn);
            own.external_id.clone_from(&outer.external_id);
        }
    }
    if let Action::Parallel(steps) = &mut step.action {
        for inner in steps {
            let own = std::mem::replace(&mut inner.env, step.env.clone());
            inner.env.extend(own);
            inner.dir = inner.dir.take().or_else(|| step.dir.clone());
            inner.aws = inner.aws.take().or_else(|| step.aws.clone());
            complete(inner, step.aws.as_ref().unwrap_or(outer));
        }
    }
}

fn env(d: &mut Decoder<'_>, node: &Node) -> Option<Env> {
    let fields = d.fields(node, &tables::ENV)?;
    each_variable_once(d, &fields);
    let env = Env {
        shell: d
            .optional(&fields, "shell", |d, node| d.choice(node, &[("bash", Shell::Bash), ("sh", Shell::Sh)]))
            .unwrap_or_default(),
        variables: d.within(Zone::Variables, |d| d.variables(&fields, "variables")),
        parameter_store: d.variables(&fields, "parameter-store"),
        secrets_manager: d.variables(&fields, "secrets-manager"),
        exported: d
            .optional(&fields, "exported-variables", Decoder::one_or_more_variables)
            .unwrap_or_default(),
    };
    for parameter in env.parameter_store.values().filter(|parameter| !parameter.begins_with_reference()) {
        if let Err(reason) = reference::check_parameter(&parameter.shape()) {
            d.problem(
                Diagnostic::new(reason, parameter.span)
                    .help("write `/name` or `arn:aws:ssm:REGION:ACCOUNT:parameter/name`"),
            );
        }
    }
    for secret in env.secrets_manager.values().filter(|secret| !secret.begins_with_reference()) {
        if let Err(reason) = SecretReference::parse(&secret.shape()) {
            d.problem(Diagnostic::new(reason, secret.span).help(reference::SECRET_HELP));
        }
    }
    let secrets: HashSet<&str> = env.secret_names().collect();
    for name in &env.exported {
        if secrets.contains(name.value.as_str()) {
            d.problem(
                Diagnostic::new(format!("the secret `{}` cannot be exported", name.value), name.span)
                    .help("exported variables are shown in the console and kept with the build"),
            );
        }
    }
    Some(env)
}

/// Reports variables that are defined twice.
fn each_variable_once(d: &mut Decoder<'_>, fields: &Fields<'_>) {
    let mut places: HashMap<&str, Span> = HashMap::new();
    for table in ["variables", "parameter-store", "secrets-manager"] {
        let Some(Value::Map(entries)) = fields.get(table).map(|node| &node.value) else {
            continue;
        };
        for entry in entries.iter().filter(|entry| !is_ignored(&entry.key)) {
            if let Some(first) = places.insert(&entry.key, entry.key_span) {
                d.problem(
                    Diagnostic::new(format!("`{}` is defined twice under `env`", entry.key), entry.key_span)
                        .related(first, "first defined here")
                        .help("keep one of the two"),
                );
            }
        }
    }
}

fn filter(d: &mut Decoder<'_>, node: &Node) -> Option<Filter> {
    let fields = d.fields(node, &tables::FILTER)?;
    if ["branches", "tags", "events"].iter().all(|key| fields.entry(key).is_none()) && !fields.has_unknown() {
        d.problem(
            Diagnostic::new("this filter is empty", fields.at).help("add `branches`, `tags` or `events`"),
        );
        return None;
    }
    let globs = |d: &mut Decoder<'_>, node: &Node| d.one_or_more(node, "a pattern", Decoder::glob);
    let events = EventKind::ALL.map(|event| (event.as_str(), event));
    Some(Filter {
        branches: d.optional(&fields, "branches", globs).unwrap_or_default(),
        tags: d.optional(&fields, "tags", globs).unwrap_or_default(),
        events: d
            .optional(&fields, "events", |d, node| {
                d.one_or_more(node, "an event", |d, node| d.choice(node, &events))
            })
            .unwrap_or_default(),
    })
}

fn notify(d: &mut Decoder<'_>, node: &Node) -> Option<Notify> {
    let fields = d.fields(node, &tables::NOTIFY)?;
    let on = d
        .optional(&fields, "on", |d, node| {
            let choices = NotifyOn::ALL.map(|on| (on.as_str(), on));
            d.one_or_more(node, "an event", |d, node| d.choice(node, &choices))
        })
        .unwrap_or_else(|| NotifyOn::ALL.to_vec());
    let only = d.optional(&fields, "only", filter);
    let entry = d.exactly_one(&fields, tables::NOTIFY.one_of[0])?;
    let target = match entry.key.as_str() {
        "slack" => NotifyTarget::Slack { url: address(d, &entry.node)? },
        "webhook" => webhook(d, &entry.node)?,
        _ => NotifyTarget::Sns(topic(d, &entry.node)?),
    };
    Some(Notify { target, on, only })
}

fn topic(d: &mut Decoder<'_>, node: &Node) -> Option<Template> {
    let topic = d.named_text(node)?;
    if !Arn::is_prefix_of(&topic.shape()) && !topic.begins_with_reference() {
        d.problem(
            Diagnostic::new("this is not the ARN of a topic", topic.span)
                .help("write `arn:aws:sns:REGION:ACCOUNT:NAME`"),
        );
    }
    Some(topic)
}

fn webhook(d: &mut Decoder<'_>, node: &Node) -> Option<NotifyTarget> {
    let fields = d.fields(node, &tables::WEBHOOK)?;
    let headers = d.text_map(&fields, "headers");
    // Not supported yet, but a mistake in its value is reported.
    d.optional(&fields, "secret", Decoder::template);
    let url = d.required(&fields, "url").and_then(|node| address(d, node))?;
    Some(NotifyTarget::Webhook { url, headers })
}

/// The address of a webhook.
fn address(d: &mut Decoder<'_>, node: &Node) -> Option<Template> {
    let url = d.named_text(node)?;
    let shape = url.shape();
    if !url.begins_with_reference()
        && let Err(reason) = crate::address::check_webhook(&shape)
    {
        d.problem(
            Diagnostic::new(format!("this is not the address of a webhook: {reason}"), url.span)
                .help("write an address that begins with `https://`"),
        );
    }
    Some(url)
}
