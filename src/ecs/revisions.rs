//! Revisions of task definitions: their names, their users, and references to older ones.

use crate::address::{Arn, short_name};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revision {
    pub(crate) arn: String,
}

impl Revision {
    /// Its number in its family; 0 if the ARN has none.
    pub(crate) fn number(&self) -> u64 {
        RevisionName::parse(&self.arn).number.unwrap_or_default()
    }

    pub(crate) fn short(&self) -> &str {
        short(&self.arn)
    }
}

/// `FAMILY:N` of an ARN. Other text stays unchanged.
pub(crate) fn short(arn: &str) -> &str {
    short_name(arn)
}

/// A reference to a revision: an ARN, `FAMILY:N`, or `FAMILY` for the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RevisionName<'a> {
    /// `None` if the name is not an ARN.
    arn: Option<Arn<'a>>,
    pub(crate) family: &'a str,
    /// `None` for the latest revision.
    pub(crate) number: Option<u64>,
}

impl<'a> RevisionName<'a> {
    pub(crate) fn parse(name: &'a str) -> Self {
        let short = short_name(name);
        let numbered =
            short.rsplit_once(':').and_then(|(family, number)| Some((family, number.parse().ok()?)));
        let (family, number) = numbered.map_or((short, None), |(family, number)| (family, Some(number)));
        Self { arn: Arn::parse(name), family, number }
    }

    /// Whether this is an older revision than `newer`, of the same family.
    pub(crate) fn is_behind(&self, newer: &Self) -> bool {
        let place = |arn: Arn<'a>| (arn.region(), arn.account());
        let places = self.arn.map(place).zip(newer.arn.map(place));
        let is_same = self.family == newer.family && places.is_none_or(|(own, newer)| own == newer);
        is_same && self.number.zip(newer.number).is_some_and(|(own, newer)| own < newer)
    }
}

/// A user of each used revision, by `FAMILY:N`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Uses(BTreeMap<String, String>);

impl Uses {
    /// Records a user of a revision, which any form of its name identifies. The first user stays.
    pub(crate) fn add(&mut self, revision: &str, by: impl Into<String>) {
        let short = short(revision);
        if !short.is_empty() {
            self.0.entry(short.to_owned()).or_insert_with(|| by.into());
        }
    }

    /// Adds the users of `others`. Known users stay.
    pub(crate) fn join(&mut self, others: Self) {
        for (revision, by) in others.0 {
            self.0.entry(revision).or_insert(by);
        }
    }

    /// Splits the revisions of a family after the `keep` newest: into those without a user, and those with their user.
    /// `revisions` are ARNs, newest first.
    pub(crate) fn split_unused<'r>(
        &self,
        revisions: &'r [String],
        keep: usize,
    ) -> (Vec<&'r str>, Vec<(&'r str, &str)>) {
        let (mut unused, mut used) = (Vec::new(), Vec::new());
        for revision in revisions.iter().skip(keep) {
            match self.0.get(short(revision)) {
                Some(by) => used.push((revision.as_str(), by.as_str())),
                None => unused.push(revision.as_str()),
            }
        }
        (unused, used)
    }
}

/// The revision that the target of a rule or schedule starts. Returns `None` if it starts no task.
pub(crate) fn started_by(target: &Value) -> Option<String> {
    // `EventBridge` and its Scheduler use the same field.
    if let Some(revision) = target.pointer("/EcsParameters/TaskDefinitionArn") {
        return revision.as_str().map(ToOwned::to_owned);
    }
    // A schedule may call `RunTask` directly. Its input is a string with the arguments of that call as JSON.
    let input: Value = serde_json::from_str(target.get("Input")?.as_str()?).ok()?;
    let revision = input.get("TaskDefinition").or_else(|| input.get("taskDefinition"));
    revision?.as_str().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLACE: &str = "arn:aws:ecs:eu-west-1:123456789012:task-definition";

    #[test]
    fn only_older_revisions_of_the_same_family_are_behind() {
        let newer = format!("{PLACE}/webapp:10");
        let is_behind = |name: &str| RevisionName::parse(name).is_behind(&RevisionName::parse(&newer));
        for name in [&format!("{PLACE}/webapp:9"), "webapp:1"] {
            assert!(is_behind(name), "{name}");
        }
        for name in [
            &newer,
            &format!("{PLACE}/webapp:11"),
            &format!("{PLACE}/webapp"),
            "webapp",
            &format!("{PLACE}/webapp-worker:9"),
            "arn:aws:ecs:eu-west-1:210987654321:task-definition/webapp:9",
            "",
        ] {
            assert!(!is_behind(name), "{name}");
        }
    }

    #[test]
    fn used_and_new_revisions_stay() {
        let all: Vec<String> = [12, 10, 9, 3, 1].iter().map(|number| format!("{PLACE}/a:{number}")).collect();
        let mut uses = Uses::default();
        uses.add("a:3", "the task x");
        uses.add(&format!("{PLACE}/a:10"), "the service y");
        uses.add(&format!("{PLACE}/a:10"), "the service z");
        uses.add("", "ignored");
        let mut others = Uses::default();
        others.add("a:3", "the service z");
        uses.join(others);
        let (unused, used) = uses.split_unused(&all, 2);
        assert_eq!(unused, [&all[2], &all[4]]);
        assert_eq!(used, [(all[3].as_str(), "the task x")]);
        let (unused, used) = uses.split_unused(&all, 0);
        assert_eq!((unused.len(), used.len()), (3, 2));
        assert_eq!(used[0].1, "the service y");
    }

    #[test]
    fn targets_start_revisions_in_two_ways() {
        let rule =
            json!({ "EcsParameters": { "TaskDefinitionArn": "a:1" }, "Input": "{\"TaskDefinition\":\"b\"}" });
        assert_eq!(started_by(&rule).unwrap(), "a:1");
        let call = json!({ "Arn": "arn:aws:scheduler:::aws-sdk:ecs:runTask", "Input": "{\"TaskDefinition\":\"a:2\"}" });
        assert_eq!(started_by(&call).unwrap(), "a:2");
        for other in [json!({}), json!({ "Input": "text" }), json!({ "Input": "{}" })] {
            assert_eq!(started_by(&other), None);
        }
    }
}
