//! `parallel`: the first failure ends the other steps.

use crate::harness::{Project, unique};
use indoc::{formatdoc, indoc};
use std::time::{Duration, Instant};

#[test]
fn steps_run_at_the_same_time_and_their_lines_stay_apart() {
    let project = Project::phases(indoc! {r#"
        build:
          steps:
            - name: both
              env: { SHARED: of-group, OWN: x }
              parallel:
                - { name: one, run: 'until [ -e b ]; do sleep 0.02; done; echo "$SHARED $OWN"; touch a', env: { OWN: of-one } }
                - { name: two, run: 'touch b; until [ -e a ]; do sleep 0.02; done; printf end; echo "V=1" >> "$RUNNER_ENV"' }
            - run: echo "v is $V"
    "#});
    let run = project.runner("run").run().exits(0);
    run.says("one │ of-group of-one\n")
        .says("two │ end\n")
        .says("✔ one (")
        .says("✔ both (")
        .says("\nv is 1\n");
}

#[test]
fn the_first_failure_ends_the_others_at_once_and_decides() {
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - parallel:
                - { name: slow, run: 'touch begun; sleep 60' }
                - { name: bad, run: 'until [ -e begun ]; do sleep 0.02; done; exit 9' }
                - parallel: [{ name: inner, run: sleep 60 }]
            - run: echo never
          finally: [{ run: echo cleaned }]
    "});
    let begin = Instant::now();
    let run = project.runner("run").run().exits(1).says_not("\nnever").says("\ncleaned\n");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    run.says("■ slow (")
        .says("■ inner (")
        .says("✘ bad (")
        .ends_with("bad: the command ended with exit code 9");
}

#[test]
fn groups_have_retries_timeouts_and_conditions() {
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - retry: 1
              parallel:
                - { run: 'echo x >> tries; test $(wc -l < tries) = 2' }
                - { run: echo skipped, when: failure }
                - { run: 'echo y >> own; test $(wc -l < own) -ge 2', retry: { attempts: 3, delay: 1s } }
            - run: echo after
    "});
    project.runner("run").run().exits(0).says("\nafter\n").says("skipped, nothing has failed");
    let project = Project::phases(
        "build: { steps: [{ timeout: 1s, parallel: [{ run: sleep 60 }, { run: sleep 60 }] }, { run: echo never }] }\n",
    );
    let run = project.runner("run").run().exits(7).says_not("\nnever");
    run.ends_with("the step took longer than 1s");
    let project = Project::phases(
        "build: { steps: [{ parallel: [{ name: long, run: sleep 60, timeout: 1s }, { run: sleep 60 }] }] }\n",
    );
    project.runner("run").run().exits(7).ends_with("long: the step took longer than 1s");
}

#[test]
fn a_signal_stops_all_of_a_group() {
    let project = Project::phases(
        "build: { steps: [{ parallel: [{ run: 'touch a; sleep 60' }, { run: 'touch b; sleep 60' }] }] }\n",
    );
    let mut running = project.runner("run").start();
    running.until_exists(&project.path("a"));
    running.until_exists(&project.path("b"));
    let begin = Instant::now();
    running.signal("TERM");
    running.finish().exits(143).ends_with("stopped by SIGTERM");
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[test]
fn images_are_built_tested_and_pushed_side_by_side() {
    let name = unique("side");
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        images:
          a: {{ repository: {name}, tags: [a, "${{source.commit}}-a"], dockerfile: a.Dockerfile }}
          b: {{ repository: {name}, tags: [b, "${{source.commit}}-b"], dockerfile: b.Dockerfile }}
        phases:
          build:
            steps:
              - parallel: [{{ build: a }}, {{ build: b }}]
              - parallel: [{{ test: a, command: [cat, /a] }}, {{ test: b, command: [cat, /b] }}]
              - parallel: [{{ push: a }}, {{ push: b }}]
          post_build: {{ steps: [{{ image-definitions: {{ x: a, y: b }} }}] }}
    "#})
    .file("a.Dockerfile", "FROM busybox:1.36\nRUN echo from-a > /a\n")
    .file("b.Dockerfile", "FROM busybox:1.36\nRUN echo from-b > /b\n")
    .git();
    let run = project.runner("run").run().exits(0);
    run.says("test a │ from-a\n").says("test b │ from-b\n");
    let index = project.json(&format!(".runner/registry/{name}/index.json"));
    assert_eq!(index["manifests"].as_array().unwrap().len(), 4, "{index}");
    let definitions = project.json(".runner/imagedefinitions.json");
    assert_ne!(definitions[0]["imageUri"], definitions[1]["imageUri"]);
}
