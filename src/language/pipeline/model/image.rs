//! `images`.

use super::Name;
use crate::language::pipeline::template::Template;
use crate::language::source::Span;
use indexmap::IndexMap;
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    /// An ECR repository name, or a full `registry/path`.
    pub(crate) repository: Template,
    pub(crate) context: Template,
    /// The Dockerfile, relative to the pipeline file's directory or, if it is not there, to the context.
    pub(crate) dockerfile: Option<Template>,
    pub(crate) target: Option<Template>,
    pub(crate) args: IndexMap<String, Template>,
    pub(crate) labels: IndexMap<String, Template>,
    /// Variables that the build gets as secrets.
    pub(crate) secrets: Vec<Name>,
    /// SSH agents and keys for `RUN --mount=type=ssh`.
    pub(crate) ssh: Vec<Template>,
    /// Additional contexts by name.
    pub(crate) contexts: IndexMap<String, Template>,
    /// The network of `RUN`; the engine's default if absent.
    pub(crate) network: Option<Network>,
    /// Addresses of additional hosts.
    pub(crate) extra_hosts: IndexMap<String, Template>,
    pub(crate) platforms: Vec<String>,
    pub(crate) tags: Vec<Template>,
    /// Images that are built before this one.
    pub(crate) depends_on: Vec<Name>,
    /// Images and caches in registries that the build may use.
    pub(crate) cache_from: Vec<Template>,
    pub(crate) cache_to: CacheTo,
    pub(crate) compression: Compression,
    /// Create the ECR repository if it does not exist.
    pub(crate) create: Option<Create>,
    pub(crate) scan: Option<Scan>,
    /// Skip build, test and push if the repository has an image of the same sources.
    pub(crate) skip_unchanged: bool,
    /// The place of the image's name.
    pub(crate) span: Span,
}

/// Whether a name is valid for a stage of a Dockerfile by BuildKit's rule: a letter, then letters, digits, `-`, `_`
/// and `.`.
pub(crate) fn is_stage_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// `network`: the network of `RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Network {
    Default,
    None,
    /// The network of the engine's machine.
    Host,
}

/// `cache.to`: where a build writes its cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum CacheTo {
    /// Only in the engine.
    #[default]
    None,
    /// In the image's configuration.
    Inline,
    /// In the image's repository, under a tag of its own.
    Registry,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compression {
    #[default]
    Gzip,
    Zstd,
}

/// `create`: the settings of a new repository.
#[derive(Debug, Clone, Default)]
pub(crate) struct Create {
    /// Scan images when they are pushed.
    pub(crate) scan_on_push: bool,
    /// Make tags immutable.
    pub(crate) immutable: bool,
    pub(crate) lifecycle_policy: Option<LifecyclePolicy>,
}

#[derive(Debug, Clone)]
pub(crate) enum LifecyclePolicy {
    File(Template),
    Document(serde_json::Value),
}

/// `scan`: which findings fail the push.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    /// The lowest severity that fails the push.
    pub(crate) fail_on: Severity,
    /// How long to wait for the findings.
    pub(crate) wait: Duration,
    /// The ids of findings to ignore.
    pub(crate) ignore: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Low,
    Medium,
    #[default]
    High,
    Critical,
}
