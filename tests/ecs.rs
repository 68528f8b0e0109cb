//! Task definitions: changed without loss, compared by meaning, and registered once.

use crate::harness::{Project, ecs, ecs_service, revisions, ssm, task_role};
use crate::recorded_aws::RecordedAws;
use indoc::{formatdoc, indoc};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub fn project(step: &str) -> Project {
    Project::new(&formatdoc! {r"
        version: 1
        name: t
        env: {{ shell: sh }}
        phases: {{ build: {{ steps: [{{ task-definition: {step} }}] }} }}
    "})
}

fn latest(family: &str) -> Value {
    ecs("DescribeTaskDefinition", &json!({ "taskDefinition": family, "include": ["TAGS"] }))
}

#[test]
fn an_equivalent_definition_is_not_registered() {
    let name = ecs_service();
    let change = |value: &str, more: &str| {
        let step = format!(
            "{{ family: {name}, containers: {{ web: {{ environment: {{ V: \"{value}\" }} }} }}{more} }}"
        );
        project(&step).runner("run --publish").aws().run().exits(0)
    };
    change("1", "")
        .has_line(&["registered", &format!("{name}:2")])
        .says("+      \"environment\": [")
        .says("changes to");
    change("1", "")
        .has_line(&["unchanged", &format!("{name}:2")])
        .says("no new revision registered")
        .says_not("changes to");
    assert_eq!(revisions(&name), 2);
    change("1", ", force: true").has_line(&["registered", &format!("{name}:3")]);
    change("2", "").says("-").has_line(&["registered", &format!("{name}:4")]);
    // What a service runs may be an older revision.
    let running = format!("{{ service: {{ cluster: {name}, name: {name} }} }}");
    project(&running)
        .runner("run --publish")
        .aws()
        .run()
        .exits(0)
        .has_line(&["unchanged", &format!("{name}:1")]);
    // A file that says the same in other words.
    let file = json!({ "family": name, "containerDefinitions": [{ "environment": [{ "value": "2", "name": "V" }], "memory": 64, "image": "old", "name": "web", "cpu": 0, "essential": true }], "tags": [{ "key": "team", "value": "a" }], "volumes": [] });
    let project = project("{ file: td.json }").file("td.json", file.to_string());
    project.runner("run --publish").aws().run().exits(0).has_line(&["unchanged", &format!("{name}:4")]);
    assert_eq!(revisions(&name), 4);
}

#[test]
fn every_field_of_the_file_reaches_ecs() {
    let name = ecs_service();
    let [task, start, secret] = ["task", "start", "secret"].map(|of| format!("{name}-{of}"));
    task_role(&task);
    task_role(&start);
    ssm("PutParameter", &json!({ "Name": format!("/{secret}"), "Value": "v", "Type": "String" }));
    let step = format!(
        "{{ family: {name}, task-role: {task}, execution-role: \"arn:aws:iam::123456789012:role/{start}\", cpu: 256, memory: \"0.5 GB\", tags: {{ team: b, commit: \"${{X:-1}}\" }}, containers: {{ web: {{ environment: {{ A: \"\" }}, replace-environment: true, secrets: {{ S: /{secret} }}, command: [serve, \"\"], cpu: 0, memory: 128, labels: {{ a.b: c }} }} }} }}"
    );
    project(&step).runner("run --publish").aws().run().exits(0);
    let found = latest(&name);
    let definition = &found["taskDefinition"];
    assert_eq!(definition["taskRoleArn"], task);
    assert_eq!(definition["executionRoleArn"], format!("arn:aws:iam::123456789012:role/{start}"));
    assert_eq!(definition["cpu"], "256");
    assert_eq!(definition["memory"], "0.5 GB");
    assert_eq!(found["tags"], json!([{ "key": "team", "value": "b" }, { "key": "commit", "value": "1" }]));
    let web = &definition["containerDefinitions"][0];
    assert_eq!(web["environment"], json!([{ "name": "A", "value": "" }]));
    assert_eq!(web["secrets"], json!([{ "name": "S", "valueFrom": format!("/{secret}") }]));
    assert_eq!(
        (&web["command"], &web["cpu"], &web["memory"]),
        (&json!(["serve", ""]), &json!(0), &json!(128))
    );
    assert_eq!(web["dockerLabels"], json!({ "a.b": "c" }));
    // In local mode that is what is written.
    let project = project(&step);
    project.runner("run --local").run().exits(0);
    let planned = project.json(&format!(".runner/ecs/{name}-changes.json"));
    assert_eq!(planned["containers"][0]["memory"], 128);
    assert_eq!(planned["tags"]["team"], "b");
    // What cannot be is said with its place.
    let wrong = |change: &str| {
        let step = format!("{{ family: {name}, containers: {{ web: {{ {change} }} }} }}");
        crate::ecs::project(&step).runner("run --publish").aws().run().exits(2)
    };
    wrong("cpu: some").ends_with("pipeline.yml:4:").ends_with("`some` is not a whole number");
    wrong("log-options: { a: b }").ends_with("the container `web` has no `logConfiguration`");
}

#[test]
fn a_lost_response_causes_no_second_registration() {
    let name = ecs_service();
    let asked = Arc::new(AtomicUsize::new(0));
    let last = asked.clone();
    let aws = RecordedAws::scripted(None, move |action, body| {
        if action != "ecs:RegisterTaskDefinition" {
            return None;
        }
        let refusal = |code: &str| Some((500, json!({ "__type": code, "message": "not now" }).to_string()));
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => refusal("ThrottlingException"),
            // Someone else registers at the same moment.
            1 => {
                let message =
                    "Too many concurrent attempts to create a new revision of the specified family.";
                Some((400, json!({ "__type": "ClientException", "message": message }).to_string()))
            }
            // It is registered, the response is lost, and someone else registers the next one.
            2 => {
                let mut request: Value = serde_json::from_str(body).unwrap();
                ecs("RegisterTaskDefinition", &request);
                request["containerDefinitions"][0]["image"] = json!("of-somebody-else");
                ecs("RegisterTaskDefinition", &request);
                refusal("ServerException")
            }
            _ => None,
        }
    });
    let step = format!("{{ family: {name}, containers: {{ web: {{ environment: {{ A: b }} }} }} }}");
    let outcome = project(&step).runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run();
    outcome.exits(0).says("retrying: ").has_line(&["registered", &format!("{name}:2")]);
    assert_eq!((revisions(&name), last.load(Ordering::SeqCst)), (3, 3));
}

#[test]
fn a_failed_lookup_causes_no_second_registration() {
    let family = crate::harness::unique("lost");
    let aws = RecordedAws::scripted(Some("ecs:DescribeTaskDefinition"), move |action, body| {
        (action == "ecs:RegisterTaskDefinition").then(|| {
            ecs("RegisterTaskDefinition", &serde_json::from_str(body).unwrap());
            (500, json!({ "__type": "ServerException", "message": "not now" }).to_string())
        })
    });
    let file =
        json!({ "family": family, "containerDefinitions": [{ "name": "web", "image": "i", "memory": 64 }] });
    let project = project("{ file: td.json }").file("td.json", file.to_string());
    let outcome = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run();
    outcome
        .exits(3)
        .says("could not look for a revision with the same content")
        .ends_with("it may have been registered anyway");
    assert_eq!(revisions(&family), 1);
}

const DEFINITION: &str = r#"{
  "taskDefinition": {
    "revision": 3, "status": "ACTIVE", "family": "FAMILY", "enviromentFile": 1, "brandNew": { "a": [0, false, "", 1.5] },
    "containerDefinitions": [{ "name": "web", "image": "old", "memory": 64, "essential": false, "links": null }]
  }
}"#;

#[test]
fn render_prints_the_request_and_loses_nothing() {
    let project = project("{ family: f }").file("td.json", DEFINITION);
    let outcome = project
        .runner("ecs render --file td.json --image web=new:1 --env web:A=b=c --env web:E=")
        .run()
        .exits(0);
    let rendered: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        rendered,
        json!({
            "family": "FAMILY", "enviromentFile": 1, "brandNew": { "a": [0, false, "", 1.5] },
            "containerDefinitions": [{ "name": "web", "image": "new:1", "memory": 64, "essential": false,
                "environment": [{ "name": "A", "value": "b=c" }, { "name": "E", "value": "" }] }]
        })
    );
    // What comes out is what comes out of that.
    let project = project.file("again.json", &outcome.stdout);
    assert_eq!(project.runner("ecs render --file again.json").run().exits(0).stdout, outcome.stdout);
    let yaml = "family: f\nnetwrokMode: awsvpc\ncontainerDefinitions: [{ name: web, enviroment: [] }]\n";
    let project = project.file("td.yml", yaml);
    let outcome = project.runner("ecs render --file td.yml").run().exits(0);
    outcome
        .complains("`netwrokMode`, which is sent unchanged; did you mean `networkMode`?")
        .complains("`environment`?");
    for (arguments, says) in [
        ("--file td.json --image wbe=x", "no container `wbe`; it has `web`"),
        ("--file td.json --image web", "write CONTAINER=URI"),
        ("--file td.json --env A=b", "write CONTAINER:KEY=VALUE"),
        ("--file none.json", "could not read the task definition none.json"),
    ] {
        project.runner(&format!("ecs render {arguments}")).run().exits(2).complains(says);
    }
}

#[test]
fn the_exit_code_of_diff_reports_changes() {
    let name = ecs_service();
    let same = json!({ "family": name, "containerDefinitions": [{ "name": "web", "image": "old", "memory": 64 }], "tags": [{ "key": "team", "value": "a" }] });
    let project = project("{ family: f }").file("td.json", same.to_string());
    let diff = |more: &str| {
        project
            .runner(&format!("ecs diff --cluster {name} --service {name} --file td.json{more}"))
            .aws()
            .run()
    };
    assert_eq!(diff("").exits(0).stdout, "");
    let outcome = diff(" --image web=new").exits(1);
    outcome.says("-      \"image\": \"old\",").says("+      \"image\": \"new\",");
    assert_eq!(revisions(&name), 1);
    let missing = format!("ecs diff --cluster {name} --service none --file td.json");
    project.runner(&missing).aws().run().exits(3).complains(&format!("there is no service `{name}/none`"));
}

/// The table of ECS's fields is as its script writes it, if the model that it was made from is installed.
#[test]
fn the_table_of_fields_is_fresh() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.dev.d/ecs-model");
    let check = std::process::Command::new("python3").args([script, "--check"]).output().unwrap();
    let code = check.status.code();
    assert!(matches!(code, Some(0 | 3)), "src/ecs/model.rs is stale: run .dev.d/ecs-model, then cargo fmt");
}

/// Findings, D5: what ECS completes is not registered again, however often it is deployed.
#[test]
fn a_volume_that_ecs_completes_causes_one_revision() {
    let family = crate::harness::unique("volume");
    let file = json!({
        "family": family,
        "containerDefinitions": [{ "name": "web", "image": "i", "memory": 64,
            "mountPoints": [{ "sourceVolume": "fs", "containerPath": "/d" }] }],
        "volumes": [{ "name": "fs", "efsVolumeConfiguration": { "fileSystemId": "fs-1" } }],
    });
    let aws = RecordedAws::scripted(None, move |action, body| {
        if action != "ecs:RegisterTaskDefinition" {
            return None;
        }
        // ECS stores its defaults.
        let mut asked: Value = serde_json::from_str(body).unwrap();
        asked["volumes"][0]["efsVolumeConfiguration"]["rootDirectory"] = json!("/");
        asked["volumes"][0]["efsVolumeConfiguration"]["transitEncryption"] = json!("DISABLED");
        asked["containerDefinitions"][0]["mountPoints"][0]["readOnly"] = json!(false);
        asked["containerDefinitions"][0]["linuxParameters"] = json!({ "initProcessEnabled": false });
        Some((200, ecs("RegisterTaskDefinition", &asked).to_string()))
    });
    let project = project("{ file: td.json }").file("td.json", file.to_string());
    for (count, verb) in [(1, "registered"), (1, "unchanged"), (1, "unchanged")] {
        let run = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run();
        run.exits(0).has_line(&[verb, &format!("{family}:1")]);
        assert_eq!(revisions(&family), count);
    }
}

/// Findings, D10: a wrong type is an error with the file's field, before ECS is asked.
#[test]
fn a_value_of_the_wrong_type_is_named_with_its_place() {
    let family = crate::harness::unique("typed");
    let yaml = |fields: &str| {
        format!(
            "family: {family}\ncpu: 256\nmemory: 512\ncontainerDefinitions:\n- name: web\n  image: i\n{fields}"
        )
    };
    let render = |fields: &str| {
        Project::phases("build: { steps: [] }\n")
            .file("td.yml", yaml(fields))
            .runner("ecs render --file td.yml")
            .run()
    };
    let sent: Value =
        serde_json::from_str(&render("  environment: [{ name: A, value: true }]\n").exits(0).stdout).unwrap();
    assert_eq!((&sent["cpu"], &sent["memory"]), (&json!("256"), &json!("512")));
    assert_eq!(sent["containerDefinitions"][0]["environment"][0]["value"], "true");
    render("  memory: '64'\n").exits(2).complains("`containerDefinitions[0].memory` must be a number");
    render("  environment: { A: b }\n")
        .exits(2)
        .complains("`containerDefinitions[0].environment` must be a list of objects");
}

/// Findings, D10: the place is also the file's line and column, in every shape and syntax of a file.
#[test]
fn a_mistake_in_a_task_definition_has_its_line() {
    let block = indoc! {r#"
        family: f
        containerDefinitions:
          - name: web
            image: i
            x: "\ud83d\ude00"
          - { name: "é\ud83d\ude00", image: i, cpu: '256' }
    "#};
    let nulls = indoc! {"
        family: f
        containerDefinitions:
          - name: web
            image: i
            environment:
              - null
              - name: A
                value: [b]
    "};
    let wrapped = "{\n\t\"tags\": [\n\t\t{ \"key\": \"a\", \"value\": {} }\n\t],\n\t\"taskDefinition\": { \"family\": \"f\", \"containerDefinitions\": [] }\n}\n";
    let inner = "{\"taskDefinition\": {\n  \"family\": \"f\",\n  \"containerDefinitions\": [\n    { \"name\": \"\\ud83d\\ude00\", \"image\": \"i\", \"essential\": \"yes\" }\n  ] } }\n";
    let alias =
        "x-env: &env { A: b }\nfamily: f\ncontainerDefinitions: [{ name: a, image: i, environment: *env }]\n";
    let labels =
        "family: f\ncontainerDefinitions:\n- name: a\n  image: i\n  dockerLabels:\n    a.b:\n      c: d\n";
    for (file, text, place, says) in [
        (
            "td.yml",
            block,
            "6:45",
            "`containerDefinitions[1].cpu` must be a number without quotes, not a text",
        ),
        (
            "td.yml",
            nulls,
            "8:16",
            "`containerDefinitions[0].environment[1].value` must be a text, not a list",
        ),
        (
            "td.yml",
            alias,
            "3:45",
            "`containerDefinitions[0].environment` must be a list of objects, not an object",
        ),
        ("td.yml", labels, "6:5", "`containerDefinitions[0].dockerLabels.a.b` must be a text, not an object"),
        (
            "td.yml",
            "\u{feff}family: f\r\ntaskRoleArn: ''\r\ncontainerDefinitions: []\r\n",
            "2:14",
            "`taskRoleArn` is empty",
        ),
        ("td.json", wrapped, "3:26", "`tags[0].value` must be a text, not an object"),
        ("td.json", inner, "4:58", "`containerDefinitions[0].essential` must be true or false"),
    ] {
        let project = Project::phases(&format!(
            "build: {{ steps: [{{ task-definition: {{ file: sub/{file}, containers: {{}} }} }}] }}\n"
        ))
        .file(&format!("sub/{file}"), text);
        let rendered = project.runner(&format!("ecs render --file sub/{file}")).run().exits(2);
        rendered.complains(&format!("error: sub/{file}:{place}: {says}"));
        let deploy = format!("ecs deploy --cluster c --service s --file sub/{file}");
        project.runner(&deploy).aws().run().exits(2).complains(&format!("sub/{file}:{place}: {says}"));
        let run = project.runner("run").run().exits(2).says(&format!("/sub/{file}:{place}: {says}"));
        run.says_not("relative to the directory");
    }
    // Other mistakes have at least the file, and that of a parser its own line and column.
    for (text, says) in [
        ("a: 1\n", "td.yml: this is not a task definition: it has no list `containerDefinitions`"),
        ("- 1\n", "td.yml: this is not a task definition: it is not an object"),
        (
            "family: f\nx: \"\\ud83d\"\n",
            "the task definition td.yml: found invalid Unicode character escape code at line 2 column 7",
        ),
        ("{\n  \"a\": \"\\ude00\"\n}", "line 2 column"),
        ("family: f\ncontainerDefinitions: [\n", "line 3 column 1"),
    ] {
        let project = Project::phases("build: { steps: [] }\n").file("td.yml", text);
        project.runner("ecs render --file td.yml").run().exits(2).complains(says);
    }
}

/// Findings, D16 and D19: mistakes on the command line and in files are said in words.
#[test]
fn mistakes_of_commands_are_said_in_words() {
    let file =
        json!({ "family": "f", "containerDefinitions": [{ "name": "web", "image": "i" }] }).to_string();
    let project = Project::phases("build: { steps: [] }\n")
        .file("td.json", file)
        .file("empty.json", "\n")
        .file("comment.yml", "# later\n")
        .file("role.yml", "family: f\ntaskRoleArn: ''\ncontainerDefinitions: [{ name: web, image: i }]\n");
    let digest = format!("--file td.json --image web=sha256:{}", "a".repeat(64));
    for (arguments, says) in [
        ("--file td.json --image web=a --image web=b", "the image of the container `web` is given twice"),
        (
            "--file td.json --env web:A=1 --env web:A=2",
            "the variable A of the container `web` is given twice",
        ),
        ("--file td.json --image web=/something", "is not a valid repository name"),
        ("--file td.json --image web=a:abc/b", "is not a valid registry host"),
        ("--file td.json --image web=a:b:c", "is not a valid"),
        ("--file td.json --image web=a@sha256:1", "its digest is not sha256"),
        (digest.as_str(), "a digest belongs after a repository"),
        ("--file empty.json", "the task definition empty.json is empty"),
        ("--file comment.yml", "the task definition comment.yml is empty"),
        ("--file role.yml", "`taskRoleArn` is empty"),
    ] {
        project.runner(&format!("ecs render {arguments}")).run().exits(2).complains(says);
    }
    project
        .runner("ecs render --file td.json --image web=localhost:5000/a.b__c-d:v1 --env web:A=")
        .run()
        .exits(0);
}
