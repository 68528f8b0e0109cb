//! The context of a build: the facts that CodeBuild or git provide. `crate::origin` detects them.

use crate::language::pipeline::model::EventKind;
use crate::language::pipeline::template::Builtin;
use std::collections::HashMap;

/// The context of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BuildContext {
    pub(crate) commit: Option<String>,
    /// There is no commit because git, which knows it, is not installed.
    pub(crate) lacks_git: bool,
    /// The time of the commit in seconds since 1970.
    pub(crate) commit_time: Option<i64>,
    /// The URL of the source, without credentials.
    pub(crate) repository: Option<String>,
    /// The branch; the base branch for a pull request.
    pub(crate) branch: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) event: EventKind,
    /// Why this build publishes nothing, whatever its steps say.
    pub(crate) publishes_nothing: Option<String>,
    /// CodeBuild reports that this build has failed before runner started.
    pub(crate) failing: bool,
    pub(crate) build_id: Option<String>,
    pub(crate) build_number: Option<String>,
    /// The page of the build in the console.
    pub(crate) build_url: Option<String>,
    /// The AWS region of the environment.
    pub(crate) region: Option<String>,
    /// The AWS account of the environment.
    pub(crate) account: Option<String>,
}

impl BuildContext {
    /// Why there is no commit, outside of CodeBuild or if CodeBuild does not know it.
    pub(crate) fn no_commit(&self) -> &'static str {
        if self.lacks_git {
            "git is not installed (there is no `git` in PATH)"
        } else {
            "this is not a git repository with a commit"
        }
    }

    pub(crate) fn in_codebuild(&self) -> bool {
        self.build_id.is_some()
    }

    /// The values of the built-ins that are known before the run.
    pub(crate) fn builtins(&self) -> HashMap<Builtin, String> {
        let short = self.commit.as_ref().map(|commit| commit.chars().take(7).collect());
        let slug = self.branch.as_deref().map(slug);
        [
            (Builtin::SourceCommit, self.commit.clone()),
            (Builtin::SourceCommitShort, short),
            (Builtin::SourceBranch, self.branch.clone()),
            (Builtin::SourceBranchSlug, slug),
            (Builtin::SourceTag, self.tag.clone()),
            (Builtin::BuildId, self.build_id.clone()),
            (Builtin::BuildNumber, self.build_number.clone()),
            (Builtin::BuildUrl, self.build_url.clone()),
            (Builtin::AwsRegion, self.region.clone()),
            (Builtin::AwsAccount, self.account.clone()),
        ]
        .into_iter()
        .filter_map(|(builtin, value)| Some((builtin, value?)))
        .collect()
    }

    /// The kind of build, for reasons: `a push to main`.
    pub(crate) fn what(&self) -> String {
        let of =
            |word: &str| self.branch.as_ref().map(|branch| format!(" {word} `{branch}`")).unwrap_or_default();
        match (self.event, &self.tag) {
            (EventKind::Tag, Some(tag)) => format!("the tag `{tag}`"),
            (EventKind::Tag, None) => "a tag".to_owned(),
            (EventKind::PullRequest, _) => format!("a pull request{}", of("to")),
            (EventKind::PullRequestMerged, _) => format!("a merged pull request{}", of("to")),
            (EventKind::Push, None) => format!("a push{}", of("to")),
            (EventKind::Push, Some(tag)) => format!("a push{} with the tag `{tag}`", of("to")),
            (EventKind::Manual, None) => format!("a manual build{}", of("of")),
            (EventKind::Manual, Some(tag)) => format!("a manual build{} with the tag `{tag}`", of("of")),
        }
    }
}

/// A branch as a valid tag, host name and path: at most 63 lower-case letters, digits and single dashes.
fn slug(branch: &str) -> String {
    let mut slug = String::new();
    for character in branch.chars() {
        let character = character.to_ascii_lowercase();
        if character.is_ascii_alphanumeric() {
            slug.push(character);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(63);
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_fit_for_tags() {
        assert_eq!(slug("feature/JIRA-1_x"), "feature-jira-1-x");
        assert_eq!(slug("--$(touch x)--"), "touch-x");
        assert_eq!(slug(&"a".repeat(80)).len(), 63);
    }

    #[test]
    fn only_known_facts_have_values() {
        let context = BuildContext { commit: Some("0123456789abcdef".to_owned()), ..BuildContext::default() };
        let builtins = context.builtins();
        assert_eq!(builtins[&Builtin::SourceCommitShort], "0123456");
        assert!(!builtins.contains_key(&Builtin::SourceBranch));
    }
}
