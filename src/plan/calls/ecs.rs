//! What the steps for Amazon ECS ask of AWS.

use super::{Call, Caller, Place, Unknowns, pull};
use crate::address::{Arn, short_name, split_secret};
use crate::language::pipeline::model::{
    Action, Deploy, OnFailure, RunTask, Step, TaskDefinition, TaskDefinitionBase, TaskPlace,
};
use crate::language::pipeline::reference::family_of;
use crate::plan::policy::{EVENTS, SCHEDULER, TASKS};
use crate::plan::resource::Resource;

impl Caller<'_> {
    pub(crate) fn task_definition(
        &self,
        definition: &TaskDefinition,
        step: &Step,
        place: &Place,
    ) -> Vec<Call> {
        let own = Some(&step.env);
        let mut calls = Vec::new();
        let facts = self.facts.definitions.get(&step.id);
        match &definition.base {
            TaskDefinitionBase::Family(_) => {
                calls.push(place.call([("ecs:DescribeTaskDefinition", Resource::Any)]));
            }
            TaskDefinitionBase::Service { cluster, name } => {
                let service = Self::service(&self.text(cluster, own), self.text(name, own), place);
                calls.push(place.call([
                    ("ecs:DescribeServices", service),
                    ("ecs:DescribeTaskDefinition", Resource::Any),
                ]));
            }
            // To find out whether it is registered already.
            TaskDefinitionBase::File(_) if definition.registers() => {
                calls.push(place.call([("ecs:DescribeTaskDefinition", Resource::Any)]));
            }
            TaskDefinitionBase::File(_) => {}
        }
        // CodePipeline does.
        if !definition.registers() {
            return calls;
        }
        calls.extend(self.verified(definition, step, place));
        let family = self.family(definition, step);
        let resource = place.made("ecs", format!("task-definition/{family}:*"));
        let mut call = self.on_family("ecs:RegisterTaskDefinition", &resource, place);
        // What the base has is registered again, tags included; what base that is, ECS may be alone to know.
        if !definition.tags.is_empty() || facts.is_none_or(|facts| facts.tagged) {
            call.permissions.push(("ecs:TagResource", resource));
        }
        call.passes.extend(self.roles(definition, step, place).into_iter().map(|role| (role, TASKS)));
        calls.push(call);
        calls
    }

    /// What is looked at before a revision is registered: that what it names is there. No secret is read for that.
    fn verified(&self, definition: &TaskDefinition, step: &Step, place: &Place) -> Vec<Call> {
        let own = Some(&step.env);
        let facts = self.facts.definitions.get(&step.id);
        let roles = self.roles(definition, step, place).into_iter();
        let mut calls = vec![place.call(roles.map(|role| ("iam:GetRole", role)))];
        let changed = definition.containers.values();
        let pushed = changed.clone().filter_map(|container| self.image(container.image.as_ref()?));
        for image in pushed {
            if let (_, Some(arn), _) = self.repository(image, step, place) {
                calls.push(place.call([
                    ("ecr:GetAuthorizationToken", Resource::Any),
                    ("ecr:BatchGetImage", arn.clone()),
                    ("ecr:GetDownloadUrlForLayer", arn),
                ]));
            }
        }
        let images = facts.into_iter().flat_map(|facts| &facts.images);
        calls.extend(images.filter_map(|image| pull(image, place)));
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
            described.push(place.made("secretsmanager", "secret:*"));
        }
        calls.extend(described.into_iter().map(|arn| place.call([("secretsmanager:DescribeSecret", arn)])));
        if facts.is_none() || !parameters.is_empty() {
            calls.push(place.call([("ssm:DescribeParameters", Resource::Any)]));
        }
        if facts.is_none_or(|facts| !facts.log_groups.is_empty()) {
            calls.push(place.call([("logs:DescribeLogGroups", place.made("logs", "log-group:*"))]));
        }
        calls
    }

    /// The logs of the containers that the pipeline's task definitions have.
    fn logs(&self, place: &Place) -> Vec<Call> {
        let stream = |group: String| place.made("logs", format!("log-group:{group}:log-stream:*"));
        let groups = self.log_groups().into_iter();
        groups.map(|group| place.call([("logs:GetLogEvents", stream(group))])).collect()
    }

    /// The roles that tasks of this definition get.
    fn roles(&self, definition: &TaskDefinition, step: &Step, place: &Place) -> Vec<Resource> {
        let own = Some(&step.env);
        let named = [&definition.task_role, &definition.execution_role];
        let mut roles: Vec<Resource> =
            named.into_iter().flatten().map(|role| place.role_named(&self.text(role, own))).collect();
        match self.facts.definitions.get(&step.id) {
            Some(facts) => roles.extend(facts.roles.iter().map(|role| place.role_named(role))),
            // Only ECS, or a file that is not here, knows the roles of the base.
            None if named.iter().any(|role| role.is_none()) => roles.push(place.role_named("*")),
            None => {}
        }
        roles.sort();
        roles.dedup();
        roles
    }

    fn service(cluster: &str, service: String, place: &Place) -> Resource {
        let cluster = short_name(cluster);
        place.arn_or(service, "ecs", |service| format!("service/{cluster}/{service}"))
    }

    pub(crate) fn run_task(&self, task: &RunTask, step: &Step, place: &Place) -> Vec<Call> {
        let own = Some(&step.env);
        let cluster = self.text(&task.cluster, own);
        let short = short_name(&cluster);
        let mut calls = vec![place.call([("ecs:DescribeTaskDefinition", Resource::Any)])];
        if let TaskPlace::Service(service) = &task.place {
            let service = Self::service(&cluster, self.text(service, own), place);
            calls.push(place.call([("ecs:DescribeServices", service)]));
        }
        let families = match &task.task_definition {
            Some(family) => vec![family_of(&self.text(family, own)).to_owned()],
            None => self.families(),
        };
        for family in families {
            let resource = place.made("ecs", format!("task-definition/{family}:*"));
            calls.push(self.on_family("ecs:RunTask", &resource, place));
        }
        let tasks = place.made("ecs", format!("task/{short}/*"));
        calls.push(place.call([("ecs:DescribeTasks", tasks.clone())]));
        calls.push(place.change("ecs:StopTask", tasks, Some("where the task takes too long"), self.fill()));
        calls.extend(self.logs(place));
        for definition in self.pipeline.steps() {
            if let Action::TaskDefinition(inner) = &definition.action
                && inner.registers()
            {
                let passes = self.roles(inner, definition, place).into_iter().map(|role| (role, TASKS));
                calls.push(Call { passes: passes.collect(), ..place.call([]) });
            }
        }
        calls
    }

    /// A change of a family: it is allowed on any of its revisions, and shown without one.
    fn on_family(&self, action: &'static str, revisions: &Resource, place: &Place) -> Call {
        let mut call = place.change(action, revisions.clone(), None, self.fill());
        if let Some(change) = &mut call.change {
            change.target = change.target.trim_end_matches(":*").to_owned();
        }
        call
    }

    /// The family that a step registers, as far as it is known.
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

    /// The log groups that the pipeline's task definitions name; any where one is not known.
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

    pub(crate) fn deploy(&self, deploy: &Deploy, step: &Step, place: &Place) -> Vec<Call> {
        let own = Some(&step.env);
        let cluster = self.text(&deploy.cluster, own);
        let mut calls = Vec::new();
        if let Some(code_deploy) = &deploy.code_deploy {
            let (application, group) =
                (self.text(&code_deploy.application, own), self.text(&code_deploy.group, own));
            let resource = place.made("codedeploy", format!("deploymentgroup:{application}/{group}"));
            for service in &deploy.services {
                let service = Self::service(&cluster, self.text(service, own), place);
                calls.push(place.call([
                    ("ecs:DescribeServices", service),
                    ("codedeploy:GetDeploymentGroup", resource.clone()),
                ]));
            }
            let mut call = place.change("codedeploy:CreateDeployment", resource.clone(), None, self.fill());
            call.permissions.extend([
                ("codedeploy:GetDeployment", resource.clone()),
                // To find one whose answer was lost, and one that has taken its place.
                ("codedeploy:ListDeployments", resource),
                (
                    "codedeploy:RegisterApplicationRevision",
                    place.made("codedeploy", format!("application:{application}")),
                ),
                ("codedeploy:GetDeploymentConfig", place.made("codedeploy", "deploymentconfig:*")),
                ("codedeploy:ListDeploymentTargets", Resource::Any),
                ("codedeploy:BatchGetDeploymentTargets", Resource::Any),
            ]);
            calls.push(call);
            if deploy.on_failure == OnFailure::Rollback {
                // It takes no resource, whatever the user guide says.
                let condition = Some("where it cannot succeed, takes too long, or the run is stopped");
                calls.push(place.change("codedeploy:StopDeployment", Resource::Any, condition, self.fill()));
            }
        } else {
            for service in &deploy.services {
                let name = self.text(service, own);
                calls.extend(self.deploy_service(&cluster, &name, deploy.on_failure, place));
            }
        }
        let short = short_name(&cluster);
        // Why a deployment fails, and which images run.
        calls.push(place.call([
            ("ecs:ListTasks", Resource::Any),
            ("ecs:DescribeTasks", place.made("ecs", format!("task/{short}/*"))),
            ("ecs:DescribeTaskDefinition", Resource::Any),
            ("elasticloadbalancing:DescribeTargetGroups", Resource::Any),
        ]));
        calls.extend(self.logs(place));
        calls.extend(self.after(deploy, place));
        calls
    }

    /// What follows a deployment.
    fn after(&self, deploy: &Deploy, place: &Place) -> Vec<Call> {
        let (rules, schedules) = (place.made("events", "rule/*"), place.made("scheduler", "schedule/*"));
        let mut calls = Vec::new();
        if deploy.schedules || deploy.keep_revisions.is_some() {
            calls.push(place.call([
                ("events:ListEventBuses", Resource::Any),
                ("events:ListRuleNamesByTarget", Resource::Any),
                ("events:ListTargetsByRule", rules.clone()),
                ("scheduler:ListSchedules", Resource::Any),
                ("scheduler:GetSchedule", schedules.clone()),
            ]));
        }
        if deploy.schedules {
            let condition = Some("where it starts an older revision of the family in this cluster");
            let mut call = place.change("events:PutTargets", rules, condition, self.fill());
            call.passes.push((place.role_named("*"), EVENTS));
            calls.push(call);
            let mut call = place.change("scheduler:UpdateSchedule", schedules, condition, self.fill());
            call.passes.push((place.role_named("*"), SCHEDULER));
            calls.push(call);
        }
        if deploy.keep_revisions.is_some() {
            // Whatever cluster it is in that uses the family.
            let any = |kind: &str| place.made("ecs", format!("{kind}/*"));
            calls.push(place.call([
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
            calls.push(place.change("ecs:DeregisterTaskDefinition", Resource::Any, condition, self.fill()));
        }
        calls
    }

    /// A service is pointed to a revision, followed, and on the way back where that fails.
    fn deploy_service(&self, cluster: &str, name: &str, on_failure: OnFailure, place: &Place) -> Vec<Call> {
        let service = Self::service(cluster, name.to_owned(), place);
        let short = short_name(cluster);
        let name = short_name(name);
        let of = |kind: &str| place.made("ecs", format!("{kind}/{short}/{name}/*"));
        let mut update = place.change("ecs:UpdateService", service.clone(), None, self.fill());
        update.permissions.push(("ecs:DescribeServices", service.clone()));
        update.permissions.push(("ecs:ListServiceDeployments", service));
        update.permissions.push(("ecs:DescribeServiceDeployments", of("service-deployment")));
        update.permissions.push(("ecs:DescribeServiceRevisions", of("service-revision")));
        let mut calls = vec![update];
        if on_failure == OnFailure::Rollback {
            let condition = Some("where the deployment fails or takes too long");
            let deployments = of("service-deployment");
            calls.push(place.change("ecs:StopServiceDeployment", deployments, condition, self.fill()));
        }
        calls
    }
}
