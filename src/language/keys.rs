//! The language as data: every table, its keys, their kinds, defaults and descriptions.
//!
//! One source serves the decoder and its suggestions, `runner schema` ([`schema`]) and the reference in `docs/`
//! ([`mod@reference`]), so that they cannot disagree.

use crate::text::closest;

/// Words of other tools (buildspecs, Compose, other CI systems) and what they may be called here.
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

/// What a word of another tool is called here, where it is one of these names.
pub(crate) fn alias<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase().replace('_', "-");
    let names: Vec<&str> = names.collect();
    // The habit may be misspelt too.
    let known = closest(&written, ALIASES.iter().map(|(word, _)| *word))?;
    let (_, here) = ALIASES.iter().find(|(word, _)| *word == known)?;
    here.iter().find_map(|name| names.iter().find(|known| *known == name).copied())
}

/// One kind of mapping.
#[derive(Debug)]
pub(crate) struct Table {
    /// Its name in the schema.
    pub(crate) name: &'static str,
    /// What it is, with its article, for messages.
    pub(crate) what: &'static str,
    /// Its heading in the reference.
    pub(crate) title: &'static str,
    /// What it is for.
    pub(crate) about: &'static str,
    pub(crate) keys: &'static [Key],
    /// Groups of keys of which exactly one must be there.
    pub(crate) one_of: &'static [&'static [&'static str]],
}

/// A key of a [`Table`].
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// What may stand under it.
    pub(crate) kind: Kind,
    /// It must be there.
    pub(crate) required: bool,
    /// What holds where it is absent, as YAML.
    pub(crate) default: Option<&'static str>,
    pub(crate) about: &'static str,
    /// A value, as YAML.
    pub(crate) example: Option<&'static str>,
    /// This version of runner carries it out. What it does not is refused by `run`.
    pub(crate) ready: bool,
}

/// What may stand under a key.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Text in which `${…}` is resolved. Numbers and booleans are taken as they are written.
    Text,
    /// Text that is taken as it is.
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
    /// A mapping with these keys.
    Table(&'static Table),
    List(&'static Kind),
    /// One value, or a list of them.
    OneOrMore(&'static Kind),
    /// A mapping from names, which this word stands for, to values.
    Map(&'static str, &'static Kind),
    Either(&'static [Kind]),
    /// A JSON document of another system, taken as it is.
    Document,
}

impl Table {
    /// The key of that name.
    pub(crate) fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The key that a typing mistake, or the habit of another tool, could have meant.
    pub(crate) fn meant(&self, written: &str) -> Option<&'static str> {
        closest(written, self.names()).or_else(|| alias(written, self.names()))
    }

    /// The names of its keys.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }
}

impl Key {
    pub(crate) const fn new(name: &'static str, kind: Kind, about: &'static str) -> Self {
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

    /// No executor carries it out yet.
    pub(crate) const fn later(mut self) -> Self {
        self.ready = false;
        self
    }
}
