//! Decodes `images`.

use super::fields::{Decoder, Fields};
use crate::address::{self, ImageRepository, split_tag};
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::exposure::Exposure;
use crate::language::pipeline::model::{
    CacheTo, Compression, Create, Image, LifecyclePolicy, Network, Scan, Severity, Zone,
};
use crate::language::pipeline::tables;
use crate::language::pipeline::template::Template;
use crate::language::source::Span;
use crate::language::tree::{Entry, Node, Value};
use indexmap::IndexMap;
use std::time::Duration;

/// The architectures of Docker images, by Go's names.
const ARCHITECTURES: [&str; 8] = ["amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "mips64le"];
/// The default of `scan.wait`.
const SCAN_WAIT: Duration = Duration::from_mins(5);

pub(crate) fn images(d: &mut Decoder<'_>, node: Option<&Node>) -> IndexMap<String, Image> {
    let mut position = 0;
    d.defined(node, "images", |d, entry| {
        let zone = Zone::Image(position);
        position += 1;
        check_name(d, entry);
        // An image with mistakes is kept, so steps that name it are not reported as well.
        Some(d.within(zone, |d| image(d, entry)).unwrap_or_default())
    })
}

/// The name becomes part of `${image.NAME.uri}` and of a variable's name.
fn check_name(d: &mut Decoder<'_>, entry: &Entry) {
    let name = &entry.key;
    if name.is_empty() || name.chars().any(|c| !(c.is_ascii_alphanumeric() || "._-".contains(c))) {
        d.problem(
            Diagnostic::new(format!("`{name}` is not a valid image name"), entry.key_span)
                .help("use letters, digits, `-`, `_` and `.`; the address goes under `repository`"),
        );
    }
}

fn image(d: &mut Decoder<'_>, entry: &Entry) -> Option<Image> {
    let fields = d.fields(&entry.node, &tables::IMAGE)?;
    let cache = fields.get("cache").and_then(|node| d.fields(node, &tables::CACHE));
    let (cache_from, cache_to) = cache.map_or((Vec::new(), CacheTo::None), |cache| {
        let from = d.optional(&cache, "from", Decoder::one_or_more_templates);
        (from.unwrap_or_default(), cache_to(d, &cache))
    });
    let tags = match fields.get("tags") {
        Some(node) => d.exposed(Exposure::Tag, |d| d.one_or_more_templates(node)).unwrap_or_default(),
        None => default_tags(d, entry.key_span),
    };
    let repository = d
        .required(&fields, "repository")
        .and_then(|node| d.exposed(Exposure::Repository, |d| d.named_text(node)))
        .unwrap_or_else(|| Template::literal(""));
    check_literals(d, &repository, &tags);
    let networks = [("default", Network::Default), ("none", Network::None), ("host", Network::Host)];
    let compressions = [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
    Some(Image {
        context: d
            .optional(&fields, "context", Decoder::named_text)
            .unwrap_or_else(|| Template::literal(".")),
        dockerfile: d.optional(&fields, "dockerfile", Decoder::named_text),
        target: d.optional(&fields, "target", Decoder::named_text),
        args: d.exposed(Exposure::BuildArgument, |d| d.text_map(&fields, "args")),
        labels: d.exposed(Exposure::Label, |d| d.text_map(&fields, "labels")),
        secrets: d.optional(&fields, "secrets", Decoder::one_or_more_names).unwrap_or_default(),
        ssh: d.optional(&fields, "ssh", Decoder::one_or_more_templates).unwrap_or_default(),
        contexts: d.text_map(&fields, "contexts"),
        network: d.optional(&fields, "network", |d, node| d.choice(node, &networks)),
        extra_hosts: d.text_map(&fields, "extra-hosts"),
        platforms: d
            .optional(&fields, "platforms", |d, node| d.one_or_more(node, "a platform", platform))
            .unwrap_or_default(),
        tags,
        depends_on: d.optional(&fields, "depends-on", Decoder::one_or_more_names).unwrap_or_default(),
        cache_from,
        cache_to,
        compression: d
            .optional(&fields, "compression", |d, node| d.choice(node, &compressions))
            .unwrap_or_default(),
        create: d.optional(&fields, "create", create),
        scan: d.optional(&fields, "scan", scan),
        skip_unchanged: d.flag(&fields, "skip-unchanged"),
        repository,
        span: entry.key_span,
    })
}

/// Checks literal values. The others are checked when they are resolved.
fn check_literals(d: &mut Decoder<'_>, repository: &Template, tags: &[Template]) {
    if let Some(name) = repository.as_literal().filter(|name| !name.is_empty())
        && let Err(error) = ImageRepository::parse(&name)
    {
        let help = if name.contains("://") {
            Some("remove the `https://`")
        } else if split_tag(&name).1.is_some() {
            Some("tags go under `tags`")
        } else if name.chars().any(char::is_uppercase) {
            Some("write it in lower case")
        } else {
            None
        };
        let mut problem = Diagnostic::new(error.to_string(), repository.span);
        problem.help = help.map(ToOwned::to_owned);
        if name.contains("://") {
            "a URL is not a repository".clone_into(&mut problem.message);
        }
        d.problem(problem);
    }
    for tag in tags {
        if let Some(name) = tag.as_literal()
            && let Err(error) = address::check_tag(&name)
        {
            d.problem(Diagnostic::new(error.to_string(), tag.span));
        }
    }
}

/// The default of `images.NAME.tags`.
fn default_tags(d: &mut Decoder<'_>, image: Span) -> Vec<Template> {
    let tags: Vec<_> = Template::parse("${source.commit}", image, "").into_iter().collect();
    for tag in &tags {
        d.note_uses(tag);
    }
    tags
}

fn cache_to(d: &mut Decoder<'_>, cache: &Fields<'_>) -> CacheTo {
    let choices = [("none", CacheTo::None), ("inline", CacheTo::Inline), ("registry", CacheTo::Registry)];
    d.optional(cache, "to", |d, node| d.choice(node, &choices)).unwrap_or_default()
}

fn platform(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.literal(node)?;
    let parts: Vec<&str> = text.split('/').collect();
    let valid = matches!(parts.as_slice(), [os, architecture] | [os, architecture, _]
        if *os == "linux" && ARCHITECTURES.contains(architecture));
    if valid {
        return Some(text);
    }
    let known: Vec<String> = ARCHITECTURES.iter().map(|name| format!("linux/{name}")).collect();
    d.problem(
        Diagnostic::new(format!("`{text}` is not a known platform"), node.span)
            .help("write `linux/amd64` or `linux/arm64`")
            .suggest(&text, known.iter().map(String::as_str)),
    );
    None
}

/// `true` and a mapping create the repository.
fn create(d: &mut Decoder<'_>, node: &Node) -> Option<Create> {
    if !matches!(node.value, Value::Map(_)) {
        return d.boolean(node)?.then(Create::default);
    }
    let fields = d.fields(node, &tables::CREATE)?;
    Some(Create {
        scan_on_push: d.flag(&fields, "scan-on-push"),
        immutable: d.flag(&fields, "immutable"),
        lifecycle_policy: d.optional(&fields, "lifecycle-policy", |d, node| match &node.value {
            Value::Map(_) => Some(LifecyclePolicy::Document(document(node))),
            _ => d.named_text(node).map(LifecyclePolicy::File),
        }),
    })
}

/// A document of another system. Plain scalars become numbers and booleans as in JSON.
fn document(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Scalar { text, plain: true } => serde_json::from_str(text)
            .ok()
            .filter(|value: &serde_json::Value| !value.is_string())
            .unwrap_or_else(|| text.as_str().into()),
        Value::Scalar { text, .. } => text.as_str().into(),
        Value::List(items) => items.iter().map(document).collect(),
        Value::Map(entries) => {
            entries.iter().map(|entry| (entry.key.clone(), document(&entry.node))).collect()
        }
    }
}

fn scan(d: &mut Decoder<'_>, node: &Node) -> Option<Scan> {
    let fields = d.fields(node, &tables::SCAN)?;
    let severities = [
        ("low", Severity::Low),
        ("medium", Severity::Medium),
        ("high", Severity::High),
        ("critical", Severity::Critical),
    ];
    Some(Scan {
        fail_on: d.optional(&fields, "fail-on", |d, node| d.choice(node, &severities)).unwrap_or_default(),
        wait: d.optional(&fields, "wait", Decoder::duration).unwrap_or(SCAN_WAIT),
        ignore: d
            .optional(&fields, "ignore", |d, node| d.one_or_more(node, "an id", Decoder::literal))
            .unwrap_or_default(),
    })
}
