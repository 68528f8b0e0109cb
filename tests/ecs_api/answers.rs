//! The operations and their responses, in the shapes of the API reference of Amazon ECS.

use super::script::{OneOff, Service, TaskOutcome};
use super::state::{Deployment, Life, Playing, Said, State, last, now, refusal};
use super::tasks::{Task, usable};
use serde_json::{Value, json};

/// A service's deployment configuration.
pub(super) fn configuration(service: &Service) -> Value {
    let (enable, rollback) = service.circuit_breaker;
    let mut configuration = json!({
        "deploymentCircuitBreaker": { "enable": enable, "rollback": rollback },
        "maximumPercent": 200, "minimumHealthyPercent": 100, "strategy": "ROLLING", "bakeTimeInMinutes": 0,
        "alarms": { "alarmNames": [], "rollback": false, "enable": false },
    });
    for (_, more) in service.more.iter().filter(|(name, _)| name == "deploymentConfiguration") {
        for (name, value) in more.as_object().unwrap() {
            configuration[name] = value.clone();
        }
    }
    configuration
}

fn cluster_of(asked: &Value) -> &str {
    last(asked["cluster"].as_str().unwrap_or("default"))
}

fn texts(values: &Value) -> Vec<&str> {
    values.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn missing(arn: &str) -> Value {
    json!({ "arn": arn, "reason": "MISSING" })
}

/// A page of a list, and the token of the next one.
fn page(items: Vec<Value>, asked: &Value, name: &str) -> Value {
    let from: usize = asked["nextToken"].as_str().map_or(0, |token| token.parse().unwrap());
    let most = usize::try_from(asked["maxResults"].as_u64().unwrap_or(100)).unwrap();
    let count = items.len();
    let mut answer = json!({ name: items.into_iter().skip(from).take(most).collect::<Vec<_>>() });
    if from + most < count {
        answer["nextToken"] = json!((from + most).to_string());
    }
    answer
}

fn too_many(values: &[&str], most: usize, what: &str) -> Option<Said> {
    let message = if values.is_empty() {
        format!("{what} cannot be empty.")
    } else {
        format!("Too many {what}: at most {most} are allowed.")
    };
    (values.is_empty() || values.len() > most).then(|| refusal("InvalidParameterException", &message))
}

impl Playing {
    fn arn(&self) -> String {
        format!("arn:aws:ecs:us-east-1:123456789012:service/{}/{}", self.service.cluster, self.service.name)
    }

    fn cluster_arn(&self) -> String {
        format!("arn:aws:ecs:us-east-1:123456789012:cluster/{}", self.service.cluster)
    }

    /// The fields that a service and each of its deployments share.
    fn placement(&self) -> Vec<(&String, &Value)> {
        let names = [
            "launchType",
            "platformVersion",
            "platformFamily",
            "networkConfiguration",
            "capacityProviderStrategy",
        ];
        let own = self.service.more.iter().filter(|(name, _)| names.contains(&name.as_str()));
        own.map(|(name, value)| (name, value)).collect()
    }

    fn row(&self, place: usize, number: usize) -> Value {
        let it = &self.deployments[number];
        let is_draining = place > 0 && self.current().status != "PENDING";
        let mut row = json!({
            "id": it.id, "status": if place == 0 { "PRIMARY" } else { "ACTIVE" }, "taskDefinition": it.definition,
            "desiredCount": if is_draining { it.running } else { it.requested }, "pendingCount": it.pending,
            "runningCount": it.running, "failedTasks": it.failed, "createdAt": it.created, "updatedAt": it.updated,
            "rolloutState": it.rollout.0, "rolloutStateReason": it.rollout.1,
        });
        for (name, value) in self.placement() {
            row[name] = value.clone();
        }
        row
    }

    /// Its one task set, if `CodeDeploy` deploys it.
    fn task_set(&self) -> Value {
        let it = self.current();
        json!({
            "id": it.id, "taskSetArn": format!("arn:aws:ecs:us-east-1:123456789012:task-set/{}/{}/{}", self.service.cluster, self.service.name, it.id),
            "serviceArn": self.arn(), "clusterArn": self.cluster_arn(), "status": "PRIMARY", "startedBy": "CODE_DEPLOY",
            "taskDefinition": it.definition, "computedDesiredCount": it.requested, "pendingCount": it.pending,
            "runningCount": it.running, "createdAt": it.created, "updatedAt": it.updated,
            "scale": { "value": 100.0, "unit": "PERCENT" }, "stabilityStatus": "STEADY_STATE",
        })
    }

    /// As `DescribeServices` returns it.
    fn json(&self) -> Value {
        let is_active = self.life == Life::Active;
        let sum = |count: fn(&Deployment) -> i64| -> i64 {
            if is_active { self.rows.iter().map(|row| count(&self.deployments[*row])).sum() } else { 0 }
        };
        let by_ecs = self.service.controller == "ECS";
        let rows = self.rows.iter().enumerate().map(|(place, number)| self.row(place, *number));
        let rows: Vec<Value> = if by_ecs && is_active { rows.collect() } else { Vec::new() };
        let summaries = self.rows.iter().map(|row| self.deployments[*row].summary());
        let latest = self.deployments.last().unwrap();
        let mut json = json!({
            "serviceArn": self.arn(), "serviceName": self.service.name, "clusterArn": self.cluster_arn(),
            "loadBalancers": [], "serviceRegistries": [], "status": if is_active { "ACTIVE" } else { "INACTIVE" },
            "desiredCount": if is_active { self.service.desired } else { 0 },
            "runningCount": sum(|it| it.running), "pendingCount": sum(|it| it.pending),
            "taskDefinition": self.service.definition, "deploymentConfiguration": configuration(&self.service),
            "deployments": rows, "events": self.events.iter().rev().take(100).collect::<Vec<_>>(),
            "createdAt": self.created, "placementConstraints": [], "placementStrategy": [],
            "schedulingStrategy": "REPLICA", "deploymentController": { "type": self.service.controller },
            "enableECSManagedTags": true, "propagateTags": "NONE", "enableExecuteCommand": false,
            "availabilityZoneRebalancing": "DISABLED",
        });
        if by_ecs {
            json["currentServiceDeployment"] = json!(latest.arn);
            json["currentServiceRevisions"] = summaries.collect();
        } else {
            json["taskSets"] = json!([self.task_set()]);
        }
        let more = self.service.more.iter().filter(|(name, _)| name != "deploymentConfiguration");
        for (name, value) in more {
            json[name] = value.clone();
        }
        json
    }

    /// A service deployment, as `DescribeServiceDeployments` returns it.
    fn deployment(&self, it: &Deployment) -> Value {
        let source = it.source.map(|source| self.deployments[source].summary());
        let mut target = it.summary();
        if let Some(weight) = it.weight {
            target["requestedProductionTrafficWeight"] = json!(weight);
        }
        let mut json = self.brief(it);
        json.as_object_mut().unwrap().remove("targetServiceRevisionArn");
        for (field, value) in [
            ("updatedAt", json!(it.updated)),
            ("sourceServiceRevisions", source.into_iter().collect()),
            ("targetServiceRevision", target),
            ("deploymentConfiguration", it.configuration.clone()),
            ("deploymentCircuitBreaker", it.breaker.clone()),
            ("alarms", it.alarms.clone()),
        ] {
            json[field] = value;
        }
        for (field, value) in [
            ("stoppedAt", it.stopped.map(Value::from)),
            ("lifecycleStage", it.stage.clone().map(Value::from)),
            ("rollback", it.rollback.clone()),
            (
                "lifecycleHookDetails",
                it.paused.as_ref().map(
                    |hook| json!([{ "hookId": hook, "targetType": "PAUSE", "status": "AWAITING_ACTION" }]),
                ),
            ),
        ] {
            if let Some(value) = value {
                json[field] = value;
            }
        }
        json
    }

    /// A service deployment, as `ListServiceDeployments` returns it.
    fn brief(&self, it: &Deployment) -> Value {
        let mut json = json!({
            "serviceDeploymentArn": it.arn, "serviceArn": self.arn(), "clusterArn": self.cluster_arn(),
            "createdAt": it.created, "targetServiceRevisionArn": it.revision, "status": it.status,
        });
        for (field, value) in [
            ("startedAt", it.started.map(Value::from)),
            ("finishedAt", it.finished.map(Value::from)),
            ("statusReason", it.reason.clone().map(Value::from)),
        ] {
            if let Some(value) = value {
                json[field] = value;
            }
        }
        json
    }

    fn revision(&self, it: &Deployment) -> Value {
        let mut json = json!({
            "serviceRevisionArn": it.revision, "serviceArn": self.arn(), "clusterArn": self.cluster_arn(),
            "taskDefinition": it.definition, "containerImages": it.images, "guardDutyEnabled": false,
            "serviceConnectConfiguration": { "enabled": false }, "createdAt": it.created,
        });
        for (name, value) in self.placement() {
            json[name] = value.clone();
        }
        json
    }
}

impl Deployment {
    fn summary(&self) -> Value {
        json!({
            "arn": self.revision, "requestedTaskCount": self.requested, "runningTaskCount": self.running,
            "pendingTaskCount": self.pending,
        })
    }
}

impl State {
    /// The response to a call, or `None` if the bed must answer it.
    pub fn answer(&mut self, action: &str, asked: &Value) -> Option<Said> {
        Some(match action {
            "ecs:ListClusters" => Ok(self.list_clusters(asked)),
            "ecs:DescribeServices" => self.describe_services(asked),
            "ecs:UpdateService" => self.update_service(asked),
            "ecs:ListServiceDeployments" => self.list_service_deployments(asked),
            "ecs:DescribeServiceDeployments" => self.describe_service_deployments(asked),
            "ecs:DescribeServiceRevisions" => self.describe_service_revisions(asked),
            "ecs:StopServiceDeployment" => self.stop_service_deployment(asked),
            "ecs:ListTasks" => self.list_tasks(asked),
            "ecs:DescribeTasks" => self.describe_tasks(asked),
            "ecs:RunTask" => self.run_task(asked),
            "ecs:StopTask" => self.stop_task(asked),
            "logs:GetLogEvents" => self.logs.events(asked),
            _ => return None,
        })
    }

    /// The error for a cluster that has no service.
    fn no_cluster(&self, asked: &Value) -> Option<Said> {
        let cluster = cluster_of(asked);
        let known = self.services.iter().any(|playing| playing.service.cluster == cluster);
        (!known).then(|| refusal("ClusterNotFoundException", "Cluster not found."))
    }

    /// The clusters of its services, and none of the bed's. One per page, so that callers must follow the pages.
    fn list_clusters(&self, asked: &Value) -> Value {
        let mut arns: Vec<Value> = self.services.iter().map(|playing| json!(playing.cluster_arn())).collect();
        arns.sort_by_key(ToString::to_string);
        arns.dedup();
        let asked = json!({ "nextToken": asked["nextToken"], "maxResults": 1 });
        page(arns, &asked, "clusterArns")
    }

    fn find(&self, asked: &Value, name: &str) -> Option<usize> {
        self.services.iter().position(|playing| {
            let own = &playing.service;
            own.cluster == cluster_of(asked) && own.name == last(name) && playing.life != Life::Gone
        })
    }

    fn describe_services(&mut self, asked: &Value) -> Said {
        let names = texts(&asked["services"]);
        if let Some(refused) = too_many(&names, 10, "Services").or_else(|| self.no_cluster(asked)) {
            return refused;
        }
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for name in names {
            if let Some(at) = self.find(asked, name) {
                self.advance(at);
            }
            match self.find(asked, name) {
                Some(at) => found.push(self.services[at].json()),
                None => failures.push(missing(&format!(
                    "arn:aws:ecs:us-east-1:123456789012:service/{}/{}",
                    cluster_of(asked),
                    last(name)
                ))),
            }
        }
        Ok(json!({ "services": found, "failures": failures }))
    }

    fn update_service(&mut self, asked: &Value) -> Said {
        if let Some(refused) = self.no_cluster(asked) {
            return refused;
        }
        let Some(at) = self.find(asked, asked["service"].as_str().unwrap_or_default()) else {
            return refusal("ServiceNotFoundException", "Service not found.");
        };
        if self.services[at].life != Life::Active {
            return refusal("ServiceNotActiveException", "Service was not ACTIVE.");
        }
        if self.services[at].service.controller != "ECS" && asked.get("taskDefinition").is_some() {
            return refusal(
                "InvalidParameterException",
                "Unable to update task definition on services with a CODE_DEPLOY deployment controller. Use AWS CodeDeploy to trigger a new deployment.",
            );
        }
        let mut definition = self.services[at].service.definition.clone();
        let mut is_new = asked["forceNewDeployment"] == true;
        if let Some(wanted) = asked["taskDefinition"].as_str() {
            let found = usable(wanted)?;
            let found = found["taskDefinitionArn"].as_str().unwrap();
            is_new |= found != definition;
            found.clone_into(&mut definition);
        }
        if is_new {
            self.deploy(at, &definition);
        }
        Ok(json!({ "service": self.services[at].json() }))
    }

    fn list_service_deployments(&self, asked: &Value) -> Said {
        if let Some(refused) = self.no_cluster(asked) {
            return refused;
        }
        let Some(at) = self.find(asked, asked["service"].as_str().unwrap_or_default()) else {
            return refusal("ServiceNotFoundException", "Service not found.");
        };
        let playing = &self.services[at];
        if playing.service.controller != "ECS" {
            return Ok(json!({ "serviceDeployments": [] }));
        }
        let wanted = texts(&asked["status"]);
        let fits = |it: &&Deployment| wanted.is_empty() || wanted.contains(&it.status.as_str());
        let found = playing.deployments.iter().rev().filter(fits).map(|it| playing.brief(it)).collect();
        Ok(page(found, asked, "serviceDeployments"))
    }

    /// The results and the failures for these ARNs.
    fn each(
        &self,
        arns: &[&str],
        json: impl Fn(&Playing, &Deployment, &str) -> Option<Value>,
    ) -> (Vec<Value>, Vec<Value>) {
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for arn in arns {
            let mut all = self
                .services
                .iter()
                .flat_map(|playing| playing.deployments.iter().map(move |it| (playing, it)));
            match all.find_map(|(playing, it)| json(playing, it, arn)) {
                Some(value) => found.push(value),
                None => failures.push(missing(arn)),
            }
        }
        (found, failures)
    }

    fn describe_service_deployments(&self, asked: &Value) -> Said {
        let arns = texts(&asked["serviceDeploymentArns"]);
        if let Some(refused) = too_many(&arns, 20, "Service deployment ARNs") {
            return refused;
        }
        let (found, failures) =
            self.each(&arns, |playing, it, arn| (it.arn == arn).then(|| playing.deployment(it)));
        Ok(json!({ "serviceDeployments": found, "failures": failures }))
    }

    fn describe_service_revisions(&self, asked: &Value) -> Said {
        let arns = texts(&asked["serviceRevisionArns"]);
        if let Some(refused) = too_many(&arns, 20, "Service revision ARNs") {
            return refused;
        }
        let (found, failures) =
            self.each(&arns, |playing, it, arn| (it.revision == arn).then(|| playing.revision(it)));
        Ok(json!({ "serviceRevisions": found, "failures": failures }))
    }

    fn stop_service_deployment(&mut self, asked: &Value) -> Said {
        let arn = asked["serviceDeploymentArn"].as_str().unwrap_or_default();
        let all = self.services.iter_mut().flat_map(|playing| playing.deployments.iter_mut());
        let Some(deployment) = all.into_iter().find(|it| it.arn == arn) else {
            return refusal("ServiceDeploymentNotFoundException", "Service deployment not found.");
        };
        if deployment.is_final() {
            let message = format!(
                "The service deployment is in the {} state and cannot be stopped.",
                deployment.status
            );
            return refusal("ConflictException", &message);
        }
        if !deployment.status.starts_with("ROLLBACK") {
            "ROLLBACK_REQUESTED".clone_into(&mut deployment.status);
            let steps = deployment.when_stopped.clone();
            deployment.follow(steps);
        }
        deployment.updated = now();
        Ok(json!({ "serviceDeploymentArn": arn }))
    }

    fn list_tasks(&self, asked: &Value) -> Said {
        if let Some(refused) = self.no_cluster(asked) {
            return refused;
        }
        let text = |field: &str| asked[field].as_str();
        if text("startedBy").is_some() && (text("serviceName").is_some() || text("family").is_some()) {
            return refusal("InvalidParameterException", "startedBy must be the only filter.");
        }
        if text("serviceName").is_some_and(|name| self.find(asked, name).is_none()) {
            return refusal("ServiceNotFoundException", "Service not found.");
        }
        let group = text("serviceName").map(|name| format!("service:{}", last(name)));
        let fits = |task: &&Task| {
            task.cluster == cluster_of(asked)
                && task.desired == text("desiredStatus").unwrap_or("RUNNING")
                && group.as_ref().is_none_or(|group| task.group == *group)
                && text("family").is_none_or(|family| task.family == family)
                && text("startedBy").is_none_or(|by| task.started_by.as_deref() == Some(by))
        };
        let found = self.tasks.iter().filter(fits).map(|task| json!(task.arn)).collect();
        Ok(page(found, asked, "taskArns"))
    }

    fn task(&self, asked: &Value, name: &str) -> Option<usize> {
        let cluster = cluster_of(asked);
        self.tasks.iter().position(|task| task.cluster == cluster && task.id() == last(name))
    }

    fn describe_tasks(&mut self, asked: &Value) -> Said {
        let names = texts(&asked["tasks"]);
        if let Some(refused) = too_many(&names, 100, "Tasks").or_else(|| self.no_cluster(asked)) {
            return refused;
        }
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for name in names {
            let Some(at) = self.task(asked, name) else {
                let arn =
                    format!("arn:aws:ecs:us-east-1:123456789012:task/{}/{}", cluster_of(asked), last(name));
                failures.push(missing(&arn));
                continue;
            };
            self.tasks[at].advance(&mut self.logs);
            found.push(self.tasks[at].json());
        }
        Ok(json!({ "tasks": found, "failures": failures }))
    }

    fn run_task(&mut self, asked: &Value) -> Said {
        if let Some(refused) = self.no_cluster(asked) {
            return refused;
        }
        let token = asked["clientToken"].as_str();
        let known: Vec<Value> = self
            .tasks
            .iter()
            .filter(|task| token.is_some() && task.token.as_deref() == token)
            .map(Task::json)
            .collect();
        if !known.is_empty() {
            return Ok(json!({ "tasks": known, "failures": [] }));
        }
        let definition = usable(asked["taskDefinition"].as_str().unwrap_or_default())?;
        let script = self.next_one_off(&definition);
        if let Some((reason, detail)) = script.refused {
            let arn = format!("arn:aws:ecs:us-east-1:123456789012:cluster/{}", cluster_of(asked));
            let failure = json!({ "arn": arn, "reason": reason, "detail": detail });
            return Ok(json!({ "tasks": [], "failures": [failure] }));
        }
        let mut started = Vec::new();
        for _ in 0..asked["count"].as_u64().unwrap_or(1) {
            let group = format!("family:{}", definition["family"].as_str().unwrap());
            let group = asked["group"].as_str().unwrap_or(&group);
            let mut task = Task::new(cluster_of(asked), &definition, group, asked["startedBy"].as_str());
            task.launch = asked.get("launchType").cloned().unwrap_or_else(|| json!("EC2"));
            if let Some(overrides) = asked.get("overrides") {
                task.overrides = overrides.clone();
            }
            task.token = token.map(ToOwned::to_owned);
            task.states = script.states.clone().into();
            started.push(task.json());
            self.tasks.push(task);
        }
        Ok(json!({ "tasks": started, "failures": [] }))
    }

    /// The script of the next standalone task. The last one is repeated; without any, all containers exit with 0.
    fn next_one_off(&mut self, definition: &Value) -> OneOff {
        let next = self.one_offs.front().cloned();
        if self.one_offs.len() > 1 {
            self.one_offs.pop_front();
        }
        next.unwrap_or_else(|| {
            let containers = definition["containerDefinitions"].as_array().unwrap().iter();
            let outcome =
                TaskOutcome::stopped("EssentialContainerExited", "Essential container in task exited");
            let outcome = containers
                .fold(outcome, |outcome, container| outcome.exit(container["name"].as_str().unwrap(), 0));
            OneOff::starts().state("RUNNING").ends(outcome)
        })
    }

    fn stop_task(&mut self, asked: &Value) -> Said {
        if let Some(refused) = self.no_cluster(asked) {
            return refused;
        }
        let Some(at) = self.task(asked, asked["task"].as_str().unwrap_or_default()) else {
            return refusal("InvalidParameterException", "The referenced task was not found.");
        };
        let task = &mut self.tasks[at];
        if task.desired == "RUNNING" {
            task.desired = "STOPPED";
            let reason = asked["reason"].as_str().unwrap_or("Task stopped by user");
            task.stop = Some(("UserInitiated".to_owned(), reason.to_owned()));
            let names = task.containers.iter().map(|container| container["name"].as_str().unwrap());
            let outcome = TaskOutcome::stopped("UserInitiated", reason);
            let outcome = names.fold(outcome, |outcome, name| outcome.exit(name, 143));
            task.states = [("STOPPED".to_owned(), outcome)].into();
        }
        Ok(json!({ "task": task.json() }))
    }
}
