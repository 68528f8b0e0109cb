//! The small vocabulary that all decoding is made of: mappings with known keys, lists, texts, choices.

use crate::pipeline::diagnostic::Diagnostic;
use crate::pipeline::keys::Table;
use crate::pipeline::model::Name;
use crate::pipeline::source::{Span, Spanned};
use crate::pipeline::template::Template;
use crate::pipeline::tree::{Entry, Node, Value};
use crate::text::listed;
use indexmap::IndexMap;

/// Collects what is wrong while values are read.
pub(super) struct Decoder<'p> {
    pub(super) problems: &'p mut Vec<Diagnostic>,
}

/// A mapping whose keys have been checked.
pub(super) struct Fields<'n> {
    entries: &'n [Entry],
    table: &'static Table,
    /// The mapping's place.
    pub(super) span: Span,
}

impl<'n> Fields<'n> {
    /// The value under a key; nothing where the key is absent or empty.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The key with its value, for errors about the key itself.
    pub(super) fn entry(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Whether a key was written that this version does not carry out, so that its absence needs no second message.
    pub(super) fn refused(&self) -> bool {
        self.entries.iter().any(|entry| self.table.later.contains(&entry.key.as_str()))
    }
}

/// Keys that begin with `x-` are the user's own.
pub(super) fn is_ignored(key: &str) -> bool {
    key.starts_with("x-")
}

/// The refusal of a part of the language that no executor carries out yet.
pub(super) fn not_yet(what: &str, span: Span) -> Diagnostic {
    Diagnostic::new(
        format!("{what} is part of the language, but this version of runner cannot carry it out yet"),
        span,
    )
    .help(format!("remove it, or use a runner newer than {}", env!("CARGO_PKG_VERSION")))
}

impl Decoder<'_> {
    pub(super) fn problem(&mut self, problem: Diagnostic) {
        self.problems.push(problem);
    }

    fn expected(&mut self, expected: &str, node: &Node) {
        let message = format!("expected {expected}, found {}", node.kind());
        self.problem(Diagnostic::new(message, node.span));
    }

    /// A mapping of the table's keys. Unknown keys are errors.
    pub(super) fn fields<'n>(&mut self, node: &'n Node, table: &'static Table) -> Option<Fields<'n>> {
        self.fields_of(node, table, &[])
    }

    /// A mapping of the table's keys and those of further tables.
    pub(super) fn fields_of<'n>(
        &mut self,
        node: &'n Node,
        table: &'static Table,
        more: &[&'static Table],
    ) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else {
            self.problem(
                Diagnostic::new(
                    format!("{} is a mapping, but this is {}", table.what, node.kind()),
                    node.span,
                )
                .help(format!("its keys are {}", listed(table.ready.iter().copied()))),
            );
            return None;
        };
        let tables = || std::iter::once(table).chain(more.iter().copied());
        for entry in entries {
            let key = entry.key.as_str();
            if is_ignored(key) || tables().any(|table| table.ready.contains(&key)) {
                continue;
            }
            if tables().any(|table| table.later.contains(&key)) {
                self.problem(not_yet(&format!("`{key}`"), entry.key_span));
                continue;
            }
            let known = || tables().flat_map(|table| table.ready.iter().copied());
            self.problem(
                Diagnostic::new(format!("unknown key `{key}` in {}", table.what), entry.key_span)
                    .help(format!("known keys: {}", listed(known())))
                    .suggest(key, known()),
            );
        }
        Some(Fields { entries, table, span: node.span })
    }

    /// The value of a key that must be there.
    pub(super) fn required<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Option<&'n Node> {
        let node = fields.get(key);
        if node.is_none() {
            self.problem(Diagnostic::new(format!("{} needs `{key}`", fields.table.what), fields.span));
        }
        node
    }

    /// The value of a key, read by `read` where the key is there.
    pub(super) fn optional<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        fields.get(key).and_then(|node| read(self, node))
    }

    /// A scalar's text, as written.
    pub(super) fn text(&mut self, node: &Node) -> Option<String> {
        match &node.value {
            Value::Scalar { text, .. } => Some(text.clone()),
            Value::Null => {
                self.problem(
                    Diagnostic::new("expected text, found nothing", node.span)
                        .help("write `\"\"` for an empty text"),
                );
                None
            }
            _ => {
                self.expected("text", node);
                None
            }
        }
    }

    /// A text that is not empty and takes no `${…}`.
    pub(super) fn literal(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node)?;
        if text.trim().is_empty() {
            self.problem(Diagnostic::new("this must not be empty", node.span));
            return None;
        }
        Some(text)
    }

    /// A text in which `${…}` is resolved.
    pub(super) fn template(&mut self, node: &Node) -> Option<Template> {
        let text = self.text(node)?;
        match Template::parse(&text, node.span) {
            Ok(template) => Some(template),
            Err(problem) => {
                self.problem(problem);
                None
            }
        }
    }

    /// The name of something.
    pub(super) fn name(&mut self, node: &Node) -> Option<Name> {
        let value = self.literal(node)?;
        Some(Spanned { value, span: node.span })
    }

    /// `true` or `false`, unquoted.
    pub(super) fn boolean(&mut self, node: &Node) -> Option<bool> {
        match &node.value {
            Value::Scalar { text, plain: true } if text == "true" => Some(true),
            Value::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => {
                self.expected("`true` or `false`", node);
                None
            }
        }
    }

    /// One of a closed set of words.
    pub(super) fn choice<T: Copy>(&mut self, node: &Node, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words = || choices.iter().map(|(word, _)| *word);
            self.problem(
                Diagnostic::new(format!("`{text}` is not one of {}", listed(words())), node.span)
                    .suggest(&text, words()),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// A list; items that cannot be read are left out.
    pub(super) fn list<T>(
        &mut self,
        node: &Node,
        what: &str,
        mut read: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Vec<T> {
        let Value::List(items) = &node.value else {
            self.expected(&format!("a list of {what}"), node);
            return Vec::new();
        };
        items.iter().filter_map(|item| read(self, item)).collect()
    }

    fn one_or_more<T>(
        &mut self,
        node: &Node,
        what: &str,
        mut read: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        match &node.value {
            Value::Scalar { .. } => read(self, node).map(|one| vec![one]),
            Value::List(items) if !items.is_empty() => Some(self.list(node, what, read)),
            _ => {
                self.expected(&format!("{what}, or a list of them"), node);
                None
            }
        }
    }

    /// A name or a list of names.
    pub(super) fn one_or_more_names(&mut self, node: &Node) -> Option<Vec<Name>> {
        self.one_or_more(node, "a name", Self::name)
    }

    /// A text or a list of texts.
    pub(super) fn one_or_more_templates(&mut self, node: &Node) -> Option<Vec<Template>> {
        self.one_or_more(node, "text", Self::template)
    }

    /// A mapping from names that the file itself uses to values. As in every table of the language, `x-` keys are ignored.
    pub(super) fn defined<T>(
        &mut self,
        node: Option<&Node>,
        what: &str,
        read: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> IndexMap<String, T> {
        self.entries(node, what, |key| !is_ignored(key), read)
    }

    /// A mapping from names that mean something outside (headers, labels, containers), where `x-` is nothing special.
    pub(super) fn named<T>(
        &mut self,
        node: Option<&Node>,
        what: &str,
        read: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> IndexMap<String, T> {
        self.entries(node, what, |_| true, read)
    }

    fn entries<T>(
        &mut self,
        node: Option<&Node>,
        what: &str,
        wanted: impl Fn(&str) -> bool,
        mut read: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> IndexMap<String, T> {
        match node.map(|node| (&node.value, node)) {
            None | Some((Value::Null, _)) => IndexMap::new(),
            Some((Value::Map(entries), _)) => entries
                .iter()
                .filter(|entry| wanted(&entry.key))
                .filter_map(|entry| Some((entry.key.clone(), read(self, &entry.node)?)))
                .collect(),
            Some((_, node)) => {
                self.expected(&format!("a mapping from names to {what}"), node);
                IndexMap::new()
            }
        }
    }

    /// A mapping from names that mean something outside to texts.
    pub(super) fn text_map(&mut self, node: Option<&Node>) -> IndexMap<String, Template> {
        self.named(node, "texts", Self::template)
    }
}
