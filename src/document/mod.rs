//! Lossless reading of JSON and YAML documents that are passed on to AWS. Numbers keep their spelling and keys their
//! order, and documents that JSON cannot represent are errors. Pure.

mod surrogates;

pub(crate) use surrogates::{Surrogates, lone_half};

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};
use std::collections::HashSet;
use std::fmt;

/// Parses the text of a file: JSON as JSON, anything else as YAML. The error is the parser's, with line and column.
///
/// Numbers keep their spelling if JSON allows it. Other YAML numbers, such as `0x1F`, `+5` and `.5`, become the JSON
/// number of the same value.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('{') {
        json(text).map_err(|error| error.to_string())
    } else {
        yaml(text).map_err(|error| error.to_string())
    }
}

pub(crate) fn json(text: &str) -> serde_json::Result<Value> {
    let mut value = serde_json::from_str(text)?;
    let surrogates = &Surrogates::none();
    Lossless { surrogates }.deserialize(&mut serde_json::Deserializer::from_str(text))?;
    let written = Respell { value: &mut value, source: Format::Json };
    written.deserialize(&mut serde_json::Deserializer::from_str(text))?;
    Ok(value)
}

fn yaml(text: &str) -> serde_yaml::Result<Value> {
    let surrogates = &Surrogates::replace(text);
    let text = surrogates.text();
    let mut value = serde_yaml::from_str(text)?;
    Lossless { surrogates }.deserialize(serde_yaml::Deserializer::from_str(text))?;
    let written = Respell { value: &mut value, source: Format::Yaml };
    written.deserialize(serde_yaml::Deserializer::from_str(text))?;
    Ok(restored(value, surrogates))
}

/// A value of a text whose surrogate pairs were replaced, with what they mean.
fn restored(value: Value, surrogates: &Surrogates<'_>) -> Value {
    match value {
        Value::String(text) => Value::String(surrogates.restore(&text).into_owned()),
        Value::Array(items) => items.into_iter().map(|item| restored(item, surrogates)).collect(),
        Value::Object(fields) => {
            let field = |(key, value): (String, Value)| {
                (surrogates.restore(&key).into_owned(), restored(value, surrogates))
            };
            fields.into_iter().map(field).collect()
        }
        other => other,
    }
}

/// Checks that a document can be represented in JSON: it has no duplicate keys, and JSON has all of its numbers.
#[derive(Clone, Copy)]
struct Lossless<'s> {
    surrogates: &'s Surrogates<'s>,
}

impl<'de> DeserializeSeed<'de> for Lossless<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lossless<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document that JSON can represent")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut known = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let key = self.surrogates.restore(&key).into_owned();
            if known.contains(&key) {
                return Err(de::Error::custom(format!("the key `{key}` occurs twice")));
            }
            known.insert(key);
            map.next_value_seed(self)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        if value.is_finite() { Ok(()) } else { Err(E::custom("JSON has no number for `.inf` and `.nan`")) }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i128<E>(self, _: i128) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u128<E>(self, _: u128) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Yaml,
}

/// Parses the text of a value a second time to restore the spelling of its numbers: the parsers convert `1e3` to `1e+3`
/// or to a float.
struct Respell<'v> {
    value: &'v mut Value,
    source: Format,
}

impl<'de> DeserializeSeed<'de> for Respell<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let source = self.source;
        match self.value {
            Value::Number(number) => {
                let text = match source {
                    Format::Json => Box::<RawValue>::deserialize(deserializer)?.get().to_owned(),
                    Format::Yaml => String::deserialize(deserializer)?,
                };
                if text.parse::<Number>().is_ok() {
                    *number = Number::from_string_unchecked(text);
                }
                Ok(())
            }
            Value::Array(items) => deserializer.deserialize_seq(Items { items, source }),
            Value::Object(fields) => deserializer.deserialize_map(Fields { fields, source }),
            Value::Null | Value::Bool(_) | Value::String(_) => {
                IgnoredAny::deserialize(deserializer).map(|_| ())
            }
        }
    }
}

/// The items of a list, see [`Respell`].
struct Items<'v> {
    items: &'v mut [Value],
    source: Format,
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the same list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for value in self.items {
            items.next_element_seed(Respell { value, source: self.source })?;
        }
        // The parsers require a call for the end of the list.
        items.next_element::<IgnoredAny>().map(|_| ())
    }
}

/// The fields of an object, see [`Respell`].
struct Fields<'v> {
    fields: &'v mut Map<String, Value>,
    source: Format,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the same object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.fields.get_mut(&key) {
                Some(value) => map.next_value_seed(Respell { value, source: self.source })?,
                None => map.next_value::<IgnoredAny>().map(|_| ())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spellings of JSON numbers. A float would change each of them.
    const NUMBERS: [&str; 14] = [
        "1.50",
        "1e3",
        "1E3",
        "1E+03",
        "1e-07",
        "10e-1",
        "-0",
        "-0.0",
        "0.1000000000000000055",
        "18446744073709551616",
        "-9223372036854775809",
        "123456789012345678901234567890123456789012345678901234567890",
        "1.7976931348623157e308",
        "5e-325",
    ];

    #[test]
    fn numbers_keep_their_spelling() {
        for number in NUMBERS {
            let json = format!(r#"{{"a":{number},"b":[{number},{{"c":{number}}}],"d":"{number}"}}"#);
            assert_eq!(parse(&json).unwrap().to_string(), json);
            let yaml =
                format!("a: {number}\nb:\n  - &x {number}\n  - c: *x\nd: \"{number}\"\ne: !!str {number}\n");
            let expected = json.replace(r#""}"#, &format!(r#"","e":"{number}"}}"#));
            assert_eq!(parse(&yaml).unwrap().to_string(), expected, "{yaml}");
        }
        // JSON allows it, but it is out of the range of floats.
        assert_eq!(parse(r#"{"a":1e999}"#).unwrap().to_string(), r#"{"a":1e999}"#);
        let of_yaml = "a: 0x1F\nb: +5\nc: .5\nd: 010\ne: 0o17\nf: 1_000\ng: ~\nh: true\ni: 2024-01-01\n";
        assert_eq!(
            parse(of_yaml).unwrap().to_string(),
            r#"{"a":31,"b":5,"c":0.5,"d":"010","e":15,"f":"1_000","g":null,"h":true,"i":"2024-01-01"}"#
        );
    }

    #[test]
    fn documents_that_json_cannot_represent_are_errors_with_their_place() {
        for (text, says) in [
            (
                "{\"a\": 1,\n \"b\": {\"c\": 1, \"d\": [{\"c\": 2, \"c\": 3}]}}",
                "the key `c` occurs twice at line 2",
            ),
            (r#"{"a": 1, "\u0061": 2}"#, "the key `a` occurs twice"),
            ("a: 1\nb:\n  - c: 1\n    c: 2\n", "the key `c` occurs twice at line 3"),
            ("1: a\n\"1\": b\n", "the key `1` occurs twice"),
            ("a: [.inf]\n", "JSON has no number for `.inf`"),
            ("a: -.NaN\nb: .nan\n", "JSON has no number for `.inf` and `.nan`"),
            ("{\"a\":\n \"\\ud800\"}", "line 2"),
            ("{\"a\":\n \"\\ud800\\u0041\"}", "surrogate"),
            ("{\"a\":\n \"\\udc00\"}", "surrogate"),
            (r#"{"a": 01}"#, "invalid number at line 1"),
            (r#"{"a": 1} {"#, "trailing characters"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let deep = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
        assert!(parse(&deep).unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn strings_keep_their_meaning() {
        let value = parse("\u{feff} {\"a\\/b\": \"\\u00e9 \\ud83d\\ude00 \\u0000 \\/\"}\n").unwrap();
        assert_eq!(value, serde_json::json!({ "a/b": "é 😀 \0 /" }));
    }

    /// Findings, E7.
    #[test]
    fn surrogate_pairs_of_yaml_are_characters_in_double_quotes() {
        let yaml = r#"
"k\ud83d\ude00": ["\uD83D\uDE00 \u00e9", "\\ud83d\\ude00", '\ud83d\ude00', \ud83d\ude00, { "\ud83d\ude01": 1.50 }]
block: |
  echo "\ud83d\ude00"
"#;
        let expected = serde_json::json!({
            "k😀": ["😀 é", r"\ud83d\ude00", r"\ud83d\ude00", r"\ud83d\ude00", { "😁": Number::from_string_unchecked("1.50".to_owned()) }],
            "block": "echo \"\\ud83d\\ude00\"\n",
        });
        assert_eq!(parse(yaml).unwrap(), expected);
        for (yaml, says) in [
            ("a: \"\\ud83d\"\n", "at line 1 column 4"),
            ("a: \"\\ud83d\\ude00\"\nb: \"\\ude00\\ud83d\"\n", "at line 2 column 4"),
            ("\"\\ud83d\\ude00\": 1\n😀: 2\n", "the key `😀` occurs twice"),
            ("\"\\ud83d\\ude00\": 1\n\"\\ud83d\\ude00\": 2\n", "the key `😀` occurs twice"),
        ] {
            let error = parse(yaml).unwrap_err();
            assert!(error.contains(says), "{yaml}: {error}");
        }
    }

    #[test]
    fn a_large_document_is_read() {
        let entries: Vec<String> = (0..20_000)
            .map(|at| format!(r#"{{"name":"V{at}","value":"{at:>30}","weight":{at}.50}}"#))
            .collect();
        let text = format!(r#"{{"environment":[{}]}}"#, entries.join(","));
        assert!(text.len() > 1024 * 1024);
        assert_eq!(parse(&text).unwrap().to_string(), text);
    }
}
