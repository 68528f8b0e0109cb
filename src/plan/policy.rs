//! The least-privilege policies of a pipeline, made of its asks, as JSON, Terraform or CloudFormation.

use super::asks::{Ask, AskList};
use super::resource::{Fill, Resource};
use crate::language::pipeline::model::Pipeline;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The service that assumes the roles of tasks.
pub(crate) const TASKS: &str = "ecs-tasks.amazonaws.com";
/// The service that assumes the roles of `EventBridge` rules.
pub(crate) const EVENTS: &str = "events.amazonaws.com";
/// The service that assumes the roles of schedules.
pub(crate) const SCHEDULER: &str = "scheduler.amazonaws.com";

/// The resources of each action. An action that passes roles has an entry for each service that assumes them.
type Allowed = BTreeMap<(&'static str, Option<&'static str>), BTreeSet<Resource>>;

/// The policy of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// A role that steps assume; the build's own role if absent.
    pub(crate) role: Option<String>,
    pub(crate) statements: Vec<Statement>,
}

/// A statement: all actions on all resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) sid: String,
    pub(crate) actions: Vec<&'static str>,
    pub(crate) resources: Vec<Resource>,
    /// The service to which roles may be passed.
    pub(crate) passed_to: Option<&'static str>,
}

/// The policies of all roles of a pipeline, that of the build's own role first.
pub(crate) fn policies<'a>(pipeline: &'a Pipeline, list: &AskList<'a>) -> Vec<Policy> {
    let steps = pipeline.steps().flat_map(|step| list.step(step));
    let notifications = pipeline.notify.iter().flat_map(|notify| list.notification(notify));
    let asks: Vec<Ask<'_>> = list.at_start().into_iter().chain(steps).chain(notifications).collect();
    let mut roles: BTreeMap<Option<String>, Allowed> = BTreeMap::new();
    roles.entry(None).or_default();
    for ask in asks {
        let actions = roles.entry(ask.role).or_default();
        for (action, resource) in ask.permissions {
            actions.entry((action, None)).or_default().insert(resource);
        }
        for (role, service) in ask.passes {
            actions.entry(("iam:PassRole", Some(service))).or_default().insert(role);
        }
    }
    roles.into_iter().map(|(role, actions)| Policy { role, statements: statements(actions) }).collect()
}

/// Actions of a service on the same resources share a statement.
fn statements(actions: Allowed) -> Vec<Statement> {
    type Key = (&'static str, Vec<Resource>, Option<&'static str>);
    let mut groups: BTreeMap<Key, Vec<&'static str>> = BTreeMap::new();
    for ((action, passed_to), mut resources) in actions {
        if passed_to.is_some() && resources.iter().any(is_any_role) {
            // The pattern covers the others.
            resources.retain(is_any_role);
        }
        let all = resources.clone();
        resources.retain(|resource| !all.iter().any(|pattern| is_within(resource, pattern)));
        let service = action.split(':').next().unwrap_or_default();
        let key = (service, resources.into_iter().collect(), passed_to);
        groups.entry(key).or_default().push(action);
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    groups
        .into_iter()
        .map(|((service, resources, passed_to), actions)| {
            let count = counts.entry(service).or_default();
            *count += 1;
            let mut sid: String = service[..1].to_uppercase() + &service[1..];
            if *count > 1 {
                sid.push_str(&count.to_string());
            }
            Statement { sid, actions, resources, passed_to }
        })
        .collect()
}

/// Whether a pattern of the same account and region, such as `service/*`, covers a different resource.
fn is_within(resource: &Resource, pattern: &Resource) -> bool {
    let place = |made: &Resource| match made {
        Resource::Made { service, region, account, name, .. } => {
            Some(((*service, region.clone(), account.clone()), name.clone()))
        }
        _ => None,
    };
    let (Some((own, name)), Some((other, pattern))) = (place(resource), place(pattern)) else { return false };
    let start = pattern.strip_suffix('*').filter(|start| start.ends_with('/'));
    own == other && name != pattern && start.is_some_and(|start| name.starts_with(start))
}

fn is_any_role(resource: &Resource) -> bool {
    matches!(resource, Resource::Made { name, .. } if name == "role/*")
}

impl Statement {
    /// The statement in the JSON format of IAM.
    pub(crate) fn to_json(&self, fill: Fill<'_>) -> Value {
        self.json_with(|resource| Value::from(resource.arn(fill)))
    }

    fn json_with(&self, resource: impl Fn(&Resource) -> Value) -> Value {
        let mut resources: Vec<Value> = Vec::new();
        for one in self.resources.iter().map(resource) {
            if !resources.contains(&one) {
                resources.push(one);
            }
        }
        let one_or_all = |mut values: Vec<Value>| match values.len() {
            1 => values.swap_remove(0),
            _ => Value::from(values),
        };
        let mut statement = Map::new();
        statement.insert("Sid".to_owned(), self.sid.as_str().into());
        statement.insert("Effect".to_owned(), "Allow".into());
        let actions = self.actions.iter().map(|action| Value::from(*action)).collect();
        statement.insert("Action".to_owned(), one_or_all(actions));
        statement.insert("Resource".to_owned(), one_or_all(resources));
        if let Some(service) = self.passed_to {
            let condition = json!({ "StringEquals": { "iam:PassedToService": service } });
            statement.insert("Condition".to_owned(), condition);
        }
        Value::Object(statement)
    }
}

impl Policy {
    /// A policy document. Unknown parts are `*`.
    pub(crate) fn to_json(&self) -> Value {
        document(self.statements.iter().map(|statement| statement.to_json(Fill::ANY)))
    }

    /// A CloudFormation template with a managed policy. Unknown parts come from the stack.
    pub(crate) fn to_cloudformation(&self) -> Value {
        let resource = |resource: &Resource| match resource {
            Resource::Any => Value::from("*"),
            Resource::Exact(arn) => arn.as_str().into(),
            Resource::Made { .. } => {
                const FILL: Fill<'static> = Fill {
                    partition: Some("${AWS::Partition}"),
                    region: "${AWS::Region}",
                    account: "${AWS::AccountId}",
                };
                // CloudFormation must not replace IAM's `${*}`.
                let arn = resource.arn(FILL);
                let arn = ["*", "?", "$"]
                    .iter()
                    .fold(arn, |arn, c| arn.replace(&format!("${{{c}}}"), &format!("${{!{c}}}")));
                if arn.contains("${") { json!({ "Fn::Sub": arn }) } else { arn.into() }
            }
        };
        let statements = self.statements.iter().map(|statement| statement.json_with(resource));
        json!({
            "AWSTemplateFormatVersion": "2010-09-09",
            "Resources": {
                "RunnerPolicy": {
                    "Type": "AWS::IAM::ManagedPolicy",
                    "Properties": { "PolicyDocument": document(statements) },
                },
            },
        })
    }

    /// A policy document for Terraform. Unknown parts come from the provider.
    pub(crate) fn to_terraform(&self) -> String {
        const FILL: Fill<'static> = Fill { partition: Some("\u{1}p"), region: "\u{1}r", account: "\u{1}a" };
        let quoted = |text: &str| {
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n")
                .replace("${", "$${")
                .replace("%{", "%%{");
            let text = text
                .replace("\u{1}p", "${data.aws_partition.current.partition}")
                .replace("\u{1}r", "${data.aws_region.current.id}")
                .replace("\u{1}a", "${data.aws_caller_identity.current.account_id}");
            format!("\"{text}\"")
        };
        let list = |items: Vec<String>| {
            let lines: Vec<String> = items.iter().map(|item| format!("      {},\n", quoted(item))).collect();
            format!("[\n{}    ]", lines.concat())
        };
        let mut text = String::new();
        for statement in &self.statements {
            text.push_str(&format!("\n  statement {{\n    sid = {}\n", quoted(&statement.sid)));
            let actions = statement.actions.iter().map(ToString::to_string).collect();
            text.push_str(&format!("    actions = {}\n", list(actions)));
            let resources = statement.resources.iter().map(|resource| resource.arn(FILL)).collect();
            text.push_str(&format!("    resources = {}\n", list(resources)));
            if let Some(service) = statement.passed_to {
                text.push_str(&format!(
                    "\n    condition {{\n      test     = \"StringEquals\"\n      variable = \"iam:PassedToService\"\n      values   = [{}]\n    }}\n",
                    quoted(service)
                ));
            }
            text.push_str("  }\n");
        }
        let mut sources = String::new();
        for name in ["partition", "region", "caller_identity"] {
            if text.contains(&format!("data.aws_{name}.current")) {
                sources.push_str(&format!("data \"aws_{name}\" \"current\" {{}}\n\n"));
            }
        }
        format!("{sources}data \"aws_iam_policy_document\" \"runner\" {{{text}}}\n")
    }

    /// Whether the region or the account of a resource is unknown.
    pub(crate) fn has_unknown_place(&self) -> bool {
        let mut resources = self.statements.iter().flat_map(|statement| &statement.resources);
        resources.any(|resource| {
            matches!(resource, Resource::Made { region, global, account, .. }
                if account.is_none() || (region.is_none() && !global))
        })
    }

    /// The services to which any role may be passed, because only AWS knows the roles.
    pub(crate) fn passes_any_role(&self) -> impl Iterator<Item = &'static str> {
        let any = self.statements.iter().filter(|statement| statement.resources.iter().any(is_any_role));
        any.filter_map(|statement| statement.passed_to)
    }
}

fn document(statements: impl Iterator<Item = Value>) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements.collect::<Vec<_>>() })
}
