//! The output of `runner ecs deploy` and `runner ecs rollback`: text or one JSON document.

use super::invocation::Completed;
use crate::cli::printer::Printer;
use crate::deployment::{Applied, FollowUp, Outcome, Plan, PlannedService, ServiceReport, short};
use crate::exit::{Exit, Failure};
use serde_json::{Value, json};

/// A deployment, or with `--dry-run` its plan.
pub(super) enum Done {
    Planned(Plan),
    Applied(Applied),
}

/// Prints a deployment or its plan. The exit code is that of the deployment, even if its output cannot be
/// printed.
pub(super) fn conclude(
    printer: &Printer,
    Completed { value: done, stopped }: &Completed<Done>,
    cluster: &str,
    as_json: bool,
) -> Result<Exit, Failure> {
    let printed = if as_json {
        printer.document(document(done, cluster))
    } else {
        let text = match done {
            Done::Planned(plan) => plan_text(plan),
            Done::Applied(applied) => applied_text(applied),
        };
        printer.result(&text)
    };
    let failure = match done {
        Done::Planned(_) => None,
        Done::Applied(applied) => applied.failure(),
    };
    match stopped.clone().or(failure) {
        Some(failure) => Err(failure),
        None => printed.map(|()| Exit::Done),
    }
}

fn applied_text(applied: &Applied) -> String {
    let succeeded = applied.reports.iter().filter(|report| report.exit() == Exit::Done);
    succeeded.map(|report| report.sentence() + "\n").collect()
}

fn plan_text(plan: &Plan) -> String {
    let mut text = plan.difference.clone().unwrap_or_default();
    if plan.registers {
        text.push_str(&format!("would register a revision of {}\n", plan.revision));
    }
    let new_name = |revision: &str| {
        let name = short(revision);
        if plan.registers { format!("the new revision of {name}") } else { name }
    };
    for PlannedService { service, current, new, registers_again } in &plan.services {
        let (current, new) = (short(current), new_name(new));
        let new = if *registers_again { format!("the content of {new}, registered again,") } else { new };
        text.push_str(&format!("would deploy {new} to {service} in place of {current}\n"));
    }
    for name in &plan.follow_up.moved {
        text.push_str(&format!("would move {name} to {}\n", new_name(&plan.revision)));
    }
    for revision in &plan.follow_up.deregistered {
        text.push_str(&format!("would deregister {}\n", short(revision)));
    }
    if text.is_empty() {
        text.push_str("nothing would change\n");
    }
    text
}

fn document(done: &Done, cluster: &str) -> Value {
    match done {
        Done::Planned(Plan { revision, registers, difference, services, follow_up }) => {
            let services =
                services.iter().map(|PlannedService { service, current, new, registers_again }| {
                    json!({
                        "service": service, "taskDefinition": current, "gets": new,
                        "registersAgain": registers_again,
                    })
                });
            let header = json!({
                "version": 1, "dryRun": true, "cluster": cluster, "taskDefinition": revision,
                "registered": registers, "difference": difference, "services": services.collect::<Vec<_>>(),
            });
            with_follow_up(header, follow_up)
        }
        Done::Applied(Applied { revision, registered, difference, reports, follow_up }) => {
            let header = json!({
                "version": 1, "dryRun": false, "cluster": cluster, "taskDefinition": revision,
                "registered": registered, "difference": difference,
                "services": reports.iter().map(service_document).collect::<Vec<_>>(),
            });
            with_follow_up(header, follow_up)
        }
    }
}

fn with_follow_up(mut document: Value, follow_up: &FollowUp) -> Value {
    document["moved"] = json!(follow_up.moved);
    document["deregistered"] = json!(follow_up.deregistered);
    document["failure"] = json!(follow_up.failure.as_ref().map(|failure| &failure.message));
    document
}

fn service_document(report: &ServiceReport) -> Value {
    let causes = report.groups.iter().map(|group| {
        json!({
            "cause": group.cause.sentence, "help": group.cause.help, "container": group.cause.container,
            "tasks": group.tasks, "stopCode": group.stop_code, "reason": group.reason,
            "exitCode": group.exit_code,
        })
    });
    json!({
        "service": report.service, "outcome": report.outcome,
        "exit": (report.outcome != Outcome::Stopped).then(|| report.exit().code()),
        "message": report.sentence(), "reason": report.reason, "previous": report.previous,
        "deployment": report.deployment, "seconds": report.elapsed.as_secs_f64(),
        "causes": causes.collect::<Vec<_>>(),
    })
}
