//! `${…}` in fields: parsed with the file, resolved with a [`Scope`] when the values are known.

use super::exposure::Exposure;
use crate::language::diagnostic::Diagnostic;
use crate::language::source::Span;
use crate::secret::MaybeSecret;
use crate::text::{closest, listed};
use serde::{Serialize, Serializer};
use std::fmt;

/// A string with references `${…}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
    /// The place of its scalar.
    pub(crate) span: Span,
    /// Where others can read its value, if they can.
    pub(crate) exposure: Option<Exposure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value { reference: Reference, default: Option<String>, span: Span },
}

/// The name in a `${…}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// `${NAME}`: an environment variable.
    Env(String),
    /// `${a.b}`: a value that runner provides.
    Builtin(Builtin),
}

/// The values that runner provides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Builtin {
    /// The full commit id.
    SourceCommit,
    /// The first seven digits of the commit id.
    SourceCommitShort,
    SourceBranch,
    /// The branch as a valid tag and host name.
    SourceBranchSlug,
    /// The git tag that is being built.
    SourceTag,
    /// CodeBuild's build id, or a generated one.
    BuildId,
    BuildNumber,
    /// The page of the build in the console.
    BuildUrl,
    /// The AWS region in use.
    AwsRegion,
    /// The AWS account in use.
    AwsAccount,
    /// `repository@sha256:…` of a pushed image.
    ImageUri(String),
    /// `sha256:…` of a pushed image.
    ImageDigest(String),
}

impl Builtin {
    /// Whether it differs between commits or builds.
    pub(crate) fn is_of_one_build(&self) -> bool {
        matches!(
            self,
            Self::SourceCommit
                | Self::SourceCommitShort
                | Self::SourceTag
                | Self::BuildId
                | Self::BuildNumber
                | Self::BuildUrl
        )
    }
}

const FIXED: [(&str, Builtin); 10] = [
    ("source.commit", Builtin::SourceCommit),
    ("source.commit.short", Builtin::SourceCommitShort),
    ("source.branch", Builtin::SourceBranch),
    ("source.branch.slug", Builtin::SourceBranchSlug),
    ("source.tag", Builtin::SourceTag),
    ("build.id", Builtin::BuildId),
    ("build.number", Builtin::BuildNumber),
    ("build.url", Builtin::BuildUrl),
    ("aws.region", Builtin::AwsRegion),
    ("aws.account", Builtin::AwsAccount),
];

impl Builtin {
    fn parse(path: &str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("image.") {
            let (name, field) = rest.rsplit_once('.')?;
            return match field {
                "uri" => Some(Self::ImageUri(name.to_owned())),
                "digest" => Some(Self::ImageDigest(name.to_owned())),
                _ => None,
            };
        }
        FIXED.into_iter().find(|(name, _)| *name == path).map(|(_, builtin)| builtin)
    }
}

impl fmt::Display for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ImageUri(name) => write!(f, "image.{name}.uri"),
            Self::ImageDigest(name) => write!(f, "image.{name}.digest"),
            other => {
                let name = FIXED.iter().find(|(_, builtin)| builtin == other);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => f.write_str(name),
            Self::Builtin(builtin) => builtin.fmt(f),
        }
    }
}

/// The source of values when a template is resolved.
pub(crate) trait Scope {
    fn value(&self, reference: &Reference) -> Option<MaybeSecret>;
}

/// A reference that cannot be replaced by its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unresolved {
    pub(crate) reference: Reference,
    pub(crate) span: Span,
    pub(crate) reason: Reason,
}

/// Why a reference cannot be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It has no value.
    Undefined,
    /// The text exceeds [`MAX_VALUE`] with its value.
    TooLong,
    /// Its value is a secret, which the field refuses.
    Secret(Exposure),
}

/// The size limit of a resolved text, in bytes. An environment variable cannot be longer (Linux, `MAX_ARG_STRLEN`).
pub(crate) const MAX_VALUE: usize = 128 * 1024;

impl Template {
    /// Parses the text of a scalar. `raw` is the source at `span`: in a scalar of several lines it gives every `${…}`
    /// its own place. Returns all mistakes.
    pub(crate) fn parse(text: &str, span: Span, raw: &str) -> Result<Self, Vec<Diagnostic>> {
        let mut parts = Vec::new();
        let mut problems = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        // The search for places continues here.
        let mut cursor = 0;
        let is_long = raw.contains('\n');
        let mut place = |written: &str| match raw.get(cursor..).and_then(|rest| rest.find(written)) {
            Some(at) if is_long => {
                let start = span.start + cursor + at;
                cursor += at + written.len();
                Span { start, end: start + written.len() }
            }
            // In one line the place of the scalar is enough.
            _ => span,
        };
        while let Some(at) = rest.find('$') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                literal.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let Some(end) = after.find('}') else {
                    problems.push(
                        Diagnostic::new("this `${` is not closed", place("${"))
                            .help("close it with `}`, or write `$$` for a dollar sign"),
                    );
                    // No later one can be closed either.
                    break;
                };
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                let inner = &after[..end];
                match reference(inner, place(&format!("${{{inner}}}"))) {
                    Ok(part) => parts.push(part),
                    Err(problem) => problems.push(problem),
                }
                rest = &after[end + 1..];
            } else {
                literal.push('$');
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() || parts.is_empty() {
            parts.push(Part::Text(literal));
        }
        if problems.is_empty() { Ok(Self { parts, span, exposure: None }) } else { Err(problems) }
    }

    /// A template without references.
    pub(crate) fn literal(text: impl Into<String>) -> Self {
        Self { parts: vec![Part::Text(text.into())], span: Span::default(), exposure: None }
    }

    /// Replaces every reference by its value or its default. The result is a secret if one of the values is.
    pub(crate) fn resolve(&self, scope: &dyn Scope) -> Result<MaybeSecret, Unresolved> {
        let (mut text, mut is_secret) = (String::new(), false);
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Value { reference, default, span } => {
                    let failed = |reason| Unresolved { reference: reference.clone(), span: *span, reason };
                    let value = or_default(scope.value(reference), default.as_deref())
                        .ok_or_else(|| failed(Reason::Undefined))?;
                    if let Some(exposure) = self.exposure.filter(|exposure| exposure.refuses())
                        && value.is_secret()
                    {
                        return Err(failed(Reason::Secret(exposure)));
                    }
                    is_secret |= value.is_secret();
                    text.push_str(value.expose());
                    if text.len() > MAX_VALUE {
                        return Err(failed(Reason::TooLong));
                    }
                }
            }
        }
        Ok(MaybeSecret::new(text, is_secret))
    }

    /// The text as a file writes it, with `$$` for every dollar sign.
    pub(crate) fn written(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(&literal.replace('$', "$$")),
                Part::Value { reference, default: None, .. } => text.push_str(&format!("${{{reference}}}")),
                Part::Value { reference, default: Some(default), .. } => {
                    text.push_str(&format!("${{{reference}:-{}}}", default.replace('$', "$$")));
                }
            }
        }
        text
    }

    /// The text with `x` for every reference, for checks before the values are known.
    pub(crate) fn shape(&self) -> String {
        self.render(str::to_owned, |_, _| "x".to_owned())
    }

    /// Joins the results of `literal` for each text and of `value` for each reference with its default.
    pub(crate) fn render(
        &self,
        mut literal: impl FnMut(&str) -> String,
        mut value: impl FnMut(&Reference, Option<&str>) -> String,
    ) -> String {
        let mut text = String::new();
        for part in &self.parts {
            let part = match part {
                Part::Text(part) => literal(part),
                Part::Value { reference, default, .. } => value(reference, default.as_deref()),
            };
            text.push_str(&part);
            if text.len() > MAX_VALUE {
                // A string that is only shown may be cut.
                break;
            }
        }
        text
    }

    /// The text if it has no references.
    pub(crate) fn as_literal(&self) -> Option<String> {
        self.references().next().is_none().then(|| self.shape())
    }

    /// Whether the text begins with a reference, so its prefix is unknown.
    pub(crate) fn begins_with_reference(&self) -> bool {
        matches!(self.parts.first(), Some(Part::Value { .. }))
    }

    pub(crate) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.places().map(|(reference, _, _)| reference)
    }

    /// The references, each with whether it has a default and with its place.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&Reference, bool, Span)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Value { reference, default, span } => Some((reference, default.is_some(), *span)),
        })
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written())
    }
}

/// As in a shell, the default of `:-` replaces an undefined and an empty value.
pub(crate) fn or_default(value: Option<MaybeSecret>, default: Option<&str>) -> Option<MaybeSecret> {
    match default {
        Some(default) => value
            .filter(|value| !value.expose().is_empty())
            .or_else(|| Some(MaybeSecret::Plain(default.to_owned()))),
        None => value,
    }
}

fn reference(inner: &str, span: Span) -> Result<Part, Diagnostic> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default.replace("$$", "$"))),
        None => (inner, None),
    };
    if default.as_ref().is_some_and(|default| default.contains("${")) {
        return Err(Diagnostic::new("a default cannot contain `${…}`", span)
            .help("define the variable under `env.variables`, where it can refer to others"));
    }
    let reference = if is_variable_name(name) {
        Reference::Env(name.to_owned())
    } else if name.contains('.') {
        match Builtin::parse(name) {
            Some(builtin) => Reference::Builtin(builtin),
            None => return Err(unknown_builtin(name, span)),
        }
    } else {
        return Err(Diagnostic::new(format!("`${{{inner}}}` is not a valid reference"), span).help(
            "write `${NAME}`, `${NAME:-default}` or a built-in such as `${source.commit}`; `$$` is a dollar sign",
        ));
    };
    Ok(Part::Value { reference, default, span })
}

/// The names of built-ins in other tools and in speech, without their first part and with dashes.
const ELSEWHERE: [(&str, &str); 23] = [
    ("commit", "source.commit"),
    ("commit-hash", "source.commit"),
    ("commit-id", "source.commit"),
    ("commit-sha", "source.commit"),
    ("hash", "source.commit"),
    ("id", "source.commit"),
    ("revision", "source.commit"),
    ("sha", "source.commit"),
    ("commit-short-sha", "source.commit.short"),
    ("sha-short", "source.commit.short"),
    ("short", "source.commit.short"),
    ("short-commit", "source.commit.short"),
    ("short-hash", "source.commit.short"),
    ("short-sha", "source.commit.short"),
    ("branch", "source.branch"),
    ("branch-name", "source.branch"),
    ("head-ref", "source.branch"),
    ("ref", "source.branch"),
    ("ref-name", "source.branch"),
    ("slug", "source.branch.slug"),
    ("tag", "source.tag"),
    ("tag-name", "source.tag"),
    ("version", "source.tag"),
];

/// The built-in that a name without its first part means in other tools.
pub(crate) fn builtin_elsewhere(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase().replace(['_', '.'], "-");
    ELSEWHERE.iter().find(|(word, _)| *word == name).map(|(_, builtin)| *builtin)
}

fn unknown_builtin(name: &str, span: Span) -> Diagnostic {
    let names = || FIXED.iter().map(|(name, _)| *name);
    let (first, rest) = name.split_once('.').unwrap_or_default();
    let is_group = names().any(|known| known.split('.').next() == Some(first));
    let meant = match (first, is_group) {
        ("aws", _) => None,
        _ => builtin_elsewhere(rest),
    };
    // Within a group only the rest can be mistyped, and `sha` is no `tag`.
    let in_group = || {
        let rests = names().filter_map(|known| known.split_once('.').filter(|(group, _)| *group == first));
        let close = closest(rest, rests.map(|(_, rest)| rest))?;
        names().find(|known| known.split_once('.') == Some((first, close)))
    };
    let meant = meant.or_else(|| if is_group { in_group() } else { closest(name, names()) });
    let help = match meant {
        Some(meant) => format!("did you mean `${{{meant}}}`?"),
        None if first == "image" => "an image has `${image.NAME.uri}` and `${image.NAME.digest}`".to_owned(),
        None => {
            let known = names().chain(["image.NAME.uri", "image.NAME.digest"]);
            format!("the built-ins are {}", listed(known))
        }
    };
    Diagnostic::new(format!("unknown built-in `${{{name}}}`"), span).help(help)
}

/// A name as part of a variable's name: `MY_APP` for `my-app`.
pub(crate) fn variable_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Whether a string is a valid name of an environment variable.
pub(crate) fn is_variable_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Scope for Fixed {
        fn value(&self, reference: &Reference) -> Option<MaybeSecret> {
            let text = match reference {
                Reference::Env(name) if name == "EMPTY" => "",
                Reference::Env(name) if name == "NAME" => "$(touch x) ${NAME}",
                Reference::Env(name) if name == "TOKEN" => return Some(MaybeSecret::new("t0ken", true)),
                Reference::Builtin(Builtin::SourceCommit) => "abc",
                Reference::Env(_) | Reference::Builtin(_) => return None,
            };
            Some(MaybeSecret::new(text, false))
        }
    }

    fn template(text: &str) -> Template {
        Template::parse(text, Span::default(), "").unwrap()
    }

    fn resolve(text: &str) -> Result<String, Unresolved> {
        template(text).resolve(&Fixed).map(|value| value.expose().to_owned())
    }

    #[test]
    fn text_with_a_secret_is_a_secret() {
        let resolve = |text: &str| template(text).resolve(&Fixed).unwrap();
        assert_eq!(resolve("a-${TOKEN}"), MaybeSecret::new("a-t0ken", true));
        assert_eq!(resolve("${OTHER:-default}"), MaybeSecret::new("default", false));
        let of = |exposure| Template { exposure: Some(exposure), ..template("a-${TOKEN}") }.resolve(&Fixed);
        assert_eq!(of(Exposure::Tag).unwrap_err().reason, Reason::Secret(Exposure::Tag));
        assert!(of(Exposure::TaskDefinition).unwrap().is_secret());
    }

    #[test]
    fn values_defaults_and_dollars() {
        assert_eq!(resolve("v-${source.commit}").unwrap(), "v-abc");
        assert_eq!(resolve("${source.tag:-none}${X:-}").unwrap(), "none");
        assert_eq!(resolve("${EMPTY:-as in a shell}${EMPTY}").unwrap(), "as in a shell");
        assert_eq!(resolve("$$ $PATH $${NAME} 5$").unwrap(), "$ $PATH ${NAME} 5$");
        assert_eq!(resolve("").unwrap(), "");
    }

    #[test]
    fn a_value_is_never_interpolated_again() {
        assert_eq!(resolve("${NAME}").unwrap(), "$(touch x) ${NAME}");
    }

    #[test]
    fn undefined_and_malformed_references_are_errors() {
        assert!(resolve("${OTHER}").is_err());
        assert!(Template::parse("${", Span::default(), "").is_err());
        assert!(Template::parse("${a b}", Span::default(), "").is_err());
        assert!(Template::parse("${A:-${B}}", Span::default(), "").is_err());
        let text = "a\n${source.comit}\n${b c} ${";
        let errors = Template::parse(text, Span { start: 10, end: 40 }, &format!("\"{text}\"")).unwrap_err();
        assert_eq!(errors[0].help.as_deref(), Some("did you mean `${source.commit}`?"));
        let places: Vec<_> = errors.iter().map(|error| (error.span.start, error.span.end)).collect();
        assert_eq!(places, [(13, 28), (29, 35), (36, 38)]);
    }

    /// Findings, F.
    #[test]
    fn an_unknown_builtin_is_compared_with_its_names_elsewhere() {
        for (name, meant) in [
            ("source.sha", "source.commit"),
            ("source.hash", "source.commit"),
            ("source.id", "source.commit"),
            ("source.revision", "source.commit"),
            ("git.sha", "source.commit"),
            ("github.sha", "source.commit"),
            ("github.ref_name", "source.branch"),
            ("build.commit", "source.commit"),
            ("source.comit", "source.commit"),
            ("sorce.commit", "source.commit"),
            ("SOURCE.COMMIT", "source.commit"),
            ("source.sha.short", "source.commit.short"),
            ("source.short_sha", "source.commit.short"),
            ("source.ref", "source.branch"),
            ("source.brnach", "source.branch"),
            ("source.slug", "source.branch.slug"),
            ("source.version", "source.tag"),
            ("build.nubmer", "build.number"),
            ("aws.acount", "aws.account"),
        ] {
            let problem = unknown_builtin(name, Span::default());
            assert_eq!(problem.help, Some(format!("did you mean `${{{meant}}}`?")), "{name}");
        }
        let help = |name: &str| unknown_builtin(name, Span::default()).help.unwrap();
        assert!(help("image.app").contains("`${image.NAME.uri}`"));
        for name in ["source.author", "aws.id", "x.y"] {
            assert!(help(name).contains("the built-ins are `source.commit`"), "{name}");
        }
    }

    #[test]
    fn image_names_may_hold_dots() {
        let template = Template::parse("${image.a.b.uri}", Span::default(), "").unwrap();
        let references: Vec<_> = template.references().collect();
        assert_eq!(*references[0], Reference::Builtin(Builtin::ImageUri("a.b".to_owned())));
    }
}
