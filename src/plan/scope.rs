//! The values of `${…}` and of the environment of steps, and the precedence of their sources.

use crate::language::pipeline::model::Pipeline;
use crate::language::pipeline::template::{
    Builtin, Reason, Reference, Scope, Template, Unresolved, or_default, variable_part,
};
use crate::secret::{MaybeSecret, Secret};
use indexmap::IndexMap;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// All values of a run. `Debug` shows no value of a variable: the environment also holds secrets that the file does not
/// name.
#[derive(Clone, Default)]
pub(crate) struct Values {
    /// Environment variables.
    env: IndexMap<String, MaybeSecret>,
    builtins: HashMap<Builtin, String>,
    /// Variables that will have a value when the run starts: secrets that are fetched then.
    promised: HashSet<String>,
    /// Variables that the user sets explicitly: in `--env-file`, in the CodeBuild project or in start-build.
    given: HashSet<String>,
    /// Built-ins that will have a value when a step needs them.
    promised_builtins: HashSet<Builtin>,
    /// The run happens on another machine.
    elsewhere: bool,
    /// There is no commit because git is not installed.
    pub(crate) lacks_git: bool,
}

/// The sources of variables. Their precedence depends on where the run happens.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    /// The environment of this process.
    pub(crate) process: Vec<(String, String)>,
    pub(crate) env_file: Vec<(String, String)>,
    /// The process wins over the file, as in CodeBuild.
    pub(crate) process_wins: bool,
    /// The run happens on another machine, where CodeBuild, git and AWS provide more values.
    pub(crate) elsewhere: bool,
}

/// The prefixes of the variables that pass built-ins to commands.
const OWN: [&str; 4] = ["RUNNER_SOURCE_", "RUNNER_BUILD_", "RUNNER_IMAGE_", "RUNNER_AWS_"];
/// The prefixes of the variables that CodeBuild sets for every build.
const OF_CODEBUILD: [&str; 2] = ["CODEBUILD_", "AWS_"];

impl Values {
    /// Joins the sources with the file's `env.variables`, which may refer to built-ins, to the environment and to earlier
    /// variables. Also returns the references that have no value.
    pub(crate) fn new(
        pipeline: &Pipeline,
        sources: &Sources,
        builtins: HashMap<Builtin, String>,
    ) -> (Self, Vec<Unresolved>) {
        let mut values = Self { builtins, elsewhere: sources.elsewhere, ..Self::default() };
        for image in pipeline.images.keys() {
            values.promised_builtins.insert(Builtin::ImageUri(image.clone()));
            values.promised_builtins.insert(Builtin::ImageDigest(image.clone()));
        }
        // The pipeline file's variables may refer to the env file, which wins over the process.
        let secrets: HashSet<&str> = pipeline.secret_names().into_iter().collect();
        for (name, value) in sources.process.iter().chain(&sources.env_file) {
            values.set(name, MaybeSecret::new(value, secrets.contains(name.as_str())));
        }
        let winners = if sources.process_wins { sources.process.as_slice() } else { &[] };
        let given = sources.env_file.iter().chain(winners);
        values.given.extend(given.map(|(name, _)| name.clone()));
        let mut problems = Vec::new();
        for (name, template) in &pipeline.env.variables {
            if values.is_given(name) {
                continue;
            }
            match template.resolve(&values) {
                Ok(value) => values.set(name, value),
                Err(unresolved) => {
                    if unresolved.reason != Reason::Undefined || !values.may_have(&unresolved.reference) {
                        problems.push(unresolved);
                    }
                    // Later references to this variable are not reported as well.
                    values.promise(name);
                }
            }
        }
        (values, problems)
    }

    /// Notes that a variable will have a value.
    pub(crate) fn promise(&mut self, name: &str) {
        self.promised.insert(name.to_owned());
    }

    /// Notes that a built-in will have a value.
    pub(crate) fn promise_builtin(&mut self, builtin: Builtin) {
        self.promised_builtins.insert(builtin);
    }

    /// Whether the user sets the variable explicitly, so that nothing in the file overrides it.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    /// Sets the built-ins of a pushed image.
    pub(crate) fn set_image(&mut self, name: &str, uri: &str, digest: &str) {
        self.set_builtin(Builtin::ImageUri(name.to_owned()), uri.to_owned());
        self.set_builtin(Builtin::ImageDigest(name.to_owned()), digest.to_owned());
    }

    /// Removes the built-ins of an image that has been rebuilt.
    pub(crate) fn forget_image(&mut self, name: &str) {
        self.builtins.remove(&Builtin::ImageUri(name.to_owned()));
        self.builtins.remove(&Builtin::ImageDigest(name.to_owned()));
    }

    pub(crate) fn set(&mut self, name: &str, value: MaybeSecret) {
        self.env.insert(name.to_owned(), value);
    }

    pub(crate) fn set_builtin(&mut self, builtin: Builtin, value: String) {
        self.builtins.insert(builtin, value);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&MaybeSecret> {
        self.env.get(name)
    }

    /// The value of a variable that is used as a secret.
    pub(crate) fn secret(&self, name: &str) -> Option<Secret> {
        self.get(name).cloned().map(MaybeSecret::into_secret)
    }

    /// Whether a reference has a value, or will have one when a step needs it.
    pub(crate) fn may_have(&self, reference: &Reference) -> bool {
        match reference {
            Reference::Env(name) => {
                self.env.contains_key(name)
                    || self.promised.contains(name)
                    || (self.elsewhere && OF_CODEBUILD.iter().any(|prefix| name.starts_with(prefix)))
            }
            Reference::Builtin(builtin) => {
                self.elsewhere
                    || self.builtins.contains_key(builtin)
                    || self.promised_builtins.contains(builtin)
            }
        }
    }

    /// The names of all variables.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.env.keys().chain(&self.promised).map(String::as_str)
    }

    /// All variables, and the built-ins as `RUNNER_…`, for a command on this machine.
    pub(crate) fn environment(&self) -> IndexMap<String, MaybeSecret> {
        // Variables of these names that another program has set are not runner's.
        let is_own = |name: &str| OWN.iter().any(|prefix| name.starts_with(prefix));
        let others = self.env.iter().filter(|(name, _)| !is_own(name));
        let others = others.map(|(name, value)| (name.clone(), value.clone()));
        let own = self.builtins.iter();
        let own = own.map(|(builtin, value)| (variable_name(builtin), MaybeSecret::Plain(value.clone())));
        others.chain(own).collect()
    }

    /// A template's text for plans and titles, which are masked, and for requests. References without a value stay as
    /// written. `own` holds the variables of its step.
    pub(crate) fn known(&self, template: &Template, own: Option<&IndexMap<String, Template>>) -> String {
        template.render(str::to_owned, |reference, default| {
            let own = match reference {
                Reference::Env(name) => {
                    let own = own.and_then(|own| own.get(name));
                    own.map(|value| MaybeSecret::Plain(self.known(value, None)))
                }
                Reference::Builtin(_) => None,
            };
            or_default(own.or_else(|| self.value(reference)), default)
                .map_or_else(|| format!("${{{reference}}}"), |value| value.expose().to_owned())
        })
    }

    /// The values with a step's own variables on top.
    pub(crate) fn with_step(&self, step: &IndexMap<String, Template>) -> Result<Self, Unresolved> {
        let mut values = self.clone();
        for (name, template) in step {
            values.set(name, template.resolve(self)?);
        }
        Ok(values)
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values")
            .field("env", &self.env.keys())
            .field("builtins", &self.builtins)
            .finish_non_exhaustive()
    }
}

impl Scope for Values {
    fn value(&self, reference: &Reference) -> Option<MaybeSecret> {
        match reference {
            Reference::Env(name) => self.get(name).cloned(),
            Reference::Builtin(builtin) => self.builtins.get(builtin).cloned().map(MaybeSecret::Plain),
        }
    }
}

fn variable_name(builtin: &Builtin) -> String {
    format!("RUNNER_{}", variable_part(&builtin.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::pipeline;
    use crate::language::source::SourceFile;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn values(process_wins: bool) -> Values {
        let text =
            "version: 1\nname: t\nenv: { variables: { A: file, B: \"${A}-b\", C: file } }\nphases: {}\n";
        let pipeline = pipeline::parse(&SourceFile::new("p", text)).into_valid().unwrap();
        let sources = Sources {
            process: pairs(&[("A", "shell"), ("HOME", "/root")]),
            env_file: pairs(&[("C", "env-file")]),
            process_wins,
            elsewhere: false,
        };
        Values::new(&pipeline, &sources, HashMap::new()).0
    }

    #[test]
    fn on_a_laptop_the_env_file_wins_over_the_file_and_the_file_over_the_shell() {
        let values = values(false);
        let get = |name| values.get(name).unwrap().expose();
        assert_eq!((get("A"), get("B"), get("C"), get("HOME")), ("file", "file-b", "env-file", "/root"));
    }

    #[test]
    fn in_codebuild_the_project_wins() {
        let values = values(true);
        let get = |name| values.get(name).unwrap().expose();
        assert_eq!((get("A"), get("B")), ("shell", "shell-b"));
    }

    #[test]
    fn debug_shows_no_value() {
        let text = format!("{:?}", values(false));
        assert!(text.contains("HOME") && !text.contains("/root") && !text.contains("env-file"), "{text}");
    }

    #[test]
    fn builtins_reach_commands_as_variables() {
        let name = variable_name(&Builtin::ImageUri("my-app".to_owned()));
        assert_eq!(name, "RUNNER_IMAGE_MY_APP_URI");
    }
}
