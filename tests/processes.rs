//! Processes: all that a command starts ends with it, even if it tries to escape or runner is killed.

use crate::harness::{Project, containers_of, docker, eventually, exclusive, shell, unique};
use indoc::{formatdoc, indoc};
use std::time::{Duration, Instant};

/// Processes, zombies not included, whose environment or command line holds a word.
fn living(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let read = |name: &str| std::fs::read(path.join(name)).unwrap_or_default();
        let holds = |bytes: &[u8]| bytes.windows(word.len()).any(|window| window == word.as_bytes());
        let ours = entry.file_name().to_string_lossy() == std::process::id().to_string();
        if !ours && (holds(&read("environ")) || holds(&read("cmdline"))) {
            found.push(String::from_utf8_lossy(&read("cmdline")).replace('\0', " "));
        }
    }
    found
}

/// What tries to outlive its step, in a shell.
const ESCAPES: &[&str] = &[
    "sleep 300 &",
    "setsid sleep 300 &",
    "(setsid sleep 300 >/dev/null 2>&1 &)",
    "nohup sleep 300 >/dev/null 2>&1 &",
    "env -i /bin/sleep 300 >/dev/null 2>&1 &",
    "(trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' >/dev/null 2>&1 &)",
    "setsid sh -c 'kill -STOP $$' >/dev/null 2>&1 &",
];

#[test]
fn nothing_outlives_a_finished_step() {
    for escape in ESCAPES {
        let word = unique("outlive");
        let project = Project::phases(
            &formatdoc! {r"
            build:
              steps:
                - run: |
                    {escape}
                    touch begun
                - run: echo next
        "}
            .replace("    env: {}\n", ""),
        );
        let begin = Instant::now();
        let run = project.runner("run").env("MARK", &word).run().exits(0).says("\nnext\n");
        run.says("ended processes that the command left running: ");
        assert!(begin.elapsed() < Duration::from_secs(12), "{escape}: {:?}", begin.elapsed());
        assert_eq!(living(&word), Vec::<String>::new(), "{escape}");
    }
}

#[test]
fn nothing_outlives_a_run_that_is_killed() {
    for escape in ESCAPES {
        let word = unique("killed");
        let project = Project::phases(&formatdoc! {r"
            build:
              steps:
                - run: |
                    {escape}
                    touch begun
                    sleep 300
        "});
        let mut running = project.runner("run --grace 1s").env("MARK", &word).start();
        running.until_exists(&project.path("begun"));
        running.signal("KILL");
        running.finish();
        let begin = Instant::now();
        eventually(|| living(&word).is_empty(), &format!("{escape}: {:?}", living(&word)));
        assert!(begin.elapsed() < Duration::from_secs(8), "{escape}: {:?}", begin.elapsed());
    }
}

#[test]
fn a_killed_guard_kills_nothing_else() {
    let word = unique("guard");
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - run: |
                setsid sleep 300 >/dev/null 2>&1 &
                touch begun
                sleep 300
          finally: [{ run: echo cleaned }]
    "});
    let mut running = project.runner("run").env("MARK", &word).start();
    running.until_exists(&project.path("begun"));
    let children = running.children();
    assert_eq!(children.len(), 1, "{children:?}");
    shell("kill", &["-KILL", &children[0]]);
    running.finish().exits(3).says("the process that supervises commands has ended").says("\ncleaned\n");
    eventually(|| living(&word).is_empty(), "what it watched over lives");
}

#[test]
fn the_death_of_its_parent_stops_a_run_unless_it_is_detached() {
    let word = unique("parent");
    let project = Project::phases(indoc! {r"
        build:
          steps: [{ run: 'touch begun; sleep 3; touch through' }]
          finally: [{ run: touch cleaned }]
    "});
    let start = |nohup: &str| {
        let script = format!("{nohup} {} run >log 2>&1 & until [ -e begun ]; do sleep 0.02; done", runner());
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).current_dir(project.root()).env("MARK", &word);
        assert!(shell.status().unwrap().success());
    };
    start("");
    eventually(|| project.exists("cleaned") && living(&word).is_empty(), "it goes on");
    assert!(!project.exists("through"));
    let log = project.read("log");
    assert!(log.contains("stopped by SIGHUP"), "{log}");
    std::fs::remove_file(project.path("begun")).unwrap();
    start("nohup");
    eventually(|| project.exists("through") && living(&word).is_empty(), "it was stopped");
}

fn runner() -> &'static str {
    env!("CARGO_BIN_EXE_runner")
}

#[test]
fn the_first_process_of_a_container_reaps_children_and_forwards_signals() {
    let name = unique("init");
    let dockerfile = "FROM busybox:1.36\nCOPY runner /runner\nWORKDIR /src\nCOPY pipeline.yml .\nENTRYPOINT [\"/runner\"]\nCMD [\"run\"]\n";
    let pipeline = indoc! {"
        version: 1
        name: t
        env: { shell: sh }
        phases:
          build:
            steps:
              - run: |
                  echo up
                  sleep 300
            finally: [{ run: echo cleaned }]
    "};
    let project = Project::new(pipeline).file("Dockerfile", dockerfile);
    std::fs::copy(runner(), project.path("runner")).unwrap();
    docker(&["build", "-q", "-t", &name, &project.root().display().to_string()]);
    docker(&["run", "-d", "--name", &name, &name]);
    let logs = || docker(&["logs", &name]);
    eventually(|| logs().contains("\nup\n"), "it did not start");
    // A process that comes into the container from outside and loses its parent there belongs to the first process.
    docker(&["exec", &name, "sh", "-c", "(sleep 0.2 &)"]);
    std::thread::sleep(Duration::from_millis(600));
    let processes = docker(&["exec", &name, "sh", "-c", "cat /proc/[0-9]*/stat"]);
    assert!(!processes.contains(") Z "), "{processes}");
    let begin = Instant::now();
    docker(&["stop", "-t", "20", &name]);
    assert!(begin.elapsed() < Duration::from_secs(10));
    let code = docker(&["inspect", "-f", "{{.State.ExitCode}}", &name]);
    let log = logs();
    docker(&["rm", "-f", &name]);
    docker(&["rmi", "-f", &name]);
    assert_eq!(code.trim(), "143", "{log}");
    assert!(log.contains("\ncleaned\n"), "{log}");
}

#[test]
fn a_long_script_and_variables_that_are_not_utf8_reach_the_shell() {
    let long = "          : a line of a long script\n".repeat(6000);
    let project = Project::phases(&formatdoc! {r#"
          build:
            steps:
              - run: |
                  false || echo began
        {long}          printf '%s' "$ODD" | od -An -tx1
    "#});
    let mut command = std::process::Command::new(runner());
    let odd = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff, 0x61]);
    let odd: std::ffi::OsString = odd;
    let output = command.arg("run").current_dir(project.root()).env("ODD", odd).output().unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{log}");
    assert!(log.contains("\nbegan\n") && log.contains("ff 61"), "{log}");
}

#[test]
fn gc_removes_what_a_killed_run_left_and_nothing_else() {
    // It looks at the whole machine, and other tests are on it.
    let _one = exclusive("gc");
    let word = unique("gc");
    let image = unique("gc");
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {image}, tags: [t] }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ run: 'echo secret-to-be >> "$RUNNER_MASK"' }}, {{ test: app, command: [sleep, "300"] }}] }} }}
    "#})
    .file("Dockerfile", "FROM busybox:1.36\n");
    std::fs::write(project.path(".runner-tmp-left"), "half").unwrap();
    let mut running = project.runner("run").env("MARK", &word).start();
    running.until_exists(&project.path(".runner/state.json"));
    eventually(|| !containers_of(&project).is_empty(), "no container came");
    // What lives is left alone.
    let gc = project.runner("gc").run().exits(0);
    gc.complains("a runner is using them");
    assert!(!containers_of(&project).is_empty());
    running.signal("KILL");
    running.finish();
    assert!(project.exists(".runner/tmp"));
    // Containers of other steps, and of another user's runner on another machine.
    let container = containers_of(&project);
    let label = "{{ index .Config.Labels \"dev.runner.owner\" }}";
    let owner = docker(&["inspect", "-f", label, container.trim()]);
    let (own, other) = (format!("dev.runner.owner={}", owner.trim()), "dev.runner.owner=elsewhere.1.2.3");
    for (label, name) in [(own.as_str(), unique("own")), (other, unique("other"))] {
        docker(&["network", "create", "--label", label, &name]);
        docker(&["volume", "create", "--label", label, &name]);
    }
    let gc = project.runner("gc").run().exits(0).complains("left alone: 2 with the label dev.runner.owner");
    gc.says("removed container ")
        .says("removed network own-")
        .says("removed volume own-")
        .says(".runner/tmp\n");
    let filter = format!("label={other}");
    for kind in ["network", "volume"] {
        let left = docker(&[kind, "ls", "-q", "--filter", &filter]);
        assert_eq!(left.lines().count(), 1, "{left}");
        docker(&[kind, "rm", left.trim()]);
    }
    assert_eq!(containers_of(&project), "");
    assert!(
        !project.exists(".runner/tmp") && living(&word).is_empty() && !project.exists(".runner-tmp-left")
    );
    // Runs that tests beside this one have killed may still be ending.
    let nothing = || project.runner("gc").run().exits(0).stdout == "nothing was left behind\n";
    eventually(nothing, "there is always something to remove");
}

#[test]
fn gc_finds_processes_whose_guard_is_gone_too() {
    let _one = exclusive("gc");
    let word = unique("gc");
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - run: |
                setsid sleep 300 >/dev/null 2>&1 &
                touch begun
                sleep 300
    "});
    let mut running = project.runner("run").env("MARK", &word).start();
    running.until_exists(&project.path("begun"));
    let guard = running.children();
    // Runner first, so that it does not see the guard's end; stopped, so that the guard does not see its.
    shell("kill", &["-STOP", &guard[0]]);
    running.signal("KILL");
    shell("kill", &["-KILL", &guard[0]]);
    running.finish();
    assert!(!living(&word).is_empty());
    project.runner("gc").run().exits(0).says("removed process sleep (");
    assert_eq!(living(&word), Vec::<String>::new());
}

#[test]
fn gc_leaves_guards_to_end_by_themselves() {
    let _one = exclusive("gc");
    let stubborn = "trap '' TERM\n          touch begun\n          while :; do sleep 0.1; done";
    for stopped in [false, true] {
        let word = unique("gc");
        let project = Project::phases(&formatdoc! {r"
                build:
                  steps:
                    - run: |
                        {stubborn}
            "});
        let mut running = project.runner("run --grace 5m").env("MARK", &word).start();
        running.until_exists(&project.path("begun"));
        let guard = running.children();
        if stopped {
            shell("kill", &["-STOP", &guard[0]]);
        }
        running.signal("KILL");
        running.finish();
        let gc = project.runner("gc").run().exits(0).says("removed process ");
        // Killed first, it would let go of what forks on and on; one that hangs is killed in the end.
        let named = format!("({})\n", guard[0]);
        let _ = if stopped { gc.says(&named) } else { gc.says_not(&named) };
        assert!(!std::path::Path::new(&format!("/proc/{}/exe", guard[0])).exists());
        assert_eq!(living(&word), Vec::<String>::new());
    }
}

#[test]
fn background_processes_do_not_delay_the_step() {
    // It writes on and on.
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - run: '(while :; do echo tick; sleep 0.2; done) & echo started'
            - run: echo next
    "});
    let begin = Instant::now();
    project
        .runner("run")
        .run()
        .exits(0)
        .says("tick")
        .says("ended processes that the command left running")
        .says("\nnext\n");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    // The command was through before its time was over, and what it left takes a while to end.
    let project = Project::phases(indoc! {r#"
        build:
          steps:
            - timeout: 1s
              run: |
                (setsid sh -c 'trap "" TERM; sleep 300' &)
                sleep 0.1; echo ok
            - run: echo next
    "#});
    let begin = Instant::now();
    project.runner("run").run().exits(0).says("\nnext\n");
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
}

#[test]
fn a_command_may_clear_what_git_ignores() {
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - run: rm -rf .runner
            - run: echo next
          finally: [{ run: echo cleaned }]
    "});
    project.runner("run").run().exits(0).says("\nnext\n").says("\ncleaned\n");
}

#[test]
fn guards_that_are_stopped_or_ended_between_steps_do_not_matter() {
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - run: 'kill -STOP $PPID; echo one'
            - run: 'echo two; (sleep 0.3; kill -KILL $PPID) >/dev/null 2>&1 & echo $PPID > guard'
            - { run: 'kill -STOP $PPID; sleep 300', timeout: 1s, when: always }
    "});
    let begin = Instant::now();
    let run = project.runner("run --grace 1s").run().exits(7).says("\none\n").says("\ntwo\n");
    run.ends_with("the step took longer than 1s");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn two_simultaneous_signals_count_once() {
    let project = Project::phases(
        "build: { steps: [{ run: 'touch begun; sleep 300' }], finally: [{ run: 'sleep 1; echo cleaned' }] }\n",
    );
    let mut running = project.runner("run").start();
    running.until_exists(&project.path("begun"));
    running.signal("TERM");
    running.signal("HUP");
    std::thread::sleep(Duration::from_millis(400));
    running.signal("HUP");
    let outcome = running.finish();
    outcome.exits(143).says("\ncleaned\n");
}

#[test]
fn a_directory_whose_name_is_not_utf8_works() {
    use std::os::unix::ffi::OsStrExt;
    let outer = tempfile::tempdir().unwrap();
    let directory = outer.path().join(std::ffi::OsStr::from_bytes(b"d\xff"));
    std::fs::create_dir(&directory).unwrap();
    let pipeline = indoc! {r#"
        version: 1
        name: t
        env: { shell: sh }
        phases: { build: { steps: [{ run: 'echo A=handed-on >> "$RUNNER_ENV"' }, { run: 'echo "$A"' }] } }
    "#};
    std::fs::write(directory.join("pipeline.yml"), pipeline).unwrap();
    let output = std::process::Command::new(runner()).arg("run").current_dir(&directory).output().unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && log.contains("\nhanded-on\n"), "{log}");
}

#[test]
fn a_run_waits_for_the_processes_of_a_killed_one() {
    let project = Project::phases(
        "build: { steps: [{ run: 'test -e begun && exit 0; touch begun; trap \"\" TERM; while :; do echo x >> alive; sleep 0.05; done' }] }\n",
    );
    let mut running = project.runner("run --grace 2s").start();
    running.until_exists(&project.path("begun"));
    running.signal("KILL");
    running.finish();
    project.runner("run").run().exits(0);
    let lines = project.read("alive").lines().count();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(project.read("alive").lines().count(), lines, "both were at work");
}
