//! `images`.

use super::Name;
use crate::pipeline::source::Span;
use crate::pipeline::template::Template;
use indexmap::IndexMap;
use std::time::Duration;

/// `images.NAME`.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// An ECR repository name, or a full `registry/path`.
    pub repository: Template,
    /// The build context's directory.
    pub context: Template,
    /// The Dockerfile, relative to the pipeline file's directory as every path, or else in the context.
    pub dockerfile: Option<Template>,
    /// The stage to build.
    pub target: Option<Template>,
    /// Build arguments.
    pub args: IndexMap<String, Template>,
    /// Labels of the image.
    pub labels: IndexMap<String, Template>,
    /// Names of environment variables given to the build as secrets.
    pub secrets: Vec<Name>,
    /// SSH agents and keys for `RUN --mount=type=ssh`.
    pub ssh: Vec<Template>,
    /// Further contexts by name.
    pub contexts: IndexMap<String, Template>,
    /// The network of `RUN`: the engine's default where absent.
    pub network: Option<Network>,
    /// Further host names and their addresses.
    pub extra_hosts: IndexMap<String, Template>,
    /// Platforms, as `os/arch[/variant]`.
    pub platforms: Vec<String>,
    /// Tags to push.
    pub tags: Vec<Template>,
    /// Images that are built before this one.
    pub depends_on: Vec<Name>,
    /// Images whose inline cache the build may use.
    pub cache_from: Vec<Template>,
    /// Whether the image carries its own build cache.
    pub cache_to: CacheTo,
    /// How layers are compressed.
    pub compression: Compression,
    /// Create the ECR repository where it does not exist.
    pub create: Option<Create>,
    /// Wait for the scan's findings.
    pub scan: Option<Scan>,
    /// Skip what is there already.
    pub skip_unchanged: bool,
    /// The place of the image's name.
    pub span: Span,
}

/// Whether a stage of a Dockerfile can have the name: a letter, then letters, digits, `-`, `_` and `.`; BuildKit's own rule.
pub fn is_stage_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// `network`: what `RUN` reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The engine's default.
    Default,
    /// Nothing.
    None,
    /// The engine's own network.
    Host,
}

/// `cache.to`: where a build leaves its cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheTo {
    /// Nowhere but in the engine.
    #[default]
    None,
    /// In the image's own configuration.
    Inline,
    /// Beside the image, in its registry.
    Registry,
}

/// `compression` of layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// gzip, which everything reads.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
}

/// `create`: how a repository is created.
#[derive(Debug, Clone, Default)]
pub struct Create {
    /// Scan images when they are pushed.
    pub scan_on_push: bool,
    /// Tags cannot be moved.
    pub immutable: bool,
    /// ECR's lifecycle policy.
    pub lifecycle_policy: Option<LifecyclePolicy>,
}

/// `create.lifecycle-policy`
#[derive(Debug, Clone)]
pub enum LifecyclePolicy {
    /// A JSON file.
    File(Template),
    /// The policy itself.
    Document(serde_json::Value),
}

/// `scan`: a gate on findings.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The least severity that counts.
    pub fail_on: Severity,
    /// How long to wait for the findings.
    pub wait: Duration,
    /// Findings that do not count.
    pub ignore: Vec<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    #[default]
    High,
    /// `critical`
    Critical,
}
