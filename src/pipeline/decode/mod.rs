//! From the tree to the model. Every mistake is noted and decoding goes on, so that one run shows them all.

mod fields;
mod phases;
mod steps;

use super::diagnostic::Diagnostic;
use super::keys;
use super::model::{CacheTo, Env, Image, Notify, NotifyOn, NotifyTarget, Pipeline, Shell};
use super::source::Span;
use super::template::{Template, is_variable_name};
use super::tree::{Node, Value};
use fields::{Decoder, Fields};
use indexmap::IndexMap;

/// Decodes the root of a pipeline file; nothing where the root itself is unusable.
pub(super) fn pipeline(root: &Node, problems: &mut Vec<Diagnostic>) -> Option<Pipeline> {
    let mut d = Decoder { problems };
    let fields = d.fields(root, &keys::PIPELINE)?;
    version(&mut d, &fields);
    let name = d.required(&fields, "name").and_then(|node| d.literal(node)).unwrap_or_default();
    let env = fields.get("env").and_then(|node| env(&mut d, node)).unwrap_or_default();
    let images = d.defined(fields.get("images"), "an image", image);
    let phases = d.required(&fields, "phases").map(|node| phases::phases(&mut d, node)).unwrap_or_default();
    let notify = fields.get("notify").map(|node| d.list(node, "notifications", notify)).unwrap_or_default();
    Some(Pipeline { name, env, images, phases, notify })
}

fn version(d: &mut Decoder<'_>, fields: &Fields<'_>) {
    let Some(node) = d.required(fields, "version") else {
        return;
    };
    if !matches!(&node.value, Value::Scalar { text, .. } if text == "1") {
        d.problem(
            Diagnostic::new("this version of the pipeline language is not known", node.span)
                .label("expected 1")
                .help("write `version: 1`; buildspec files, which say 0.2, are another language"),
        );
    }
}

fn env(d: &mut Decoder<'_>, node: &Node) -> Option<Env> {
    let fields = d.fields(node, &keys::ENV)?;
    let shell =
        fields.get("shell").and_then(|node| d.choice(node, &[("bash", Shell::Bash), ("sh", Shell::Sh)]));
    let mut table = |key: &str| d.variables(fields.get(key));
    let env = Env {
        shell: shell.unwrap_or_default(),
        variables: table("variables"),
        parameter_store: table("parameter-store"),
        secrets_manager: table("secrets-manager"),
    };
    for name in env.secret_names() {
        if env.variables.contains_key(name)
            || (env.parameter_store.contains_key(name) && env.secrets_manager.contains_key(name))
        {
            d.problem(
                Diagnostic::new(format!("`{name}` is given twice under `env`"), node.span)
                    .help("keep one of the two"),
            );
        }
    }
    Some(env)
}

fn image(d: &mut Decoder<'_>, node: &Node) -> Option<Image> {
    let fields = d.fields(node, &keys::IMAGE)?;
    let cache = fields.get("cache").and_then(|node| d.fields(node, &keys::CACHE));
    let (cache_from, cache_to) = cache.map_or((Vec::new(), CacheTo::None), |cache| {
        let from = d.optional(&cache, "from", Decoder::one_or_more_templates);
        (from.unwrap_or_default(), cache_to(d, &cache))
    });
    let tags = match fields.get("tags") {
        Some(node) => d.one_or_more_templates(node).unwrap_or_default(),
        None => default_tags(fields.span),
    };
    // A mistake in an image is one mistake: steps that name it are right.
    let repository = d
        .required(&fields, "repository")
        .and_then(|node| d.template(node))
        .unwrap_or_else(|| Template::literal(""));
    Some(Image {
        context: d.optional(&fields, "context", Decoder::template).unwrap_or_else(|| Template::literal(".")),
        dockerfile: d.optional(&fields, "dockerfile", Decoder::template),
        target: d.optional(&fields, "target", Decoder::template),
        args: d.text_map(fields.get("args")),
        labels: d.text_map(fields.get("labels")),
        secrets: d.optional(&fields, "secrets", Decoder::one_or_more_names).unwrap_or_default(),
        tags,
        cache_from,
        cache_to,
        create: fields.get("create").is_some_and(|node| create(d, node)),
        repository,
    })
}

/// `images.NAME.tags` where the file does not say.
fn default_tags(image: Span) -> Vec<Template> {
    Template::parse("${source.commit}", image).into_iter().collect()
}

fn cache_to(d: &mut Decoder<'_>, cache: &Fields<'_>) -> CacheTo {
    let Some(node) = cache.get("to") else {
        return CacheTo::None;
    };
    if matches!(&node.value, Value::Scalar { text, .. } if text == "registry") {
        d.problem(fields::not_yet("`to: registry`", node.span).help("use `to: inline`"));
        return CacheTo::None;
    }
    d.choice(node, &[("none", CacheTo::None), ("inline", CacheTo::Inline)]).unwrap_or_default()
}

fn create(d: &mut Decoder<'_>, node: &Node) -> bool {
    if matches!(node.value, Value::Map(_)) {
        d.problem(
            fields::not_yet("a mapping under `create`", node.span)
                .help("write `create: true`, and set the repository up outside the pipeline"),
        );
        return false;
    }
    d.boolean(node).unwrap_or_default()
}

fn notify(d: &mut Decoder<'_>, node: &Node) -> Option<Notify> {
    let fields = d.fields(node, &keys::NOTIFY)?;
    let on = d
        .optional(&fields, "on", |d, node| {
            let choices = NotifyOn::ALL.map(|on| (on.as_str(), on));
            Some(d.list(node, "events", |d, node| d.choice(node, &choices)))
        })
        .unwrap_or_else(|| NotifyOn::ALL.to_vec());
    let target = match (fields.get("slack"), fields.entry("webhook")) {
        (Some(node), None) => NotifyTarget::Slack { url: d.template(node)? },
        (None, Some(entry)) => webhook(d, &entry.node)?,
        (Some(_), Some(entry)) => {
            d.problem(
                Diagnostic::new("a notification has one target", entry.key_span)
                    .help("make this a second entry of `notify`"),
            );
            return None;
        }
        (None, None) => {
            if !fields.refused() {
                d.problem(
                    Diagnostic::new("this notification has no target", fields.span)
                        .help("give it `slack` or `webhook`"),
                );
            }
            return None;
        }
    };
    Some(Notify { target, on })
}

fn webhook(d: &mut Decoder<'_>, node: &Node) -> Option<NotifyTarget> {
    let fields = d.fields(node, &keys::WEBHOOK)?;
    let headers = d.text_map(fields.get("headers"));
    let url = d.required(&fields, "url").and_then(|node| d.template(node))?;
    Some(NotifyTarget::Webhook { url, headers })
}

impl Decoder<'_> {
    /// A mapping of environment variables.
    fn variables(&mut self, node: Option<&Node>) -> IndexMap<String, Template> {
        if let Some(Node { value: Value::Map(entries), .. }) = node {
            for entry in entries {
                if !is_variable_name(&entry.key) && !fields::is_ignored(&entry.key) {
                    let message = format!("`{}` cannot be the name of a variable", entry.key);
                    self.problem(
                        Diagnostic::new(message, entry.key_span)
                            .help("use letters, digits and `_`, not beginning with a digit"),
                    );
                }
            }
        }
        self.defined(node, "texts", Self::template)
    }
}
