//! The path of a field in a task definition, for messages and to find its place in a file.

use std::fmt;

/// Names of fields and positions in lists, from the outside to the inside: `containerDefinitions[0].cpu`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldPath(Vec<PathPart>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathPart {
    Field(String),
    /// Counted from 0.
    Item(usize),
}

impl FieldPath {
    pub(crate) fn parts(&self) -> &[PathPart] {
        &self.0
    }

    pub(super) fn field(&self, name: &str) -> Self {
        self.with(PathPart::Field(name.to_owned()))
    }

    pub(super) fn item(&self, at: usize) -> Self {
        self.with(PathPart::Item(at))
    }

    fn with(&self, part: PathPart) -> Self {
        Self(self.0.iter().cloned().chain([part]).collect())
    }

    /// The innermost field: `environment` for `containerDefinitions[0].environment[1]`. Empty for the whole definition.
    pub(super) fn holder(&self) -> &str {
        let field = self.0.iter().rev().find_map(|part| match part {
            PathPart::Field(name) => Some(name.as_str()),
            PathPart::Item(_) => None,
        });
        field.unwrap_or_default()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.iter().enumerate() {
            match part {
                PathPart::Field(name) if at == 0 => f.write_str(name)?,
                PathPart::Field(name) => write!(f, ".{name}")?,
                PathPart::Item(item) => write!(f, "[{item}]")?,
            }
        }
        Ok(())
    }
}
