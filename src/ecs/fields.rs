//! The fields of a `RegisterTaskDefinition` request, to notice what looks like a slip: API reference of Amazon ECS, 2026. Fields that
//! came later are sent as well.

use crate::text::closest;
use serde_json::{Map, Value};

/// The fields of objects, by the field that holds the object or a list of them; the request itself is first.
const FIELDS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "containerDefinitions",
            "cpu",
            "enableFaultInjection",
            "ephemeralStorage",
            "executionRoleArn",
            "family",
            "inferenceAccelerators",
            "ipcMode",
            "memory",
            "networkMode",
            "pidMode",
            "placementConstraints",
            "proxyConfiguration",
            "requiresCompatibilities",
            "runtimePlatform",
            "tags",
            "taskRoleArn",
            "volumes",
        ],
    ),
    (
        "containerDefinitions",
        &[
            "command",
            "cpu",
            "credentialSpecs",
            "dependsOn",
            "disableNetworking",
            "dnsSearchDomains",
            "dnsServers",
            "dockerLabels",
            "dockerSecurityOptions",
            "entryPoint",
            "environment",
            "environmentFiles",
            "essential",
            "extraHosts",
            "firelensConfiguration",
            "healthCheck",
            "hostname",
            "image",
            "interactive",
            "links",
            "linuxParameters",
            "logConfiguration",
            "memory",
            "memoryReservation",
            "mountPoints",
            "name",
            "portMappings",
            "privileged",
            "pseudoTerminal",
            "readonlyRootFilesystem",
            "repositoryCredentials",
            "resourceRequirements",
            "restartPolicy",
            "secrets",
            "startTimeout",
            "stopTimeout",
            "systemControls",
            "ulimits",
            "user",
            "versionConsistency",
            "volumesFrom",
            "workingDirectory",
        ],
    ),
    ("authorizationConfig", &["accessPointId", "credentialsParameter", "domain", "iam"]),
    ("capabilities", &["add", "drop"]),
    ("dependsOn", &["condition", "containerName"]),
    ("devices", &["containerPath", "hostPath", "permissions"]),
    ("dockerVolumeConfiguration", &["autoprovision", "driver", "driverOpts", "labels", "scope"]),
    (
        "efsVolumeConfiguration",
        &[
            "authorizationConfig",
            "fileSystemId",
            "rootDirectory",
            "transitEncryption",
            "transitEncryptionPort",
        ],
    ),
    ("environment", &["name", "value"]),
    ("environmentFiles", &["type", "value"]),
    ("ephemeralStorage", &["sizeInGiB"]),
    ("extraHosts", &["hostname", "ipAddress"]),
    ("firelensConfiguration", &["options", "type"]),
    ("fsxWindowsFileServerVolumeConfiguration", &["authorizationConfig", "fileSystemId", "rootDirectory"]),
    ("healthCheck", &["command", "interval", "retries", "startPeriod", "timeout"]),
    ("host", &["sourcePath"]),
    ("inferenceAccelerators", &["deviceName", "deviceType"]),
    (
        "linuxParameters",
        &[
            "capabilities",
            "devices",
            "initProcessEnabled",
            "maxSwap",
            "sharedMemorySize",
            "swappiness",
            "tmpfs",
        ],
    ),
    ("logConfiguration", &["logDriver", "options", "secretOptions"]),
    ("mountPoints", &["containerPath", "readOnly", "sourceVolume"]),
    ("placementConstraints", &["expression", "type"]),
    ("portMappings", &["appProtocol", "containerPort", "containerPortRange", "hostPort", "name", "protocol"]),
    ("properties", &["name", "value"]),
    ("proxyConfiguration", &["containerName", "properties", "type"]),
    ("repositoryCredentials", &["credentialsParameter"]),
    ("resourceRequirements", &["type", "value"]),
    ("restartPolicy", &["enabled", "ignoredExitCodes", "restartAttemptPeriod"]),
    ("runtimePlatform", &["cpuArchitecture", "operatingSystemFamily"]),
    (
        "s3filesVolumeConfiguration",
        &["accessPointArn", "fileSystemArn", "rootDirectory", "transitEncryptionPort"],
    ),
    ("secretOptions", &["name", "valueFrom"]),
    ("secrets", &["name", "valueFrom"]),
    ("systemControls", &["namespace", "value"]),
    ("tags", &["key", "value"]),
    ("tmpfs", &["containerPath", "mountOptions", "size"]),
    ("ulimits", &["hardLimit", "name", "softLimit"]),
    ("volumes", VOLUME),
    ("volumesFrom", &["readOnly", "sourceContainer"]),
];
const VOLUME: &[&str] = &[
    "configuredAtLaunch",
    "dockerVolumeConfiguration",
    "efsVolumeConfiguration",
    "fsxWindowsFileServerVolumeConfiguration",
    "host",
    "name",
    "s3filesVolumeConfiguration",
];

/// A sentence for each field of a request that ECS is not known to have, and whose name is close to one that it has.
pub(crate) fn likely_slips(request: &Map<String, Value>) -> Vec<String> {
    let mut slips = Vec::new();
    look("", request, &mut slips);
    slips
}

/// Looks at an object that a field holds, and at what is in it.
fn look(holder: &str, object: &Map<String, Value>, slips: &mut Vec<String>) {
    // What is not listed are the users' own names, or what came later.
    let Some((_, known)) = FIELDS.iter().find(|(name, _)| *name == holder) else { return };
    for (field, value) in object {
        if known.contains(&field.as_str()) {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let objects = value.as_object().into_iter().chain(list.iter().filter_map(Value::as_object));
            objects.for_each(|inner| look(field, inner, slips));
        } else if let Some(close) = closest(field, known.iter().copied()) {
            let at = if holder.is_empty() { String::new() } else { format!(" of `{holder}`") };
            slips.push(format!(
                "ECS may not know the field `{field}`{at}, which is sent as it is; did you mean `{close}`?"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slips_are_noticed_at_every_depth_and_names_of_users_are_none() {
        let request = json!({
            "famly": "f", "brandNewField": { "anything": 1 },
            "volumes": [{ "name": "v", "efsVolumeConfiguration": { "fileSystemID": "fs", "authorizationConfig": { "iam": "ENABLED" } } }],
            "containerDefinitions": [{
                "name": "web", "dockerLabels": { "enviroment": "x" },
                "portMappings": [{ "contianerPort": 80 }], "healthCheck": { "comand": ["true"] },
                "logConfiguration": { "logDriver": "awslogs", "option": {}, "options": { "awslogs-grup": "g" } },
            }],
        });
        let slips = likely_slips(request.as_object().unwrap());
        let fields = [
            ("famly", "family"),
            ("fileSystemID", "fileSystemId"),
            ("contianerPort", "containerPort"),
            ("comand", "command"),
            ("option", "options"),
        ];
        assert_eq!(slips.len(), fields.len(), "{slips:#?}");
        for (slip, meant) in fields {
            let is_it =
                |told: &&String| told.contains(&format!("`{slip}`")) && told.contains(&format!("`{meant}`"));
            assert!(slips.iter().any(|told| is_it(&told)), "{slip}: {slips:#?}");
        }
        assert!(slips.iter().any(|told| told.contains("of `portMappings`")));
    }
}
