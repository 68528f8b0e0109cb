//! Every scenario of tests/deployments.rs again, with a call that goes wrong.

use crate::deployments::{Case, End, cases, is_soak, play, problems, side_by_side};
use crate::ecs_api::{Fault, revision};
use crate::harness::revisions;
use std::collections::BTreeMap;

/// What goes wrong with a call.
type Kind = (&'static str, fn(&str) -> Fault);

const KINDS: [Kind; 6] = [
    ("throttled", Fault::throttled),
    ("server error", Fault::server_error),
    ("lost", Fault::lost),
    ("lost to an unknown error", |action| Fault::lost_to(action, 500, "InternalServerError")),
    ("garbage", Fault::garbage),
    ("stale", Fault::stale),
];

/// A fault: a scenario, and the call that goes wrong.
struct Trouble<'a> {
    case: &'a Case,
    kind: Kind,
    action: String,
    call: usize,
}

/// The calls of every scenario, by its number.
fn calls(cases: &[Case]) -> Vec<(usize, Vec<String>)> {
    let calls = std::sync::Mutex::new(Vec::new());
    side_by_side(&cases.iter().enumerate().collect::<Vec<_>>(), |(at, case)| {
        let (_, ecs, _) = play(case, &[]);
        calls.lock().unwrap().push((*at, ecs.actions()));
        Vec::new()
    });
    let mut calls = calls.into_inner().unwrap();
    calls.sort_by_key(|(at, _)| *at);
    calls
}

/// Keeps one of `divisor`, unless all are wanted or, with `RUNNER_SOAK=N`, one of N. A linear congruence: the same sample
/// every time.
fn sample<T>(all: &mut Vec<T>, divisor: u64) {
    let wanted = std::env::var("RUNNER_SOAK").ok().and_then(|wanted| wanted.parse().ok());
    let divisor = if is_soak() { 1 } else { wanted.unwrap_or(divisor) };
    let mut seed = 20_261_122_u64;
    all.retain(|_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33).is_multiple_of(divisor)
    });
}

/// Every fault at every call of every scenario; a seeded sample of them unless all are wanted.
fn troubles(cases: &[Case]) -> Vec<Trouble<'_>> {
    let calls = calls(cases);
    let mut all = Vec::new();
    for (at, actions) in calls {
        let mut seen = BTreeMap::new();
        for action in actions {
            let call = *seen.entry(action.clone()).and_modify(|count| *count += 1).or_insert(1_usize);
            let is_look = ["Describe", "List", "Get"].iter().any(|look| action.contains(look));
            // The later calls of a kind are looks like the ones before.
            if call <= 6 {
                let kinds = KINDS.iter().filter(|(kind, _)| is_look || *kind != "stale");
                all.extend(kinds.map(|kind| Trouble {
                    case: &cases[at],
                    kind: *kind,
                    action: action.clone(),
                    call,
                }));
            }
        }
    }
    sample(&mut all, 60);
    all
}

#[test]
fn faults_at_any_call_do_not_change_the_result() {
    let cases = cases();
    let troubles = troubles(&cases);
    println!("{} faults", troubles.len());
    assert!(troubles.len() >= 40);
    let found = side_by_side(&troubles, |trouble| {
        let Trouble { case, kind: (kind, fault), action, call } = trouble;
        let played = play(case, &[fault(action).at([*call])]);
        let (outcome, ecs, service) = &played;
        let at = format!("{kind} at {action} {call}");
        // Before anything is touched an answer that stays out ends the run. Nothing is half done then.
        if outcome.code == Some(3) && ecs.count("ecs:UpdateService") == 0 {
            let runs = ecs.runs(&service.name) == revision(&service.name, 1) && revisions(&service.name) <= 2;
            return if runs { Vec::new() } else { vec![format!("{at}: something was touched\n{outcome}")] };
        }
        // Where ECS could not be asked to roll back, runner has done so itself, and that goes well.
        let is_back = outcome.code == Some(5) && ecs.runs(&service.name) == revision(&service.name, 1);
        if is_back && action == "ecs:StopServiceDeployment" {
            return Vec::new();
        }
        // What a lost answer would have told may be missing in the sentence, but in nothing else.
        let end = End { says: &[], ..case.end };
        let case = Case { end, ..**case };
        problems(&case, &played).into_iter().map(|problem| format!("{at}: {problem}")).collect()
    });
    assert!(found.is_empty(), "{} of {}:\n{}", found.len(), troubles.len(), found.join("\n\n"));
}

/// The common errors of AWS that pass.
const TRANSIENT: [(u16, &str); 9] = [
    (500, "InternalFailure"),
    (500, "InternalServerError"),
    (503, "ServiceUnavailable"),
    (400, "ThrottlingException"),
    (429, "TooManyRequestsException"),
    (408, "RequestTimeoutException"),
    (400, "RequestLimitExceeded"),
    (400, "RequestAbortedException"),
    (502, "BadGateway"),
];

/// Common errors that stay, each with the exit code that it has before anything was started.
const FINAL: [(u16, &str, i32); 8] = [
    (400, "AccessDeniedException", 3),
    (403, "ExpiredTokenException", 3),
    (403, "IncompleteSignature", 3),
    (400, "NotAuthorized", 3),
    (403, "OptInRequired", 3),
    (403, "UnrecognizedClientException", 3),
    (400, "ValidationError", 1),
    (404, "UnknownOperationException", 1),
];

/// An error at a call of a scenario, and so many calls in a row.
struct Common<'a> {
    case: &'a Case,
    action: String,
    call: usize,
    status: u16,
    code: &'static str,
    times: usize,
}

fn common<'a>(cases: &'a [Case], errors: &[(u16, &'static str)], times: &[usize]) -> Vec<Common<'a>> {
    let mut all = Vec::new();
    for (at, actions) in calls(cases) {
        let mut seen = BTreeMap::new();
        for action in actions {
            let call = *seen.entry(action.clone()).and_modify(|count| *count += 1).or_insert(1_usize);
            // The later calls of a kind are polls like the ones before.
            if call > 6 {
                continue;
            }
            for (status, code) in errors.iter().copied() {
                for times in times.iter().copied() {
                    let (case, action) = (&cases[at], action.clone());
                    all.push(Common { case, action, call, status, code, times });
                }
            }
        }
    }
    all
}

impl Common<'_> {
    fn play(&self) -> (crate::harness::Outcome, crate::ecs_api::EcsApi, crate::ecs_api::Service) {
        let fault = Fault::error(&self.action, self.status, self.code);
        play(self.case, &[fault.at(self.call..self.call + self.times)])
    }

    fn at(&self) -> String {
        let Self { action, call, status, code, times, .. } = self;
        format!("{status} {code}, {times} times, at {action} {call}")
    }
}

/// Findings, D1 and D3.
#[test]
fn transient_errors_at_any_call_do_not_change_the_outcome() {
    let cases = cases();
    let mut all = common(&cases, &TRANSIENT, &[1, 5]);
    sample(&mut all, 400);
    println!("{} errors", all.len());
    assert!(all.len() >= 20);
    let found = side_by_side(&all, |error| {
        let played = error.play();
        // What ECS would have reported may be missing in the sentence, but in nothing else.
        let end = End { says: &[], ..error.case.end };
        let case = Case { end, ..*error.case };
        problems(&case, &played).into_iter().map(|problem| format!("{}: {problem}", error.at())).collect()
    });
    assert!(found.is_empty(), "{} of {}:\n{}", found.len(), all.len(), found.join("\n\n"));
}

/// Findings, D1: an error that stays has its exit code, and never leads to a second revision.
#[test]
fn errors_that_stay_have_their_exit_code() {
    let cases = cases();
    let errors = FINAL.map(|(status, code, _)| (status, code));
    let mut all = common(&cases, &errors, &[10_000]);
    sample(&mut all, 300);
    println!("{} errors", all.len());
    assert!(all.len() >= 10);
    let found = side_by_side(&all, |error| {
        let (outcome, ecs, service) = error.play();
        let expected = FINAL.iter().find(|(_, code, _)| *code == error.code).unwrap().2;
        let exit = outcome.code.unwrap_or_default();
        let registered = revisions(&service.name);
        let holds = if ecs.count("ecs:UpdateService") == 0 {
            // Nothing was started.
            exit == expected && ecs.runs(&service.name) == revision(&service.name, 1)
        } else {
            // Runner does without the call, can no longer follow, or cannot roll back.
            [error.case.end.exit, 3, 5, 6].contains(&exit)
                || (error.action == "ecs:UpdateService" && exit == expected)
        };
        if holds && registered <= 2 {
            return Vec::new();
        }
        vec![format!("{}: exit {exit}, {registered} revisions\n{outcome}", error.at())]
    });
    assert!(found.is_empty(), "{} of {}:\n{}", found.len(), all.len(), found.join("\n\n"));
}

/// Findings, D1 and D3: an API that stays silent longer than the SDK retries is waited for, which is reported once.
#[test]
fn a_deployment_waits_for_an_api_that_is_away_and_reports_it_once() {
    let cases = cases();
    let case = cases.iter().find(|case| case.name == "slow success").unwrap();
    for calls in [1..9, 3..30] {
        let fault = Fault::error("ecs:DescribeServices", 500, "InternalServerError").at(calls);
        let played = play(case, &[fault]);
        let found = problems(case, &played);
        assert!(found.is_empty(), "{}", found.join("\n"));
        let notices = played.0.stdout.matches("retrying: ").count();
        assert_eq!(notices, 1, "{}", played.0);
        played.0.says("retrying: DescribeServices failed with HTTP 500 InternalServerError");
    }
}
