//! AWS: credentials, permissions, and everything that the pipeline names there.

use super::Checks;
use crate::address::{EcrHost, Repository};
use crate::aws::{Aws, AwsError};
use crate::cli::facts;
use crate::cli::iam::pipeline_policies;
use crate::cli::load::Loaded;
use crate::connections::Settings;
use crate::exit::Failure;
use crate::language::pipeline::model::{
    Action, AwsAccess, Deploy, NotifyTarget, Pipeline, RunTask, TaskDefinitionBase, TaskPlace,
};
use crate::language::pipeline::reference::{SECRET_HELP, SecretReference};
use crate::language::pipeline::template::Template;
use crate::plan::policy::Policy;
use crate::plan::resource::Fill;
use crate::plan::scope::Values;
use std::collections::HashMap;

/// A pipeline that is examined.
pub(crate) struct Patient<'a> {
    loaded: &'a Loaded,
    settings: &'a Settings,
    /// Connections by region and role; nothing where one could not be made.
    connections: HashMap<(Option<String>, Option<String>), Option<Aws>>,
}

impl<'a> Patient<'a> {
    pub(crate) fn new(loaded: &'a Loaded, settings: &'a Settings) -> Self {
        Self { loaded, settings, connections: HashMap::new() }
    }

    fn pipeline(&self) -> &Pipeline {
        &self.loaded.pipeline
    }

    fn values(&self) -> &Values {
        &self.loaded.values
    }

    fn text(&self, template: &Template) -> Option<String> {
        template.resolve(self.values()).ok()
    }

    pub(crate) async fn examine(&mut self, checks: &mut Checks) {
        let policies = pipeline_policies(self.loaded, (self.loaded.context.region.as_deref(), None));
        if policies.iter().all(|policy| policy.statements.is_empty()) {
            checks.good("AWS", "this pipeline asks nothing of it");
            return;
        }
        let default = self.pipeline().aws.clone();
        let region = default.region.as_ref().and_then(|region| self.text(region));
        let aws = match Aws::connect(&self.settings.authorities(), region.as_deref()).await {
            Ok(aws) => aws,
            Err(failed) => {
                let subject = if matches!(failed, AwsError::NoRegion) { "region" } else { "credentials" };
                let failure = Failure::from(failed);
                checks.missing(subject, failure.message, failure.help.unwrap_or_default());
                checks.unknown(
                    "everything in AWS",
                    "there is no access",
                    Some("`runner run --local` needs none".to_owned()),
                );
                return;
            }
        };
        checks.good("region", aws.region());
        let identity = match aws.identity().await {
            Ok(identity) => identity,
            Err(failed) => {
                // Whatever the reason: a run would come no further.
                let failure = Failure::from(failed);
                checks.missing("credentials", failure.message, failure.help.unwrap_or_default());
                checks.unknown("everything else in AWS", "there is no access", None);
                return;
            }
        };
        checks.good("credentials", &identity.arn);
        for policy in &policies {
            permissions(checks, &aws, &identity.arn, &identity.account, policy).await;
        }
        self.connections.insert((region, None), Some(aws));
        self.resources(checks).await;
    }

    /// A connection for a step; nothing where there is none, which is said once.
    async fn connection(&mut self, access: &AwsAccess, checks: &mut Checks) -> Option<Aws> {
        // Where a value is not known yet, nothing can be asked.
        let known = |template: &Option<Template>| match template {
            Some(template) => self.text(template).map(Some),
            None => Some(None),
        };
        let (region, role) = (known(&access.region)?, known(&access.role_arn)?);
        let external_id = known(&access.external_id)?;
        let key = (region.clone(), role.clone());
        if let Some(known) = self.connections.get(&key) {
            return known.clone();
        }
        let connected = match Aws::connect(&self.settings.authorities(), region.as_deref()).await {
            Ok(aws) => match &role {
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
                    role.map_or_else(|| "access to AWS".to_owned(), |role| format!("role {role}")),
                    failure.message,
                    failure.help.unwrap_or_default(),
                );
                None
            }
        };
        self.connections.insert(key, aws.clone());
        aws
    }

    async fn resources(&mut self, checks: &mut Checks) {
        let pipeline = self.pipeline().clone();
        self.secrets(&pipeline, checks).await;
        let mut done: Vec<String> = Vec::new();
        for step in pipeline.steps() {
            let access = step.aws.as_ref().unwrap_or(&pipeline.aws).clone();
            match &step.action {
                Action::Push(images) => {
                    for name in images {
                        if let Some(image) = pipeline.images.get(&name.value)
                            && !done.contains(&name.value)
                        {
                            done.push(name.value.clone());
                            let name = self.text(&image.repository);
                            self.repository(name, image.create.is_some(), &access, checks).await;
                        }
                    }
                }
                Action::TaskDefinition(definition) => match &definition.base {
                    TaskDefinitionBase::Family(family) => self.family(family, &access, checks).await,
                    TaskDefinitionBase::Service { cluster, name } => {
                        self.service(cluster, name, &access, checks, &mut done).await;
                    }
                    TaskDefinitionBase::File(_) => {}
                },
                Action::Deploy(Deploy { cluster, services, .. }) => {
                    for service in services {
                        self.service(cluster, service, &access, checks, &mut done).await;
                    }
                }
                Action::RunTask(RunTask { cluster, place: TaskPlace::Service(service), .. }) => {
                    self.service(cluster, service, &access, checks, &mut done).await;
                }
                _ => {}
            }
        }
        self.roles(&pipeline, checks).await;
        for notify in &pipeline.notify {
            if let NotifyTarget::Sns(topic) = &notify.target {
                let topic = self.text(topic).unwrap_or_else(|| topic.shape());
                checks.unknown(
                    format!("topic {topic}"),
                    "this version of runner does not speak to SNS yet",
                    None,
                );
            }
        }
    }

    async fn secrets(&mut self, pipeline: &Pipeline, checks: &mut Checks) {
        for (variable, template) in pipeline.env.parameter_store.iter().chain(&pipeline.env.secrets_manager) {
            let is_parameter = pipeline.env.parameter_store.contains_key(variable);
            let subject = format!("secret {variable}");
            if self.values().is_given(variable) {
                checks.good(subject, "given in the environment");
                continue;
            }
            let Some(text) = self.text(template) else {
                checks.unknown(subject, "its name is known only when the build runs", None);
                continue;
            };
            let Some(aws) = self.connection(&pipeline.aws, checks).await else {
                continue;
            };
            let found = if is_parameter {
                aws.parameter(&text).await.map(drop)
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
                Err(failed) => checks.answer(subject, failed, || {
                    if is_parameter {
                        format!("`aws ssm put-parameter --type SecureString --name '{text}' --value …`")
                    } else {
                        let id = text.split(':').next().unwrap_or_default();
                        format!("`aws secretsmanager create-secret --name '{id}' --secret-string …`")
                    }
                }),
            }
        }
    }

    async fn repository(
        &mut self,
        name: Option<String>,
        create: bool,
        access: &AwsAccess,
        checks: &mut Checks,
    ) {
        let Some(name) = name else {
            checks.unknown("repository", "its name is known only when the build runs", None);
            return;
        };
        let subject = format!("repository {name}");
        let (path, region) = match Repository::parse(&name) {
            Ok(None) => (name, None),
            Ok(Some(repository)) => {
                let Some(ecr) = EcrHost::parse(&repository.host) else {
                    checks.unknown(subject, "not in ECR: its login is tried when it is pushed", None);
                    return;
                };
                (repository.path, Some(ecr.region))
            }
            Err(error) => {
                checks.missing(subject, error.to_string(), "correct `repository` in the pipeline file");
                return;
            }
        };
        let Some(aws) = self.connection(access, checks).await else {
            return;
        };
        let aws = region.map_or_else(|| aws.clone(), |region| aws.in_region(&region));
        match aws.ecr_repository(&path).await {
            Ok(Some(address)) => checks.good(subject, address),
            Ok(None) if create => checks.good(subject, "will be created"),
            Ok(None) => checks.missing(
                subject,
                format!("ECR in {} has none of this name", aws.region()),
                format!(
                    "`aws ecr create-repository --repository-name {path}`, or `create: true` for the image"
                ),
            ),
            Err(failed) => checks.answer(subject, failed, String::new),
        }
    }

    async fn family(&mut self, family: &Template, access: &AwsAccess, checks: &mut Checks) {
        let Some(family) = self.text(family) else {
            checks.unknown("task definition", "its name is known only when the build runs", None);
            return;
        };
        let Some(aws) = self.connection(access, checks).await else {
            return;
        };
        let subject = format!("task definition {family}");
        match aws.ecs_task_definition(&family).await {
            Ok(_) => checks.good(subject, "has a revision to start from"),
            Err(failed) => checks.answer(subject, failed, || {
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
            checks.unknown("service", "its name is known only when the build runs", None);
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
                checks.answer(subject, failed, || {
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
        let definitions = facts::definitions(pipeline, self.values(), &self.loaded.directory);
        let mut roles: Vec<(String, AwsAccess)> = Vec::new();
        for step in pipeline.steps() {
            let Action::TaskDefinition(definition) = &step.action else { continue };
            let named = [&definition.task_role, &definition.execution_role].into_iter().flatten();
            let mut found: Vec<String> = named.filter_map(|role| self.text(role)).collect();
            found.extend(definitions.get(&step.id).into_iter().flat_map(|known| known.roles.clone()));
            for role in found {
                if !roles.iter().any(|(known, _)| *known == role) {
                    roles.push((role, step.aws.as_ref().unwrap_or(&pipeline.aws).clone()));
                }
            }
        }
        for (role, access) in roles {
            let Some(aws) = self.connection(&access, checks).await else { continue };
            let name = role.rsplit('/').next().unwrap_or_default();
            let subject = format!("role {role}");
            match aws.iam_role(name).await {
                Ok(Some(role)) => checks.good(subject, role.arn),
                Ok(None) => checks.missing(
                    subject,
                    "there is no such role",
                    format!("`aws iam create-role --role-name {name} --assume-role-policy-document …` with ecs-tasks.amazonaws.com, or correct the task definition"),
                ),
                Err(failed) => checks.answer(subject, failed, String::new),
            }
        }
    }
}

/// Asks IAM about each permission of a policy.
async fn permissions(checks: &mut Checks, aws: &Aws, identity: &str, account: &str, policy: &Policy) {
    if policy.role.as_ref().is_some_and(|role| role.contains("${")) {
        checks.unknown("permissions", "a role of the pipeline is known only when the build runs", None);
        return;
    }
    let principal = match (&policy.role, principal(aws, identity).await) {
        (Some(role), _) => role.clone(),
        (None, Ok(principal)) => principal,
        (None, Err(failed)) => {
            checks.answer("permissions", failed, String::new);
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
                    format!("{principal} is not allowed this on {}", resources.join(", ")),
                    format!("add the statement {}", statement.to_json(fill)),
                ),
                Ok(None) => checks.unknown(subject, "IAM says nothing", None),
                // An odd name is a problem of this permission alone.
                Err(AwsError::Service { message, .. }) if !message.is_empty() => {
                    checks.unknown(subject, message, None);
                }
                Err(failed) => {
                    // The others would come to the same.
                    let failure = Failure::from(failed);
                    let of = policy.role.as_ref().map(|role| format!(" of {role}")).unwrap_or_default();
                    checks.unknown(format!("permissions{of}"), failure.message, failure.help);
                    return;
                }
            }
        }
    }
}

/// The user or role behind an identity: sessions of roles have names of their own, and roles have paths.
async fn principal(aws: &Aws, identity: &str) -> Result<String, AwsError> {
    let Some((_, session)) = identity.split_once(":assumed-role/") else {
        return Ok(identity.to_owned());
    };
    let name = session.split('/').next().unwrap_or_default();
    let role = aws.iam_role(name).await?;
    Ok(role.map_or_else(|| identity.to_owned(), |role| role.arn))
}
