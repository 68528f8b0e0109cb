//! `retry`, and `timeout` on steps, phases and runs.

use crate::harness::{Project, containers_of, unique};
use indoc::{formatdoc, indoc};
use std::time::{Duration, Instant};

#[test]
fn a_step_is_retried_until_it_succeeds() {
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - run: 'echo x >> tries; test $(wc -l < tries) = 3'
              retry: { attempts: 4, delay: 1s, backoff: 1 }
            - run: echo after
    "});
    let run = project.runner("run").run().exits(0).says("\nafter\n");
    run.says("attempt 1 of 5 failed: the command ended with exit code 1; retrying in").says("attempt 2 of 5");
    assert_eq!(project.read("tries").lines().count(), 3);
}

#[test]
fn the_last_attempt_decides_and_mistakes_in_the_file_are_not_retried() {
    let project = Project::phases("build: { steps: [{ run: 'echo x >> tries; exit 3', retry: 1 }] }\n");
    project.runner("run").run().exits(1).ends_with("exit code 3");
    assert_eq!(project.read("tries").lines().count(), 2);
    let project =
        Project::phases("build: { steps: [{ task-definition: { file: nowhere.json }, retry: 5 }] }\n");
    project.runner("run").run().exits(2).says_not("attempt");
}

#[test]
fn a_step_that_times_out_is_ended_and_counts_as_failed() {
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - { run: 'sleep 60', timeout: 1s }
            - { run: echo because, when: failure }
            - run: echo never
          finally: [{ run: echo cleaned }]
        post_build: { steps: [{ run: echo never }] }
    "});
    let begin = Instant::now();
    let run =
        project.runner("run").run().exits(7).says("\nbecause\n").says("\ncleaned\n").says_not("\nnever");
    run.ends_with("the step took longer than 1s");
    assert!(begin.elapsed() < Duration::from_secs(10));
    // A later call of the build ends the same way.
    let project = Project::phases(indoc! {r"
        build: { steps: [{ run: 'sleep 60', timeout: 1s }] }
        post_build: { steps: [{ run: echo never }] }
    "});
    project.runner("run --phase build").run().exits(7);
    project.runner("run --phase post_build").run().exits(7).says_not("\nnever");
}

#[test]
fn a_timeout_counts_for_each_attempt() {
    let project = Project::phases(
        "build: { steps: [{ run: 'echo x >> tries; test -e ok || { touch ok; sleep 60; }', timeout: 2s, retry: 1 }] }\n",
    );
    project.runner("run").run().exits(0).says("attempt 1 of 2 failed: the step took longer than 2s");
    assert_eq!(project.read("tries").lines().count(), 2);
}

#[test]
fn phases_and_runs_have_timeouts() {
    let slow = |phase: &str, pipeline: &str| {
        Project::new(&formatdoc! {r"
            version: 1
            name: t
            env: {{ shell: sh }}
            {pipeline}
            phases:
              build:
                {phase}
                steps: [{{ run: 'sleep 0.7' }}, {{ run: 'sleep 60', retry: 9 }}, {{ run: echo never }}]
                finally: [{{ run: 'sleep 0.5; echo cleaned' }}]
        "})
    };
    let run = slow("timeout: 1s", "").runner("run").run().exits(7).says("\ncleaned\n").says_not("\nnever");
    run.says_not("attempt").ends_with("the phase took longer than 1s");
    let run = slow("", "timeout: 1s").runner("run").run().exits(7).says("\ncleaned\n").says_not("\nnever");
    run.ends_with("the run took longer than 1s");
    let run = slow("", "timeout: 5m").runner("run --timeout 1s").run().exits(7).says("\ncleaned\n");
    run.ends_with("the run took longer than 1s");
    slow("", "").runner("run --timeout soon").run().exits(2).complains("`soon` is not a duration");
}

#[test]
fn processes_that_ignore_term_are_killed_after_the_grace_period() {
    let project = Project::phases(
        "build: { steps: [{ run: 'trap \"\" TERM; sleep 60 & wait; sleep 60', timeout: 1s }] }\n",
    );
    let begin = Instant::now();
    project.runner("run --grace 1s").run().exits(7);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}

#[test]
fn a_container_test_that_takes_too_long_leaves_no_container() {
    let name = unique("limit");
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        images: {{ app: {{ repository: {name}, tags: [t] }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ test: app, command: [sleep, "60"], timeout: 2s }}] }} }}
    "#})
    .file("Dockerfile", "FROM busybox:1.36\n");
    project.runner("run").run().exits(7).ends_with("the step took longer than 2s");
    assert_eq!(containers_of(&project), "");
}

#[test]
fn a_value_that_a_step_registers_is_masked_from_then_on() {
    let project = Project::phases(indoc! {r#"
        build:
          steps:
            - run: |
                token=fetched-$(echo at-run-time)
                printf '%s\nabc\n' "$token" >> "$RUNNER_MASK"
                echo "now $token"
                echo "TOKEN=$token" >> "$RUNNER_ENV"
            - { name: "with ${TOKEN}", run: 'echo "later $TOKEN"' }
    "#});
    let run =
        project.runner("run").run().exits(0).says("\nnow ***\n").says("▸ with ***").says("\nlater ***\n");
    run.says("a value in $RUNNER_MASK is not masked: it is shorter than four characters")
        .says_not("fetched-at-run-time");
    assert!(!project.read(".runner/state.json").contains("fetched-at"));
}

#[test]
fn every_way_to_register_a_value_masks_it() {
    let project = Project::phases(
        r#"  build:
    steps:
      - name: one after the other
        run: |
          for value in first-secret-AAAA other-secret-BBBB third-CC; do
            echo "$value" > "$RUNNER_MASK"
            echo "now $value"
            sleep 0.1
          done
      - parallel:
          - name: a
            run: 'echo beside-secret-DDDD >> "$RUNNER_MASK"; touch go; sleep 1'
          - name: b
            run: 'until [ -e go ]; do sleep 0.02; done; sleep 0.3; echo "is beside-secret-DDDD"'
      - name: later
        run: 'echo "LATER=later-secret-EEEE" >> "$RUNNER_ENV"'
      - run: 'echo "$LATER" >> "$RUNNER_MASK"'
"#,
    );
    let run = project.runner("run").run().exits(0).says("\nnow ***\n").says("│ is ***\n");
    run.says_not("secret-").says_not("third-CC");
    assert!(!project.read(".runner/state.json").contains("later-secret"));
    // What cannot be read is no reason to show it.
    for write in [
        "head -c 1300000 /dev/zero | tr '\\0' x",
        "printf 'caf\\351-secret'",
        "rm \"$RUNNER_MASK\"; mkdir \"$RUNNER_MASK\"; :",
    ] {
        let project = Project::phases(&formatdoc! {r#"
            build:
              steps:
                - run: |
                    {write} >> "$RUNNER_MASK" || :
                    echo not-to-be-seen
        "#});
        let run = project.runner("run").run().exits(1).says_not("\nnot-to-be-seen");
        run.says("cannot read $RUNNER_MASK");
    }
}

#[test]
fn a_timeout_between_two_attempts() {
    let project = Project::phases(
        "build: { timeout: 1s, steps: [{ run: exit 5, retry: { attempts: 1, delay: 1m } }] }\n",
    );
    project.runner("run").run().exits(7).ends_with("the phase took longer than 1s");
}
