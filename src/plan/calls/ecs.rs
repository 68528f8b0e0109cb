//! What the steps for Amazon ECS ask of AWS.

use super::{Call, Caller, Place, Unknowns};
use crate::pipeline::model::{Action, Deploy, RunTask, Step, TaskDefinition, TaskDefinitionBase, TaskPlace};
use crate::pipeline::reference::family_of;
use crate::plan::resource::Resource;

impl Caller<'_> {
    pub(super) fn task_definition(
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
            TaskDefinitionBase::File(_) => {
                calls.push(place.call([("ecs:DescribeTaskDefinition", Resource::Any)]));
            }
        }
        let family = self.family(definition, step);
        let resource = place.made("ecs", format!("task-definition/{family}:*"));
        let mut call = self.on_family("ecs:RegisterTaskDefinition", &resource, place);
        // What the base has is registered again, tags included; what base that is, ECS may be alone to know.
        if !definition.tags.is_empty() || facts.is_none_or(|facts| facts.tagged) {
            call.permissions.push(("ecs:TagResource", resource));
        }
        call.permissions.extend(self.pass_role(definition, step, place));
        calls.push(call);
        calls
    }

    /// The roles that tasks of this definition get.
    fn pass_role(
        &self,
        definition: &TaskDefinition,
        step: &Step,
        place: &Place,
    ) -> Vec<(&'static str, Resource)> {
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
        roles.into_iter().map(|role| ("iam:PassRole", role)).collect()
    }

    fn service(cluster: &str, service: String, place: &Place) -> Resource {
        let cluster = cluster.rsplit('/').next().unwrap_or_default().to_owned();
        place.arn_or(service, "ecs", |service| format!("service/{cluster}/{service}"))
    }

    pub(super) fn run_task(&self, task: &RunTask, step: &Step, place: &Place) -> Vec<Call> {
        let own = Some(&step.env);
        let cluster = self.text(&task.cluster, own);
        let short = cluster.rsplit('/').next().unwrap_or_default();
        let mut calls = Vec::new();
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
        for group in self.log_groups() {
            let name = format!("log-group:{group}:log-stream:*");
            calls.push(place.call([("logs:GetLogEvents", place.made("logs", name))]));
        }
        for definition in self.pipeline.steps() {
            if let Action::TaskDefinition(inner) = &definition.action {
                let roles = self.pass_role(inner, definition, place);
                calls.push(place.call(roles));
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
            if let Action::TaskDefinition(definition) = &step.action {
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

    pub(super) fn deploy(&self, deploy: &Deploy, step: &Step, place: &Place) -> Vec<Call> {
        let own = Some(&step.env);
        let cluster = self.text(&deploy.cluster, own);
        let mut calls = Vec::new();
        if let Some(code_deploy) = &deploy.code_deploy {
            let (application, group) =
                (self.text(&code_deploy.application, own), self.text(&code_deploy.group, own));
            let resource = place.made("codedeploy", format!("deploymentgroup:{application}/{group}"));
            let mut call = place.change("codedeploy:CreateDeployment", resource.clone(), None, self.fill());
            call.permissions.extend([
                ("codedeploy:GetDeployment", resource),
                (
                    "codedeploy:RegisterApplicationRevision",
                    place.made("codedeploy", format!("application:{application}")),
                ),
                ("codedeploy:GetDeploymentConfig", place.made("codedeploy", "deploymentconfig:*")),
            ]);
            calls.push(call);
        } else {
            for service in &deploy.services {
                let service = Self::service(&cluster, self.text(service, own), place);
                let mut call = place.change("ecs:UpdateService", service.clone(), None, self.fill());
                if !deploy.force {
                    // To find out whether it runs that revision already.
                    call.permissions.push(("ecs:DescribeServices", service));
                }
                calls.push(call);
            }
        }
        if deploy.keep_revisions.is_some() {
            let mut call = place.change(
                "ecs:DeregisterTaskDefinition",
                Resource::Any,
                Some("for revisions that are older and not in use"),
                self.fill(),
            );
            call.permissions.push(("ecs:ListTaskDefinitions", Resource::Any));
            calls.push(call);
        }
        calls
    }
}
