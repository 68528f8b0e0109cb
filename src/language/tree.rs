//! A YAML document as a tree in which every key and scalar has a span.
//!
//! `saphyr-parser` parses events. This module adds spans as byte offsets, resolves aliases and merge keys within a budget,
//! and refuses duplicate keys.

use super::diagnostic::Diagnostic;
use super::source::{SourceFile, Span};
use crate::document::{Surrogates, lone_half};
use saphyr_parser::{Event, Parser, ScalarStyle, Span as Marks, Tag};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// The limit of nesting. It keeps hostile input from exhausting the stack.
const MAX_DEPTH: usize = 64;
/// The limit of values, aliases resolved. A file of [`super::MAX_BYTES`] needs fewer.
const MAX_NODES: usize = 200_000;
/// Longer text than this, in bytes, counts as several values.
const BYTES_PER_NODE: usize = 64;

/// One value of the document.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// Its place; for an alias, the place of the anchored text.
    pub(crate) span: Span,
    /// The place for messages about all of it: its key in a mapping, its own place otherwise.
    pub(crate) at: Span,
}

/// The value of a node.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Empty, `~` or `null`.
    Null,
    /// Any other scalar. Its text stays as written: `3.10` is not `3.1`.
    Scalar {
        /// The text, with quotes and escapes resolved.
        text: String,
        /// Written without quotes, so `true` and `3` can be a boolean and a number.
        plain: bool,
    },
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<Entry>),
}

/// A key of a mapping with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) node: Node,
}

impl Node {
    fn new(value: Value, span: Span) -> Self {
        Self { value, span, at: span }
    }

    /// The place for a caret: a scalar, the opening bracket of a list or mapping, or the key of one without brackets.
    pub(crate) fn place(&self) -> Span {
        if self.span.start < self.span.end { self.span } else { self.at }
    }

    /// The kind of value with its article, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::size).sum(),
            Value::Map(entries) => {
                entries.iter().map(|entry| entry.key.len() / BYTES_PER_NODE + entry.node.size()).sum()
            }
            Value::Scalar { text, .. } => text.len() / BYTES_PER_NODE,
            Value::Null => 0,
        }
    }
}

/// Parses the document of a file. A syntax error ends the parsing; duplicate keys are collected in `problems`.
pub(crate) fn parse(source: &SourceFile, problems: &mut Vec<Diagnostic>) -> Result<Node, Diagnostic> {
    let surrogates = Surrogates::replace(&source.text);
    let mut reader = Reader {
        parser: Parser::new_from_str(surrogates.text()),
        surrogates: &surrogates,
        offsets: Offsets::new(&source.text),
        text: &source.text,
        anchors: HashMap::new(),
        nodes: 0,
        problems,
    };
    reader.document()
}

struct Reader<'s, 'p> {
    parser: Parser<'s, saphyr_parser::StrInput<'s>>,
    surrogates: &'s Surrogates<'s>,
    offsets: Offsets,
    text: &'s str,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    problems: &'p mut Vec<Diagnostic>,
}

impl<'s> Reader<'s, '_> {
    fn next(&mut self) -> Result<(Event<'s>, Span), Diagnostic> {
        match self.parser.next_event() {
            Some(Ok((event, marks))) => Ok((event, self.span(marks))),
            Some(Err(error)) => {
                let at = self.offsets.byte(error.marker().index());
                Err(syntax_error(self.text, at, error.info()))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn span(&self, marks: Marks) -> Span {
        Span { start: self.offsets.byte(marks.start.index()), end: self.offsets.byte(marks.end.index()) }
    }

    fn document(&mut self) -> Result<Node, Diagnostic> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(Diagnostic::new("a second YAML document begins here", span)
                        .help("a pipeline file contains one document; move this one to another file"));
                }
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        Ok(root.unwrap_or(Node::new(Value::Null, Span::default())))
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Diagnostic> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(Diagnostic::new("the file is too large once its aliases are resolved", span)
                .help(format!("the limit is {MAX_NODES} values")));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'s>, span: Span, depth: usize) -> Result<Node, Diagnostic> {
        if depth > MAX_DEPTH {
            return Err(Diagnostic::new("the file is nested too deeply", span)
                .help(format!("the limit is {MAX_DEPTH} levels")));
        }
        self.count(1, span)?;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(tag.as_ref(), "str", span)?;
                if text.contains('\0') {
                    return Err(Diagnostic::new("this has a NUL character", span)
                        .help("no argument, variable or path can have one; remove it"));
                }
                (self.scalar(&self.surrogates.restore(&text), style, span), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_ref(), "seq", span)?;
                (self.list(self.opening(span), depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_ref(), "map", span)?;
                (self.map(self.opening(span), depth)?, anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(Diagnostic::new("this alias refers to itself", span));
                };
                self.count(node.size(), span)?;
                (node, 0)
            }
            _ => return Err(Diagnostic::new("this is not valid YAML", span)),
        };
        if anchor > 0 {
            // The anchor keeps a copy.
            self.count(node.size(), span)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// The opening bracket of a list or mapping; empty if it has none.
    fn opening(&self, span: Span) -> Span {
        let has_bracket = matches!(self.text.as_bytes().get(span.start), Some(b'[' | b'{'));
        Span { start: span.start, end: span.start + usize::from(has_bracket) }
    }

    fn scalar(&self, text: &str, style: ScalarStyle, span: Span) -> Node {
        let plain = style == ScalarStyle::Plain;
        let mut span = span;
        if plain {
            // The parser's end of a plain scalar may include trailing spaces.
            let written = self.text.get(span.start..span.end).unwrap_or_default();
            span.end = span.start + written.trim_end().len();
        }
        let value = if plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
            Value::Null
        } else {
            Value::Scalar { text: text.to_owned(), plain }
        };
        Node::new(value, span)
    }

    fn list(&mut self, span: Span, depth: usize) -> Result<Node, Diagnostic> {
        let mut items = Vec::new();
        loop {
            let (event, item_span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                let value = Value::List(items);
                return Ok(Node::new(value, span));
            }
            let mut item = self.node(event, item_span, depth + 1)?;
            if let Value::Map(entries) = &item.value
                && let Some(first) = entries.first()
            {
                item.at = first.key_span;
            }
            items.push(item);
        }
    }

    fn map(&mut self, span: Span, depth: usize) -> Result<Node, Diagnostic> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut places: HashMap<String, Span> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, key_span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key_node = self.node(event, key_span, depth + 1)?;
            let key_span = key_node.span;
            let key = match key_node.value {
                Value::Scalar { text, .. } => text,
                Value::Null => "null".to_owned(),
                _ => return Err(Diagnostic::new("a key must be text", key_span)),
            };
            let (event, value_span) = self.next()?;
            let mut node = self.node(event, value_span, depth + 1)?;
            if matches!(node.value, Value::Null) && node.span.start >= node.span.end {
                // An absent value has no place, so errors about it point to the key.
                node.span = key_span;
            }
            node.at = key_span;
            if key == "<<" {
                merged.push((node, key_span));
            } else if let Some(first) = places.insert(key.clone(), key_span) {
                self.problems.push(
                    Diagnostic::new(format!("duplicate key `{key}`"), key_span)
                        .label("given again")
                        .related(first, "given here first")
                        .help("keep one of the two"),
                );
                places.insert(key, first);
            } else {
                entries.push(Entry { key, key_span, node });
            }
        }
        let mut known: HashSet<String> = places.into_keys().collect();
        for (node, key_span) in merged {
            merge(&mut entries, &mut known, node, key_span)?;
        }
        let value = Value::Map(entries);
        Ok(Node::new(value, span))
    }
}

/// The parser's error with a help, because its own words assume knowledge of YAML scanners.
fn syntax_error(text: &str, at: usize, info: &str) -> Diagnostic {
    let span = Span { start: at, end: at + 1 };
    if info.contains("recursion limit") {
        return Diagnostic::new("the file is nested too deeply", span)
            .help(format!("the limit is {MAX_DEPTH} levels"));
    }
    if info.contains("invalid Unicode character escape")
        && let Some(half) = lone_half(text, at)
    {
        let span = Span { start: half, end: half + 6 };
        let written = &text[span.start..span.end];
        return Diagnostic::new(format!("`{written}` is only half of a character"), span)
            .help("write both escapes, as in `\\ud83d\\ude00`, or the character itself");
    }
    if let Some(tab) = indenting_tab(text, at) {
        return Diagnostic::new(
            "this is not valid YAML: a tab indents the line",
            Span { start: tab, end: tab + 1 },
        )
        .help("indent with spaces");
    }
    let help = if info.contains("mapping values are not allowed") || info.contains("illegal placement of ':'")
    {
        "`: ` in a text without quotes begins a mapping: quote the text, or write a script as a block after `run: |`"
    } else if info.contains("quoted scalar") || info.contains("end of stream") {
        "check that every quote, `[` and `{` here and above is closed"
    } else if info.contains("unexpected character") || info.contains("cannot start any token") {
        "quote the text: its first character has a meaning in YAML"
    } else if info.contains("anchor") {
        "an alias `*name` needs an anchor `&name` before it"
    } else {
        "check the indentation, missing spaces after `-` and `:`, quotes and brackets, here and in the line above"
    };
    Diagnostic::new("this is not valid YAML", span).label(info).help(help)
}

/// A tab in the indentation of the line of an error or of the next line.
fn indenting_tab(text: &str, at: usize) -> Option<usize> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let next = text[start..].find('\n').map(|end| start + end + 1);
    [Some(start), next].into_iter().flatten().find_map(|line| {
        let rest = &text[line..];
        let indent = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        rest[..indent].find('\t').map(|tab| line + tab)
    })
}

/// Adds the entries of a `<<` value (a mapping, or a list of mappings) that the mapping lacks.
fn merge(
    entries: &mut Vec<Entry>,
    known: &mut HashSet<String>,
    node: Node,
    key_span: Span,
) -> Result<(), Diagnostic> {
    match node.value {
        Value::Map(others) => {
            for other in others {
                if known.insert(other.key.clone()) {
                    entries.push(other);
                }
            }
            Ok(())
        }
        Value::List(items) => items.into_iter().try_for_each(|item| merge(entries, known, item, key_span)),
        _ => Err(Diagnostic::new("`<<` needs an alias of a mapping", key_span)),
    }
}

/// Refuses tags, which would change the meaning of a value, but for the one that says what the node is anyway.
fn check_tag(tag: Option<&Cow<'_, Tag>>, own: &str, span: Span) -> Result<(), Diagnostic> {
    let Some(tag) = tag.filter(|tag| !(tag.is_yaml_core_schema() && tag.suffix == own)) else {
        return Ok(());
    };
    let handle = if tag.is_yaml_core_schema() { "!!" } else { &tag.handle };
    Err(Diagnostic::new(format!("the tag `{handle}{}` has no meaning here", tag.suffix), span)
        .help("a pipeline file is plain YAML; remove the tag"))
}

/// Converts offsets: the parser counts characters, spans count bytes.
struct Offsets {
    /// Empty for ASCII text, because both counts are the same.
    bytes: Vec<usize>,
    length: usize,
}

impl Offsets {
    fn new(text: &str) -> Self {
        let bytes =
            if text.is_ascii() { Vec::new() } else { text.char_indices().map(|(at, _)| at).collect() };
        Self { bytes, length: text.len() }
    }

    fn byte(&self, character: usize) -> usize {
        if self.bytes.is_empty() {
            character.min(self.length)
        } else {
            self.bytes.get(character).copied().unwrap_or(self.length)
        }
    }
}
