//! Messages about secrets and parameters.

use super::definition::{Reference, is_secret};
use super::reason::{DENIED, Message, UNREACHABLE, WAY_OUT};
use super::words::between;
use super::{Cause, Kind};
use crate::address::Arn;
use crate::text::listed;

/// Words of a secret or parameter that is not there, in lower case.
const NO_SECRET: [&str; 9] = [
    "resourcenotfound",
    "find the specified secret",
    "invalid parameters:",
    "invalid ssm parameters:",
    "parameternotfound",
    "marked for deletion",
    "check whether the secret exists",
    "check whether the parameter exists",
    "invalidparameter: 1 validation",
];

impl Message<'_> {
    pub(crate) fn secret(&self) -> Cause {
        if let Some(key) = between(self.text, "json key ", &[' ', ',', '"']) {
            return self.no_key(key.trim_end_matches('.'));
        }
        let (named, is_parameter) =
            (self.named_secrets(), self.has(&["ssm", "systems manager", "parameter store"]));
        if self.has(&["looking for beginning of"]) {
            let sentence = format!("{named} is no JSON document, but a key of it is asked for");
            return self
                .about(Kind::SecretMissing, sentence)
                .help("store an object in the secret, or take the whole of it");
        }
        if self.has(&NO_SECRET) {
            let (sentence, help) = if self.has(&["awscurrent", "staging label"]) {
                (format!("{named} has no value yet"), "store a value in the secret")
            } else if self.has(&["marked for deletion"]) {
                (format!("{named} is marked for deletion"), "restore the secret, or correct `valueFrom`")
            } else if self.has(&["1 validation"]) {
                (
                    format!("the reference to {named} is not well-formed"),
                    "`valueFrom` ends with `:key:stage:version`; parts may be empty",
                )
            } else {
                (format!("{named} does not exist in the region"), "create it first, or correct `valueFrom`")
            };
            return self.about(Kind::SecretMissing, sentence).help(help);
        }
        if self.has(&DENIED) {
            let action = if is_parameter { "ssm:GetParameters" } else { "secretsmanager:GetSecretValue" };
            let sentence = format!("{named} may not be read{}", self.refused());
            return self.about(Kind::SecretDenied, sentence).help(format!(
                "allow the execution role {action} for it, and kms:Decrypt where it is encrypted with a \
                 key of your own"
            ));
        }
        if self.has(&UNREACHABLE) {
            let (service, endpoint) =
                if is_parameter { ("Systems Manager", "ssm") } else { ("Secrets Manager", "secretsmanager") };
            return self.about(Kind::Network, format!("the task cannot reach {service} for {named}")).help(
                format!(
                    "{WAY_OUT} {endpoint}, ecr.api, ecr.dkr, logs and s3; in a public one \
                     `assign-public-ip`"
                ),
            );
        }
        self.other(&format!("{named} cannot be read"))
    }

    fn no_key(&self, key: &str) -> Cause {
        let references = self.definition.references();
        let of_key: Vec<&Reference<'_>> =
            references.iter().filter(|reference| reference.json_key() == Some(key)).collect();
        let sentence = match of_key.first() {
            Some(first) => format!("secret `{}` has no key `{key}`{}", first.secret(), taken_by(&of_key)),
            None => format!("a secret has no key `{key}`"),
        };
        self.about(Kind::SecretMissing, sentence)
            .help(format!("add `{key}` to the secret's JSON object, or correct `valueFrom`"))
    }

    /// The secrets or parameters that the message names, with the variables that take them; or else the only one there is.
    fn named_secrets(&self) -> String {
        let references = self.definition.references();
        let named: Vec<String> =
            secrets_in(self.text).into_iter().map(|name| described(name, &references)).collect();
        match (named.as_slice(), references.as_slice()) {
            ([], [only]) => format!("`{}`{}", only.secret(), taken_by(&[only])),
            ([], _) => "a secret or parameter".to_owned(),
            _ => named.join(" and "),
        }
    }
}

/// ARNs of secrets and parameters in a message, and the names after `invalid parameters:`.
fn secrets_in(message: &str) -> Vec<&str> {
    let trim = |word: &'_ str| -> usize { word.trim_end_matches([':', '.']).len() };
    let mut found: Vec<&str> = Vec::new();
    let words = message.split(|letter: char| letter.is_whitespace() || ",'\"[]()".contains(letter));
    for word in words {
        let word = &word[..trim(word)];
        let is_one = Arn::parse(word).is_some_and(|arn| match arn.service() {
            "secretsmanager" => arn.resource().starts_with("secret:"),
            "ssm" => arn.resource().starts_with("parameter"),
            _ => false,
        });
        if is_one && !found.contains(&word) {
            found.push(word);
        }
    }
    let names = ["invalid parameters: ", "invalid ssm parameters: "]
        .iter()
        .find_map(|start| message.split_once(start));
    for name in names.into_iter().flat_map(|(_, names)| names.split([',', ' ', ';'])) {
        let name = &name[..trim(name)];
        if !name.is_empty() && !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

fn described(name: &str, references: &[Reference<'_>]) -> String {
    let takers: Vec<&Reference<'_>> = references.iter().filter(|reference| reference.is_of(name)).collect();
    let sort = if is_secret(name) { "secret" } else { "parameter" };
    format!("{sort} `{name}`{}", taken_by(&takers))
}

/// The variables that take it, as the end of a sentence.
fn taken_by(takers: &[&Reference<'_>]) -> String {
    let Some(first) = takers.first() else { return String::new() };
    let same = takers.iter().filter(|taker| taker.container == first.container);
    let variables: Vec<&str> = same.map(|taker| taker.variable).collect();
    let noun = if variables.len() == 1 { "variable" } else { "variables" };
    let variables = listed(variables);
    format!(" for {noun} {variables} of container `{}`", first.container)
}
