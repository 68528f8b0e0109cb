//! Detects the source of a build: from CodeBuild's variables in CodeBuild, from git elsewhere.
//!
//! Source of the variables: the CodeBuild user guide, "Environment variables in build environments".

mod changes;
mod event;

pub(crate) use changes::changes;

use crate::address::Arn;
use crate::exit::Failure;
use crate::language::pipeline::model::EventKind;
use crate::limits;
use crate::plan::context::BuildContext;
use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// The variables with which whoever starts a build describes its source.
pub(crate) const VARIABLES: [&str; 4] = [event::VARIABLE, BRANCH, BASE_BRANCH, COMMIT];
const BRANCH: &str = "RUNNER_BRANCH";
const BASE_BRANCH: &str = "RUNNER_BASE_BRANCH";
const COMMIT: &str = "RUNNER_COMMIT";

/// Reads the environment. Asks git in `directory` for what CodeBuild does not know, and outside of CodeBuild.
pub(crate) async fn detect(
    environment: &HashMap<String, String>,
    directory: &Path,
) -> Result<BuildContext, Failure> {
    let get = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
    let named = get(event::VARIABLE).filter(|name| !is_placeholder(name));
    let mut context = if environment.contains_key("CODEBUILD_BUILD_ID") {
        from_codebuild(&get, named.as_deref(), directory).await?
    } else {
        let context = from_git(directory).await?;
        let event = event::decide(None, context.event, named.as_deref())?;
        BuildContext { event: event.kind, publishes_nothing: event.publishes_nothing, ..context }
    };
    let is_request = matches!(context.event, EventKind::PullRequest | EventKind::PullRequestMerged);
    // CodeBuild's branch has precedence: a project-wide RUNNER_BRANCH must not turn every push into one to `main`.
    let asked = !context.in_codebuild() || (context.branch.is_none() && context.event != EventKind::Tag);
    // The author of a pull request chooses the name of its branch, so only the base counts.
    let base = get(BASE_BRANCH).filter(|_| is_request);
    let branch = base.or_else(|| get(BRANCH));
    if let Some(branch) = branch.filter(|_| asked).as_deref().and_then(named_branch) {
        context.branch = Some(branch);
    }
    context.region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION"));
    if let (true, Some(commit)) = (context.in_codebuild(), &context.commit) {
        let seconds = git(directory, &["show", "-s", "--format=%ct", commit]).await?;
        context.commit_time = seconds.and_then(|seconds| seconds.parse().ok());
    }
    let address = match get("CODEBUILD_SOURCE_REPO_URL") {
        None => git(directory, &["config", "--get", "remote.origin.url"]).await?,
        known => known,
    };
    context.repository = address.as_deref().and_then(web_address);
    context.lacks_git = context.commit.is_none() && !has_git();
    Ok(context)
}

/// Whether git is installed.
fn has_git() -> bool {
    let version = duct::cmd!("git", "--version").stdin_null().stdout_null().stderr_null().unchecked().run();
    !version.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// Whether a value is a placeholder that CodePipeline did not resolve.
fn is_placeholder(text: &str) -> bool {
    text.starts_with("#{")
}

/// The web address of a repository, without credentials. `git@host:path` and `ssh://` mean the same host on the web.
/// Returns `None` for S3 locations and directories.
fn web_address(url: &str) -> Option<String> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest.to_owned()),
        Some(("ssh" | "git" | "git+ssh", rest)) => ("https", rest.to_owned()),
        Some(_) => return None,
        None => ("https", url.split_once('@')?.1.replacen(':', "/", 1)),
    };
    let (host, path) = rest.split_once('/')?;
    let host = host.rsplit('@').next().unwrap_or_default();
    // The port of ssh or git is not that of the web server.
    let host = if url.starts_with("http") { host } else { host.split(':').next().unwrap_or_default() };
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    (!host.is_empty() && !path.is_empty()).then(|| format!("{scheme}://{host}/{path}"))
}

/// The id and time of a commit. The output of `git log` and `git show` depends on the user's settings.
async fn head(directory: &Path, name: &str) -> Result<Option<(String, i64)>, Failure> {
    let line = git(directory, &["rev-list", "-1", "--timestamp", name]).await?;
    Ok(line.and_then(|line| {
        let (time, commit) = line.split_once(' ')?;
        Some((commit.to_owned(), time.parse().ok()?))
    }))
}

async fn git(directory: &Path, arguments: &[&str]) -> Result<Option<String>, Failure> {
    let bytes = git_bytes(directory, arguments).await?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok((!text.is_empty()).then_some(text))
}

/// The output of git, if it succeeds. It is killed if the future is dropped.
async fn git_bytes(directory: &Path, arguments: &[&str]) -> Result<Option<Vec<u8>>, Failure> {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).stderr(Stdio::null());
    match command.kill_on_drop(true).output().await {
        Ok(output) => Ok(output.status.success().then_some(output.stdout)),
        Err(error) => match limits::start_advice(&error) {
            None => Ok(None),
            advice => Err(Failure::environment(format!("cannot run git: {error}")).limited(advice)),
        },
    }
}

/// The branch in `RUNNER_BRANCH`. Returns `None` for an unresolved placeholder of CodePipeline and for invalid names.
fn named_branch(text: &str) -> Option<String> {
    let name = text.strip_prefix("refs/heads/").unwrap_or(text);
    let is_name = !is_placeholder(name) && !name.contains(char::is_control);
    (is_name && !name.is_empty()).then(|| name.to_owned())
}

async fn from_codebuild(
    get: &dyn Fn(&str) -> Option<String>,
    named: Option<&str>,
    directory: &Path,
) -> Result<BuildContext, Failure> {
    let resolved = get("CODEBUILD_RESOLVED_SOURCE_VERSION");
    let commit = resolved.clone().filter(|version| is_commit(version));
    let source = get("CODEBUILD_SOURCE_VERSION");
    let webhook = get("CODEBUILD_WEBHOOK_EVENT").unwrap_or_default();
    let initiator = get("CODEBUILD_INITIATOR").unwrap_or_default();
    // A manual rebuild of a pull request has no webhook, but its source version identifies the pull request.
    let is_request = |name: &String| {
        ["pr/", "mr/", "refs/pull/", "refs/merge-requests/"].iter().any(|prefix| name.starts_with(prefix))
    };
    let trigger = get("CODEBUILD_WEBHOOK_TRIGGER");
    let is_request = source.iter().chain(&trigger).any(is_request);
    let merge_commit = get("CODEBUILD_WEBHOOK_MERGE_COMMIT").filter(|commit| is_commit(commit));
    let pull_request = webhook.starts_with("PULL_REQUEST") || is_request;
    let reference = if pull_request {
        // The author of a pull request chooses the head's name, so only the base is trusted.
        get("CODEBUILD_WEBHOOK_BASE_REF")
    } else {
        // A source version without `refs/` may be a branch, an abbreviated commit id or an S3 version.
        let named = |name: &String| {
            name.starts_with("refs/")
                || commit.as_ref().is_some_and(|commit| !commit.starts_with(name.as_str()))
        };
        // `branch/NAME` or `tag/NAME`
        let triggered = trigger.as_deref().and_then(|trigger| {
            let tag = trigger.strip_prefix("tag/").map(|tag| format!("refs/tags/{tag}"));
            tag.or_else(|| trigger.strip_prefix("branch/").map(|branch| format!("refs/heads/{branch}")))
        });
        get("CODEBUILD_WEBHOOK_HEAD_REF").or(triggered).or_else(|| source.filter(named))
    };
    let tag = reference.as_deref().and_then(|name| name.strip_prefix("refs/tags/"));
    let proven = event::proven(&webhook, is_request, tag.is_some(), merge_commit.as_deref());
    // A pipeline starts on source changes; a manual release looks the same.
    let is_pipeline = initiator.starts_with("codepipeline/");
    let assumed = if is_pipeline { EventKind::Push } else { EventKind::Manual };
    let event = event::decide(proven, assumed, named)?;
    let commit = match event.kind {
        EventKind::PullRequestMerged => merge_commit.or(commit),
        _ => commit,
    };
    // Without a source CodeBuild knows no commit; the build has fetched it by itself.
    let commit = commit.or_else(|| get(COMMIT).filter(|commit| is_commit(commit)));
    let commit = match commit {
        None if resolved.is_none() => head(directory, "HEAD").await?.map(|(commit, _)| commit),
        known => known,
    };
    Ok(BuildContext {
        branch: reference.as_deref().and_then(branch_of),
        tag: tag.map(|tag| without_commit(tag).to_owned()),
        commit,
        lacks_git: false,
        event: event.kind,
        publishes_nothing: event.publishes_nothing,
        failing: get("CODEBUILD_BUILD_SUCCEEDING").as_deref() == Some("0"),
        build_id: get("CODEBUILD_BUILD_ID"),
        build_number: get("CODEBUILD_BUILD_NUMBER"),
        build_url: get("CODEBUILD_BUILD_URL"),
        commit_time: None,
        repository: None,
        account: get("CODEBUILD_BUILD_ARN")
            .and_then(|arn| Arn::parse(&arn)?.account().map(ToOwned::to_owned)),
        region: None,
    })
}

/// A resolved source version may also be an S3 version or an image digest, which are not commits.
fn is_commit(version: &str) -> bool {
    matches!(version.len(), 40 | 64) && version.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `refs/heads/main` of `refs/heads/main^{1a2b…}`.
fn without_commit(name: &str) -> &str {
    name.split_once("^{").map_or(name, |(name, _)| name)
}

/// The branch of a reference. Returns `None` for commits, tags, pull requests and ARNs.
fn branch_of(reference: &str) -> Option<String> {
    let name = without_commit(reference);
    let branch = match name.strip_prefix("refs/heads/") {
        Some(branch) => branch,
        None if name.starts_with("refs/") || Arn::is_prefix_of(name) => {
            return None;
        }
        None => name,
    };
    (!branch.is_empty()).then(|| branch.to_owned())
}

async fn from_git(directory: &Path) -> Result<BuildContext, Failure> {
    let Some((commit, time)) = head(directory, "HEAD").await? else {
        return Ok(BuildContext::default());
    };
    Ok(BuildContext {
        commit: Some(commit),
        commit_time: Some(time),
        branch: git(directory, &["symbolic-ref", "--quiet", "--short", "HEAD"]).await?,
        tag: git(directory, &["describe", "--tags", "--exact-match", "HEAD"]).await?,
        ..BuildContext::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn context(variables: &[(&str, &str)]) -> BuildContext {
        let mut environment: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        environment.insert("CODEBUILD_BUILD_ID".to_owned(), "web:1".to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(detect(&environment, Path::new("/"))).unwrap()
    }

    #[test]
    fn a_repository_has_an_address_on_the_web() {
        for (url, expected) in [
            ("https://github.com/a/b.git", Some("https://github.com/a/b")),
            ("https://user:pw@example.com:8443/a/b/", Some("https://example.com:8443/a/b")),
            ("git@github.com:a/b.git", Some("https://github.com/a/b")),
            ("ssh://git@example.com:2222/a/b.git", Some("https://example.com/a/b")),
            ("bucket/source.zip", None),
            ("/srv/git/a.git", None),
            ("file:///srv/git/a.git", None),
        ] {
            assert_eq!(web_address(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn a_push() {
        let context = context(&[
            ("CODEBUILD_WEBHOOK_EVENT", "PUSH"),
            ("CODEBUILD_WEBHOOK_HEAD_REF", "refs/heads/feature/x"),
            ("CODEBUILD_RESOLVED_SOURCE_VERSION", COMMIT),
        ]);
        assert_eq!(context.branch.as_deref(), Some("feature/x"));
        assert_eq!((context.event, context.commit.as_deref()), (EventKind::Push, Some(COMMIT)));
    }

    #[test]
    fn a_pull_request_has_its_base_branch() {
        let context = context(&[
            ("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED"),
            ("CODEBUILD_WEBHOOK_HEAD_REF", "refs/heads/$(evil)"),
            ("CODEBUILD_WEBHOOK_BASE_REF", "refs/heads/main"),
            ("CODEBUILD_SOURCE_VERSION", "pr/12"),
        ]);
        assert_eq!((context.event, context.branch.as_deref()), (EventKind::PullRequest, Some("main")));
    }

    #[test]
    fn an_s3_version_is_not_a_commit() {
        let context = context(&[
            ("CODEBUILD_RESOLVED_SOURCE_VERSION", "nE2Q0v.9V7Lb"),
            ("CODEBUILD_SOURCE_VERSION", "arn:aws:s3:::bucket/source.zip"),
            ("CODEBUILD_BUILD_ARN", "arn:aws:codebuild:eu-west-1:123456789012:build/web:1"),
        ]);
        assert_eq!((context.commit, context.branch), (None, None));
        assert_eq!(context.account.as_deref(), Some("123456789012"));
    }

    #[test]
    fn a_manual_build_of_a_pull_request_is_one() {
        let context = context(&[("CODEBUILD_SOURCE_VERSION", "pr/12")]);
        assert_eq!((context.event, context.branch), (EventKind::PullRequest, None));
    }

    #[test]
    fn a_bare_source_version_is_a_branch_only_with_a_commit() {
        let branch = |source, resolved| {
            let version = ("CODEBUILD_RESOLVED_SOURCE_VERSION", resolved);
            context(&[("CODEBUILD_SOURCE_VERSION", source), version]).branch
        };
        assert_eq!(branch("main", COMMIT).as_deref(), Some("main"));
        assert_eq!(branch("0123456", COMMIT), None);
        assert_eq!(branch("nE2Q0v.9V7Lb", "nE2Q0v.9V7Lb"), None);
    }

    #[test]
    fn tags_and_runner_branch() {
        let tagged = context(&[("CODEBUILD_SOURCE_VERSION", "refs/tags/v1^{0123}")]);
        assert_eq!((tagged.event, tagged.tag.as_deref()), (EventKind::Tag, Some("v1")));
        let released =
            context(&[("CODEBUILD_WEBHOOK_TRIGGER", "tag/v2"), ("CODEBUILD_SOURCE_VERSION", "v2")]);
        assert_eq!(
            (released.event, released.tag.as_deref(), released.branch),
            (EventKind::Tag, Some("v2"), None)
        );
        assert_eq!(context(&[("CODEBUILD_SOURCE_VERSION", "mr/3")]).event, EventKind::PullRequest);
        let branch = |name| context(&[("RUNNER_BRANCH", name)]).branch;
        assert_eq!(branch("refs/heads/release").as_deref(), Some("release"));
        assert_eq!((branch("#{SourceVariables.BranchName}"), branch("a\nb")), (None, None));
        let known = [("RUNNER_BRANCH", "main"), ("CODEBUILD_WEBHOOK_HEAD_REF", "refs/heads/dev")];
        assert_eq!(context(&known).branch.as_deref(), Some("dev"));
    }
}
