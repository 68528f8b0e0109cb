//! Text that may be shown: every secret in it has been replaced, and every control character is visible.

use super::Masks;
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Text that has been masked. [`Masks::shown`] is its only constructor, so a sink that takes a `Shown` cannot leak a
/// secret. Clones share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shown(Arc<str>);

impl Masks {
    /// Replaces every secret in a string and makes its control characters visible.
    pub(crate) fn shown(&self, text: &str) -> Shown {
        Shown(visible(&self.text(text)).into())
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

/// Replaces control characters, which could move the cursor or hide text, by their escapes. Line feeds and tabs stay.
/// Text from registries, AWS, test reports and names may contain any.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let is_hostile = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            // Line separators, and characters that change the direction of text (Unicode, UAX #9).
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let escaped =
        text.chars().map(|c| if is_hostile(c) { c.escape_default().to_string() } else { c.to_string() });
    Cow::Owned(escaped.collect())
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

    /// Findings, A9.
    #[test]
    fn control_characters_become_visible() {
        let shown =
            Masks::default().shown("no\u{1b}[2J\r\u{7}\u{9b}31m\u{202e}x\ttab\nline\u{7f} \u{2028}ü·✔");
        assert_eq!(&*shown, "no\\u{1b}[2J\\r\\u{7}\\u{9b}31m\\u{202e}x\ttab\nline\\u{7f} \\u{2028}ü·✔");
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
