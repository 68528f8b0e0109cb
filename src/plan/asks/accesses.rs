//! The accesses to AWS that a run needs, so that they can be checked before its first step.

use super::{AskList, Unknowns};
use crate::language::pipeline::model::{AwsAccess, Phase, Pipeline, Step};
use crate::language::pipeline::template::{Template, Unresolved};
use crate::plan::Plan;
use crate::plan::facts::Facts;
use crate::plan::scope::Values;

/// `aws` of the pipeline file with all values known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct ResolvedAccess {
    /// The region; that of the environment or the profile if absent.
    pub(crate) region: Option<String>,
    /// The role to assume.
    pub(crate) role: Option<String>,
    /// The external id that the role's trust policy requires.
    pub(crate) external_id: Option<String>,
}

impl ResolvedAccess {
    pub(crate) fn resolve(access: &AwsAccess, values: &Values) -> Result<Self, Unresolved> {
        // An empty value is no value: `${ROLE:-}` names no role.
        let resolve = |template: &Option<Template>| {
            let text = template.as_ref().map(|template| template.resolve(values)).transpose();
            text.map(|text| text.map(|text| text.expose().to_owned()).filter(|text| !text.is_empty()))
        };
        Ok(Self {
            region: resolve(&access.region)?,
            role: resolve(&access.role_arn)?,
            external_id: resolve(&access.external_id)?,
        })
    }
}

/// The accesses that the steps of this plan use, each once, in the order of the steps. Leaves out those whose values are
/// unknown before the run.
pub(crate) fn accesses(
    pipeline: &Pipeline,
    plan: &Plan,
    values: &Values,
    facts: &Facts,
) -> Vec<ResolvedAccess> {
    let list = AskList::new(pipeline, values, facts, Unknowns::LeftOut, (None, None));
    let phases = plan.phases.iter().filter_map(|name| pipeline.phase(*name));
    let steps = phases.flat_map(Phase::all_steps).flat_map(Step::tree);
    let mut accesses = Vec::new();
    for step in steps.filter(|step| plan.skip_reason(step).is_none()) {
        // All asks of a step go through one access.
        let Some(access) = list.step(step).into_iter().find_map(|ask| ask.access) else { continue };
        let values = values.with_step(&step.env);
        let resolved = values.and_then(|values| ResolvedAccess::resolve(access, &values));
        if let Ok(resolved) = resolved
            && !accesses.contains(&resolved)
        {
            accesses.push(resolved);
        }
    }
    accesses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::pipeline;
    use crate::language::source::SourceFile;
    use crate::plan::Mode;
    use crate::plan::context::BuildContext;
    use crate::plan::scope::Sources;
    use std::collections::HashMap;

    const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

    fn facts(base: &str) -> Facts {
        let base_images = HashMap::from([("app".to_owned(), vec![base.to_owned()])]);
        Facts { base_images, ..Facts::default() }
    }

    /// The roles of the accesses of a pipeline with one image, which is in another registry unless `image` says otherwise.
    fn roles(image: &str, steps: &[&str], facts: &Facts) -> Vec<String> {
        let repository = if image.contains("repository") { "" } else { "repository: r.example/app, " };
        let steps: String = steps.iter().map(|step| format!("      - {step}\n")).collect();
        let text = format!(
            "version: 1\nname: t\naws: {{ role-arn: \"arn:aws:iam::123456789012:role/pipeline\" }}\nimages:\n  app: {{ {repository}tags: [\"${{source.commit}}\"], {image} }}\nphases:\n  build:\n    steps:\n{steps}"
        );
        let parsed = pipeline::parse(&SourceFile::new("p", &text)).into_valid();
        let pipeline = parsed.unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
        let context = BuildContext {
            commit: Some("0123456789".to_owned()),
            branch: Some("main".to_owned()),
            ..BuildContext::default()
        };
        let (values, _) = crate::plan::values(&pipeline, &Sources::default(), &context, Mode::Publish);
        let plan = crate::plan::plan(&pipeline, &[], &context, Mode::Publish, &values).unwrap();
        let role = |access: ResolvedAccess| {
            let role = access.role.unwrap_or_default();
            crate::address::short_name(&role).to_owned()
        };
        accesses(&pipeline, &plan, &values, facts).into_iter().map(role).collect()
    }

    fn needs_aws(image: &str, steps: &[&str], base: &str) -> bool {
        !roles(image, steps, &facts(base)).is_empty()
    }

    #[test]
    fn other_registries_need_no_access() {
        let steps = ["build: app", "test: app", "push: app", "run: x", "image-definitions: { web: app }"];
        assert!(!needs_aws("skip-unchanged: true, cache: { to: registry }", &steps, "r.example/base:1"));
    }

    #[test]
    fn base_images_in_ecr() {
        assert!(needs_aws("", &["build: app"], &format!("{ECR}/base:1")));
        assert!(needs_aws("", &["build: app"], "${ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/base"));
        assert!(needs_aws(&format!("contexts: {{ x: \"docker-image://{ECR}/x\" }}"), &["build: app"], "x/y"));
    }

    #[test]
    fn caches_in_ecr() {
        let from = format!("cache: {{ from: [\"{ECR}/app:latest\"] }}");
        assert!(needs_aws(&from, &["build: app"], "x/y"));
        assert!(needs_aws("repository: app, cache: { to: inline }", &["build: app"], "x/y"));
    }

    #[test]
    fn services_of_tests_in_ecr() {
        let test = |image: &str| format!("{{ test: app, services: {{ db: {{ image: \"{image}\" }} }} }}");
        assert!(needs_aws("", &["build: app", &test(&format!("{ECR}/db:16@sha256:0"))], "x/y"));
        assert!(!needs_aws("", &["build: app", &test("postgres:16")], "x/y"));
    }

    #[test]
    fn skip_unchanged_in_ecr() {
        assert!(!needs_aws("repository: app", &["build: app", "test: app"], "x/y"));
        assert!(needs_aws("repository: app, skip-unchanged: true", &["build: app"], "x/y"));
        let full = format!("repository: {ECR}/app, skip-unchanged: true");
        assert!(needs_aws(&full, &["build: app"], "x/y"));
    }

    #[test]
    fn each_access_once_in_the_order_of_the_steps() {
        let role = |name: &str| format!("aws: {{ role-arn: \"arn:aws:iam::123456789012:role/{name}\" }}");
        let run = format!("{{ run: x, {} }}", role("a"));
        let left_out = format!("{{ run: x, only: {{ branches: other }}, {} }}", role("b"));
        let unknown = "{ run: x, env: { R: \"${RUNNER_X:-}\" }, aws: { role-arn: \"${image.app.uri}\" } }";
        let steps = ["build: app", &run, "push: app", unknown, &left_out, &run, "push: app"];
        assert_eq!(roles("repository: app", &steps, &Facts::default()), ["a", "pipeline"]);
    }

    #[test]
    fn a_repository_that_only_the_run_knows_may_be_in_any_registry() {
        let steps = ["run: echo REPOSITORY=x >> \"$RUNNER_ENV\"", "build: app", "push: app"];
        assert!(!needs_aws("repository: \"${REPOSITORY}\"", &steps, "x/y"));
    }
}
