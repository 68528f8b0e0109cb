//! Tasks and what their containers write.

use super::script::{ContainerOutcome, TaskOutcome};
use super::state::{Said, ids, last, now, refusal};
use crate::bed::ecs;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// A task of a service, or of its own.
pub(super) struct Task {
    pub arn: String,
    pub cluster: String,
    pub definition: String,
    /// Its containers, as the revision has them.
    described: Value,
    pub family: String,
    pub group: String,
    pub started_by: Option<String>,
    pub desired: &'static str,
    pub status: String,
    pub stop: Option<(String, String)>,
    pub containers: Vec<Value>,
    pub created: f64,
    pub started: Option<f64>,
    pub ended: Option<f64>,
    pub launch: Value,
    pub overrides: Value,
    pub token: Option<String>,
    /// What it still goes through.
    pub states: VecDeque<(String, TaskOutcome)>,
}

/// What containers wrote, by group and stream: milliseconds and line.
#[derive(Default)]
pub(super) struct Logs(BTreeMap<(String, String), Vec<(i64, String)>>);

/// What the bed knows of a revision, which may be named in short.
pub(super) fn described(definition: &str) -> Option<Value> {
    ecs("DescribeTaskDefinition", &json!({ "taskDefinition": definition })).get("taskDefinition").cloned()
}

/// The same of a revision that something new can be started of, or how ECS refuses that.
pub(super) fn usable(definition: &str) -> Said {
    match described(definition) {
        None => refusal("ClientException", "TaskDefinition not found."),
        Some(found) if found["status"] == "INACTIVE" => {
            refusal("ClientException", "TaskDefinition is inactive")
        }
        Some(found) => Ok(found),
    }
}

impl Task {
    /// A task that has been asked for, of this revision as the bed describes it.
    pub fn new(cluster: &str, definition: &Value, group: &str, started_by: Option<&str>) -> Self {
        let id =
            format!("{:032x}", u128::from(ids()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        let arn = format!("arn:aws:ecs:us-east-1:123456789012:task/{cluster}/{id}");
        let containers = definition["containerDefinitions"].as_array().into_iter().flatten();
        let container = |it: &Value| {
            json!({
                "containerArn": format!("arn:aws:ecs:us-east-1:123456789012:container/{cluster}/{id}/{}", it["name"].as_str().unwrap()),
                "taskArn": arn, "name": it["name"], "image": it["image"], "lastStatus": "PENDING", "healthStatus": "UNKNOWN",
                "networkInterfaces": [], "cpu": it["cpu"].as_i64().unwrap_or(0).to_string(),
            })
        };
        Self {
            containers: containers.map(container).collect(),
            described: definition["containerDefinitions"].clone(),
            cluster: cluster.to_owned(),
            definition: definition["taskDefinitionArn"].as_str().unwrap().to_owned(),
            family: definition["family"].as_str().unwrap().to_owned(),
            group: group.to_owned(),
            started_by: started_by.map(ToOwned::to_owned),
            desired: "RUNNING",
            status: "PROVISIONING".to_owned(),
            stop: None,
            created: now(),
            started: None,
            ended: None,
            launch: Value::Null,
            overrides: json!({ "containerOverrides": [] }),
            token: None,
            states: VecDeque::new(),
            arn,
        }
    }

    pub fn id(&self) -> &str {
        last(&self.arn)
    }

    /// The next of the states that it goes through, if any is left.
    pub fn advance(&mut self, logs: &mut Logs) {
        if let Some((status, outcome)) = self.states.pop_front() {
            self.become_(&status, &outcome, logs);
        }
    }

    /// It is in this state now, and its containers fare like this.
    pub fn become_(&mut self, status: &str, outcome: &TaskOutcome, logs: &mut Logs) {
        status.clone_into(&mut self.status);
        for container in &outcome.containers {
            self.fare(container, logs);
        }
        if let Some((code, reason)) = &outcome.stopped {
            self.stop(code, reason);
        } else if status == "RUNNING" {
            self.run(logs);
        } else if status == "STOPPED" && self.stop.is_none() {
            self.stop("EssentialContainerExited", "Essential container in task exited");
        }
    }

    fn run(&mut self, logs: &mut Logs) {
        self.started = self.started.or(Some(now()));
        for at in 0..self.containers.len() {
            let container = &mut self.containers[at];
            container["lastStatus"] = json!("RUNNING");
            let digest = container["image"].as_str().and_then(|image| image.split_once('@')).map(|it| it.1);
            if let (Some(digest), None) = (digest, container.get("imageDigest")) {
                container["imageDigest"] = json!(digest);
            }
            let name = container["name"].as_str().unwrap().to_owned();
            self.write(&name, &[], logs);
        }
    }

    /// It has ended.
    pub fn stop(&mut self, code: &str, reason: &str) {
        self.desired = "STOPPED";
        "STOPPED".clone_into(&mut self.status);
        self.stop = Some((code.to_owned(), reason.to_owned()));
        self.ended = Some(now());
        self.states.clear();
        for container in &mut self.containers {
            container["lastStatus"] = json!("STOPPED");
        }
    }

    fn fare(&mut self, outcome: &ContainerOutcome, logs: &mut Logs) {
        let ran = outcome.exit_code.is_some() || !outcome.lines.is_empty();
        if ran {
            self.run(logs);
        }
        // What AWS adds to a task by itself is not in its definition.
        if outcome.name.starts_with("aws-")
            && !self.containers.iter().any(|it| it["name"] == outcome.name.as_str())
        {
            self.containers.push(json!({ "name": outcome.name, "lastStatus": "STOPPED" }));
        }
        let own = self.containers.iter_mut().find(|container| container["name"] == outcome.name.as_str());
        let own = own.unwrap_or_else(|| panic!("{} has no container {}", self.definition, outcome.name));
        for (field, value) in [
            ("exitCode", outcome.exit_code.map(Value::from)),
            ("reason", outcome.reason.clone().map(Value::from)),
            ("imageDigest", outcome.digest.clone().map(Value::from)),
            ("healthStatus", outcome.health.clone().map(Value::from)),
        ] {
            if let Some(value) = value {
                own[field] = value;
            }
        }
        if !outcome.lines.is_empty() {
            self.write(&outcome.name, &outcome.lines, logs);
        }
    }

    /// A container writes to the stream that its task definition gives it.
    fn write(&self, container: &str, lines: &[String], logs: &mut Logs) {
        let all = self.described.as_array().unwrap();
        let own = all.iter().find(|it| it["name"] == container).unwrap();
        let options = &own["logConfiguration"]["options"];
        let group = options["awslogs-group"].as_str();
        let Some((group, prefix)) = group.zip(options["awslogs-stream-prefix"].as_str()) else {
            assert!(lines.is_empty(), "{container} of {} has no awslogs to write to", self.definition);
            return;
        };
        logs.write(group, &format!("{prefix}/{container}/{}", self.id()), lines);
    }

    fn health(&self) -> &'static str {
        let has = |health: &str| self.containers.iter().any(|container| container["healthStatus"] == health);
        match (has("UNHEALTHY"), has("HEALTHY")) {
            (true, _) => "UNHEALTHY",
            (false, true) => "HEALTHY",
            _ => "UNKNOWN",
        }
    }

    /// As `DescribeTasks` answers it.
    pub fn json(&self) -> Value {
        let mut json = json!({
            "attachments": [], "attributes": [], "availabilityZone": "us-east-1b",
            "clusterArn": format!("arn:aws:ecs:us-east-1:123456789012:cluster/{}", self.cluster),
            "containers": self.containers, "cpu": "256", "memory": "512", "createdAt": self.created,
            "desiredStatus": self.desired, "enableExecuteCommand": false, "group": self.group,
            "healthStatus": self.health(), "lastStatus": self.status, "overrides": self.overrides, "tags": [],
            "taskArn": self.arn, "taskDefinitionArn": self.definition, "version": 1,
        });
        for (field, value) in [
            ("startedBy", self.started_by.clone().map(Value::from)),
            ("startedAt", self.started.map(Value::from)),
            ("stoppingAt", self.ended.map(Value::from)),
            ("stoppedAt", self.ended.map(Value::from)),
            ("executionStoppedAt", self.ended.map(Value::from)),
            ("stopCode", self.stop.as_ref().map(|(code, _)| json!(code))),
            ("stoppedReason", self.stop.as_ref().map(|(_, reason)| json!(reason))),
            ("launchType", Some(self.launch.clone()).filter(Value::is_string)),
        ] {
            if let Some(value) = value {
                json[field] = value;
            }
        }
        json
    }
}

impl Logs {
    pub fn write(&mut self, group: &str, stream: &str, lines: &[String]) {
        let stream = self.0.entry((group.to_owned(), stream.to_owned())).or_default();
        let at = std::time::Duration::from_secs_f64(now()).as_millis();
        stream.extend(lines.iter().map(|line| (i64::try_from(at).unwrap(), line.clone())));
    }

    /// `GetLogEvents`. A token is the place in the stream; at its end it is the one that was asked with.
    pub fn events(&self, asked: &Value) -> Said {
        let group = asked["logGroupIdentifier"].as_str().or(asked["logGroupName"].as_str());
        let group = group.unwrap_or_default().rsplit("log-group:").next().unwrap_or_default();
        let missing = |what: &str| {
            refusal("ResourceNotFoundException", &format!("The specified log {what} does not exist."))
        };
        let name = asked["logStreamName"].as_str().unwrap_or_default();
        if !self.0.keys().any(|(known, _)| known == group) {
            return missing("group");
        }
        let Some(stream) = self.0.get(&(group.to_owned(), name.to_owned())) else { return missing("stream") };
        let lines: Vec<&(i64, String)> = stream.iter().collect();
        let limit = usize::try_from(asked["limit"].as_u64().unwrap_or(10_000)).unwrap();
        let token = asked["nextToken"].as_str().map(|token| {
            let (direction, place) = token.split_once('/').unwrap();
            (direction.to_owned(), place.trim_end_matches("/s").parse::<usize>().unwrap())
        });
        let (from, to) = match token {
            Some((forward, place)) if forward == "f" => (place, lines.len().min(place + limit)),
            Some((_, place)) => (place.saturating_sub(limit), place),
            None if asked["startFromHead"] == true => (0, lines.len().min(limit)),
            None => (lines.len().saturating_sub(limit), lines.len()),
        };
        let event = |(at, text): &&(i64, String)| json!({ "timestamp": at, "message": text, "ingestionTime": at + 20 });
        let events: Vec<Value> = lines.get(from..to).unwrap_or_default().iter().map(event).collect();
        Ok(json!({
            "events": events,
            "nextForwardToken": format!("f/{to:056}/s"), "nextBackwardToken": format!("b/{from:056}/s"),
        }))
    }
}
