//! Checks of AWS: credentials, permissions, and the resources that the pipeline names.

use super::Checks;
use crate::address::{Arn, EcrRegistry, ImageRepository, is_ecr_public, short_name, split_secret};
use crate::aws::{Aws, AwsError};
use crate::cli::facts;
use crate::cli::iam::pipeline_policies;
use crate::cli::load::Loaded;
use crate::connections::Settings;
use crate::exit::Failure;
use crate::language::pipeline::model::{
    Action, AwsAccess, Deploy, NotifyTarget, Pipeline, RunTask, Step, TaskDefinitionBase, TaskPlace,
};
use crate::language::pipeline::reference::{SECRET_HELP, SecretReference};
use crate::language::pipeline::template::Template;
use crate::plan::asks::{AskKind, AskList, Direction, RepositoryName, ResolvedAccess, Unknowns};
use crate::plan::facts::Facts;
use crate::plan::policy::Policy;
use crate::plan::resource::Fill;
use crate::plan::scope::Values;
use indexmap::IndexMap;
use std::collections::HashMap;
use std::time::Duration;

/// How long a call may take with all its attempts. A run waits longer, but people wait for an examination.
const MAX_CALL: Duration = Duration::from_secs(20);

/// The examination of a pipeline's access to AWS.
pub(crate) struct Examination<'a> {
    loaded: &'a Loaded,
    settings: &'a Settings,
    facts: Facts,
    /// Connections by access. A failed one is kept as `None`.
    connections: HashMap<ResolvedAccess, Option<Aws>>,
}

impl<'a> Examination<'a> {
    pub(crate) fn new(loaded: &'a Loaded, settings: &'a Settings) -> Self {
        let facts = facts::facts(&loaded.pipeline, &loaded.values, &loaded.directory);
        Self { loaded, settings, facts, connections: HashMap::new() }
    }

    /// Whether a step asks for the Docker Engine.
    pub(crate) fn needs_docker(&self) -> bool {
        let asks = self.asks();
        self.pipeline()
            .steps()
            .any(|step| asks.step(step).iter().any(|ask| ask.kind == AskKind::DockerEngine))
    }

    fn asks(&self) -> AskList<'_> {
        let place = (self.loaded.context.region.as_deref(), self.loaded.context.account.as_deref());
        AskList::new(self.pipeline(), self.values(), &self.facts, Unknowns::LeftOut, place)
    }

    fn pipeline(&self) -> &'a Pipeline {
        &self.loaded.pipeline
    }

    fn values(&self) -> &Values {
        &self.loaded.values
    }

    fn text(&self, template: &Template) -> Option<String> {
        Some(template.resolve(self.values()).ok()?.expose().to_owned())
    }

    pub(crate) async fn examine(&mut self, checks: &mut Checks) {
        let place = (self.loaded.context.region.as_deref(), None);
        let policies = pipeline_policies(self.loaded, &self.facts, place);
        if policies.iter().all(|policy| policy.statements.is_empty()) {
            checks.good("AWS", "this pipeline does not use it");
            return;
        }
        let region = self.pipeline().aws.region.as_ref().and_then(|region| self.text(region));
        let region = region.filter(|region| !region.is_empty());
        let aws = match self.connect(region.as_deref()).await {
            Ok(aws) => aws,
            Err(failed) => {
                let subject = if matches!(failed, AwsError::NoRegion) { "region" } else { "credentials" };
                let failure = Failure::from(failed);
                checks.missing(subject, failure.message, failure.help.unwrap_or_default());
                checks.unknown(
                    "everything in AWS",
                    "no access",
                    Some("`runner run --local` needs none".to_owned()),
                );
                return;
            }
        };
        checks.good("region", aws.region());
        let identity = match aws.identity().await {
            Ok(identity) => identity,
            Err(failed) => {
                // A run would fail here for the same reason.
                let failure = Failure::from(failed);
                checks.missing("credentials", failure.message, failure.help.unwrap_or_default());
                checks.unknown("everything else in AWS", "no access", None);
                return;
            }
        };
        checks.good("credentials", &identity.arn);
        for policy in &policies {
            permissions(checks, &aws, &identity.arn, &identity.account, policy).await;
        }
        self.connections.insert(ResolvedAccess { region, ..ResolvedAccess::default() }, Some(aws));
        self.resources(checks).await;
    }

    async fn connect(&self, region: Option<&str>) -> Result<Aws, AwsError> {
        let aws = Aws::connect(&self.settings.authorities(), region, self.settings.ecs_poll).await?;
        Ok(aws.within(MAX_CALL))
    }

    /// The connection of a step. A failure is reported once.
    async fn connection(&mut self, access: &AwsAccess, checks: &mut Checks) -> Option<Aws> {
        // An access with unknown values cannot be checked.
        let access = ResolvedAccess::resolve(access, self.values()).ok()?;
        if let Some(known) = self.connections.get(&access) {
            return known.clone();
        }
        let ResolvedAccess { region, role, external_id } = &access;
        let connected = match self.connect(region.as_deref()).await {
            Ok(aws) => match role {
                Some(role) => aws.assume(role, external_id.as_deref(), "runner-doctor").await,
                None => Ok(aws),
            },
            Err(failed) => Err(failed),
        };
        let aws = match connected {
            Ok(aws) => {
                if let Some(role) = role {
                    checks.good(format!("role {role}"), "can be assumed");
                }
                Some(aws)
            }
            Err(failed) => {
                let failure = Failure::from(failed);
                checks.missing(
                    role.as_ref().map_or_else(|| "access to AWS".to_owned(), |role| format!("role {role}")),
                    failure.message,
                    failure.help.unwrap_or_default(),
                );
                None
            }
        };
        self.connections.insert(access, aws.clone());
        aws
    }

    async fn resources(&mut self, checks: &mut Checks) {
        let pipeline = self.pipeline();
        self.secrets(pipeline, checks).await;
        let mut done: Vec<String> = Vec::new();
        for step in pipeline.steps() {
            let access = step.aws.as_ref().unwrap_or(&pipeline.aws);
            if self.asks().step(step).iter().any(|ask| ask.access.is_some()) {
                self.connection(access, checks).await;
            }
            for (name, creates) in self.pushed(step) {
                let subject = format!("repository {name}");
                if !done.contains(&subject) {
                    self.repository(&name, &subject, creates, access, checks).await;
                    done.push(subject);
                }
            }
            match &step.action {
                Action::TaskDefinition(definition) => match &definition.base {
                    TaskDefinitionBase::Family(family) => self.family(family, access, checks).await,
                    TaskDefinitionBase::Service { cluster, name } => {
                        self.service(cluster, name, access, checks, &mut done).await;
                    }
                    TaskDefinitionBase::File(_) => {}
                },
                Action::Deploy(Deploy { cluster, services, .. }) => {
                    for service in services {
                        self.service(cluster, service, access, checks, &mut done).await;
                    }
                }
                Action::RunTask(RunTask { cluster, place: TaskPlace::Service(service), .. }) => {
                    self.service(cluster, service, access, checks, &mut done).await;
                }
                _ => {}
            }
        }
        self.roles(pipeline, checks).await;
        for notify in &pipeline.notify {
            if let NotifyTarget::Sns(topic) = &notify.target {
                let topic = self.text(topic).unwrap_or_else(|| topic.shape());
                checks.unknown(
                    format!("topic {topic}"),
                    "this version of runner does not support SNS yet",
                    None,
                );
            }
        }
    }

    /// The repositories that a `push` step pushes to, and whether it creates them.
    fn pushed(&self, step: &Step) -> Vec<(RepositoryName, bool)> {
        // `build` and `test` push caches and fingerprints to the same repositories.
        if !matches!(step.action, Action::Push(_)) {
            return Vec::new();
        }
        let mut pushed = IndexMap::new();
        for ask in self.asks().step(step) {
            if let AskKind::Registry { transfer: Direction::Push { creates }, repository } = ask.kind {
                *pushed.entry(repository).or_default() |= creates;
            }
        }
        pushed.into_iter().collect()
    }

    async fn secrets(&mut self, pipeline: &Pipeline, checks: &mut Checks) {
        for (variable, template) in pipeline.env.parameter_store.iter().chain(&pipeline.env.secrets_manager) {
            let is_parameter = pipeline.env.parameter_store.contains_key(variable);
            let subject = format!("secret {variable}");
            if self.values().is_given(variable) {
                checks.good(subject, "set in the environment");
                continue;
            }
            let Some(text) = self.text(template) else {
                checks.unknown(subject, "its name is unknown before the run", None);
                continue;
            };
            let Some(aws) = self.connection(&pipeline.aws, checks).await else {
                continue;
            };
            let found = if is_parameter {
                aws.parameters(&[&text]).await.map(drop)
            } else {
                match SecretReference::parse(&text) {
                    Ok(reference) => aws.secret(&reference.into()).await.map(drop),
                    Err(reason) => {
                        checks.missing(subject, reason, SECRET_HELP);
                        continue;
                    }
                }
            };
            match found {
                Ok(()) => checks.good(subject, text),
                Err(failed) => checks.failed(subject, failed, || {
                    if is_parameter {
                        format!("`aws ssm put-parameter --type SecureString --name '{text}' --value …`")
                    } else {
                        let (id, _) = split_secret(&text);
                        format!("`aws secretsmanager create-secret --name '{id}' --secret-string …`")
                    }
                }),
            }
        }
    }

    async fn repository(
        &mut self,
        name: &RepositoryName,
        subject: &str,
        creates: bool,
        access: &AwsAccess,
        checks: &mut Checks,
    ) {
        if name.to_string().contains("${") {
            checks.unknown(subject, "its name is unknown before the run", None);
            return;
        }
        if let Err(error) = ImageRepository::parse(&name.to_string()) {
            checks.missing(subject, error.to_string(), "correct `repository` in the pipeline file");
            return;
        }
        let region = match name.host.as_deref().map(EcrRegistry::parse) {
            Some(None) if name.host.as_deref().is_some_and(is_ecr_public) => {
                let Some(aws) = self.connection(access, checks).await else {
                    return;
                };
                match aws.ecr_public_login().await {
                    Ok(_) => checks.good(subject, "in ECR Public; only the push shows whether it exists"),
                    Err(failed) => checks.failed(subject, failed, String::new),
                }
                return;
            }
            Some(None) => {
                checks.unknown(subject, "outside of ECR; the login is only tried by the push", None);
                return;
            }
            Some(Some(ecr)) => Some(ecr.region),
            None => None,
        };
        let path = &name.path;
        let Some(aws) = self.connection(access, checks).await else {
            return;
        };
        let aws = region.map_or_else(|| aws.clone(), |region| aws.in_region(&region));
        match aws.ecr_repository(path).await {
            Ok(Some(address)) => checks.good(subject, address),
            Ok(None) if creates => checks.good(subject, "will be created"),
            Ok(None) => checks.missing(
                subject,
                format!("ECR in {} has no repository of this name", aws.region()),
                format!(
                    "`aws ecr create-repository --repository-name {path}`, or `create: true` for the image"
                ),
            ),
            Err(failed) => checks.failed(subject, failed, String::new),
        }
    }

    async fn family(&mut self, family: &Template, access: &AwsAccess, checks: &mut Checks) {
        let Some(family) = self.text(family) else {
            checks.unknown("task definition", "its name is unknown before the run", None);
            return;
        };
        let Some(aws) = self.connection(access, checks).await else {
            return;
        };
        let subject = format!("task definition {family}");
        match aws.ecs_task_definition(&family).await {
            Ok(_) => checks.good(subject, "has a base revision"),
            Err(failed) => checks.failed(subject, failed, || {
                "register a first revision: `aws ecs register-task-definition --cli-input-json file://…`"
                    .to_owned()
            }),
        }
    }

    async fn service(
        &mut self,
        cluster: &Template,
        service: &Template,
        access: &AwsAccess,
        checks: &mut Checks,
        done: &mut Vec<String>,
    ) {
        let (Some(cluster), Some(service)) = (self.text(cluster), self.text(service)) else {
            checks.unknown("service", "its name is unknown before the run", None);
            return;
        };
        let subject = format!("service {cluster}/{service}");
        if done.contains(&subject) {
            return;
        }
        done.push(subject.clone());
        let Some(aws) = self.connection(access, checks).await else {
            return;
        };
        match aws.ecs_service(&cluster, &service).await {
            Ok(found) => checks.good(subject, found.task_definition),
            Err(failed) => {
                let no_cluster = matches!(&failed, AwsError::NotFound { what: "cluster", .. });
                checks.failed(subject, failed, || {
                    if no_cluster {
                        format!("`aws ecs create-cluster --cluster-name {cluster}`, or correct `cluster`")
                    } else {
                        format!("`aws ecs create-service --cluster {cluster} --service-name {service} …`, or correct `service`")
                    }
                });
            }
        }
    }

    /// The roles that the pipeline and its task definition files name.
    async fn roles(&mut self, pipeline: &Pipeline, checks: &mut Checks) {
        let mut roles: Vec<(String, AwsAccess)> = Vec::new();
        for step in pipeline.steps() {
            let Action::TaskDefinition(definition) = &step.action else { continue };
            let named = [&definition.task_role, &definition.execution_role].into_iter().flatten();
            let mut found: Vec<String> = named.filter_map(|role| self.text(role)).collect();
            found.extend(
                self.facts.definitions.get(&step.id).into_iter().flat_map(|known| known.roles.clone()),
            );
            for role in found {
                if !roles.iter().any(|(known, _)| *known == role) {
                    roles.push((role, step.aws.as_ref().unwrap_or(&pipeline.aws).clone()));
                }
            }
        }
        for (role, access) in roles {
            let Some(aws) = self.connection(&access, checks).await else { continue };
            let name = short_name(&role);
            let subject = format!("role {role}");
            match aws.iam_role(name).await {
                Ok(Some(role)) => checks.good(subject, role.arn),
                Ok(None) => checks.missing(
                    subject,
                    "this role does not exist",
                    format!("`aws iam create-role --role-name {name} --assume-role-policy-document …` with ecs-tasks.amazonaws.com, or correct the task definition"),
                ),
                Err(failed) => checks.failed(subject, failed, String::new),
            }
        }
    }
}

/// Simulates each permission of a policy with IAM.
async fn permissions(checks: &mut Checks, aws: &Aws, identity: &str, account: &str, policy: &Policy) {
    if policy.role.as_ref().is_some_and(|role| role.contains("${")) {
        checks.unknown("permissions", "a role of the pipeline is unknown before the run", None);
        return;
    }
    let principal = match (&policy.role, principal(aws, identity).await) {
        (Some(role), _) => role.clone(),
        (None, Ok(principal)) => principal,
        (None, Err(failed)) => {
            checks.failed("permissions", failed, String::new);
            return;
        }
    };
    let fill = Fill { partition: None, region: aws.region(), account };
    for statement in &policy.statements {
        let resources: Vec<String> = statement.resources.iter().map(|resource| resource.arn(fill)).collect();
        for action in &statement.actions {
            let subject = format!("permission {action}");
            match aws.iam_allows(&principal, action, &resources, statement.passed_to).await {
                Ok(Some(true)) => checks.good(subject, resources.join(", ")),
                Ok(Some(false)) => checks.missing(
                    subject,
                    format!("{principal} is denied this on {}", resources.join(", ")),
                    format!("add the statement {}", statement.to_json(fill)),
                ),
                Ok(None) => checks.unknown(subject, "IAM returned no decision", None),
                // An invalid name affects only this permission.
                Err(AwsError::Service { message, .. }) if !message.is_empty() => {
                    checks.unknown(subject, message, None);
                }
                Err(failed) => {
                    // The other permissions would fail for the same reason.
                    let failure = Failure::from(failed);
                    let of = policy.role.as_ref().map(|role| format!(" of {role}")).unwrap_or_default();
                    checks.unknown(format!("permissions{of}"), failure.message, failure.help);
                    return;
                }
            }
        }
    }
}

/// The user or role of an identity. A session has its own name, and its ARN lacks the path of the role.
async fn principal(aws: &Aws, identity: &str) -> Result<String, AwsError> {
    let resource = Arn::parse(identity).map(|arn| arn.resource());
    let Some(session) = resource.and_then(|resource| resource.strip_prefix("assumed-role/")) else {
        return Ok(identity.to_owned());
    };
    let name = session.split('/').next().unwrap_or_default();
    let role = aws.iam_role(name).await?;
    Ok(role.map_or_else(|| identity.to_owned(), |role| role.arn))
}
