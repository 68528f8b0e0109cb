//! Builds of several images: dependencies, shared and named contexts, platforms.

use crate::build::{image_id, project};
use crate::harness::{Project, docker, shell, unique};
use indoc::formatdoc;

/// Where a step with this word in its name begins and ends in the log.
fn span(log: &str, word: &str) -> (usize, usize) {
    let at = log.find(word).unwrap_or_else(|| panic!("{word}: {log}"));
    let begin = log[..at].rfind('\n').unwrap() + 1;
    let step = log[begin..].split(" [").next().unwrap();
    let end = log.find(&format!("{step} done")).unwrap_or_else(|| panic!("{step}: {log}"));
    (begin, end)
}

/// The names that images have only while others are built from them are gone, those of tests beside this one included.
fn no_stage_is_left() {
    let none = || docker(&["images", "-q", "local.invalid/runner-stage"]).is_empty();
    crate::harness::eventually(none, "a name is left");
}

#[test]
fn images_depend_on_each_other_and_build_side_by_side() {
    let name = unique("graph");
    let (one, two) = (unique("one"), unique("two"));
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        env: {{ shell: sh }}
        images:
          web: {{ repository: {name}-web, dockerfile: web/Dockerfile, tags: [t], depends-on: base }}
          api: {{ repository: {name}-api, dockerfile: api/Dockerfile, tags: [t], depends-on: [base] }}
          base: {{ repository: {name}-base, dockerfile: base/Dockerfile, tags: [t] }}
        phases: {{ build: {{ steps: [{{ build: [web, api] }}, {{ test: web, command: [cat, /base, /web] }}] }} }}
    "})
    .file("base/Dockerfile", "FROM busybox:1.36\nRUN echo of the base > /base\n")
    .file("web/Dockerfile", format!("# a comment\nARG FROM=base\n\nFROM busybox:1.36\nRUN : {one}; sleep 3; echo built > /web\nFROM ${{FROM}}\nCOPY --from=0 /web /\n"))
    .file("api/Dockerfile", format!("FROM base\nRUN : {two}; sleep 3; cat /base\n"));
    let outcome = project.runner("run").run().exits(0).says("of the base\nbuilt\n").says("api │ #");
    // The base first, then both at once: neither finishes before the other has begun.
    let (begin_one, end_one) = span(&outcome.stdout, &one);
    let (begin_two, end_two) = span(&outcome.stdout, &two);
    let bases_end = outcome.stdout.rfind("base │ #").unwrap();
    assert!(bases_end < begin_one.min(begin_two), "{outcome}");
    assert!(begin_one.max(begin_two) < end_one.min(end_two), "{outcome}");
    no_stage_is_left();
    // What is built already is not built again for what depends on it.
    let pipeline = project
        .read("pipeline.yml")
        .replace("steps: [{ build: [web, api] }", "steps: [{ build: base }, { build: api }");
    let project =
        project.file("pipeline.yml", pipeline.replace(", { test: web, command: [cat, /base, /web] }", ""));
    let outcome = project.runner("run").run().exits(0);
    assert_eq!(outcome.stdout.matches("built      base").count(), 1, "{outcome}");
}

#[test]
fn a_dockerfile_means_its_own_stages_and_each_platform_its_own_base() {
    let name = unique("names");
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        images:
          base: {{ repository: {name}-base, dockerfile: base/Dockerfile, tags: [t], platforms: [linux/amd64, linux/arm64] }}
          app: {{ repository: {name}-app, dockerfile: app/Dockerfile, tags: [t], depends-on: base }}
          both: {{ repository: {name}-both, dockerfile: both/Dockerfile, tags: [t], depends-on: base, platforms: [linux/amd64, linux/arm64], contexts: {{ docs: base }} }}
          late: {{ repository: {name}-late, dockerfile: both/Dockerfile, tags: [t], depends-on: app, platforms: [linux/arm64] }}
        phases: {{ build: {{ steps: [{{ build: [app, both] }}] }} }}
    "})
    .file("base/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY pipeline.yml /of-$TARGETARCH\n")
    .file(
        "app/Dockerfile",
        "\u{feff}ARG B=ba\nARG C=${B}se\nFROM busybox:1.36\nRUN echo own > /own\nFROM ${C} AS base\nFROM busybox:1.36\nCOPY \\\n  --from=0 /own /\nCOPY --from=base / /base\nRUN cat /own; ls /base\n",
    )
    .file("both/Dockerfile", "FROM base AS base\nCOPY --from=docs Dockerfile /D\n");
    project.runner("run").run().exits(0).says(" own\n").says(" of-amd64\n");
    let state = project.json(".runner/state.json");
    let of = |image: &str| state["images"][image]["platforms"]["linux/arm64"].as_str().unwrap().to_owned();
    let layers = |id: &str| docker(&["image", "inspect", "-f", "{{index .RootFS.Layers 0}}", id]);
    assert_eq!(layers(&of("both")), layers(&of("base")));
    docker(&["rmi", "-f", &of("both"), &of("base")]);
    let pipeline = project.read("pipeline.yml").replace("build: [app, both]", "build: late");
    project
        .file("pipeline.yml", pipeline)
        .runner("run")
        .run()
        .exits(2)
        .ends_with("`app` is not built for linux/arm64");
}

#[test]
fn the_first_image_that_fails_ends_the_others() {
    let name = unique("cancel");
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        images:
          bad: {{ repository: {name}-bad, dockerfile: bad/Dockerfile, tags: [t] }}
          slow: {{ repository: {name}-slow, dockerfile: slow/Dockerfile, tags: [t] }}
          late: {{ repository: {name}-late, dockerfile: slow/Dockerfile, tags: [t], depends-on: bad }}
        phases: {{ build: {{ steps: [{{ build: [late, slow] }}] }} }}
    "})
    .file("bad/Dockerfile", format!("FROM busybox:1.36\nRUN : {name}; sleep 1; exit 5\n"))
    .file("slow/Dockerfile", format!("FROM busybox:1.36\nRUN : {name}; sleep 200\n"));
    let begin = std::time::Instant::now();
    let outcome = project
        .runner("run")
        .run()
        .exits(1)
        .ends_with("bad: the build failed")
        .ends_with("ended with exit code 5");
    assert!(begin.elapsed().as_secs() < 100, "{outcome}");
    outcome.says_not("late │");
}

#[test]
fn a_context_is_sent_once_for_all_images_of_it() {
    let name = unique("once");
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        images:
          a: {{ repository: {name}-a, dockerfile: a/Dockerfile, tags: [t] }}
          b: {{ repository: {name}-b, dockerfile: b/Dockerfile, tags: [t] }}
        phases: {{ build: {{ steps: [{{ build: [a, b] }}] }} }}
    "})
    .file("a/Dockerfile", "FROM busybox:1.36\nCOPY . /c\n")
    .file("b/Dockerfile", "FROM busybox:1.36\nCOPY . /c\nRUN true\n")
    .file("large", vec![b'x'; 50_000_000]);
    let most = bytes_read(&project);
    assert!((50_000_000..75_000_000).contains(&most), "{most} bytes were read");
}

#[test]
fn named_contexts_are_directories_images_repositories_and_archives() {
    let elsewhere = Project::new("").file("docs/page", "a page\n").file("docs/.dockerignore", "secret\n");
    let elsewhere = elsewhere.file("docs/secret", "s").file("sub/file", "of the repository\n").git();
    let root = elsewhere.root().display().to_string();
    let (_daemon, git) = crate::servers::repositories(elsewhere.root());
    shell("tar", &["-C", &root, "-czf", &elsewhere.path("a.tgz").display().to_string(), "sub"]);
    let (_server, http) = crate::servers::files(elsewhere.root());
    let contexts = format!(
        "contexts: {{ docs: {root}/docs, box: \"docker-image://busybox:1.36\", repo: \"{git}/#main\", archive: \"{http}/a.tgz\" }}"
    );
    // Lines that no build before has run: what is cached prints nothing.
    let own = unique("line");
    let dockerfile = format!(
        "FROM box\nCOPY --from=docs / /docs/\nCOPY --from=repo /sub/file /file\nRUN --mount=from=archive,target=/archive cp /archive/sub/file /archived\nRUN : {own}; cat /docs/page /file /archived; ls -A /docs\n"
    );
    let project = project(&dockerfile, &contexts, "");
    let outcome =
        project.runner("run").run().exits(0).says(" a page\n").says(" page\n").says_not(" secret\n");
    assert_eq!(outcome.stdout.matches(" of the repository\n").count(), 2, "{outcome}");
    // The same from the repository itself, Dockerfile and all.
    let remote = Project::new("")
        .file("Dockerfile", format!("FROM busybox:1.36\nCOPY file /\nRUN : {own}; cat /file\n"))
        .file("file", "remote\n")
        .git();
    let (_second, git) = crate::servers::repositories(remote.root());
    let pipeline = project.read("pipeline.yml").replace(&contexts, &format!("context: \"{git}/#main\""));
    let project = project.file("pipeline.yml", pipeline);
    project.runner("run").run().exits(0).says(" remote\n");
    no_stage_is_left();
}

/// Findings, H1: nothing that runner adds breaks a build check, moves a line or shows up in the log.
#[test]
fn build_checks_see_only_the_dockerfile_of_the_user() {
    let name = unique("checks");
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        images:
          base: {{ repository: {name}-base, dockerfile: base/Dockerfile, tags: [t] }}
          app: {{ repository: {name}-app, dockerfile: app/Dockerfile, tags: [t], depends-on: base, contexts: {{ docs: docs }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ test: app, command: [cat, /base, /own, /page] }}] }} }}
    "})
    .file("base/Dockerfile", "FROM busybox:1.36\nRUN echo of the base > /base\n")
    .file("docs/page", "a page\n")
    .file(
        "app/Dockerfile",
        "# check=error=true\nFROM base AS base\nRUN echo own > /own\nFROM base\nCOPY --from=docs page /\n",
    );
    let outcome = project.runner("run").run().exits(0).says("of the base\nown\na page\n");
    if knows_named_contexts() {
        outcome.says_not("local.invalid").says_not("warning").says("[context context-base] the image `base`");
    }
}

/// Findings, H12: with added stages or without, the place is that of the user's file.
#[test]
fn errors_have_the_line_of_the_dockerfile() {
    let dockerfile = "FROM base AS base\nRUN echo a\nRUN exit 3\n";
    let name = unique("lines");
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        images:
          base: {{ repository: {name}-base, dockerfile: base/Dockerfile, tags: [t] }}
          app: {{ repository: {name}-app, dockerfile: app/Dockerfile, tags: [t], depends-on: base }}
        phases: {{ build: {{ steps: [{{ build: app }}] }} }}
    "})
    .file("base/Dockerfile", "FROM busybox:1.36\n")
    .file("app/Dockerfile", dockerfile);
    let place = if knows_named_contexts() { "Dockerfile:3: " } else { "" };
    let failed = format!("the build failed: {place}`exit 3` ended with exit code 3");
    project.runner("run").run().exits(1).ends_with(&failed);
    let project = project.file("app/Dockerfile", "FROM base\nRUN true\nCPY a b\n");
    let outcome = project.runner("run").run().exits(1);
    assert!(outcome.stdout.contains("line 3: unknown instruction"), "{outcome}");
}

/// Findings, H1: only the files that the build uses are sent.
#[test]
fn of_a_named_context_only_what_the_build_uses_is_sent() {
    if !knows_named_contexts() {
        return;
    }
    let project = project("FROM scratch\nCOPY --from=docs small /\n", "contexts: { docs: docs }", "")
        .file("docs/small", "small")
        .file("docs/large", vec![b'x'; 30_000_000]);
    let most = bytes_read(&project);
    assert!(most < 10_000_000, "{most} bytes were read");
}

/// How many bytes a run reads, most of them files of contexts. The last answer comes while the images are exported.
fn bytes_read(project: &Project) -> u64 {
    let mut running = project.runner("run").start();
    let mut most = 0;
    while let Some(bytes) = running.has_read() {
        most = bytes;
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    running.finish().exits(0);
    most
}

/// Whether the engine's frontend knows named contexts, as those since 23.0 do. For older ones runner adds stages.
fn knows_named_contexts() -> bool {
    let version = docker(&["version", "--format", "{{.Server.Version}}"]);
    version.split('.').next().unwrap().parse::<u32>().unwrap() >= 23
}

#[test]
fn each_platform_is_built() {
    let project = project(
        "FROM scratch\nARG TARGETARCH\nCOPY pipeline.yml /$TARGETARCH\n",
        "platforms: [linux/arm64, linux/amd64]",
        "",
    );
    project.runner("run").run().exits(0);
    let architecture =
        |id: &str| docker(&["image", "inspect", "-f", "{{.Architecture}}", id]).trim().to_owned();
    let state = project.json(".runner/state.json");
    let other = state["images"]["app"]["platforms"]["linux/arm64"].as_str().unwrap().to_owned();
    assert_eq!(
        (architecture(&image_id(&project)), architecture(&other)),
        ("amd64".to_owned(), "arm64".to_owned())
    );
    docker(&["rmi", "-f", &other]);
}

/// Caches that cannot be read are warnings, which arrive while the log of other work waits for its reader.
#[test]
fn warnings_do_not_stall_builds_while_the_log_is_behind() {
    let name = unique("behind");
    let image = |image: &str| {
        let caches: Vec<_> = (1..=8).map(|number| format!("\"localhost:1/{image}:{number}\"")).collect();
        format!(
            "  {image}: {{ repository: {name}-{image}, tags: [t], cache: {{ from: [{}] }} }}\n",
            caches.join(", ")
        )
    };
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        env: {{ shell: sh }}
        images:
        {images}phases: {{ build: {{ steps: [{{ parallel: [{{ run: seq 1 200000 }}, {{ build: [a, b, c, d] }}] }}] }} }}
    ", images = ["a", "b", "c", "d"].map(image).concat()})
    .file("Dockerfile", format!("FROM busybox:1.36\nRUN : {name}; seq 1 2000\n"));
    let mut running = project.runner("run --timeout 60s").start();
    let log = running.drain_slowly();
    running.finish().exits(0);
    assert_eq!(log.join().unwrap().matches(" cannot be read: ").count(), 32);
}
