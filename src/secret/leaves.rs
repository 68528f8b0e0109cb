//! The values inside a secret that is a JSON document.

use super::{Masks, Secret, Unmasked};
use serde_json::Value;
use std::collections::HashSet;

/// The keys of a database's secret that are no secrets (Secrets Manager user guide, "JSON structure of secrets").
const OF_A_DATABASE: [&str; 5] = ["engine", "host", "port", "dbname", "username"];
/// How deep documents in documents are read.
const MAX_DEPTH: usize = 16;

impl Masks {
    /// Masks a value and, if it is a JSON document, the strings in it, because a script may print one of them. `public`
    /// has values that everyone knows, such as the name of the pipeline, and that would be masked in every log.
    pub(crate) fn add_document(&self, secret: &Secret, public: &HashSet<String>) -> Unmasked {
        for leaf in leaves(secret.expose()) {
            if leaf.chars().count() >= 4 && !public.contains(&leaf) {
                self.add(&Secret::new(leaf));
            }
        }
        self.add(secret)
    }
}

/// The strings in a JSON object or list, without those of a database that are no secrets.
fn leaves(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(document @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text) {
        collect(&document, MAX_DEPTH, &mut found);
    }
    found
}

fn collect(value: &Value, depth: usize, found: &mut Vec<String>) {
    if depth == 0 {
        return;
    }
    match value {
        Value::String(text) => {
            found.push(text.clone());
            // A document may be a string in another one.
            if let Ok(inner @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text) {
                collect(&inner, depth - 1, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, depth - 1, found)),
        Value::Object(fields) => {
            let is_database =
                fields.contains_key("password") && OF_A_DATABASE.iter().any(|key| fields.contains_key(*key));
            let is_secret = |key: &str| !(is_database && OF_A_DATABASE.contains(&key));
            for (_, value) in fields.iter().filter(|(key, _)| is_secret(key)) {
                collect(value, depth - 1, found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(document: &str, text: &str) -> String {
        let masks = Masks::default();
        let public = HashSet::from(["webapp".to_owned(), "eu-central-1".to_owned()]);
        masks.add_document(&Secret::new(document), &public);
        masks.text(text)
    }

    /// Findings, A3.
    #[test]
    fn strings_of_a_document_are_secrets() {
        let document = r#"{ "token": "t0ken-of-a-team", "nested": { "list": ["one-more", 12345, true] },
            "inner": "{\"key\":\"deep-inside\"}", "short": "abc", "name": "webapp", "region": "eu-central-1" }"#;
        let text = "t0ken-of-a-team one-more 12345 true deep-inside abc webapp eu-central-1";
        assert_eq!(masked(document, text), "*** *** 12345 true *** abc webapp eu-central-1");
        assert_eq!(masked(r#"["first-value", ["second-value"]]"#, "first-value second-value"), "*** ***");
    }

    #[test]
    fn the_address_of_a_database_is_no_secret() {
        let database = r#"{ "engine": "postgres", "host": "db.internal", "port": "5432", "dbname": "shop",
            "username": "admin", "password": "correct-horse" }"#;
        let text = "postgres db.internal 5432 shop admin correct-horse";
        assert_eq!(masked(database, text), "postgres db.internal 5432 shop admin ***");
        assert_eq!(
            masked(r#"{ "username": "admin", "key": "correct-horse" }"#, "admin correct-horse"),
            "*** ***"
        );
    }

    #[test]
    fn other_values_stay_whole() {
        assert_eq!(masked("\"plain text\"", "plain text, plain"), "plain text, plain");
        assert_eq!(masked("correct-horse", "correct-horse"), "***");
        assert_eq!(masked("{ broken", "{ broken"), "***");
    }
}
