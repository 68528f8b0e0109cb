//! What the steps of a pipeline ask of AWS, of registries and of the Docker Engine.
//!
//! This is the only list: `runner plan` shows its changes, `runner iam` and `runner doctor` its permissions, and
//! [`accesses`] checks the credentials before a run. Tests compare it with recorded calls.
//!
//! Source of actions and resource types: the service authorization reference of AWS.

mod accesses;
mod ecs;
mod images;

pub(crate) use accesses::{ResolvedAccess, accesses};

use super::facts::Facts;
use super::resource::{Fill, Resource};
use super::scope::Values;
use crate::address::{Arn, split_parameter, split_secret};
use crate::language::pipeline::model::{Action, AwsAccess, Notify, NotifyTarget, Pipeline, Step};
use crate::language::pipeline::template::{Builtin, Reference, Template};
use indexmap::IndexMap;
use std::fmt;

/// The tag of a build cache in a registry.
pub(crate) const CACHE_TAG: &str = "buildcache";

/// The prefix of tags that hold the fingerprint of an image's sources.
pub(crate) const SOURCE_TAG: &str = "runner-source-";

/// One thing that a step asks of AWS, of a registry or of the Docker Engine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask<'a> {
    pub(crate) kind: AskKind,
    /// The change that it makes, if it makes one.
    pub(crate) change: Option<Change>,
    /// The permissions that it needs: action and resource.
    pub(crate) permissions: Vec<(&'static str, Resource)>,
    /// The roles that it passes on, with the service that assumes them.
    pub(crate) passes: Vec<(Resource, &'static str)>,
    /// The `aws` of its step or of the pipeline. Absent if it needs no access to AWS.
    pub(crate) access: Option<&'a AwsAccess>,
    /// The role that makes the call; the build's own if absent.
    pub(crate) role: Option<String>,
}

/// The receiver of an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AskKind {
    Aws,
    /// A repository in ECR or in any other registry.
    Registry {
        transfer: Direction,
        repository: RepositoryName,
    },
    DockerEngine,
}

/// The direction of a transfer between runner or the engine and a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Pull,
    Push {
        /// The repository is created if it does not exist.
        creates: bool,
    },
}

/// A repository as the pipeline names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RepositoryName {
    /// The registry's host; ECR of the access's own account and region if absent.
    pub(crate) host: Option<String>,
    pub(crate) path: String,
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{host}/{}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

/// A call that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The action: as IAM spells it, or `registry:UploadBlobs` and `registry:PutManifest`.
    pub(crate) action: &'static str,
    pub(crate) target: String,
    /// When it happens, if not always.
    pub(crate) condition: Option<&'static str>,
}

/// How values that are unknown before the run are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknowns {
    /// As in the file: `${source.branch}`.
    Written,
    /// As `*`: names become IAM patterns that hold for every build of this pipeline.
    Patterns,
    /// As in the file. A repository whose registry is unknown counts as outside of ECR.
    LeftOut,
}

/// Lists the asks of a pipeline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskList<'a> {
    pipeline: &'a Pipeline,
    values: &'a Values,
    facts: &'a Facts,
    unknowns: Unknowns,
    region: Option<&'a str>,
    account: Option<&'a str>,
}

/// The account, region and role of a step's calls.
struct Location<'a> {
    access: &'a AwsAccess,
    region: Option<String>,
    account: Option<String>,
    /// The role that is assumed. If it is unknown, it is written as in the file.
    role: Option<String>,
    /// The resource of `sts:AssumeRole`.
    role_resource: Option<Resource>,
}

impl<'a> Location<'a> {
    fn resource(&self, service: &'static str, name: impl Into<String>) -> Resource {
        Resource::Made {
            service,
            region: self.region.clone(),
            global: false,
            account: self.account.clone(),
            name: name.into(),
        }
    }

    /// Takes `text` as it is if it is an ARN, and makes an ARN of it otherwise.
    fn arn_or(&self, text: String, service: &'static str, name: impl FnOnce(&str) -> String) -> Resource {
        if Arn::is_prefix_of(&text) {
            return Resource::Exact(text);
        }
        let name = name(&text);
        self.resource(service, name)
    }

    fn role_named(&self, role: &str) -> Resource {
        if Arn::is_prefix_of(role) {
            return Resource::Exact(role.to_owned());
        }
        Resource::Made {
            service: "iam",
            region: self.region.clone(),
            global: true,
            account: self.account.clone(),
            name: format!("role/{role}"),
        }
    }

    fn ask(&self, permissions: impl IntoIterator<Item = (&'static str, Resource)>) -> Ask<'a> {
        Ask {
            kind: AskKind::Aws,
            change: None,
            permissions: permissions.into_iter().collect(),
            passes: Vec::new(),
            access: Some(self.access),
            role: self.role.clone(),
        }
    }

    fn change(
        &self,
        action: &'static str,
        resource: Resource,
        condition: Option<&'static str>,
        fill: Fill<'_>,
    ) -> Ask<'a> {
        let change = Change { action, target: resource.arn(fill), condition };
        Ask { change: Some(change), ..self.ask([(action, resource)]) }
    }
}

impl<'a> AskList<'a> {
    /// The pair is the region and the account for names that have none.
    pub(crate) fn new(
        pipeline: &'a Pipeline,
        values: &'a Values,
        facts: &'a Facts,
        unknowns: Unknowns,
        (region, account): (Option<&'a str>, Option<&'a str>),
    ) -> Self {
        Self { pipeline, values, facts, unknowns, region, account }
    }

    fn fill(&self) -> Fill<'static> {
        match self.unknowns {
            Unknowns::Written | Unknowns::LeftOut => {
                Fill { partition: None, region: "REGION", account: "ACCOUNT" }
            }
            Unknowns::Patterns => Fill::ANY,
        }
    }

    /// A template's text with its unknown values written as [`Unknowns`] says. `own` holds the variables of the step.
    fn text(&self, template: &Template, own: Option<&IndexMap<String, Template>>) -> String {
        if self.unknowns != Unknowns::Patterns {
            return self.values.known(template, own);
        }
        template.render(escaped, |reference, _| match reference {
            // Only values that the file gives are the same in all builds.
            Reference::Env(name) => {
                let own = own.and_then(|own| own.get(name));
                let value = own.or_else(|| self.pipeline.env.variables.get(name));
                value.and_then(Template::as_literal).map_or_else(|| "*".to_owned(), |value| escaped(&value))
            }
            Reference::Builtin(Builtin::AwsRegion) => self.region.unwrap_or("*").to_owned(),
            Reference::Builtin(Builtin::AwsAccount) => self.account.unwrap_or("*").to_owned(),
            Reference::Builtin(_) => "*".to_owned(),
        })
    }

    fn location(&self, access: &'a AwsAccess) -> Location<'a> {
        let role =
            access.role_arn.as_ref().map(|role| (self.values.known(role, None), self.text(role, None)));
        // `${ROLE:-}` may name no role.
        let role = role.filter(|(written, _)| !written.is_empty());
        // arn:aws:iam::ACCOUNT:role/NAME
        let account = role.as_ref().and_then(|(_, arn)| Arn::parse(arn)?.account());
        let account = account.filter(|account| account.bytes().all(|byte| byte.is_ascii_digit()));
        let role_resource = role.as_ref().map(|(_, arn)| {
            if Arn::is_prefix_of(arn) {
                return Resource::Exact(arn.clone());
            }
            // The role is unknown, so any role may be assumed.
            let name = "role/*".to_owned();
            Resource::Made { service: "iam", region: None, global: true, account: None, name }
        });
        let region =
            access.region.as_ref().map(|region| self.text(region, None)).filter(|region| region != "*");
        Location {
            access,
            region: region.or_else(|| self.region.map(ToOwned::to_owned)),
            account: if role.is_some() {
                account.map(ToOwned::to_owned)
            } else {
                self.account.map(ToOwned::to_owned)
            },
            role: role.map(|(written, _)| written),
            role_resource,
        }
    }

    /// The asks before the first step: secrets are fetched.
    pub(crate) fn at_start(&self) -> Vec<Ask<'a>> {
        let env = &self.pipeline.env;
        let location = self.location(&self.pipeline.aws);
        let mut asks = Vec::new();
        for parameter in env.parameter_store.values() {
            let text = self.text(parameter, None);
            // A version or a label is no part of the name.
            let name = split_parameter(&text).0.to_owned();
            let resource =
                location.arn_or(name, "ssm", |name| format!("parameter/{}", name.trim_start_matches('/')));
            asks.push(location.ask([("ssm:GetParameters", resource)]));
        }
        for secret in env.secrets_manager.values() {
            let text = self.text(secret, None);
            let id = split_secret(&text).0.to_owned();
            // ARNs of secrets end in six random characters, which people leave out.
            let is_whole = id.rsplit_once('-').is_some_and(|(_, random)| {
                // Six small letters are more likely a word of the name.
                random.len() == 6
                    && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
                    && !random.bytes().all(|byte| byte.is_ascii_lowercase())
            });
            let id = if Arn::is_prefix_of(&id) && !is_whole { format!("{id}-??????") } else { id };
            let resource = location.arn_or(id, "secretsmanager", |name| format!("secret:{name}-??????"));
            asks.push(location.ask([("secretsmanager:GetSecretValue", resource)]));
        }
        Self::assume(&location, &mut asks);
        asks
    }

    /// The asks of a notification.
    pub(crate) fn notification(&self, notify: &Notify) -> Vec<Ask<'a>> {
        let NotifyTarget::Sns(topic) = &notify.target else {
            return Vec::new();
        };
        let location = self.location(&self.pipeline.aws);
        let topic = location.arn_or(self.text(topic, None), "sns", ToOwned::to_owned);
        vec![location.change("sns:Publish", topic, None, self.fill())]
    }

    /// The asks of a step, in the order in which it makes them. A parallel group has none; its steps have.
    pub(crate) fn step(&self, step: &'a Step) -> Vec<Ask<'a>> {
        let location = self.location(step.aws.as_ref().unwrap_or(&self.pipeline.aws));
        let mut asks = match &step.action {
            Action::Build(images) => self.build(images, step, &location),
            Action::Push(images) => self.push(images, step, &location),
            Action::TaskDefinition(definition) => self.task_definition(definition, step, &location),
            Action::RunTask(task) => self.run_task(task, step, &location),
            Action::Deploy(deploy) => self.deploy(deploy, step, &location),
            // The command gets credentials. Its own calls are unknown to runner.
            Action::Run(_) if step.aws.is_some() => vec![location.ask([])],
            Action::Test(test) => self.test(test, step, &location),
            // Other kinds ask nothing; the tests compare the asks of each kind with its recorded calls.
            _ => Vec::new(),
        };
        Self::assume(&location, &mut asks);
        asks
    }

    /// The build's own role must be allowed to assume the step's role.
    fn assume(location: &Location<'a>, asks: &mut Vec<Ask<'a>>) {
        if let Some(role) = &location.role_resource
            && asks.iter().any(|ask| ask.access.is_some())
        {
            asks.insert(0, Ask { role: None, ..location.ask([("sts:AssumeRole", role.clone())]) });
        }
    }
}

/// A string in which no character is special to IAM.
fn escaped(text: &str) -> String {
    let escape = |c: char| if "*?$".contains(c) { format!("${{{c}}}") } else { c.to_string() };
    text.chars().map(escape).collect()
}
