//! Interprets messages about secrets and parameters.

use super::definition::{Reference, is_secret};
use super::excerpt::between;
use super::reason::{DENIED, SUBNET_NEEDS, StopMessage, UNREACHABLE};
use super::{Cause, CauseKind};
use crate::address::Arn;
use crate::text::listed;

/// Signs of a missing secret or parameter, in lower case.
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

impl StopMessage<'_> {
    pub(crate) fn secret(&self) -> Cause {
        if let Some(key) = between(self.text, "json key ", &[' ', ',', '"']) {
            return self.no_key(key.trim_end_matches('.'));
        }
        let (named, is_parameter) =
            (self.named_secrets(), self.has(&["ssm", "systems manager", "parameter store"]));
        if self.has(&["looking for beginning of"]) {
            let sentence = format!("{named} is not a JSON document, but `valueFrom` names a key");
            return self
                .about(CauseKind::SecretMissing, sentence)
                .help("store a JSON object in the secret, or reference the whole secret");
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
            return self.about(CauseKind::SecretMissing, sentence).help(help);
        }
        if self.has(&DENIED) {
            let action = if is_parameter { "ssm:GetParameters" } else { "secretsmanager:GetSecretValue" };
            let sentence = format!("no permission to read {named}{}", self.denied());
            return self.about(CauseKind::SecretDenied, sentence).help(format!(
                "allow the execution role {action} for it, and kms:Decrypt if it is encrypted with a \
                 customer managed key"
            ));
        }
        if self.has(&UNREACHABLE) {
            let (service, endpoint) =
                if is_parameter { ("Systems Manager", "ssm") } else { ("Secrets Manager", "secretsmanager") };
            return self
                .about(CauseKind::Network, format!("the task cannot reach {service} for {named}"))
                .help(format!(
                    "{SUBNET_NEEDS} {endpoint}, ecr.api, ecr.dkr, logs and s3; a public one needs \
                     `assign-public-ip`"
                ));
        }
        self.other(&format!("{named} cannot be read"))
    }

    fn no_key(&self, key: &str) -> Cause {
        let references = self.definition.references();
        let of_key: Vec<&Reference<'_>> =
            references.iter().filter(|reference| reference.json_key() == Some(key)).collect();
        let sentence = match of_key.first() {
            Some(first) => format!("secret `{}` has no key `{key}`{}", first.secret(), used_by(&of_key)),
            None => format!("a secret has no key `{key}`"),
        };
        self.about(CauseKind::SecretMissing, sentence)
            .help(format!("add `{key}` to the secret's JSON object, or correct `valueFrom`"))
    }

    /// The secrets or parameters in the message with their variables, or the only reference of the definition.
    fn named_secrets(&self) -> String {
        let references = self.definition.references();
        let named: Vec<String> =
            secrets_in(self.text).into_iter().map(|name| described(name, &references)).collect();
        match (named.as_slice(), references.as_slice()) {
            ([], [only]) => format!("`{}`{}", only.secret(), used_by(&[only])),
            ([], _) => "a secret or parameter".to_owned(),
            _ => named.join(" and "),
        }
    }
}

/// The ARNs of secrets and parameters in a message, and the names after `invalid parameters:`.
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
    let users: Vec<&Reference<'_>> = references.iter().filter(|reference| reference.is_of(name)).collect();
    let sort = if is_secret(name) { "secret" } else { "parameter" };
    format!("{sort} `{name}`{}", used_by(&users))
}

/// The variables that use it, as the end of a sentence.
fn used_by(users: &[&Reference<'_>]) -> String {
    let Some(first) = users.first() else { return String::new() };
    let same = users.iter().filter(|user| user.container == first.container);
    let variables: Vec<&str> = same.map(|user| user.variable).collect();
    let noun = if variables.len() == 1 { "variable" } else { "variables" };
    let variables = listed(variables);
    format!(" for {noun} {variables} of container `{}`", first.container)
}
