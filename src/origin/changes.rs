//! What differs between the working tree and its commit.

use super::git_bytes;
use crate::exit::Failure;
use std::path::{Path, PathBuf};

/// The files that runner writes for CodePipeline, next to the pipeline file.
const OWN: [&str; 4] = ["imagedefinitions.json", "imageDetail.json", "taskdef.json", "appspec.yaml"];

/// The files that differ from the commit: tracked ones that were changed, and untracked ones in the contexts of images that
/// git does not ignore. Returns none if this is no git repository, or if its commit is not `commit`.
pub(crate) async fn changes(
    directory: &Path,
    commit: &str,
    contexts: &[PathBuf],
) -> Result<Vec<String>, Failure> {
    let head = git_bytes(directory, &["rev-parse", "HEAD"]).await?.unwrap_or_default();
    if String::from_utf8_lossy(&head).trim() != commit {
        return Ok(Vec::new());
    }
    let status = ["status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=no"];
    let changed = git_bytes(directory, &status).await?.unwrap_or_default();
    // Each entry has two letters for its state and a blank.
    let mut found: Vec<String> = names(&changed).map(|entry| entry.chars().skip(3).collect()).collect();
    let contexts: Vec<&str> = contexts.iter().filter_map(|context| context.to_str()).collect();
    if !contexts.is_empty() {
        let list = ["ls-files", "--others", "--exclude-standard", "-z", "--"];
        let untracked =
            git_bytes(directory, &[list.as_slice(), &contexts].concat()).await?.unwrap_or_default();
        found.extend(names(&untracked).filter(|name| !OWN.contains(&name.as_str())));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The texts of a list that NUL separates.
fn names(bytes: &[u8]) -> impl Iterator<Item = String> {
    bytes
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
}
