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
    /// The build context's directory.
    pub(crate) context: Template,
    /// The Dockerfile, relative to the pipeline file's directory as every path, or else in the context.
    pub(crate) dockerfile: Option<Template>,
    /// The stage to build.
    pub(crate) target: Option<Template>,
    pub(crate) args: IndexMap<String, Template>,
    /// Labels of the image.
    pub(crate) labels: IndexMap<String, Template>,
    /// Names of environment variables given to the build as secrets.
    pub(crate) secrets: Vec<Name>,
    /// SSH agents and keys for `RUN --mount=type=ssh`.
    pub(crate) ssh: Vec<Template>,
    /// Further contexts by name.
    pub(crate) contexts: IndexMap<String, Template>,
    /// The network of `RUN`: the engine's default where absent.
    pub(crate) network: Option<Network>,
    /// Further host names and their addresses.
    pub(crate) extra_hosts: IndexMap<String, Template>,
    pub(crate) platforms: Vec<String>,
    pub(crate) tags: Vec<Template>,
    /// Images that are built before this one.
    pub(crate) depends_on: Vec<Name>,
    /// Images whose inline cache the build may use.
    pub(crate) cache_from: Vec<Template>,
    /// Whether the image carries its own build cache.
    pub(crate) cache_to: CacheTo,
    /// How layers are compressed.
    pub(crate) compression: Compression,
    /// Create the ECR repository where it does not exist.
    pub(crate) create: Option<Create>,
    /// Wait for the scan's findings.
    pub(crate) scan: Option<Scan>,
    /// Skip what is there already.
    pub(crate) skip_unchanged: bool,
    /// The place of the image's name.
    pub(crate) span: Span,
}

/// Whether a stage of a Dockerfile can have the name: a letter, then letters, digits, `-`, `_` and `.`; BuildKit's own rule.
pub(crate) fn is_stage_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// `network`: what `RUN` reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Network {
    Default,
    None,
    /// The engine's own network.
    Host,
}

/// `cache.to`: where a build leaves its cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum CacheTo {
    /// Nowhere but in the engine.
    #[default]
    None,
    /// In the image's own configuration.
    Inline,
    /// Beside the image, in its registry.
    Registry,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compression {
    /// gzip, which everything reads.
    #[default]
    Gzip,
    Zstd,
}

/// `create`: how a repository is created.
#[derive(Debug, Clone, Default)]
pub(crate) struct Create {
    /// Scan images when they are pushed.
    pub(crate) scan_on_push: bool,
    /// Tags cannot be moved.
    pub(crate) immutable: bool,
    pub(crate) lifecycle_policy: Option<LifecyclePolicy>,
}

#[derive(Debug, Clone)]
pub(crate) enum LifecyclePolicy {
    File(Template),
    Document(serde_json::Value),
}

/// `scan`: a gate on findings.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    /// The least severity that counts.
    pub(crate) fail_on: Severity,
    /// How long to wait for the findings.
    pub(crate) wait: Duration,
    /// Findings that do not count.
    pub(crate) ignore: Vec<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Low,
    Medium,
    #[default]
    High,
    Critical,
}
