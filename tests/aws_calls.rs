//! The actions that a request to AWS needs, and what they work on. Written from AWS's documentation (the service authorization
//! reference), not from runner's code.

use crate::recorded_aws::AwsCall;
use serde_json::Value;

/// The actions that a request needs, the one that it names first.
pub fn aws_calls(method: &str, url: &str, head: &[(String, String)], body: &str) -> Vec<AwsCall> {
    let target = head.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-amz-target"));
    let Some((_, target)) = target else {
        return if url.starts_with("/schedules") { scheduler(method, url, body) } else { vec![query(body)] };
    };
    let (service, operation) = target.split_once('.').unwrap();
    let json: Value = serde_json::from_str(body).unwrap();
    match service {
        "AmazonEC2ContainerRegistry_V20150921" => vec![ecr(operation, &json)],
        // ECR Public. Its token is a bearer token of STS.
        "SpencerFrontendService" => {
            vec![call("ecr-public", operation, "*"), call("sts", "GetServiceBearerToken", "*")]
        }
        "CodeBuild_20161006" => {
            let build = text(&json["ids"][0]);
            let project = build.split(':').next().unwrap_or_default();
            vec![call("codebuild", operation, of("codebuild", &format!("project/{project}")))]
        }
        "AmazonEC2ContainerServiceV20141113" => ecs(operation, &json),
        "AmazonSSM" => {
            // GetParameters needs its action for every one of the parameters.
            let names = json["Names"].as_array().cloned().unwrap_or_else(|| vec![json["Name"].clone()]);
            let arn = |name: &Value| {
                let name = text(name);
                let name = name.rsplit("parameter/").next().unwrap().trim_start_matches('/').to_owned();
                of("ssm", &format!("parameter/{}", name.split(':').next().unwrap()))
            };
            names.iter().map(|name| call("ssm", operation, arn(name))).collect()
        }
        "secretsmanager" => {
            let id = text(&json["SecretId"]);
            let arn = if id.starts_with("arn:") {
                id
            } else {
                of("secretsmanager", &format!("secret:{id}-AbCdEf"))
            };
            vec![call("secretsmanager", operation, arn)]
        }
        "Logs_20140328" => vec![logs(operation, &json)],
        "CodeDeploy_20141006" => vec![codedeploy(operation, &json)],
        "AWSEvents" => events(operation, &json),
        _ => panic!("the recorder does not know {target}"),
    }
}

fn call(service: &str, operation: &str, arn: impl Into<String>) -> AwsCall {
    AwsCall { action: format!("{service}:{operation}"), arn: arn.into() }
}

fn of(service: &str, name: &str) -> String {
    format!("arn:aws:{service}:us-east-1:123456789012:{name}")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The last part of an ARN, or of a name.
fn last(value: &Value) -> String {
    text(value).rsplit('/').next().unwrap_or_default().to_owned()
}

/// The query protocol: STS, IAM and Elastic Load Balancing.
fn query(body: &str) -> AwsCall {
    let field = |name: &str| {
        let pair = body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
        pair.unwrap_or_default().replace("%3A", ":").replace("%2F", "/")
    };
    let action = field("Action");
    match (field("Version").as_str(), action.as_str()) {
        // What it describes takes no resource.
        ("2015-12-01", _) => call("elasticloadbalancing", &action, "*"),
        (_, "AssumeRole") => call("sts", &action, field("RoleArn")),
        (_, "GetRole") => {
            call("iam", &action, format!("arn:aws:iam::123456789012:role/{}", field("RoleName")))
        }
        (_, "SimulatePrincipalPolicy") => call("iam", &action, field("PolicySourceArn")),
        _ => call("sts", &action, "*"),
    }
}

/// `EventBridge` Scheduler speaks REST: `/schedules` and `/schedules/NAME`.
fn scheduler(method: &str, url: &str, body: &str) -> Vec<AwsCall> {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let Some(name) = path.strip_prefix("/schedules/") else {
        return vec![call("scheduler", "ListSchedules", "*")];
    };
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("groupName="));
    let group = asked.or(json["GroupName"].as_str()).unwrap_or("default");
    let arn = of("scheduler", &format!("schedule/{group}/{name}"));
    match method {
        "GET" => vec![call("scheduler", "GetSchedule", arn)],
        "PUT" => {
            let mut calls = vec![call("scheduler", "UpdateSchedule", arn)];
            calls.extend(pass_role(&json["Target"]["RoleArn"]));
            calls
        }
        other => panic!("the recorder does not know {other} {url}"),
    }
}

fn pass_role(role: &Value) -> Option<AwsCall> {
    role.as_str().map(|role| call("iam", "PassRole", role))
}

fn ecr(operation: &str, json: &Value) -> AwsCall {
    if operation == "GetAuthorizationToken" {
        return call("ecr", operation, "*");
    }
    let name = json["repositoryNames"][0].as_str().or(json["repositoryName"].as_str()).unwrap();
    call("ecr", operation, of("ecr", &format!("repository/{name}")))
}

fn ecs(operation: &str, json: &Value) -> Vec<AwsCall> {
    let one = |arn: String| vec![call("ecs", operation, arn)];
    let cluster = if json["cluster"].is_null() { "default".to_owned() } else { last(&json["cluster"]) };
    let within = |kind: &str, name: &Value| of("ecs", &format!("{kind}/{cluster}/{}", last(name)));
    let each = |values: &Value, arn: &dyn Fn(&Value) -> String| {
        let values: Vec<&Value> = values.as_array().into_iter().flatten().collect();
        if values.is_empty() {
            return one("*".to_owned());
        }
        values.into_iter().map(|value| call("ecs", operation, arn(value))).collect()
    };
    match operation {
        "UpdateService" | "ListServiceDeployments" => one(within("service", &json["service"])),
        "DescribeServices" => each(&json["services"], &|name| within("service", name)),
        "DescribeServiceDeployments" => each(&json["serviceDeploymentArns"], &text),
        "StopServiceDeployment" => one(text(&json["serviceDeploymentArn"])),
        "DescribeServiceRevisions" => each(&json["serviceRevisionArns"], &text),
        "DescribeTasks" => each(&json["tasks"], &|task| within("task", task)),
        "StopTask" => one(within("task", &json["task"])),
        "DescribeClusters" => each(&json["clusters"], &|name| of("ecs", &format!("cluster/{}", last(name)))),
        "RunTask" => {
            let definition = text(&json["taskDefinition"]);
            let is_arn = definition.starts_with("arn:");
            one(if is_arn { definition } else { of("ecs", &format!("task-definition/{definition}")) })
        }
        "RegisterTaskDefinition" => register(json),
        // It takes no resource.
        _ => one("*".to_owned()),
    }
}

fn register(json: &Value) -> Vec<AwsCall> {
    let arn = of("ecs", &format!("task-definition/{}:1", text(&json["family"])));
    let mut calls = vec![call("ecs", "RegisterTaskDefinition", arn.clone())];
    if json.get("tags").is_some() {
        calls.push(call("ecs", "TagResource", arn));
    }
    calls.extend(["taskRoleArn", "executionRoleArn"].iter().filter_map(|role| pass_role(&json[*role])));
    calls
}

fn logs(operation: &str, json: &Value) -> AwsCall {
    let group = json["logGroupIdentifier"].as_str().or(json["logGroupName"].as_str()).unwrap_or_default();
    let group = group.rsplit("log-group:").next().unwrap().trim_end_matches(":*");
    let stream = text(&json["logStreamName"]);
    call(
        "logs",
        operation,
        match operation {
            "GetLogEvents" => of("logs", &format!("log-group:{group}:log-stream:{stream}")),
            // Whatever prefix it asks for, AWS looks for a right to all groups; this is how its refusals name them.
            "DescribeLogGroups" => of("logs", "log-group::log-stream:"),
            _ => of("logs", &format!("log-group:{group}")),
        },
    )
}

fn codedeploy(operation: &str, json: &Value) -> AwsCall {
    let group = json["deploymentGroupName"].as_str().or(json["currentDeploymentGroupName"].as_str());
    let arn = match (json["applicationName"].as_str(), group) {
        (Some(application), Some(group)) => {
            of("codedeploy", &format!("deploymentgroup:{application}/{group}"))
        }
        (Some(application), None) => of("codedeploy", &format!("application:{application}")),
        // AWS finds the group of the deployment, which the request does not name.
        _ if operation == "GetDeployment" => of("codedeploy", "deploymentgroup:APPLICATION/GROUP"),
        _ => "*".to_owned(),
    };
    call("codedeploy", operation, arn)
}

fn events(operation: &str, json: &Value) -> Vec<AwsCall> {
    let rule = text(&json["Rule"]);
    if rule.is_empty() {
        // Lists of rules take no resource.
        return vec![call("events", operation, "*")];
    }
    let bus = last(&json["EventBusName"]);
    let bus = if bus.is_empty() || bus == "default" { String::new() } else { format!("{bus}/") };
    let mut calls = vec![call("events", operation, of("events", &format!("rule/{bus}{rule}")))];
    if operation == "PutTargets" {
        let targets = json["Targets"].as_array().into_iter().flatten();
        calls.extend(targets.filter_map(|target| pass_role(&target["RoleArn"])));
    }
    calls
}
