//! A language as data: its tables with keys, kinds, defaults and descriptions.
//!
//! The decoder, its suggestions, the schema and the reference are all made from it, so they cannot disagree.

use crate::text::closest;

/// Words of other tools (buildspecs, Compose, other CI systems) with the keys of this language.
const ALIASES: &[(&str, &[&str])] = &[
    ("commands", &["steps", "run", "command"]),
    ("command", &["run"]),
    ("script", &["run", "steps"]),
    ("environment", &["env"]),
    ("working-directory", &["dir", "workdir"]),
    ("working-dir", &["dir", "workdir"]),
    ("workdir", &["dir"]),
    ("cwd", &["dir"]),
    ("build-args", &["args"]),
    ("buildargs", &["args"]),
    ("needs", &["depends-on"]),
    ("vars", &["variables"]),
    ("if", &["when", "only"]),
    ("retries", &["retry"]),
    ("deployment-group", &["group"]),
    ("healthcheck", &["ready"]),
    ("notifications", &["notify"]),
    ("success", &["succeeded"]),
    ("failure", &["failed"]),
    ("failed", &["failure"]),
    ("role", &["role-arn"]),
];

/// Maps a term from another tool to one of these names.
pub(crate) fn alias<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase().replace('_', "-");
    let names: Vec<&str> = names.collect();
    // The word may be misspelt.
    let known = closest(&written, ALIASES.iter().map(|(word, _)| *word))?;
    let (_, here) = ALIASES.iter().find(|(word, _)| *word == known)?;
    here.iter().find_map(|name| names.iter().find(|known| *known == name).copied())
}

/// A mapping with known keys.
#[derive(Debug)]
pub(crate) struct Table {
    /// Its name in the schema.
    pub(crate) name: &'static str,
    /// Its name in messages, with an article.
    pub(crate) what: &'static str,
    /// Its heading in the reference.
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) keys: &'static [Key],
    /// Groups of keys. Exactly one key of each must be present.
    pub(crate) one_of: &'static [&'static [&'static str]],
}

/// A key of a [`Table`].
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// The kind of its value.
    pub(crate) kind: KeyKind,
    pub(crate) required: bool,
    /// The default, as YAML.
    pub(crate) default: Option<&'static str>,
    pub(crate) about: &'static str,
    /// An example, as YAML.
    pub(crate) example: Option<&'static str>,
    /// This version of runner supports it. `run` refuses keys that are not supported.
    pub(crate) ready: bool,
}

/// The kind of a value.
#[derive(Debug)]
pub(crate) enum KeyKind {
    /// Text in which `${…}` is resolved. Numbers and booleans are text as written.
    Text,
    /// Text in which `${…}` is not resolved.
    Plain,
    /// The number 1: the version of the language.
    Version,
    Boolean,
    /// A whole number of this range.
    Integer(u32, u32),
    Duration,
    /// An amount of memory: `512m`, `2g`.
    Size,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The name of an image of the pipeline.
    Image,
    /// The name of a variable under `env`.
    Variable,
    /// A pattern for branches or tags.
    Glob,
    Table(&'static Table),
    List(&'static KeyKind),
    /// One value, or a list of them.
    OneOrMore(&'static KeyKind),
    /// A mapping from names to values. The word is the placeholder of a name.
    Map(&'static str, &'static KeyKind),
    Either(&'static [KeyKind]),
    /// A JSON document of another system.
    Document,
}

impl Table {
    pub(crate) fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The key that is meant by a misspelt key or by a key of another tool.
    pub(crate) fn meant(&self, written: &str) -> Option<&'static str> {
        closest(written, self.names()).or_else(|| alias(written, self.names()))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }
}

impl Key {
    pub(crate) const fn new(name: &'static str, kind: KeyKind, about: &'static str) -> Self {
        Self { name, kind, required: false, default: None, about, example: None, ready: true }
    }

    pub(crate) const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub(crate) const fn default(mut self, yaml: &'static str) -> Self {
        self.default = Some(yaml);
        self
    }

    pub(crate) const fn example(mut self, yaml: &'static str) -> Self {
        self.example = Some(yaml);
        self
    }

    /// Marks it as not supported yet.
    pub(crate) const fn later(mut self) -> Self {
        self.ready = false;
        self
    }
}
