//! Named contexts: what a Dockerfile may use besides its own stages in `FROM`, `COPY --from` and mounts.
//!
//! Engines since 23.0 have a frontend that knows them. Older ones get a stage for each, which begins with an image.

use super::source::{self, ContextSource};
use super::{DockerError, StageImage};
use bollard_buildkit_proto::pb;
use regex::{Captures, Regex};
use std::collections::HashMap;
use std::path::Path;

/// A name that a Dockerfile may use, and what it stands for.
#[derive(Debug, Clone)]
pub(crate) struct NamedContext {
    pub(crate) name: String,
    pub(crate) source: NamedSource,
}

/// The files of a named context.
#[derive(Debug, Clone)]
pub(crate) enum NamedSource {
    /// An image of a registry or of the engine.
    Image {
        reference: String,
        /// Its platform; `None` for the platform of the build.
        platform: Option<String>,
        /// What the log calls it, if its name means nothing to people.
        title: Option<String>,
    },
    /// A directory, a repository or a file.
    Files(ContextSource),
}

/// Returns the stages for the frontend of an older engine. Files have been made an image by then.
pub(crate) fn stages(contexts: &[NamedContext]) -> Vec<StageImage> {
    let stage = |context: &NamedContext| match &context.source {
        NamedSource::Image { reference, platform, .. } => Some(StageImage {
            name: context.name.clone(),
            image: reference.clone(),
            platform: platform.clone(),
        }),
        NamedSource::Files(_) => None,
    };
    contexts.iter().filter_map(stage).collect()
}

/// The named contexts as a frontend takes them.
#[derive(Debug, Default)]
pub(crate) struct FrontendContexts {
    /// The attributes of the build.
    pub(crate) attributes: Vec<(String, String)>,
    /// Build graphs that attributes refer to.
    pub(crate) inputs: HashMap<String, pb::Definition>,
}

impl FrontendContexts {
    /// Adds a context under the name that the Dockerfile has for it. `share` shares a directory with the build, and
    /// returns its name in the session.
    pub(crate) fn add(
        &mut self,
        name: &str,
        source: &NamedSource,
        session: &str,
        share: impl FnOnce(&Path) -> Result<String, DockerError>,
    ) -> Result<(), DockerError> {
        let value = match source {
            NamedSource::Image { reference, .. } => format!("docker-image://{reference}"),
            NamedSource::Files(ContextSource::Directory(path)) => format!("local:{}", share(path)?),
            NamedSource::Files(ContextSource::Remote(url)) => {
                if let Some(url) = source::git_context(url) {
                    url
                } else {
                    // The frontend would take an archive for a file.
                    let graph = source::files_of(&ContextSource::Remote(url.clone()), session, &[]);
                    self.inputs.insert(name.to_owned(), graph);
                    format!("input:{name}")
                }
            }
        };
        self.attributes.push((format!("context:{name}"), value));
        Ok(())
    }
}

/// What the log calls images whose names mean nothing to people.
pub(crate) fn titles(contexts: &[NamedContext]) -> Vec<(String, String)> {
    let title = |context: &NamedContext| match &context.source {
        NamedSource::Image { reference, title: Some(title), .. } => Some((reference.clone(), title.clone())),
        _ => None,
    };
    contexts.iter().filter_map(title).collect()
}

/// A Dockerfile that may have a stage with the name of a context.
pub(crate) struct Renamed {
    pub(crate) text: String,
    /// The names of the contexts in the text, in their order; `None` if the text uses the stage only.
    pub(crate) names: Vec<Option<String>>,
}

/// Lets a stage and a context have the same name. A frontend would put the context in the place of the stage, with all
/// its instructions. Here the name is that of the stage from its definition on. `FROM NAME` up to there gets another name,
/// so that `FROM base AS base` works.
///
/// This searches for lines instead of parsing the file: if it takes a line of a heredoc for a stage, nothing worse
/// happens than that the context has another name. `expand` returns a word with the values of its arguments.
pub(crate) fn rename(text: &str, contexts: &[NamedContext], expand: impl Fn(&str) -> String) -> Renamed {
    let mut renamed = Renamed { text: text.to_owned(), names: Vec::new() };
    let base = Regex::new(r"(?im-u)^([ \t]*FROM[ \t]+(?:--[!-~]+[ \t]+)*)([!-~]+)").ok();
    for NamedContext { name, .. } in contexts {
        let word = regex::escape(name);
        let stage = Regex::new(&format!(r"(?i-u)\bAS[\s\\`]+{word}(?:\s|$)"));
        let Some((stage, base)) = stage.ok().and_then(|stage| stage.find(&renamed.text)).zip(base.as_ref())
        else {
            renamed.names.push(Some(name.clone()));
            continue;
        };
        let (before, after) = renamed.text.split_at(stage.end());
        let other = format!("context-{name}");
        let mut is_used = false;
        let before = base.replace_all(before, |found: &Captures<'_>| {
            let is_name = found[2].eq_ignore_ascii_case(name)
                || (found[2].contains('$') && expand(&found[2]).eq_ignore_ascii_case(name));
            is_used |= is_name;
            format!("{}{}", &found[1], if is_name { other.as_str() } else { &found[2] })
        });
        renamed.text = format!("{before}{after}");
        renamed.names.push(is_used.then_some(other));
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(text: &str) -> (String, Vec<Option<String>>) {
        let context = |name: &str| NamedContext {
            name: name.to_owned(),
            source: NamedSource::Image { reference: "i".to_owned(), platform: None, title: None },
        };
        let expand = |word: &str| word.replace("${B}", "base");
        let Renamed { text, names } = rename(text, &[context("base"), context("docs")], expand);
        (text, names)
    }

    #[test]
    fn a_stage_with_the_name_of_a_context_stays() {
        let named = |name: &str| Some(name.to_owned());
        for (text, expected, names) in [
            ("FROM base\nCOPY --from=docs a /\n", None, [named("base"), named("docs")]),
            (
                "FROM base AS base\nRUN x\nFROM base\n",
                Some("FROM context-base AS base\nRUN x\nFROM base\n"),
                [named("context-base"), named("docs")],
            ),
            (
                "from --platform=$X Base as one\nFROM base \\\n  AS base\n",
                Some("from --platform=$X context-base as one\nFROM context-base \\\n  AS base\n"),
                [named("context-base"), named("docs")],
            ),
            (
                "FROM ${B} AS base\nFROM ${A} AS docs\n",
                Some("FROM context-base AS base\nFROM ${A} AS docs\n"),
                [named("context-base"), None],
            ),
            ("FROM scratch AS docs\nFROM base\n", None, [named("base"), None]),
            ("FROM base as bases\nFROM docs AS docs-2\n", None, [named("base"), named("docs")]),
        ] {
            assert_eq!(renamed(text), (expected.unwrap_or(text).to_owned(), names.to_vec()), "{text}");
        }
    }
}
