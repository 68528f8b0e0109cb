//! What is pushed under the name of a commit is that commit.

use crate::harness::{Call, Project, docker, unique};
use indoc::formatdoc;

/// A project that builds from `src` and pushes to the bed's registry, with a clean commit.
fn project() -> Project {
    let name = unique("dirty");
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {name}, create: true, context: src }} }}
        phases:
          pre_build: {{ steps: [{{ run: "echo generated > src/generated; echo $RANDOM$$ >> tracked" }}] }}
          build: {{ steps: [{{ build: app }}, {{ push: app }}] }}
    "#})
    .file("src/Dockerfile", "FROM scratch\nCOPY . /\n")
    .file("src/.gitignore", "ignored\n")
    .file("tracked", "of the commit\n")
    .git()
}

fn publish<'p>(project: &'p Project, options: &str) -> Call<'p> {
    project.runner(&format!("run --publish {options}")).aws()
}

/// Findings, C14.
#[test]
fn a_changed_tree_is_not_pushed_under_its_commit() {
    // What the build's own steps change does not count, nor do ignored files and those outside of contexts.
    let clean = project().file("src/ignored", "").file("notes", "");
    publish(&clean, "").run().exits(0).says_not("differs from the commit");
    for (path, expected) in
        [("tracked", "`tracked`"), ("src/new file", "`src/new file`"), ("src/Dockerfile", "`src/Dockerfile`")]
    {
        let changed = project().file(path, "FROM scratch\nCOPY . /\nLABEL changed=1\n");
        publish(&changed, "")
            .run()
            .exits(2)
            .complains("the working tree differs from the commit")
            .complains(expected);
        assert!(!changed.exists("src/generated"), "nothing was run");
        changed.runner("run --local").run().exits(0);
    }
    let changed = project().file("tracked", "changed\n");
    let outcome = publish(&changed, "--allow-dirty").run().exits(0);
    outcome
        .says("warning: the working tree differs from the commit")
        .says("images get the label dev.runner.dirty");
    let label = |project: &Project| {
        let id = project.json(".runner/state.json")["images"]["app"]["id"].as_str().unwrap().to_owned();
        docker(&["image", "inspect", "-f", "{{index .Config.Labels \"dev.runner.dirty\"}}", &id])
            .trim()
            .to_owned()
    };
    assert_eq!((label(&changed), label(&clean)), ("true".to_owned(), String::new()));
    let in_codebuild = project().file("tracked", "changed\n");
    let call = publish(&in_codebuild, "").env("CODEBUILD_BUILD_ID", "web:1");
    call.run().exits(0).says("warning: the working tree differs from the commit");
}

/// Findings, C14: later calls of a build do not judge the tree again.
#[test]
fn the_tree_is_judged_before_the_first_step_of_the_build() {
    let project = project();
    let call = |phase: &str| project.runner(&format!("run --publish --phase {phase}")).aws().run();
    call("pre_build").exits(0);
    call("build").exits(0).says_not("differs from the commit");
}
