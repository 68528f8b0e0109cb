//! Amazon `EventBridge`: rules that start tasks. Their targets are raw JSON, so that unknown fields survive an update.

use super::raw::{RawBody, swap_body};
use super::{Aws, AwsError};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Value, json};

/// The error code for a rule or event bus that no longer exists.
const GONE: &str = "ResourceNotFoundException";
/// How many lookups run concurrently.
const LOOKUPS: usize = 4;

/// A target of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleTarget {
    /// The name of the rule's event bus.
    pub(crate) bus: String,
    pub(crate) rule: String,
    /// The target, as in the response of `ListTargetsByRule`.
    pub(crate) target: Value,
}

impl RuleTarget {
    /// The rule's name for messages.
    pub(crate) fn name(&self) -> String {
        match self.bus.as_str() {
            "default" => format!("the rule {}", self.rule),
            bus => format!("the rule {bus}/{}", self.rule),
        }
    }
}

impl Aws {
    /// The rule targets on all event buses that start tasks in these clusters, given by their ARNs.
    pub(crate) async fn rules_of_clusters(&self, clusters: &[&str]) -> Result<Vec<RuleTarget>, AwsError> {
        let buses = self.event_buses().await?;
        let on_buses = |cluster| buses.iter().map(move |bus| self.rules_on_bus(bus, cluster));
        let lookups: Vec<_> = clusters.iter().copied().flat_map(on_buses).collect();
        let found: Vec<Vec<RuleTarget>> = stream::iter(lookups).buffered(LOOKUPS).try_collect().await?;
        Ok(found.concat())
    }

    async fn rules_on_bus(&self, bus: &str, cluster: &str) -> Result<Vec<RuleTarget>, AwsError> {
        let mut found = Vec::new();
        for rule in self.rules_by_target(bus, cluster).await? {
            let targets = self.rule_targets(bus, &rule).await?;
            let own = targets.into_iter().filter(|target| target["Arn"] == cluster);
            found.extend(own.map(|target| RuleTarget { bus: bus.to_owned(), rule: rule.clone(), target }));
        }
        Ok(found)
    }

    async fn event_buses(&self) -> Result<Vec<String>, AwsError> {
        let client = client!(aws_sdk_eventbridge, self);
        let (mut buses, mut token) = (Vec::new(), None);
        loop {
            let call = client.list_event_buses().set_next_token(token);
            let answer =
                call.send().await.map_err(|failed| self.error("events:ListEventBuses", "*", failed))?;
            buses.extend(answer.event_buses.unwrap_or_default().into_iter().filter_map(|bus| bus.name));
            token = answer.next_token;
            if token.is_none() {
                return Ok(buses);
            }
        }
    }

    async fn rules_by_target(&self, bus: &str, target: &str) -> Result<Vec<String>, AwsError> {
        let client = client!(aws_sdk_eventbridge, self);
        let (mut rules, mut token) = (Vec::new(), None);
        loop {
            let call = client.list_rule_names_by_target().event_bus_name(bus).target_arn(target);
            let answer = match call.set_next_token(token).send().await {
                Ok(answer) => answer,
                Err(failed) => {
                    return present(self.error("events:ListRuleNamesByTarget", "*", failed), rules);
                }
            };
            rules.extend(answer.rule_names.unwrap_or_default());
            token = answer.next_token;
            if token.is_none() {
                return Ok(rules);
            }
        }
    }

    async fn rule_targets(&self, bus: &str, rule: &str) -> Result<Vec<Value>, AwsError> {
        const ACTION: &str = "events:ListTargetsByRule";
        let client = client!(aws_sdk_eventbridge, self);
        let (mut targets, mut token) = (Vec::new(), None);
        loop {
            let raw = RawBody::default();
            let call = client.list_targets_by_rule().event_bus_name(bus).rule(rule).set_next_token(token);
            let answer = match call.customize().interceptor(raw.clone()).send().await {
                Ok(answer) => answer,
                Err(failed) => {
                    return present(self.error(ACTION, &self.rule_arn(bus, rule), failed), targets);
                }
            };
            if let Some(found) = raw.json(ACTION)?.get_mut("Targets").and_then(Value::as_array_mut) {
                targets.append(found);
            }
            token = answer.next_token;
            if token.is_none() {
                return Ok(targets);
            }
        }
    }

    fn rule_arn(&self, bus: &str, rule: &str) -> String {
        let bus = if bus == "default" { String::new() } else { format!("{bus}/") };
        self.arn("events", &format!("rule/{bus}{rule}"))
    }

    /// Replaces the rule's target that has the same id.
    pub(crate) async fn put_rule_target(&self, target: &RuleTarget) -> Result<(), AwsError> {
        const ACTION: &str = "events:PutTargets";
        let body = json!({ "Rule": target.rule, "EventBusName": target.bus, "Targets": [target.target] });
        let answer = client!(aws_sdk_eventbridge, self)
            .put_targets()
            .customize()
            .mutate_request(swap_body(&body))
            .send()
            .await
            .map_err(|failed| self.error(ACTION, &self.rule_arn(&target.bus, &target.rule), failed))?;
        if answer.failed_entry_count == 0 {
            return Ok(());
        }
        let entry = answer.failed_entries.unwrap_or_default().into_iter().next();
        let (code, message) = entry.map(|entry| (entry.error_code, entry.error_message)).unwrap_or_default();
        Err(AwsError::Service {
            action: ACTION,
            code: code.unwrap_or_else(|| "failed entry".to_owned()),
            message: message.unwrap_or_default(),
            transient: false,
        })
    }
}

/// Returns the results so far if a rule or bus was deleted meanwhile, and any other error as it is.
fn present<T>(failed: AwsError, found: Vec<T>) -> Result<Vec<T>, AwsError> {
    match failed {
        AwsError::Service { code, .. } if code == GONE => Ok(found),
        failed => Err(failed),
    }
}
