//! Decodes the basic kinds of values: mappings with known keys, lists, strings, choices.

use crate::duration;
use crate::language::diagnostic::{Diagnostic, MAX_PROBLEMS};
use crate::language::glob::Glob;
use crate::language::keys::{Table, alias};
use crate::language::pipeline::exposure::Exposure;
use crate::language::pipeline::model::{Name, StepId, Use, Zone};
use crate::language::pipeline::starter;
use crate::language::pipeline::template::{Template, is_variable_name};
use crate::language::source::{Span, Spanned};
use crate::language::tree::{Entry, Node, Value};
use crate::text::{either, listed};
use indexmap::IndexMap;
use std::collections::HashMap;
use std::time::Duration;

/// The state of decoding: mistakes and references found in the values.
pub(crate) struct Decoder<'p> {
    pub(crate) problems: &'p mut Vec<Diagnostic>,
    /// The text of the file.
    pub(crate) text: &'p str,
    /// The uses of keys that this version does not support.
    pub(crate) unready: Vec<Diagnostic>,
    pub(crate) uses: Vec<Use>,
    /// The part of the file that is being decoded.
    pub(crate) zone: Zone,
    /// Where others can read the values that are being decoded.
    exposure: Option<Exposure>,
    /// The number of steps that have been decoded.
    pub(crate) steps: usize,
    /// A step, or a part of it that other steps depend on, could not be decoded.
    pub(crate) lost_steps: bool,
}

/// A mapping with checked keys.
pub(crate) struct Fields<'n> {
    entries: &'n [Entry],
    table: &'static Table,
    /// The place for messages about all of the mapping.
    pub(crate) at: Span,
    /// For each unknown key the known one that was probably meant.
    unknown: Vec<Option<&'static str>>,
}

impl<'n> Fields<'n> {
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// Whether an unknown key was probably meant as one of these. Then their absence is not a second mistake.
    pub(crate) fn is_misspelt(&self, keys: &[&str]) -> bool {
        self.unknown.iter().flatten().any(|meant| keys.contains(meant))
    }

    pub(crate) fn has_unknown(&self) -> bool {
        !self.unknown.is_empty()
    }

    /// The key with its value.
    pub(crate) fn entry(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// Keys that begin with `x-` belong to the user.
pub(crate) fn is_ignored(key: &str) -> bool {
    key.starts_with("x-")
}

impl<'p> Decoder<'p> {
    pub(crate) fn new(text: &'p str, problems: &'p mut Vec<Diagnostic>) -> Self {
        Self {
            problems,
            text,
            unready: Vec::new(),
            uses: Vec::new(),
            zone: Zone::Start,
            exposure: None,
            steps: 0,
            lost_steps: false,
        }
    }

    pub(crate) fn problem(&mut self, problem: Diagnostic) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// Reports a part of the language that this version does not support.
    pub(crate) fn not_yet(&mut self, what: &str, span: Span) {
        let message =
            format!("{what} is part of the language, but this version of runner does not support it yet");
        let help = format!("remove it, or use a runner newer than {}", env!("CARGO_PKG_VERSION"));
        self.unready.push(Diagnostic::new(message, span).help(help));
    }

    /// Decodes a part of the file with its own [`Zone`].
    pub(crate) fn within<T>(&mut self, zone: Zone, read: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.zone, zone);
        let value = read(self);
        self.zone = outer;
        value
    }

    /// Decodes fields whose values others can read.
    pub(crate) fn exposed<T>(&mut self, exposure: Exposure, read: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.exposure.replace(exposure);
        let value = read(self);
        self.exposure = outer;
        value
    }

    /// The id of the next step.
    pub(crate) fn next_step(&mut self) -> StepId {
        self.steps += 1;
        StepId(self.steps - 1)
    }

    fn expected(&mut self, expected: &str, node: &Node) {
        let message = format!("expected {expected}, found {}", node.kind());
        self.problem(Diagnostic::new(message, node.place()));
    }

    /// A mapping with the table's keys. Unknown keys are errors.
    pub(crate) fn fields<'n>(&mut self, node: &'n Node, table: &'static Table) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else {
            self.problem(
                Diagnostic::new(
                    format!("{} is a mapping, but this is {}", table.what, node.kind()),
                    node.place(),
                )
                .help(format!("its keys are {}", listed(table.names()))),
            );
            return None;
        };
        let mut unknown = Vec::new();
        for entry in entries.iter().filter(|entry| !is_ignored(&entry.key)) {
            let written = entry.key.as_str();
            match table.key(written) {
                Some(key) if key.ready => {}
                Some(_) => self.not_yet(&format!("`{written}`"), entry.key_span),
                None => {
                    let meant = table.meant(written);
                    let help = meant.map_or_else(
                        || format!("known keys: {}", listed(table.names())),
                        |key| format!("did you mean `{key}`?"),
                    );
                    let message = format!("unknown key `{written}` in {}", table.what);
                    self.problem(Diagnostic::new(message, entry.key_span).help(help));
                    unknown.push(meant);
                }
            }
        }
        Some(Fields { entries, table, at: node.at, unknown })
    }

    /// The value of a required key.
    pub(crate) fn required<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Option<&'n Node> {
        let node = fields.get(key);
        if node.is_none() && !fields.is_misspelt(&[key]) {
            let mut problem = Diagnostic::new(format!("{} needs `{key}`", fields.table.what), fields.at);
            if let Some(example) = fields.table.key(key).and_then(|key| key.example) {
                problem = problem.help(format!("for example `{key}: {example}`"));
            }
            self.problem(problem);
        }
        node
    }

    /// The only key of a group that is present. None and several are errors.
    pub(crate) fn exactly_one<'n>(&mut self, fields: &Fields<'n>, keys: &[&str]) -> Option<&'n Entry> {
        let mut found = keys.iter().filter_map(|key| fields.entry(key));
        match (found.next(), found.next()) {
            (Some(one), None) => return Some(one),
            (None, _) if fields.is_misspelt(keys) => {}
            (None, _) => {
                let message = format!("{} needs {}", fields.table.what, either(keys.iter().copied()));
                self.problem(Diagnostic::new(message, fields.at));
            }
            (Some(one), Some(other)) => {
                let (first, second) =
                    if one.key_span.start < other.key_span.start { (one, other) } else { (other, one) };
                self.problem(
                    Diagnostic::new(
                        format!("`{}` and `{}` exclude each other", first.key, second.key),
                        second.key_span,
                    )
                    .related(first.key_span, "the first one")
                    .help("keep one of the two"),
                );
            }
        }
        None
    }

    /// The value of a key, decoded by `read` if the key is present.
    pub(crate) fn optional<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        fields.get(key).and_then(|node| read(self, node))
    }

    /// Whether a key is present and `true`.
    pub(crate) fn flag(&mut self, fields: &Fields<'_>, key: &str) -> bool {
        self.optional(fields, key, Self::boolean).unwrap_or_default()
    }

    /// A scalar's text, as written.
    pub(crate) fn text(&mut self, node: &Node) -> Option<String> {
        match &node.value {
            Value::Scalar { text, .. } => Some(text.clone()),
            Value::Null => {
                self.problem(
                    Diagnostic::new("the value is missing", node.span).help("add a value, or remove the key"),
                );
                None
            }
            _ => {
                self.expected("text", node);
                None
            }
        }
    }

    /// A non-empty string. `${…}` is not resolved.
    pub(crate) fn literal(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node)?;
        if text.trim().is_empty() {
            self.problem(Diagnostic::new("this must not be empty", node.span));
            return None;
        }
        Some(text)
    }

    /// A string in which `${…}` is resolved.
    pub(crate) fn template(&mut self, node: &Node) -> Option<Template> {
        let text = self.text(node)?;
        let raw = self.text.get(node.span.start..node.span.end).unwrap_or_default();
        match Template::parse(&text, node.span, raw) {
            Ok(mut template) => {
                template.exposure = self.exposure;
                self.note_uses(&template);
                Some(template)
            }
            Err(problems) => {
                for problem in problems {
                    self.problem(problem);
                }
                None
            }
        }
    }

    /// A non-empty string in which `${…}` is resolved.
    pub(crate) fn named_text(&mut self, node: &Node) -> Option<Template> {
        self.literal(node)?;
        self.template(node)
    }

    /// Notes the references of a template.
    pub(crate) fn note_uses(&mut self, template: &Template) {
        let zone = self.zone;
        self.uses.extend(template.places().map(|(reference, has_default, span)| Use {
            reference: reference.clone(),
            has_default,
            span,
            zone,
            exposure: template.exposure,
        }));
    }

    /// A name.
    pub(crate) fn name(&mut self, node: &Node) -> Option<Name> {
        let value = self.literal(node)?;
        if value.contains("${") {
            self.problem(
                Diagnostic::new("a name cannot contain `${…}`", node.span).help("write the literal name"),
            );
            return None;
        }
        Some(Spanned { value, span: node.span })
    }

    /// The name of an environment variable.
    pub(crate) fn variable(&mut self, node: &Node) -> Option<Name> {
        let name = self.name(node)?;
        if is_variable_name(&name.value) {
            return Some(name);
        }
        self.not_a_variable(&name.value, node.span);
        None
    }

    fn not_a_variable(&mut self, name: &str, span: Span) {
        self.problem(
            Diagnostic::new(format!("`{name}` is not a valid variable name"), span)
                .help("use letters, digits and `_`; the first character is not a digit"),
        );
    }

    /// `true` or `false`, unquoted.
    pub(crate) fn boolean(&mut self, node: &Node) -> Option<bool> {
        match &node.value {
            Value::Scalar { text, plain: true } if text == "true" => Some(true),
            Value::Scalar { text, plain: true } if text == "false" => Some(false),
            Value::Scalar { text, plain } => {
                let quoted = if *plain { format!("`{text}`") } else { format!("the text `\"{text}\"`") };
                let mut problem =
                    Diagnostic::new(format!("expected `true` or `false`, found {quoted}"), node.span);
                problem = match text.to_lowercase().as_str() {
                    "true" | "false" if !plain => problem.help("remove the quotes"),
                    "true" | "yes" | "on" | "1" => problem.help("did you mean `true`?"),
                    "false" | "no" | "off" | "0" => problem.help("did you mean `false`?"),
                    _ => problem,
                };
                self.problem(problem);
                None
            }
            _ => {
                self.expected("`true` or `false`", node);
                None
            }
        }
    }

    /// A whole number of a range.
    pub(crate) fn integer(&mut self, node: &Node, least: u32, most: u32) -> Option<u32> {
        let Value::Scalar { text, .. } = &node.value else {
            self.expected("a number", node);
            return None;
        };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u32>() {
            Ok(number) if digits && (least..=most).contains(&number) => Some(number),
            _ => {
                let message = format!("expected a whole number from {least} to {most}, found `{text}`");
                self.problem(Diagnostic::new(message, node.span));
                None
            }
        }
    }

    /// A duration such as `10m`.
    pub(crate) fn duration(&mut self, node: &Node) -> Option<Duration> {
        let text = self.text(node)?;
        match duration::parse(&text) {
            Ok(duration) => Some(duration),
            Err(reason) => {
                self.problem(
                    Diagnostic::new(reason, node.span).label("expected a duration").help(duration::HELP),
                );
                None
            }
        }
    }

    /// An amount of memory, in bytes.
    pub(crate) fn size(&mut self, node: &Node) -> Option<u64> {
        let text = self.text(node)?;
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "b" => Some(1),
            "k" | "kb" => Some(1 << 10),
            "m" | "mb" => Some(1 << 20),
            "g" | "gb" => Some(1 << 30),
            _ => None,
        };
        let size =
            factor.zip(digits.parse::<u64>().ok()).and_then(|(factor, number)| number.checked_mul(factor));
        // Docker's own minimum.
        if size.is_none_or(|size| size < 6 << 20) {
            self.problem(
                Diagnostic::new(format!("`{text}` is not an amount of memory"), node.span)
                    .help("write a number and a unit, at least `6m`: `512m`, `2g`"),
            );
            return None;
        }
        size
    }

    /// A pattern for branches or tags.
    pub(crate) fn glob(&mut self, node: &Node) -> Option<Spanned<Glob>> {
        let text = self.text(node)?;
        match Glob::parse(&text) {
            Ok(glob) => Some(Spanned::new(glob, node.span)),
            Err((message, help)) => {
                self.problem(Diagnostic::new(message, node.span).help(help));
                None
            }
        }
    }

    /// One of a closed set of words.
    pub(crate) fn choice<T: Copy>(&mut self, node: &Node, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words = || choices.iter().map(|(word, _)| *word);
            let mut problem =
                Diagnostic::new(format!("`{text}` is not one of {}", listed(words())), node.span);
            problem.help = alias(&text, words()).map(|word| format!("did you mean `{word}`?"));
            self.problem(problem.suggest(&text, words()));
        }
        found.map(|(_, value)| *value)
    }

    /// A list without the items that cannot be decoded.
    pub(crate) fn list<T>(
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

    /// One value, or a list of at least one.
    pub(crate) fn one_or_more<T>(
        &mut self,
        node: &Node,
        what: &str,
        mut read: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        match &node.value {
            Value::Scalar { .. } => read(self, node).map(|one| vec![one]),
            Value::List(items) if items.is_empty() => {
                let message = format!("expected {what}, or a list of them, found an empty list");
                self.problem(Diagnostic::new(message, node.span));
                None
            }
            Value::List(_) => Some(self.list(node, what, read)),
            _ => {
                self.expected(&format!("{what}, or a list of them"), node);
                None
            }
        }
    }

    /// A name or a list of different names.
    pub(crate) fn one_or_more_names(&mut self, node: &Node) -> Option<Vec<Name>> {
        let names = self.one_or_more(node, "a name", Self::name)?;
        self.each_once(&names);
        Some(names)
    }

    /// A variable's name or a list of different ones.
    pub(crate) fn one_or_more_variables(&mut self, node: &Node) -> Option<Vec<Name>> {
        let names = self.one_or_more(node, "a name", Self::variable)?;
        self.each_once(&names);
        Some(names)
    }

    fn each_once(&mut self, names: &[Name]) {
        let mut places: HashMap<&str, Span> = HashMap::new();
        for name in names {
            if let Some(first) = places.insert(&name.value, name.span) {
                self.problem(
                    Diagnostic::new(format!("`{}` is listed twice", name.value), name.span)
                        .related(first, "first listed here")
                        .help("keep one of the two"),
                );
            }
        }
    }

    /// A string or a list of strings.
    pub(crate) fn one_or_more_templates(&mut self, node: &Node) -> Option<Vec<Template>> {
        self.one_or_more(node, "text", Self::template)
    }

    /// A mapping from names of the pipeline to values. `x-` keys are ignored, as in every table.
    pub(crate) fn defined<T>(
        &mut self,
        node: Option<&Node>,
        what: &str,
        read: impl FnMut(&mut Self, &Entry) -> Option<T>,
    ) -> IndexMap<String, T> {
        self.entries(node, what, |key| !is_ignored(key), read)
    }

    /// A mapping from names of other systems (headers, labels, containers) to values. `x-` is not special.
    pub(crate) fn named<T>(
        &mut self,
        node: Option<&Node>,
        what: &str,
        read: impl FnMut(&mut Self, &Entry) -> Option<T>,
    ) -> IndexMap<String, T> {
        self.entries(node, what, |_| true, read)
    }

    fn entries<T>(
        &mut self,
        node: Option<&Node>,
        what: &str,
        wanted: impl Fn(&str) -> bool,
        mut read: impl FnMut(&mut Self, &Entry) -> Option<T>,
    ) -> IndexMap<String, T> {
        match node.map(|node| (&node.value, node)) {
            None | Some((Value::Null, _)) => IndexMap::new(),
            Some((Value::Map(entries), _)) => entries
                .iter()
                .filter(|entry| wanted(&entry.key))
                .filter_map(|entry| Some((entry.key.clone(), read(self, entry)?)))
                .collect(),
            Some((_, node)) => {
                self.expected(&format!("a mapping from names to {what}"), node);
                IndexMap::new()
            }
        }
    }

    /// A mapping from names of other systems to strings.
    pub(crate) fn text_map(&mut self, fields: &Fields<'_>, key: &str) -> IndexMap<String, Template> {
        self.named(fields.get(key), "texts", |d, entry| d.template(&entry.node))
    }

    /// A mapping of environment variables.
    pub(crate) fn variables(&mut self, fields: &Fields<'_>, key: &str) -> IndexMap<String, Template> {
        self.defined(fields.get(key), "texts", |d, entry| {
            if !is_variable_name(&entry.key) {
                d.not_a_variable(&entry.key, entry.key_span);
            } else if entry.key.starts_with("RUNNER_") {
                let message = format!("`{}`: names that begin with RUNNER_ are reserved", entry.key);
                let help = if starter::VARIABLES.contains(&entry.key.as_str()) {
                    "set it in the environment of runner, or in --env-file"
                } else {
                    "use another name"
                };
                d.problem(Diagnostic::new(message, entry.key_span).help(help));
            }
            d.template(&entry.node)
        })
    }
}
