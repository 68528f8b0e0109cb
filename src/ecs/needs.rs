//! The resources that a task definition needs: images, roles, secrets, log groups.

use super::service::TargetGroup;
use crate::address::Arn;
use serde_json::{Map, Value};

/// Resources that a task definition refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Containers with their images.
    pub(crate) images: Vec<(String, String)>,
    /// Names or ARNs.
    pub(crate) roles: Vec<String>,
    /// Users of secrets and parameters, with the `valueFrom` reference.
    pub(crate) secrets: Vec<(String, String)>,
    /// CloudWatch log groups that must exist already, with their region.
    pub(crate) log_groups: Vec<(String, Option<String>)>,
    /// The platform that images must support, as Docker's `os/arch`; `None` for Windows and if the instance decides.
    pub(crate) platform: Option<String>,
}

impl Needs {
    pub(crate) fn of(fields: &Map<String, Value>) -> Self {
        let mut needs = Self { platform: platform(fields), ..Self::default() };
        let roles = ["taskRoleArn", "executionRoleArn"].into_iter().filter_map(|name| text(fields, name));
        needs.roles.extend(roles.filter(|role| !role.is_empty()));
        needs.roles.dedup();
        for container in containers(fields) {
            let name = text(container, "name").unwrap_or_default();
            needs.images.extend(text(container, "image").map(|image| (name.clone(), image)));
            needs.secrets.extend(secrets(container.get("secrets")));
            if let Some(credentials) = container.get("repositoryCredentials").and_then(Value::as_object) {
                let parameter = text(credentials, "credentialsParameter");
                let use_of = format!("the registry login of `{name}`");
                needs.secrets.extend(parameter.map(|parameter| (use_of, parameter)));
            }
            let Some(log) = container.get("logConfiguration").and_then(Value::as_object) else { continue };
            needs.secrets.extend(secrets(log.get("secretOptions")));
            let option = |name: &str| text(log.get("options")?.as_object()?, name);
            let is_created = option("awslogs-create-group").is_some_and(|value| value == "true");
            if text(log, "logDriver").as_deref() == Some("awslogs")
                && !is_created
                && let Some(group) = option("awslogs-group")
            {
                let wanted = (group, option("awslogs-region"));
                if !needs.log_groups.contains(&wanted) {
                    needs.log_groups.push(wanted);
                }
            }
        }
        needs
    }
}

/// A resource that a task definition refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need<'n> {
    Image {
        container: &'n str,
        image: &'n str,
    },
    Role(&'n str),
    /// In Secrets Manager.
    Secret {
        used_by: &'n str,
        reference: &'n str,
    },
    /// In Parameter Store.
    Parameter {
        used_by: &'n str,
        reference: &'n str,
    },
    LogGroup {
        group: &'n str,
        region: Option<&'n str>,
    },
}

impl Needs {
    /// Every resource. Verification checks each of them.
    pub(crate) fn each(&self) -> impl Iterator<Item = Need<'_>> {
        let images = self.images.iter().map(|(container, image)| Need::Image { container, image });
        let roles = self.roles.iter().map(|role| Need::Role(role));
        let secrets = self.secrets.iter().map(|(used_by, reference)| Need::secret(used_by, reference));
        let groups = self.log_groups.iter();
        let groups = groups.map(|(group, region)| Need::LogGroup { group, region: region.as_deref() });
        images.chain(roles).chain(secrets).chain(groups)
    }
}

impl<'n> Need<'n> {
    /// A `valueFrom` reference: the ARN of a secret, or a parameter's name or ARN.
    pub(crate) fn secret(used_by: &'n str, reference: &'n str) -> Self {
        if Arn::parse(reference).is_some_and(|arn| arn.service() == "secretsmanager") {
            Self::Secret { used_by, reference }
        } else {
            Self::Parameter { used_by, reference }
        }
    }
}

/// Why a service's target group cannot reach tasks of this definition, if that is certain.
pub(crate) fn unreachable(fields: &Map<String, Value>, target: &TargetGroup) -> Option<String> {
    let container = containers(fields).find(|one| text(one, "name").as_ref() == Some(&target.container));
    let Some(container) = container else {
        return Some(format!(
            "the load balancer targets the container `{}`, which the task definition does not have",
            target.container
        ));
    };
    let ports = container.get("portMappings").and_then(Value::as_array);
    let has = |port: &Value| port.get("containerPort").and_then(Value::as_i64) == Some(target.port.into());
    // Any port range counts as a match.
    let is_range = |port: &Value| port.get("containerPortRange").is_some();
    let found = ports.is_some_and(|ports| ports.iter().any(|port| has(port) || is_range(port)));
    (!found).then(|| {
        format!(
            "the load balancer targets port {} of the container `{}`, which has no such port mapping",
            target.port, target.container
        )
    })
}

/// A container's log stream in CloudWatch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogStream {
    /// The region, if the definition names one.
    pub(crate) region: Option<String>,
    pub(crate) group: String,
    pub(crate) stream: String,
}

impl LogStream {
    /// The log stream of a task's container. Returns `None` without a stream prefix, because its name is unknown then.
    pub(crate) fn of(definition: &Value, container: &str, task: &str) -> Option<Self> {
        let fields = definition.as_object()?;
        let found = containers(fields).find(|one| text(one, "name").as_deref() == Some(container))?;
        let log = found.get("logConfiguration")?;
        let option = |name: &str| text(log.get("options")?.as_object()?, name);
        let stream = format!("{}/{container}/{task}", option("awslogs-stream-prefix")?);
        Some(Self { region: option("awslogs-region"), group: option("awslogs-group")?, stream })
    }
}

fn containers(fields: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    let containers = fields.get("containerDefinitions").and_then(Value::as_array);
    containers.into_iter().flatten().filter_map(Value::as_object)
}

fn text(fields: &Map<String, Value>, name: &str) -> Option<String> {
    fields.get(name)?.as_str().map(ToOwned::to_owned)
}

fn secrets(list: Option<&Value>) -> Vec<(String, String)> {
    let entries = list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    entries
        .filter_map(|entry| Some((format!("`{}`", text(entry, "name")?), text(entry, "valueFrom")?)))
        .collect()
}

/// Converts ECS's platform to Docker's. Source: `RuntimePlatform` in the API reference of ECS.
fn platform(fields: &Map<String, Value>) -> Option<String> {
    let platform = fields.get("runtimePlatform").and_then(Value::as_object);
    let of = |name: &str| platform.and_then(|platform| text(platform, name));
    let is_windows = of("operatingSystemFamily").is_some_and(|family| family.starts_with("WINDOWS"));
    let architecture = match of("cpuArchitecture").as_deref() {
        Some("ARM64") => "arm64",
        Some("X86_64") => "amd64",
        // On EC2 the container instance decides.
        None if fields
            .get("requiresCompatibilities")
            .is_none_or(|list| !list.to_string().contains("FARGATE")) =>
        {
            return None;
        }
        _ => "amd64",
    };
    (!is_windows).then(|| format!("linux/{architecture}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn all_resources_are_found_once() {
        let definition = fields(&json!({
            "taskRoleArn": "arn:aws:iam::1:role/a/task", "executionRoleArn": "start", "requiresCompatibilities": ["FARGATE"],
            "containerDefinitions": [
                { "name": "web", "image": "r/web@sha256:0", "secrets": [{ "name": "S", "valueFrom": "/s" }],
                  "repositoryCredentials": { "credentialsParameter": "arn:c" },
                  "logConfiguration": { "logDriver": "awslogs", "options": { "awslogs-group": "/g", "awslogs-region": "eu-west-1" }, "secretOptions": [{ "name": "T", "valueFrom": "/t" }] } },
                { "name": "side", "image": "s", "logConfiguration": { "logDriver": "awslogs", "options": { "awslogs-group": "/new", "awslogs-create-group": "true" } } },
                { "name": "log", "image": "l", "logConfiguration": { "logDriver": "splunk", "options": { "awslogs-group": "/no" } } }
            ]
        }));
        let needs = Needs::of(&definition);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(needs.images, [pair("web", "r/web@sha256:0"), pair("side", "s"), pair("log", "l")]);
        assert_eq!(needs.roles, ["arn:aws:iam::1:role/a/task", "start"]);
        assert_eq!(
            needs.secrets,
            [pair("`S`", "/s"), pair("the registry login of `web`", "arn:c"), pair("`T`", "/t")]
        );
        assert_eq!(needs.log_groups, [("/g".to_owned(), Some("eu-west-1".to_owned()))]);
        assert_eq!(needs.platform.as_deref(), Some("linux/amd64"));
    }

    #[test]
    fn platforms_are_named_as_docker_does() {
        let of = |value: Value| Needs::of(&fields(&value)).platform;
        assert_eq!(of(json!({})), None);
        assert_eq!(
            of(json!({ "runtimePlatform": { "cpuArchitecture": "ARM64" } })).as_deref(),
            Some("linux/arm64")
        );
        let windows = json!({ "runtimePlatform": { "operatingSystemFamily": "WINDOWS_SERVER_2022_CORE", "cpuArchitecture": "X86_64" } });
        assert_eq!(of(windows), None);
    }

    #[test]
    fn a_target_group_needs_its_container_and_port() {
        let definition = fields(
            &json!({ "containerDefinitions": [{ "name": "web", "portMappings": [{ "containerPort": 80 }] }] }),
        );
        let target = |container: &str, port| TargetGroup {
            group: "g".to_owned(),
            container: container.to_owned(),
            port,
        };
        assert_eq!(unreachable(&definition, &target("web", 80)), None);
        assert!(
            unreachable(&definition, &target("web", 81)).unwrap().contains("port 81 of the container `web`")
        );
        assert!(unreachable(&definition, &target("wbe", 80)).unwrap().contains("container `wbe`"));
    }
}
