//! The known fields of a `RegisterTaskDefinition` request, to detect typos. Source: API reference of Amazon ECS, 2026.
//! Unknown fields are sent unchanged.

use crate::text::closest;
use serde_json::{Map, Value};

/// The fields of objects, by the field that holds the object or a list of objects. The request itself is first.
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

/// A warning for each unknown field whose name resembles a known one.
pub(crate) fn likely_typos(request: &Map<String, Value>) -> Vec<String> {
    let mut typos = Vec::new();
    check("", request, &mut typos);
    typos
}

/// Checks the object in the field `holder`, and its inner objects.
fn check(holder: &str, object: &Map<String, Value>, typos: &mut Vec<String>) {
    // Unlisted objects have free-form names or are newer than this list.
    let Some((_, known)) = FIELDS.iter().find(|(name, _)| *name == holder) else { return };
    for (field, value) in object {
        if known.contains(&field.as_str()) {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let objects = value.as_object().into_iter().chain(list.iter().filter_map(Value::as_object));
            objects.for_each(|inner| check(field, inner, typos));
        } else if let Some(close) = closest(field, known.iter().copied()) {
            let at = if holder.is_empty() { String::new() } else { format!(" of `{holder}`") };
            typos.push(format!(
                "ECS may not know the field `{field}`{at}, which is sent unchanged; did you mean `{close}`?"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn typos_are_found_at_every_depth_but_not_in_free_form_names() {
        let request = json!({
            "famly": "f", "brandNewField": { "anything": 1 },
            "volumes": [{ "name": "v", "efsVolumeConfiguration": { "fileSystemID": "fs", "authorizationConfig": { "iam": "ENABLED" } } }],
            "containerDefinitions": [{
                "name": "web", "dockerLabels": { "enviroment": "x" },
                "portMappings": [{ "contianerPort": 80 }], "healthCheck": { "comand": ["true"] },
                "logConfiguration": { "logDriver": "awslogs", "option": {}, "options": { "awslogs-grup": "g" } },
            }],
        });
        let typos = likely_typos(request.as_object().unwrap());
        let fields = [
            ("famly", "family"),
            ("fileSystemID", "fileSystemId"),
            ("contianerPort", "containerPort"),
            ("comand", "command"),
            ("option", "options"),
        ];
        assert_eq!(typos.len(), fields.len(), "{typos:#?}");
        for (field, meant) in fields {
            let is_it =
                |typo: &&String| typo.contains(&format!("`{field}`")) && typo.contains(&format!("`{meant}`"));
            assert!(typos.iter().any(|typo| is_it(&typo)), "{field}: {typos:#?}");
        }
        assert!(typos.iter().any(|typo| typo.contains("of `portMappings`")));
    }
}
