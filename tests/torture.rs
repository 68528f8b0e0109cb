//! The torture suite: commands that do what they can to outlive their step, and everything that may end a step. Nothing
//! may be left, not even a zombie, when the grace and a second are over. `./dev soak` runs all of it, `./dev test` one
//! seed of each.

use crate::harness::{Project, containers_of, eventually, exclusive, unique};
use indoc::formatdoc;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const GRACE: Duration = Duration::from_secs(1);

/// Scripts for `sh`. Each touches `begun` when it is at its worst; `MANY` is a number that depends on the seed.
const BEHAVIOURS: &[(&str, &str)] = &[
    ("does nothing special", "touch begun; sleep 300"),
    ("ignores TERM", "trap '' TERM INT HUP; touch begun; while :; do sleep 0.05; done"),
    ("forks in a loop", "touch begun; while :; do sleep 300 & sleep 0.01; done"),
    (
        "forks in a loop that ignores TERM",
        "trap '' TERM; touch begun; while :; do (trap '' TERM; sleep 300) & sleep 0.01; done",
    ),
    (
        "forks a chain",
        "exec python3 -c 'import os, time, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen(\"begun\", \"w\")\nif os.fork():\n  time.sleep(300)\nwhile True:\n  if os.fork(): os._exit(0)\n  time.sleep(0.001)'",
    ),
    ("makes a session", "setsid sleep 300 & touch begun; sleep 300"),
    (
        "makes a session that ignores TERM",
        "setsid sh -c 'trap \"\" TERM; touch begun; while :; do sleep 0.05; done' & sleep 300",
    ),
    (
        "becomes a daemon",
        "python3 -c 'import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nopen(\"begun\", \"w\")\nos.chdir(\"/\")\nos.closerange(0, 64)\ntime.sleep(300)'; sleep 300",
    ),
    (
        "leaves a holder of its output",
        "(setsid sh -c 'trap \"\" TERM; touch begun; sleep 300' &) ; sleep 300",
    ),
    ("stops itself", "touch begun; kill -STOP $$; sleep 300"),
    ("stops its children", "for i in $(seq MANY); do sh -c 'kill -STOP $$' & done; touch begun; wait"),
    (
        "writes after its output is closed",
        "exec >&- 2>&-; trap '' PIPE; touch begun; while :; do echo x || :; sleep 0.02; done",
    ),
    ("floods its output", "touch begun; yes 'a line of a flood'"),
    ("ends by a signal", "setsid sleep 300 & touch begun; sleep 0.3; kill -SEGV $$"),
    ("forks when it is to end", "trap 'setsid sleep 300 & sleep 300' TERM; touch begun; sleep 300 & wait"),
    ("takes its time to end", "trap 'sleep 0.4; exit 0' TERM; touch begun; sleep 300 & wait"),
    ("has process groups of its own", "set -m; for i in $(seq MANY); do sleep 300 & done; touch begun; wait"),
    (
        "clears its environment",
        "cd .; touch begun; exec env -i /bin/sh -c 'setsid /bin/sleep 300 & /bin/sleep 300'",
    ),
    ("has many children", "for i in $(seq 150); do sleep 300 & done; touch begun; wait"),
    (
        "does not collect its children",
        "exec python3 -c 'import os, time\nfor i in range(MANY):\n  if not os.fork(): os._exit(0)\nopen(\"begun\", \"w\")\ntime.sleep(300)'",
    ),
    (
        "runs without a terminal",
        "nohup sh -c 'trap \"\" HUP TERM; touch begun; sleep 300; sleep 300' >/dev/null 2>&1",
    ),
    ("nests", "sh -c \"sh -c 'setsid sh -c \\\"touch begun; sleep 300\\\" & sleep 300' & sleep 300\" & wait"),
];

/// What ends a step.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Timeout,
    Cancel,
    Term,
    Kill,
    ClosedOutput,
}

const ENDS: [End; 5] = [End::Timeout, End::Cancel, End::Term, End::Kill, End::ClosedOutput];

/// Processes whose environment or arguments hold a word, or that are in the project's directory: number and start.
fn marked(project: &Project, word: &str) -> BTreeSet<(u32, u64)> {
    let root = project.root().as_os_str().as_encoded_bytes();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let path = entry.path();
        let read = |name: &str| std::fs::read(path.join(name)).unwrap_or_default();
        let holds = |bytes: &[u8]| bytes.windows(word.len()).any(|window| window == word.as_bytes());
        // A guard has nothing but its directory.
        let directory = std::fs::read_link(path.join("cwd")).unwrap_or_default();
        if holds(&read("environ"))
            || holds(&read("cmdline"))
            || directory.as_os_str().as_encoded_bytes().starts_with(root)
        {
            found.extend(start(pid).map(|start| (pid, start)));
        }
    }
    found
}

/// When a process started. Returns `None` if it does not exist, or is a zombie whose parent is process 1, which is not
/// runner's fault. Other zombies count.
fn start(pid: u32) -> Option<u64> {
    let stat = String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat")).ok()?).into_owned();
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    if fields[0] == "Z" && fields[1] == "1" {
        return None;
    }
    fields[19].parse().ok()
}

/// Runs one case. The answer is how long after its end something still lived.
fn case(behaviour: &str, script: &str, end: End, seed: usize) -> Result<(Duration, Project), String> {
    let word = unique("torture");
    let script = script.replace("MANY", &(3 + seed * 2).to_string());
    let script: String = script.lines().map(|line| format!("            {line}\n")).collect();
    let step = match end {
        End::Cancel => formatdoc! {r"
                  - parallel:
                    - run: |
            {script}        - run: until [ -e end ]; do sleep 0.01; done; exit 9
        "},
        End::Timeout | End::ClosedOutput => formatdoc! {r"
                  - timeout: 1s
                    run: |
            {script}"},
        End::Term | End::Kill => format!("      - run: |\n{script}"),
    };
    let project = Project::phases(&formatdoc! {r"
              build:
                steps:
            {step}    finally: [{{ run: touch cleaned }}]
        "});
    let name = format!("{behaviour}, {end:?}, seed {seed}");
    let begin = Instant::now();
    let mut running = project.runner("run --grace 1s").env("MARK", &word).start();
    let drained = if end == End::ClosedOutput {
        running.close_stdout();
        None
    } else {
        Some(running.drain())
    };
    while !project.exists("begun") {
        if begin.elapsed() > Duration::from_mins(1) {
            return Err(format!("{name}: it never began"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis((seed as u64 * 37) % 400));
    let mut seen = marked(&project, &word);
    let ended = match end {
        End::Timeout | End::ClosedOutput => begin + Duration::from_secs(1),
        End::Cancel => {
            std::fs::write(project.path("end"), "").unwrap();
            Instant::now()
        }
        End::Term => {
            running.signal("TERM");
            Instant::now()
        }
        End::Kill => {
            running.signal("KILL");
            Instant::now()
        }
    };
    let code = loop {
        seen.extend(marked(&project, &word));
        if let Some(status) = running.ended() {
            break status.code();
        }
        if begin.elapsed() > Duration::from_secs(20) {
            running.signal("KILL");
            return Err(format!("{name}: runner hangs"));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    drop(drained);
    // Processes whose names are unknown are identified by their numbers.
    loop {
        let alive = marked(&project, &word);
        seen.extend(&alive);
        let left: Vec<_> = seen.iter().filter(|(pid, began)| start(*pid) == Some(*began)).collect();
        if alive.is_empty() && left.is_empty() {
            break;
        }
        if ended.elapsed() > Duration::from_secs(20) {
            let names = left.iter().map(|(pid, _)| std::fs::read_to_string(format!("/proc/{pid}/stat")));
            return Err(format!("{name}: these live: {:?}", names.collect::<Vec<_>>()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = ended.elapsed();
    let expected: &[Option<i32>] = match end {
        // The step that ends by itself may do so first.
        _ if behaviour == "ends by a signal" => &[Some(1), Some(7), Some(143), None],
        End::Timeout | End::ClosedOutput => &[Some(7)],
        End::Cancel => &[Some(1)],
        End::Term => &[Some(143)],
        End::Kill => &[None],
    };
    if !expected.contains(&code) {
        return Err(format!("{name}: exit {code:?}"));
    }
    if end != End::Kill && !project.exists("cleaned") {
        return Err(format!("{name}: `finally` did not run"));
    }
    if !project.json(".runner/state.json").is_object() {
        return Err(format!("{name}: the state is unreadable"));
    }
    Ok((took, project))
}

/// Three seconds of everything that leaves something: processes, files, an image, a container.
fn three_seconds(image: &str) -> Project {
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {image}, tags: [t, "${{source.commit}}"] }} }}
        phases:
          install:
            steps:
              - run: 'setsid sleep 300 & echo value-to-mask >> "$RUNNER_MASK"; sleep ${{NAP:-0.6}}'
              - run: echo A=1 >> "$RUNNER_ENV"
          build:
            steps:
              - build: app
              - test: app
                command: [sh, -c, "sleep $NAP"]
                env: {{ NAP: "${{NAP:-0.7}}" }}
              - push: app
              - parallel: [{{ run: 'sleep ${{NAP:-0.3}}' }}, {{ run: 'sleep ${{NAP:-0.4}}' }}]
          post_build: {{ steps: [{{ image-definitions: {{ web: app }} }}, {{ run: 'sleep ${{NAP:-0.3}}' }}] }}
    "#})
    .file("Dockerfile", "FROM busybox:1.36\nRUN echo image of the torture suite > /text\n")
    .git()
}

#[test]
fn a_run_can_be_killed_at_any_moment() {
    let full = std::env::var_os("RUNNER_SOAK").is_some();
    let _one = exclusive("gc");
    let image = unique("moment");
    let moments = if full { 100 } else { 8 };
    let project = three_seconds(&image);
    project.runner("run").env("NAP", "0").run().exits(0);
    let length = {
        let begin = Instant::now();
        project.runner("run").run().exits(0);
        begin.elapsed()
    };
    let mut unreadable = 0;
    for moment in 0..moments {
        let word = unique("moment");
        let mut running = project.runner("run --grace 1s").env("MARK", &word).start();
        let drained = running.drain();
        std::thread::sleep(length * moment / moments);
        running.signal("KILL");
        running.finish();
        drained.join().unwrap();
        let state = std::fs::read(project.path(".runner/state.json")).unwrap();
        unreadable += usize::from(serde_json::from_slice::<serde_json::Value>(&state).is_err());
        project.runner("gc").run().exits(0);
        let containers = containers_of(&project);
        assert_eq!((marked(&project, &word).len(), containers.as_str()), (0, ""), "moment {moment}");
        let files = crate::harness::shell("find", &[&project.path(".runner").display().to_string()]);
        assert!(
            !project.exists(".runner/tmp") && !files.contains(".runner-tmp-"),
            "moment {moment}: {files}"
        );
        // Whatever another `gc` finds is of tests beside this one.
        let own = project.path("").display().to_string();
        project.runner("gc").run().exits(0).says_not(&own);
        project.runner("run").env("NAP", "0").run().exits(0);
    }
    println!("{moments} moments of {length:?}, {unreadable} unreadable states");
    assert_eq!(unreadable, 0);
}

#[test]
fn a_test_with_services_can_be_killed_at_any_moment() {
    let moments = if std::env::var_os("RUNNER_SOAK").is_some() { 30 } else { 5 };
    let _one = exclusive("gc");
    let project = crate::services::project(crate::services::SERVICES);
    project.runner("run").run().exits(0);
    let length = {
        let begin = Instant::now();
        project.runner("run").run().exits(0);
        begin.elapsed()
    };
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut found = 0;
    for number in 0..moments {
        // Anywhere within its part of the run: a sample too sees the beginning and the end.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let part = u32::try_from(random >> 40).unwrap();
        let moment = length * number / moments + length / moments * part / (1 << 24);
        let running = project.runner("run --grace 1s").start();
        std::thread::sleep(moment);
        running.signal("KILL");
        running.finish();
        found += usize::from(!containers_of(&project).is_empty());
        // What the engine was still making when runner was killed may be there only for the next `gc`.
        let cleared = || {
            project.runner("gc").run().exits(0);
            (containers_of(&project) + &crate::services::networks_of(&project)).is_empty()
        };
        eventually(cleared, &format!("something is left, killed after {moment:?}"));
    }
    println!("{moments} moments of {length:?}, {found} with containers");
    assert!(found > 0, "no moment was one with containers");
}

#[test]
fn nothing_outlives_its_step() {
    let full = std::env::var_os("RUNNER_SOAK").is_some();
    let (seeds, workers, slack) = if full { (20, 4, Duration::ZERO) } else { (1, 4, Duration::from_secs(3)) };
    let cases: Vec<_> = (0..seeds)
        .flat_map(|seed| BEHAVIOURS.iter().flat_map(move |behaviour| ENDS.map(|end| (behaviour, end, seed))))
        .collect();
    let (next, failures, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(((behaviour, script), end, seed)) =
                    cases.get(next.fetch_add(1, Ordering::SeqCst))
                {
                    // Where the clock of a whole run decides, another seed is another moment.
                    match case(behaviour, script, *end, *seed + usize::from(!full) * 5) {
                        Ok((took, project)) => {
                            if took > GRACE + Duration::from_secs(1) + slack {
                                failures
                                    .lock()
                                    .unwrap()
                                    .push(format!("{behaviour}, {end:?}, seed {seed}: {took:?}"));
                            }
                            done.lock().unwrap().push((took, *end, project));
                        }
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
        }
    });
    // What `gc` finds is looked at last: it would help the guards of other cases.
    let _one = exclusive("gc");
    let done = done.into_inner().unwrap();
    let mut failures = failures.into_inner().unwrap();
    for (_, _, project) in
        done.iter().filter(|(_, end, _)| *end == End::Kill).take(if full { 200 } else { 5 })
    {
        let gc = project.runner("gc").run().exits(0);
        if gc.stdout.contains("process") || project.exists(".runner/tmp") {
            failures.push(format!("gc: {}", gc.stdout));
        }
    }
    let slowest = done.iter().map(|(took, ..)| *took).max().unwrap_or_default();
    println!("{} cases, {} failures, the slowest gone after {slowest:?}", cases.len(), failures.len());
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
