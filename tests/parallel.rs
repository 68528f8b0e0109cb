//! `parallel`: the first failure ends the other steps.

use crate::harness::{Project, unique};
use std::time::{Duration, Instant};

#[test]
fn steps_run_at_the_same_time_and_their_lines_stay_apart() {
    let project = Project::phases(
        "  build:\n    steps:\n      - name: both\n        env: { SHARED: of-group, OWN: x }\n        parallel:\n          - { name: one, run: 'until [ -e b ]; do sleep 0.02; done; echo \"$SHARED $OWN\"; touch a', env: { OWN: of-one } }\n          - { name: two, run: 'touch b; until [ -e a ]; do sleep 0.02; done; printf end; echo \"V=1\" >> \"$RUNNER_ENV\"' }\n      - run: echo \"v is $V\"\n",
    );
    let run = project.runner("run").run().exits(0);
    run.says("one │ of-group of-one\n")
        .says("two │ end\n")
        .says("✔ one (")
        .says("✔ both (")
        .says("\nv is 1\n");
}

#[test]
fn the_first_failure_ends_the_others_at_once_and_decides() {
    let project = Project::phases(
        "  build:\n    steps:\n      - parallel:\n          - { name: slow, run: 'touch begun; sleep 60' }\n          - { name: bad, run: 'until [ -e begun ]; do sleep 0.02; done; exit 9' }\n          - parallel: [{ name: inner, run: sleep 60 }]\n      - run: echo never\n    finally: [{ run: echo cleaned }]\n",
    );
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
    let project = Project::phases(
        "  build:\n    steps:\n      - retry: 1\n        parallel:\n          - { run: 'echo x >> tries; test $(wc -l < tries) = 2' }\n          - { run: echo skipped, when: failure }\n          - { run: 'echo y >> own; test $(wc -l < own) -ge 2', retry: { attempts: 3, delay: 1s } }\n      - run: echo after\n",
    );
    project.runner("run").run().exits(0).says("\nafter\n").says("skipped, nothing has failed");
    let project = Project::phases(
        "  build: { steps: [{ timeout: 1s, parallel: [{ run: sleep 60 }, { run: sleep 60 }] }, { run: echo never }] }\n",
    );
    let run = project.runner("run").run().exits(7).says_not("\nnever");
    run.ends_with("the step took longer than 1s");
    let project = Project::phases(
        "  build: { steps: [{ parallel: [{ name: long, run: sleep 60, timeout: 1s }, { run: sleep 60 }] }] }\n",
    );
    project.runner("run").run().exits(7).ends_with("long: the step took longer than 1s");
}

#[test]
fn a_signal_stops_all_of_a_group() {
    let project = Project::phases(
        "  build: { steps: [{ parallel: [{ run: 'touch a; sleep 60' }, { run: 'touch b; sleep 60' }] }] }\n",
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
    let project = Project::new(&format!(
        "version: 1\nname: t\nimages:\n  a: {{ repository: {name}, tags: [a, \"${{source.commit}}-a\"], dockerfile: a.Dockerfile }}\n  b: {{ repository: {name}, tags: [b, \"${{source.commit}}-b\"], dockerfile: b.Dockerfile }}\nphases:\n  build:\n    steps:\n      - parallel: [{{ build: a }}, {{ build: b }}]\n      - parallel: [{{ test: a, command: [cat, /a] }}, {{ test: b, command: [cat, /b] }}]\n      - parallel: [{{ push: a }}, {{ push: b }}]\n  post_build: {{ steps: [{{ image-definitions: {{ x: a, y: b }} }}] }}\n"
    ))
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
