//! The sources of a build's files. A named context becomes an image, because it is a stage of the Dockerfile and a
//! stage begins with an image.

use crate::docker::DockerError;
use crate::docker::context::ContextError;
use crate::text::hex;
use bollard_buildkit_proto::pb::{self, file_action, op};
use prost::Message;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The source of the files for `COPY`.
#[derive(Debug, Clone)]
pub(crate) enum ContextSource {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A git repository or a URL, which the engine fetches.
    Remote(String),
}

impl ContextSource {
    /// Checks that a directory exists. Remote sources are not checked.
    pub(crate) fn check(&self) -> Result<(), DockerError> {
        match self {
            Self::Directory(path) if !path.is_dir() => Err(ContextError::Read {
                path: path.clone(),
                source: std::io::ErrorKind::NotADirectory.into(),
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// Returns the directory, if the source is one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Remote(_) => None,
        }
    }
}

/// Whether the engine fetches a context (a git repository or a URL), by the rules of the docker command.
pub(crate) fn is_remote(context: &str) -> bool {
    const PREFIXES: [&str; 6] = ["http://", "https://", "git://", "ssh://", "git@", "github.com/"];
    PREFIXES.iter().any(|prefix| context.starts_with(prefix))
}

/// Whether a remote context is a git repository, and not a file or an archive.
fn is_git(url: &str) -> bool {
    let path = url.split(['#', '?']).next().unwrap_or_default();
    !(url.starts_with("http://") || url.starts_with("https://"))
        || path.rsplit_once('.').is_some_and(|(_, end)| end == "git")
}

/// Returns the build graph whose result is the files of a source, without those that match `exclude` (patterns of
/// `.dockerignore`).
pub(crate) fn files_of(source: &ContextSource, session: &str, exclude: &[String]) -> pb::Definition {
    let (identifier, attributes) = match source {
        ContextSource::Directory(_) => {
            let exclude = serde_json::Value::from(exclude).to_string();
            let attributes = [
                ("local.session", session.to_owned()),
                ("local.sharedkeyhint", "context".to_owned()),
                ("local.excludepatterns", exclude),
            ];
            ("local://context".to_owned(), attributes.to_vec())
        }
        ContextSource::Remote(url) if is_git(url) => {
            let mut attributes = vec![("git.fullurl", full_url(url))];
            if url.starts_with("git@") || url.starts_with("ssh://") {
                attributes.push(("git.mountsshsock", "default".to_owned()));
            } else {
                attributes.push(("git.authtokensecret", "GIT_AUTH_TOKEN".to_owned()));
            }
            (git_identifier(url), attributes)
        }
        ContextSource::Remote(url) => (url.clone(), vec![("http.filename", file_name(url))]),
    };
    let attrs = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let fetched = operation(op::Op::Source(pb::SourceOp { identifier, attrs }), Vec::new());
    let last = match source {
        ContextSource::Remote(url) if !is_git(url) => unpacked(&fetched, &file_name(url)),
        _ => fetched.clone(),
    };
    let end = pb::Op { inputs: vec![input(&last)], ..pb::Op::default() }.encode_to_vec();
    let mut def = vec![fetched];
    if def[0] != last {
        def.push(last);
    }
    def.push(end);
    let metadata = def.iter().map(|op| (digest(op), pb::OpMetadata::default())).collect::<HashMap<_, _>>();
    pb::Definition { def, metadata, source: None }
}

/// Returns an operation that unpacks an archive like the context of a build, and copies any other file.
fn unpacked(fetched: &[u8], name: &str) -> Vec<u8> {
    let copy = pb::FileActionCopy {
        src: format!("/{name}"),
        dest: "/".to_owned(),
        mode: -1,
        timestamp: -1,
        follow_symlink: true,
        attempt_unpack_docker_compatibility: true,
        create_dest_path: true,
        ..pb::FileActionCopy::default()
    };
    // Copy from the first input into an empty directory.
    let action = pb::FileAction {
        input: -1,
        secondary_input: 0,
        output: 0,
        action: Some(file_action::Action::Copy(copy)),
    };
    operation(op::Op::File(pb::FileOp { actions: vec![action] }), vec![input(fetched)])
}

fn operation(op: op::Op, inputs: Vec<pb::Input>) -> Vec<u8> {
    pb::Op { inputs, op: Some(op), ..pb::Op::default() }.encode_to_vec()
}

fn input(op: &[u8]) -> pb::Input {
    pb::Input { digest: digest(op), index: 0 }
}

/// Returns the digest of an operation, with `sha256:`.
pub(crate) fn digest(op: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, op);
    format!("sha256:{}", hex(digest.as_ref()))
}

fn file_name(url: &str) -> String {
    let path = url.split(['#', '?']).next().unwrap_or_default();
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if name.is_empty() || name.contains(':') { "context".to_owned() } else { name.to_owned() }
}

/// Returns the identifier of a repository in the build graph: `git://` and the URL without its scheme.
fn git_identifier(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    format!(
        "git://{}",
        rest.trim_start_matches("git@").replacen(':', "/", usize::from(url.starts_with("git@")))
    )
}

/// Returns a git repository as the frontend takes it for a named context; `None` for what it does not know.
pub(crate) fn git_context(url: &str) -> Option<String> {
    let url = match url.strip_prefix("github.com/") {
        Some(_) => format!("https://{url}"),
        None => url.to_owned(),
    };
    let (repository, part) = url.split_at(url.find('#').unwrap_or(url.len()));
    if !is_git(&url) && !repository.starts_with("https://github.com/") || url.starts_with("ssh://") {
        return None;
    }
    let end = if repository.starts_with("https://") { ".git" } else { "" };
    Some(format!("{}{end}{part}", repository.strip_suffix(end).unwrap_or(repository)))
}

fn full_url(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    if url.starts_with("github.com/") { format!("https://{url}") } else { url.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_classified_like_in_the_docker_command() {
        for (text, remote, git) in [
            ("https://example.com/repo.git#v1:sub", true, true),
            ("https://example.com/files.tar.gz", true, false),
            ("git@example.com:a/b.git", true, true),
            ("github.com/a/b", true, true),
            ("git://example.com/a", true, true),
            ("./docs", false, true),
            ("web", false, true),
        ] {
            assert_eq!((is_remote(text), !remote || is_git(text)), (remote, !remote || git), "{text}");
        }
        assert_eq!(git_identifier("git@example.com:a/b.git#x"), "git://example.com/a/b.git#x");
        assert_eq!(file_name("https://example.com/a/files.tgz?x=1"), "files.tgz");
        assert_eq!(file_name("https://example.com"), "example.com");
    }
}
