//! The `AppSpec` file, which describes a `CodeDeploy` deployment.
//!
//! Source: the `CodeDeploy` user guide, "`AppSpec` file structure for Amazon ECS deployments".

use super::service::Service;
use serde_json::{Number, Value, json};

/// The placeholder that `CodePipeline` replaces with the ARN of the revision that it registers.
pub(crate) const TASK_DEFINITION: &str = "<TASK_DEFINITION>";

/// The placeholder that `CodePipeline` replaces with the image in `imageDetail.json`.
pub(crate) const IMAGE: &str = "<IMAGE1_NAME>";

/// The content of an `AppSpec` for a service of Amazon ECS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AppSpec {
    /// The ARN of the revision.
    pub(crate) task_definition: String,
    /// The container and port behind the load balancer; `None` if only ECS knows them.
    pub(crate) target: Option<(String, i32)>,
    /// The Fargate platform version; the latest if absent.
    pub(crate) platform_version: Option<String>,
    /// Capacity providers with weight and base.
    pub(crate) capacity_providers: Vec<(String, i32, i32)>,
}

impl AppSpec {
    /// Deploys a revision and keeps the service's other settings. Returns `None` if the service has no load balancer.
    pub(crate) fn of(service: &Service, revision: &str) -> Option<Self> {
        let target = service.targets.first()?;
        Some(Self {
            task_definition: revision.to_owned(),
            target: Some((target.container.clone(), target.port)),
            platform_version: service.placement.platform_version.clone(),
            capacity_providers: service.placement.capacity_providers.clone(),
        })
    }

    /// The content as JSON. Equal contents have equal text.
    pub(crate) fn json(&self) -> String {
        let mut properties = json!({ "TaskDefinition": self.task_definition });
        if let Some((container, port)) = &self.target {
            properties["LoadBalancerInfo"] = json!({ "ContainerName": container, "ContainerPort": port });
        }
        if let Some(version) = &self.platform_version {
            properties["PlatformVersion"] = Value::from(version.as_str());
        }
        if !self.capacity_providers.is_empty() {
            let item = |(name, weight, base): &(String, i32, i32)| json!({ "Base": base, "CapacityProvider": name, "Weight": weight });
            properties["CapacityProviderStrategy"] = self.capacity_providers.iter().map(item).collect();
        }
        let target = json!({ "TargetService": { "Type": "AWS::ECS::Service", "Properties": properties } });
        // `CodeDeploy` requires `0.0` verbatim, which an ordinary JSON number may not keep.
        let version = Number::from_string_unchecked("0.0".to_owned());
        json!({ "version": version, "Resources": [target] }).to_string()
    }

    /// The content as YAML, for humans and `CodePipeline`.
    pub(crate) fn yaml(&self) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        // The documentation has the placeholder without quotes.
        let definition = if self.task_definition == TASK_DEFINITION {
            TASK_DEFINITION.to_owned()
        } else {
            quoted(&self.task_definition)
        };
        let mut text = format!(
            "version: 0.0\nResources:\n  - TargetService:\n      Type: AWS::ECS::Service\n      Properties:\n        TaskDefinition: {definition}\n"
        );
        if let Some((container, port)) = &self.target {
            let container = quoted(container);
            text.push_str(&format!(
                "        LoadBalancerInfo:\n          ContainerName: {container}\n          ContainerPort: {port}\n"
            ));
        }
        if let Some(version) = &self.platform_version {
            text.push_str(&format!("        PlatformVersion: {}\n", quoted(version)));
        }
        for (at, (name, weight, base)) in self.capacity_providers.iter().enumerate() {
            if at == 0 {
                text.push_str("        CapacityProviderStrategy:\n");
            }
            text.push_str(&format!(
                "          - Base: {base}\n            CapacityProvider: {}\n            Weight: {weight}\n",
                quoted(name)
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ecs::service::{Placement, TargetGroup};

    fn service() -> Service {
        Service {
            targets: vec![TargetGroup { group: "g".to_owned(), container: "true".to_owned(), port: 8080 }],
            placement: Placement {
                platform_version: Some("1.4.0".to_owned()),
                capacity_providers: vec![("FARGATE_SPOT".to_owned(), 2, 1)],
                ..Placement::default()
            },
            ..Service::default()
        }
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let spec = AppSpec::of(&service(), "arn:aws:ecs:eu-west-1:1:task-definition/web:7").unwrap();
        let json: Value = serde_json::from_str(&spec.json()).unwrap();
        let yaml: Value = serde_yaml::from_str(&spec.yaml()).unwrap();
        assert_eq!(json["Resources"], yaml["Resources"]);
        assert!(spec.json().contains("\"version\":0.0,"), "{}", spec.json());
        assert_eq!(
            json["Resources"][0]["TargetService"]["Properties"],
            json!({
                "TaskDefinition": "arn:aws:ecs:eu-west-1:1:task-definition/web:7",
                "LoadBalancerInfo": { "ContainerName": "true", "ContainerPort": 8080 },
                "PlatformVersion": "1.4.0",
                "CapacityProviderStrategy": [{ "Base": 1, "CapacityProvider": "FARGATE_SPOT", "Weight": 2 }],
            })
        );
    }

    #[test]
    fn a_service_without_a_load_balancer_has_none() {
        assert_eq!(AppSpec::of(&Service::default(), "arn"), None);
    }

    #[test]
    fn placeholders_have_the_form_that_codepipeline_replaces() {
        let spec = AppSpec {
            task_definition: TASK_DEFINITION.to_owned(),
            target: Some(("web".to_owned(), 80)),
            ..AppSpec::default()
        };
        assert!(spec.yaml().contains("\n        TaskDefinition: <TASK_DEFINITION>\n"), "{}", spec.yaml());
    }
}
