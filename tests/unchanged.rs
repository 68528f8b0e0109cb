//! `skip-unchanged`: an image that the repository already has is neither built, nor tested, nor pushed.

use crate::harness::{Project, docker, registry, served_digest, shell, unique};
use indoc::formatdoc;

/// A project of its own in a directory of its own, as on a fresh host, whose image is of that repository and base.
struct Case {
    repository: String,
    base: String,
}

impl Case {
    fn new() -> Self {
        let base = format!("{}:v1", unique("base"));
        docker(&["tag", "busybox:1.36", &base]);
        Self { repository: unique("unchanged"), base }
    }

    fn project(&self, image: &str, steps: &str) -> Project {
        let Self { repository, base } = self;
        Project::new(&formatdoc! {r#"
            version: 1
            name: t
            images:
              app: {{ repository: {repository}, dockerfile: web.docker, create: true, skip-unchanged: true, tags: ["${{TAG:-v1}}"]{image} }}
            phases:
              build:
                steps:
                  - build: app
            {steps}"#})
        .file("web.docker", format!("FROM {base}\nARG WHAT\nRUN : {repository}\nCOPY src /src\n"))
        .file("src/a", "one")
        // Otherwise every change of the file is one of the image.
        .file(".dockerignore", "pipeline.yml\n")
    }

    fn run(project: &Project, tag: &str) -> crate::harness::Outcome {
        project.runner("run --publish").aws().env("TAG", tag).run()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.base]);
    }
}

const STEPS: &str = "      - { test: app, command: [grep, -q, one, /src/a] }\n      - push: app\n";
const BUILT: &str = "COPY src /src";

#[test]
fn an_unchanged_image_costs_nothing_and_gets_the_new_tags() {
    let case = Case::new();
    Case::run(&case.project("", STEPS), "v1").exits(0).says(BUILT);
    let again = Case::run(&case.project("", STEPS), "v2").exits(0).says_not(BUILT);
    again
        .says("unchanged")
        .says("skipped: an image of the same sources has passed this test")
        .says("nothing was sent; tags: v2")
        .says(&format!("{}/{}@sha256:", registry(), case.repository));
    assert_eq!(served_digest(&case.repository, "v1"), served_digest(&case.repository, "v2"));
    // Labels and tags are no part of it; nor is the place of a test in the file.
    let labelled = case.project(", labels: { a.b: \"${TAG}\" }", &format!("\n\n{STEPS}"));
    Case::run(&labelled, "v3").exits(0).says_not(BUILT);
    // What a later step uses is the image that is there.
    let uses = format!("{STEPS}      - image-definitions: {{ web: app }}\n");
    let project = case.project("", &uses);
    Case::run(&project, "v4").exits(0).says_not(BUILT);
    assert!(project.read("imagedefinitions.json").contains(&served_digest(&case.repository, "v1")));
}

#[test]
fn every_input_of_the_image_and_its_tests_counts_as_a_change() {
    let case = Case::new();
    Case::run(&case.project("", STEPS), "v1").exits(0).says(BUILT);
    let with_files = &STEPS.replace("app, command", "app, volumes: [\"data:/data\"], command");
    let mode = case.project("", STEPS);
    shell("chmod", &["755", mode.path("src/a").to_str().unwrap()]);
    for (number, project) in [
        case.project(", args: { WHAT: x }", STEPS),
        case.project(", network: none", STEPS),
        case.project(", compression: zstd", STEPS),
        case.project("", &STEPS.replace("-q", "-c")),
        case.project("", STEPS).file("web.docker", format!("FROM {}\nRUN true\nCOPY src /src\n", case.base)),
        case.project("", STEPS).file("src/a", "one and more"),
        case.project("", STEPS).file("src/b", "another one"),
        case.project(", target: last", STEPS)
            .file("web.docker", format!("FROM {}\nARG WHAT\nRUN : {}\nCOPY src /src\nFROM scratch AS other\nFROM {} AS last\nCOPY src /src\n", case.base, case.repository, case.base)),
        case.project(", extra-hosts: { db: 127.0.0.1 }", STEPS),
        case.project(", contexts: { more: more }", STEPS).file("more/a", "a"),
        case.project("", with_files).file("data/a", "one"),
        case.project("", with_files).file("data/a", "two"),
        mode,
    ]
    .into_iter()
    .enumerate()
    {
        let outcome = Case::run(&project, &format!("w{number}"));
        assert!(outcome.stdout.contains(BUILT), "{number}: {outcome}");
    }
    // Another image under the base's name.
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("Dockerfile"),
        format!("FROM busybox:1.36\nLABEL a={}\n", case.repository),
    )
    .unwrap();
    docker(&["build", "-q", "-t", &case.base, directory.path().to_str().unwrap()]);
    Case::run(&case.project("", STEPS), "v5").exits(0).says(BUILT);
    Case::run(&case.project("", STEPS), "v6").exits(0).says_not(BUILT);
}

#[test]
fn only_an_image_that_passed_all_its_tests_counts() {
    let case = Case::new();
    let failing = "      - push: app\n      - { test: app, command: [\"false\"] }\n";
    Case::run(&case.project("", failing), "v1").exits(4);
    Case::run(&case.project("", failing), "v2").exits(4).says(BUILT);
    // A test after the push counts as one before it.
    let case = Case::new();
    let late = "      - push: app\n      - { test: app, command: [\"true\"] }\n";
    Case::run(&case.project("", late), "v1").exits(0).says(BUILT);
    Case::run(&case.project("", late), "v2").exits(0).says_not(BUILT);
    // One that is not run proves nothing.
    let case = Case::new();
    let never = "      - { test: app, command: [\"true\"], when: failure }\n      - push: app\n";
    Case::run(&case.project("", never), "v1").exits(0).says(BUILT);
    Case::run(&case.project("", never), "v2").exits(0).says(BUILT);
}

#[test]
fn the_reasons_against_skipping_are_reported() {
    let case = Case::new();
    let commit = ", args: { WHAT: \"${build.id}\" }";
    let warning = "`skip-unchanged` of app has no effect: its argument `WHAT` changes with every commit";
    let outcome = Case::run(&case.project(commit, STEPS), "v1").exits(0).says(BUILT);
    assert_eq!(outcome.stdout.matches(warning).count(), 1, "{outcome}");
    // In local mode there is no repository to look into.
    case.project("", STEPS).runner("run --local").run().exits(0).says(BUILT);
}

#[test]
fn an_unchanged_image_is_available_to_images_built_from_it() {
    let case = Case::new();
    let project = |last: &str| {
        let second = unique("second");
        let project = case.project("", "      - push: app\n      - build: top\n      - push: top\n");
        let top = format!(
            "images:\n  top: {{ repository: {second}, dockerfile: top.docker, create: true, skip-unchanged: true, depends-on: [app], tags: [\"${{TAG:-v1}}\"] }}"
        );
        let pipeline = project.read("pipeline.yml").replace("images:", &top);
        project.file("pipeline.yml", pipeline).file("top.docker", format!("FROM app\nRUN echo {last}\n"))
    };
    Case::run(&project("one"), "v1").exits(0);
    // The base is unchanged, and so it is not built for its own sake, but for that of the other one.
    Case::run(&project("two"), "v2").exits(0).says("RUN echo two");
}
