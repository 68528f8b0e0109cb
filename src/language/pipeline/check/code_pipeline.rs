//! Files for `CodePipeline`'s ECS action: it changes only the images of the revision that the service runs.

use super::{
    Action, Diagnostic, MAX_PROBLEMS, Pipeline, TaskDefinition, TaskDefinitionBase, task_definition,
};
use crate::language::diagnostic::Severity;
use crate::language::pipeline::template::Template;

/// Warns about a registered revision that nothing deploys, next to files for `CodePipeline`.
pub(super) fn undeployed(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    // A step with a mistake may be incomplete here.
    if problems.iter().any(|problem| matches!(problem.severity, Severity::Error))
        || !pipeline.steps().any(|step| matches!(step.action, Action::ImageDefinitions(_)))
    {
        return;
    }
    // The families that are used; `None` is whichever was registered.
    let used: Vec<Option<&Template>> = pipeline
        .steps()
        .filter_map(|step| match &step.action {
            Action::Deploy(deploy) => Some(deploy.task_definition.as_ref()),
            Action::RunTask(task) => Some(task.task_definition.as_ref()),
            _ => None,
        })
        .collect();
    for step in pipeline.steps() {
        let Some(definition) = task_definition(step).filter(|definition| definition.registers()) else {
            continue;
        };
        if problems.len() >= MAX_PROBLEMS || used.iter().any(|named| may_be(definition, *named)) {
            continue;
        }
        problems.push(
            Diagnostic::new("nothing deploys the revision that this step registers", step.span)
                .warning()
                .help(
                    "CodePipeline's ECS action changes the images of the revision that the service runs; \
                 add a `deploy` step, or remove this one",
                ),
        );
    }
}

/// Whether a step may name the family of a task definition.
fn may_be(definition: &TaskDefinition, named: Option<&Template>) -> bool {
    let TaskDefinitionBase::Family(family) = &definition.base else { return true };
    let (family, named) = (family.as_literal(), named.and_then(Template::as_literal));
    family.zip(named).is_none_or(|(family, named)| super::family_of(&family) == named.as_str())
}

#[cfg(test)]
mod tests {
    use crate::language::pipeline;
    use crate::language::source::SourceFile;

    fn warnings(steps: &str) -> Vec<String> {
        let text = format!(
            "version: 1\nname: t\nimages: {{ app: {{ repository: app, tags: [\"${{source.commit}}\"] }} }}\nphases:\n  build:\n    steps:\n      \
             - build: app\n      - push: app\n{steps}"
        );
        let parsed = pipeline::parse(&SourceFile::new("p", &text));
        parsed.diagnostics.into_iter().map(|problem| problem.message).collect()
    }

    const DEFINITIONS: &str = "      - image-definitions: { web: app }\n";
    const REVISION: &str = "      - task-definition: { family: web, containers: { web: { image: app } } }\n";

    /// Findings, D11.
    #[test]
    fn a_revision_that_nothing_deploys_is_a_warning() {
        let undeployed = ["nothing deploys the revision that this step registers"];
        let deploy = |more: &str| format!("      - deploy: {{ cluster: c, service: s{more} }}\n");
        assert_eq!(warnings(&format!("{REVISION}{DEFINITIONS}")), undeployed);
        assert_eq!(
            warnings(&format!("{DEFINITIONS}{}", REVISION.replace("family: web", "file: td.json"))),
            undeployed
        );
        let base = REVISION.replace("family: web", "service: { cluster: c, name: s }");
        assert_eq!(warnings(&format!("{DEFINITIONS}{base}")), undeployed);
        let other = REVISION.replace("family: web", "family: worker");
        let both = format!("{REVISION}{other}{DEFINITIONS}{}", deploy(", task-definition: web"));
        assert_eq!(warnings(&both), undeployed);
        for fine in [
            format!("{REVISION}{DEFINITIONS}{}", deploy("")),
            format!("{REVISION}{DEFINITIONS}      - run-task: {{ cluster: c, service: s }}\n"),
            REVISION.to_owned(),
            DEFINITIONS.to_owned(),
        ] {
            assert_eq!(warnings(&fine), Vec::<String>::new(), "{fine}");
        }
    }

    /// Findings, D11.
    #[test]
    fn a_container_that_looks_misspelt_is_a_warning() {
        let deploy = "      - deploy: { cluster: c, service: s }\n";
        let steps = |name: &str| format!("{REVISION}      - image-definitions: {{ {name}: app }}\n{deploy}");
        for name in ["wbe", "wep", "webb"] {
            let message = format!("no `task-definition` step mentions the container `{name}`");
            assert_eq!(warnings(&steps(name)), [message]);
        }
        assert_eq!(warnings(&steps("web")), Vec::<String>::new());
    }
}
