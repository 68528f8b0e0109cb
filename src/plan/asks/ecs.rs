//! The asks of the steps for Amazon ECS.

use super::images::pull;
use super::{Ask, AskList, Location, Unknowns};
use crate::address::{Arn, short_name, split_secret};
use crate::language::pipeline::model::{
    Action, Deploy, OnFailure, RunTask, Step, TaskDefinition, TaskDefinitionBase, TaskPlace,
};
use crate::language::pipeline::reference::family_of;
use crate::plan::policy::{EVENTS, SCHEDULER, TASKS};
use crate::plan::resource::Resource;

impl<'a> AskList<'a> {
    pub(super) fn task_definition(
        &self,
        definition: &TaskDefinition,
        step: &Step,
        location: &Location<'a>,
    ) -> Vec<Ask<'a>> {
        let own = Some(&step.env);
        let mut asks = Vec::new();
        let facts = self.facts.definitions.get(&step.id);
        match &definition.base {
            TaskDefinitionBase::Family(_) => {
                asks.push(location.ask([("ecs:DescribeTaskDefinition", Resource::Any)]));
            }
            TaskDefinitionBase::Service { cluster, name } => {
                let service = Self::service(&self.text(cluster, own), self.text(name, own), location);
                asks.push(
                    location.ask([
                        ("ecs:DescribeServices", service),
                        ("ecs:DescribeTaskDefinition", Resource::Any),
                    ]),
                );
            }
            // It may be registered already.
            TaskDefinitionBase::File(_) if definition.registers() => {
                asks.push(location.ask([("ecs:DescribeTaskDefinition", Resource::Any)]));
            }
            TaskDefinitionBase::File(_) => {}
        }
        // CodePipeline registers it.
        if !definition.registers() {
            return asks;
        }
        asks.extend(self.verified(definition, step, location));
        let family = self.family(definition, step);
        let resource = location.resource("ecs", format!("task-definition/{family}:*"));
        let mut ask = self.on_family("ecs:RegisterTaskDefinition", &resource, location);
        // The tags of the base are registered again. An unknown base may have some.
        if !definition.tags.is_empty() || facts.is_none_or(|facts| facts.tagged) {
            ask.permissions.push(("ecs:TagResource", resource));
        }
        ask.passes.extend(self.roles(definition, step, location).into_iter().map(|role| (role, TASKS)));
        asks.push(ask);
        asks
    }

    /// Before a revision is registered, its roles, images, secrets and log groups are verified. No secret is read.
    fn verified(&self, definition: &TaskDefinition, step: &Step, location: &Location<'a>) -> Vec<Ask<'a>> {
        let own = Some(&step.env);
        let facts = self.facts.definitions.get(&step.id);
        let roles = self.roles(definition, step, location).into_iter();
        let mut asks = vec![location.ask(roles.map(|role| ("iam:GetRole", role)))];
        let changed = definition.containers.values();
        let pushed = changed.clone().filter_map(|container| self.image(container.image.as_ref()?));
        for image in pushed {
            if let Some(arn) = self.repository(image, step, location).arn {
                asks.push(location.ask([
                    ("ecr:GetAuthorizationToken", Resource::Any),
                    ("ecr:BatchGetImage", arn.clone()),
                    ("ecr:GetDownloadUrlForLayer", arn),
                ]));
            }
        }
        let images = facts.into_iter().flat_map(|facts| &facts.images);
        asks.extend(images.map(|(_, image)| pull(image, location)));
        let mut secrets: Vec<String> = changed
            .flat_map(|container| container.secrets.values())
            .map(|reference| self.text(reference, own))
            .collect();
        secrets.extend(facts.into_iter().flat_map(|facts| facts.secrets.clone()));
        let is_secret =
            |reference: &&String| Arn::parse(reference).is_some_and(|arn| arn.service() == "secretsmanager");
        let (in_manager, parameters): (Vec<&String>, Vec<&String>) = secrets.iter().partition(is_secret);
        let mut described: Vec<Resource> = in_manager
            .into_iter()
            .map(|reference| Resource::Exact(split_secret(reference).0.to_owned()))
            .collect();
        if facts.is_none() {
            described.push(location.resource("secretsmanager", "secret:*"));
        }
        asks.extend(described.into_iter().map(|arn| location.ask([("secretsmanager:DescribeSecret", arn)])));
        if facts.is_none() || !parameters.is_empty() {
            asks.push(location.ask([("ssm:DescribeParameters", Resource::Any)]));
        }
        if facts.is_none_or(|facts| !facts.log_groups.is_empty()) {
            asks.push(location.ask([("logs:DescribeLogGroups", location.resource("logs", "log-group:*"))]));
        }
        asks
    }

    /// Reads the logs of the containers in the pipeline's task definitions.
    fn logs(&self, location: &Location<'a>) -> Vec<Ask<'a>> {
        let stream = |group: String| location.resource("logs", format!("log-group:{group}:log-stream:*"));
        let groups = self.log_groups().into_iter();
        groups.map(|group| location.ask([("logs:GetLogEvents", stream(group))])).collect()
    }

    /// The task role and the execution role of a definition.
    fn roles(&self, definition: &TaskDefinition, step: &Step, location: &Location<'a>) -> Vec<Resource> {
        let own = Some(&step.env);
        let named = [&definition.task_role, &definition.execution_role];
        let mut roles: Vec<Resource> =
            named.into_iter().flatten().map(|role| location.role_named(&self.text(role, own))).collect();
        match self.facts.definitions.get(&step.id) {
            Some(facts) => roles.extend(facts.roles.iter().map(|role| location.role_named(role))),
            // The roles of the base are unknown.
            None if named.iter().any(|role| role.is_none()) => roles.push(location.role_named("*")),
            None => {}
        }
        roles.sort();
        roles.dedup();
        roles
    }

    fn service(cluster: &str, service: String, location: &Location<'a>) -> Resource {
        let cluster = short_name(cluster);
        location.arn_or(service, "ecs", |service| format!("service/{cluster}/{service}"))
    }

    pub(super) fn run_task(&self, task: &RunTask, step: &Step, location: &Location<'a>) -> Vec<Ask<'a>> {
        let own = Some(&step.env);
        let cluster = self.text(&task.cluster, own);
        let short = short_name(&cluster);
        let mut asks = vec![location.ask([("ecs:DescribeTaskDefinition", Resource::Any)])];
        if let TaskPlace::Service(service) = &task.place {
            let service = Self::service(&cluster, self.text(service, own), location);
            asks.push(location.ask([("ecs:DescribeServices", service)]));
        }
        let families = match &task.task_definition {
            Some(family) => vec![family_of(&self.text(family, own)).to_owned()],
            None => self.families(),
        };
        for family in families {
            let resource = location.resource("ecs", format!("task-definition/{family}:*"));
            asks.push(self.on_family("ecs:RunTask", &resource, location));
        }
        let tasks = location.resource("ecs", format!("task/{short}/*"));
        asks.push(location.ask([("ecs:DescribeTasks", tasks.clone())]));
        asks.push(location.change("ecs:StopTask", tasks, Some("if the task takes too long"), self.fill()));
        asks.extend(self.logs(location));
        for definition in self.pipeline.steps() {
            if let Action::TaskDefinition(inner) = &definition.action
                && inner.registers()
            {
                let passes = self.roles(inner, definition, location).into_iter().map(|role| (role, TASKS));
                asks.push(Ask { passes: passes.collect(), ..location.ask([]) });
            }
        }
        asks
    }

    /// A change of a family. The permission holds for all revisions; the target is shown without one.
    fn on_family(&self, action: &'static str, revisions: &Resource, location: &Location<'a>) -> Ask<'a> {
        let mut ask = location.change(action, revisions.clone(), None, self.fill());
        if let Some(change) = &mut ask.change {
            change.target = change.target.trim_end_matches(":*").to_owned();
        }
        ask
    }

    /// The family that a step registers, or a placeholder if it is unknown.
    fn family(&self, definition: &TaskDefinition, step: &Step) -> String {
        let known = match &definition.base {
            TaskDefinitionBase::Family(family) => {
                Some(family_of(&self.text(family, Some(&step.env))).to_owned())
            }
            TaskDefinitionBase::File(_) => {
                self.facts.definitions.get(&step.id).and_then(|facts| facts.family.clone())
            }
            TaskDefinitionBase::Service { .. } => None,
        };
        let unknown = if self.unknowns == Unknowns::Patterns { "*" } else { "FAMILY" };
        known.unwrap_or_else(|| unknown.to_owned())
    }

    /// The families that the pipeline registers.
    fn families(&self) -> Vec<String> {
        let mut families = Vec::new();
        for step in self.pipeline.steps() {
            if let Action::TaskDefinition(definition) = &step.action
                && definition.registers()
            {
                let family = self.family(definition, step);
                if !families.contains(&family) {
                    families.push(family);
                }
            }
        }
        families
    }

    /// The log groups in the pipeline's task definitions; `*` for those that are unknown.
    fn log_groups(&self) -> Vec<String> {
        let mut groups = Vec::new();
        for step in self.pipeline.steps() {
            let Action::TaskDefinition(definition) = &step.action else { continue };
            let named = definition
                .containers
                .values()
                .filter_map(|container| container.log_options.get("awslogs-group"));
            let mut own: Vec<String> = named.map(|group| self.text(group, Some(&step.env))).collect();
            match self.facts.definitions.get(&step.id) {
                Some(facts) if own.is_empty() => own.clone_from(&facts.log_groups),
                None if own.is_empty() => own.push("*".to_owned()),
                _ => {}
            }
            groups.extend(own);
        }
        groups.sort();
        groups.dedup();
        groups
    }

    pub(super) fn deploy(&self, deploy: &Deploy, step: &Step, location: &Location<'a>) -> Vec<Ask<'a>> {
        let own = Some(&step.env);
        let cluster = self.text(&deploy.cluster, own);
        let mut asks = Vec::new();
        if let Some(code_deploy) = &deploy.code_deploy {
            let (application, group) =
                (self.text(&code_deploy.application, own), self.text(&code_deploy.group, own));
            let resource = location.resource("codedeploy", format!("deploymentgroup:{application}/{group}"));
            for service in &deploy.services {
                let service = Self::service(&cluster, self.text(service, own), location);
                asks.push(location.ask([
                    ("ecs:DescribeServices", service),
                    ("codedeploy:GetDeploymentGroup", resource.clone()),
                ]));
            }
            let mut ask = location.change("codedeploy:CreateDeployment", resource.clone(), None, self.fill());
            ask.permissions.extend([
                ("codedeploy:GetDeployment", resource.clone()),
                // Finds a deployment whose response was lost, and one that has replaced it.
                ("codedeploy:ListDeployments", resource),
                (
                    "codedeploy:RegisterApplicationRevision",
                    location.resource("codedeploy", format!("application:{application}")),
                ),
                ("codedeploy:GetDeploymentConfig", location.resource("codedeploy", "deploymentconfig:*")),
                ("codedeploy:ListDeploymentTargets", Resource::Any),
                ("codedeploy:BatchGetDeploymentTargets", Resource::Any),
            ]);
            asks.push(ask);
            if deploy.on_failure == OnFailure::Rollback {
                // It takes no resource, contrary to the user guide.
                let condition = Some("if it cannot succeed, takes too long, or the run is stopped");
                asks.push(location.change(
                    "codedeploy:StopDeployment",
                    Resource::Any,
                    condition,
                    self.fill(),
                ));
            }
        } else {
            for service in &deploy.services {
                let name = self.text(service, own);
                asks.extend(self.deploy_service(&cluster, &name, deploy.on_failure, location));
            }
        }
        let short = short_name(&cluster);
        // The reasons for a failed deployment, and the images that run.
        asks.push(location.ask([
            ("ecs:ListTasks", Resource::Any),
            ("ecs:DescribeTasks", location.resource("ecs", format!("task/{short}/*"))),
            ("ecs:DescribeTaskDefinition", Resource::Any),
            ("elasticloadbalancing:DescribeTargetGroups", Resource::Any),
        ]));
        asks.extend(self.logs(location));
        asks.extend(self.after(deploy, location));
        asks
    }

    /// `schedules` and `keep-revisions`.
    fn after(&self, deploy: &Deploy, location: &Location<'a>) -> Vec<Ask<'a>> {
        let (rules, schedules) =
            (location.resource("events", "rule/*"), location.resource("scheduler", "schedule/*"));
        let mut asks = Vec::new();
        if deploy.schedules || deploy.keep_revisions.is_some() {
            asks.push(location.ask([
                ("events:ListEventBuses", Resource::Any),
                ("events:ListRuleNamesByTarget", Resource::Any),
                ("events:ListTargetsByRule", rules.clone()),
                ("scheduler:ListSchedules", Resource::Any),
                ("scheduler:GetSchedule", schedules.clone()),
            ]));
        }
        if deploy.schedules {
            let condition = Some("if it starts an older revision of the family in this cluster");
            let mut ask = location.change("events:PutTargets", rules, condition, self.fill());
            ask.passes.push((location.role_named("*"), EVENTS));
            asks.push(ask);
            let mut ask = location.change("scheduler:UpdateSchedule", schedules, condition, self.fill());
            ask.passes.push((location.role_named("*"), SCHEDULER));
            asks.push(ask);
        }
        if deploy.keep_revisions.is_some() {
            // Services and tasks of any cluster may use the family.
            let any = |kind: &str| location.resource("ecs", format!("{kind}/*"));
            asks.push(location.ask([
                ("ecs:ListTaskDefinitions", Resource::Any),
                ("ecs:ListClusters", Resource::Any),
                ("ecs:ListServices", Resource::Any),
                ("ecs:DescribeServices", any("service")),
                ("ecs:ListServiceDeployments", any("service")),
                ("ecs:DescribeServiceDeployments", any("service-deployment")),
                ("ecs:DescribeServiceRevisions", any("service-revision")),
                ("ecs:ListTasks", Resource::Any),
                ("ecs:DescribeTasks", any("task")),
            ]));
            let condition = Some("for revisions that are older and not in use");
            asks.push(location.change("ecs:DeregisterTaskDefinition", Resource::Any, condition, self.fill()));
        }
        asks
    }

    /// A service is updated and its deployment is followed, and rolled back if it fails.
    fn deploy_service(
        &self,
        cluster: &str,
        name: &str,
        on_failure: OnFailure,
        location: &Location<'a>,
    ) -> Vec<Ask<'a>> {
        let service = Self::service(cluster, name.to_owned(), location);
        let short = short_name(cluster);
        let name = short_name(name);
        let of = |kind: &str| location.resource("ecs", format!("{kind}/{short}/{name}/*"));
        let mut update = location.change("ecs:UpdateService", service.clone(), None, self.fill());
        update.permissions.push(("ecs:DescribeServices", service.clone()));
        update.permissions.push(("ecs:ListServiceDeployments", service));
        update.permissions.push(("ecs:DescribeServiceDeployments", of("service-deployment")));
        update.permissions.push(("ecs:DescribeServiceRevisions", of("service-revision")));
        let mut asks = vec![update];
        if on_failure == OnFailure::Rollback {
            let condition = Some("if the deployment fails or takes too long");
            let deployments = of("service-deployment");
            asks.push(location.change("ecs:StopServiceDeployment", deployments, condition, self.fill()));
        }
        asks
    }
}
