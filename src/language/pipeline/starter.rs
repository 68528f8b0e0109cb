//! The variables with which whoever starts a build describes it. They come from outside: no pipeline file sets them.

/// The event.
pub(crate) const EVENT: &str = "RUNNER_EVENT";
/// The branch.
pub(crate) const BRANCH: &str = "RUNNER_BRANCH";
/// The branch that a pull request is for.
pub(crate) const BASE_BRANCH: &str = "RUNNER_BASE_BRANCH";
/// The commit, if CodeBuild has no source.
pub(crate) const COMMIT: &str = "RUNNER_COMMIT";

pub(crate) const VARIABLES: [&str; 4] = [EVENT, BRANCH, BASE_BRANCH, COMMIT];
