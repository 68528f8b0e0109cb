//! A `CodeDeploy` that follows a script, the service that it deploys, and a project that asks it to.

use crate::ecs_api::{EcsApi, Fault, Scenario, Service, revision};
use crate::harness::{Call, Outcome, Project, ecs_service};
use indoc::formatdoc;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What a deployment says of itself at one look; the last one stays.
#[derive(Clone, Default)]
pub struct Look {
    status: &'static str,
    /// The stages of its lifecycle, with their state.
    events: Vec<(&'static str, &'static str)>,
    /// Running tasks of the new set, and its share of the traffic.
    green: Option<(i64, f64)>,
    error: Option<(&'static str, &'static str)>,
    /// The deployment that takes it back.
    back: Option<usize>,
    /// The earlier tasks wait for their end.
    keeps: bool,
}

pub fn look(status: &'static str) -> Look {
    Look { status, ..Look::default() }
}

impl Look {
    pub fn events(mut self, events: &[(&'static str, &'static str)]) -> Self {
        self.events = events.to_vec();
        self
    }

    pub fn green(mut self, running: i64, traffic: f64) -> Self {
        self.green = Some((running, traffic));
        self
    }

    pub fn error(mut self, code: &'static str, message: &'static str) -> Self {
        self.error = Some((code, message));
        self
    }

    /// It is taken back by the deployment with this number.
    pub fn back(mut self, number: usize) -> Self {
        self.back = Some(number);
        self
    }

    pub fn keeps(mut self) -> Self {
        self.keeps = true;
        self
    }
}

/// A deployment as it is played.
pub struct Played {
    pub looks: Vec<Look>,
    /// Its steps after it has been stopped.
    pub when_stopped: Vec<Look>,
    pub description: Value,
    pub sha256: Value,
    pub creator: &'static str,
    /// It is rolled back if it fails.
    pub rolls_back: bool,
    /// When it was made, in seconds after the others.
    pub age: f64,
}

impl Played {
    pub fn new(looks: impl Into<Vec<Look>>) -> Self {
        let (looks, when_stopped) = (looks.into(), Vec::new());
        Self {
            looks,
            when_stopped,
            description: json!("another pipeline"),
            sha256: json!("0"),
            creator: "user",
            rolls_back: true,
            age: 0.0,
        }
    }

    pub fn when_stopped(mut self, looks: impl Into<Vec<Look>>) -> Self {
        self.when_stopped = looks.into();
        self
    }

    pub fn rollback(looks: impl Into<Vec<Look>>) -> Self {
        Self { creator: "codeDeployRollback", age: 5.0, ..Self::new(looks) }
    }
}

/// `CodeDeploy`, and the service as it changes that.
pub struct Stage {
    pub name: String,
    pub definition: String,
    /// The first is what `CreateDeployment` makes, the others come by themselves.
    pub deployments: Vec<Played>,
    /// `CreateDeployment` has been called so often with an effect.
    pub made: usize,
    /// The group has this deployment under way.
    pub active: Option<usize>,
    /// More fields of the service.
    pub more: Value,
    /// Tasks that ended: stop code, reason, exit code.
    pub stopped: Option<(&'static str, &'static str, i64)>,
    pub started: f64,
}

fn id(number: usize) -> String {
    format!("d-PLAYED{number:03}")
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64().floor()
}

impl Stage {
    fn number(body: &Value) -> usize {
        body["deploymentId"].as_str().unwrap().trim_start_matches("d-PLAYED").parse().unwrap()
    }

    /// Whether our deployment has the traffic.
    fn has_moved(&self) -> bool {
        self.made > 0 && self.deployments[0].looks[0].status == "Succeeded"
    }

    fn answer(&mut self, action: &str, body: &Value) -> Option<(u16, Value)> {
        let refusal = |kind: &str, message: &str| (400, json!({ "__type": kind, "message": message }));
        Some(match action {
            "codedeploy:GetDeploymentGroup" if body["deploymentGroupName"] == "GROUP" => {
                let services = json!([{ "clusterName": self.name, "serviceName": self.name }]);
                (
                    200,
                    json!({ "deploymentGroupInfo": { "deploymentGroupName": "GROUP", "ecsServices": services } }),
                )
            }
            "codedeploy:GetDeploymentGroup" => {
                refusal("DeploymentGroupDoesNotExistException", "No Deployment Group found")
            }
            "codedeploy:CreateDeployment" => {
                if let Some(active) = self.active {
                    let text = format!(
                        "The Deployment Group 'GROUP' already has an active Deployment '{}'",
                        id(active)
                    );
                    return Some(refusal("DeploymentLimitExceededException", &text));
                }
                self.made += 1;
                self.active = Some(0);
                let own = &mut self.deployments[0];
                own.description = body["description"].clone();
                own.sha256 = body["revision"]["appSpecContent"]["sha256"].clone();
                (200, json!({ "deploymentId": id(0) }))
            }
            "codedeploy:ListDeployments" => {
                let first = usize::from(self.made == 0);
                let ids: Vec<String> = (first..self.deployments.len()).map(id).collect();
                (200, json!({ "deployments": ids }))
            }
            "codedeploy:GetDeployment" => {
                let number = Self::number(body);
                let own = &mut self.deployments[number];
                let answer = own.json(number, self.started);
                if own.looks.len() > 1 {
                    own.looks.remove(0);
                }
                (200, json!({ "deploymentInfo": answer }))
            }
            "codedeploy:ListDeploymentTargets" => {
                (200, json!({ "targetIds": [format!("{0}:{0}", self.name)] }))
            }
            "codedeploy:BatchGetDeploymentTargets" => {
                let now = &self.deployments[Self::number(body)].looks[0];
                (
                    200,
                    json!({ "deploymentTargets": [{ "deploymentTargetType": "ECSTarget", "ecsTarget": target(now) }] }),
                )
            }
            "codedeploy:StopDeployment" => {
                let own = &mut self.deployments[Self::number(body)];
                if ["Succeeded", "Failed", "Stopped"].contains(&own.looks[0].status) {
                    return Some(refusal(
                        "DeploymentAlreadyCompletedException",
                        "The deployment is already complete.",
                    ));
                }
                own.looks = own.when_stopped.clone();
                (200, json!({ "status": "Pending" }))
            }
            "ecs:DescribeServices" => (200, json!({ "services": [self.service()], "failures": [] })),
            "ecs:ListTasks" if self.made > 0 && self.stopped.is_some() => (
                200,
                json!({ "taskArns": [format!("arn:aws:ecs:us-east-1:123456789012:task/{}/abc", self.name)] }),
            ),
            "ecs:DescribeTasks" if self.stopped.is_some() && self.made > 0 => {
                (200, json!({ "tasks": [self.task()], "failures": [] }))
            }
            "elasticloadbalancing:DescribeTargetGroups" => {
                let text = "<DescribeTargetGroupsResponse><DescribeTargetGroupsResult><TargetGroups><member><TargetGroupArn>arn:g</TargetGroupArn><TargetType>ip</TargetType></member></TargetGroups></DescribeTargetGroupsResult></DescribeTargetGroupsResponse>";
                (200, json!(text))
            }
            _ => return None,
        })
    }

    fn service(&self) -> Value {
        let set = |number: u32, status: &str, by: Value| {
            json!({ "id": format!("ecs-svc/{number}"), "status": status, "taskDefinition": revision(&self.definition, number),
                "externalId": by, "startedBy": "CODE_DEPLOY", "loadBalancers": [{ "targetGroupArn": "arn:g", "containerName": "web", "containerPort": 8080 }],
                "platformVersion": "1.4.0", "launchType": "FARGATE" })
        };
        let (old, new) = if self.has_moved() { ("ACTIVE", "PRIMARY") } else { ("PRIMARY", "ACTIVE") };
        let mut sets = vec![set(1, old, json!("d-BEFORE"))];
        if self.made > 0 {
            sets.push(set(2, new, json!(id(0))));
        }
        let mut service = json!({
            "serviceName": self.name, "status": "ACTIVE", "desiredCount": 1, "runningCount": 1, "pendingCount": 0,
            // As it was created: what it runs is in its sets of tasks.
            "taskDefinition": revision(&self.definition, 1), "deploymentController": { "type": "CODE_DEPLOY" },
            "taskSets": sets, "deployments": [], "events": [], "loadBalancers": [],
        });
        for (name, value) in self.more.as_object().into_iter().flatten() {
            service[name] = value.clone();
        }
        service
    }

    fn task(&self) -> Value {
        let (code, reason, exit) = self.stopped.unwrap();
        json!({
            "taskArn": format!("arn:aws:ecs:us-east-1:123456789012:task/{}/abc", self.name), "lastStatus": "STOPPED",
            "taskDefinitionArn": revision(&self.definition, 2), "startedBy": "ecs-svc/2", "createdAt": now() + 1.0,
            "stopCode": code, "stoppedReason": reason, "containers": [{ "name": "web", "exitCode": exit }],
        })
    }
}

impl Played {
    fn json(&self, number: usize, started: f64) -> Value {
        let now = &self.looks[0];
        let mut info = json!({
            "deploymentId": id(number), "applicationName": "APPLICATION", "deploymentGroupName": "GROUP", "status": now.status,
            "description": self.description, "creator": self.creator, "createTime": started + self.age,
            "revision": { "revisionType": "AppSpecContent", "appSpecContent": { "sha256": self.sha256 } },
            "autoRollbackConfiguration": { "enabled": self.rolls_back }, "instanceTerminationWaitTimeStarted": now.keeps, "computePlatform": "ECS",
            "blueGreenDeploymentConfiguration": { "terminateBlueInstancesOnDeploymentSuccess": { "action": "TERMINATE", "terminationWaitTimeInMinutes": 60 } },
        });
        if let Some((code, message)) = now.error {
            info["errorInformation"] = json!({ "code": code, "message": message });
        }
        if let Some(back) = now.back {
            info["rollbackInfo"] = json!({ "rollbackDeploymentId": id(back) });
        }
        info
    }
}

fn target(now: &Look) -> Value {
    let events = now.events.iter().map(|(name, status)| {
        json!({ "lifecycleEventName": name, "status": status, "diagnostics": { "errorCode": "ScriptFailed", "message": "the hook said no" } })
    });
    let mut sets = vec![
        json!({ "identifer": "ecs-svc/1", "taskSetLabel": "Blue", "desiredCount": 1, "runningCount": 1, "pendingCount": 0, "trafficWeight": 100.0 }),
    ];
    if let Some((running, traffic)) = now.green {
        sets.push(json!({ "identifer": "ecs-svc/2", "taskSetLabel": "Green", "desiredCount": 1, "runningCount": running, "pendingCount": 1 - running, "trafficWeight": traffic }));
    }
    json!({ "lifecycleEvents": events.collect::<Vec<_>>(), "taskSetsInfo": sets, "status": now.status })
}

/// A service that `CodeDeploy` deploys, what its deployments go through, and a project that deploys it.
pub struct Play {
    pub api: EcsApi,
    pub project: Project,
    pub stage: Arc<Mutex<Stage>>,
}

impl Play {
    pub fn new(
        options: &str,
        deployments: Vec<Played>,
        set: impl FnOnce(&mut Stage),
        faults: Vec<Fault>,
    ) -> Self {
        let name = ecs_service();
        let mut stage = Stage {
            name: name.clone(),
            definition: name.clone(),
            deployments,
            made: 0,
            active: None,
            more: json!({}),
            stopped: None,
            started: now(),
        };
        set(&mut stage);
        let stage = Arc::new(Mutex::new(stage));
        let own = stage.clone();
        let service = Service::new(&name, &name, &revision(&name, 1)).controller("CODE_DEPLOY");
        let scenario = Scenario::new([service]).also(move |action, body| {
            let body = serde_json::from_str(body).unwrap_or_default();
            let (status, answer) = own.lock().unwrap().answer(action, &body)?;
            Some((status, answer.as_str().map_or_else(|| answer.to_string(), ToOwned::to_owned)))
        });
        let api = faults.into_iter().fold(scenario, Scenario::fault).start();
        let container = json!({ "name": "web", "image": "new", "memory": 64, "portMappings": [{ "containerPort": 8080 }] });
        let project = Project::new(&formatdoc! {r"
            version: 1
            name: webapp
            env: {{ shell: sh }}
            phases:
              post_build:
                steps:
                  - task-definition: {{ file: td.json }}
                  - deploy: {{ cluster: {name}, service: {name}, code-deploy: {{ application: APPLICATION, group: GROUP }}, {options} }}
        "})
        .file("td.json", json!({ "family": name, "containerDefinitions": [container] }).to_string());
        Self { api, project, stage }
    }

    pub fn of(options: &str, deployments: Vec<Played>) -> Self {
        Self::new(options, deployments, |_| {}, Vec::new())
    }

    pub fn call(&self) -> Call<'_> {
        self.project.runner("run --publish").on(&self.api)
    }

    pub fn run(&self) -> Outcome {
        self.call().run()
    }

    pub fn made(&self) -> usize {
        self.stage.lock().unwrap().made
    }
}
