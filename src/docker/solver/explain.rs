//! What runner knows about the cause of a failed build: the ignore file that leaves a file out, and mistyped
//! instructions.

use super::dockerfile::Dockerfile;
use crate::docker::ignore::{IgnoreFile, Rules, clean, is_own_file};
use crate::text::closest;
use regex::Regex;
use std::path::Path;

/// The instructions of Dockerfiles.
const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];
/// The help for a heredoc, whose lines older engines take for instructions.
const HEREDOCS: &str = "engines before 23 need `# syntax=docker/dockerfile:1` in the first line for heredocs and other newer syntax";

/// The inputs of a build that failed.
pub(super) struct Inputs<'a> {
    /// Absent if the engine fetches it.
    pub(super) dockerfile: Option<&'a Dockerfile>,
    /// The directory of the context and its ignore file.
    pub(super) context: Option<(&'a Path, &'a IgnoreFile)>,
    /// The rules of the engine.
    pub(super) rules: Rules,
}

impl Inputs<'_> {
    /// Returns the help for an error of the engine.
    pub(super) fn help(&self, message: &str) -> Option<String> {
        self.left_out(message).or_else(|| self.unknown_instruction(message))
    }

    /// The pattern that leaves out a file that exists and that the build misses.
    fn left_out(&self, message: &str) -> Option<String> {
        let (context, ignore) = self.context?;
        // 20.10: `"/a" not found`; newer: `"/a": not found`; if nothing was sent: `lstat …/buildkit-mount1/a: no such file`.
        let missing =
            Regex::new(r#"(?:"/|buildkit-mount\d+/)([^":]+)"?:? (?:not found|no such file)"#).ok()?;
        let path = missing.captures(message)?.get(1)?.as_str();
        // The engine may name only the directory, of which nothing was sent.
        let below = self
            .dockerfile
            .into_iter()
            .flat_map(Dockerfile::sources)
            .map(|source| clean(source.trim_start_matches('/')));
        let below = below.filter(|source| Path::new(source).starts_with(path));
        below.chain([path.to_owned()]).find_map(|path| self.why_left_out(context, ignore, &path))
    }

    fn why_left_out(&self, context: &Path, ignore: &IgnoreFile, path: &str) -> Option<String> {
        context.join(path).symlink_metadata().ok()?;
        if Path::new(path).iter().any(|part| is_own_file(Path::new(part))) {
            return Some(format!(
                "`{path}` exists, but runner's own files are never part of a build context"
            ));
        }
        let excluded = ignore.excluding(path, self.rules)?;
        Some(format!(
            "`{path}` exists, but `{}` in {}:{} leaves it out of the build context; add `!{path}` below that line, or change it",
            excluded.pattern,
            excluded.file.display(),
            excluded.line
        ))
    }

    fn unknown_instruction(&self, message: &str) -> Option<String> {
        let unknown = Regex::new(r"(?:parse error (?:on )?line (\d+): )?unknown instruction: (\S+)").ok()?;
        let found = unknown.captures(message)?;
        let line = found.get(1).and_then(|line| line.as_str().parse().ok());
        let in_heredoc = self.dockerfile.zip(line).is_some_and(|(file, line)| file.is_in_heredoc(line));
        let is_old = self.rules == Rules::Before23;
        if is_old && in_heredoc {
            return Some(HEREDOCS.to_owned());
        }
        // Current engines suggest one themselves.
        if message.contains("did you mean") {
            return None;
        }
        if let Some(meant) = closest(found.get(2)?.as_str(), INSTRUCTIONS) {
            return Some(format!("did you mean `{meant}`?"));
        }
        (is_old && self.dockerfile.is_none()).then(|| HEREDOCS.to_owned())
    }
}
