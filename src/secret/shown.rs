//! Text that may be shown: every secret in it has been replaced.

use super::Masks;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Text that has been masked. [`Masks::shown`] is its only constructor, so a sink that takes a `Shown` cannot leak a
/// secret. Clones share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shown(Arc<str>);

impl Masks {
    /// Replaces every secret in a string.
    pub(crate) fn shown(&self, text: &str) -> Shown {
        Shown(self.text(text).into())
    }

    /// Replaces every secret in the string values of a JSON document. Keys, numbers and booleans stay, so that the
    /// document keeps its shape even if a secret has the value `true`.
    pub(crate) fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(key, value)| (key, self.value(value))).collect()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }
}

impl Deref for Shown {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Shown {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use serde_json::json;

    fn masks() -> Masks {
        let masks = Masks::default();
        for value in ["true", "null", "1", "version", "success"] {
            masks.add(&Secret::new(value));
        }
        masks
    }

    #[test]
    fn text_is_masked_once_and_serializes_as_a_string() {
        let shown = masks().shown("version 1 is a success");
        assert_eq!(&*shown, "*** 1 is a ***");
        assert_eq!(shown.to_string(), "*** 1 is a ***");
        assert_eq!(format!("{shown:?}"), "\"*** 1 is a ***\"");
        assert_eq!(format!("{shown:>16}"), "  *** 1 is a ***");
        assert_eq!(serde_json::to_string(&shown).unwrap(), "\"*** 1 is a ***\"");
        assert_eq!(shown.clone(), shown);
    }

    #[test]
    fn only_string_values_of_a_document_are_masked() {
        let document = json!({
            "version": 1,
            "success": true,
            "reason": null,
            "true": "true",
            "big": 1_234_567_890_123_456_789_u64,
            "steps": [{ "status": "success", "null": ["null", null, false, 1.5] }, "1", "plain"],
        });
        assert_eq!(
            masks().value(document),
            json!({
                "version": 1,
                "success": true,
                "reason": null,
                "true": "***",
                "big": 1_234_567_890_123_456_789_u64,
                "steps": [{ "status": "***", "null": ["***", null, false, 1.5] }, "1", "plain"],
            })
        );
    }

    #[test]
    fn a_masked_document_is_valid_json_with_its_keys_in_order() {
        let document = json!({ "version": 1, "success": "version", "null": { "true": [true, "null"] } });
        let text = masks().value(document).to_string();
        assert_eq!(text, r#"{"version":1,"success":"***","null":{"true":[true,"***"]}}"#);
    }
}
